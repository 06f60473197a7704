// What handlers see of the CPU's mode, kept up to date from the architectural state; near jumps,
// faults and I/O port permissions.
#include "engine/soft/core.hpp"

namespace skerry::soft {

using machine::cs;
using machine::ss;

namespace {
constexpr u64 kCr0Pe = 1, kCr0Am = 1 << 18;
constexpr u64 kCr4De = 1 << 3, kCr4Smap = 1 << 21;
constexpr u64 kEferLma = 1 << 10;
}  // namespace

Flow Cpu::raise(u8 vector) {
  fault = {vector, false, 0, 0};
  return Flow::fault;
}

Flow Cpu::raise(u8 vector, u32 error) {
  fault = {vector, true, error, 0};
  return Flow::fault;
}

void Cpu::update_segment(u8 n) {
  const Segment& d = seg[n];
  seg_base[n] = flat && n < 4 ? 0 : d.base;
  Reach& r = reach[n];
  r = {};
  simple_end[n] = {};
  bool checked = protected_mode && !v86;
  if (d.unusable() || (checked && !d.present())) return;
  u64 lo = 0, end = u64{d.limit} + 1;
  if ((d.attributes & 0x1c) == 0x14) {  // data, expand-down (SDM 3A 5.3)
    lo = end;
    end = d.is_big() ? u64{1} << 32 : 0x10000;
  }
  bool code = (d.attributes & 8) != 0;
  r.lo = lo;
  if (!checked || !code || (d.attributes & 2)) r.read_end = end;
  if (!checked || (!code && (d.attributes & 2))) r.write_end = end;
  if (!lo) simple_end[n] = {r.read_end, r.write_end};
}

void Cpu::update_mode() {
  protected_mode = s.cr0 & kCr0Pe;
  v86 = protected_mode && (rflags & VM);
  long_mode = s.efer & kEferLma;
  if (v86) cpl = 3;
  if (!protected_mode) cpl = 0;
  code_bits = long_mode && seg[cs].is_long() ? 64 : seg[cs].is_big() ? 32 : 16;
  flat = code_bits == 64;
  rip_mask = flat ? ~u64{0} : code_bits == 32 ? 0xffff'ffff : 0xffff;
  stack_size = flat ? 8 : seg[ss].is_big() ? 4 : 2;
  for (u8 n = 0; n < 6; ++n) update_segment(n);
  select_tlb();
  core->update_careful();
}

void Cpu::select_tlb() {
  align_check = cpl == 3 && (s.cr0 & kCr0Am) && (rflags & AC_);
  Instance& i = tlb.of(cpl == 3                                ? Tlbs::user
                       : (s.cr4 & kCr4Smap) && !(rflags & AC_) ? Tlbs::supervisor
                                                               : Tlbs::supervisor_ac);
  tlb.context = &i;
  tlb.current = align_check ? &tlb.select(Tlbs::kNone) : &i;
}

void Cpu::set_cpl(u8 value) {
  cpl = value;
  select_tlb();
}

Flow Cpu::jump(u64 target) {
  if (flat) {
    if (!canonical(target)) return raise(GP, 0);
  } else if (target > seg[cs].limit) {
    return raise(GP, 0);
  }
  rip = target;
  return Flow::branch;
}

namespace {

// SDM 1 19.5.2: the I/O permission bitmap of a 32-bit or 64-bit TSS.
bool port_allowed(Cpu& cpu, u16 port, u8 size) {
  if (!cpu.protected_mode) return true;
  u8 iopl = (cpu.rflags >> 12) & 3;
  if (!cpu.v86 && cpu.cpl <= iopl) return true;
  const Segment& tr = cpu.s.tr;
  u8 type = tr.type();
  if (!tr.present() || tr.unusable() || (type != 9 && type != 11) || tr.limit < 103) {
    cpu.raise(GP, 0);
    return false;
  }
  u16 map;
  if (!cpu.system_read(tr.base + 102, map)) return false;
  u32 at = u32{map} + port / 8;
  if (at + 1 > tr.limit) {
    cpu.raise(GP, 0);
    return false;
  }
  u16 bits;
  if (!cpu.system_read(tr.base + at, bits)) return false;
  if ((bits >> (port % 8)) & ((1u << size) - 1)) {
    cpu.raise(GP, 0);
    return false;
  }
  return true;
}

// SDM 3B 18.2.4: I/O breakpoints need CR4.DE; they are traps.
void check_io_breakpoints(Cpu& cpu, u16 port, u8 size) {
  if (!(cpu.s.cr4 & kCr4De) || !(cpu.s.dr7 & 0xff)) return;
  for (unsigned i = 0; i < 4; ++i) {
    unsigned control = (cpu.s.dr7 >> (16 + 4 * i)) & 15;
    if (!((cpu.s.dr7 >> (2 * i)) & 3) || (control & 3) != 2) continue;
    u64 length = "\x01\x02\x08\x04"[control >> 2];
    u64 at = cpu.s.dr[i] & ~(length - 1);
    if (port < at + length && at < u64{port} + size) cpu.core->trap_bits |= u64{1} << i;
  }
}

}  // namespace

bool Cpu::port_in(u16 port, u8 size, u32& value) {
  if (!port_allowed(*this, port, size)) return false;
  u64 v = 0;
  if (!core->device_access(port, size, false, true, v)) return false;
  check_io_breakpoints(*this, port, size);
  value = static_cast<u32>(v & byte_mask(size));
  return true;
}

bool Cpu::port_out(u16 port, u8 size, u32 value) {
  if (!port_allowed(*this, port, size)) return false;
  u64 v = value & byte_mask(size);
  if (!core->device_access(port, size, true, true, v)) return false;
  check_io_breakpoints(*this, port, size);
  return true;
}

}  // namespace skerry::soft
