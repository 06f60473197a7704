// What 32-bit kernels do at every entry and exit, between flat 32-bit segments and in the everyday
// case: IRET, SYSENTER, SYSEXIT, loads of DS, ES, FS and GS. Everything else is the interpreter's,
// before anything has changed. As returns.cpp this is compiled to use general registers only.
#include <algorithm>

#include "engine/soft/jit.hpp"
#include "engine/soft/room.hpp"
#include "engine/soft/segments.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using machine::cs;
using machine::rsp;
using machine::ss;

namespace {

constexpr u64 kPresent = u64{1} << 47, kCodeOrData = u64{1} << 44, kExecutable = u64{1} << 43,
              kConforming = u64{1} << 42, kExpandDown = u64{1} << 42, kReadable = u64{1} << 41,
              kWritable = u64{1} << 41, kAccessed = u64{1} << 40, kLong = u64{1} << 53,
              kBig = u64{1} << 54;
/// Base 0, limit 4 GiB: all of a descriptor but its access byte, L, D/B and the available bit.
constexpr u64 kPlace = 0xff8f'00ff'ffff'ffff, kWholeSpace = 0x008f'0000'0000'ffff;
constexpr u64 kAll = u64{1} << 32;
constexpr u64 kLoaded =
    CF | PF_ | AF | ZF | SF | OF_ | TF | DF_ | NT | RF | AC_ | ID | IF | IOPL | VIF | VIP;

/// `size` bytes at a linear address that the instance lets be read, or null.
const u8* readable(const Instance& i, u32 linear, u32 size) {
  const TlbEntry& e = i.entry[Instance::index(linear)];
  return linear - e.read <= 4096 - size ? reinterpret_cast<const u8*>(linear + e.bias) : nullptr;
}

/// What Cpu::update_segment makes of a segment that begins at its base.
void set_reach(Cpu& cpu, u8 n, u64 read_end, u64 write_end) {
  cpu.seg_base[n] = cpu.seg[n].base;
  cpu.reach[n] = {0, read_end, write_end};
  cpu.simple_end[n] = {read_end, write_end};
}

void set_flat(Cpu& cpu, u8 n, const Segment& value) {
  cpu.seg[n] = value;
  set_reach(cpu, n, kAll, n == cs ? 0 : kAll);
}

Segment flat_segment(u16 selector, u32 attributes) {
  return {selector, 0, 0xffff'ffff, attributes};
}

}  // namespace

// What quick_dispatch() asks for, too, so it is here.
u32 Jit::narrow_mode() const {
  u32 mode = cpu_.code_bits == 32 ? kModeCode32 : kModeCode16;
  if (!cpu_.protected_mode || cpu_.v86) mode |= kModeReal;
  if (cpu_.stack_size == 4) mode |= kModeStack32;
  if (segmented()) mode |= kModeSegmented;
  bool flat = true;
  for (u8 n : {machine::es, ss, machine::ds})
    flat &= cpu_.seg_base[n] == 0 && cpu_.simple_end[n][0] == kAll && cpu_.simple_end[n][1] == kAll;
  if (flat) mode |= kModeFlat;
  return mode;
}

/// Adds the window of segmented code (translator.hpp). False: the instruction at `rip` may reach
/// beyond it.
bool Jit::window(u64 rip, u32& mode) const {
  const u64 last = std::min<u64>(cpu_.seg[cs].limit, cpu_.rip_mask);
  const i64 offset = static_cast<i64>(linear_of(rip) & 0xfff);
  const i64 page = static_cast<i64>(rip) - offset;     // its RIP
  const i64 room = static_cast<i64>(last) + 1 - page;  // up to the segment's end
  const i64 before = page < 0 ? (-page + 15) >> 4 : 0;
  const i64 behind = room >= 4096 + 16 ? 0 : std::max<i64>(1, (4096 - room + 15) >> 4);
  if (offset < before << 4 || (behind && offset + 16 > 4096 - (behind << 4))) return false;
  mode |= static_cast<u32>(before << 13 | behind << 21);
  return true;
}

/// The descriptor of a selector in the GDT, if it may be used as it is: present, code or data, and
/// marked as accessed.
bool Jit::narrow_descriptor(u16 selector, u64& raw) const {
  const Cpu& cpu = cpu_;
  const bool smap = cpu.s.cr4 & (1 << 21);
  const Instance& system = *cpu.tlb.instance[cpu.tlb.space * Tlbs::kKinds +
                                             (smap ? Tlbs::supervisor : Tlbs::supervisor_ac)];
  if (!system.ready || !(selector & 0xfff8) || (selector & 4) || (selector | 7u) > cpu.s.gdtr.limit)
    return false;
  const u64 linear = cpu.s.gdtr.base + (selector & 0xfff8u);
  const TlbEntry& e = system.entry[Instance::index(linear)];
  if (linear - e.read > 4096 - 8) return false;
  __builtin_memcpy(&raw, reinterpret_cast<const u8*>(linear + e.bias), 8);
  constexpr u64 kNeeded = kPresent | kCodeOrData | kAccessed;
  return (raw & kNeeded) == kNeeded;
}

/// The TLB instance for code of privilege `level`, if that may go on at once.
bool Jit::narrow_target(u8 level, u64 flags, Instance*& to) const {
  const Cpu& cpu = cpu_;
  const bool smap = cpu.s.cr4 & (1 << 21);
  to = cpu.tlb.instance[cpu.tlb.space * Tlbs::kKinds + (level == 3 ? Tlbs::user
                                                        : smap && !(flags & AC_)
                                                            ? Tlbs::supervisor
                                                            : Tlbs::supervisor_ac)];
  return to->ready && cpu.attention.go_.load(std::memory_order_relaxed) &&
         !(level == 3 && (flags & AC_) && (cpu.s.cr0 & (1 << 18)));
}

/// Site `n` has led to flat 32-bit code of that privilege.
u8* Jit::narrow_enter(u32 n, u8 level, u32 eip, Instance& to) {
  Cpu& cpu = cpu_;
  const Site s = sites_[n];
  account(s.count);
  if (exact_) {
    ++core_.instructions;
    ++counted_;
  }
  const u32 mode =
      (blocks_[s.block].mode & ~u32{kModeUser | kModeUnmerged | kModeSegmented | kModeWindow}) |
      (level == 3 ? u32{kModeUser} : 0);
  cpu.cpl = level;
  cpu.rip = eip;
  cpu.tlb.context = cpu.tlb.current = &to;
  if (const Instance::SecondJump* known = to.known_jump(eip, eip);
      known && to.mode == mode && !exact_) {
    cpu.code_page = eip & ~u64{0xfff};
    cpu.jit_base = base_of(to);
    return run_at(known->code);
  }
  leave_vectors();
  return enter_vectors(resume());
}

/// These return false: the interpreter's. Else `to_code` is where it goes on, null to leave.
bool Jit::narrow_iret(u32 n, u8*& to_code) {
  Cpu& cpu = cpu_;
  if (cpu.long_mode || cpu.cpl != 0 || (cpu.rflags & (NT | TF)) || cpu.s.nmi_blocked) return false;
  const u32 sp = static_cast<u32>(cpu.gpr[rsp]);
  const u8* at = readable(*cpu.tlb.current, sp, 12);
  if (!at) return false;
  u32 frame[5];
  __builtin_memcpy(frame, at, 12);
  const u32 eip = frame[0], flags = frame[2];
  const u16 code_selector = static_cast<u16>(frame[1]);
  const u8 level = code_selector & 3;
  const bool user = level == 3;
  if ((level != 0 && !user) || (flags & (TF | NT | VM | VIF | VIP))) return false;
  if ((flags & IF) && core_.interrupt_waiting) return false;
  u64 code, stack;
  constexpr u64 kKind = kExecutable | kConforming | kReadable | kLong | kBig;
  if (!narrow_descriptor(code_selector, code) || (code >> 45 & 3) != level ||
      (code & (kPlace | kKind)) != (kWholeSpace | kExecutable | kReadable | kBig))
    return false;
  u16 stack_selector = 0;
  if (user) {
    at = readable(*cpu.tlb.current, sp, 20);
    if (!at) return false;
    __builtin_memcpy(frame, at, 20);
    stack_selector = static_cast<u16>(frame[4]);
    constexpr u64 kStackKind = kExecutable | kExpandDown | kWritable | kBig;
    if (!narrow_descriptor(stack_selector, stack) || (stack >> 45 & 3) != 3 ||
        (stack_selector & 3) != 3 ||
        (stack & (kPlace | kStackKind)) != (kWholeSpace | kWritable | kBig))
      return false;
    for (u8 k : {machine::es, machine::ds, machine::fs, machine::gs})
      if (!cpu.seg[k].unusable() && cpu.seg[k].dpl() < 3) return false;
  }
  Instance* to;
  if (!narrow_target(level, flags, to)) return false;
  if (user) {
    for (u8 k : {machine::es, machine::ds, machine::fs, machine::gs})
      if (cpu.seg[k].unusable()) cpu.seg[k].selector = 0;
    set_flat(cpu, ss, flat_segment(stack_selector, static_cast<u32>(stack >> 40) & 0xf0ff));
  }
  set_flat(cpu, cs, flat_segment(code_selector, static_cast<u32>(code >> 40) & 0xf0ff));
  cpu.gpr[rsp] = user ? frame[3] : sp + 12;
  cpu.rflags = (cpu.rflags & ~kLoaded) | (flags & kLoaded & ~u64{kArithmeticFlags}) | 2;
  cpu.saved_flags = saved_of_eflags(flags);
  to_code = narrow_enter(n, level, eip, *to);
  return true;
}

bool Jit::narrow_sysenter(u32 n, u8*& to_code) {
  Cpu& cpu = cpu_;
  const u16 selector = static_cast<u16>(cpu.s.sysenter_cs & 0xfffc);
  if (cpu.long_mode || !selector || (cpu.rflags & TF)) return false;
  Instance* to;
  if (!narrow_target(0, cpu.rflags, to)) return false;
  cpu.rflags &= ~u64{VM | IF | RF};
  set_flat(cpu, cs, flat_segment(selector, 0xc09b));
  set_flat(cpu, ss, flat_segment(static_cast<u16>(selector + 8), 0xc093));
  cpu.gpr[rsp] = static_cast<u32>(cpu.s.sysenter_esp);
  to_code = narrow_enter(n, 0, static_cast<u32>(cpu.s.sysenter_eip), *to);
  return true;
}

bool Jit::narrow_sysexit(u32 n, u8*& to_code) {
  Cpu& cpu = cpu_;
  const u16 base = static_cast<u16>(cpu.s.sysenter_cs & 0xfffc);
  if (cpu.long_mode || !base || cpu.cpl != 0 || (cpu.rflags & TF)) return false;
  Instance* to;
  if (!narrow_target(3, cpu.rflags, to)) return false;
  const u16 code = static_cast<u16>((base + 16) | 3);
  set_flat(cpu, cs, flat_segment(code, 0xc09b | 3 << 5));
  set_flat(cpu, ss, flat_segment(static_cast<u16>(code + 8), 0xc093 | 3 << 5));
  cpu.gpr[rsp] = static_cast<u32>(cpu.gpr[machine::rcx]);
  to_code = narrow_enter(n, 3, static_cast<u32>(cpu.gpr[machine::rdx]), *to);
  return true;
}

/// A selector, and the segment register shifted by 16, are in Cpu::scratch. DS and ES must stay
/// flat: the block goes on.
bool Jit::narrow_segment(u32 n, u8*& to_code) {
  Cpu& cpu = cpu_;
  const u16 selector = static_cast<u16>(cpu.scratch);
  const u8 k = static_cast<u8>(cpu.scratch >> 16);
  const Site& s = sites_[n];
  const bool plain = k == machine::fs || k == machine::gs;
  if (!(selector & 0xfffc)) {
    if (!plain) return false;
    cpu.seg[k] = null_segment(selector);
    set_reach(cpu, k, 0, 0);
  } else {
    u64 raw;
    if (!narrow_descriptor(selector, raw) || (raw & (kExecutable | kExpandDown))) return false;
    const u8 dpl = raw >> 45 & 3;
    if ((selector & 3) > dpl || cpu.cpl > dpl) return false;
    if (!plain && (!(blocks_[s.block].mode & kModeFlat) ||
                   (raw & (kPlace | kWritable)) != (kWholeSpace | kWritable)))
      return false;
    Descriptor d;
    d.raw = raw;
    cpu.seg[k] = d.segment(selector);
    const u64 end = u64{cpu.seg[k].limit} + 1;
    set_reach(cpu, k, end, raw & kWritable ? end : 0);
  }
  account(s.count);
  if (exact_) {
    ++core_.instructions;
    ++counted_;
  }
  to_code = run_at(s.retry);
  return true;
}

template <bool (Jit::*what)(u32, u8*&)>
u8* Jit::narrow_gate(Cpu* cpu, u64 n) {
  u8* to;
  if ((cpu->core->jit.get()->*what)(static_cast<u32>(n), to)) return to;
  return gate<&Jit::interpret>(cpu, n);
}
template u8* Jit::narrow_gate<&Jit::narrow_iret>(Cpu*, u64);
template u8* Jit::narrow_gate<&Jit::narrow_sysenter>(Cpu*, u64);
template u8* Jit::narrow_gate<&Jit::narrow_sysexit>(Cpu*, u64);
template u8* Jit::narrow_gate<&Jit::narrow_segment>(Cpu*, u64);

}  // namespace skerry::soft
