// SHL, SHR, SAR, ROL, ROR, RCL, RCR by 1, CL or an immediate; SHLD, SHRD; SHLX, SHRX, SARX, RORX.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

enum class By : u8 { immediate, cl };

template <By by>
[[gnu::always_inline]] inline unsigned count_of(const Cpu& cpu, const Op& op) {
  return static_cast<u8>(by == By::cl ? cpu.gpr[machine::rcx] : op.imm);
}

template <class Shift, class T, By by>
Flow shift_register(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst,
         Shift::template run<T>(cpu.flags, get<T>(cpu, op.dst), count_of<by>(cpu, op)));
  return Flow::next;
}
/// Memory is written even if the count is 0.
template <class Shift, class T, By by>
Flow shift_memory(Cpu& cpu, const Op& op) {
  unsigned count = count_of<by>(cpu, op);
  LazyFlags before = cpu.flags, after = before;
  auto change = [&](T old) {
    after = before;
    return Shift::template run<T>(after, old, count);
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), false, change)) return cpu.failed();
  cpu.flags = after;
  return Flow::next;
}
/// The forms that shift by one have no immediate; count 1 is built in.
template <class Shift, class T>
Flow shift_register_once(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, Shift::template run<T>(cpu.flags, get<T>(cpu, op.dst), 1));
  return Flow::next;
}
template <class Shift, class T>
Flow shift_memory_once(Cpu& cpu, const Op& op) {
  LazyFlags before = cpu.flags, after = before;
  auto change = [&](T old) {
    after = before;
    return Shift::template run<T>(after, old, 1);
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), false, change)) return cpu.failed();
  cpu.flags = after;
  return Flow::next;
}

template <class Shift>
Handler shift(const Insn& i) {
  return by_size(i.op[0].size, [&]<class T>() -> Handler {
    bool memory = is_memory(i.op[0]);
    switch (i.opcode) {
      case 0xd0:
      case 0xd1: return memory ? shift_memory_once<Shift, T> : shift_register_once<Shift, T>;
      case 0xd2:
      case 0xd3: return memory ? shift_memory<Shift, T, By::cl> : shift_register<Shift, T, By::cl>;
      default:
        return memory ? shift_memory<Shift, T, By::immediate>
                      : shift_register<Shift, T, By::immediate>;
    }
  });
}

template <class Shift, class T, By by>
Flow double_shift(Cpu& cpu, const Op& op) {
  unsigned count = count_of<by>(cpu, op);
  T b = get<T>(cpu, op.src);
  if (op.dst != 0xff) {
    put<T>(cpu, op.dst, Shift::template run<T>(cpu.flags, get<T>(cpu, op.dst), b, count));
    return Flow::next;
  }
  LazyFlags before = cpu.flags, after = before;
  auto change = [&](T old) {
    after = before;
    return Shift::template run<T>(after, old, b, count);
  };
  if (!cpu.modify<T>(op.segment, cpu.ea(op), false, change)) return cpu.failed();
  cpu.flags = after;
  return Flow::next;
}
template <class Shift>
Handler double_shift_of(const Insn& i) {
  return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
    // 0F A4, AC: immediate; 0F A5, AD: CL.
    return i.opcode & 1 ? double_shift<Shift, T, By::cl> : double_shift<Shift, T, By::immediate>;
  });
}

// ---- BMI2: no flags. Operands: destination, r/m, count.

struct Shlx {
  template <class T>
  static T value(T a, unsigned n) {
    return a << n;
  }
};
struct Shrx {
  template <class T>
  static T value(T a, unsigned n) {
    return a >> n;
  }
};
struct Sarx {
  template <class T>
  static T value(T a, unsigned n) {
    return static_cast<T>(static_cast<Signed<T>>(a) >> n);
  }
};
struct Rorx {
  template <class T>
  static T value(T a, unsigned n) {
    return std::rotr(a, static_cast<int>(n));
  }
};

template <class Shift, class T, bool kImmediate>
Flow shift_x(Cpu& cpu, const Op& op) {
  T a;
  if (op.src == 0xff) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), a)) return cpu.failed();
  } else {
    a = get<T>(cpu, op.src);
  }
  u64 count = kImmediate ? op.imm : cpu.gpr[op.insn->op[2].reg];
  put<T>(cpu, op.dst, Shift::template value<T>(a, static_cast<unsigned>(count) & kCountMask<T>));
  return Flow::next;
}
template <class Shift, bool kImmediate = false>
Handler shift_x_of(const Insn& i) {
  return by_vex_size(i.op[0].size,
                     []<class T>() -> Handler { return shift_x<Shift, T, kImmediate>; });
}

}  // namespace

Handler select_shift(const Insn& i) {
  switch (i.sem) {
    case Sem::shl:
    case Sem::sal: return shift<Shl>(i);
    case Sem::shr: return shift<Shr>(i);
    case Sem::sar: return shift<Sar>(i);
    case Sem::rol: return shift<Rol>(i);
    case Sem::ror: return shift<Ror>(i);
    case Sem::rcl: return shift<Rcl>(i);
    case Sem::rcr: return shift<Rcr>(i);
    case Sem::shld: return double_shift_of<Shld>(i);
    case Sem::shrd: return double_shift_of<Shrd>(i);
    case Sem::shlx: return shift_x_of<Shlx>(i);
    case Sem::shrx: return shift_x_of<Shrx>(i);
    case Sem::sarx: return shift_x_of<Sarx>(i);
    case Sem::rorx: return shift_x_of<Rorx, true>(i);
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
