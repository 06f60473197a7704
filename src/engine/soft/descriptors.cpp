// Segment registers and descriptor tables: MOV and POP to segment registers, LDS..., LGDT, LIDT,
// LLDT, LTR and their stores, LAR, LSL, VERR, VERW, ARPL, FS and GS bases, SWAPGS.
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

/// A load of SS holds off interrupts and debug traps for one instruction (SDM 3A 6.8.3).
Flow loaded(Cpu& cpu, u8 segment) {
  if (segment == ss) {
    cpu.s.interrupt_shadow = 2;
    cpu.core->update_careful();
    return Flow::end;
  }
  return Flow::next;
}

Flow mov_to_segment(Cpu& cpu, const Op& op) {
  u16 selector;
  if (op.dst == cs || op.dst > 5) return cpu.raise(UD);
  if (!read_selector(cpu, op, 1, selector) || !load_segment(cpu, op.dst, selector))
    return cpu.failed();
  return loaded(cpu, op.dst);
}

Flow pop_segment(Cpu& cpu, const Op& op) {
  u64 sp = cpu.gpr[rsp], value = 0;
  // Only 16 bits are read, whatever the size.
  u16 selector;
  if (!cpu.read<u16>(ss, sp & stack_mask(cpu), selector)) return cpu.failed();
  (void)value;
  if (op.dst == ss) {
    // The increment is by the old stack's size.
    u64 next = sp + op.opsize;
    u8 size = cpu.stack_size;
    if (!load_segment(cpu, ss, selector)) return cpu.failed();
    cpu.gpr[rsp] = size == 8   ? next
                   : size == 4 ? static_cast<u32>(next)
                               : (sp & ~u64{0xffff}) | (next & 0xffff);
    return loaded(cpu, ss);
  }
  if (!load_segment(cpu, op.dst, selector)) return cpu.failed();
  cpu.set_sp(sp + op.opsize);
  return Flow::next;
}

template <u8 kSegment>
Flow load_far_pointer(Cpu& cpu, const Op& op) {
  u8 bytes[10] = {};
  u8 size = op.opsize;
  if (!cpu.read_bytes(op.segment, cpu.ea(op), bytes, size + 2u)) return cpu.failed();
  u64 offset = load<u64>(bytes) & byte_mask(size);
  u16 selector = load<u16>(bytes + size);
  if (!load_segment(cpu, kSegment, selector)) return cpu.failed();
  set_gpr(cpu, op.insn->op[0].reg, offset, size);
  return kSegment == ss ? Flow::end : Flow::next;
}

bool umip(Cpu& cpu) {
  return (cpu.s.cr4 & kCr4Umip) && cpu.cpl > 0;
}

Flow store_table(Cpu& cpu, const Op& op, const machine::TableRegister& t) {
  if (umip(cpu)) return cpu.raise(GP, 0);
  u8 bytes[10];
  store<u16>(bytes, t.limit);
  store<u64>(bytes + 2, t.base);
  if (!cpu.write_bytes(op.segment, cpu.ea(op), bytes, cpu.flat ? 10 : 6)) return cpu.failed();
  return Flow::next;
}
Flow sgdt(Cpu& cpu, const Op& op) {
  return store_table(cpu, op, cpu.s.gdtr);
}
Flow sidt(Cpu& cpu, const Op& op) {
  return store_table(cpu, op, cpu.s.idtr);
}

Flow load_table(Cpu& cpu, const Op& op, machine::TableRegister& t) {
  u8 bytes[10] = {};
  if (!cpu.read_bytes(op.segment, cpu.ea(op), bytes, cpu.flat ? 10 : 6)) return cpu.failed();
  u64 base = load<u64>(bytes + 2);
  if (!cpu.flat) base &= op.opsize == 2 ? 0xff'ffff : 0xffff'ffff;
  if (!canonical(base)) return cpu.raise(GP, 0);
  t = {base, load<u16>(bytes)};
  return Flow::next;
}
Flow lgdt(Cpu& cpu, const Op& op) {
  return load_table(cpu, op, cpu.s.gdtr);
}
Flow lidt(Cpu& cpu, const Op& op) {
  return load_table(cpu, op, cpu.s.idtr);
}

Flow store_selector(Cpu& cpu, const Op& op, u16 selector) {
  if (umip(cpu)) return cpu.raise(GP, 0);
  const isa::Operand& o = op.insn->op[0];
  if (o.kind == OperandKind::memory) {
    if (!cpu.write<u16>(op.segment, cpu.ea(op), selector)) return cpu.failed();
  } else {
    set_gpr(cpu, o.reg, selector, op.opsize);
  }
  return Flow::next;
}
Flow sldt(Cpu& cpu, const Op& op) {
  return store_selector(cpu, op, cpu.s.ldtr.selector);
}
Flow str(Cpu& cpu, const Op& op) {
  return store_selector(cpu, op, cpu.s.tr.selector);
}

Flow lldt(Cpu& cpu, const Op& op) {
  u16 selector;
  if (!read_selector(cpu, op, 0, selector)) return cpu.failed();
  if (!(selector & 0xfffc)) {
    cpu.s.ldtr = null_segment(selector);
    return Flow::next;
  }
  const u32 error = selector & 0xfffcu;
  if (selector & 4) return cpu.raise(GP, error);
  Descriptor d;
  if (!need_descriptor(cpu, selector, d, GP, 0, cpu.long_mode)) return cpu.failed();
  if (d.is_code_or_data() || d.type() != 2) return cpu.raise(GP, error);
  if (!d.present()) return cpu.raise(NP, error);
  if (!canonical(d.base())) return cpu.raise(GP, error);
  cpu.s.ldtr = d.segment(selector);
  return Flow::next;
}

Flow ltr(Cpu& cpu, const Op& op) {
  u16 selector;
  if (!read_selector(cpu, op, 0, selector)) return cpu.failed();
  if (!(selector & 0xfffc)) return cpu.raise(GP, 0);
  const u32 error = selector & 0xfffcu;
  if (selector & 4) return cpu.raise(GP, error);
  Descriptor d;
  if (!need_descriptor(cpu, selector, d, GP, 0, cpu.long_mode)) return cpu.failed();
  if (d.is_code_or_data() || (d.type() != 9 && (d.type() != 1 || cpu.long_mode)))
    return cpu.raise(GP, error);
  if (!d.present()) return cpu.raise(NP, error);
  if (!canonical(d.base())) return cpu.raise(GP, error);
  Cpu::Access a;
  if (!cpu.prepare_linear(a, d.address + 5, 1, true, true)) return cpu.failed();
  if (a.piece[0].host) {
    __atomic_fetch_or(a.piece[0].host, u8{2}, __ATOMIC_SEQ_CST);
    cpu.stored(a);
  }
  cpu.s.tr = d.segment(selector);
  cpu.s.tr.attributes |= 2;
  return Flow::next;
}

void set_zf(Cpu& cpu, bool value) {
  cpu.set_eflags((cpu.eflags() & ~u64{ZF}) | (value ? u64{ZF} : 0));
}

/// Whether LAR or LSL may look at it (SDM 2A LAR, LSL: type tables and privilege). A fault in
/// `fault`.
bool visible(Cpu& cpu, u16 selector, Descriptor& d, bool limits, bool& fault) {
  fault = false;
  if (!(selector & 0xfffc)) return false;
  switch (find_descriptor(cpu, selector, d)) {
    case Found::yes: break;
    case Found::outside: return false;
    case Found::fault: fault = true; return false;
  }
  u8 rpl = selector & 3;
  if (!(d.is_code() && d.conforming()) && (cpu.cpl > d.dpl() || rpl > d.dpl())) return false;
  if (d.is_code_or_data()) return true;
  static constexpr u16 kLar = 0x1a3e, kLsl = 0x0a0e;  // legacy types
  static constexpr u16 kLarLong = 0x1a04, kLslLong = 0x0a04;
  u16 types = cpu.long_mode ? (limits ? kLslLong : kLarLong) : (limits ? kLsl : kLar);
  return (types >> d.type()) & 1;
}

Flow lar(Cpu& cpu, const Op& op) {
  u16 selector;
  if (!read_selector(cpu, op, 1, selector)) return cpu.failed();
  Descriptor d;
  bool fault;
  bool ok = visible(cpu, selector, d, false, fault);
  if (fault) return cpu.failed();
  if (ok) set_gpr(cpu, op.insn->op[0].reg, (d.raw >> 32) & 0xffff00, op.opsize);
  set_zf(cpu, ok);
  return Flow::next;
}

Flow lsl(Cpu& cpu, const Op& op) {
  u16 selector;
  if (!read_selector(cpu, op, 1, selector)) return cpu.failed();
  Descriptor d;
  bool fault;
  bool ok = visible(cpu, selector, d, true, fault);
  if (fault) return cpu.failed();
  if (ok) set_gpr(cpu, op.insn->op[0].reg, d.limit(), op.opsize);
  set_zf(cpu, ok);
  return Flow::next;
}

template <bool kWrite>
Flow verify(Cpu& cpu, const Op& op) {
  u16 selector;
  if (!read_selector(cpu, op, 0, selector)) return cpu.failed();
  bool ok = false;
  if (selector & 0xfffc) {
    Descriptor d;
    switch (find_descriptor(cpu, selector, d)) {
      case Found::fault: return cpu.failed();
      case Found::outside: break;
      case Found::yes: {
        u8 rpl = selector & 3;
        bool privileged =
            (!kWrite && d.is_code() && d.conforming()) || (cpu.cpl <= d.dpl() && rpl <= d.dpl());
        ok = d.is_code_or_data() && privileged &&
             (kWrite ? d.is_data() && d.writable() : d.readable());
      }
    }
  }
  set_zf(cpu, ok);
  return Flow::next;
}

Flow arpl(Cpu& cpu, const Op& op) {
  const u16 rpl = cpu.gpr[op.insn->op[1].reg] & 3;
  bool changed = false;
  auto adjust = [&](u16 old) -> u16 {
    changed = (old & 3) < rpl;
    return changed ? static_cast<u16>((old & ~3) | rpl) : old;
  };
  const isa::Operand& o = op.insn->op[0];
  if (o.kind == OperandKind::memory) {
    if (!cpu.modify<u16>(op.segment, cpu.ea(op), false, adjust)) return cpu.failed();
  } else {
    set_gpr(cpu, o.reg, adjust(static_cast<u16>(cpu.gpr[o.reg])), 2);
  }
  set_zf(cpu, changed);
  return Flow::next;
}

Flow swapgs(Cpu& cpu, const Op&) {
  std::swap(cpu.seg[machine::gs].base, cpu.s.kernel_gs_base);
  cpu.seg_base[machine::gs] = cpu.seg[machine::gs].base;
  return Flow::next;
}

template <u8 kSegment>
Flow read_base(Cpu& cpu, const Op& op) {
  if (!(cpu.s.cr4 & kCr4Fsgsbase)) return cpu.raise(UD);
  set_gpr(cpu, op.insn->op[0].reg, cpu.seg[kSegment].base, op.insn->op[0].size);
  return Flow::next;
}
template <u8 kSegment>
Flow write_base(Cpu& cpu, const Op& op) {
  if (!(cpu.s.cr4 & kCr4Fsgsbase)) return cpu.raise(UD);
  const isa::Operand& o = op.insn->op[0];
  u64 value = cpu.gpr[o.reg] & byte_mask(o.size);
  if (!canonical(value)) return cpu.raise(GP, 0);
  cpu.seg[kSegment].base = cpu.seg_base[kSegment] = value;
  return Flow::next;
}

}  // namespace

Handler select_descriptors(const Insn& insn) {
  switch (insn.sem) {
    case Sem::mov: return insn.op[0].kind == OperandKind::segment ? mov_to_segment : nullptr;
    case Sem::pop: return insn.op[0].kind == OperandKind::segment ? pop_segment : nullptr;
    case Sem::les: return load_far_pointer<machine::es>;
    case Sem::lds: return load_far_pointer<machine::ds>;
    case Sem::lss: return load_far_pointer<machine::ss>;
    case Sem::lfs: return load_far_pointer<machine::fs>;
    case Sem::lgs: return load_far_pointer<machine::gs>;
    case Sem::sgdt: return sgdt;
    case Sem::sidt: return sidt;
    case Sem::lgdt: return cpl0<lgdt>;
    case Sem::lidt: return cpl0<lidt>;
    case Sem::sldt: return sldt;
    case Sem::str: return str;
    case Sem::lldt: return cpl0<lldt>;
    case Sem::ltr: return cpl0<ltr>;
    case Sem::lar: return lar;
    case Sem::lsl: return lsl;
    case Sem::verr: return verify<false>;
    case Sem::verw: return verify<true>;
    case Sem::arpl: return arpl;
    case Sem::swapgs: return cpl0<swapgs>;
    case Sem::rdfsbase: return read_base<machine::fs>;
    case Sem::rdgsbase: return read_base<machine::gs>;
    case Sem::wrfsbase: return write_base<machine::fs>;
    case Sem::wrgsbase: return write_base<machine::gs>;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::system
