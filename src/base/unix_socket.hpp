// Unix stream sockets that wait for clients.
#pragma once

#include <string>

#include "base/fd.hpp"

namespace skerry {

/// Non-blocking; takes the place of a socket that nobody listens on any more. Another file at
/// `path` and a living socket are errors. `purpose` completes the error's "cannot listen": " for
/// gdb", or empty. `only_me`: with mode 0600.
Result<Fd> listen_unix(const std::string& path, std::string_view purpose = {}, int backlog = 1,
                       bool only_me = false);

}  // namespace skerry
