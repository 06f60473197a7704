// Surroundings for tests: a clock moved by hand and timers that fire while it moves, and lines that
// remember. Single-threaded.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "machine/device.hpp"

namespace skerry::machine {

class ManualSurroundings : public Surroundings {
 public:
  const Clock& clock() const override { return clock_; }
  ManualClock& manual_clock() { return clock_; }
  std::unique_ptr<Timer> make_timer(std::function<void()> expired) override {
    return std::make_unique<ManualTimer>(*this, std::move(expired));
  }

  /// Moves the clock, stopping at each deadline on the way to run its timer.
  void advance(Nanos by) { advance_to(clock_.now() + by); }
  void advance_to(Nanos target) {
    while (ManualTimer* next = earliest()) {
      if (*next->deadline > target) break;
      clock_.advance(std::max<Nanos>(0, *next->deadline - clock_.now()));
      next->deadline.reset();
      ++fired_;
      next->expired();
    }
    clock_.advance(target - clock_.now());
  }
  std::optional<Nanos> next_deadline() {
    ManualTimer* next = earliest();
    return next ? next->deadline : std::nullopt;
  }
  /// Timer callbacks run so far.
  u64 fired() const { return fired_; }

 private:
  struct ManualTimer final : Timer {
    ManualTimer(ManualSurroundings& owner, std::function<void()> work)
        : owner(owner), expired(std::move(work)) {
      owner.timers_.push_back(this);
    }
    ~ManualTimer() override { std::erase(owner.timers_, this); }
    void arm(Nanos at) override { deadline = at; }
    void disarm() override { deadline.reset(); }
    ManualSurroundings& owner;
    std::function<void()> expired;
    std::optional<Nanos> deadline;
  };
  ManualTimer* earliest() {
    ManualTimer* best = nullptr;
    for (ManualTimer* t : timers_)
      if (t->deadline && (!best || *t->deadline < *best->deadline)) best = t;
    return best;
  }

  ManualClock clock_;
  std::vector<ManualTimer*> timers_;
  u64 fired_ = 0;
};

/// A line that counts its rising edges.
class ProbeLine final : public IrqLine {
 public:
  void set(bool to) override {
    if (to && !level) ++edges;
    level = to;
  }
  bool level = false;
  unsigned edges = 0;
};

}  // namespace skerry::machine
