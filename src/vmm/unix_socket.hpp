// A Unix stream socket that waits for one client at a time.
#pragma once

#include <string>

#include "base/fd.hpp"

namespace skerry::vmm {

/// Non-blocking; takes the place of whatever was at `path`. `purpose` completes the error's "cannot
/// listen": " for gdb", or empty.
Result<Fd> listen_unix(const std::string& path, std::string_view purpose = {});

}  // namespace skerry::vmm
