// PUSHF, POPF, CLI, STI, CLAC, STAC, with IOPL, VME and PVI (SDM 2; SDM 3B 20.3, 20.4).
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

u8 iopl(const Cpu& cpu) {
  return (cpu.rflags >> 12) & 3;
}

Flow pushf(Cpu& cpu, const Op& op) {
  u64 value = cpu.eflags() & ~u64{RF | VM};
  if (cpu.v86 && iopl(cpu) < 3) {
    if (!(cpu.s.cr4 & kCr4Vme) || op.opsize != 2) return cpu.raise(GP, 0);
    value = (value & ~u64{IF}) | IOPL | (cpu.rflags & VIF ? u64{IF} : 0);
  }
  return cpu.push(value, op.opsize) ? Flow::next : cpu.failed();
}

Flow popf(Cpu& cpu, const Op& op) {
  const u64 sp = cpu.gpr[rsp];
  const bool virtual_if = cpu.v86 && iopl(cpu) < 3;
  if (virtual_if && (!(cpu.s.cr4 & kCr4Vme) || op.opsize != 2)) return cpu.raise(GP, 0);
  u64 value;
  if (!cpu.pop(value, op.opsize)) return cpu.failed();
  u64 mask = kArithmeticFlags | TF | DF_ | NT;
  if (op.opsize > 2) mask |= AC_ | ID;
  u64 old = cpu.eflags();
  u64 result;
  if (virtual_if) {
    if (((value & IF) && (cpu.rflags & VIP)) || (value & TF)) {
      cpu.gpr[rsp] = sp;
      return cpu.raise(GP, 0);
    }
    result = (old & ~(mask | VIF)) | (value & mask) | (value & IF ? u64{VIF} : 0);
  } else {
    if (!cpu.protected_mode || cpu.cpl == 0) mask |= IOPL;
    if (!cpu.protected_mode || cpu.cpl <= iopl(cpu)) mask |= IF;
    result = (old & ~mask) | (value & mask);
  }
  cpu.set_eflags((result & ~u64{RF}) | 2);
  const u64 changed = old ^ result;
  if (!(changed & (TF | IF | AC_ | IOPL))) return Flow::next;
  if (changed & AC_) cpu.select_tlb();
  if (result & TF) cpu.core->update_careful();
  if (changed & result & IF) cpu.core->interrupts_enabled();
  return Flow::end;
}

Flow cli(Cpu& cpu, const Op&) {
  if (!cpu.protected_mode || cpu.cpl <= iopl(cpu)) {
    cpu.rflags &= ~u64{IF};
  } else if ((cpu.v86 && (cpu.s.cr4 & kCr4Vme)) ||
             (!cpu.v86 && cpu.cpl == 3 && (cpu.s.cr4 & kCr4Pvi))) {
    cpu.rflags &= ~u64{VIF};
  } else {
    return cpu.raise(GP, 0);
  }
  return Flow::next;
}

Flow sti(Cpu& cpu, const Op&) {
  if (!cpu.protected_mode || cpu.cpl <= iopl(cpu)) {
    if (cpu.rflags & IF) return Flow::next;
    cpu.rflags |= IF;
    cpu.s.interrupt_shadow = 1;
    cpu.core->update_careful();
    cpu.core->interrupts_enabled();
    return Flow::end;
  }
  if ((cpu.v86 && (cpu.s.cr4 & kCr4Vme)) || (!cpu.v86 && cpu.cpl == 3 && (cpu.s.cr4 & kCr4Pvi))) {
    if (cpu.rflags & VIP) return cpu.raise(GP, 0);
    cpu.rflags |= VIF;
    return Flow::next;
  }
  return cpu.raise(GP, 0);
}

template <bool kSet>
Flow access_check(Cpu& cpu, const Op&) {
  if (cpu.cpl != 0) return cpu.raise(UD);
  if (kSet)
    cpu.rflags |= AC_;
  else
    cpu.rflags &= ~u64{AC_};
  cpu.select_tlb();
  return Flow::next;
}

}  // namespace

Handler select_flags(const Insn& insn) {
  switch (insn.sem) {
    case Sem::pushf: return pushf;
    case Sem::popf: return popf;
    case Sem::cli: return cli;
    case Sem::sti: return sti;
    case Sem::stac: return access_check<true>;
    case Sem::clac: return access_check<false>;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::system
