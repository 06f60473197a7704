// XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. All of them write memory in every case, as the SDM
// says; XCHG with memory is locked without a prefix.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

template <class T>
Flow xchg_register(Cpu& cpu, const Op& op) {
  T a = get<T>(cpu, op.dst), b = get<T>(cpu, op.src);
  put<T>(cpu, op.dst, b);
  put<T>(cpu, op.src, a);
  return Flow::next;
}
/// The register may be the first or the second operand.
template <class T>
Flow xchg_memory(Cpu& cpu, const Op& op) {
  u8 at = op.dst == 0xff ? op.src : op.dst;
  T v = get<T>(cpu, at), old = 0;
  auto change = [&old, v](T o) {
    old = o;
    return v;
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), true, change)) return cpu.failed();
  put<T>(cpu, at, old);
  return Flow::next;
}

template <class T>
Flow xadd_register(Cpu& cpu, const Op& op) {
  T a = get<T>(cpu, op.dst), b = get<T>(cpu, op.src), r = a + b;
  put<T>(cpu, op.src, a);
  put<T>(cpu, op.dst, r);
  Add::flags<T>(cpu.flags, a, b, r);
  return Flow::next;
}
template <class T, bool kLocked>
Flow xadd_memory(Cpu& cpu, const Op& op) {
  T b = get<T>(cpu, op.src), a = 0;
  auto change = [&a, b](T old) {
    a = old;
    return static_cast<T>(old + b);
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), kLocked, change)) return cpu.failed();
  put<T>(cpu, op.src, a);
  Add::flags<T>(cpu.flags, a, b, static_cast<T>(a + b));
  return Flow::next;
}

/// What CMPXCHG does after the comparison of `expected` (the accumulator) with `found`.
template <class T>
void compared(Cpu& cpu, T expected, T found) {
  Cmp::flags<T>(cpu.flags, expected, found, static_cast<T>(expected - found));
  if (expected != found) set_reg<T>(cpu, machine::rax, found);
}
template <class T>
Flow cmpxchg_register(Cpu& cpu, const Op& op) {
  T expected = reg<T>(cpu, machine::rax), found = get<T>(cpu, op.dst);
  T wanted = get<T>(cpu, op.src);
  if (expected == found) put<T>(cpu, op.dst, wanted);
  compared<T>(cpu, expected, found);
  return Flow::next;
}
template <class T, bool kLocked>
Flow cmpxchg_memory(Cpu& cpu, const Op& op) {
  T expected = reg<T>(cpu, machine::rax), wanted = get<T>(cpu, op.src), found = 0;
  auto change = [&found, expected, wanted](T old) {
    found = old;
    return old == expected ? wanted : old;
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), kLocked, change)) return cpu.failed();
  compared<T>(cpu, expected, found);
  return Flow::next;
}

/// Pair: the double-width integer. CMPXCHG16B needs alignment (#GP).
template <class Half, class Pair>
Flow cmpxchg_pair(Cpu& cpu, const Op& op) {
  auto join = [](Half high, Half low) { return (static_cast<Pair>(high) << kBits<Half>) | low; };
  u64 at = cpu.ea(op);
  if (sizeof(Pair) == 16 && ((cpu.seg_base[op.segment] + at) & 15)) return cpu.raise(GP, 0);
  Pair expected = join(reg<Half>(cpu, machine::rdx), reg<Half>(cpu, machine::rax));
  Pair wanted = join(reg<Half>(cpu, machine::rcx), reg<Half>(cpu, machine::rbx)), found = 0;
  auto change = [&found, expected, wanted](Pair old) {
    found = old;
    return old == expected ? wanted : old;
  };
  if (!cpu.modify<Pair>(op.segment, at, op.insn->lock, change)) return cpu.failed();
  bool equal = found == expected;
  if (!equal) {
    set_reg<Half>(cpu, machine::rax, static_cast<Half>(found));
    set_reg<Half>(cpu, machine::rdx, static_cast<Half>(found >> kBits<Half>));
  }
  from_eflags(cpu.flags, (to_eflags(cpu.flags) & ~u64{ZF}) | (equal ? u64{ZF} : 0));
  return Flow::next;
}

}  // namespace

Handler select_exchange(const Insn& i) {
  switch (i.sem) {
    case Sem::xchg:
      return by_size(i.op[0].size, [&]<class T>() -> Handler {
        return is_memory(i.op[0]) || is_memory(i.op[1]) ? xchg_memory<T> : xchg_register<T>;
      });
    case Sem::xadd:
      return by_size(i.op[0].size, [&]<class T>() -> Handler {
        if (!is_memory(i.op[0])) return xadd_register<T>;
        return i.lock ? xadd_memory<T, true> : xadd_memory<T, false>;
      });
    case Sem::cmpxchg:
      return by_size(i.op[0].size, [&]<class T>() -> Handler {
        if (!is_memory(i.op[0])) return cmpxchg_register<T>;
        return i.lock ? cmpxchg_memory<T, true> : cmpxchg_memory<T, false>;
      });
    case Sem::cmpxchg8b: return cmpxchg_pair<u32, u64>;
    case Sem::cmpxchg16b: return cmpxchg_pair<u64, u128>;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
