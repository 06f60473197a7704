// MUL, IMUL, MULX, DIV, IDIV; AAA, AAS, AAD, AAM, DAA, DAS.
#include "engine/soft/arith_wide.hpp"
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;
using machine::rax;
using machine::rdx;

/// The operand that may be a register (at `number` of the explicit operands) or memory.
template <class T>
[[gnu::always_inline]] inline bool operand(Cpu& cpu, const Op& op, u8 at, T& v) {
  if (at == 0xff) return cpu.read<T>(op.segment, cpu.ea(op), v);
  v = get<T>(cpu, at);
  return true;
}

/// rDX:rAX (AX for bytes) as high and low half.
template <class T>
Product<T> accumulator(const Cpu& cpu) {
  if constexpr (sizeof(T) == 1)
    return {get<u8>(cpu, 0), get<u8>(cpu, 1)};
  else
    return {reg<T>(cpu, rax), reg<T>(cpu, rdx)};
}
template <class T>
void set_accumulator(Cpu& cpu, T low, T high) {
  if constexpr (sizeof(T) == 1) {
    set_reg<u16>(cpu, rax, static_cast<u16>(high << 8 | low));
  } else {
    set_reg<T>(cpu, rax, low);
    set_reg<T>(cpu, rdx, high);
  }
}

template <class T, bool kSigned>
Flow mul(Cpu& cpu, const Op& op) {
  T v;
  if (!operand<T>(cpu, op, op.dst, v)) return cpu.failed();
  T a = reg<T>(cpu, rax);
  Product<T> p = kSigned ? multiply_signed<T>(a, v) : multiply<T>(a, v);
  set_accumulator<T>(cpu, p.low, p.high);
  multiply_flags<T>(cpu.flags, p, kSigned);
  return Flow::next;
}
/// The forms with two and three operands, which keep the low half only.
template <class T, bool kMemory, bool kImmediate>
Flow imul(Cpu& cpu, const Op& op) {
  T v;
  if constexpr (kMemory) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    v = get<T>(cpu, op.src);
  }
  T by = kImmediate ? static_cast<T>(op.imm) : get<T>(cpu, op.dst);
  Product<T> p = multiply_signed<T>(v, by);
  put<T>(cpu, op.dst, p.low);
  multiply_flags<T>(cpu.flags, p, true);
  return Flow::next;
}
/// MULX high, low, r/m: times rDX, no flags; the high half wins if both are one register.
template <class T>
Flow mulx(Cpu& cpu, const Op& op) {
  const isa::Operand& other = op.insn->op[2];
  T v;
  if (!operand<T>(cpu, op, is_memory(other) ? 0xff : static_cast<u8>(other.reg * 8), v))
    return cpu.failed();
  Product<T> p = multiply<T>(reg<T>(cpu, rdx), v);
  put<T>(cpu, op.src, p.low);
  put<T>(cpu, op.dst, p.high);
  return Flow::next;
}
/// Flags (all undefined) stay.
template <class T, bool kSigned>
Flow div(Cpu& cpu, const Op& op) {
  T v;
  if (!operand<T>(cpu, op, op.dst, v)) return cpu.failed();
  Product<T> n = accumulator<T>(cpu);
  Quotient<T> q;
  bool ok = kSigned ? divide_signed<T>(n.high, n.low, v, q) : divide<T>(n.high, n.low, v, q);
  if (!ok) return cpu.raise(DE);
  set_accumulator<T>(cpu, q.quotient, q.remainder);
  return Flow::next;
}

template <u16 (*adjust)(LazyFlags&, u16)>
Flow decimal(Cpu& cpu, const Op&) {
  set_reg<u16>(cpu, rax, adjust(cpu.flags, reg<u16>(cpu, rax)));
  return Flow::next;
}
Flow aam_handler(Cpu& cpu, const Op& op) {
  u8 base = static_cast<u8>(op.imm);
  if (base == 0) return cpu.raise(DE);
  set_reg<u16>(cpu, rax, aam(cpu.flags, reg<u16>(cpu, rax), base));
  return Flow::next;
}
Flow aad_handler(Cpu& cpu, const Op& op) {
  set_reg<u16>(cpu, rax, aad(cpu.flags, reg<u16>(cpu, rax), static_cast<u8>(op.imm)));
  return Flow::next;
}

Handler select_imul(const Insn& i) {
  bool one_operand = i.map == 0 && (i.opcode == 0xf6 || i.opcode == 0xf7);
  if (one_operand) return by_size(i.op[0].size, []<class T>() -> Handler { return mul<T, true>; });
  return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
    bool immediate = is_immediate(i.op[2]);
    if (is_memory(i.op[1])) return immediate ? imul<T, true, true> : imul<T, true, false>;
    return immediate ? imul<T, false, true> : imul<T, false, false>;
  });
}

}  // namespace

Handler select_muldiv(const Insn& i) {
  switch (i.sem) {
    case Sem::mul: return by_size(i.op[0].size, []<class T>() -> Handler { return mul<T, false>; });
    case Sem::imul: return select_imul(i);
    case Sem::mulx: return by_vex_size(i.op[0].size, []<class T>() -> Handler { return mulx<T>; });
    case Sem::div: return by_size(i.op[0].size, []<class T>() -> Handler { return div<T, false>; });
    case Sem::idiv: return by_size(i.op[0].size, []<class T>() -> Handler { return div<T, true>; });
    case Sem::aaa: return decimal<aaa>;
    case Sem::aas: return decimal<aas>;
    case Sem::daa: return decimal<daa>;
    case Sem::das: return decimal<das>;
    case Sem::aam: return aam_handler;
    case Sem::aad: return aad_handler;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
