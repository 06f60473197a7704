// Translator: LODS, SCAS and CMPS of one element, forwards; STOS and MOVS, too, of code that is not
// flat. The string functions of 32-bit kernels and of BIOSes are loops of them. With a prefix they
// are the interpreter's, which does them by the page.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Sem;

namespace {

constexpr u8 kRsi = 6, kRdi = 7;
constexpr u8 kStrings = machine::es;  ///< the segment of rDI
/// Keeps a value across a TLB check, as in push().
constexpr i32 kKept = at::kDelta + 32;

}  // namespace

bool Translator::string_step_inline(const Insn& insn) const {
  if (insn.rep || insn.repne) return false;
  if (narrow()) return true;
  return insn.addrsize == 8 && (insn.sem == Sem::scas || insn.mem.segment < machine::fs);
}

/// STOS and MOVS whose operands string() does not reach.
bool Translator::narrow_string_step(const Insn& insn) const {
  if (!narrow() || insn.rep || insn.repne) return false;
  return insn.addrsize == 2 || !flat_segment(kStrings) ||
         (insn.sem == Sem::movs && !flat_segment(insn.mem.segment));
}

void Translator::string_step(const Item& item) {
  const Insn& insn = item.insn;
  const u32 size = insn.opsize;
  const bool wide = !narrow();
  auto op = [&](u8 opcode, u8 reg, const HostMem& m) {
    if (size == 2) hot_.byte(0x66);
    hot_.op_mem(static_cast<u8>(opcode | (size > 1)), reg, m, size == 8);
  };
  const bool stores = insn.sem == Sem::stos || insn.sem == Sem::movs;
  const bool two = insn.sem == Sem::cmps || insn.sem == Sem::movs;
  auto advance = [&](u8 guest) {
    const u8 reg = kHome[guest];
    if (insn.addrsize != 2) return hot_.lea(reg, {reg, kNoReg, 0, static_cast<i32>(size)}, wide);
    hot_.lea(kT0, {reg, kNoReg, 0, static_cast<i32>(size)}, false);
    set_word(reg, kT0);
  };
  auto address = [&](u8 guest, u8 segment, bool write, u32 site) {
    if (insn.addrsize == 2)
      hot_.movzx16(kT0, kHome[guest]);
    else
      hot_.mov(kT0, kHome[guest], wide);
    if (narrow()) narrow_linear(segment, size, write, site);
  };
  protect_flags(item);
  const u32 site = new_site(item, size, stores && !two);
  u32 second = site;
  test_mem(at::kRflags, DF_);
  fall_back_if(cNE, site);
  if (insn.sem == Sem::scas || insn.sem == Sem::stos)
    address(kRdi, kStrings, insn.sem == Sem::stos, site);
  else
    address(kRsi, insn.mem.segment, false, site);
  HostMem from = check(item, size, stores && !two, false).mem;
  u8 left = hax;
  switch (insn.sem) {
    case Sem::lods: op(0x8a, hax, from); break;
    case Sem::stos: op(0x88, hax, from); break;
    case Sem::movs:
    case Sem::cmps:
      op(0x8a, kT0, from);
      hot_.store(hot_.base(kKept), kT0);
      second = new_site(item, size, stores);
      address(kRdi, kStrings, stores, second);
      from = check(item, size, stores, true).mem;
      hot_.load(kT1, hot_.base(kKept));
      left = kT1;
      if (stores) {
        op(0x88, left, from);
        break;
      }
      [[fallthrough]];
    default: op(0x3a, left, from);
  }
  if (insn.sem != Sem::scas && insn.sem != Sem::stos) advance(kRsi);
  if (insn.sem != Sem::lods) advance(kRdi);
  jit_.sites_[site].after = jit_.sites_[second].after = place_ + hot_.size();
  flags_after_op(item);
}

}  // namespace skerry::soft
