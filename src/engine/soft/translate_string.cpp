// Translator: LODS, SCAS and CMPS of one element, forwards. The string functions of 32-bit kernels
// are loops of them. With a prefix they are the interpreter's, which does them by the page.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Sem;

namespace {

constexpr u8 kRsi = 6, kRdi = 7;
/// Keeps a value across a TLB check, as in push().
constexpr i32 kKept = at::kDelta + 32;

}  // namespace

bool Translator::string_step_inline(const Insn& insn) const {
  if (insn.rep || insn.repne || insn.addrsize != (narrow() ? 4 : 8)) return false;
  if (insn.sem == Sem::scas) return true;
  return narrow() ? flat_segment(insn.mem.segment) : insn.mem.segment < machine::fs;
}

void Translator::string_step(const Item& item) {
  const Insn& insn = item.insn;
  const u32 size = insn.opsize;
  const bool wide = !narrow();
  auto op = [&](u8 opcode, u8 reg, const HostMem& m) {
    if (size == 2) hot_.byte(0x66);
    hot_.op_mem(static_cast<u8>(opcode | (size > 1)), reg, m, size == 8);
  };
  auto advance = [&](u8 guest) {
    const u8 reg = kHome[guest];
    hot_.lea(reg, {reg, kNoReg, 0, static_cast<i32>(size)}, wide);
  };
  protect_flags(item);
  const u32 site = new_site(item, size, false);
  u32 second = site;
  test_mem(at::kRflags, DF_);
  fall_back_if(cNE, site);
  hot_.mov(kT0, kHome[insn.sem == Sem::scas ? kRdi : kRsi], wide);
  HostMem from = check(item, size, false, false).mem;
  u8 left = hax;
  switch (insn.sem) {
    case Sem::lods: op(0x8a, hax, from); break;
    case Sem::cmps:
      op(0x8a, kT0, from);
      hot_.store(hot_.base(kKept), kT0);
      second = new_site(item, size, false);
      hot_.mov(kT0, kHome[kRdi], wide);
      from = check(item, size, false, true).mem;
      hot_.load(kT1, hot_.base(kKept));
      left = kT1;
      [[fallthrough]];
    default: op(0x3a, left, from);
  }
  if (insn.sem != Sem::scas) advance(kRsi);
  if (insn.sem != Sem::lods) advance(kRdi);
  jit_.sites_[site].after = jit_.sites_[second].after = place_ + hot_.size();
  flags_after_op(item);
}

}  // namespace skerry::soft
