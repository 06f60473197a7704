// Direct handlers for the SSE2 moves and integer operations that libc's string functions and
// compilers use everywhere: no thunk, no staging buffer. Exactly the same semantics; a form that is
// not here runs as a thunk.
#include <emmintrin.h>

#include "engine/soft/access.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {
namespace {

using isa::Insn;
using isa::OperandKind;
using isa::Sem;

/// The legacy SSE gate (SDM 2A table 2-15 and on).
[[gnu::always_inline]] inline bool sse_open(Cpu& cpu) {
  if (__builtin_expect(((cpu.s.cr0 & (kCr0Em | kCr0Ts)) | (~cpu.s.cr4 & kCr4OsFxsr)) == 0, 1))
    return true;
  return pass_gate_slow(cpu, Gate{kCr0Em | kCr0Ts, kCr4OsFxsr, 0, false, false});
}

u8* xmm(Cpu& cpu, const Op& op, unsigned i) {
  return &cpu.s.xsave[area::kXmm + 16u * op.insn->op[i].reg];
}
__m128i get(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
void put(void* p, __m128i v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), v);
}

template <bool kAligned>
bool load128(Cpu& cpu, const Op& op, u128& value) {
  u64 offset = cpu.ea(op);
  if (kAligned && misaligned(cpu, op.segment, offset, 16)) {
    cpu.raise(GP, 0);
    return false;
  }
  return cpu.read<u128>(op.segment, offset, value);
}

// ---- whole-register moves
// --------------------------------------------------------------------------

template <bool kAligned>
Flow move_load(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u128 value = 0;
  if (!load128<kAligned>(cpu, op, value)) return cpu.failed();
  store(xmm(cpu, op, 0), value);
  return Flow::next;
}

template <bool kAligned>
Flow move_store(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u64 offset = cpu.ea(op);
  if (kAligned && misaligned(cpu, op.segment, offset, 16)) return cpu.raise(GP, 0);
  return cpu.write<u128>(op.segment, offset, load<u128>(xmm(cpu, op, 1))) ? Flow::next
                                                                          : cpu.failed();
}

Flow move_register(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  put(xmm(cpu, op, 0), get(xmm(cpu, op, 1)));
  return Flow::next;
}

Handler move(const Insn& insn, bool aligned) {
  if (insn.op[0].kind == OperandKind::memory) return aligned ? move_store<true> : move_store<false>;
  if (insn.op[1].kind == OperandKind::memory) return aligned ? move_load<true> : move_load<false>;
  return move_register;
}

// ---- scalars
// ---------------------------------------------------------------------------------------

/// Low T of an XMM register to memory: MOVD, MOVQ, MOVSS, MOVSD, MOVLPS, MOVLPD; kHigh: MOVHPS.
template <class T, bool kHigh = false>
Flow scalar_store(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  T value = load<T>(xmm(cpu, op, 1) + (kHigh ? 8 : 0));
  return cpu.write<T>(op.segment, cpu.ea(op), value) ? Flow::next : cpu.failed();
}

/// Memory to the low T, zeroing the rest.
template <class T>
Flow scalar_load(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  T value = 0;
  if (!cpu.read<T>(op.segment, cpu.ea(op), value)) return cpu.failed();
  store(xmm(cpu, op, 0), static_cast<u128>(value));
  return Flow::next;
}

/// Memory to one half, keeping the other: MOVLPS, MOVHPS and their double forms.
template <bool kHigh>
Flow half_load(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u64 value = 0;
  if (!cpu.read<u64>(op.segment, cpu.ea(op), value)) return cpu.failed();
  store(xmm(cpu, op, 0) + (kHigh ? 8 : 0), value);
  return Flow::next;
}

/// MOVSS, MOVSD between registers: the rest stays.
template <class T>
Flow scalar_merge(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  store(xmm(cpu, op, 0), load<T>(xmm(cpu, op, 1)));
  return Flow::next;
}

/// MOVQ between registers: the upper half becomes 0.
Flow movq_register(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  store(xmm(cpu, op, 0), static_cast<u128>(load<u64>(xmm(cpu, op, 1))));
  return Flow::next;
}

template <class T>
Flow from_gpr(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  store(xmm(cpu, op, 0), static_cast<u128>(static_cast<T>(cpu.gpr[op.insn->op[1].reg])));
  return Flow::next;
}

template <class T>
Flow to_gpr(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  cpu.gpr[op.insn->op[0].reg] = load<T>(xmm(cpu, op, 1));
  return Flow::next;
}

template <class T>
Handler scalar(const Insn& insn, bool merge) {
  const auto& d = insn.op[0];
  const auto& s = insn.op[1];
  if (d.kind == OperandKind::memory) return scalar_store<T>;
  if (s.kind == OperandKind::memory) return scalar_load<T>;
  if (d.kind == OperandKind::gpr) return to_gpr<T>;
  if (s.kind == OperandKind::gpr) return from_gpr<T>;
  return merge ? scalar_merge<T> : movq_register;
}

// ---- two operands
// ----------------------------------------------------------------------------------

template <auto F>
Flow binary_register(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u8* d = xmm(cpu, op, 0);
  put(d, F(get(d), get(xmm(cpu, op, 1))));
  return Flow::next;
}
template <auto F>
Flow binary_memory(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u128 value = 0;
  if (!load128<true>(cpu, op, value)) return cpu.failed();
  u8* d = xmm(cpu, op, 0);
  put(d, F(get(d), get(&value)));
  return Flow::next;
}
template <auto F>
Handler binary(const Insn& insn) {
  return insn.op[1].kind == OperandKind::memory ? binary_memory<F> : binary_register<F>;
}
#define SKERRY_BINARY(intrinsic)                                     \
  binary < [](__m128i a, __m128i b) __attribute__((always_inline)) { \
    return intrinsic(a, b);                                          \
  }                                                                  \
  > (insn)

template <auto F>
Flow mask_bits(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  cpu.gpr[op.insn->op[0].reg] = static_cast<u32>(F(get(xmm(cpu, op, 1))));
  return Flow::next;
}

/// PSHUFD.
template <bool kMemory>
Flow shuffle(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u32 in[4], out[4];
  if constexpr (kMemory) {
    u128 value = 0;
    if (!load128<true>(cpu, op, value)) return cpu.failed();
    std::memcpy(in, &value, 16);
  } else {
    std::memcpy(in, xmm(cpu, op, 1), 16);
  }
  u8 order = static_cast<u8>(op.insn->imm);
  for (unsigned i = 0; i < 4; i++) out[i] = in[order >> (2 * i) & 3];
  std::memcpy(xmm(cpu, op, 0), out, 16);
  return Flow::next;
}

/// PSLLDQ, PSRLDQ: shifts by bytes.
template <bool kLeft>
Flow byte_shift(Cpu& cpu, const Op& op) {
  if (!sse_open(cpu)) return Flow::fault;
  u8* d = xmm(cpu, op, 0);
  u128 v = load<u128>(d);
  unsigned count = static_cast<u8>(op.insn->imm);
  store(d, count > 15 ? u128{0} : kLeft ? v << (8 * count) : v >> (8 * count));
  return Flow::next;
}

}  // namespace

Handler select_fast_vector(const Insn& insn) {
  if (insn.encoding != Insn::Encoding::legacy) return nullptr;
  switch (insn.sem) {
    case Sem::movaps:
    case Sem::movapd:
    case Sem::movdqa:
    case Sem::movntps:
    case Sem::movntpd:
    case Sem::movntdq: return move(insn, true);
    case Sem::movups:
    case Sem::movupd:
    case Sem::movdqu:
    case Sem::lddqu: return move(insn, false);
    case Sem::movd:
    case Sem::movq:
      return insn.op[0].size == 8 || insn.op[1].size == 8 ? scalar<u64>(insn, false)
                                                          : scalar<u32>(insn, false);
    case Sem::movss: return scalar<u32>(insn, true);
    case Sem::movsd: return scalar<u64>(insn, true);
    case Sem::movlps:
    case Sem::movlpd:
      return insn.op[0].kind == OperandKind::memory ? scalar_store<u64> : half_load<false>;
    case Sem::movhps:
    case Sem::movhpd:
      return insn.op[0].kind == OperandKind::memory ? scalar_store<u64, true> : half_load<true>;
    case Sem::pxor:
    case Sem::xorps:
    case Sem::xorpd: return SKERRY_BINARY(_mm_xor_si128);
    case Sem::por:
    case Sem::orps:
    case Sem::orpd: return SKERRY_BINARY(_mm_or_si128);
    case Sem::pand:
    case Sem::andps:
    case Sem::andpd: return SKERRY_BINARY(_mm_and_si128);
    case Sem::pandn:
    case Sem::andnps:
    case Sem::andnpd: return SKERRY_BINARY(_mm_andnot_si128);
    case Sem::pcmpeqb: return SKERRY_BINARY(_mm_cmpeq_epi8);
    case Sem::pcmpeqw: return SKERRY_BINARY(_mm_cmpeq_epi16);
    case Sem::pcmpeqd: return SKERRY_BINARY(_mm_cmpeq_epi32);
    case Sem::pcmpgtb: return SKERRY_BINARY(_mm_cmpgt_epi8);
    case Sem::pcmpgtw: return SKERRY_BINARY(_mm_cmpgt_epi16);
    case Sem::pcmpgtd: return SKERRY_BINARY(_mm_cmpgt_epi32);
    case Sem::paddb: return SKERRY_BINARY(_mm_add_epi8);
    case Sem::paddw: return SKERRY_BINARY(_mm_add_epi16);
    case Sem::paddd: return SKERRY_BINARY(_mm_add_epi32);
    case Sem::paddq: return SKERRY_BINARY(_mm_add_epi64);
    case Sem::psubb: return SKERRY_BINARY(_mm_sub_epi8);
    case Sem::psubw: return SKERRY_BINARY(_mm_sub_epi16);
    case Sem::psubd: return SKERRY_BINARY(_mm_sub_epi32);
    case Sem::psubq: return SKERRY_BINARY(_mm_sub_epi64);
    case Sem::pminub: return SKERRY_BINARY(_mm_min_epu8);
    case Sem::pmaxub: return SKERRY_BINARY(_mm_max_epu8);
    case Sem::pminsw: return SKERRY_BINARY(_mm_min_epi16);
    case Sem::pmaxsw: return SKERRY_BINARY(_mm_max_epi16);
    case Sem::psubusb: return SKERRY_BINARY(_mm_subs_epu8);
    case Sem::pmullw: return SKERRY_BINARY(_mm_mullo_epi16);
    case Sem::pmuludq: return SKERRY_BINARY(_mm_mul_epu32);
    case Sem::punpcklbw: return SKERRY_BINARY(_mm_unpacklo_epi8);
    case Sem::punpcklwd: return SKERRY_BINARY(_mm_unpacklo_epi16);
    case Sem::punpckldq: return SKERRY_BINARY(_mm_unpacklo_epi32);
    case Sem::punpcklqdq: return SKERRY_BINARY(_mm_unpacklo_epi64);
    case Sem::punpckhbw: return SKERRY_BINARY(_mm_unpackhi_epi8);
    case Sem::punpckhwd: return SKERRY_BINARY(_mm_unpackhi_epi16);
    case Sem::punpckhdq: return SKERRY_BINARY(_mm_unpackhi_epi32);
    case Sem::punpckhqdq: return SKERRY_BINARY(_mm_unpackhi_epi64);
    case Sem::pmovmskb: return mask_bits<[](__m128i v) { return _mm_movemask_epi8(v); }>;
    case Sem::movmskps:
      return mask_bits<[](__m128i v) { return _mm_movemask_ps(_mm_castsi128_ps(v)); }>;
    case Sem::movmskpd:
      return mask_bits<[](__m128i v) { return _mm_movemask_pd(_mm_castsi128_pd(v)); }>;
    case Sem::pshufd:
      return insn.op[1].kind == OperandKind::memory ? shuffle<true> : shuffle<false>;
    case Sem::pslldq: return byte_shift<true>;
    case Sem::psrldq: return byte_shift<false>;
    default: return nullptr;
  }
}

}  // namespace skerry::soft
