// What every command's options share: CLI11's splitting with our messages, and the layout of help.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace CLI {
class App;
}

namespace skerry::cli {

/// A line of help: what is typed on the left, what it does from a fixed column on.
std::string wrapped(std::string_view left, std::string_view right);

/// Lets CLI11 split `args`; its exceptions end here. True if help is wanted. `command` is what
/// `skerry help` calls it.
Result<bool> split(CLI::App& app, std::vector<std::string> args, std::string_view command);

}  // namespace skerry::cli
