// `skerry image ...`: disk images, without a machine.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace skerry::cli {

/// Everything after `image`. Prints on stdout, errors on stderr; the process's exit status:
/// schema::ExitStatus, and for `check` 2 (corrupt) or 3 (leaks only).
int run_image(const std::vector<std::string>& args);

/// Help for `verb`, or for all of them if it is empty or unknown.
std::string image_help(std::string_view verb = {});

}  // namespace skerry::cli
