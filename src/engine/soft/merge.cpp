// Translator: which memory accesses of a block share one TLB check.
//
// Registers are followed as origin + constant: what a block finds in a register, or what an
// instruction leaves there, is an origin; MOV, LEA, ADD, SUB, PUSH and POP move it.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Sem;

namespace {
constexpr u8 kRsp = 4, kRbp = 5;
constexpr u32 kRipOrigin = 16, kFsOrigin = 17, kGsOrigin = 18, kAbsoluteOrigin = 19,
              kFirstOrigin = 32;
constexpr i64 kFar = i64{1} << 30;

struct Value {
  u32 origin = 0;
  i64 offset = 0;
};
}  // namespace

// A store may join a group that was only read so far if it surely follows the group's first access:
// then that one may as well ask for both.
void Translator::note_access(u16 item, u32 origin, i64 place, u32 size, bool write) {
  if (place > kFar || place < -kFar) return;
  const i32 low = static_cast<i32>(place), high = low + static_cast<i32>(size);
  items_[item].place = low;
  for (size_t n = groups_.size(); n-- > 0;) {
    Group& g = groups_[n];
    const bool sure = n == sure_ && !jit_.exact_;
    if (!g.open || g.origin != origin || (write && !g.write && !sure)) continue;
    const i32 from = std::min(low, g.low), to = std::max(high, g.high);
    if (to - from > kMostSpan) continue;
    g.low = from;
    g.high = to;
    g.write |= write;
    g.last = item;
    ++g.count;
    items_[item].group = static_cast<i16>(n);
    if (n != sure_) sure_ = kNoGroup;
    return;
  }
  sure_ = groups_.size();
  items_[item].group = static_cast<i16>(groups_.size());
  groups_.push_back({origin, write, true, item, item, 1, low, high, 0});
}

void Translator::merge() {
  groups_.clear();
  for (u32 i = 0; i < n_; ++i) {
    items_[i].group = -1;
    items_[i].leads = false;
  }
  if (mode_ & kModeUnmerged) return;
  // Of narrow code only what is flat: 32-bit addresses in DS, ES and SS.
  const u8 natural = narrow() ? 4 : 8;
  constexpr u32 kFlat32 = kModeCode32 | kModeFlat | kModeStack32;
  if (narrow() && (mode_ & kFlat32) != kFlat32) return;
  const auto displacement = [&](u64 imm) {
    return narrow() ? i64{static_cast<i32>(imm)} : static_cast<i64>(imm);
  };
  std::array<Value, 16> value;
  u32 next = kFirstOrigin;
  for (u32 r = 0; r < 16; ++r) value[r] = {r, 0};
  // Base and scaled index together are an origin as well.
  struct Pair {
    u32 base, index, origin;
    u8 scale;
  };
  std::array<Pair, 16> pairs;
  u32 known_pairs = 0;
  auto pair_of = [&](u32 base, u32 index, u8 scale) {
    for (u32 k = 0; k < known_pairs; ++k)
      if (pairs[k].base == base && pairs[k].index == index && pairs[k].scale == scale)
        return pairs[k].origin;
    const u32 origin = next++;
    if (known_pairs < pairs.size()) pairs[known_pairs++] = {base, index, origin, scale};
    return origin;
  };
  auto fresh = [&](u8 reg) { value[reg] = {next++, 0}; };

  sure_ = kNoGroup;
  for (u16 i = 0; i < n_; ++i) {
    const Item& item = items_[i];
    const Insn& insn = item.insn;
    switch (item.kind) {
      case Kind::skip: break;
      case Kind::jcc: sure_ = kNoGroup; break;
      case Kind::copy: {
        if (const Operand* m = insn.memory_operand();
            m && insn.addrsize == natural && (!narrow() || flat_segment(insn.mem.segment))) {
          const isa::Memory& a = insn.mem;
          const bool plain = a.index == isa::Memory::kNone && a.disp == static_cast<i32>(a.disp);
          if (plain && a.base == isa::Memory::kRip && a.segment < machine::fs)
            note_access(i, kRipOrigin, item.at + insn.length + a.disp, m->size, m->write);
          else if (narrow() && a.base == isa::Memory::kNone && a.index == isa::Memory::kNone)
            note_access(i, kAbsoluteOrigin, static_cast<i32>(a.disp), m->size, m->write);
          else if (plain && a.base == isa::Memory::kNone && a.segment >= machine::fs)
            note_access(i, a.segment == machine::fs ? kFsOrigin : kGsOrigin, a.disp, m->size,
                        m->write);
          else if (plain && a.base < 16 && a.segment < machine::fs)
            note_access(i, value[a.base].origin, value[a.base].offset + a.disp, m->size, m->write);
          else if (a.base < 16 && a.index < 16 && !a.vsib && kHome[a.index] != kNoReg &&
                   a.segment < machine::fs)
            note_access(i, pair_of(value[a.base].origin, value[a.index].origin, a.scale),
                        value[a.base].offset + (value[a.index].offset << a.scale) + a.disp, m->size,
                        m->write);
        }
        // Accesses that share nothing may fault, too.
        if (may_fault(insn) || (item.group < 0 && insn.memory_operand())) sure_ = kNoGroup;
        const Operand &to = insn.op[0], &from = insn.op[1];
        const bool whole = to.kind == OperandKind::gpr && to.write && to.size == natural;
        if (whole && insn.sem == Sem::mov && from.kind == OperandKind::gpr) {
          value[to.reg] = value[from.reg];
          break;
        }
        if (whole && (insn.sem == Sem::add || insn.sem == Sem::sub) &&
            from.kind == OperandKind::immediate) {
          const i64 by = displacement(insn.imm);
          if (by < kFar && by > -kFar) {
            value[to.reg].offset += insn.sem == Sem::add ? by : -by;
            break;
          }
        }
        for (unsigned k = 0; k < insn.operands; ++k) {
          const Operand& o = insn.op[k];
          if (!o.write) continue;
          if (o.kind == OperandKind::gpr) fresh(o.reg);
          if (o.kind == OperandKind::gpr_high) fresh(o.reg);
        }
        break;
      }
      case Kind::lea: {
        const u8 to = insn.op[0].reg;
        if (insn.opsize == natural && insn.addrsize == natural && insn.mem.base < 16 &&
            insn.mem.index == isa::Memory::kNone)
          value[to] = {value[insn.mem.base].origin, value[insn.mem.base].offset + insn.mem.disp};
        else
          fresh(to);
        break;
      }
      case Kind::push:
        note_access(i, value[kRsp].origin, value[kRsp].offset - insn.opsize, insn.opsize, true);
        value[kRsp].offset -= insn.opsize;
        break;
      case Kind::pop: {
        note_access(i, value[kRsp].origin, value[kRsp].offset, insn.opsize, false);
        value[kRsp].offset += insn.opsize;
        fresh(insn.op[0].reg);
        break;
      }
      case Kind::leave:
        note_access(i, value[kRbp].origin, value[kRbp].offset, natural, false);
        value[kRsp] = {value[kRbp].origin, value[kRbp].offset + natural};
        fresh(kRbp);
        break;
      case Kind::call:
        if (insn.op[0].kind != OperandKind::memory)
          note_access(i, value[kRsp].origin, value[kRsp].offset - natural, natural, true);
        break;
      case Kind::ret: note_access(i, value[kRsp].origin, value[kRsp].offset, natural, false); break;
      default:
        // Anything may change, also what may be accessed.
        for (u8 r = 0; r < 16; ++r) fresh(r);
        for (Group& g : groups_) g.open = false;
        sure_ = kNoGroup;
    }
  }

  // A slot for those that are worth one, as long as there are slots.
  u16 busy_until[kSlots] = {};
  bool busy[kSlots] = {};
  for (size_t n = 0; n < groups_.size(); ++n) {
    Group& g = groups_[n];
    u8 slot = kSlots;
    if (g.count > 1)
      for (u8 s = 0; s < kSlots; ++s)
        if (!busy[s] || busy_until[s] < g.first) {
          slot = s;
          break;
        }
    g.slot = slot;
    if (slot == kSlots) continue;
    busy[slot] = true;
    busy_until[slot] = g.last;
    items_[g.first].leads = true;
  }
  for (u32 i = 0; i < n_; ++i)
    if (items_[i].group >= 0 && groups_[static_cast<size_t>(items_[i].group)].slot == kSlots)
      items_[i].group = -1;
}

}  // namespace skerry::soft
