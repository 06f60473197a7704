// Task switches (SDM 3A chapter 7): 16-bit and 32-bit TSS, by JMP, CALL, IRET, task gates. Not in
// long mode.
//
// Faults before the switch belong to the old task; faults while the new task's segments are loaded
// are raised in the new one (SDM 3A 7.3 table 7-1).
#include "engine/soft/core.hpp"
#include "engine/soft/segments.hpp"

namespace skerry::soft {

using machine::cs;
using machine::ss;

namespace {

struct Tss32 {
  u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], seg[6], ldt;
  u16 trap, io_map;
};
static_assert(sizeof(Tss32) == 104);
struct Tss16 {
  u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, gpr[8], seg[4], ldt;
};
static_assert(sizeof(Tss16) == 44);

/// Copies with supervisor rights; false: fault recorded.
bool copy(Cpu& cpu, u64 linear, void* to, u32 size, bool write) {
  Cpu::Access a;
  if (!cpu.prepare_linear(a, linear, size, write, true)) return false;
  return write ? cpu.store_to(a, to) : cpu.load_from(a, to);
}

bool set_busy(Cpu& cpu, u64 descriptor, bool busy) {
  Cpu::Access a;
  if (!cpu.prepare_linear(a, descriptor + 5, 1, true, true)) return false;
  if (!a.piece[0].host) return true;
  if (busy)
    __atomic_fetch_or(a.piece[0].host, u8{2}, __ATOMIC_SEQ_CST);
  else
    __atomic_fetch_and(a.piece[0].host, static_cast<u8>(~2), __ATOMIC_SEQ_CST);
  cpu.stored(a);
  return true;
}

struct Next {
  u64 cr3 = 0, rip = 0, eflags = 0;
  u64 gpr[8] = {};
  u16 seg[6] = {};
  u16 ldt = 0;
  bool trap = false, wide = false;
};

/// Segments of the new task, in the new task (faults: #TS with the selector; SDM 3A 7.3).
bool load_context(Cpu& cpu, const Next& next, u32 ext) {
  if (next.ldt & 0xfffc) {
    Descriptor d;
    if ((next.ldt & 4) || find_descriptor(cpu, next.ldt, d) != Found::yes || d.is_code_or_data() ||
        d.type() != 2 || !d.present()) {
      cpu.raise(TS, (next.ldt & 0xfffcu) | ext);
      return false;
    }
    cpu.s.ldtr = d.segment(next.ldt);
  }
  if (cpu.v86) return true;  // loaded with the registers
  const u16 code_selector = next.seg[cs];
  Descriptor code;
  if (!(code_selector & 0xfffc)) {
    cpu.raise(TS, ext);
    return false;
  }
  if (!need_descriptor(cpu, code_selector, code, TS, ext)) return false;
  u8 rpl = code_selector & 3;
  const u32 code_error = (code_selector & 0xfffcu) | ext;
  if (!code.is_code() || (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl)) {
    cpu.raise(TS, code_error);
    return false;
  }
  if (!code.present()) {
    cpu.raise(NP, code_error);
    return false;
  }
  cpu.cpl = rpl;
  Descriptor stack;
  if (!check_stack(cpu, next.seg[ss], rpl, stack, TS, ext)) return false;
  if (!mark_accessed(cpu, stack)) return false;
  cpu.seg[ss] = stack.segment(next.seg[ss]);
  if (!mark_accessed(cpu, code)) return false;
  cpu.seg[cs] = code.segment(code_selector);
  cpu.update_mode();
  for (u8 n : {machine::es, machine::ds, machine::fs, machine::gs}) {
    u16 selector = next.seg[n];
    if (!(selector & 0xfffc)) continue;
    Descriptor d;
    if (!need_descriptor(cpu, selector, d, TS, ext)) return false;
    const u32 error = (selector & 0xfffcu) | ext;
    bool conforming = d.is_code() && d.conforming();
    if (!d.is_code_or_data() || !d.readable() ||
        (!conforming && ((selector & 3) > d.dpl() || cpu.cpl > d.dpl()))) {
      cpu.raise(TS, error);
      return false;
    }
    if (!d.present()) {
      cpu.raise(NP, error);
      return false;
    }
    if (!mark_accessed(cpu, d)) return false;
    set_segment(cpu, n, d.segment(selector));
  }
  if (cpu.rip > cpu.seg[cs].limit) {
    cpu.raise(GP, ext);
    return false;
  }
  return true;
}

}  // namespace

bool switch_task(Cpu& cpu, u16 selector, TaskReason reason, u64 return_rip, u32 ext) {
  const u32 error = (selector & 0xfffcu) | ext;
  const u8 bad = reason == TaskReason::iret ? TS : GP;
  Descriptor d;
  if (!(selector & 0xfffc) || (selector & 4)) {
    cpu.raise(bad, error);
    return false;
  }
  if (!need_descriptor(cpu, selector, d, bad, ext)) return false;
  const bool busy = reason == TaskReason::iret;
  const u8 type = d.type();
  if (d.is_code_or_data() || (type & 5) != 1 || ((type & 2) != 0) != busy) {
    cpu.raise(bad, error);
    return false;
  }
  if (!d.present()) {
    cpu.raise(NP, error);
    return false;
  }
  const bool wide = type & 8;
  if (d.limit() < (wide ? 103u : 43u)) {
    cpu.raise(TS, error);
    return false;
  }
  const Segment old_tr = cpu.s.tr;
  const bool old_wide = old_tr.type() & 8;
  if (old_tr.unusable() || old_tr.limit < (old_wide ? 103u : 43u)) {
    cpu.raise(TS, (old_tr.selector & 0xfffcu) | ext);
    return false;
  }

  // Read the new task's state.
  Next next;
  next.wide = wide;
  if (wide) {
    Tss32 t;
    if (!copy(cpu, d.base(), &t, sizeof t, false)) return false;
    next.cr3 = t.cr3, next.rip = t.eip, next.eflags = t.eflags, next.ldt = static_cast<u16>(t.ldt);
    for (unsigned i = 0; i < 8; ++i) next.gpr[i] = t.gpr[i];
    for (unsigned i = 0; i < 6; ++i) next.seg[i] = static_cast<u16>(t.seg[i]);
    next.trap = t.trap & 1;
  } else {
    Tss16 t;
    if (!copy(cpu, d.base(), &t, sizeof t, false)) return false;
    next.rip = t.ip, next.eflags = t.flags, next.ldt = t.ldt;
    for (unsigned i = 0; i < 8; ++i) next.gpr[i] = 0xffff0000 | t.gpr[i];
    for (unsigned i = 0; i < 4; ++i) next.seg[i] = t.seg[i];
  }

  // Save the old one: only the dynamic fields.
  u64 flags = cpu.eflags();
  if (reason == TaskReason::iret) flags &= ~u64{NT};
  bool saved;
  if (old_wide) {
    struct {
      u32 eip, eflags, gpr[8], seg[6];
    } t{};
    t.eip = static_cast<u32>(return_rip);
    t.eflags = static_cast<u32>(flags);
    for (unsigned i = 0; i < 8; ++i) t.gpr[i] = static_cast<u32>(cpu.gpr[i]);
    for (unsigned i = 0; i < 6; ++i) t.seg[i] = cpu.seg[i].selector;
    saved = copy(cpu, old_tr.base + 32, &t, sizeof t, true);
  } else {
    struct {
      u16 ip, flags, gpr[8], seg[4];
    } t{};
    t.ip = static_cast<u16>(return_rip);
    t.flags = static_cast<u16>(flags);
    for (unsigned i = 0; i < 8; ++i) t.gpr[i] = static_cast<u16>(cpu.gpr[i]);
    for (unsigned i = 0; i < 4; ++i) t.seg[i] = cpu.seg[i].selector;
    saved = copy(cpu, old_tr.base + 14, &t, sizeof t, true);
  }
  if (!saved) return false;

  // Busy bits and the back link.
  if (reason == TaskReason::jump || reason == TaskReason::iret) {
    if (!set_busy(cpu, cpu.s.gdtr.base + (old_tr.selector & 0xfff8u), false)) return false;
  }
  if (reason == TaskReason::call || reason == TaskReason::interrupt) {
    if (!cpu.system_write<u16>(d.base(), old_tr.selector)) return false;
    next.eflags |= NT;
  }
  if (reason != TaskReason::iret && !set_busy(cpu, d.address, true)) return false;

  // The switch. From here on faults are the new task's.
  cpu.s.tr = d.segment(selector);
  cpu.s.tr.attributes |= 2;
  cpu.s.cr0 |= 8;  // TS
  if (wide && (cpu.s.cr0 & (u64{1} << 31)) && next.cr3 != cpu.s.cr3) {
    if (cpu.s.cr4 & 0x20) cpu.core->load_pdptrs(next.cr3);
    cpu.s.cr3 = next.cr3;
    cpu.tlb.flush_nonglobal();
  }
  for (unsigned i = 0; i < 8; ++i) cpu.gpr[i] = next.gpr[i];
  cpu.rip = next.rip;
  u64 keep = wide ? u64{0x3f7fd5} : u64{0x7fd5};
  cpu.set_eflags((next.eflags & keep) | 2);
  cpu.s.dr7 &= ~u64{0x155};  // local breakpoints
  cpu.s.ldtr = null_segment(next.ldt);
  for (unsigned i = 0; i < 6; ++i) {
    cpu.seg[i] = null_segment(next.seg[i]);
    if (!cpu.protected_mode) cpu.seg[i] = {};
  }
  cpu.cpl = next.seg[cs] & 3;
  cpu.update_mode();
  if (cpu.v86)
    for (u8 n = 0; n < 6; ++n) load_real_segment(cpu, n, next.seg[n]);
  cpu.core->interrupts_enabled();
  trace(Trace::cpu, "cpu{} task {:#x} at {:x}:{:#x}", cpu.core->index, selector, next.seg[cs],
        cpu.rip);
  if (!load_context(cpu, next, ext)) return false;
  if (next.trap) {
    cpu.core->trap_bits |= u64{1} << 15;  // BT
    cpu.core->update_careful();
  }
  return true;
}

}  // namespace skerry::soft
