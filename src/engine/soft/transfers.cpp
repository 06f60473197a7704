// Handlers of far control transfers, software interrupts and fast system calls. The work is in
// far.cpp and exceptions.cpp.
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

/// Selector and offset of a far pointer operand, immediate or in memory.
bool far_pointer(Cpu& cpu, const Op& op, u16& selector, u64& offset) {
  if (op.insn->op[0].kind != OperandKind::memory) {
    selector = static_cast<u16>(op.insn->imm2);
    offset = op.insn->imm & byte_mask(op.opsize);
    return true;
  }
  u8 bytes[10] = {};
  if (!cpu.read_bytes(op.segment, cpu.ea(op), bytes, op.opsize + 2u)) return false;
  offset = load<u64>(bytes) & byte_mask(op.opsize);
  selector = load<u16>(bytes + op.opsize);
  return true;
}

template <Transfer kHow>
Flow far_jump(Cpu& cpu, const Op& op) {
  u16 selector;
  u64 offset;
  if (!far_pointer(cpu, op, selector, offset)) return cpu.failed();
  return far_transfer(cpu, kHow, selector, offset, op.opsize);
}

Flow ret_far(Cpu& cpu, const Op& op) {
  bool releases = op.insn->op[0].kind == OperandKind::immediate;
  return far_return(cpu, op.opsize, releases ? static_cast<u16>(op.imm) : 0);
}

Flow iret(Cpu& cpu, const Op& op) {
  return interrupt_return(cpu, op.opsize);
}

Flow trap_to(Cpu& cpu, u8 vector, Cpu::Core::Kind kind) {
  if (!cpu.core->deliver(vector, kind, false, 0, cpu.gpr[17] & cpu.rip_mask))
    cpu.core->shutdown = true;
  return Flow::far_branch;
}

// SDM 3B 20.3: in virtual-8086 mode with CR4.VME the TSS's redirection bitmap sends INT n to the
// 8086 program's own handlers.
Flow int_in_v86(Cpu& cpu, u8 vector) {
  const u8 iopl = (cpu.rflags >> 12) & 3;
  bool redirect = false;
  if (cpu.s.cr4 & kCr4Vme) {
    u16 map;
    if (cpu.s.tr.limit < 103) return cpu.raise(GP, 0);
    if (!cpu.system_read(cpu.s.tr.base + 102, map)) return cpu.failed();
    u64 at = u64{map} - 32 + vector / 8;
    u8 byte;
    if (map < 32 || at > cpu.s.tr.limit) return cpu.raise(GP, 0);
    if (!cpu.system_read(cpu.s.tr.base + at, byte)) return cpu.failed();
    redirect = !((byte >> (vector % 8)) & 1);
  }
  if (!redirect) {
    if (iopl < 3) return cpu.raise(GP, 0);
    return trap_to(cpu, vector, Cpu::Core::Kind::software);
  }
  u32 entry;
  if (!cpu.system_read(vector * 4u, entry)) return cpu.failed();
  u64 flags = cpu.eflags() & 0xffff;
  if (iopl < 3) flags = (flags & ~u64{IF}) | IOPL | (cpu.rflags & VIF ? u64{IF} : 0);
  const u64 sp = cpu.gpr[rsp];
  if (!cpu.push(flags, 2) || !cpu.push(cpu.seg[cs].selector, 2) || !cpu.push(cpu.gpr[17], 2)) {
    cpu.gpr[rsp] = sp;
    return cpu.failed();
  }
  cpu.rflags &= ~(u64{TF} | NT | (iopl < 3 ? VIF : IF));
  load_real_segment(cpu, cs, static_cast<u16>(entry >> 16));
  cpu.rip = entry & 0xffff;
  cpu.update_mode();
  return Flow::far_branch;
}

Flow int_n(Cpu& cpu, const Op& op) {
  u8 vector = static_cast<u8>(op.imm);
  if (cpu.v86) return int_in_v86(cpu, vector);
  return trap_to(cpu, vector, Cpu::Core::Kind::software);
}
Flow int3(Cpu& cpu, const Op&) {
  return trap_to(cpu, BP, Cpu::Core::Kind::int3);
}
Flow int1(Cpu& cpu, const Op&) {
  return trap_to(cpu, DB, Cpu::Core::Kind::int1);
}
Flow into(Cpu& cpu, const Op&) {
  if (!(cpu.eflags() & OF_)) return Flow::next;
  return trap_to(cpu, OF, Cpu::Core::Kind::into);
}

// Flat segments as SYSCALL and SYSENTER load them (SDM 2B).
Segment flat_code(u16 selector, u8 dpl, bool wide) {
  return {selector, 0, 0xffff'ffff, (wide ? 0xa09bu : 0xc09bu) | static_cast<u32>(dpl) << 5};
}
Segment flat_stack(u16 selector, u8 dpl) {
  return {selector, 0, 0xffff'ffff, 0xc093u | static_cast<u32>(dpl) << 5};
}

Flow enter(Cpu& cpu, const Segment& code, const Segment& stack, u8 cpl, u64 rip) {
  cpu.seg[cs] = code;
  cpu.seg[ss] = stack;
  cpu.cpl = cpl;
  cpu.rip = rip;
  cpu.update_mode();
  return Flow::far_branch;
}

Flow syscall(Cpu& cpu, const Op&) {
  machine::CpuState& s = cpu.s;
  if (!(s.efer & kEferSce) || !cpu.flat) return cpu.raise(UD);
  cpu.gpr[rcx] = cpu.gpr[17];
  u64 flags = cpu.eflags();
  cpu.gpr[machine::r11] = flags & ~u64{RF};
  cpu.set_eflags((flags & ~(s.sfmask | RF)) | 2);
  const u16 selector = static_cast<u16>((s.star >> 32) & 0xfffc);
  return enter(cpu, flat_code(selector, 0, true), flat_stack(static_cast<u16>(selector + 8), 0), 0,
               s.lstar);
}

Flow sysret(Cpu& cpu, const Op& op) {
  machine::CpuState& s = cpu.s;
  if (!(s.efer & kEferSce) || !cpu.flat) return cpu.raise(UD);
  if (cpu.cpl != 0) return cpu.raise(GP, 0);
  const bool wide = op.opsize == 8;
  u64 rip = cpu.gpr[rcx];
  if (wide && !canonical(rip)) return cpu.raise(GP, 0);
  if (!wide) rip = static_cast<u32>(rip);
  cpu.set_eflags((cpu.gpr[machine::r11] & 0x3c7fd7) | 2);
  const u16 base = static_cast<u16>(s.star >> 48);
  const u16 code = static_cast<u16>((wide ? base + 16 : base) | 3);
  enter(cpu, flat_code(code, 3, wide), flat_stack(static_cast<u16>((base + 8) | 3), 3), 3, rip);
  cpu.core->interrupts_enabled();
  return Flow::far_branch;
}

Flow sysenter(Cpu& cpu, const Op&) {
  machine::CpuState& s = cpu.s;
  const u16 selector = static_cast<u16>(s.sysenter_cs & 0xfffc);
  if (!selector) return cpu.raise(GP, 0);
  cpu.rflags &= ~u64{VM | IF | RF};
  const bool wide = cpu.long_mode;
  cpu.gpr[rsp] = wide ? s.sysenter_esp : static_cast<u32>(s.sysenter_esp);
  return enter(cpu, flat_code(selector, 0, wide), flat_stack(static_cast<u16>(selector + 8), 0), 0,
               wide ? s.sysenter_eip : static_cast<u32>(s.sysenter_eip));
}

Flow sysexit(Cpu& cpu, const Op& op) {
  const u16 base = static_cast<u16>(cpu.s.sysenter_cs & 0xfffc);
  if (!base || cpu.cpl != 0) return cpu.raise(GP, 0);
  const bool wide = op.opsize == 8;
  u64 rip = cpu.gpr[rdx], sp = cpu.gpr[rcx];
  if (wide) {
    if (!canonical(rip) || !canonical(sp)) return cpu.raise(GP, 0);
  } else {
    rip = static_cast<u32>(rip);
    sp = static_cast<u32>(sp);
  }
  cpu.gpr[rsp] = sp;
  const u16 code = static_cast<u16>((base + (wide ? 32 : 16)) | 3);
  return enter(cpu, flat_code(code, 3, wide), flat_stack(static_cast<u16>(code + 8), 3), 3, rip);
}

}  // namespace

Handler select_far(const Insn& insn) {
  switch (insn.sem) {
    case Sem::jmp_far: return far_jump<Transfer::jump>;
    case Sem::call_far: return far_jump<Transfer::call>;
    case Sem::ret_far: return ret_far;
    case Sem::iret: return iret;
    case Sem::int_: return int_n;
    case Sem::int3: return int3;
    case Sem::int1: return int1;
    case Sem::into: return into;
    case Sem::syscall: return syscall;
    case Sem::sysret: return sysret;
    case Sem::sysenter: return sysenter;
    case Sem::sysexit: return sysexit;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::system
