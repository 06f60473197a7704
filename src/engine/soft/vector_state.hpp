// The guest's vector, mask and x87 registers in s.xsave, for handlers written in C++.
#pragma once

#include <algorithm>
#include <cstring>

#include "engine/soft/thunk_build.hpp"

namespace skerry::soft {

inline u8* xmm_of(Cpu& cpu, u8 n) {
  return n < 16 ? &cpu.s.xsave[area::kXmm + 16u * n] : &cpu.s.xsave[area::kHi16 + 64u * (n - 16u)];
}

/// The low `size` bytes (16, 32 or 64) of vector register n.
inline void read_vector(const Cpu& cpu, u8 n, unsigned size, u8* to) {
  const u8* x = cpu.s.xsave.data();
  if (n >= 16) {
    std::memcpy(to, x + area::kHi16 + 64 * (n - 16), size);
    return;
  }
  std::memcpy(to, x + area::kXmm + 16 * n, 16);
  if (size > 16) std::memcpy(to + 16, x + area::kYmm + 16 * n, 16);
  if (size > 32) std::memcpy(to + 32, x + area::kZmmHigh + 32 * n, 32);
}

/// Sets the low `size` bytes (up to 64) and zeroes the rest, as VEX and EVEX instructions do.
inline void write_vector(Cpu& cpu, u8 n, unsigned size, const u8* from) {
  u8 full[64] = {};
  std::memcpy(full, from, size);
  u8* x = cpu.s.xsave.data();
  if (n >= 16) {
    std::memcpy(x + area::kHi16 + 64 * (n - 16), full, 64);
    return;
  }
  std::memcpy(x + area::kXmm + 16 * n, full, 16);
  std::memcpy(x + area::kYmm + 16 * n, full + 16, 16);
  std::memcpy(x + area::kZmmHigh + 32 * n, full + 32, 32);
}

inline u64 opmask(const Cpu& cpu, u8 n) {
  return load<u64>(&cpu.s.xsave[area::kOpmask + 8u * n]);
}
inline void set_opmask(Cpu& cpu, u8 n, u64 value) {
  store(&cpu.s.xsave[area::kOpmask + 8u * n], value);
}

inline u16 fcw(const Cpu& cpu) {
  return load<u16>(&cpu.s.xsave[area::kFcw]);
}
inline u16 fsw(const Cpu& cpu) {
  return load<u16>(&cpu.s.xsave[area::kFsw]);
}
inline void set_fcw(Cpu& cpu, u16 v) {
  store(&cpu.s.xsave[area::kFcw], v);
}
inline void set_fsw(Cpu& cpu, u16 v) {
  store(&cpu.s.xsave[area::kFsw], v);
}
inline u32 mxcsr(const Cpu& cpu) {
  return load<u32>(&cpu.s.xsave[area::kMxcsr]);
}
inline void set_mxcsr(Cpu& cpu, u32 v) {
  store(&cpu.s.xsave[area::kMxcsr], v);
}

/// The components of s.xsave that are not in their initial state (SDM 1 13.6), as XSTATE_BV.
u64 components_in_use(const machine::CpuState& s);

/// Whether an instruction may change vector, mask or x87 state in s.xsave.
inline bool touches_vectors(const isa::Insn& insn) {
  switch (insn.sem) {
    case isa::Sem::fxrstor:
    case isa::Sem::xrstor:
    case isa::Sem::xrstors:
    case isa::Sem::xsetbv: return true;
    default: return insn.cls >= isa::Class::x87;
  }
}

/// Of those: whether it changes nothing but x87, SSE and AVX state, and of that no upper half.
inline bool touches_low_vectors(const isa::Insn& insn) {
  return insn.cls >= isa::Class::x87 && insn.encoding == isa::Insn::Encoding::legacy &&
         insn.sem != isa::Sem::fxrstor && insn.sem != isa::Sem::xrstor &&
         insn.sem != isa::Sem::xrstors;
}

/// The thunk of op for this thread, or null (#UD).
inline const Thunk* find_thunk(const Op& op) {
  CodeArena* arena = CodeArena::of_this_thread();
  if (__builtin_expect(!arena, 0)) return nullptr;
  if (__builtin_expect(op.cached_generation == arena->generation(), 1))
    return static_cast<const Thunk*>(op.cached);
  return thunk_of(op, *arena);
}

/// Reads or writes an operand of any size through the widest suitable access.
bool load_operand(Cpu& cpu, u8 segment, u64 offset, u8* to, u32 size);
bool store_operand(Cpu& cpu, u8 segment, u64 offset, const u8* from, u32 size);

/// Whether segment:offset violates an alignment requirement (a power of two): then #GP(0).
inline bool misaligned(const Cpu& cpu, u8 segment, u64 offset, u32 alignment) {
  return (cpu.seg_base[segment] + offset) & (alignment - 1);
}

/// Runs a thunk; false: a fault was recorded and nothing but MXCSR's flags changed.
bool run_code(Cpu& cpu, const Thunk& t, u8* memory);

// Handlers of the other files.
Flow run_masked(Cpu& cpu, const Op& op);            // vector_masked.cpp: EVEX with a masked operand
Handler select_special_vector(const isa::Insn&);    // vector_masked.cpp: gather, scatter, maskmov
Handler select_fast_vector(const isa::Insn& insn);  // vector_fast.cpp
Handler select_x87(const isa::Insn& insn);          // x87.cpp
Handler select_xsave(const isa::Insn& insn);        // xsave.cpp

}  // namespace skerry::soft
