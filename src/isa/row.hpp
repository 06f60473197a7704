// Row: one form of one instruction, parsed from the table_*.inc files, which are the single source
// of everything Skerry knows about an instruction: encoding, operands, flags, features, legality.
// The decoder, the disassembler, the re-encoder and the test generator all derive from rows.
//
// How a row is written is explained in table.hpp. Rows are parsed once, at first use (about 1 ms);
// afterwards everything is immutable and may be read from any thread.
#pragma once

#include <atomic>
#include <span>
#include <string_view>

#include "isa/feature.hpp"
#include "isa/insn.hpp"

namespace skerry::isa {

/// Where an operand comes from. Capital letters are those of the SDM's opcode map (volume 2D, A.2).
enum class Method : u8 {
  none,
  E,     ///< ModRM.rm: general register or memory
  G,     ///< ModRM.reg: general register
  M,     ///< ModRM.rm: memory only
  R,     ///< ModRM.rm: general register only
  B,     ///< VEX.vvvv: general register
  Z,     ///< low three bits of the opcode: general register
  S,     ///< ModRM.reg: segment register
  C,     ///< ModRM.reg: control register
  D,     ///< ModRM.reg: debug register
  P,     ///< ModRM.reg: MMX register
  Q,     ///< ModRM.rm: MMX register or memory
  N,     ///< ModRM.rm: MMX register only
  V,     ///< ModRM.reg: vector register
  H,     ///< VEX.vvvv: vector register
  W,     ///< ModRM.rm: vector register or memory
  U,     ///< ModRM.rm: vector register only
  L,     ///< imm8[7:4]: vector register
  T,     ///< ModRM.rm: memory with a vector index (VSIB)
  KG,    ///< ModRM.reg: mask register
  KH,    ///< VEX.vvvv: mask register
  KE,    ///< ModRM.rm: mask register or memory
  KR,    ///< ModRM.rm: mask register only
  STi,   ///< ModRM.rm: x87 register
  I,     ///< immediate, zero-extended (Iz: sign-extended from 32 to 64 bits)
  Is,    ///< immediate byte, sign-extended to the operand size
  one,   ///< the constant 1 of a shift
  J,     ///< relative branch
  A,     ///< far pointer in the instruction
  O,     ///< memory offset in the instruction
  X,     ///< DS:rSI
  Y,     ///< ES:rDI
  reg,   ///< a fixed general register
  high,  ///< AH
  seg,   ///< a fixed segment register
  st,    ///< ST(0)
  xmm,   ///< a fixed XMM register
  at,    ///< memory at a fixed register: [rAX], [rBX], [rDI]
};

/// Operand sizes. Letters as in the SDM where it has them.
enum class Size : u8 {
  none,
  b,
  w,
  d,
  q,
  t,  ///< 1, 2, 4, 8, 10 bytes
  dq,
  qq,
  oq,  ///< 16, 32, 64
  v,   ///< the operand size: 2, 4, 8
  z,   ///< 2, or 4 when the operand size is 4 or 8
  y,   ///< 4, or 8 with REX.W / VEX.W in 64-bit mode
  n,   ///< 8 in 64-bit mode, else 4
  a,   ///< the address size
  p,   ///< far pointer: operand size + 2
  s,   ///< pseudo-descriptor: 10 in 64-bit mode, else 6
  vv,  ///< twice the operand size (BOUND)
  x,
  h,
  f,
  e,    ///< vector length, its half, quarter, eighth
  dup,  ///< MOVDDUP: 8 for 128-bit vectors, else the vector length
  count,
};

struct OperandSpec {
  Method method = Method::none;
  Size size = Size::none;      ///< as a register (or immediate)
  Size mem_size = Size::none;  ///< as memory
  u8 reg = 0;                  ///< of fixed registers
  bool read = false, write = false, implicit = false;
  u8 broadcast = 0;  ///< EVEX embedded broadcast: element bytes, 0 = not allowed
};

/// Effect on RFLAGS; the masks are disjoint bits of RFLAGS, except `read`.
struct Flags {
  u32 read = 0;
  u32 written = 0;    ///< set or cleared according to the result
  u32 undefined = 0;  ///< changed, but not in a way software may rely on
  u32 cleared = 0, set = 0;
  bool conditional = false;  ///< nothing is written when the (masked) count is 0

  u32 changed() const { return written | undefined | cleared | set; }
  /// Flags whose old value cannot be seen afterwards.
  u32 killed() const { return conditional ? 0 : changed(); }
};

enum class Privilege : u8 {
  none,
  cpl0,  ///< #GP(0) unless CPL is 0
  iopl,  ///< depends on IOPL (CLI, STI, IN, OUT...)
  sem,   ///< the semantics decide (CR4.UMIP, CR4.TSD, CR4.PCE...)
};

struct Row {
  Sem sem = Sem::invalid;
  Class cls = Class::integer;
  Insn::Encoding encoding = Insn::Encoding::legacy;
  u8 map = 0, opcode = 0;
  u8 opcode_bits = 0;       ///< low opcode bits that are not part of it: 3 for +r, 4 for +cc
  u32 mask = 0, value = 0;  ///< condition on the decoder's key, see KeyBit
  bool modrm = false;
  Feature feature = Feature::base;   ///< absent: #UD
  Feature feature2 = Feature::base;  ///< needed as well
  Sem fallback = Sem::invalid;       ///< what runs instead when `feature` is absent (BSF for TZCNT)
  bool vl = false;                   ///< needs AVX512VL unless the vector length is 512
  bool lock = false;                 ///< LOCK allowed with a memory destination
  bool default64 = false;            ///< operand size 64 by default in 64-bit mode
  bool force64 = false;              ///< always 64 in 64-bit mode, 66 ignored
  bool byte_form = false;            ///< Insn::opsize is 1
  bool mandatory66 = false;          ///< 66 is part of the opcode, not an operand size
  bool masked = false, zeroing = false;  ///< EVEX {k}, {z}
  bool merging = false;                  ///< without {z} keeps masked-out elements
  bool mask_required = false;            ///< EVEX.aaa = 0 is #UD (gather, scatter)
  bool rounding = false, sae = false;    ///< EVEX {er}, {sae}
  bool ignore_mod = false;  ///< ModRM.mod is not looked at: always a register (MOV CRn)
  bool uses_vvvv = false;
  bool vsib = false;        ///< memory with a vector index
  bool has_source = false;  ///< MOVS, CMPS: Insn::mem is the DS:rSI operand
  bool distinct = false;    ///< gather: destination, index and mask registers must differ
  u8 disp8 = 0;             ///< EVEX disp8*N when N is not the memory operand's size
  Privilege privilege = Privilege::none;
  u8 operands = 0, explicit_operands = 0;
  OperandSpec op[6];
  Flags flags;
  std::string_view names;  ///< for the disassembler: one name, or by operand size "cbw|cwde|cdqe"
  std::string_view text_operands, text_encoding, text_flags, text_notes;  ///< as in the table
};

std::span<const Row> rows();

namespace detail {
inline std::atomic<const Row*> first_row{nullptr};  ///< once they were parsed
}
inline const Row& row_of(const Insn& insn) {
  const Row* first = detail::first_row.load(std::memory_order_acquire);
  return first ? first[insn.row] : rows()[insn.row];
}

/// Whether a processor with these features knows the instruction (SDM: else #UD).
bool feature_allowed(const Insn& insn, const FeatureSet& features);

/// The decoder's key: what, besides the opcode, selects a row. A row matches when
/// (key & mask) == value.
enum KeyBit : u32 {
  kKey64 = 1u << 0,         ///< 64-bit mode
  kKeyProtected = 1u << 1,  ///< protected, long
  kKeyPp = 3u << 2,         ///< none, 66, F3, F2
  kKeyPpRep = 2u << 2,
  kKeyMod3 = 1u << 4,
  kKeyReg = 7u << 5,
  kKeyRm = 7u << 8,
  kKeyW = 1u << 11,
  kKeyL = 3u << 12,
  kKeyNot128 = 1u << 14,
  kKeyRexB = 1u << 15,
};

/// The rows that may match an opcode, most specific first.
struct Candidate {
  u32 mask, value;
  u16 row;
};
struct Slot {
  u16 first = 0;
  u8 count = 0;
  bool modrm : 1 = false;
  bool by_reg : 1 = false;  ///< first is the first of 8 sub-slots, by ModRM.reg
};
struct OpcodeMap {
  std::span<const Slot> slots;  ///< [table * 256 + opcode]; table: legacy 0-3, VEX 4-6, EVEX 7-12
  std::span<const Slot> by_reg;
  std::span<const Candidate> candidates;
  std::span<const Row> rows;
};
const OpcodeMap& opcode_map();

/// Index of the table of (encoding, map) in OpcodeMap::slots, or -1.
constexpr int opcode_table(Insn::Encoding encoding, unsigned map) {
  switch (encoding) {
    case Insn::Encoding::legacy: return map < 4 ? static_cast<int>(map) : -1;
    case Insn::Encoding::vex: return map >= 1 && map <= 3 ? static_cast<int>(3 + map) : -1;
    case Insn::Encoding::evex: return map >= 1 && map <= 6 ? static_cast<int>(6 + map) : -1;
  }
  return -1;
}
constexpr unsigned kOpcodeTables = 13;

/// Pairs of rows that match the same bytes without one being more specific; empty unless the table
/// is wrong. For the tests.
std::span<const std::pair<u16, u16>> ambiguous_rows();

}  // namespace skerry::isa
