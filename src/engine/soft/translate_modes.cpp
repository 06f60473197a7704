// Translator: code that is not 64-bit ("narrow" here): 32-bit protected and compatibility mode,
// and 16-bit code in segments with a base of their own.
//
// Registers are where they always are (kHome); R8 to R15 do not exist. Offsets wrap at 4 GiB or 64
// KiB, which a LEA of 32 bits and MOVZX do. Data segments come in two kinds. If DS, ES and SS are
// *flat* (base 0, limit 4 GiB, writable; kModeFlat), an offset is a linear address. Otherwise, and
// always for FS, GS and CS, the limit is compared and the base added: whatever does not pass is the
// interpreter's, which raises what is due. Instructions that only exist outside 64-bit mode are the
// interpreter's, too, but for the short INC and DEC.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Sem;

namespace {

constexpr u8 kRsp = 4, kRbp = 5;
constexpr i32 kTarget = at::kDelta + 32;  ///< as in translate_control.cpp

constexpr i32 end_at(u8 segment, bool write) {
  return at::kSimpleEnd + static_cast<i32>(16 * segment + (write ? 8 : 0));
}
constexpr i32 selector_at(u8 segment) {
  return at::kSeg + static_cast<i32>(segment * sizeof(Segment));
}
constexpr i32 base_at(u8 segment) {
  return selector_at(segment) + static_cast<i32>(offsetof(Segment, base));
}
constexpr i32 limit_at(u8 segment) {
  return selector_at(segment) + static_cast<i32>(offsetof(Segment, limit));
}

/// Bits of VEX and EVEX prefixes and immediates that 32-bit code has to no effect mean something in
/// 64-bit code: W with general registers, B, the top bit of a register number in an immediate.
bool same_in_64_bits(const Insn& insn, std::span<const u8> bytes) {
  Insn other;
  if (isa::decode(bytes, {64, true}, other) != isa::DecodeStatus::ok) return false;
  if (other.row != insn.row || other.length != insn.length || other.opsize != insn.opsize)
    return false;
  for (unsigned i = 0; i < 6; ++i) {
    const Operand &a = insn.op[i], &b = other.op[i];
    if (a.kind != b.kind || a.size != b.size || (a.kind != OperandKind::memory && a.reg != b.reg))
      return false;
  }
  return true;
}

}  // namespace

isa::DecodeMode Translator::decode_mode(u32 mode) {
  const u8 bits = mode & kModeCode32 ? 32 : mode & kModeCode16 ? 16 : 64;
  return {bits, !(mode & kModeReal)};
}

Translator::Kind Translator::classify_narrow(const Insn& insn, std::span<const u8> bytes) const {
  if (system_inline(insn)) return Kind::system;
  switch (insn.sem) {
    case Sem::nop:
    case Sem::endbr32:
    case Sem::endbr64: return Kind::skip;
    case Sem::jmp: return near_narrow(insn) ? Kind::jump : Kind::interpret;
    case Sem::jcc: return near_narrow(insn) ? Kind::jcc : Kind::interpret;
    case Sem::call: return near_narrow(insn) ? Kind::call : Kind::interpret;
    case Sem::ret: return near_narrow(insn) ? Kind::ret : Kind::interpret;
    case Sem::loop:
    case Sem::jcxz:
      // It counts before anybody knows whether its target is good.
      return near_narrow(insn) &&
                     (!segmented() || in_window(at_ + insn.length + static_cast<i64>(insn.imm)))
                 ? Kind::loop
                 : Kind::interpret;
    case Sem::push: return Kind::push;
    case Sem::pop:
      return insn.op[0].kind == OperandKind::gpr && (insn.op[0].reg != kRsp || insn.opsize == 4)
                 ? Kind::pop
                 : Kind::interpret;
    case Sem::leave:
      return insn.opsize == 4 || (mode_ & kModeCode16) ? Kind::leave : Kind::interpret;
    case Sem::lea: return Kind::lea;
    case Sem::vzeroall:
    case Sem::vzeroupper: return Kind::interpret;  // of registers 0 to 7 alone
    default: break;
  }
  const isa::Row& row = isa::row_of(insn);
  if (row.mask & isa::kKey64 && !(row.value & isa::kKey64)) {
    const bool alias = insn.encoding == Insn::Encoding::legacy && insn.map == 0 &&
                       (insn.opcode >> 4 == 4 || insn.opcode == 0x82);
    if (!alias) return Kind::interpret;
  }
  if (!copyable(insn)) return Kind::interpret;
  if (insn.encoding != Insn::Encoding::legacy && !same_in_64_bits(insn, bytes))
    return Kind::interpret;
  if (const Operand* m = insn.memory_operand(); m && m->size == 0) return Kind::interpret;
  return plan(insn, items_[n_].plan) ? Kind::copy : Kind::interpret;
}

// ---- addresses

/// Offset of the operand in its segment, to kT0. Clobbers nothing else, keeps flags.
void Translator::narrow_offset(const Insn& insn, const isa::Memory& m, bool on_stack) {
  isa::Memory plain = m;
  plain.segment = machine::ds;
  if (plain.base == isa::Memory::kNone && plain.index == isa::Memory::kNone) {
    const u32 mask = insn.addrsize == 2 ? 0xffff : 0xffff'ffff;
    hot_.mov_imm32(kT0, static_cast<u32>(plain.disp) & mask);
    return;
  }
  linear_address(insn, plain, 0);
  if (on_stack ? !(mode_ & kModeStack32) : insn.addrsize == 2) hot_.movzx16(kT0, kT0);
}

bool Translator::flat_segment(u8 segment) const {
  return (mode_ & kModeFlat) && segment < machine::fs && segment != machine::cs;
}

/// kT0: an offset, becomes a linear address. Clobbers kT1 and the flags if the segment is not flat.
void Translator::narrow_linear(u8 segment, u32 size, bool write, u32 site) {
  if (flat_segment(segment)) return;
  hot_.lea(kT1, {kT0, kNoReg, 0, static_cast<i32>(size)});
  hot_.op_mem(0x3b, kT1, hot_.base(end_at(segment, write)));
  fall_back_if(cA, site);
  hot_.op_mem(0x03, kT0, hot_.base(at::kSegBase + 8 * segment), false);
}

void Translator::operand_address(const Item& item, u32 size, bool write, u32 site) {
  const Insn& insn = item.insn;
  if (!narrow()) return linear_address(insn, insn.mem, item.at);
  narrow_offset(insn, insn.mem, false);
  narrow_linear(insn.mem.segment, size, write, site);
}

/// As reach(). Members of a group compute their address, too, which may wrap.
HostMem Translator::reach_narrow(const Item& item, const isa::Memory& m, u32 size, bool write,
                                 bool single, u32& site) {
  site = kNoSite;
  const bool on_stack = &m != &item.insn.mem;
  if (item.group < 0) {
    protect_flags(item);
    site = new_site(item, size, write);
    narrow_offset(item.insn, m, on_stack);
    narrow_linear(m.segment, size, write, site);
    return check(item, size, write, single).mem;
  }
  const Group& g = groups_[static_cast<size_t>(item.group)];
  const HostMem slot = hot_.base(at::kDelta + 8 * g.slot);
  if (!item.leads) {
    hot_.load(kT1, slot);
  } else {
    protect_flags(item);
    site = new_site(item, static_cast<u32>(g.high - g.low), g.write);
    jit_.sites_[site].group = true;
    isa::Memory lowest = m;
    lowest.disp += g.low - item.place;
    narrow_offset(item.insn, lowest, on_stack);
    check_bias(static_cast<u32>(g.high - g.low), g.write, site);
    hot_.store(slot, kT1);
  }
  narrow_offset(item.insn, m, on_stack);
  if (!single) return {kT0, kT1, 0, 0};
  hot_.lea(kT0, {kT0, kT1, 0, 0});
  return {kT0, kNoReg, 0, 0};
}

// ---- registers and memory by operand size

/// Zero-extends.
void Translator::load_sized(u8 to, const HostMem& from, u8 size) {
  if (size == 2)
    hot_.movzx16_mem(to, from);
  else
    hot_.load(to, from, size == 8);
}

void Translator::store_sized(const HostMem& to, u8 from, u8 size) {
  if (size == 2) hot_.byte(0x66);
  hot_.store(to, from, size == 8);
}

/// Adds to the stack pointer; clobbers kT0 if it has 16 bits. Keeps flags.
void Translator::move_stack(i32 by) {
  const u8 sp = kHome[kRsp];
  if (!narrow() || (mode_ & kModeStack32)) return hot_.lea(sp, {sp, kNoReg, 0, by}, !narrow());
  hot_.lea(kT0, {sp, kNoReg, 0, by}, false);
  set_word(sp, kT0);
}

/// The low 16 bits.
void Translator::set_word(u8 to, u8 from) {
  hot_.byte(0x66);
  hot_.op_reg(0x8b, to, from, false);
}

// ---- the stack

void Translator::push_narrow(const Item& item) {
  const Insn& insn = item.insn;
  const Operand& o = insn.op[0];
  const u8 size = insn.opsize;
  u32 first = kNoSite, site;
  if (o.kind == OperandKind::memory) {
    protect_flags(item);
    first = new_site(item, size, false);
    operand_address(item, size, false, first);
    load_sized(kT0, check(item, size, false, false).mem, size);
    hot_.store(hot_.base(kTarget), kT0);
  }
  const bool selector = o.kind == OperandKind::segment;
  const HostMem to =
      reach(item, stack(-i32{size}), selector ? 2 : size, true, first != kNoSite || selector, site);
  if (first != kNoSite) {
    hot_.load(kT1, hot_.base(kTarget));
    store_sized(to, kT1, size);
  } else if (selector) {
    // The upper half of the slot stays as it is (SDM 2B PUSH).
    hot_.movzx16_mem(kT1, hot_.base(selector_at(o.reg)));
    store_sized(to, kT1, 2);
  } else if (o.kind == OperandKind::immediate) {
    if (size == 2) hot_.byte(0x66);
    hot_.op_mem(0xc7, 0, to, false);
    hot_.append(reinterpret_cast<const u8*>(&insn.imm), size);
  } else {
    store_sized(to, kHome[o.reg], size);
  }
  move_stack(-i32{size});
  set_after(site);
  if (!item.leads) set_after(first);
}

void Translator::pop_narrow(const Item& item) {
  const u8 guest = item.insn.op[0].reg, size = item.insn.opsize;
  u32 site;
  const HostMem from = reach(item, stack(0), size, false, false, site);
  if (size == 4 && guest == kRsp) {
    hot_.load(kHome[guest], from, false);
  } else {
    load_sized(kT1, from, size);
    move_stack(size);
    if (size == 2)
      set_word(kHome[guest], kT1);
    else
      hot_.mov(kHome[guest], kT1, false);
  }
  set_after(site);
}

void Translator::leave_narrow(const Item& item) {
  const u8 size = item.insn.opsize, sp = kHome[kRsp];
  u32 site;
  isa::Memory frame = stack(0);
  frame.base = kRbp;
  const HostMem from = reach(item, frame, size, false, true, site);
  if (mode_ & kModeStack32) {
    hot_.lea(sp, {hbp, kNoReg, 0, size}, false);
  } else {
    hot_.lea(kT1, {hbp, kNoReg, 0, size}, false);
    set_word(sp, kT1);
  }
  if (size == 2) {
    load_sized(kT1, from, size);
    set_word(hbp, kT1);
  } else {
    hot_.load(hbp, from, false);
  }
  set_after(site);
}

void Translator::lea_narrow(const Item& item) {
  const Insn& insn = item.insn;
  const u8 to = kHome[insn.op[0].reg];
  narrow_offset(insn, insn.mem, false);
  if (insn.opsize == 2)
    set_word(to, kT0);
  else
    hot_.mov(to, kT0, false);
}

// ---- segment registers: DS, ES, FS, GS

void Translator::load_segment(const Item& item) {
  const Insn& insn = item.insn;
  const bool pop = insn.sem == Sem::pop;
  protect_flags(item);
  u32 stack_site = kNoSite;
  if (pop) {
    stack_site = new_site(item, 2, false);
    hot_.mov(kT0, kHome[kRsp], false);
    hot_.movzx16_mem(kT0, check(item, 2, false, false).mem);
  } else {
    hot_.movzx16(kT0, kHome[insn.op[1].reg]);
  }
  hot_.alu_imm(1, kT0, insn.op[0].reg << 16, false);
  hot_.store(hot_.base(at::kScratch), kT0);
  const u32 site = new_site(item, 0, false);
  hot_.mov_imm32(kT1, site);
  to_gate(hot_, jit_.gate_.segment);
  jit_.sites_[site].retry = place_ + hot_.size();  // where it goes on if that was all
  if (pop) hot_.lea(kHome[kRsp], {kHome[kRsp], kNoReg, 0, 4}, false);
  jit_.sites_[site].after = place_ + hot_.size();
  set_after(stack_site);
}

/// DS, ES, FS or GS in real and virtual-8086 mode. A base other than 0 would end kModeFlat.
bool Translator::real_segment(const Insn& insn) const {
  return (mode_ & kModeReal) && (!(mode_ & kModeFlat) || insn.op[0].reg >= machine::fs);
}

/// The base is the selector times 16. In real mode nothing else changes in a segment that is
/// usable; in virtual-8086 mode the rest is always the same.
void Translator::load_real_segment(const Item& item) {
  const Insn& insn = item.insn;
  const u8 n = insn.op[0].reg;
  const bool pop = insn.sem == Sem::pop;
  u32 site = kNoSite;
  protect_flags(item);
  if (pop) {
    site = new_site(item, insn.opsize, false);
    narrow_offset(insn, stack(0), true);
    narrow_linear(machine::ss, insn.opsize, false, site);
    hot_.movzx16_mem(kT0, check(item, insn.opsize, false, false).mem);
  } else if (insn.op[1].kind == OperandKind::memory) {
    site = new_site(item, 2, false);
    operand_address(item, 2, false, site);
    hot_.movzx16_mem(kT0, check(item, 2, false, false).mem);
  } else {
    hot_.movzx16(kT0, kHome[insn.op[1].reg]);
  }
  const u32 usual = new_site(item, 0, false);
  hot_.alu_mem_imm(7, hot_.base(end_at(n, true)), v86() ? 0x10000 : 0, true);
  fall_back_if(v86() ? cNE : cE, usual);
  store_sized(hot_.base(selector_at(n)), kT0, 2);
  hot_.shift_imm(4, kT0, 4, false);
  hot_.store(hot_.base(base_at(n)), kT0);
  hot_.store(hot_.base(at::kSegBase + 8 * n), kT0);
  constexpr u32 kPresentBit = 0x80;
  if (v86()) {
    hot_.mov_imm(kT0, u64{0xf3} << 32 | 0xffff);
    hot_.store(hot_.base(limit_at(n)), kT0);
  } else {
    hot_.op_mem(0x81, 1, hot_.base(limit_at(n) + 4), false);
    hot_.dword(kPresentBit);
  }
  if (pop) move_stack(insn.opsize);
  set_after(site);
  set_after(usual);
}

// ---- control transfers

/// In 16-bit code with either operand size. In 32-bit code operands of 16 bits cut EIP, which
/// nobody wants.
bool Translator::near_narrow(const Insn& insn) const {
  return (mode_ & kModeCode16) || insn.opsize == 4;
}

/// To kT0: the instruction pointer at an offset in the page, as the operand size of a transfer has
/// it.
void Translator::offset_of_page(Assembler& a, const Insn& insn, i64 offset) {
  a.load(kT0, a.base(at::kCodePage));
  a.lea(kT0, {kT0, kNoReg, 0, static_cast<i32>(offset)}, !narrow());
  if ((mode_ & kModeCode16) && insn.opsize == 2) a.movzx16(kT0, kT0);
}

/// Compares kT0, an instruction pointer, with the code segment's limit.
void Translator::compare_limit(Assembler& a) {
  a.op_mem(0x3b, kT0, a.base(limit_at(machine::cs)), false);
}

/// What leads beyond the limit is the interpreter's, which raises #GP. Flags are in the slot.
void Translator::check_target(const Item& item) {
  if (!segmented()) return;
  const u32 site = new_site(item, 0, false);
  compare_limit(hot_);
  fall_back_if(cA, site);
}

void Translator::call_narrow(const Item& item) {
  const Insn& insn = item.insn;
  const bool relative = insn.op[0].kind == OperandKind::relative;
  const u8 size = insn.opsize;
  const i64 target = item.at + insn.length + static_cast<i64>(insn.imm);
  if (segmented()) protect_flags(item);
  if (!relative) {
    load_target(item);
    check_target(item);
    hot_.store(hot_.base(kTarget), kT0);
  } else if (segmented() && !in_window(target)) {
    offset_of_page(hot_, insn, target);
    check_target(item);
  }
  u32 site;
  const HostMem to = reach(item, stack(-i32{size}), size, true, true, site);
  hot_.load(kT1, hot_.base(at::kCodePage));
  hot_.lea(kT1, {kT1, kNoReg, 0, item.at + insn.length}, false);
  store_sized(to, kT1, size);
  move_stack(-i32{size});
  if (relative) return go_to(target, true);
  hot_.load(kT0, hot_.base(kTarget));
  indirect(true);
}

void Translator::ret_narrow(const Item& item) {
  const Insn& insn = item.insn;
  const i32 release =
      insn.op[0].kind == OperandKind::immediate ? static_cast<i32>(insn.imm & 0xffff) : 0;
  u32 site;
  const u8 size = insn.opsize;
  if (segmented()) protect_flags(item);
  load_sized(kT0, reach(item, stack(0), size, false, false, site), size);
  check_target(item);
  const bool clobbers = !(mode_ & kModeStack32);
  if (clobbers) hot_.store(hot_.base(kTarget), kT0);
  move_stack(size + release);
  if (clobbers) hot_.load(kT0, hot_.base(kTarget));
  indirect(true);
}

}  // namespace skerry::soft
