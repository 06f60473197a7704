#include "devices/rtc.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace skerry::devices {
namespace {

constexpr i64 kSecond = 1'000'000'000;
constexpr i64 kUpdate = 2'228'000;  ///< ns of UIP: 244 us warning, 1984 us update
constexpr i64 kDay = 86400;

enum Index : u8 {
  kSeconds,
  kSecondsAlarm,
  kMinutes,
  kMinutesAlarm,
  kHours,
  kHoursAlarm,
  kWeekday,
  kDayOfMonth,
  kMonth,
  kYear,
  kA,
  kB,
  kC,
  kD,
  kCentury = 0x32,
};
enum B : u8 {
  k24Hours = 2,
  kBinary = 4,
  kUpdateInt = 0x10,
  kAlarmInt = 0x20,
  kPeriodInt = 0x40,
  kSet = 0x80
};

bool is_time(u8 index) {
  return index == kSeconds || index == kMinutes || index == kHours ||
         (index >= kWeekday && index <= kYear) || index == kCentury;
}

i64 floor_div(i64 a, i64 b) {
  return a / b - (a % b < 0);
}

// Days since 1970-01-01 of the proleptic Gregorian calendar; years begin in March here.
i64 days_from_civil(i64 year, i64 month, i64 day) {
  if (month <= 2) --year;
  i64 era = floor_div(year, 400);
  i64 of_era = year - era * 400;
  i64 of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}
struct Civil {
  i64 year;
  unsigned month, day;
};
Civil civil_from_days(i64 days) {
  days += 719468;
  i64 era = floor_div(days, 146097);
  i64 of_era = days - era * 146097;
  i64 year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  i64 of_year = of_era - (365 * year + year / 4 - year / 100);
  auto m = static_cast<unsigned>((5 * of_year + 2) / 153);
  auto day = static_cast<unsigned>(of_year - (153 * m + 2) / 5 + 1);
  unsigned month = m < 10 ? m + 3 : m - 9;
  return {year + era * 400 + (month <= 2), month, day};
}

void put16(std::array<u8, 128>& cmos, u8 at, u64 value) {
  auto v = static_cast<u16>(std::min<u64>(value, 0xffff));
  cmos[at] = static_cast<u8>(v);
  cmos[at + 1] = static_cast<u8>(v >> 8);
}

}  // namespace

Rtc::Rtc(machine::Surroundings& around, machine::IrqLine& irq8, const CmosConfig& config)
    : around_(around),
      irq8_(irq8),
      timer_(around.make_timer([this] { update(); })),
      ports_([this](u64 o) { return read8(o); }, [this](u64 o, u8 v) { write8(o, v); }) {
  s_.cmos[kA] = 0x26;  // 32.768 kHz, 1024 Hz periodic rate
  s_.cmos[kB] = k24Hours;
  s_.cmos[kD] = 0x80;    // the battery is good
  s_.cmos[0x14] = 0x06;  // equipment: FPU, PS/2 mouse
  put16(s_.cmos, 0x15, 640);
  u64 above_1m = config.ram_below_4g > MiB ? config.ram_below_4g - MiB : 0;
  put16(s_.cmos, 0x17, above_1m / KiB);
  put16(s_.cmos, 0x30, above_1m / KiB);
  put16(s_.cmos, 0x34,
        config.ram_below_4g > 16 * MiB ? (config.ram_below_4g - 16 * MiB) / (64 * KiB) : 0);
  u64 high = std::min<u64>(config.ram_above_4g / (64 * KiB), 0xffffff);
  for (unsigned i = 0; i < 3; ++i) s_.cmos[0x5b + i] = static_cast<u8>(high >> (8 * i));
  s_.cmos[0x5f] = static_cast<u8>(std::clamp<unsigned>(config.cpus, 1, 256) - 1);
  s_.seen_second = floor_div(time(), kSecond);
}

void Rtc::poke(u8 index, u8 value) {
  if (index > kD && index != kCentury) s_.cmos[index & 0x7f] = value;
}

// --- time
// ------------------------------------------------------------------------------------------

bool Rtc::held() const {
  return (s_.cmos[kB] & kSet) || (s_.cmos[kA] & 0x70) >= 0x60;
}

i64 Rtc::time() const {
  return held() ? s_.stopped_at : around_.clock().wall() + s_.offset;
}

u8 Rtc::encode(unsigned value) const {
  value %= 100;
  return static_cast<u8>(s_.cmos[kB] & kBinary ? value : (value / 10) << 4 | value % 10);
}
unsigned Rtc::decode(u8 value) const {
  return s_.cmos[kB] & kBinary ? value : (value >> 4) * 10u + (value & 15);
}
u8 Rtc::encode_hour(unsigned hour) const {
  if (s_.cmos[kB] & k24Hours) return encode(hour);
  unsigned h = hour % 12;
  return static_cast<u8>(encode(h ? h : 12) | (hour >= 12 ? 0x80 : 0));
}
unsigned Rtc::decode_hour(u8 value) const {
  if (s_.cmos[kB] & k24Hours) return decode(value);
  return decode(value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

void Rtc::to_cmos(i64 seconds) {
  i64 days = floor_div(seconds, kDay);
  auto in_day = static_cast<unsigned>(seconds - days * kDay);
  Civil date = civil_from_days(days);
  auto& cmos = s_.cmos;
  cmos[kSeconds] = encode(in_day % 60);
  cmos[kMinutes] = encode(in_day / 60 % 60);
  cmos[kHours] = encode_hour(in_day / 3600);
  auto weekday =
      static_cast<unsigned>((days % 7 + 7 + 4 + s_.weekday_shift) % 7);  // 1970-01-01: Thursday
  cmos[kWeekday] = encode(weekday + 1);
  cmos[kDayOfMonth] = encode(date.day);
  cmos[kMonth] = encode(date.month);
  cmos[kYear] = encode(static_cast<unsigned>(((date.year % 100) + 100) % 100));
  // The century is firmware's byte, BCD by the ACPI convention; here the mode's format.
  cmos[kCentury] = encode(static_cast<unsigned>((date.year / 100 % 100 + 100) % 100));
}

/// Whatever was written gives some time: numbers beyond their range carry over.
i64 Rtc::from_cmos() const {
  const auto& cmos = s_.cmos;
  i64 year = i64{decode(cmos[kCentury])} * 100 + decode(cmos[kYear]);
  // Nanoseconds in 64 bits reach from 1678 to 2262; a century that does not fit is this one.
  if (year < 1800 || year > 2200) year = 2000 + year % 100;
  unsigned month = std::clamp(decode(cmos[kMonth]), 1u, 12u);
  i64 days = days_from_civil(year, month, decode(cmos[kDayOfMonth]));
  return days * kDay + i64{decode_hour(cmos[kHours])} * 3600 + i64{decode(cmos[kMinutes])} * 60 +
         decode(cmos[kSeconds]);
}

/// Keeps the phase within the second: SET does not touch the divider.
void Rtc::set_time(i64 seconds) {
  i64 fraction = time() - floor_div(time(), kSecond) * kSecond;
  i64 fresh = seconds * kSecond + fraction;
  if (held())
    s_.stopped_at = fresh;
  else
    s_.offset = fresh - around_.clock().wall();
  s_.seen_second = seconds;
}

bool Rtc::updating() const {
  if (held()) return false;
  i64 now = time();
  return now - floor_div(now, kSecond) * kSecond >= kSecond - kUpdate;
}

/// Alarm bytes of 0xc0 and above match everything.
bool Rtc::alarm_at(i64 second) const {
  auto in_day = static_cast<unsigned>(second - floor_div(second, kDay) * kDay);
  const auto& cmos = s_.cmos;
  auto matches = [](u8 raw, unsigned want, unsigned have) { return raw >= 0xc0 || want == have; };
  return matches(cmos[kSecondsAlarm], decode(cmos[kSecondsAlarm]), in_day % 60) &&
         matches(cmos[kMinutesAlarm], decode(cmos[kMinutesAlarm]), in_day / 60 % 60) &&
         matches(cmos[kHoursAlarm], decode_hour(cmos[kHoursAlarm]), in_day / 3600);
}

i64 Rtc::period_ticks() const {
  unsigned rate = s_.cmos[kA] & 15;
  if (rate == 0 || (s_.cmos[kA] & 0x70) >= 0x60) return 0;
  if (rate <= 2) rate += 7;
  return i64{1} << (rate - 1);
}

// --- flags and the interrupt
// -----------------------------------------------------------------------

void Rtc::catch_up() {
  if (i64 period = period_ticks()) {
    auto tick = static_cast<i64>(static_cast<u128>(around_.clock().now()) * 32768 / kSecond);
    if (tick / period != s_.seen_period) s_.cmos[kC] |= kPeriodInt;
    s_.seen_period = tick / period;
  }
  if (held()) return;
  i64 second = floor_div(time(), kSecond);
  if (second == s_.seen_second) return;
  s_.cmos[kC] |= kUpdateInt;
  // An alarm recurs within a day, so looking back a day is enough.
  if (!(s_.cmos[kC] & kAlarmInt))
    for (i64 at = second, n = std::clamp<i64>(second - s_.seen_second, 1, kDay); n > 0; --at, --n)
      if (alarm_at(at)) {
        s_.cmos[kC] |= kAlarmInt;
        break;
      }
  s_.seen_second = second;
}

void Rtc::update() {
  catch_up();
  u8 b = s_.cmos[kB], c = s_.cmos[kC] & 0x70;
  s_.irq = b & c & 0x70;
  s_.cmos[kC] = c | (s_.irq ? 0x80 : 0);
  irq8_.set(s_.irq && !s_.muted);

  // Only what can change the line needs the timer.
  Nanos now = around_.clock().now(), at = -1;
  auto sooner = [&](Nanos t) { at = at < 0 ? t : std::min(at, t); };
  if ((b & kPeriodInt) && !(c & kPeriodInt))
    if (i64 period = period_ticks())
      sooner(static_cast<Nanos>(
          (static_cast<u128>(s_.seen_period + 1) * static_cast<u64>(period) * kSecond + 32767) /
          32768));
  if (!held()) {
    i64 to_next = (s_.seen_second + 1) * kSecond - time();
    if ((b & kUpdateInt) && !(c & kUpdateInt)) sooner(now + to_next);
    if ((b & kAlarmInt) && !(c & kAlarmInt)) {
      // An alarm far away is looked for again every hour.
      i64 n = 0;
      while (n < 3600 && !alarm_at(s_.seen_second + 1 + n)) ++n;
      sooner(now + to_next + n * kSecond);
    }
  }
  if (at < 0)
    timer_->disarm();
  else
    timer_->arm(at);
}

void Rtc::mute_irq(bool muted) {
  s_.muted = muted;
  update();
}

// --- registers
// -------------------------------------------------------------------------------------

u8 Rtc::read8(u64 offset) {
  if (offset != 1) return 0xff;  // the index is write-only
  return read_cmos(s_.index);
}
void Rtc::write8(u64 offset, u8 value) {
  if (offset == 0) s_.index = value & 0x7f;  // bit 7 masks NMI, of which there are none
  if (offset == 1) write_cmos(s_.index, value);
}

u8 Rtc::read_cmos(u8 index) {
  if (is_time(index)) {
    if (!held()) to_cmos(floor_div(time(), kSecond));
    return s_.cmos[index];
  }
  switch (index) {
    case kA: return static_cast<u8>((s_.cmos[kA] & 0x7f) | (updating() ? 0x80 : 0));
    case kC: {
      update();
      u8 value = s_.cmos[kC];
      s_.cmos[kC] = 0;
      update();
      return value;
    }
    default: return s_.cmos[index];
  }
}

void Rtc::write_cmos(u8 index, u8 value) {
  if (is_time(index)) {
    catch_up();
    if (!held()) to_cmos(floor_div(time(), kSecond));
    if (index == kWeekday) {
      unsigned shift = decode(value) + 7 * 36 - decode(s_.cmos[kWeekday]);
      s_.weekday_shift = static_cast<u8>((s_.weekday_shift + shift) % 7);
    }
    s_.cmos[index] = value;
    if (!held()) set_time(from_cmos());
    return update();
  }
  switch (index) {
    case kA: return write_a(value & 0x7f);
    case kB: return write_b(value);
    case kC:
    case kD: return;
    default:
      catch_up();
      s_.cmos[index] = value;
      if (index <= kHoursAlarm) update();
  }
}

/// The clock runs again, from what is in the registers.
void Rtc::resume_counting() {
  s_.offset = s_.stopped_at - around_.clock().wall();
  s_.seen_second = floor_div(s_.stopped_at, kSecond);
}

void Rtc::write_a(u8 value) {
  catch_up();
  bool was_held = held(), was_reset = (s_.cmos[kA] & 0x70) >= 0x60;
  i64 now = time();
  if (!was_held) to_cmos(floor_div(now, kSecond));
  s_.cmos[kA] = value;
  bool in_reset = (value & 0x70) >= 0x60;
  if (held() && !was_held) s_.stopped_at = now;
  // Out of reset the divider takes half a second to the first update (MC146818A, register A).
  if (was_reset && !in_reset)
    s_.stopped_at = floor_div(s_.stopped_at, kSecond) * kSecond + kSecond / 2;
  if (was_held && !held()) {
    i64 fraction = s_.stopped_at - floor_div(s_.stopped_at, kSecond) * kSecond;
    s_.stopped_at = from_cmos() * kSecond + fraction;
    resume_counting();
  }
  if (i64 period = period_ticks())
    s_.seen_period =
        static_cast<i64>(static_cast<u128>(around_.clock().now()) * 32768 / kSecond) / period;
  update();
}

void Rtc::write_b(u8 value) {
  catch_up();
  bool was_held = held();
  i64 now = time();
  if (!was_held) to_cmos(floor_div(now, kSecond));
  bool in_reset = (s_.cmos[kA] & 0x70) >= 0x60;
  if (was_held && !(value & kSet) && !in_reset) {
    // The second's phase is the divider's, which SET does not stop.
    i64 seconds = from_cmos();  // in the format in which it was written
    i64 running = around_.clock().wall() + s_.offset;
    s_.stopped_at = seconds * kSecond + (running - floor_div(running, kSecond) * kSecond);
    s_.cmos[kB] = value;
    resume_counting();
  } else {
    s_.cmos[kB] = value;
    if (held() && !was_held) s_.stopped_at = now;
  }
  if (value & kSet) s_.cmos[kB] &= static_cast<u8>(~kUpdateInt);  // SET clears UIE
  update();
}

void Rtc::reset() {
  s_.cmos[kB] &= static_cast<u8>(~(kPeriodInt | kAlarmInt | kUpdateInt | 8));
  s_.cmos[kC] = 0;
  s_.index = 0;
  s_.muted = false;
  update();
}

void Rtc::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> Rtc::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  // A hostile image must not overflow the sums.
  constexpr i64 kLimit = 9'000'000'000;  // seconds
  auto fits = [](i128 ns) { return ns > -i128{kLimit} * kSecond && ns < i128{kLimit} * kSecond; };
  bool good = fits(i128{around_.clock().wall()} + s.offset) && fits(s.stopped_at) &&
              s.seen_second > -kLimit && s.seen_second < kLimit && s.seen_period >= 0 &&
              s.seen_period < (i64{1} << 50) && s.index < 128;
  if (!good) return fail("section {}: a time is out of range", name());
  s_ = s;
  update();
  return {};
}

}  // namespace skerry::devices
