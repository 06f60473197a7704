// Translator: string instructions. STOS and MOVS of flat code, also with a prefix, within one page
// on either side; one element of LODS, SCAS and CMPS, forwards, and of STOS and MOVS of code that
// is not flat: the string functions of 32-bit kernels and of BIOSes are loops of them. What else
// has a prefix is the interpreter's, which does it by the page.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Sem;

namespace {

constexpr u8 kRcx = 1, kRsi = 6, kRdi = 7;
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

/// Bytes of one element of an instruction for string(); 0: it is none.
u32 Translator::string_element(const Insn& insn) {
  if (insn.sem != Sem::stos && insn.sem != Sem::movs) return 0;
  if (insn.repne) return 0;
  if (insn.sem == Sem::movs && insn.mem.segment >= machine::fs) return 0;
  return insn.opsize;
}

/// STOS and MOVS, with and without REP, forwards and within one page on either side.
void Translator::string(const Item& item) {
  const Insn& insn = item.insn;
  const u32 size = string_element(insn);
  const u8 log = size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;
  const bool move = insn.sem == Sem::movs, rep = insn.rep, wide = !narrow();
  const u8 count = kHome[kRcx];
  protect_flags(item);
  const u32 site = new_site(item, size, !move);
  test_mem(at::kRflags, DF_);
  fall_back_if(cNE, site);
  u32 nothing = 0;
  if (rep) {
    hot_.alu_imm(7, count, static_cast<i32>(4096 / size), wide);
    fall_back_if(cA, site);
    hot_.op_reg(0x85, count, count, wide);
    nothing = hot_.jcc32(cE).at;
  }
  // Falls back if the bytes from kT0 on are not all in one page.
  auto whole = [&] {
    if (!rep) return;
    hot_.mov(kT1, kT0, false);
    hot_.alu_imm(4, kT1, 0xfff, false);
    if (log == 0) {
      hot_.op_reg(0x03, kT1, count, false);
    } else {
      // rcx + count * size
      hot_.lea(kT1, {kT1, count, log, 0}, false);
    }
    hot_.alu_imm(7, kT1, 4096, false);
    fall_back_if(cA, site);
  };
  u32 second = site;
  if (move) {
    hot_.mov(kT0, kHome[kRsi], wide);
    whole();
    const Address from = check(item, size, false, true);
    hot_.store(hot_.base(kKept), from.mem.base);
    second = new_site(item, size, true);
  }
  hot_.mov(kT0, kHome[kRdi], wide);
  whole();
  check(item, size, true, true);
  const i32 step = static_cast<i32>(size);
  if (!rep) {
    const u8 sizes = size == 1 ? 0 : 1;
    auto transfer = [&](u8 opcode, u8 reg, const HostMem& m) {
      if (size == 2) hot_.byte(0x66);
      hot_.op_mem(static_cast<u8>(opcode | sizes), reg, m, size == 8);
    };
    if (move) {
      hot_.load(kT1, hot_.base(kKept));
      transfer(0x8a, kT1, {kT1, kNoReg, 0, 0});
      transfer(0x88, kT1, {kT0, kNoReg, 0, 0});
      hot_.lea(kHome[kRsi], {kHome[kRsi], kNoReg, 0, step}, wide);
    } else {
      transfer(0x88, hax, {kT0, kNoReg, 0, 0});
    }
    hot_.lea(kHome[kRdi], {kHome[kRdi], kNoReg, 0, step}, wide);
  } else {
    hot_.op_reg(0x87, kT0, hdi);  // xchg
    if (move) {
      hot_.load(kT1, hot_.base(kKept));
      hot_.store(hot_.base(kKept), hsi);
      hot_.mov(hsi, kT1);
    }
    hot_.mov(hcx, count, wide);
    hot_.byte(0xf3);
    if (size == 2) hot_.byte(0x66);
    if (size == 8) hot_.byte(0x48);
    hot_.byte(static_cast<u8>((move ? 0xa4 : 0xaa) | (size > 1)));
    hot_.lea(hdi, {kT0, count, log, 0}, wide);
    if (move) {
      hot_.load(hsi, hot_.base(kKept));
      hot_.lea(hsi, {hsi, count, log, 0}, wide);
    }
    hot_.mov_imm32(count, 0);
    hot_.patch32({nothing}, hot_.size());
  }
  jit_.sites_[site].after = jit_.sites_[second].after = place_ + hot_.size();
}

}  // namespace skerry::soft
