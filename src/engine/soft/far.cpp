// Far transfers (SDM 2A CALL, JMP, RET, IRET; SDM 3A 5.8): between segments, through call gates, to
// inner and outer privilege levels, to and from virtual-8086 mode.
//
// Stack contents are read without moving the stack pointer, and everything is checked before the
// first register changes.
#include "engine/soft/core.hpp"
#include "engine/soft/segments.hpp"

namespace skerry::soft {

using machine::cs;
using machine::rsp;
using machine::ss;

namespace {

// Reads `size` bytes at rSP + `at`, zero-extended.
bool peek(Cpu& cpu, u64 at, u8 size, u64& value) {
  u64 sp = (cpu.gpr[rsp] + at) & stack_mask(cpu);
  value = 0;
  if (size == 8) return cpu.read<u64>(ss, sp, value);
  if (size == 4) {
    u32 v;
    if (!cpu.read<u32>(ss, sp, v)) return false;
    value = v;
    return true;
  }
  u16 v;
  if (!cpu.read<u16>(ss, sp, v)) return false;
  value = v;
  return true;
}

bool target_ok(Cpu& cpu, const Descriptor& code, u64 offset) {
  bool wide = cpu.long_mode && code.is_long();
  if (wide ? canonical(offset) : offset <= code.limit()) return true;
  cpu.raise(GP, 0);
  return false;
}

void enter_code(Cpu& cpu, const Descriptor& code, u16 selector, u64 offset) {
  cpu.seg[cs] = code.segment(static_cast<u16>((selector & ~3) | cpu.cpl));
  cpu.rip = offset;
  cpu.update_mode();
}

Flow far_real(Cpu& cpu, Transfer how, u16 selector, u64 offset, u8 size) {
  if (offset > cpu.seg[cs].limit) return cpu.raise(GP, 0);
  if (how == Transfer::call) {
    u64 sp = cpu.gpr[rsp];
    if (!cpu.push(cpu.seg[cs].selector, size) || !cpu.push(cpu.gpr[17] & cpu.rip_mask, size)) {
      cpu.gpr[rsp] = sp;
      return cpu.failed();
    }
  }
  load_real_segment(cpu, cs, selector);
  cpu.rip = offset;
  return Flow::far_branch;
}

// The stack of an inner level while a call gate's frame is built on it.
Flow call_inner(Cpu& cpu, const Descriptor& gate, Descriptor& code, u16 code_selector, u64 offset,
                u8 size) {
  const u8 level = code.dpl();
  u16 stack_selector;
  u64 sp;
  if (!inner_stack(cpu, level, 0, stack_selector, sp, 0)) return cpu.failed();
  Descriptor stack;
  if (!cpu.long_mode &&
      (!check_stack(cpu, stack_selector, level, stack, TS, 0) || !mark_accessed(cpu, stack)))
    return cpu.failed();
  if (!target_ok(cpu, code, offset)) return Flow::fault;

  u64 parameters[32];
  unsigned count = cpu.long_mode ? 0 : (gate.raw >> 32) & 31;
  for (unsigned i = 0; i < count; ++i)
    if (!peek(cpu, u64{i} * size, size, parameters[i])) return cpu.failed();

  const Segment old_stack = cpu.seg[ss], old_code = cpu.seg[cs];
  const u64 old_sp = cpu.gpr[rsp], return_rip = cpu.gpr[17] & cpu.rip_mask;
  const u8 old_cpl = cpu.cpl;
  cpu.cpl = level;
  if (cpu.long_mode) {
    cpu.seg[ss] = null_segment(level);
    cpu.seg[ss].attributes |= static_cast<u32>(level) << 5;
    cpu.seg[cs] = code.segment(code_selector);  // 64-bit pushes
  } else {
    cpu.seg[ss] = stack.segment(stack_selector);
  }
  cpu.update_mode();
  cpu.set_sp(sp);
  bool ok = cpu.push(old_stack.selector, size) && cpu.push(old_sp, size);
  for (unsigned i = count; ok && i-- > 0;) ok = cpu.push(parameters[i], size);
  ok = ok && cpu.push(old_code.selector, size) && cpu.push(return_rip, size) &&
       mark_accessed(cpu, code);
  if (!ok) {
    if (cpu.fault.vector == SS && !cpu.pending_exit) cpu.fault.error = stack_selector & 0xfffc;
    cpu.seg[ss] = old_stack;
    cpu.seg[cs] = old_code;
    cpu.gpr[rsp] = old_sp;
    cpu.cpl = old_cpl;
    cpu.update_mode();
    return cpu.failed();
  }
  enter_code(cpu, code, code_selector, offset);
  return Flow::far_branch;
}

Flow through_gate(Cpu& cpu, Transfer how, u16 selector, const Descriptor& gate) {
  const u32 error = selector & 0xfffcu;
  if (gate.dpl() < cpu.cpl || (selector & 3) > gate.dpl()) return cpu.raise(GP, error);
  if (!gate.present()) return cpu.raise(NP, error);
  const u16 target = gate.gate_selector();
  if (!(target & 0xfffc)) return cpu.raise(GP, 0);
  Descriptor code;
  if (!need_descriptor(cpu, target, code, GP)) return cpu.failed();
  const u32 code_error = target & 0xfffcu;
  if (!code.is_code() || code.dpl() > cpu.cpl) return cpu.raise(GP, code_error);
  if (cpu.long_mode && (!code.is_long() || code.is_big())) return cpu.raise(GP, code_error);
  if (how == Transfer::jump && !code.conforming() && code.dpl() != cpu.cpl)
    return cpu.raise(GP, code_error);
  if (!code.present()) return cpu.raise(NP, code_error);
  const u8 size = cpu.long_mode ? 8 : gate.type() & 8 ? 4 : 2;
  const u64 offset = size == 2   ? gate.gate_offset() & 0xffff
                     : size == 4 ? gate.gate_offset() & 0xffff'ffff
                                 : gate.gate_offset();
  if (how == Transfer::call && !code.conforming() && code.dpl() < cpu.cpl)
    return call_inner(cpu, gate, code, target, offset, size);
  if (!target_ok(cpu, code, offset)) return Flow::fault;
  u64 sp = cpu.gpr[rsp];
  if (how == Transfer::call &&
      (!cpu.push(cpu.seg[cs].selector, size) || !cpu.push(cpu.gpr[17] & cpu.rip_mask, size))) {
    cpu.gpr[rsp] = sp;
    return cpu.failed();
  }
  if (!mark_accessed(cpu, code)) {
    cpu.gpr[rsp] = sp;
    return cpu.failed();
  }
  enter_code(cpu, code, target, offset);
  return Flow::far_branch;
}

Flow to_task(Cpu& cpu, Transfer how, u16 tss) {
  TaskReason reason = how == Transfer::jump ? TaskReason::jump : TaskReason::call;
  if (!switch_task(cpu, tss, reason, cpu.gpr[17] & cpu.rip_mask, 0)) return cpu.failed();
  return Flow::far_branch;
}

}  // namespace

Flow far_transfer(Cpu& cpu, Transfer how, u16 selector, u64 offset, u8 size) {
  if (!cpu.protected_mode || cpu.v86) return far_real(cpu, how, selector, offset, size);
  if (!(selector & 0xfffc)) return cpu.raise(GP, 0);
  const u32 error = selector & 0xfffcu;
  Descriptor d;
  if (!need_descriptor(cpu, selector, d, GP)) return cpu.failed();
  if (d.is_code_or_data()) {
    if (!d.is_code()) return cpu.raise(GP, error);
    if (cpu.long_mode && d.is_long() && d.is_big()) return cpu.raise(GP, error);
    u8 rpl = selector & 3;
    if (d.conforming() ? d.dpl() > cpu.cpl : (rpl > cpu.cpl || d.dpl() != cpu.cpl))
      return cpu.raise(GP, error);
    if (!d.present()) return cpu.raise(NP, error);
    if (!target_ok(cpu, d, offset)) return Flow::fault;
    u64 sp = cpu.gpr[rsp];
    if (how == Transfer::call &&
        (!cpu.push(cpu.seg[cs].selector, size) || !cpu.push(cpu.gpr[17] & cpu.rip_mask, size))) {
      cpu.gpr[rsp] = sp;
      return cpu.failed();
    }
    if (!mark_accessed(cpu, d)) {
      cpu.gpr[rsp] = sp;
      return cpu.failed();
    }
    enter_code(cpu, d, selector, offset);
    return Flow::far_branch;
  }
  const u8 type = d.type();
  if (cpu.long_mode) {
    if (type != 12) return cpu.raise(GP, error);
    if (!need_descriptor(cpu, selector, d, GP, 0, true)) return cpu.failed();
    if (d.high >> 40 & 0x1f) return cpu.raise(GP, error);  // the upper half's type must be 0
    return through_gate(cpu, how, selector, d);
  }
  switch (type) {
    case 4:
    case 12: return through_gate(cpu, how, selector, d);
    case 5: {
      if (d.dpl() < cpu.cpl || (selector & 3) > d.dpl()) return cpu.raise(GP, error);
      if (!d.present()) return cpu.raise(NP, error);
      return to_task(cpu, how, d.gate_selector());
    }
    case 1:
    case 9:
      if (d.dpl() < cpu.cpl || (selector & 3) > d.dpl()) return cpu.raise(GP, error);
      return to_task(cpu, how, selector);
    default: return cpu.raise(GP, error);
  }
}

namespace {

/// After a return to an outer level: data segments that it may not use become null (SDM 2B RET).
void drop_inner_segments(Cpu& cpu) {
  for (u8 n : {machine::es, machine::ds, machine::fs, machine::gs}) {
    Segment& d = cpu.seg[n];
    if (d.unusable()) {
      d.selector = 0;
      continue;
    }
    bool conforming = (d.attributes & 0x1c) == 0x1c;
    if (!conforming && d.dpl() < cpu.cpl) cpu.seg[n] = null_segment(0);
  }
}

/// The part that RET and IRET share. `frame`: bytes popped before SS:rSP, including what is
/// released. `always_stack`: SS:rSP are popped without a change of level, too. `flags`: applied
/// once all is checked.
Flow return_to(Cpu& cpu, u64 offset, u16 selector, u8 size, u64 frame, u16 release,
               bool always_stack, auto apply) {
  if (!(selector & 0xfffc)) return cpu.raise(GP, 0);
  const u32 error = selector & 0xfffcu;
  const u8 rpl = selector & 3;
  Descriptor code;
  if (!need_descriptor(cpu, selector, code, GP)) return cpu.failed();
  if (!code.is_code() || rpl < cpu.cpl ||
      (code.conforming() ? code.dpl() > rpl : code.dpl() != rpl))
    return cpu.raise(GP, error);
  const bool wide = cpu.long_mode && code.is_long();
  if (wide && code.is_big()) return cpu.raise(GP, error);
  if (!code.present()) return cpu.raise(NP, error);
  const bool outer = rpl > cpu.cpl;
  if (!outer && !always_stack) {
    if (!target_ok(cpu, code, offset) || !mark_accessed(cpu, code)) return cpu.failed();
    cpu.set_sp(cpu.gpr[rsp] + frame);
    apply();
    enter_code(cpu, code, selector, offset);
    return Flow::far_branch;
  }
  u64 sp, stack_selector;
  if (!peek(cpu, frame, size, sp) || !peek(cpu, frame + size, size, stack_selector))
    return cpu.failed();
  const u16 new_ss = static_cast<u16>(stack_selector);
  Segment stack;
  if (!(new_ss & 0xfffc)) {
    if (!wide || rpl == 3 || (new_ss & 3) != rpl) return cpu.raise(GP, 0);
    stack = null_segment(new_ss);
    stack.attributes |= static_cast<u32>(rpl) << 5;
  } else {
    Descriptor d;
    if (!check_stack(cpu, new_ss, rpl, d, GP, 0) || !mark_accessed(cpu, d)) return cpu.failed();
    stack = d.segment(new_ss);
  }
  if (!target_ok(cpu, code, offset) || !mark_accessed(cpu, code)) return cpu.failed();
  apply();
  cpu.cpl = rpl;
  cpu.seg[ss] = stack;
  // Without REX the upper bits of rSP are kept by a 16-bit stack; a 64-bit target takes what was
  // popped.
  cpu.seg[cs] = code.segment(selector);
  cpu.update_mode();
  cpu.set_sp(sp + release);
  if (outer) drop_inner_segments(cpu);
  cpu.rip = offset;
  cpu.update_mode();
  return Flow::far_branch;
}

constexpr u64 kIretFlags = CF | PF_ | AF | ZF | SF | TF | DF_ | OF_ | NT;

/// What IRET writes, by operand size and the privilege it runs with (SDM 2A IRET).
void apply_flags(Cpu& cpu, u64 value, u8 size, u8 cpl, u8 iopl) {
  u64 mask = kIretFlags;
  if (size > 2) mask |= RF | AC_ | ID;
  if (cpl <= iopl) mask |= IF;
  if (cpl == 0) {
    mask |= IOPL;
    if (size > 2) mask |= VIF | VIP;
  }
  cpu.set_eflags((cpu.eflags() & ~mask) | (value & mask) | 2);
}

Flow return_to_v86(Cpu& cpu, u64 ip, u16 code, u64 flags) {
  u64 values[6];  // ESP, SS, ES, DS, FS, GS
  for (unsigned i = 0; i < 6; ++i)
    if (!peek(cpu, 12 + 4 * i, 4, values[i])) return cpu.failed();
  if (ip > 0xffff) return cpu.raise(GP, 0);
  cpu.set_eflags((flags & (kIretFlags | RF | AC_ | ID | IF | IOPL | VIF | VIP | VM)) | 2);
  cpu.update_mode();  // in virtual-8086 mode now
  load_real_segment(cpu, cs, code);
  load_real_segment(cpu, ss, static_cast<u16>(values[1]));
  load_real_segment(cpu, machine::es, static_cast<u16>(values[2]));
  load_real_segment(cpu, machine::ds, static_cast<u16>(values[3]));
  load_real_segment(cpu, machine::fs, static_cast<u16>(values[4]));
  load_real_segment(cpu, machine::gs, static_cast<u16>(values[5]));
  cpu.gpr[rsp] = values[0];
  cpu.rip = ip;
  cpu.update_mode();
  return Flow::far_branch;
}

void unblock_nmi(Cpu& cpu) {
  cpu.s.nmi_blocked = false;
  if (cpu.core->nmi_line.load(std::memory_order_relaxed))
    cpu.attention.fetch_or(kNmi, std::memory_order_relaxed);
}

}  // namespace

Flow far_return(Cpu& cpu, u8 size, u16 release) {
  u64 offset, selector;
  if (!peek(cpu, 0, size, offset) || !peek(cpu, size, size, selector)) return cpu.failed();
  if (!cpu.protected_mode || cpu.v86) {
    if (offset > cpu.seg[cs].limit) return cpu.raise(GP, 0);
    cpu.set_sp(cpu.gpr[rsp] + 2u * size + release);
    load_real_segment(cpu, cs, static_cast<u16>(selector));
    cpu.rip = offset;
    return Flow::far_branch;
  }
  return return_to(cpu, offset, static_cast<u16>(selector), size, 2u * size + release, release,
                   false, [] {});
}

Flow interrupt_return(Cpu& cpu, u8 size) {
  const u8 iopl = (cpu.rflags >> 12) & 3;
  if (cpu.protected_mode && !cpu.v86 && (cpu.rflags & NT)) {
    if (cpu.long_mode) return cpu.raise(GP, 0);
    u16 link;
    if (!cpu.system_read(cpu.s.tr.base, link)) return cpu.failed();
    unblock_nmi(cpu);
    if (!switch_task(cpu, link, TaskReason::iret, cpu.gpr[17] & cpu.rip_mask, 0))
      return cpu.failed();
    return Flow::far_branch;
  }
  u64 offset, selector, flags;
  if (!peek(cpu, 0, size, offset) || !peek(cpu, size, size, selector) ||
      !peek(cpu, 2u * size, size, flags))
    return cpu.failed();
  if (!cpu.protected_mode || cpu.v86) {
    const bool vme = cpu.v86 && iopl < 3 && (cpu.s.cr4 & 1);
    if (cpu.v86 && iopl < 3) {
      // SDM 3B 20.3: with VME a 16-bit IRET works on VIF.
      if (!vme || size != 2 || ((flags & IF) && (cpu.rflags & VIP)) || (flags & TF))
        return cpu.raise(GP, 0);
    }
    if (offset > cpu.seg[cs].limit) return cpu.raise(GP, 0);
    cpu.set_sp(cpu.gpr[rsp] + 3u * size);
    u64 mask = kIretFlags | (size > 2 ? RF | AC_ | ID : 0);
    if (!vme) mask |= IF;
    if (!cpu.v86) mask |= IOPL;
    u64 value = (cpu.eflags() & ~mask) | (flags & mask) | 2;
    if (vme) value = (value & ~u64{VIF}) | (flags & IF ? u64{VIF} : 0);
    cpu.set_eflags(value);
    load_real_segment(cpu, cs, static_cast<u16>(selector));
    cpu.rip = offset;
    cpu.update_mode();
    unblock_nmi(cpu);
    cpu.core->interrupts_enabled();
    return Flow::far_branch;
  }
  if (!cpu.long_mode && (flags & VM) && cpu.cpl == 0 && size == 4) {
    Flow f = return_to_v86(cpu, offset, static_cast<u16>(selector), flags);
    if (f == Flow::far_branch) {
      unblock_nmi(cpu);
      cpu.core->interrupts_enabled();
    }
    return f;
  }
  const u8 cpl = cpu.cpl;
  Flow f = return_to(cpu, offset, static_cast<u16>(selector), size, 3u * size, 0, cpu.flat,
                     [&] { apply_flags(cpu, flags, size, cpl, iopl); });
  if (f == Flow::far_branch) {
    unblock_nmi(cpu);
    cpu.core->interrupts_enabled();
  }
  return f;
}

}  // namespace skerry::soft
