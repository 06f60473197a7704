// What the integer, string and control-flow handlers share: register access by Op byte offset,
// addresses, and the dispatch on operand width. Internal to integer_*.cpp, string*.cpp,
// control.cpp.
//
// A handler is a function template instantiated for operation, width and operand form; the
// select_* functions pick the instance once, at decode. Handlers change nothing guest-visible
// before their last possible fault (see cpu.hpp).
#pragma once

#include "engine/soft/access.hpp"
#include "engine/soft/arith.hpp"

namespace skerry::soft {

/// The handler of an instruction of class integer, string or control (near); null for what
/// select_system knows: segment, control and debug register moves, far transfers, INT n, flags as a
/// whole, ports without strings.
Handler select_integer(const isa::Insn& insn);

namespace integer {

using isa::Insn;
using isa::OperandKind;
using isa::Sem;

// Parts of select_integer: null if `insn` is not theirs.
Handler select_alu(const Insn& insn);     ///< two-operand and one-operand arithmetic and logic
Handler select_move(const Insn& insn);    ///< MOV, MOVZX, LEA, XCHG, CMOVcc, SETcc, CMPXCHG...
Handler select_shift(const Insn& insn);   ///< shifts and rotates, BMI2 shifts
Handler select_bits(const Insn& insn);    ///< BT..., scans, counts, BMI, CRC32
Handler select_muldiv(const Insn& insn);  ///< MUL, IMUL, DIV, IDIV, MULX, decimal adjustment
Handler select_stack(const Insn& insn);   ///< PUSH, POP, PUSHA, ENTER, LEAVE
Handler select_flags(const Insn& insn);   ///< CLC..., LAHF, NOP, RDRAND, BOUND, XLAT, UD
Handler select_string(const Insn& insn);
Handler select_control(const Insn& insn);

// ---- registers

/// The register at byte offset `at` of Cpu::gpr (Op::dst, Op::src).
template <class T>
[[gnu::always_inline]] inline T get(const Cpu& cpu, u8 at) {
  return load<T>(reinterpret_cast<const u8*>(cpu.gpr.data()) + at);
}
/// Writes it as instructions do: 32 bits clear the upper half, 8 and 16 bits keep the rest.
template <class T>
[[gnu::always_inline]] inline void put(Cpu& cpu, u8 at, T value) {
  u8* p = reinterpret_cast<u8*>(cpu.gpr.data()) + at;
  if constexpr (sizeof(T) == 4)
    store<u64>(p, value);
  else
    store<T>(p, value);
}
/// By number, not offset. T of 1 byte: the low byte.
template <class T>
[[gnu::always_inline]] inline T reg(const Cpu& cpu, u8 number) {
  return static_cast<T>(cpu.gpr[number]);
}
template <class T>
[[gnu::always_inline]] inline void set_reg(Cpu& cpu, u8 number, T value) {
  put<T>(cpu, static_cast<u8>(number * 8), value);
}

// ---- memory

/// kWide: 64-bit addressing, known at decode.
template <bool kWide>
[[gnu::always_inline]] inline u64 address(const Cpu& cpu, const Op& op) {
  if constexpr (kWide)
    return cpu.gpr[op.base] + (cpu.gpr[op.index] << op.scale) +
           static_cast<u64>(static_cast<i64>(op.disp));
  else
    return cpu.ea(op);
}
constexpr u64 address_mask(u8 addrsize) {
  return addrsize == 8 ? ~u64{0} : addrsize == 4 ? 0xffffffff : 0xffff;
}

/// Bytes from the instruction's start.
inline u64 next_rip(const Cpu& cpu, const Op& op) {
  return (cpu.rip + op.length) & cpu.rip_mask;
}

// ---- dispatch at decode

constexpr bool is_memory(const isa::Operand& o) {
  return o.kind == OperandKind::memory;
}
constexpr bool is_register(const isa::Operand& o) {
  return o.kind == OperandKind::gpr || o.kind == OperandKind::gpr_high;
}
constexpr bool is_immediate(const isa::Operand& o) {
  return o.kind == OperandKind::immediate;
}

/// f<T>() with the unsigned type of `size` bytes; null for other sizes.
template <class F>
Handler by_size(unsigned size, F f) {
  switch (size) {
    case 1: return f.template operator()<u8>();
    case 2: return f.template operator()<u16>();
    case 4: return f.template operator()<u32>();
    case 8: return f.template operator()<u64>();
    default: return nullptr;
  }
}
/// The same for instructions without a byte form.
template <class F>
Handler by_word_size(unsigned size, F f) {
  switch (size) {
    case 2: return f.template operator()<u16>();
    case 4: return f.template operator()<u32>();
    case 8: return f.template operator()<u64>();
    default: return nullptr;
  }
}
/// The same for VEX-coded general-register instructions.
template <class F>
Handler by_vex_size(unsigned size, F f) {
  switch (size) {
    case 4: return f.template operator()<u32>();
    case 8: return f.template operator()<u64>();
    default: return nullptr;
  }
}

}  // namespace integer
}  // namespace skerry::soft
