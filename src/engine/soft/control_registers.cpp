// MOV CR, MOV DR, CLTS, LMSW, SMSW, and what invalidates translations (SDM 3A 2.5, 4.10.4; SDM
// 3B 18.2).
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

Flow write_cr0(Cpu& cpu, u64 value) {
  machine::CpuState& s = cpu.s;
  if (value >> 32) return cpu.raise(GP, 0);
  if ((value & kCr0Pg) && !(value & kCr0Pe)) return cpu.raise(GP, 0);
  if ((value & kCr0Nw) && !(value & kCr0Cd)) return cpu.raise(GP, 0);
  value = (value & 0xe005'002f) | kCr0Et;
  const bool was_paging = s.cr0 & kCr0Pg, paging = value & kCr0Pg;
  if (paging && !was_paging) {
    if (s.efer & kEferLme) {
      if (!(s.cr4 & kCr4Pae) || cpu.seg[cs].is_long()) return cpu.raise(GP, 0);
    } else if ((s.cr4 & kCr4Pae) && !cpu.core->load_pdptrs(s.cr3)) {
      return cpu.raise(GP, 0);
    }
  }
  if (!paging && was_paging && ((s.cr4 & kCr4Pcide) || cpu.flat)) return cpu.raise(GP, 0);
  const u64 changed = s.cr0 ^ value;
  trace(Trace::cpu, "cpu{} CR0 {:#x} -> {:#x} at {:#x}", cpu.core->index, s.cr0, value, cpu.rip);
  s.cr0 = value;
  if (paging && (s.efer & kEferLme))
    s.efer |= kEferLma;
  else
    s.efer &= ~kEferLma;
  if (changed & (kCr0Pg | kCr0Wp | kCr0Pe)) cpu.tlb.flush_all();
  cpu.update_mode();
  return Flow::end;
}

Flow write_cr3(Cpu& cpu, u64 value) {
  machine::CpuState& s = cpu.s;
  if (cpu.long_mode) {
    const bool keep = (s.cr4 & kCr4Pcide) && (value >> 63);
    if (s.cr4 & kCr4Pcide) value &= ~(u64{1} << 63);
    if (value & ~cpu.core->shared.physical_mask) return cpu.raise(GP, 0);
    if (s.cr4 & kCr4Pcide) {
      s.cr3 = value;
      cpu.tlb.switch_space(value & 0xfff, !keep);
      cpu.select_tlb();
      return Flow::end;
    }
  } else {
    value = static_cast<u32>(value);
    if ((s.cr0 & kCr0Pg) && (s.cr4 & kCr4Pae) && !cpu.core->load_pdptrs(value))
      return cpu.raise(GP, 0);
  }
  s.cr3 = value;
  cpu.tlb.flush_nonglobal();
  return Flow::end;
}

Flow write_cr4(Cpu& cpu, u64 value) {
  machine::CpuState& s = cpu.s;
  using isa::CpuidReg;
  u64 allowed = kCr4Tsd | kCr4De | kCr4Pse | kCr4Pae | kCr4Mce | kCr4Pge | kCr4Pce | kCr4Vme |
                kCr4Pvi | kCr4Osfxsr | kCr4Osxmmexcpt;
  auto has = [&](u32 leaf, CpuidReg reg, unsigned bit) {
    return guest_has(cpu, leaf, 0, reg, bit);
  };
  if (has(1, CpuidReg::ecx, 17)) allowed |= kCr4Pcide;
  if (has(1, CpuidReg::ecx, 26)) allowed |= kCr4Osxsave;
  if (has(7, CpuidReg::ebx, 0)) allowed |= kCr4Fsgsbase;
  if (has(7, CpuidReg::ebx, 7)) allowed |= kCr4Smep;
  if (has(7, CpuidReg::ebx, 20)) allowed |= kCr4Smap;
  if (has(7, CpuidReg::ecx, 2)) allowed |= kCr4Umip;
  if (value & ~allowed) return cpu.raise(GP, 0);
  const u64 changed = s.cr4 ^ value;
  if (cpu.long_mode && !(value & kCr4Pae)) return cpu.raise(GP, 0);
  if ((changed & value & kCr4Pcide) && (!cpu.long_mode || (s.cr3 & 0xfff))) return cpu.raise(GP, 0);
  if ((s.cr0 & kCr0Pg) && (value & kCr4Pae) && !cpu.long_mode &&
      (changed & (kCr4Pae | kCr4Pge | kCr4Pse | kCr4Smep)) && !cpu.core->load_pdptrs(s.cr3))
    return cpu.raise(GP, 0);
  s.cr4 = value;
  if (changed & kCr4Pcide)
    cpu.tlb.reset(s.cr3 & 0xfff & (value & kCr4Pcide ? ~u64{0} : 0));
  else if (changed & (kCr4Pge | kCr4Pae | kCr4Pse | kCr4Smep | kCr4Smap))
    cpu.tlb.flush_all();
  cpu.update_mode();
  return Flow::end;
}

Flow mov_from_cr(Cpu& cpu, const Op& op) {
  u64 value;
  switch (op.src) {
    case 0: value = cpu.s.cr0; break;
    case 2: value = cpu.s.cr2; break;
    case 3: value = cpu.s.cr3; break;
    case 4: value = cpu.s.cr4; break;
    case 8: value = cpu.core->lapic ? cpu.core->lapic->cr8() : cpu.s.cr8; break;
    default: return cpu.raise(UD);
  }
  if (cpu.cpl != 0) return cpu.raise(GP, 0);
  set_gpr(cpu, op.insn->op[0].reg, value, cpu.flat ? 8 : 4);
  return Flow::next;
}

Flow mov_to_cr(Cpu& cpu, const Op& op) {
  u64 value = cpu.gpr[op.insn->op[1].reg];
  if (!cpu.flat) value = static_cast<u32>(value);
  const u8 number = op.dst;
  if (number != 0 && number != 2 && number != 3 && number != 4 && number != 8) return cpu.raise(UD);
  if (cpu.cpl != 0) return cpu.raise(GP, 0);
  switch (number) {
    case 0: return write_cr0(cpu, value);
    case 2: cpu.s.cr2 = value; return Flow::next;
    case 3: return write_cr3(cpu, value);
    case 4: return write_cr4(cpu, value);
    default:
      if (value > 15) return cpu.raise(GP, 0);
      cpu.s.cr8 = value;
      if (cpu.core->lapic) cpu.core->lapic->set_cr8(value);
      cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);
      return Flow::end;
  }
}

/// Common to both directions: DR4 and DR5, privilege, DR7.GD. False: fault recorded.
bool debug_register(Cpu& cpu, u8& number) {
  if (number == 4 || number == 5) {
    if (cpu.s.cr4 & kCr4De) {
      cpu.raise(UD);
      return false;
    }
    number += 2;
  }
  if (number > 7) {
    cpu.raise(UD);
    return false;
  }
  if (cpu.cpl != 0) {
    cpu.raise(GP, 0);
    return false;
  }
  if (cpu.s.dr7 & (1 << 13)) {
    cpu.s.dr6 |= 1 << 13;  // BD
    cpu.raise(DB);
    return false;
  }
  return true;
}

Flow mov_from_dr(Cpu& cpu, const Op& op) {
  u8 number = op.src;
  if (!debug_register(cpu, number)) return Flow::fault;
  u64 value = number < 4 ? cpu.s.dr[number] : number == 6 ? cpu.s.dr6 : cpu.s.dr7;
  set_gpr(cpu, op.insn->op[0].reg, value, cpu.flat ? 8 : 4);
  return Flow::next;
}

Flow mov_to_dr(Cpu& cpu, const Op& op) {
  u8 number = op.dst;
  if (!debug_register(cpu, number)) return Flow::fault;
  u64 value = cpu.gpr[op.insn->op[1].reg];
  if (!cpu.flat) value = static_cast<u32>(value);
  if (number < 4) {
    cpu.s.dr[number] = value;
  } else {
    if (value >> 32) return cpu.raise(GP, 0);
    if (number == 6)
      cpu.s.dr6 = (value & 0xe00f) | 0xffff'0ff0;
    else
      cpu.s.dr7 = (value & 0xffff'23ff) | 0x400;
  }
  cpu.tlb.flush_all();  // pages with data breakpoints have no entries
  cpu.core->update_careful();
  return Flow::end;
}

Flow clts(Cpu& cpu, const Op&) {
  cpu.s.cr0 &= ~kCr0Ts;
  return Flow::end;
}

Flow smsw(Cpu& cpu, const Op& op) {
  if ((cpu.s.cr4 & kCr4Umip) && cpu.cpl > 0) return cpu.raise(GP, 0);
  const isa::Operand& o = op.insn->op[0];
  if (o.kind == OperandKind::memory) {
    if (!cpu.write<u16>(op.segment, cpu.ea(op), static_cast<u16>(cpu.s.cr0))) return cpu.failed();
  } else {
    set_gpr(cpu, o.reg, cpu.s.cr0, op.opsize);
  }
  return Flow::next;
}

Flow lmsw(Cpu& cpu, const Op& op) {
  u16 value;
  if (!read_selector(cpu, op, 0, value)) return cpu.failed();
  u64 keep = (cpu.s.cr0 & kCr0Pe) | (value & 15);  // PE can be set, not cleared
  return write_cr0(cpu, (cpu.s.cr0 & ~u64{15}) | keep);
}

Flow invlpg(Cpu& cpu, const Op& op) {
  u64 linear = cpu.seg_base[op.segment] + cpu.ea(op);
  if (!cpu.flat) linear = static_cast<u32>(linear);
  cpu.tlb.flush_page(linear);
  return Flow::end;
}

Flow invpcid(Cpu& cpu, const Op& op) {
  u64 descriptor[2];
  if (!cpu.read_bytes(op.segment, cpu.ea(op), descriptor, 16)) return cpu.failed();
  u64 type = cpu.gpr[op.insn->op[0].reg];
  if (!cpu.flat) type = static_cast<u32>(type);
  if (type > 3) return cpu.raise(GP, 0);
  if (type < 2) {
    if (descriptor[0] >> 12) return cpu.raise(GP, 0);
    if (!(cpu.s.cr4 & kCr4Pcide) && (descriptor[0] & 0xfff)) return cpu.raise(GP, 0);
  }
  if (type == 0) {
    if (!canonical(descriptor[1])) return cpu.raise(GP, 0);
    const u32 space = cpu.tlb.space_of(descriptor[0] & 0xfff);
    if (!(cpu.s.cr4 & kCr4Pcide) || space == cpu.tlb.space)
      cpu.tlb.flush_page(descriptor[1]);
    else if (space != Tlbs::kSpaces)
      cpu.tlb.flush_space(space);  // more than asked for
  } else if (type == 1) {
    const u32 space = cpu.s.cr4 & kCr4Pcide ? cpu.tlb.space_of(descriptor[0] & 0xfff) : 0;
    if (space != Tlbs::kSpaces) cpu.tlb.flush_space(space);
  } else if (type == 2) {
    cpu.tlb.flush_all();
  } else {
    cpu.tlb.flush_every_space();
  }
  return Flow::end;
}

}  // namespace

Handler select_control_registers(const Insn& insn) {
  switch (insn.sem) {
    case Sem::mov:
      if (insn.op[1].kind == OperandKind::control) return mov_from_cr;
      if (insn.op[0].kind == OperandKind::control) return mov_to_cr;
      if (insn.op[1].kind == OperandKind::debug) return mov_from_dr;
      if (insn.op[0].kind == OperandKind::debug) return mov_to_dr;
      return nullptr;
    case Sem::clts: return cpl0<clts>;
    case Sem::smsw: return smsw;
    case Sem::lmsw: return cpl0<lmsw>;
    case Sem::invlpg: return cpl0<invlpg>;
    case Sem::invpcid: return cpl0<invpcid>;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::system
