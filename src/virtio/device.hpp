// VirtioDevice: what a virtio device is to its transport.
//
// Virtio 1.2 chapter 5. A device knows its features, its configuration fields and what to do with
// its queues; negotiation, interrupts and the queues' rings are the transport's. An inactive device
// owns nothing: it sees queues only between activate() (DRIVER_OK) and deactivate().
//
// Threading: every call but notified() is made with the board lock held, notify() on the event
// loop's thread.
#pragma once

#include <mutex>
#include <string>

#include "base/event_loop.hpp"
#include "machine/engine.hpp"  // Counter
#include "state/image.hpp"
#include "virtio/queue.hpp"

namespace skerry::virtio {

/// What virtio devices live in. All of it outlives them; the loop has ended before they are
/// destroyed.
struct Environment {
  memory::GuestMemory& memory;
  EventLoop& loop;
  std::mutex& lock;  ///< the board lock
  /// Tells whoever watches the machine of something. May be null.
  std::function<void(const std::string& device, std::string_view what)> tell = {};
};

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  /// Section 5, table "device IDs".
  virtual u16 id() const = 0;
  /// For PCI: 24 bits.
  virtual u32 class_code() const = 0;
  virtual std::string name() const = 0;
  /// Device-specific bits only (0..23, 50..127 of which 64 are supported).
  virtual u64 features() const = 0;
  /// The largest size of each queue: powers of two.
  virtual std::vector<u16> queue_sizes() const = 0;

  /// The device's configuration structure. Reads past its end give zeros.
  virtual std::span<const u8> config() const = 0;
  virtual void write_config(u32 offset, std::span<const u8> bytes) { (void)offset, (void)bytes; }

  /// DRIVER_OK. `queues` has one entry per queue_sizes(); only those ready() are in use. They stay
  /// until deactivate() returns.
  virtual void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) = 0;
  /// Returns when no host operation touches guest memory any more; drops all requests in flight.
  virtual void deactivate() = 0;
  /// The driver notified `queue`, or its turn comes again. True: there is more, call again soon.
  /// Bounds its work to about one queue's length, since it holds up the rest of the machine.
  virtual bool notify(unsigned queue) = 0;
  /// Comes after notify(), on the same thread, but without the board lock: for work that takes
  /// long.
  virtual void notified() {}
  /// Finishes and completes every request in flight; begins no new one until the next notify().
  virtual void quiesce() {}

  /// Back to the state after power-on. Only while inactive.
  virtual void reset() = 0;
  /// Why a machine with this device cannot be saved, if it cannot.
  virtual Result<> can_save() const { return {}; }
  virtual void save(state::Image& image) const = 0;
  /// All or nothing. May be called while active; the transport then deactivates and activates
  /// again.
  virtual Result<> load(const state::Image& image) = 0;
  /// What the device has counted; the transport adds what it knows itself.
  virtual std::vector<machine::Counter> counters() const { return {}; }

  /// Set by the transport: the configuration structure changed on the device's own account.
  std::function<void()> config_changed;
};

}  // namespace skerry::virtio
