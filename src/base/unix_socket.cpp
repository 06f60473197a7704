#include "base/unix_socket.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace skerry {

Result<Fd> listen_unix(const std::string& path, std::string_view purpose, int backlog,
                       bool only_me) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail_hint("use a shorter path, such as one under /tmp", "the socket path {} is too long",
                     path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("cannot create a socket");
  struct stat file {};
  if (::lstat(path.c_str(), &file) == 0) {
    if (!S_ISSOCK(file.st_mode))
      return fail_hint("choose another path, or remove the file",
                       "cannot listen{} on {}: a file that is no socket is in the way", purpose,
                       path);
    Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    // EAGAIN: somebody listens, and is busy.
    if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ||
        errno == EAGAIN)
      return fail_hint("choose another path, or end the other program",
                       "cannot listen{} on {}: another program does already", purpose, path);
    ::unlink(path.c_str());
  }
  // Nobody can connect between bind() and listen(), so the mode holds from the first client on.
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      (only_me && ::chmod(path.c_str(), 0600) < 0) || ::listen(fd.get(), backlog) < 0)
    return fail_errno(fmt::format("cannot listen{} on {}", purpose, path));
  return fd;
}

}  // namespace skerry
