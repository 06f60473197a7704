// Time. Devices read a Clock; only HostClock knows the host's.
#pragma once

#include <atomic>

#include "base/types.hpp"

namespace skerry {

/// A source of time. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Nanoseconds of guest time; never goes back. Stands still while the machine is paused.
  virtual Nanos now() const = 0;
  /// Nanoseconds since 1970-01-01 UTC.
  virtual Nanos wall() const = 0;
  /// The host's time-stamp counter, standing still while the clock does: what a guest's TSC is a
  /// constant away from, so that all of a paused machine's counters can be read as of one moment.
  virtual u64 ticks() const;
};

/// CLOCK_MONOTONIC, less the time spent stopped, plus an offset taken over from a saved machine.
class HostClock final : public Clock {
 public:
  Nanos now() const override;
  Nanos wall() const override;
  u64 ticks() const override;

  void stop();
  void start();
  /// Makes now() continue from `at`.
  void set(Nanos at);

  /// CLOCK_MONOTONIC itself.
  static Nanos monotonic();

 private:
  std::atomic<Nanos> offset_{0};     ///< now() = monotonic + offset while running
  std::atomic<Nanos> stopped_{-1};   ///< the frozen now(), or -1 while running
  std::atomic<u64> tick_offset_{0};  ///< ticks() = TSC + tick_offset while running
  std::atomic<u64> stopped_ticks_{0};
};

/// A clock that tests move by hand.
class ManualClock final : public Clock {
 public:
  Nanos now() const override { return now_; }
  Nanos wall() const override { return wall_ + now_; }
  void advance(Nanos by) { now_ += by; }
  void set_wall(Nanos at) { wall_ = at - now_; }

 private:
  std::atomic<Nanos> now_{0}, wall_{0};
};

/// The host's time-stamp counter, in Hz, measured once against CLOCK_MONOTONIC_RAW (about 20 ms).
u64 host_tsc_hz();
u64 host_tsc();

}  // namespace skerry
