// How a row of table_*.inc is written. Each row is one form of one instruction:
//
//   I(sem, "operands", "encoding", "flags", feature, notes)
//   I(adc, "Eb:rw, Gb", "10 /r", "R:c W:oszapc", base, LOCK)
//
// operands: in assembly order, then implicit ones in <>. A letter for the place (enum Method: E G M
// R
//   B Z S C D, P Q N for MMX, V H W U L for vectors, T for VSIB memory, Kg Kh Ke Kr for masks, I Is
//   J A O X Y), then the size (enum Size). "Rv/Mw": register and memory of different size. Fixed
//   registers by name: AL, AX, EAX, RAX; rAX by operand size, zAX (2 or 4), yAX (4 or 8), aCX by
//   address size; rSP and rBP as stack pointers. ES-GS, ST0, STi, XMM0, 1; [rBX]b is memory.
//   Access after a colon: r (the default), w, rw, or n: not accessed. A vector register is at least
//   16 bytes wide, so Wd is an XMM register or 4 bytes of memory.
//   {b4} {b8}: EVEX memory may broadcast one element.
// encoding: legacy: [NP|NFx|66|F3|F2] [0F [38|3A]] opcode[+r|+cc] [modrm byte[+i]] [/r|/digit]
//   VEX.[128|256|L0|L1].[NP|66|F3|F2].[0F|0F38|0F3A].[W0|W1] opcode ...; EVEX the same, with 512
//   and 256+ (not 128). What is left out does not matter. NFx: neither F3 nor F2. Then, as needed:
//   mem, reg: ModRM.mod; W0, W1. Immediates follow from the operands.
// flags: R: read, W: written by the result, U: undefined, C: cleared, S: set; then the letters
//   o d i t s z a p c, n (NT) r (RF) v (VM) m (AC) l (IOPL) f (VIF) q (VIP) y (ID), or cc: as the
//   condition. W?: and U?: nothing at all changes when the count is 0.
// feature: the CPUID feature it needs; base: none.
// notes: LOCK (allowed), NOT64, ONLY64, PROTECTED (#UD in real and virtual-8086 mode), D64 (64-bit
//   operand size by default), F64 (always), REXB0, CPL0, IOPL, SENSITIVE (the semantics check),
//   AND(f): feature f is needed as well, VL: AVX512VL unless 512 bits, ELSE(sem): what it is
//   without the feature, AS(name) or AS(name16|name32|name64): for the disassembler, K, KZ, KREQ:
//   EVEX mask allowed, zeroing too, required; ER, SAE, DISTINCT, N1-N8: EVEX rounding, gather's
//   register rule, disp8*N.
#pragma once

#include <span>

#include "isa/row.hpp"

namespace skerry::isa {

struct RowText {
  Sem sem;
  const char *name, *operands, *encoding, *flags;
  Feature feature;
  const char* notes;
  Class cls;
};

/// The table as written.
std::span<const RowText> row_texts();

/// Parses one row; a mistake in the table is our bug and aborts with the row's text.
Row parse_row(const RowText& text);

}  // namespace skerry::isa
