// IRET of translated code in the everyday case: 64-bit code at CPL 0 returns to 64-bit code at CPL
// 0 or 3, the frame and the descriptors are where the TLB leads, and nothing waits for the flags
// that it loads. Everything else is the interpreter's, before anything has changed. As refill.cpp
// this is compiled to use general registers only: the guest's vector registers stay where they are.
#include "engine/soft/jit.hpp"
#include "engine/soft/room.hpp"
#include "engine/soft/segments.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using machine::cs;
using machine::rsp;
using machine::ss;

namespace {

/// `size` bytes at a linear address that the instance lets be read, or null.
const u8* readable(const Instance& i, u64 linear, u32 size) {
  const TlbEntry& e = i.entry[Instance::index(linear)];
  return linear - e.read <= 4096 - size ? reinterpret_cast<const u8*>(linear + e.bias) : nullptr;
}

constexpr u64 kPresent = u64{1} << 47, kCodeOrData = u64{1} << 44, kExecutable = u64{1} << 43,
              kConforming = u64{1} << 42, kWritable = u64{1} << 41, kAccessed = u64{1} << 40,
              kLong = u64{1} << 53, kBig = u64{1} << 54, kDpl = u64{3} << 45;
constexpr u64 kLoaded =
    CF | PF_ | AF | ZF | SF | OF_ | TF | DF_ | NT | RF | AC_ | ID | IF | IOPL | VIF | VIP;

}  // namespace

/// False: the interpreter's. Else `to` is where it goes on, null to leave.
bool Jit::fast_iret(u32 n, u8*& to_code) {
  Cpu& cpu = cpu_;
  const Site& s = sites_[n];
  if (cpu.cpl != 0 || !cpu.flat || (cpu.rflags & (NT | TF)) || cpu.s.nmi_blocked) return false;
  if (!cpu.attention.go_.load(std::memory_order_relaxed)) return false;
  const u64* frame = reinterpret_cast<const u64*>(readable(*cpu.tlb.current, cpu.gpr[rsp], 40));
  if (!frame) return false;
  const u64 rip = frame[0], flags = frame[2], sp = frame[3];
  const u16 code_selector = static_cast<u16>(frame[1]), stack_selector = static_cast<u16>(frame[4]);
  const u8 level = code_selector & 3;
  const bool user = level == 3;
  if (!canonical(rip) || (level != 0 && !user)) return false;
  if (flags & (TF | NT | VIF | VIP | (user ? u64{AC_} : 0))) return false;
  if ((flags & IF) && core_.interrupt_waiting) return false;

  const bool smap = cpu.s.cr4 & (1 << 21);
  const u32 space = cpu.tlb.space * Tlbs::kKinds;
  const Instance& system =
      *cpu.tlb.instance[space + (smap ? Tlbs::supervisor : Tlbs::supervisor_ac)];
  auto descriptor = [&](u16 selector, u64 mask, u64 wanted, Descriptor& d) {
    if (!(selector & 0xfff8) || (selector & 4) || (selector | 7u) > cpu.s.gdtr.limit) return false;
    const u8* at = readable(system, cpu.s.gdtr.base + (selector & 0xfff8u), 8);
    if (!at) return false;
    d.raw = load<u64>(at);
    mask |= kPresent | kCodeOrData | kAccessed | kDpl;
    return (d.raw & mask) == (wanted | kPresent | kCodeOrData | kAccessed | u64{level} << 45);
  };
  if (!system.ready) return false;
  Descriptor code, stack;
  if (!descriptor(code_selector, kExecutable | kConforming | kLong | kBig, kExecutable | kLong,
                  code))
    return false;
  Segment new_ss;
  if (stack_selector & 0xfffc) {
    if ((stack_selector & 3) != level ||
        !descriptor(stack_selector, kExecutable | kWritable, kWritable, stack))
      return false;
    new_ss = stack.segment(stack_selector);
  } else {
    if (level != 0 || stack_selector) return false;
    new_ss = null_segment(0);
  }
  if (user)  // segments that the outer level may not keep
    for (u8 k : {machine::es, machine::ds, machine::fs, machine::gs})
      if (!cpu.seg[k].unusable() && cpu.seg[k].dpl() < 3) return false;
  Instance& to = *cpu.tlb.instance[space + (user                     ? Tlbs::user
                                            : smap && !(flags & AC_) ? Tlbs::supervisor
                                                                     : Tlbs::supervisor_ac)];
  if (!to.ready) return false;

  // Nothing can fail from here on.
  account(s.count);
  if (exact_) {
    ++core_.instructions;
    ++counted_;
  }
  const u32 mode =
      (blocks_[s.block].mode & ~u32{kModeUser | kModeUnmerged}) | (user ? u32{kModeUser} : 0);
  if (user)
    for (u8 k : {machine::es, machine::ds, machine::fs, machine::gs})
      if (cpu.seg[k].unusable()) cpu.seg[k].selector = 0;
  cpu.seg[cs] = code.segment(code_selector);
  cpu.seg[ss] = new_ss;
  cpu.cpl = level;
  cpu.gpr[rsp] = sp;
  cpu.rip = rip;
  cpu.rflags = (cpu.rflags & ~kLoaded) | (flags & kLoaded & ~u64{kArithmeticFlags}) | 2;
  cpu.saved_flags = saved_of_eflags(flags);
  cpu.tlb.context = cpu.tlb.current = &to;
  if (const Instance::SecondJump* known = to.known_jump(rip, rip);
      known && to.mode == mode && !exact_) {
    cpu.code_page = rip & ~u64{0xfff};
    cpu.jit_base = base_of(to);
    to_code = run_at(known->code);
    return true;
  }
  leave_vectors();
  to_code = enter_vectors(resume());
  return true;
}

u8* Jit::gate_iret(Cpu* cpu, u64 n) {
  Jit& jit = *cpu->core->jit;
  u8* to;
  if (!cpu->flat) return narrow_gate<&Jit::narrow_iret>(cpu, n);
  if (jit.fast_iret(static_cast<u32>(n), to)) return to;
  return gate<&Jit::interpret>(cpu, n);
}

}  // namespace skerry::soft
