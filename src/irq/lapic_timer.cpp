// The local APIC's timer (SDM 3A 11.5.4). Times are computed from the Clock when somebody looks;
// nothing ticks.
#include "base/log.hpp"
#include "irq/lapic.hpp"

namespace skerry::irq {
namespace {
constexpr u32 kMasked = 0x10000;
// What a deadline further away is shortened to: the owner just looks again then.
constexpr Nanos kFarthest = Nanos{3600} * 1'000'000'000;
}  // namespace

// DCR bits 3, 1, 0: 000 is divide by 2, 110 by 128, 111 by 1 (figure 11-10).
u64 Lapic::divider() const {
  u32 code = (s_.timer_divide & 3) | ((s_.timer_divide >> 1) & 4);
  return u64{1} << ((code + 1) & 7);
}

u64 Lapic::guest_tsc() const {
  if (setup_.guest_tsc) return setup_.guest_tsc();
  return static_cast<u64>(static_cast<u128>(clock_.now()) * setup_.tsc_hz / 1'000'000'000);
}

u32 Lapic::current_count() const {
  if (!s_.timer_expires || timer_mode() == TimerMode::tsc_deadline) return 0;
  Nanos left = s_.timer_expires - clock_.now();
  if (left <= 0) return 0;
  u64 count = (static_cast<u64>(left) + divider() - 1) / divider();
  return count < 0xffffffff ? static_cast<u32>(count) : 0xffffffff;
}

void Lapic::start_count(u64 count) {
  s_.timer_expires = count ? clock_.now() + static_cast<Nanos>(count * divider()) : 0;
}

bool Lapic::write_timer_lvt(u32 value, bool x2) {
  run_timer();  // what expired under the old setting goes by the old setting
  u32 valid = setup_.tsc_deadline ? 0x700ff : 0x300ff;
  bool was_deadline = timer_mode() == TimerMode::tsc_deadline;
  if (!write_lvt(s_.lvt_timer, value, valid, 0x1000, x2)) return false;
  // Going to or from TSC-deadline mode disarms (11.5.4.1).
  if (was_deadline != (timer_mode() == TimerMode::tsc_deadline)) {
    s_.timer_expires = 0;
    s_.tsc_deadline = 0;
  }
  return true;
}

std::optional<Nanos> Lapic::timer_deadline() {
  // A masked timer runs on, but nobody needs to wake for it: run_timer() catches up.
  if (s_.lvt_timer & kMasked) return std::nullopt;
  if (timer_mode() == TimerMode::tsc_deadline) {
    if (!s_.tsc_deadline) return std::nullopt;
    u64 tsc = guest_tsc();
    Nanos now = clock_.now();
    if (s_.tsc_deadline <= tsc) return now;
    u128 left = (static_cast<u128>(s_.tsc_deadline - tsc) * 1'000'000'000 + setup_.tsc_hz - 1) /
                setup_.tsc_hz;
    return now + (left < static_cast<u128>(kFarthest) ? static_cast<Nanos>(left) : kFarthest);
  }
  if (!s_.timer_expires) return std::nullopt;
  return s_.timer_expires;
}

void Lapic::run_timer() {
  if (s_.tsc_deadline) {
    if (guest_tsc() < s_.tsc_deadline) return;
    s_.tsc_deadline = 0;
  } else {
    if (!s_.timer_expires) return;
    Nanos now = clock_.now();
    if (now < s_.timer_expires) return;
    Nanos period = static_cast<Nanos>(s_.timer_initial * divider());
    if (timer_mode() == TimerMode::periodic && period > 0) {
      // Periods that nobody was there to see become one interrupt, as the IRR would have it.
      Nanos missed = (now - s_.timer_expires) / period;
      s_.timer_expires += (missed + 1) * period;
    } else {
      s_.timer_expires = 0;
    }
  }
  trace(Trace::time, "lapic{}: timer fires", setup_.id);
  if (!(s_.lvt_timer & kMasked)) deliver(static_cast<u8>(s_.lvt_timer), false);
}

}  // namespace skerry::irq
