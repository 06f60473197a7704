// What `skerry switch` shows: the JSON of SwitchServer::json(), fetched and put into tables.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace skerry::net {

/// The switch's own report.
Result<std::string> fetch_report(const std::string& name);
/// One line per switch; a list of {name, pid, ports}.
std::string list_text(const std::vector<std::string>& reports);
std::string list_json(const std::vector<std::string>& reports);
/// Ports, counters and addresses.
std::string show_text(const std::string& report);

}  // namespace skerry::net
