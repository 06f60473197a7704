#include "net/stream.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <cerrno>
#include <cstring>

namespace skerry::net {

Stream::Stream(EventLoop& loop, Fd fd, std::function<void(u32)> ready)
    : loop_(loop), fd_(std::move(fd)), ready_(std::move(ready)) {}

Stream::~Stream() {
  wait_for_nothing();
}

std::optional<size_t> Stream::read(std::span<u8> to) {
  ssize_t n = ::recv(fd_.get(), to.data(), to.size(), MSG_DONTWAIT);
  if (n > 0) return static_cast<size_t>(n);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  return std::nullopt;
}

std::optional<size_t> Stream::write(std::span<const u8> from) {
  if (from.empty()) return 0;
  ssize_t n = ::send(fd_.get(), from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n >= 0) return static_cast<size_t>(n);
  if (errno == EAGAIN || errno == EINTR) return 0;
  return std::nullopt;
}

bool Stream::at_end() const {
  u8 byte;
  ssize_t n = ::recv(fd_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

bool Stream::hung_up() const {
  pollfd p{fd_.get(), 0, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

void Stream::end_output() {
  ::shutdown(fd_.get(), SHUT_WR);
}

void Stream::end_input() {
  ::shutdown(fd_.get(), SHUT_RD);
}

void Stream::wait_for(u32 events) {
  if (waiting_ == events) return;
  // Fails for want of kernel memory only: then the socket stays silent.
  if (loop_.watch(fd_.get(), events, ready_)) waiting_ = events;
}

void Stream::wait_for_nothing() {
  if (!std::exchange(waiting_, std::nullopt)) return;
  loop_.unwatch(fd_.get());
}

Fd Stream::take() {
  wait_for_nothing();
  return std::move(fd_);
}

Result<Fd> connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail("the socket path {} is too long", path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("cannot create a socket");
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return fail_errno("cannot connect to " + path);
  return fd;
}

}  // namespace skerry::net
