#include "vmm/unix_socket.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cstring>

namespace skerry::vmm {

Result<Fd> listen_unix(const std::string& path, std::string_view purpose) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail_hint("use a shorter path, such as one under /tmp", "the socket path {} is too long",
                     path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("cannot create a socket");
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      ::listen(fd.get(), 1) < 0)
    return fail_errno(fmt::format("cannot listen{} on {}", purpose, path));
  return fd;
}

}  // namespace skerry::vmm
