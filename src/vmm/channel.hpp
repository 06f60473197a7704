// Channel: the host end of a serial line or console: bytes out, bytes in.
//
// Output never blocks the caller for longer than its reader makes it: it goes to a queue that a
// writer thread empties; when the queue is full (4 MiB) the caller waits, since a user's pipe must
// not lose bytes. A unix socket without a client drops output. Input is read on the event loop and
// offered to the device; what it does not take is offered again after room().
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/event_loop.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::vmm {

class Channel {
 public:
  virtual ~Channel() = default;
  /// Any thread.
  virtual void write(std::span<const u8> data) = 0;
  /// `accept` runs on the loop and returns how many bytes it took.
  using Accept = std::function<size_t(std::span<const u8>)>;
  virtual void set_input(Accept accept) = 0;
  /// The device has room again. Any thread.
  virtual void room() = 0;
  /// Waits until all output is written, or nobody takes it after abandon().
  virtual void flush() = 0;
  /// The machine is being ended: output that its reader does not take within a second is dropped,
  /// and nobody waits for it longer. Any thread.
  virtual void abandon() = 0;
};

/// Called on the loop for what follows Ctrl-A on a terminal.
using EscapeHandler = std::function<void(char key)>;

/// The channel that `spec` describes. `escape` is used by stdio only.
Result<std::unique_ptr<Channel>> open_channel(const schema::SerialSpec& spec, EventLoop& loop,
                                              EscapeHandler escape);

}  // namespace skerry::vmm
