// The local APIC, in either mode. SDM 3A chapter 11.
#pragma once

#include "kit.hpp"

constexpr uptr kApicBase = 0xfee00000;
enum ApicRegister : u32 {
  kApicId = 0x20,
  kApicVersion = 0x30,
  kTpr = 0x80,
  kPpr = 0xa0,
  kEoi = 0xb0,
  kLdr = 0xd0,
  kDfr = 0xe0,
  kSvr = 0xf0,
  kIsr = 0x100,
  kIrr = 0x200,
  kEsr = 0x280,
  kIcrLow = 0x300,
  kIcrHigh = 0x310,
  kLvtTimer = 0x320,
  kLvtLint0 = 0x350,
  kLvtLint1 = 0x360,
  kLvtError = 0x370,
  kTimerInitial = 0x380,
  kTimerCurrent = 0x390,
  kTimerDivide = 0x3e0,
};
inline u32 apic_read(u32 r) {
  return read<u32>(kApicBase + r);
}
inline void apic_write(u32 r, u32 v) {
  write<u32>(kApicBase + r, v);
}
inline void apic_on() {
  apic_write(kSvr, 0x1ff);
}
inline void eoi() {
  apic_write(kEoi, 0);
}
inline bool apic_bit(u32 bank, u8 vector) {
  return apic_read(bank + (vector / 32) * 0x10) >> (vector % 32) & 1;
}
/// shorthand: 0 physical destination, 1 self, 2 all, 3 all others.
inline void send_ipi(u32 low, u8 destination = 0) {
  apic_write(kIcrHigh, u32{destination} << 24);
  apic_write(kIcrLow, low);
  while (apic_read(kIcrLow) & 0x1000) asm volatile("pause");
}
inline void self_ipi(u8 vector) {
  send_ipi(0x44000u | vector);
}
/// Waits for `condition()` for about a hundred million TSC ticks or more; false: it never came.
template <class F>
bool eventually(F condition, u64 ticks = 4000000000ull) {
  u64 until = rdtsc() + ticks;
  while (!condition()) {
    if (rdtsc() > until) return false;
    asm volatile("pause");
  }
  return true;
}
