#include "net/clients.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unix_socket.hpp"

namespace skerry::net {

Result<std::unique_ptr<UnixClients>> UnixClients::create(EventLoop& loop, const std::string& path,
                                                         std::string_view purpose) {
  std::unique_ptr<UnixClients> clients(new UnixClients(loop, path));
  clients->listener_ = TRY(listen_unix(path, purpose, 1, true));
  return clients;
}

UnixClients::~UnixClients() {
  if (!listener_) return;
  loop_.unwatch(listener_.get());
  ::unlink(path_.c_str());
}

void UnixClients::next() {
  // Fails for want of kernel memory only.
  (void)loop_.watch(listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
}

void UnixClients::accept_one() {
  Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  loop_.unwatch(listener_.get());
  connected(std::move(fd));
}

}  // namespace skerry::net
