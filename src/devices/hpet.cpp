#include "devices/hpet.hpp"

#include <algorithm>

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::devices {
namespace {

// HPET 1.0a 2.3.4: revision 1, three timers, 64 bits, legacy replacement, Intel; period in
// femtoseconds.
constexpr u64 kCapabilities =
    0x8086a001 | (Hpet::kTimers - 1) << 8 | (Hpet::kTickNanos * 1'000'000) << 32;
enum Config : u64 {
  kLevel = 1 << 1,
  kEnable = 1 << 2,
  kPeriodic = 1 << 3,
  kPeriodicCapable = 1 << 4,
  kSize64 = 1 << 5,
  kSetValue = 1 << 6,
  k32Bit = 1 << 8,
};
constexpr u64 kTimerWritable = kLevel | kEnable | kPeriodic | kSetValue | k32Bit | 0x3e00;
/// A period shorter than this makes merged interrupts.
constexpr Nanos kMinPeriod = 20'000;

unsigned route(const Hpet::Comparator& t) {
  return (t.config >> 9) & 31;
}
u64 width(const Hpet::Comparator& t) {
  return t.config & k32Bit ? 0xffffffff : ~u64{0};
}
/// Ticks from `seen` to the next match; one that has just matched takes a whole turn of the
/// counter.
u64 distance_to_match(const Hpet::Comparator& t) {
  u64 distance = (t.comparator - t.seen) & width(t);
  if (distance) return distance;
  return t.config & k32Bit ? u64{1} << 32 : ~u64{0};
}

}  // namespace

Hpet::Hpet(machine::Surroundings& around, Wiring wiring)
    : around_(around), wiring_(std::move(wiring)) {
  for (unsigned n = 0; n < kTimers; ++n)
    timers_[n] = around.make_timer([this, n] {
      run(n);
      rearm(n);
    });
}

u64 Hpet::clock_ticks() const {
  return static_cast<u64>(around_.clock().now()) / kTickNanos;
}
u64 Hpet::counter() const {
  return enabled() ? s_.counter + clock_ticks() : s_.counter;
}

machine::IrqLine* Hpet::line(unsigned n) const {
  if (legacy() && n == 0) return wiring_.irq0;
  if (legacy() && n == 1) return wiring_.irq8;
  unsigned pin = route(s_.timer[n]);
  if (!((wiring_.routes >> pin) & 1) || !wiring_.pin) return nullptr;
  return &wiring_.pin(pin);
}

void Hpet::fire(unsigned n) {
  const Comparator& t = s_.timer[n];
  trace(Trace::time, "hpet: timer {} fires", n);
  if (t.config & kLevel) {
    s_.status |= u64{1} << n;
    drive_levels();
  } else if (t.config & kEnable) {
    if (auto* l = line(n)) l->pulse();
  }
}

void Hpet::drive_levels() {
  for (unsigned n = 0; n < kTimers; ++n)
    if (s_.timer[n].config & kLevel)
      if (auto* l = line(n)) l->set((s_.timer[n].config & kEnable) && ((s_.status >> n) & 1));
}

/// Delivers the matches between what was seen and now.
void Hpet::run(unsigned n) {
  if (!enabled()) return;
  Comparator& t = s_.timer[n];
  u64 now = counter(), passed = now - t.seen;
  u64 mask = width(t);
  u64 distance = distance_to_match(t);
  t.seen = now;
  if (passed < distance) return;
  if ((t.config & kPeriodic) && t.period) {
    u64 missed = (passed - distance) / t.period;
    t.comparator = (t.comparator + (missed + 1) * t.period) & mask;
  }
  fire(n);
}

void Hpet::rearm(unsigned n) {
  const Comparator& t = s_.timer[n];
  // In level mode the status bit matters even if no interrupt is enabled; reading it catches up.
  if (!enabled() || !(t.config & kEnable)) return timers_[n]->disarm();
  u64 distance = distance_to_match(t);
  if (distance > (u64{1} << 58)) return timers_[n]->disarm();
  u64 target = t.seen - s_.counter + distance;  // in Clock ticks
  if (target > (u64{1} << 58)) return timers_[n]->disarm();
  auto at = static_cast<Nanos>(target * kTickNanos);
  if ((t.config & kPeriodic) && t.period < kMinPeriod / kTickNanos)
    at = std::max(at, around_.clock().now() + kMinPeriod);
  timers_[n]->arm(at);
}

u64 Hpet::read_register(u64 offset) {
  switch (offset) {
    case 0x00: return kCapabilities;
    case 0x10: return s_.config;
    case 0x20:
      for (unsigned n = 0; n < kTimers; ++n) run(n), rearm(n);
      return s_.status;
    case 0xf0: return counter();
    default: break;
  }
  if (offset < 0x100 || offset >= 0x100 + 0x20 * kTimers) return 0;
  auto n = static_cast<unsigned>((offset - 0x100) / 0x20);
  Comparator& t = s_.timer[n];
  switch (offset & 0x1f) {
    case 0x00: return t.config | kPeriodicCapable | kSize64 | u64{wiring_.routes} << 32;
    case 0x08:
      run(n);
      rearm(n);
      return t.comparator & width(t);
    default: return 0;  // FSB route: not offered
  }
}

u64 Hpet::read(u64 offset, unsigned size) {
  if (offset >= kWindow) return ~u64{0};
  return (read_register(offset & ~u64{7}) >> (8 * (offset & 7))) & byte_mask(size);
}

void Hpet::write(u64 offset, unsigned size, u64 value) {
  // 32- and 64-bit accesses, aligned (HPET 1.0a 2.4); others are dropped.
  if (offset >= kWindow || (size != 4 && size != 8) || (offset & (size - 1))) return;
  unsigned shift = 8 * (offset & 7);
  write_register(offset & ~u64{7}, value << shift, byte_mask(size) << shift);
}

void Hpet::write_config(u64 value) {
  bool was_enabled = enabled(), was_legacy = legacy();
  for (unsigned n = 0; n < kTimers; ++n) run(n);
  if (was_legacy != bool(value & 2)) {
    // Lines that a level timer held are let go before the routing changes.
    for (unsigned n = 0; n < kTimers; ++n)
      if (s_.timer[n].config & kLevel)
        if (auto* l = line(n)) l->set(false);
  }
  u64 count = counter();
  s_.config = value & 3;
  if (enabled() != was_enabled) {
    s_.counter = enabled() ? count - clock_ticks() : count;
    for (Comparator& t : s_.timer) t.seen = count;
  }
  if (legacy() != was_legacy && wiring_.legacy) wiring_.legacy(legacy());
  drive_levels();
  for (unsigned n = 0; n < kTimers; ++n) rearm(n);
}

void Hpet::write_comparator(Comparator& t, u64 value, u64 mask) {
  // HPET 1.0a 2.3.9.2.2: with VAL_SET a write goes to the accumulator as well as to the period.
  if (!(t.config & kPeriodic) || (t.config & kSetValue))
    t.comparator = ((t.comparator & ~mask) | (value & mask)) & width(t);
  if (t.config & kPeriodic) t.period = ((t.period & ~mask) | (value & mask)) & width(t);
  // A 64-bit value written by halves keeps VAL_SET for its second half.
  if (mask == ~u64{0} || (t.config & k32Bit) || (mask >> 32)) t.config &= ~u64{kSetValue};
}

void Hpet::write_register(u64 offset, u64 value, u64 mask) {
  auto merged = [&](u64 old) { return (old & ~mask) | (value & mask); };
  switch (offset) {
    case 0x10: return write_config(merged(s_.config));
    case 0x20:
      for (unsigned n = 0; n < kTimers; ++n) run(n);
      s_.status &= ~(value & mask);
      drive_levels();
      for (unsigned n = 0; n < kTimers; ++n) rearm(n);
      return;
    case 0xf0: {
      if (enabled()) {
        for (unsigned n = 0; n < kTimers; ++n) run(n);
        s_.counter = merged(counter()) - clock_ticks();
      } else {
        s_.counter = merged(s_.counter);
      }
      for (unsigned n = 0; n < kTimers; ++n) {
        s_.timer[n].seen = counter();
        rearm(n);
      }
      return;
    }
    default: break;
  }
  if (offset < 0x100 || offset >= 0x100 + 0x20 * kTimers) return;
  auto n = static_cast<unsigned>((offset - 0x100) / 0x20);
  Comparator& t = s_.timer[n];
  run(n);
  t.seen = counter();
  if ((offset & 0x1f) == 0x00) {
    if (t.config & kLevel)
      if (auto* l = line(n)) l->set(false);
    t.config = merged(t.config) & kTimerWritable;
    if (t.config & k32Bit) t.comparator &= 0xffffffff, t.period &= 0xffffffff;
    if (!(t.config & kLevel)) s_.status &= ~(u64{1} << n);
    drive_levels();
  } else if ((offset & 0x1f) == 0x08) {
    write_comparator(t, value, mask);
  }
  rearm(n);
}

void Hpet::reset() {
  for (unsigned n = 0; n < kTimers; ++n) {
    if (s_.timer[n].config & kLevel)
      if (auto* l = line(n)) l->set(false);
    timers_[n]->disarm();
  }
  bool was_legacy = legacy();
  s_ = {};
  if (was_legacy && wiring_.legacy) wiring_.legacy(false);
}

void Hpet::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> Hpet::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  s.config &= 3;
  s.status &= (1 << kTimers) - 1;
  for (Comparator& t : s.timer) t.config &= kTimerWritable;
  // PIT and RTC have it in their own states that they are cut off.
  s_ = s;
  drive_levels();
  for (unsigned n = 0; n < kTimers; ++n) rearm(n);
  return {};
}

}  // namespace skerry::devices
