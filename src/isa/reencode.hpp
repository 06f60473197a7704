// Re-emission of a decoded instruction for execution in 64-bit mode on the host, with another
// memory operand and other register numbers: what host thunks and the translator need. Pure; any
// thread.
//
// What is kept: the operation, operand size, F2/F3/66 as part of the opcode, LOCK, REP of string
// instructions, VEX/EVEX W, L, b, z, mask and rounding, immediates. Segment overrides are dropped.
#pragma once

#include <array>
#include <span>

#include "isa/insn.hpp"

namespace skerry::isa {

/// Where operand `i` of the instruction is encoded.
inline Place place_of(const Insn& insn, unsigned i) {
  return i < insn.operands ? insn.op[i].place : Place::none;
}

struct Patch {
  static constexpr u8 kKeep = 0xff;

  /// New register numbers by Place (reg, rm, vvvv, opcode, is4): of the same kind as before, except
  /// that a patched AH-DH becomes an ordinary byte register.
  std::array<u8, 7> registers{kKeep, kKeep, kKeep, kKeep, kKeep, kKeep, kKeep};

  /// Replace the memory operand by [base + disp], 64-bit addressing, no segment. A vector index
  /// (gather, scatter) and its scale stay.
  bool memory = false;
  u8 base = 0;
  i32 disp = 0;

  Patch& set(Place place, u8 reg) { return registers[static_cast<unsigned>(place)] = reg, *this; }
  Patch& at(u8 base_reg, i32 offset) {
    return memory = true, base = base_reg, disp = offset, *this;
  }
};

/// Writes the patched instruction to `out`; returns its length, or 0 if it cannot be expressed in
/// 64-bit mode (no such form, AH with a REX prefix, 16-bit or RIP-relative addressing kept, memory
/// to be replaced that is implicit). `original` is the bytes that `insn` was decoded from, in any
/// mode. Without a memory patch a memory operand is kept with its base, index and displacement.
size_t reencode(const Insn& insn, std::span<const u8> original, const Patch& patch, u8 out[16]);

}  // namespace skerry::isa
