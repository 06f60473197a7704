// BT, BTS, BTR, BTC; BSF, BSR, TZCNT, LZCNT, POPCNT; ANDN, BLSR, BLSMSK, BLSI, BEXTR, BZHI, PDEP,
// PEXT; CRC32.
#include "engine/soft/arith_wide.hpp"
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

// ---- bit tests: CF is the bit, ZF stays, OF SF AF PF (undefined) stay too

enum class Change : u8 { none, set, reset, complement };

template <Change change, class T>
constexpr T changed(T v, T bit) {
  switch (change) {
    case Change::none: return v;
    case Change::set: return v | bit;
    case Change::reset: return v & ~bit;
    case Change::complement: return v ^ bit;
  }
}

template <Change change, class T, bool kImmediate>
Flow bit_register(Cpu& cpu, const Op& op) {
  T v = get<T>(cpu, op.dst), n = kImmediate ? static_cast<T>(op.imm) : get<T>(cpu, op.src);
  T mask = static_cast<T>(T{1} << (n % kBits<T>));
  if constexpr (change != Change::none) put<T>(cpu, op.dst, changed<change, T>(v, mask));
  set_cf(cpu.flags, v & mask);
  return Flow::next;
}
/// A bit number in a register addresses the bit string around the operand, in both directions.
template <Change change, class T, bool kImmediate, bool kLocked>
Flow bit_memory(Cpu& cpu, const Op& op) {
  u64 at = cpu.ea(op);
  T n;
  if constexpr (kImmediate) {
    n = static_cast<T>(op.imm);
  } else {
    n = get<T>(cpu, op.src);
    i64 words = static_cast<i64>(sext(n)) >> std::countr_zero(kBits<T>);
    at = (at + static_cast<u64>(words) * sizeof(T)) & address_mask(op.addrsize);
  }
  T mask = static_cast<T>(T{1} << (n % kBits<T>)), v = 0;
  if constexpr (change == Change::none) {
    if (!cpu.read<T>(op.segment, at, v)) return cpu.failed();
  } else {
    auto f = [&v, mask](T old) {
      v = old;
      return changed<change, T>(old, mask);
    };
    if (!cpu.modify<T>(op.segment, at, kLocked, f)) return cpu.failed();
  }
  set_cf(cpu.flags, v & mask);
  return Flow::next;
}
template <Change change>
Handler bit_test(const Insn& i) {
  return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
    bool immediate = is_immediate(i.op[1]);
    if (!is_memory(i.op[0]))
      return immediate ? bit_register<change, T, true> : bit_register<change, T, false>;
    if (i.lock)
      return immediate ? bit_memory<change, T, true, true> : bit_memory<change, T, false, true>;
    return immediate ? bit_memory<change, T, true, false> : bit_memory<change, T, false, false>;
  });
}

// ---- operations of one source (a register or memory) and one destination register

template <class Unary, class T, bool kMemory>
Flow unary(Cpu& cpu, const Op& op) {
  T v;
  if constexpr (kMemory) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    v = get<T>(cpu, op.src);
  }
  Unary::template run<T>(cpu, op.dst, v);
  return Flow::next;
}
template <class Unary>
Handler unary_of(const Insn& i) {
  return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
    return is_memory(i.op[1]) ? unary<Unary, T, true> : unary<Unary, T, false>;
  });
}

/// ZF from the source. A zero source leaves the destination as it was, as AMD documents and Intel
/// does.
struct Bsf {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    set_result<T>(cpu.flags, v, false, false);
    if (v != 0) put<T>(cpu, to, static_cast<T>(std::countr_zero(v)));
  }
};
struct Bsr {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    set_result<T>(cpu.flags, v, false, false);
    if (v != 0) put<T>(cpu, to, static_cast<T>(kBits<T> - 1 - std::countl_zero(v)));
  }
};
struct Tzcnt {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    T r = static_cast<T>(std::countr_zero(v));
    set_result<T>(cpu.flags, r, v == 0, false);
    put<T>(cpu, to, r);
  }
};
struct Lzcnt {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    T r = static_cast<T>(std::countl_zero(v));
    set_result<T>(cpu.flags, r, v == 0, false);
    put<T>(cpu, to, r);
  }
};
struct Popcnt {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    from_eflags(cpu.flags, v == 0 ? u64{ZF} : 0);
    put<T>(cpu, to, static_cast<T>(std::popcount(v)));
  }
};
struct Blsr {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    T r = (v - 1) & v;
    set_result<T>(cpu.flags, r, v == 0, false);
    put<T>(cpu, to, r);
  }
};
struct Blsmsk {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    T r = (v - 1) ^ v;
    set_result<T>(cpu.flags, r, v == 0, false);
    put<T>(cpu, to, r);
  }
};
struct Blsi {
  template <class T>
  static void run(Cpu& cpu, u8 to, T v) {
    T r = -v & v;
    set_result<T>(cpu.flags, r, v != 0, false);
    put<T>(cpu, to, r);
  }
};

// ---- VEX operations of two sources. kMiddle: the register source is the second operand (ANDN,
// PDEP, PEXT) instead of the third (BEXTR, BZHI). run(flags, register, r/m).

struct Andn {
  static constexpr bool kMiddle = true;
  template <class T>
  static T run(LazyFlags& f, T a, T b) {
    T r = ~a & b;
    set_result<T>(f, r, false, false);
    return r;
  }
};
struct Pdep {
  static constexpr bool kMiddle = true;
  template <class T>
  static T run(LazyFlags&, T value, T mask) {
    return deposit<T>(value, mask);
  }
};
struct Pext {
  static constexpr bool kMiddle = true;
  template <class T>
  static T run(LazyFlags&, T value, T mask) {
    return extract<T>(value, mask);
  }
};
struct Bextr {
  static constexpr bool kMiddle = false;
  template <class T>
  static T run(LazyFlags& f, T control, T v) {
    unsigned start = control & 0xff, length = (control >> 8) & 0xff;
    T r = start < kBits<T> ? static_cast<T>(v >> start) : T{0};
    if (length < kBits<T>) r &= (T{1} << length) - 1;
    set_result<T>(f, r, false, false);
    return r;
  }
};
struct Bzhi {
  static constexpr bool kMiddle = false;
  template <class T>
  static T run(LazyFlags& f, T index, T v) {
    unsigned n = index & 0xff;
    T r = n < kBits<T> ? static_cast<T>(v & ((T{1} << n) - 1)) : v;
    set_result<T>(f, r, n >= kBits<T>, false);
    return r;
  }
};

template <class Binary, class T>
Flow binary(Cpu& cpu, const Op& op) {
  const isa::Operand& other = op.insn->op[Binary::kMiddle ? 2 : 1];
  const isa::Operand& source = op.insn->op[Binary::kMiddle ? 1 : 2];
  T v;
  if (is_memory(other)) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    v = reg<T>(cpu, other.reg);
  }
  put<T>(cpu, op.dst, Binary::template run<T>(cpu.flags, reg<T>(cpu, source.reg), v));
  return Flow::next;
}
template <class Binary>
Handler binary_of(const Insn& i) {
  return by_vex_size(i.op[0].size, []<class T>() -> Handler { return binary<Binary, T>; });
}

template <class T>
Flow crc32(Cpu& cpu, const Op& op) {
  T v;
  if (op.src == 0xff) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    v = get<T>(cpu, op.src);
  }
  put<u32>(cpu, op.dst, crc32c<T>(get<u32>(cpu, op.dst), v));
  return Flow::next;
}

}  // namespace

Handler select_bits(const Insn& i) {
  switch (i.sem) {
    case Sem::bt: return bit_test<Change::none>(i);
    case Sem::bts: return bit_test<Change::set>(i);
    case Sem::btr: return bit_test<Change::reset>(i);
    case Sem::btc: return bit_test<Change::complement>(i);
    case Sem::bsf: return unary_of<Bsf>(i);
    case Sem::bsr: return unary_of<Bsr>(i);
    case Sem::tzcnt: return unary_of<Tzcnt>(i);
    case Sem::lzcnt: return unary_of<Lzcnt>(i);
    case Sem::popcnt: return unary_of<Popcnt>(i);
    case Sem::blsr: return unary_of<Blsr>(i);
    case Sem::blsmsk: return unary_of<Blsmsk>(i);
    case Sem::blsi: return unary_of<Blsi>(i);
    case Sem::andn: return binary_of<Andn>(i);
    case Sem::pdep: return binary_of<Pdep>(i);
    case Sem::pext: return binary_of<Pext>(i);
    case Sem::bextr: return binary_of<Bextr>(i);
    case Sem::bzhi: return binary_of<Bzhi>(i);
    case Sem::crc32: return by_size(i.op[1].size, []<class T>() -> Handler { return crc32<T>; });
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
