// Multiplication, division, bit scans and bit-field operations, decimal adjustment, CRC32: pure
// functions, like arith.hpp.
#pragma once

#include "engine/soft/arith.hpp"

namespace skerry::soft::arith {

// ---- multiplication

/// low and high half of a product.
template <class T>
struct Product {
  T low, high;
};
template <class T>
constexpr Product<T> multiply(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    u128 p = static_cast<u128>(a) * b;
    return {static_cast<u64>(p), static_cast<u64>(p >> 64)};
  } else {
    u64 p = static_cast<u64>(a) * b;
    return {static_cast<T>(p), static_cast<T>(p >> kBits<T>)};
  }
}
template <class T>
constexpr Product<T> multiply_signed(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    i128 p = static_cast<i128>(static_cast<i64>(a)) * static_cast<i64>(b);
    return {static_cast<u64>(p), static_cast<u64>(static_cast<u128>(p) >> 64)};
  } else {
    u64 p = sext(a) * sext(b);
    return {static_cast<T>(p), static_cast<T>(p >> kBits<T>)};
  }
}
/// MUL and IMUL: CF = OF = the high half matters. SF, ZF, PF (undefined) from the low half.
template <class T>
constexpr void multiply_flags(LazyFlags& f, Product<T> p, bool is_signed) {
  T fill = is_signed && msb(p.low) ? static_cast<T>(~T{0}) : T{0};
  set_result<T>(f, p.low, p.high != fill, p.high != fill);
}

// ---- division: false for #DE (SDM 2A DIV, IDIV)

template <class T>
struct Quotient {
  T quotient, remainder;
};
template <class T>
bool divide(T high, T low, T divisor, Quotient<T>& out) {
  if (divisor == 0 || high >= divisor) return false;
  if constexpr (sizeof(T) == 8) {
    if (high == 0) {
      out = {low / divisor, low % divisor};
    } else {
      // high < divisor, so the host's DIV cannot fault.
      asm("divq %4"
          : "=a"(out.quotient), "=d"(out.remainder)
          : "0"(low), "1"(high), "r"(divisor)
          : "cc");
    }
  } else {
    u64 n = (static_cast<u64>(high) << kBits<T>) | low;
    out = {static_cast<T>(n / divisor), static_cast<T>(n % divisor)};
  }
  return true;
}
template <class T>
bool divide_signed(T high, T low, T divisor, Quotient<T>& out) {
  bool negative = msb(high), divisor_negative = msb(divisor);
  if (negative) {
    high = static_cast<T>(~high) + (low == 0);
    low = -low;
  }
  if (divisor_negative) divisor = -divisor;
  if (!divide<T>(high, low, divisor, out)) return false;
  constexpr T kLimit = static_cast<T>(T{1} << (kBits<T> - 1));
  bool quotient_negative = negative != divisor_negative;
  if (out.quotient > kLimit || (out.quotient == kLimit && !quotient_negative)) return false;
  if (quotient_negative) out.quotient = -out.quotient;
  if (negative) out.remainder = -out.remainder;
  return true;
}

// ---- bit fields

template <class T>
constexpr T deposit(T value, T mask) {
  T r = 0;
  for (; mask != 0; mask &= mask - 1, value >>= 1)
    if (value & 1) r |= mask & -mask;
  return r;
}
template <class T>
constexpr T extract(T value, T mask) {
  T r = 0;
  for (T place = 1; mask != 0; mask &= mask - 1, place <<= 1)
    if (value & mask & -mask) r |= place;
  return r;
}

// ---- CRC32 (SDM 2A CRC32): polynomial 0x11EDC6F41, bit-reflected

constexpr std::array<u32, 256> kCrc32c = [] {
  std::array<u32, 256> t{};
  for (u32 i = 0; i < 256; ++i) {
    u32 c = i;
    for (int k = 0; k < 8; ++k) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
    t[i] = c;
  }
  return t;
}();
template <class T>
constexpr u32 crc32c(u32 crc, T data) {
  for (unsigned i = 0; i < sizeof(T); ++i)
    crc = (crc >> 8) ^ kCrc32c[(crc ^ static_cast<u8>(data >> (8 * i))) & 0xff];
  return crc;
}

// ---- decimal adjustment (SDM 2A AAA, AAS, DAA, DAS): `ax` in and out

u16 aaa(LazyFlags& f, u16 ax);
u16 aas(LazyFlags& f, u16 ax);
u16 aad(LazyFlags& f, u16 ax, u8 base);
u16 aam(LazyFlags& f, u16 ax, u8 base);  ///< base is not 0
u16 daa(LazyFlags& f, u16 ax);
u16 das(LazyFlags& f, u16 ax);

}  // namespace skerry::soft::arith
