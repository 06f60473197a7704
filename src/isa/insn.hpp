// Insn: one decoded x86 instruction. Pure data: no memory, no OS, usable alone.
//
// The instruction table (table_*.inc, one row per instruction form) is the source of everything
// known about an instruction; the decoder only fills in this struct from the row that matches.
#pragma once

#include <span>
#include <string>

#include "base/types.hpp"

namespace skerry::isa {

/// What an instruction does: its mnemonic in the SDM's spelling, lower case. Conditional families
/// share one (jcc, setcc, cmovcc; the condition is Insn::condition). String instructions have no
/// width suffix (movs, cmps, stos, lods, scas, ins, outs), so movsd and cmpsd are the SSE2 ones.
/// Far forms: call_far, jmp_far, ret_far. C++ keywords get a trailing underscore: and_, or_, xor_,
/// not_, int_.
enum class Sem : u16 {
  invalid = 0,
#define SKERRY_SEM(name) name,
#include "isa/sem.inc"
#undef SKERRY_SEM
};

/// Who executes it.
enum class Class : u8 { integer, string, control, system, x87, mmx, sse, avx, avx512, mask };

enum class OperandKind : u8 {
  none,
  gpr,       ///< reg 0-15
  gpr_high,  ///< AH, CH, DH, BH: reg 0-3
  segment,   ///< machine::Seg order: ES CS SS DS FS GS
  control,
  debug,
  st,  ///< reg 0-7, relative to TOP
  mmx,
  vector,     ///< XMM/YMM/ZMM by size 16/32/64, reg 0-31
  mask,       ///< k0-k7
  memory,     ///< Insn::mem
  immediate,  ///< Insn::imm, sign- or zero-extended as the instruction does, to Operand::size bytes
  immediate2,   ///< Insn::imm2: ENTER's level, EXTRQ/INSERTQ's second byte
  relative,     ///< Insn::imm is the displacement from the next instruction
  far_pointer,  ///< Insn::imm offset, Insn::imm2 selector
};

/// The place in the encoding that holds an operand.
enum class Place : u8 {
  none,    ///< implicit, fixed or an immediate
  reg,     ///< ModRM.reg
  rm,      ///< ModRM.rm as a register
  vvvv,    ///< VEX.vvvv
  opcode,  ///< low three bits of the opcode
  is4,     ///< imm8[7:4]
  memory,  ///< ModRM.rm as memory, or a memory offset
};

struct Operand {
  OperandKind kind = OperandKind::none;
  u8 reg = 0;
  u16 size = 0;  ///< bytes; 0 for memory that is only addressed (LEA, INVLPG, PREFETCH) or has a
                 ///< state-dependent size. Embedded broadcast: the element's size
  bool read = false, write = false;
  bool implicit = false;  ///< not written in assembly: RAX of MUL, XMM0 of PBLENDVB
  Place place = Place::none;
};

/// A memory operand: segment:[base + index << scale + disp].
struct Memory {
  static constexpr u8 kNone = 16;             ///< no base / no index
  static constexpr u8 kRip = 17;              ///< base: address of the next instruction
  u8 base = kNone, index = kNone, scale = 0;  ///< scale 0-3 (shift)
  bool vsib = false;                          ///< index is a vector register 0-31
  u8 segment = 3;  ///< after overrides and defaults (SS for rSP/rBP bases); machine::Seg
  bool segment_override = false;
  i64 disp = 0;  ///< sign-extended (EVEX disp8*N applied); moffs: the whole address
};

struct Insn {
  Sem sem = Sem::invalid;
  Class cls = Class::integer;
  u16 row = 0;       ///< index in rows()
  u8 length = 0;     ///< bytes, 1-15
  u8 opsize = 0;     ///< effective operand size in bytes: 1 for byte forms, else 2, 4, 8
  u8 addrsize = 0;   ///< 2, 4, 8
  u8 condition = 0;  ///< low nibble of the opcode of jcc, setcc, cmovcc; fcmov alike
  bool lock = false, rep = false, repne = false;  ///< prefixes as given (rep = F3)
  bool prefix66 = false;
  u8 operands = 0;  ///< explicit ones first, then implicit
  Operand op[6];
  Memory mem;
  u64 imm = 0, imm2 = 0;

  // How it was encoded, for re-emission (thunks, JIT). Offsets from the first byte.
  enum class Encoding : u8 { legacy, vex, evex } encoding = Encoding::legacy;
  u8 map = 0;  ///< 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A, 5, 6
  u8 opcode = 0, modrm = 0, rex = 0;
  bool has_modrm = false, has_rex = false;
  u8 opcode_at = 0, modrm_at = 0, imm_at = 0;  ///< offsets; imm_at = length if there is none
  u8 pp = 0, vvvv = 0, vector_length = 0;  ///< VEX/EVEX: pp, register number, 0/1/2 = 128/256/512
  bool w = false, evex_b = false, evex_z = false;
  u8 evex_aaa = 0;
  u8 evex_rc = 0;  ///< rounding mode (0-3) when evex_b is set on a register form with {er}

  const Operand* memory_operand() const {
    for (const Operand& o : op)
      if (o.kind == OperandKind::memory) return &o;
    return nullptr;
  }
};

/// The part of the CPU's mode that decoding depends on.
struct DecodeMode {
  u8 bits = 64;  ///< default code size: 16, 32 (also compatibility mode), 64
  bool protected_mode =
      true;  ///< false in real and virtual-8086 mode: VEX, LAR, SLDT... are invalid
  auto operator<=>(const DecodeMode&) const = default;
};

enum class DecodeStatus : u8 {
  ok,
  truncated,  ///< more bytes needed (fewer than 15 were given and they are not enough)
  invalid,    ///< #UD
  too_long,   ///< #GP: more than 15 bytes
};

/// Decodes the instruction at the start of `bytes`. Legality that depends on encoding and mode only
/// (invalid opcode, LOCK on what does not allow it, register forms of memory-only instructions,
/// ...) is checked here; CPUID gating by feature_allowed(), privilege and CR bits by the engine. On
/// `invalid`, insn.length is the number of bytes looked at.
DecodeStatus decode(std::span<const u8> bytes, DecodeMode mode, Insn& insn);

}  // namespace skerry::isa
