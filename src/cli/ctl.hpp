// `skerry ctl PATH VERB`: one action on a running machine's control socket. Verbs, their options
// and their help come from schema/action.hpp.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace skerry::cli {

struct CtlCommand {
  std::string path;
  std::string action;     ///< of schema::Actions
  std::string arguments;  ///< JSON, valid
  bool json = false;      ///< print the answer as it came
};

/// `args` after "ctl".
Result<CtlCommand> parse_ctl(const std::vector<std::string>& args);
/// Of all verbs, or of one.
std::string ctl_help(std::string_view verb = {});

/// Talks to the machine and prints. Returns the exit status.
int run_ctl(const CtlCommand& command);

/// The answer to `action` for people, with a newline at the end unless empty. `result` is JSON.
std::string ctl_text(std::string_view action, std::string_view result);

}  // namespace skerry::cli
