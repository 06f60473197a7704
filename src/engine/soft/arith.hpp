// Arithmetic flags and the operations that set them: pure functions of values and LazyFlags, no
// guest memory, no faults. Handlers (integer_*.cpp) and tests share them.
//
// Specification: SDM 1 section 3.4.3.1 (status flags), SDM 2 the instruction pages. Where a flag is
// undefined, what common processors do is done, so that it is at least always the same.
#pragma once

#include <bit>
#include <type_traits>

#include "engine/soft/cpu.hpp"

namespace skerry::soft::arith {

template <class T>
constexpr unsigned kBits = 8 * sizeof(T);
template <class T>
using Signed = std::make_signed_t<T>;

template <class T>
constexpr u64 sext(T v) {
  return static_cast<u64>(static_cast<i64>(static_cast<Signed<T>>(v)));
}
template <class T>
constexpr bool msb(T v) {
  return static_cast<Signed<T>>(v) < 0;
}

constexpr u64 kCarry = u64{1} << 63, kCarryIn = u64{1} << 62;

// ---- reading

constexpr bool cf(const LazyFlags& f) {
  return f.carries >> 63;
}
constexpr bool of(const LazyFlags& f) {
  return (f.carries ^ (f.carries << 1)) >> 63;
}
constexpr bool af(const LazyFlags& f) {
  return (f.carries >> 3) & 1;
}
constexpr bool zf(const LazyFlags& f) {
  return f.result == 0;
}
constexpr bool sf(const LazyFlags& f) {
  return (f.result >> 63) ^ (f.carries & 1);
}
constexpr bool pf(const LazyFlags& f) {
  return !__builtin_parity(static_cast<u8>(f.result ^ (f.carries >> 8)));
}
/// SF != OF, in one go.
constexpr bool less(const LazyFlags& f) {
  return (f.result ^ f.carries ^ (f.carries << 1) ^ (f.carries << 63)) >> 63;
}

/// The six arithmetic flags in their places of EFLAGS.
constexpr u64 to_eflags(const LazyFlags& f) {
  return (cf(f) ? u64{CF} : 0) | (pf(f) ? u64{PF_} : 0) | (af(f) ? u64{AF} : 0) |
         (zf(f) ? u64{ZF} : 0) | (sf(f) ? u64{SF} : 0) | (of(f) ? u64{OF_} : 0);
}

/// Condition `c` of jcc, setcc, cmovcc (SDM 1 appendix B).
template <int c>
constexpr bool condition(const LazyFlags& f) {
  bool v = false;
  switch (c >> 1) {
    case 0: v = of(f); break;
    case 1: v = cf(f); break;
    case 2: v = zf(f); break;
    case 3: v = cf(f) || zf(f); break;
    case 4: v = sf(f); break;
    case 5: v = pf(f); break;
    case 6: v = less(f); break;
    case 7: v = less(f) || zf(f); break;
  }
  return v != (c & 1);
}

// ---- writing

/// Loads the six flags from their places in EFLAGS.
constexpr void from_eflags(LazyFlags& f, u64 eflags) {
  bool c = eflags & CF, o = eflags & OF_, p = eflags & PF_, z = eflags & ZF, s = eflags & SF;
  f.result = z ? 0 : 1;  // its low byte has parity z, which bit 8 turns into PF
  f.carries = (c ? kCarry : 0) | (c != o ? kCarryIn : 0) | (eflags & AF ? 8 : 0) |
              (p != z ? 0x100 : 0) | (s ? 1 : 0);
}
/// Replaces CF, keeps the others.
constexpr void set_cf(LazyFlags& f, bool c) {
  if (cf(f) != c) f.carries ^= kCarry | kCarryIn;
}
/// Replaces CF and OF, keeps the others.
constexpr void set_cf_of(LazyFlags& f, bool c, bool o) {
  f.carries = (f.carries & ~(kCarry | kCarryIn)) | (static_cast<u64>(c) << 63) |
              (static_cast<u64>(c != o) << 62);
}
/// ZF, SF, PF from `r`; AF clear.
template <class T>
constexpr void set_result(LazyFlags& f, T r, bool c, bool o) {
  f.result = sext(r);
  f.carries = (static_cast<u64>(c) << 63) | (static_cast<u64>(c != o) << 62);
}

/// A carry vector of width T as LazyFlags keeps it.
template <class T>
constexpr u64 carries(T c) {
  if constexpr (sizeof(T) == 8)
    return c & (kCarry | kCarryIn | 8);
  else
    return (static_cast<u64>(c) << (64 - kBits<T>)) | (c & 8);
}

// ---- two-operand operations: value() is the result, flags() what it does to the flags

struct Add {
  static constexpr bool kWrites = true, kCarries = false;
  template <class T>
  static constexpr T value(T a, T b, bool) {
    return a + b;
  }
  template <class T>
  static constexpr void flags(LazyFlags& f, T a, T b, T r) {
    f.result = sext(r);
    f.carries = carries<T>((a & b) | ((a | b) & ~r));
  }
};
struct Adc : Add {
  static constexpr bool kCarries = true;
  template <class T>
  static constexpr T value(T a, T b, bool c) {
    return a + b + c;
  }
};
struct Sub {
  static constexpr bool kWrites = true, kCarries = false;
  template <class T>
  static constexpr T value(T a, T b, bool) {
    return a - b;
  }
  template <class T>
  static constexpr void flags(LazyFlags& f, T a, T b, T r) {
    f.result = sext(r);
    f.carries = carries<T>((~a & b) | ((~a | b) & r));
  }
};
struct Sbb : Sub {
  static constexpr bool kCarries = true;
  template <class T>
  static constexpr T value(T a, T b, bool c) {
    return a - b - c;
  }
};
struct Cmp : Sub {
  static constexpr bool kWrites = false;
};
struct Logic {
  static constexpr bool kWrites = true, kCarries = false;
  template <class T>
  static constexpr void flags(LazyFlags& f, T, T, T r) {
    f.result = sext(r);
    f.carries = 0;
  }
};
struct And : Logic {
  template <class T>
  static constexpr T value(T a, T b, bool) {
    return a & b;
  }
};
struct Or : Logic {
  template <class T>
  static constexpr T value(T a, T b, bool) {
    return a | b;
  }
};
struct Xor : Logic {
  template <class T>
  static constexpr T value(T a, T b, bool) {
    return a ^ b;
  }
};
struct Test : And {
  static constexpr bool kWrites = false;
};

// ---- one-operand operations

struct Inc {
  template <class T>
  static constexpr T value(T a) {
    return a + 1;
  }
  template <class T>
  static constexpr void flags(LazyFlags& f, T, T r) {
    bool o = r == static_cast<T>(T{1} << (kBits<T> - 1));
    u64 c = f.carries & kCarry;
    f.result = sext(r);
    f.carries = c | ((c >> 1) ^ (static_cast<u64>(o) << 62)) | ((r & 15) == 0 ? 8 : 0);
  }
};
struct Dec {
  template <class T>
  static constexpr T value(T a) {
    return a - 1;
  }
  template <class T>
  static constexpr void flags(LazyFlags& f, T, T r) {
    bool o = r == static_cast<T>((T{1} << (kBits<T> - 1)) - 1);
    u64 c = f.carries & kCarry;
    f.result = sext(r);
    f.carries = c | ((c >> 1) ^ (static_cast<u64>(o) << 62)) | ((r & 15) == 15 ? 8 : 0);
  }
};
struct Neg {
  template <class T>
  static constexpr T value(T a) {
    return -a;
  }
  template <class T>
  static constexpr void flags(LazyFlags& f, T a, T r) {
    Sub::flags<T>(f, 0, a, r);
  }
};
struct Not {
  template <class T>
  static constexpr T value(T a) {
    return ~a;
  }
  template <class T>
  static constexpr void flags(LazyFlags&, T, T) {}
};

// ---- shifts and rotates: `count` as in CL, masked here. Flags stay when the masked count is 0.

template <class T>
constexpr unsigned kCountMask = sizeof(T) == 8 ? 63 : 31;

struct Shl {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    u64 wide = static_cast<u64>(a);
    bool c;
    T r;
    if constexpr (sizeof(T) == 8) {
      c = (wide >> (64 - count)) & 1;
      r = wide << count;
    } else {
      wide <<= count;  // at most 32 + 31 bits
      c = (wide >> kBits<T>)&1;
      r = static_cast<T>(wide);
    }
    set_result<T>(f, r, c, msb(r) != c);
    return r;
  }
};
struct Shr {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    u64 before = static_cast<u64>(a) >> (count - 1);
    T r = static_cast<T>(before >> 1);
    set_result<T>(f, r, before & 1, msb(static_cast<T>(r << 1)) != msb(r));
    return r;
  }
};
struct Sar {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    i64 before = static_cast<i64>(sext(a)) >> (count - 1);
    T r = static_cast<T>(before >> 1);
    set_result<T>(f, r, before & 1, false);
    return r;
  }
};
struct Rol {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    T r = std::rotl(a, static_cast<int>(count % kBits<T>));
    set_cf_of(f, r & 1, msb(r) != (r & 1));
    return r;
  }
};
struct Ror {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    T r = std::rotr(a, static_cast<int>(count % kBits<T>));
    set_cf_of(f, msb(r), msb(r) != msb(static_cast<T>(r << 1)));
    return r;
  }
};
struct Rcl {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    if constexpr (sizeof(T) < 4) count %= kBits<T> + 1;
    bool c = cf(f);
    T r = a;
    if (count != 0) {
      T low = count > 1 ? static_cast<T>(a >> (kBits<T> + 1 - count)) : T{0};
      T high = count < kBits<T> ? static_cast<T>(a << count) : T{0};
      r = high | static_cast<T>(static_cast<T>(c) << (count - 1)) | low;
      c = (a >> (kBits<T> - count)) & 1;
    }
    set_cf_of(f, c, msb(r) != c);
    return r;
  }
};
struct Rcr {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    if constexpr (sizeof(T) < 4) count %= kBits<T> + 1;
    bool c = cf(f);
    T r = a;
    if (count != 0) {
      T high = count > 1 ? static_cast<T>(a << (kBits<T> + 1 - count)) : T{0};
      T low = count < kBits<T> ? static_cast<T>(a >> count) : T{0};
      r = high | static_cast<T>(static_cast<T>(c) << (kBits<T> - count)) | low;
      c = (a >> (count - 1)) & 1;
    }
    set_cf_of(f, c, msb(r) != msb(static_cast<T>(r << 1)));
    return r;
  }
};

/// SHLD. With 16-bit operands and a count beyond 16 (undefined) the destination's bits come round.
struct Shld {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, T b, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    T r;
    bool c;
    if constexpr (sizeof(T) == 2) {
      u64 wide = (static_cast<u64>(a) << 32) | (static_cast<u64>(b) << 16) | a;
      r = static_cast<T>((wide << count) >> 32);
      c = ((wide << count) >> 48) & 1;
    } else {
      r = (a << count) | (b >> (kBits<T> - count));
      c = (a >> (kBits<T> - count)) & 1;
    }
    set_result<T>(f, r, c, msb(r) != msb(a));
    return r;
  }
};
struct Shrd {
  template <class T>
  static constexpr T run(LazyFlags& f, T a, T b, unsigned count) {
    count &= kCountMask<T>;
    if (count == 0) return a;
    T r;
    bool c;
    if constexpr (sizeof(T) == 2) {
      u64 wide = (static_cast<u64>(a) << 32) | (static_cast<u64>(b) << 16) | a;
      r = static_cast<T>(wide >> count);
      c = (wide >> (count - 1)) & 1;
    } else {
      r = (a >> count) | (b << (kBits<T> - count));
      c = (a >> (count - 1)) & 1;
    }
    set_result<T>(f, r, c, msb(r) != msb(static_cast<T>(r << 1)));
    return r;
  }
};

}  // namespace skerry::soft::arith
