// Near control flow: JMP, CALL, RET, Jcc, JCXZ, LOOP, LOOPE, LOOPNE. SDM 2 the instruction pages.
//
// In 64-bit mode the operand size of near branches is 64 bits whatever the prefixes, so a handler
// for 64-bit operands knows that code is flat.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;
using machine::rcx;
using machine::rsp;

/// Whether RIP may become `target` in 64-bit mode (48-bit linear addresses).
constexpr bool is_canonical(u64 target) {
  return static_cast<u64>(static_cast<i64>(target << 16) >> 16) == target;
}

/// T: the operand size, to which the instruction pointer is cut.
template <class T>
[[gnu::always_inline]] inline Flow go(Cpu& cpu, u64 target) {
  if constexpr (sizeof(T) == 8) {
    if (!is_canonical(target)) [[unlikely]]
      return cpu.raise(GP, 0);
    cpu.rip = target;
    return Flow::branch;
  } else {
    return cpu.jump(static_cast<T>(target));
  }
}
/// The same test without going.
template <class T>
[[gnu::always_inline]] inline bool allowed(const Cpu& cpu, u64 target) {
  return sizeof(T) == 8 ? is_canonical(target)
                        : static_cast<T>(target) <= cpu.seg[machine::cs].limit;
}

template <class T>
Flow jmp_relative(Cpu& cpu, const Op& op) {
  return go<T>(cpu, cpu.rip + op.length + op.imm);
}
template <class T>
Flow jmp_register(Cpu& cpu, const Op& op) {
  return go<T>(cpu, get<T>(cpu, op.dst));
}
template <class T>
Flow jmp_memory(Cpu& cpu, const Op& op) {
  T target;
  if (!cpu.read<T>(op.segment, cpu.ea(op), target)) return cpu.failed();
  return go<T>(cpu, target);
}

template <class T>
[[gnu::always_inline]] inline Flow call(Cpu& cpu, const Op& op, u64 target) {
  if (!allowed<T>(cpu, target)) [[unlikely]]
    return cpu.raise(GP, 0);
  u64 back = cpu.rip + op.length;
  if constexpr (sizeof(T) == 8) {
    u64 sp = cpu.gpr[rsp] - 8;
    if (!cpu.write<u64>(machine::ss, sp, back)) return cpu.failed();
    cpu.gpr[rsp] = sp;
  } else {
    if (!cpu.push(static_cast<T>(back), sizeof(T))) return cpu.failed();
  }
  return go<T>(cpu, target);
}
template <class T>
Flow call_relative(Cpu& cpu, const Op& op) {
  return call<T>(cpu, op, cpu.rip + op.length + op.imm);
}
template <class T>
Flow call_register(Cpu& cpu, const Op& op) {
  return call<T>(cpu, op, get<T>(cpu, op.dst));
}
template <class T>
Flow call_memory(Cpu& cpu, const Op& op) {
  T target;
  if (!cpu.read<T>(op.segment, cpu.ea(op), target)) return cpu.failed();
  return call<T>(cpu, op, target);
}

/// RET and RET imm16, which releases that many bytes more.
template <class T>
Flow ret(Cpu& cpu, const Op& op) {
  T target;
  u64 sp = cpu.gpr[rsp] & (sizeof(T) == 8 ? ~u64{0} : stack_mask(cpu));
  if (!cpu.read<T>(machine::ss, sp, target)) return cpu.failed();
  if (!allowed<T>(cpu, target)) [[unlikely]]
    return cpu.raise(GP, 0);
  sp += sizeof(T) + (op.imm & 0xffff);
  if constexpr (sizeof(T) == 8)
    cpu.gpr[rsp] = sp;
  else
    cpu.set_sp(sp);
  return go<T>(cpu, target);
}

template <int c, class T>
Flow jcc(Cpu& cpu, const Op& op) {
  if (!condition<c>(cpu.flags)) return Flow::next;
  return go<T>(cpu, cpu.rip + op.length + op.imm);
}

/// JCXZ and LOOP count in CX, ECX or RCX by address size.
inline u64 count(const Cpu& cpu, const Op& op) {
  return cpu.gpr[rcx] & address_mask(op.addrsize);
}
template <class T>
Flow jcxz(Cpu& cpu, const Op& op) {
  if (count(cpu, op) != 0) return Flow::next;
  return go<T>(cpu, cpu.rip + op.length + op.imm);
}
enum class Until : u8 { count, not_equal, equal };
template <class T, Until until>
Flow loop(Cpu& cpu, const Op& op) {
  u64 left = (count(cpu, op) - 1) & address_mask(op.addrsize);
  bool taken = left != 0;
  if constexpr (until == Until::not_equal) taken &= zf(cpu.flags);
  if constexpr (until == Until::equal) taken &= !zf(cpu.flags);
  Flow flow = Flow::next;
  if (taken) {
    flow = go<T>(cpu, cpu.rip + op.length + op.imm);
    if (flow == Flow::fault) return flow;
  }
  if (op.addrsize == 2)
    set_reg<u16>(cpu, rcx, static_cast<u16>(left));
  else
    cpu.gpr[rcx] = left;
  return flow;
}

template <class T, int... c>
Handler select_jcc(u8 wanted, std::integer_sequence<int, c...>) {
  static constexpr Handler kTable[] = {jcc<c, T>...};
  return kTable[wanted & 15];
}

}  // namespace

Handler select_control(const Insn& i) {
  const isa::Operand& o = i.op[0];
  return by_word_size(i.opsize, [&]<class T>() -> Handler {
    switch (i.sem) {
      case Sem::jcc: return select_jcc<T>(i.condition, std::make_integer_sequence<int, 16>{});
      case Sem::jmp:
        if (is_memory(o)) return jmp_memory<T>;
        return is_register(o) ? jmp_register<T> : jmp_relative<T>;
      case Sem::call:
        if (is_memory(o)) return call_memory<T>;
        return is_register(o) ? call_register<T> : call_relative<T>;
      case Sem::ret: return ret<T>;
      case Sem::jcxz: return jcxz<T>;
      case Sem::loop: return loop<T, Until::count>;
      case Sem::loope: return loop<T, Until::not_equal>;
      case Sem::loopne: return loop<T, Until::equal>;
      default: return nullptr;
    }
  });
}

}  // namespace skerry::soft::integer
