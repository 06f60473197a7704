// A net::StreamHost and net::Clients for tests: the far ends of the guest's connections are sockets
// in here.
#pragma once

#include <sys/socket.h>

#include <map>

#include "net/clients.hpp"
#include "net/stream_host.hpp"

namespace skerry::virtio {

class FakeStreams final : public net::StreamHost {
 public:
  static constexpr u32 kRefused = 99;  ///< a port where nobody listens

  Result<Fd> connect(u32 port) override {
    if (port == kRefused) return fail("nobody there");
    auto [mine, theirs] = pair();
    accepted[port] = std::move(mine);
    if (accepted.size() > 64) accepted.erase(accepted.begin());
    return std::move(theirs);
  }
  static std::pair<Fd, Fd> pair() {
    int fds[2];
    SKERRY_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    return {Fd(fds[0]), Fd(fds[1])};
  }

  std::map<u32, Fd> accepted;  ///< by the host's port; the last connection to it
};

class FakeClients final : public net::Clients {
 public:
  void next() override { ready = true; }
  /// A program's end of a new connection. Without the board lock.
  Fd connect() {
    SKERRY_CHECK(ready);
    ready = false;
    auto [mine, theirs] = FakeStreams::pair();
    connected(std::move(theirs));
    return std::move(mine);
  }

  bool ready = false;  ///< for the next one
};

}  // namespace skerry::virtio
