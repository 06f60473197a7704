// Clients: programs of the host that connect to something of the machine's, one at a time.
#pragma once

#include <functional>
#include <memory>

#include "base/event_loop.hpp"

namespace skerry::net {

/// Where clients come from. Host side only.
class Clients {
 public:
  virtual ~Clients() = default;
  /// Set by the device: a client has connected. On the event loop's thread, without the board lock.
  std::function<void(Fd socket)> connected;
  /// The client has gone, or none was there yet: the next may come. Others wait until then.
  virtual void next() = 0;
};

/// Those of a listening unix socket.
class UnixClients final : public Clients {
 public:
  /// `purpose` is for messages: " for channel NAME". The socket gets mode 0600; it is removed in
  /// the end.
  static Result<std::unique_ptr<UnixClients>> create(EventLoop& loop, const std::string& path,
                                                     std::string_view purpose);
  ~UnixClients() override;
  void next() override;

 private:
  UnixClients(EventLoop& loop, std::string path) : loop_(loop), path_(std::move(path)) {}
  void accept_one();

  EventLoop& loop_;
  std::string path_;
  Fd listener_;
};

}  // namespace skerry::net
