#include "base/clock.hpp"

#include <x86intrin.h>
#include <ctime>

namespace skerry {
namespace {

Nanos read_clock(clockid_t id) {
  timespec t{};
  ::clock_gettime(id, &t);
  return Nanos{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

struct Sample {
  u64 tsc;
  Nanos ns;
};

// The tightest of several pairs: a pair torn by preemption shows as a long gap between its two
// reads.
Sample sample() {
  Sample best{};
  u64 gap = ~u64{0};
  for (int i = 0; i < 32; ++i) {
    u64 before = __rdtsc();
    Nanos ns = read_clock(CLOCK_MONOTONIC);
    u64 after = __rdtsc();
    if (after - before < gap) {
      gap = after - before;
      best = {before + gap / 2, ns};
    }
  }
  return best;
}

u64 measure_tsc() {
  Sample a = sample();
  timespec wait{0, 20'000'000};
  ::nanosleep(&wait, nullptr);
  Sample b = sample();
  return static_cast<u64>(static_cast<double>(b.tsc - a.tsc) * 1e9 /
                          static_cast<double>(b.ns - a.ns));
}

}  // namespace

u64 Clock::ticks() const {
  return host_tsc();
}

u64 HostClock::ticks() const {
  if (stopped_.load(std::memory_order_acquire) >= 0) return stopped_ticks_.load();
  return host_tsc() + tick_offset_.load(std::memory_order_acquire);
}

Nanos HostClock::monotonic() {
  return read_clock(CLOCK_MONOTONIC);
}

Nanos HostClock::now() const {
  Nanos frozen = stopped_.load(std::memory_order_acquire);
  return frozen >= 0 ? frozen : monotonic() + offset_.load(std::memory_order_acquire);
}

Nanos HostClock::wall() const {
  return read_clock(CLOCK_REALTIME);
}

void HostClock::stop() {
  if (stopped_ >= 0) return;
  Sample s = sample();  // both of one moment, or the two drift apart with every stop
  stopped_ticks_ = s.tsc + tick_offset_;
  stopped_ = s.ns + offset_;
}

void HostClock::start() {
  Nanos at = stopped_;
  if (at < 0) return;
  Sample s = sample();
  offset_ = at - s.ns;
  tick_offset_ = stopped_ticks_ - s.tsc;
  stopped_ = -1;
}

void HostClock::set(Nanos at) {
  if (stopped_ >= 0) {
    stopped_ = at;
  } else {
    offset_ = at - monotonic();
  }
}

u64 host_tsc() {
  return __rdtsc();
}

u64 host_tsc_hz() {
  static const u64 hz = measure_tsc();
  return hz;
}

}  // namespace skerry
