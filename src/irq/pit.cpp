#include "irq/pit.hpp"

#include <algorithm>

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::irq {
namespace {

constexpr Nanos kSecond = 1'000'000'000;
/// The shortest time between two timer callbacks of a periodic channel 0: a guest that asks for
/// more gets interrupts merged, not a thread of the host.
constexpr Nanos kMinPeriod = 20'000;

u32 modulus(const Pit::Channel& c) {
  return c.bcd ? 10000 : 65536;
}

u32 from_raw(const Pit::Channel& c, u32 raw) {
  if (!c.bcd) return raw ? raw : 65536;
  u32 value = (raw >> 12) * 1000 + ((raw >> 8) & 15) * 100 + ((raw >> 4) & 15) * 10 + (raw & 15);
  return value ? value : 10000;
}
u16 to_raw(const Pit::Channel& c, u32 value) {
  value %= modulus(c);
  if (!c.bcd) return static_cast<u16>(value);
  return static_cast<u16>((value / 1000) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 |
                          value % 10);
}

bool periodic(const Pit::Channel& c) {
  return c.mode == 2 || c.mode == 3;
}
bool by_trigger(const Pit::Channel& c) {
  return c.mode == 1 || c.mode == 5;
}
u32 high_half(const Pit::Channel& c) {
  return (c.count + 1) / 2;
}

}  // namespace

Pit::Pit(machine::Surroundings& around, machine::IrqLine& irq0)
    : around_(around),
      irq0_(irq0),
      timer_(around.make_timer([this] { update_irq(); })),
      ports_([this](u64 o) -> u8 { return o < 3 ? read_counter(static_cast<unsigned>(o)) : 0xff; },
             [this](u64 o, u8 v) {
               if (o < 3)
                 write_counter(static_cast<unsigned>(o), v);
               else if (o == 3)
                 write_mode(v);
             }),
      port61_([this](u64 o) -> u8 { return o ? 0xff : read61(); },
              [this](u64 o, u8 v) {
                if (o) return;
                s_.port61 = v & 0x0f;
                set_gate(s_.channel[2], v & 1);
              }) {
  s_.channel[2].gate = false;
}

u64 Pit::tick() const {
  return static_cast<u64>(static_cast<u128>(around_.clock().now()) * kPitHz / kSecond);
}
/// The first moment of a tick.
Nanos Pit::nanos_of(u64 tick) const {
  u128 at = (static_cast<u128>(tick) * kSecond + kPitHz - 1) / kPitHz;
  return static_cast<Nanos>(std::min<u128>(at, u128{1} << 62));
}

i64 Pit::elapsed(const Channel& c, u64 now) {
  if (!c.gate && !by_trigger(c)) return static_cast<i64>(c.stopped_at);
  return static_cast<i64>(now - c.start);
}

bool Pit::out(const Channel& c, u64 now) {
  if (c.count == 0) return c.mode != 0;
  i64 e = elapsed(c, now);
  if (e < 0) return c.mode != 0;
  auto ticks = static_cast<u64>(e);
  switch (c.mode) {
    case 0: return ticks >= c.count;
    case 1: return !c.triggered || ticks >= c.count;
    case 2: return !c.gate || ticks % c.count != c.count - 1;
    case 3: return !c.gate || ticks % c.count < high_half(c);
    case 4: return ticks != c.count;
    default: return !c.triggered || ticks != c.count;
  }
}

u16 Pit::counter(const Channel& c, u64 now) {
  if (c.count == 0) return 0;
  i64 e = elapsed(c, now);
  if (e < 0 || (by_trigger(c) && !c.triggered)) return to_raw(c, c.count);
  auto ticks = static_cast<u64>(e);
  if (c.mode == 2) return to_raw(c, c.count - static_cast<u32>(ticks % c.count));
  if (c.mode == 3) {
    // Counts by twos, once for each half of the square wave.
    auto at = static_cast<u32>(ticks % c.count);
    if (at >= high_half(c)) at -= high_half(c);
    return to_raw(c, (c.count & ~1u) - 2 * at);
  }
  u32 m = modulus(c);
  return to_raw(c, c.count + m - static_cast<u32>(ticks % m));
}

bool Pit::null_count(const Channel& c, u64 now) {
  return c.count == 0 || c.reload_at != 0 || c.count_waits || elapsed(c, now) < 0;
}

void Pit::take_next_count(Channel& c) {
  bool mid_cycle = c.mode == 3 && (c.reload_at - c.start) % c.count == high_half(c);
  c.count = c.next_count;
  // After the high half the new count rules the low half: as if its cycle had begun earlier.
  c.start = c.reload_at - (mid_cycle ? high_half(c) : 0);
  c.reload_at = 0;
}

void Pit::sync(unsigned n) {
  if (n == 0) return update_irq();
  Channel& c = s_.channel[n];
  if (c.reload_at && tick() >= c.reload_at) take_next_count(c);
}

std::optional<u64> Pit::next_edge(const Channel& c, u64 from) {
  if (c.count == 0) return std::nullopt;
  switch (c.mode) {
    case 0: {
      u64 at = c.start + c.count;
      return at > from ? std::optional(at) : std::nullopt;
    }
    case 4: {
      u64 at = c.start + c.count + 1;
      return at > from ? std::optional(at) : std::nullopt;
    }
    case 2:
    case 3: {
      if (static_cast<i64>(from - c.start) < 0) from = c.start;
      u64 cycle = (from - c.start) / c.count, at = c.start + cycle * c.count;
      if (c.mode == 3 && at + high_half(c) > from) return at + high_half(c);
      return at + c.count;
    }
    default: return std::nullopt;  // channel 0's GATE never rises
  }
}

/// Tells irq0 of what happened up to `until`; however many periods passed, one edge.
void Pit::run_edges(u64 until) {
  Channel& c = s_.channel[0];
  bool rose = false;
  if (auto edge = next_edge(c, s_.seen); edge && *edge <= until) {
    bool first_rises = c.mode != 3 || out(c, *edge);
    auto second = next_edge(c, *edge);
    rose = first_rises || (second && *second <= until);
  }
  s_.seen = until;
  bool level = out(c, until);
  if (!s_.muted) {
    if (rose) irq0_.set(false), irq0_.set(true);
    irq0_.set(level);
  }
  s_.out0 = level;
}

void Pit::update_irq() {
  Channel& c = s_.channel[0];
  u64 now = tick();
  if (c.reload_at && now >= c.reload_at) {
    run_edges(c.reload_at);
    take_next_count(c);
  }
  run_edges(now);
  auto edge = next_edge(c, now);
  if (c.reload_at && edge) edge = std::min(*edge, c.reload_at);
  if (!edge || s_.muted) return timer_->disarm();
  Nanos at = nanos_of(*edge);
  if (periodic(c)) at = std::max(at, around_.clock().now() + kMinPeriod);
  timer_->arm(at);
}

void Pit::mute_irq(bool muted) {
  if (s_.muted == muted) return;
  update_irq();
  s_.muted = muted;
  irq0_.set(!muted && s_.out0);
  update_irq();
}

void Pit::set_gate(Channel& c, bool gate) {
  if (c.gate == gate) return;
  sync(2);
  u64 now = tick();
  if (!gate) {
    i64 e = elapsed(c, now);
    c.stopped_at = e > 0 ? static_cast<u64>(e) : 0;
    c.gate = false;
    return;
  }
  c.gate = true;
  switch (c.mode) {
    case 0:
    case 4: c.start = now - c.stopped_at; break;
    case 2:
    case 3:
      if (c.reload_at) c.count = c.next_count, c.reload_at = 0;
      c.start = now + 1;
      break;
    default:
      if (c.count_waits) c.count = c.next_count, c.count_waits = false;
      c.start = now + 1;
      c.triggered = c.count != 0;
      break;
  }
}

void Pit::load_count(Channel& c, u32 raw) {
  u32 value = from_raw(c, raw);
  u64 now = tick();
  if (by_trigger(c)) {
    c.next_count = value;
    c.count_waits = true;
    return;
  }
  if (periodic(c) && c.count != 0 && c.gate && elapsed(c, now) >= 0) {
    // Taken at the end of the period (mode 2) or half-cycle (mode 3).
    u64 cycle = static_cast<u64>(elapsed(c, now)) / c.count;
    u64 boundary = c.start + (cycle + 1) * c.count;
    if (c.mode == 3 && now < c.start + cycle * c.count + high_half(c))
      boundary = c.start + cycle * c.count + high_half(c);
    c.next_count = value;
    c.reload_at = boundary;
    return;
  }
  c.count = value;
  c.start = now + 1;  // by the next clock pulse
  c.stopped_at = 0;
  c.reload_at = 0;
}

void Pit::latch_count(Channel& c, u64 now) {
  if (c.latched) return;
  c.latch = counter(c, now);
  c.latched = c.access == 3 ? 2 : 1;
}

void Pit::write_mode(u8 value) {
  u64 now = tick();
  if (value >> 6 == 3) {  // read-back; latches are active low
    for (unsigned n = 0; n < 3; ++n) {
      if (!(value & (2 << n))) continue;
      sync(n);
      Channel& c = s_.channel[n];
      if (!(value & 0x10) && !c.status_latched) {
        c.status = static_cast<u8>(out(c, now) << 7 | null_count(c, now) << 6 | c.access << 4 |
                                   c.mode << 1 | c.bcd);
        c.status_latched = true;
      }
      if (!(value & 0x20)) latch_count(c, now);
    }
    return;
  }
  unsigned n = value >> 6;
  sync(n);
  Channel& c = s_.channel[n];
  if (((value >> 4) & 3) == 0) return latch_count(c, now);
  trace(Trace::time, "pit: channel {} control {:#x}", n, value);
  Channel fresh;
  fresh.gate = c.gate;
  fresh.access = (value >> 4) & 3;
  fresh.mode = (value >> 1) & 7;
  if (fresh.mode > 5) fresh.mode &= 3;
  fresh.bcd = value & 1;
  c = fresh;
  if (n == 0) update_irq();
}

void Pit::write_counter(unsigned n, u8 value) {
  sync(n);
  Channel& c = s_.channel[n];
  switch (c.access) {
    case 1: load_count(c, value); break;
    case 2: load_count(c, u32{value} << 8); break;
    default:
      if (!c.write_high) {
        c.low_byte = value;
        c.write_high = true;
        if (c.mode == 0) c.count = 0;  // the first byte stops the count and clears OUT
      } else {
        c.write_high = false;
        load_count(c, u32{value} << 8 | c.low_byte);
      }
  }
  if (n == 0) update_irq();
}

u8 Pit::read_counter(unsigned n) {
  sync(n);
  Channel& c = s_.channel[n];
  if (c.status_latched) {
    c.status_latched = false;
    return c.status;
  }
  u16 value = c.latch;
  if (c.latched)
    --c.latched;
  else
    value = counter(c, tick());
  switch (c.access) {
    case 1: return static_cast<u8>(value);
    case 2: return static_cast<u8>(value >> 8);
    default: c.read_high = !c.read_high; return static_cast<u8>(c.read_high ? value : value >> 8);
  }
}

u8 Pit::read61() {
  sync(2);
  // Bit 4 toggles with each DRAM refresh request, every 15.085 us on a PC.
  bool refresh = (around_.clock().now() / 15085) & 1;
  return static_cast<u8>(s_.port61 | refresh << 4 | out(s_.channel[2], tick()) << 5);
}

void Pit::reset() {
  s_ = {};
  s_.channel[2].gate = false;
  s_.seen = tick();
  irq0_.set(s_.out0);
  timer_->disarm();
}

void Pit::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> Pit::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  for (const Channel& c : s.channel) {
    bool good = c.mode <= 5 && c.access >= 1 && c.access <= 3 && c.count <= 65536 &&
                c.next_count <= 65536 && c.latched <= 2 &&
                (c.reload_at == 0 || (c.count != 0 && c.next_count != 0)) &&
                (!c.count_waits || c.next_count != 0);
    if (!good) return fail("section {}: a channel has an impossible mode or count", name());
  }
  s_ = s;
  irq0_.set(!s_.muted && s_.out0);
  update_irq();
  return {};
}

}  // namespace skerry::irq
