// EFLAGS of a Cpu, and the decimal adjustments. See arith.hpp.
#include "engine/soft/arith_wide.hpp"

namespace skerry::soft {

u64 Cpu::eflags() const {
  return rflags | arith::to_eflags(flags);
}

void Cpu::set_eflags(u64 value) {
  arith::from_eflags(flags, value);
  rflags = value & ~kArithmeticFlags;
}

namespace arith {

namespace {

/// AX adjusted by `by` in AL's low digit and AH by one, or left alone; AL keeps 4 bits.
u16 adjust_digit(LazyFlags& f, u16 ax, bool adjust, int by) {
  if (adjust) ax = static_cast<u16>(ax + by);
  ax &= 0xff0f;
  set_result<u8>(f, static_cast<u8>(ax), adjust, false);
  if (adjust) f.carries |= 8;
  return ax;
}

u16 decimal(LazyFlags& f, u16 ax, bool subtract) {
  u8 old = static_cast<u8>(ax), al = old;
  bool old_cf = cf(f), c = false, a = false;
  auto step = [&](u8 by) { al = static_cast<u8>(subtract ? al - by : al + by); };
  if ((old & 15) > 9 || af(f)) {
    c = old_cf || (subtract ? old < 6 : old > 0xf9);
    step(6);
    a = true;
  }
  if (old > 0x99 || old_cf) {
    step(0x60);
    c = true;
  } else if (!subtract) {
    c = false;
  }
  set_result<u8>(f, al, c, false);
  if (a) f.carries |= 8;
  return static_cast<u16>((ax & 0xff00) | al);
}

}  // namespace

u16 aaa(LazyFlags& f, u16 ax) {
  return adjust_digit(f, ax, (ax & 15) > 9 || af(f), 0x106);
}
u16 aas(LazyFlags& f, u16 ax) {
  return adjust_digit(f, ax, (ax & 15) > 9 || af(f), -0x106);
}

u16 aad(LazyFlags& f, u16 ax, u8 base) {
  u8 al = static_cast<u8>((ax & 0xff) + (ax >> 8) * base);
  set_result<u8>(f, al, false, false);
  return al;
}
u16 aam(LazyFlags& f, u16 ax, u8 base) {
  u8 al = static_cast<u8>(ax);
  set_result<u8>(f, static_cast<u8>(al % base), false, false);
  return static_cast<u16>((al / base) << 8 | al % base);
}
u16 daa(LazyFlags& f, u16 ax) {
  return decimal(f, ax, false);
}
u16 das(LazyFlags& f, u16 ax) {
  return decimal(f, ax, true);
}

}  // namespace arith
}  // namespace skerry::soft
