// Deterministic execution of one vCPU: where it stops and what time it is follow from what the
// guest has executed, never from the host.
//
// Cpu::Core::stop_at makes run() return Interrupted at an exact position, the same for the
// interpreter and for translated code, so that two engines can be compared there. While it is set
// nothing polls the LAPIC's timer: whoever drives the vCPU moves the clock, runs timers and posts
// interrupts at stops of its choice. Such a run depends on nothing else if every store or
// instruction that makes an interrupt pending, or lets one in, is the last of its block.
//
// One thread per machine.
#pragma once

#include <algorithm>

#include "base/clock.hpp"

namespace skerry::soft {

/// The Clock of a deterministic machine. Its driver moves it at stops; in between it stands still
/// but for the TSC, which each reading by the guest moves on by one, so that no two are equal.
class DeterministicClock final : public Clock {
 public:
  static constexpr u64 kHz = 1'000'000'000;             ///< of ticks()
  static constexpr Nanos kStart = 1'767'225'600 * kHz;  ///< wall() at now() = 0: 2026-01-01

  Nanos now() const override { return now_; }
  Nanos wall() const override { return kStart + now_; }
  u64 ticks() const override {
    if (guest_) ++reads_;
    return static_cast<u64>(now_) + reads_;
  }

  /// Not before ticks() as it is, so that neither goes back.
  void advance_to(Nanos at) {
    now_ = std::max(at, now_ + static_cast<Nanos>(reads_));
    reads_ = 0;
  }
  /// Whether readings from now on are the guest's.
  void set_guest(bool guest) { guest_ = guest; }
  /// Readings by the guest since the clock moved.
  u64 reads() const { return reads_; }

 private:
  Nanos now_ = 0;
  mutable u64 reads_ = 0;
  bool guest_ = false;
};

}  // namespace skerry::soft
