// What a device is: registers behind offsets, a reset, a described State.
//
// A device knows offsets only: no addresses, no threads, no engines. Every call into it (register
// access, timer, backend completion, reset, save, load) is made with the board lock held, so a
// device needs no locks of its own. It raises IrqLines and MSIs directly.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "machine/engine.hpp"  // Counter
#include "machine/irq.hpp"
#include "state/image.hpp"

namespace skerry::machine {

/// One block of registers that a Space maps somewhere.
class Registers {
 public:
  virtual ~Registers() = default;
  /// `size` is 1, 2, 4 or 8; `offset + size` may reach past the end. Unimplemented: all ones.
  virtual u64 read(u64 offset, unsigned size) = 0;
  virtual void write(u64 offset, unsigned size, u64 value) = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  /// Unique in its machine and stable over versions: the section name of its state. "uart0".
  virtual std::string name() const = 0;
  virtual void reset() = 0;
  /// Why a machine with it cannot be saved, if it cannot.
  virtual Result<> can_save() const { return {}; }
  virtual void save(state::Image& image) const = 0;
  /// Nothing changes unless all of it is good. Restores outputs (lines, timers) as well.
  virtual Result<> load(const state::Image& image) = 0;
  /// What it has counted; empty for devices that count nothing. Shown by `skerry ctl PATH
  /// statistics`.
  virtual std::vector<Counter> counters() const { return {}; }
};

/// Calls back once at a point of Clock time, with the board lock held. Destroying it cancels.
class Timer {
 public:
  virtual ~Timer() = default;
  virtual void arm(Nanos deadline) = 0;  ///< replaces an earlier deadline
  virtual void disarm() = 0;
};

/// What a device is given to live in. Outlives the device.
class Surroundings {
 public:
  virtual ~Surroundings() = default;
  virtual const Clock& clock() const = 0;
  virtual std::unique_ptr<Timer> make_timer(std::function<void()> expired) = 0;
};

/// What a guest can ask of the machine as a whole. Any thread; takes effect soon.
/// crash: a triple fault. fatal: the engine gave up.
enum class Request : u8 { power_off, reset, debug_exit, panic, crash, fatal };
class Control {
 public:
  virtual ~Control() = default;
  /// `code` is the value written to the debug-exit port.
  virtual void request(Request what, u32 code = 0) = 0;
};

}  // namespace skerry::machine
