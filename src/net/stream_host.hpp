// StreamHost: where a guest's stream connections to ports of the host lead, and where the host's
// connections to ports of the guest come from. Host side only.
#pragma once

#include <functional>

#include "base/fd.hpp"

namespace skerry::net {

class StreamHost {
 public:
  virtual ~StreamHost() = default;
  /// A connected stream socket to the host's `port`. Does not wait.
  virtual Result<Fd> connect(u32 port) = 0;
  /// Set by the device: gets a connection to the guest's `port`, or closes it. Called on the event
  /// loop's thread, without the board lock.
  std::function<void(Fd socket, u32 port)> incoming;
};

}  // namespace skerry::net
