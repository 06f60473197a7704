// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST; INC, DEC, NEG, NOT; ADCX, ADOX.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

template <class Alu>
[[gnu::always_inline]] inline bool carry_for(const Cpu& cpu) {
  if constexpr (Alu::kCarries)
    return cf(cpu.flags);
  else
    return false;
}

template <class Alu, class T, bool kImmediate>
Flow alu_register(Cpu& cpu, const Op& op) {
  T a = get<T>(cpu, op.dst);
  T b = kImmediate ? static_cast<T>(op.imm) : get<T>(cpu, op.src);
  T r = Alu::template value<T>(a, b, carry_for<Alu>(cpu));
  if constexpr (Alu::kWrites) put<T>(cpu, op.dst, r);
  Alu::template flags<T>(cpu.flags, a, b, r);
  return Flow::next;
}

/// XOR r,r and SUB r,r.
template <class T>
Flow alu_zero(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, 0);
  cpu.flags.result = 0;
  cpu.flags.carries = 0;
  return Flow::next;
}

template <class Alu, class T, bool kWide>
Flow alu_load(Cpu& cpu, const Op& op) {
  T b;
  if (!cpu.read<T>(op.segment, address<kWide>(cpu, op), b)) return cpu.failed();
  T a = get<T>(cpu, op.dst);
  T r = Alu::template value<T>(a, b, carry_for<Alu>(cpu));
  if constexpr (Alu::kWrites) put<T>(cpu, op.dst, r);
  Alu::template flags<T>(cpu.flags, a, b, r);
  return Flow::next;
}

template <class Alu, class T, bool kImmediate, bool kWide, bool kLocked>
Flow alu_store(Cpu& cpu, const Op& op) {
  T b = kImmediate ? static_cast<T>(op.imm) : get<T>(cpu, op.src);
  T a = 0, r;
  u64 at = address<kWide>(cpu, op);
  if constexpr (Alu::kWrites) {
    bool c = carry_for<Alu>(cpu);
    auto change = [&a, b, c](T old) {
      a = old;
      return Alu::template value<T>(old, b, c);
    };
    if (!cpu.modify<T>(op.segment, at, kLocked, change)) return cpu.failed();
    r = Alu::template value<T>(a, b, c);
  } else {
    if (!cpu.read<T>(op.segment, at, a)) return cpu.failed();
    r = Alu::template value<T>(a, b, false);
  }
  Alu::template flags<T>(cpu.flags, a, b, r);
  return Flow::next;
}

template <class Alu, class T, bool kImmediate>
Handler alu_store_handler(const Insn& i) {
  bool wide = i.addrsize == 8;
  if constexpr (Alu::kWrites)
    if (i.lock) return alu_store<Alu, T, kImmediate, false, true>;
  return wide ? alu_store<Alu, T, kImmediate, true, false>
              : alu_store<Alu, T, kImmediate, false, false>;
}

template <class Alu>
Handler two_operands(const Insn& i) {
  return by_size(i.op[0].size, [&]<class T>() -> Handler {
    if (is_memory(i.op[0]))
      return is_immediate(i.op[1]) ? alu_store_handler<Alu, T, true>(i)
                                   : alu_store_handler<Alu, T, false>(i);
    if (is_memory(i.op[1]))
      return i.addrsize == 8 ? alu_load<Alu, T, true> : alu_load<Alu, T, false>;
    if (is_immediate(i.op[1])) return alu_register<Alu, T, true>;
    bool same = i.op[0].reg == i.op[1].reg && i.op[0].kind == i.op[1].kind;
    if (same && (i.sem == Sem::xor_ || i.sem == Sem::sub)) return alu_zero<T>;
    return alu_register<Alu, T, false>;
  });
}

template <class Unary, class T>
Flow unary_register(Cpu& cpu, const Op& op) {
  T a = get<T>(cpu, op.dst), r = Unary::template value<T>(a);
  put<T>(cpu, op.dst, r);
  Unary::template flags<T>(cpu.flags, a, r);
  return Flow::next;
}
template <class Unary, class T, bool kLocked>
Flow unary_memory(Cpu& cpu, const Op& op) {
  T a = 0;
  auto change = [&a](T old) {
    a = old;
    return Unary::template value<T>(old);
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), kLocked, change)) return cpu.failed();
  Unary::template flags<T>(cpu.flags, a, Unary::template value<T>(a));
  return Flow::next;
}
template <class Unary>
Handler one_operand(const Insn& i) {
  return by_size(i.op[0].size, [&]<class T>() -> Handler {
    if (!is_memory(i.op[0])) return unary_register<Unary, T>;
    return i.lock ? unary_memory<Unary, T, true> : unary_memory<Unary, T, false>;
  });
}

/// ADCX works on CF alone, ADOX on OF alone.
template <class T, bool kOverflow>
Flow add_carry_only(Cpu& cpu, const Op& op) {
  T b;
  if (op.src == 0xff) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), b)) return cpu.failed();
  } else {
    b = get<T>(cpu, op.src);
  }
  bool c = cf(cpu.flags), o = of(cpu.flags);
  T r, first;
  bool out = __builtin_add_overflow(get<T>(cpu, op.dst), b, &first);
  out |= __builtin_add_overflow(first, static_cast<T>(kOverflow ? o : c), &r);
  put<T>(cpu, op.dst, r);
  set_cf_of(cpu.flags, kOverflow ? c : out, kOverflow ? out : o);
  return Flow::next;
}

}  // namespace

Handler select_alu(const Insn& i) {
  switch (i.sem) {
    case Sem::add: return two_operands<Add>(i);
    case Sem::or_: return two_operands<Or>(i);
    case Sem::adc: return two_operands<Adc>(i);
    case Sem::sbb: return two_operands<Sbb>(i);
    case Sem::and_: return two_operands<And>(i);
    case Sem::sub: return two_operands<Sub>(i);
    case Sem::xor_: return two_operands<Xor>(i);
    case Sem::cmp: return two_operands<Cmp>(i);
    case Sem::test: return two_operands<Test>(i);
    case Sem::inc: return one_operand<Inc>(i);
    case Sem::dec: return one_operand<Dec>(i);
    case Sem::neg: return one_operand<Neg>(i);
    case Sem::not_: return one_operand<Not>(i);
    case Sem::adcx:
      return by_vex_size(i.op[0].size,
                         []<class T>() -> Handler { return add_carry_only<T, false>; });
    case Sem::adox:
      return by_vex_size(i.op[0].size,
                         []<class T>() -> Handler { return add_carry_only<T, true>; });
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
