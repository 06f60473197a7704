// Thunk: what is known about one vector or x87 instruction, and its host code. Built once per
// distinct instruction and thread; found again through Op::cached.
#pragma once

#include "engine/soft/thunk_code.hpp"
#include "isa/row.hpp"

namespace skerry::soft {

/// The checks of CR0, CR4 and XCR0 that come before anything else (SDM 2A 2.4, table 2-14 and on,
/// 22.25 of 3B for MMX). All zero bits: no check.
struct Gate {
  u64 cr0_bad = 0;          ///< these bits of CR0 must be 0
  u64 cr4_need = 0;         ///< these bits of CR4 must be 1
  u64 xcr0_need = 0;        ///< these bits of XCR0 must be 1
  bool em_is_nm = false;    ///< x87: CR0.EM gives #NM, not #UD
  bool fp_pending = false;  ///< an x87 exception that is pending comes first (#MF)
};

/// How a memory operand is masked (SDM 2A 2.8, table 2-40 and on).
enum class Masking : u8 {
  none,
  load,      ///< elements whose mask bit is clear are not read if reading them would fault
  store,     ///< elements whose mask bit is clear are not written
  expand,    ///< as many consecutive elements as mask bits are read
  compress,  ///< as many consecutive elements as mask bits are written
};

struct Thunk {
  ThunkCode code = nullptr;
  Gate gate;
  u16 read = 0, write = 0;  ///< bytes of the memory operand read and written
  u8 align = 0;             ///< required alignment of the memory operand, or 0
  bool flags_out = false, flags_in = false;
  bool x87 = false;     ///< goes through FXRSTOR/FXSAVE
  bool fpu_op = false;  ///< an x87 non-control instruction: sets FIP, FDP, FOP
  Masking masking = Masking::none;
  u8 mask_reg = 0;
  u8 element = 0;          ///< bytes per element in memory
  u8 lanes = 0;            ///< elements in memory
  u8 broadcast_lanes = 0;  ///< mask bits that fold onto these elements, if broadcast
  bool probe_all = false;  ///< a masked store that faults on all of its operand
};

/// The thunk of an instruction; built if need be. Null: the host cannot run it (then #UD).
const Thunk* thunk_of(const Op& op, CodeArena& arena);

/// Applies the gate in the SDM's order; false: fault recorded.
bool pass_gate_slow(Cpu& cpu, const Gate& gate);
inline bool gate_open(const Cpu& cpu, const Gate& g) {
  return !((cpu.s.cr0 & g.cr0_bad) | (~cpu.s.cr4 & g.cr4_need) | (~cpu.s.xcr0 & g.xcr0_need) |
           (g.fp_pending && cpu.s.xsave[area::kFsw] & 0x80));
}
inline bool pass_gate(Cpu& cpu, const Gate& g) {
  return __builtin_expect(gate_open(cpu, g), 1) || pass_gate_slow(cpu, g);
}

/// Gate of an instruction by its class, encoding and operands.
Gate gate_of(const isa::Insn& insn);

// CR0, CR4 bits that gates look at (SDM 3A 2.5).
constexpr u64 kCr0Mp = 2, kCr0Em = 4, kCr0Ts = 8, kCr0Ne = 0x20;
constexpr u64 kCr4OsFxsr = 0x200, kCr4OsXmmExcpt = 0x400, kCr4OsXsave = 0x40000;

/// The SDM's mnemonic, for rules that go by name.
std::string_view sem_name(isa::Sem sem);

/// The instruction's own bytes for the host in 64-bit mode: memory operand [r11], explicit general
/// registers in r8, r9, r10 (modrm.reg, modrm.rm, vvvv).
struct HostForm {
  std::vector<u8> bytes;
  /// Guest registers that r8, r9, r10 stand for; 0xff: not used.
  u8 guest[3] = {0xff, 0xff, 0xff};
  bool guest_read[3]{}, guest_written[3]{};
};
HostForm host_form(const isa::Insn& insn);

}  // namespace skerry::soft
