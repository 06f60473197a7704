// Delivery of exceptions and interrupts (SDM 3A chapter 6; the INT n pseudo-code of SDM 2A): real
// mode, protected mode with interrupt, trap and task gates, virtual-8086 mode, long mode with IST.
//
// Nothing of the interrupted context changes before the last possible fault of a delivery, except
// memory of the new stack. Not done: the virtual interrupt redirection of CR4.VME is in int_in_v86
// (system).
#include "engine/soft/core.hpp"
#include "engine/soft/segments.hpp"

namespace skerry::soft {

using machine::cs;
using machine::rsp;
using machine::ss;

namespace {

bool contributory(u8 vector) {
  return vector == DE || (vector >= TS && vector <= GP);
}

bool software(Cpu::Core::Kind kind) {
  using Kind = Cpu::Core::Kind;
  return kind == Kind::software || kind == Kind::int3 || kind == Kind::into;
}

/// What a failed delivery puts back.
struct Saved {
  explicit Saved(Cpu& c) : cpu(c), sp(c.gpr[rsp]), stack(c.seg[ss]), rflags(c.rflags), cpl(c.cpl) {}
  void restore() {
    cpu.gpr[rsp] = sp;
    cpu.seg[ss] = stack;
    cpu.rflags = rflags;
    cpu.cpl = cpl;
    cpu.update_mode();
  }
  Cpu& cpu;
  u64 sp;
  Segment stack;
  u64 rflags;
  u8 cpl;
};

}  // namespace

bool Cpu::Core::deliver_fault() {
  Fault f = cpu.fault;
  if (f.vector == PF) cpu.s.cr2 = f.address;
  if (f.vector != DB) cpu.s.interrupt_shadow = 0;
  trace(Trace::cpu, "cpu{} exception {} error {:#x} at {:x}:{:#x} cr2 {:#x} rsp {:#x}", index,
        f.vector, f.error, cpu.seg[cs].selector, cpu.rip, cpu.s.cr2, cpu.gpr[rsp]);
  return deliver(f.vector, Kind::fault, f.has_error, f.error, cpu.rip);
}

bool Cpu::Core::deliver(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip) {
  bool outer = delivering;
  delivering = true;
  if (!software(kind) && kind != Kind::int1) ++deliveries;
  cpu.s.interrupt_shadow = 0;
  bool done = false;
  // Benign faults while delivering benign ones need not end (an #AC handler at CPL 3 on a
  // misaligned stack): after a few the guest's instruction is tried again, so that the vCPU can be
  // stopped.
  for (unsigned nested = 0;; ++nested) {
    if (nested == 8) {
      done = true;
      break;
    }
    if (deliver_once(vector, kind, has_error, error, return_rip)) {
      done = true;
      break;
    }
    Fault f = cpu.fault;
    if (f.vector == PF) cpu.s.cr2 = f.address;
    if (vector == DF && kind == Kind::fault) break;  // triple fault
    bool exception = kind == Kind::fault;
    bool second = contributory(f.vector);
    if (exception &&
        ((contributory(vector) && second) || (vector == PF && (second || f.vector == PF)))) {
      vector = DF;
      has_error = true;
      error = 0;
    } else {
      vector = f.vector;
      has_error = f.has_error;
      error = f.error;
    }
    kind = Kind::fault;
    return_rip = cpu.rip;  // INT n itself; after a task switch, the new task
    trace(Trace::cpu, "cpu{} exception {} error {:#x} while delivering", index, vector, error);
  }
  delivering = outer;
  cpu.pending_exit = false;
  if (!done)
    trace(Trace::cpu, "cpu{} triple fault at {:x}:{:#x}", index, cpu.seg[cs].selector, cpu.rip);
  return done;
}

bool Cpu::Core::deliver_once(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip) {
  // Debug exceptions clear DR7.GD (SDM 3B 18.2.4).
  if (vector == DB && kind != Kind::software) cpu.s.dr7 &= ~u64{1 << 13};
  if (!cpu.protected_mode) return deliver_real(vector, return_rip);
  if (cpu.long_mode) return deliver_long(vector, kind, has_error, error, return_rip);
  return deliver_protected(vector, kind, has_error, error, return_rip);
}

bool Cpu::Core::deliver_real(u8 vector, u64 return_rip) {
  u32 at = vector * 4u;
  if (at + 3 > cpu.s.idtr.limit) {
    cpu.raise(GP, 0);
    return false;
  }
  u32 entry;
  if (!cpu.system_read(cpu.s.idtr.base + at, entry)) return false;
  u64 sp = cpu.gpr[rsp];
  if (!cpu.push(cpu.eflags(), 2) || !cpu.push(cpu.seg[cs].selector, 2) ||
      !cpu.push(return_rip, 2)) {
    cpu.gpr[rsp] = sp;
    return false;
  }
  cpu.rflags &= ~u64{IF | TF | AC_ | RF};
  load_real_segment(cpu, cs, static_cast<u16>(entry >> 16));
  cpu.rip = entry & 0xffff;
  return true;
}

bool Cpu::Core::deliver_protected(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip) {
  const u32 ext = software(kind) ? 0 : 1;
  const u32 idt_error = vector * 8u + 2 + ext;
  if (vector * 8u + 7 > cpu.s.idtr.limit) {
    cpu.raise(GP, idt_error);
    return false;
  }
  Descriptor gate;
  if (!cpu.system_read(cpu.s.idtr.base + vector * 8u, gate.raw)) return false;
  u8 type = gate.type();
  if (gate.is_code_or_data() || (type != 5 && type != 6 && type != 7 && type != 14 && type != 15) ||
      (software(kind) && gate.dpl() < cpu.cpl)) {
    cpu.raise(GP, idt_error);
    return false;
  }
  if (!gate.present()) {
    cpu.raise(NP, idt_error);
    return false;
  }
  const bool set_rf = kind == Kind::fault && vector != DF;
  if (type == 5) {
    // The flags saved in the outgoing TSS: faults have RF set (SDM 3B 18.3.1.1).
    u64 flags = cpu.rflags;
    if (set_rf) cpu.rflags |= RF;
    if (!switch_task(cpu, gate.gate_selector(), TaskReason::interrupt, return_rip, ext)) {
      if (!cpu.v86 || (flags & VM)) cpu.rflags = (cpu.rflags & ~u64{RF}) | (flags & RF);
      return false;
    }
    if (has_error) {
      u8 size = cpu.s.tr.type() & 8 ? 4 : 2;
      if (!cpu.push(error, size)) return false;  // a fault in the new task
    }
    if (!cpu.flat && cpu.rip > cpu.seg[cs].limit) {
      cpu.raise(GP, ext);
      return false;
    }
    return true;
  }

  const u16 selector = gate.gate_selector();
  if (!(selector & 0xfffc)) {
    cpu.raise(GP, ext);
    return false;
  }
  Descriptor code;
  if (!need_descriptor(cpu, selector, code, GP, ext)) return false;
  const u32 code_error = (selector & 0xfffcu) | ext;
  if (!code.is_code() || code.dpl() > cpu.cpl) {
    cpu.raise(GP, code_error);
    return false;
  }
  if (!code.present()) {
    cpu.raise(NP, code_error);
    return false;
  }
  const bool inner = !code.conforming() && code.dpl() < cpu.cpl;
  if (cpu.v86 && (!inner || code.dpl() != 0)) {
    cpu.raise(GP, code_error);
    return false;
  }
  const u8 size = type & 8 ? 4 : 2;
  u64 flags = cpu.eflags() & ~u64{RF};
  if (set_rf || (cpu.rflags & RF)) flags |= RF;

  Saved saved(cpu);
  const bool from_v86 = cpu.v86;
  std::array<u16, 4> data{};
  for (unsigned i = 0; i < 4; ++i)
    data[i] = cpu.seg[(std::array<u8, 4>{machine::gs, machine::fs, machine::ds, machine::es})[i]]
                  .selector;
  const u16 old_cs = cpu.seg[cs].selector, old_ss = cpu.seg[ss].selector;
  const u64 old_sp = cpu.gpr[rsp];
  u8 new_cpl = cpu.cpl;
  bool ok = true;
  if (inner) {
    u16 stack_selector;
    u64 sp;
    Descriptor stack;
    if (!inner_stack(cpu, code.dpl(), 0, stack_selector, sp, ext) ||
        !check_stack(cpu, stack_selector, code.dpl(), stack, TS, ext) || !mark_accessed(cpu, stack))
      return false;
    new_cpl = code.dpl();
    cpu.rflags &= ~u64{VM};
    cpu.cpl = new_cpl;
    cpu.seg[ss] = stack.segment(stack_selector);
    cpu.update_mode();
    cpu.set_sp(sp);
    if (from_v86)
      for (u16 d : data) ok = ok && cpu.push(d, size);
    ok = ok && cpu.push(old_ss, size) && cpu.push(old_sp, size);
    if (!ok && cpu.fault.vector == SS) cpu.fault.error = (stack_selector & 0xfffcu);
  }
  ok = ok && cpu.push(flags, size) && cpu.push(old_cs, size) && cpu.push(return_rip, size) &&
       (!has_error || cpu.push(error, size));
  u64 offset = size == 4 ? gate.gate_offset() & 0xffff'ffff : gate.gate_offset() & 0xffff;
  if (ok && offset > code.limit()) {
    cpu.raise(GP, ext);
    ok = false;
  }
  if (ok) ok = mark_accessed(cpu, code);
  if (!ok) {
    if (cpu.fault.vector == SS || cpu.fault.vector == GP) cpu.fault.error |= ext;
    saved.restore();
    return false;
  }
  if (from_v86)
    for (u8 n : {machine::gs, machine::fs, machine::ds, machine::es}) cpu.seg[n] = null_segment(0);
  cpu.seg[cs] = code.segment(static_cast<u16>((selector & ~3) | new_cpl));
  cpu.rip = offset;
  cpu.rflags &= ~u64{TF | NT | RF | VM};
  if (!(type & 1)) cpu.rflags &= ~u64{IF};
  cpu.update_mode();
  return true;
}

bool Cpu::Core::deliver_long(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip) {
  const u32 ext = software(kind) ? 0 : 1;
  const u32 idt_error = vector * 8u + 2 + ext;
  if (vector * 16u + 15 > cpu.s.idtr.limit) {
    cpu.raise(GP, idt_error);
    return false;
  }
  Descriptor gate;
  const u64 gate_at = cpu.s.idtr.base + vector * 16u;
  if (!cpu.system_read(gate_at, gate.raw) || !cpu.system_read(gate_at + 8, gate.high)) return false;
  const u8 type = gate.type();
  if (gate.is_code_or_data() || (type != 14 && type != 15) ||
      (software(kind) && gate.dpl() < cpu.cpl)) {
    cpu.raise(GP, idt_error);
    return false;
  }
  if (!gate.present()) {
    cpu.raise(NP, idt_error);
    return false;
  }
  const u16 selector = gate.gate_selector();
  if (!(selector & 0xfffc)) {
    cpu.raise(GP, ext);
    return false;
  }
  Descriptor code;
  if (!need_descriptor(cpu, selector, code, GP, ext)) return false;
  const u32 code_error = (selector & 0xfffcu) | ext;
  if (!code.is_code() || code.dpl() > cpu.cpl || !code.is_long() || code.is_big()) {
    cpu.raise(GP, code_error);
    return false;
  }
  if (!code.present()) {
    cpu.raise(NP, code_error);
    return false;
  }
  const bool inner = !code.conforming() && code.dpl() < cpu.cpl;
  const u8 new_cpl = inner ? code.dpl() : cpu.cpl;
  const u8 ist = (gate.raw >> 32) & 7;
  u64 sp = cpu.gpr[rsp];
  if (!cpu.flat) sp = cpu.stack_size == 4 ? static_cast<u32>(sp) : sp & 0xffff;
  u16 new_ss = 0;
  if ((ist || inner) && !inner_stack(cpu, new_cpl, ist, new_ss, sp, ext)) return false;
  if (!canonical(gate.gate_offset())) {
    cpu.raise(GP, ext);
    return false;
  }
  sp &= ~u64{15};

  u64 flags = cpu.eflags() & ~u64{RF};
  if ((kind == Kind::fault && vector != DF) || (cpu.rflags & RF)) flags |= RF;
  u64 frame[6] = {error, return_rip,   cpu.seg[cs].selector,
                  flags, cpu.gpr[rsp], cpu.seg[ss].selector};
  const u64* first = has_error ? frame : frame + 1;
  const u32 size = has_error ? 48 : 40;
  sp -= size;
  if (!canonical(sp) || !canonical(sp + size - 1)) {
    cpu.raise(SS, ext);
    return false;
  }
  // Stored as the new privilege level in 64-bit mode.
  const u8 old_cpl = cpu.cpl;
  const bool old_flat = cpu.flat;
  cpu.flat = true;
  cpu.set_cpl(new_cpl);
  Access a;
  bool ok = cpu.prepare_linear(a, sp, size, true, false) && cpu.store_to(a, first);
  ok = ok && mark_accessed(cpu, code);
  if (!ok) {
    cpu.flat = old_flat;
    cpu.set_cpl(old_cpl);
    return false;
  }
  cpu.gpr[rsp] = sp;
  if (inner) {
    cpu.seg[ss] = null_segment(new_ss);
    cpu.seg[ss].attributes |= static_cast<u32>(new_cpl) << 5;
  }
  cpu.seg[cs] = code.segment(static_cast<u16>((selector & ~3) | new_cpl));
  cpu.rip = gate.gate_offset();
  cpu.rflags &= ~u64{TF | NT | RF | VM};
  if (!(type & 1)) cpu.rflags &= ~u64{IF};
  cpu.update_mode();
  return true;
}

}  // namespace skerry::soft
