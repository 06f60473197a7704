// Bit arithmetic that <bit> does not have.
#pragma once

#include <cstring>
#include <type_traits>

#include "base/types.hpp"

namespace skerry {

/// Bits [low, low + count) of `value`, shifted down. count in 1..64.
constexpr u64 bits(u64 value, unsigned low, unsigned count) {
  return (value >> low) & (~u64{0} >> (64 - count));
}
constexpr bool bit(u64 value, unsigned n) {
  return (value >> n) & 1;
}

/// All ones in the low `bytes` bytes; bytes in 0..8.
constexpr u64 byte_mask(unsigned bytes) {
  return bytes == 0 ? 0 : ~u64{0} >> (64 - 8 * (bytes < 8 ? bytes : 8));
}

constexpr bool is_power_of_two(u64 v) {
  return v != 0 && (v & (v - 1)) == 0;
}
/// `alignment` is a power of two.
constexpr u64 align_down(u64 v, u64 alignment) {
  return v & ~(alignment - 1);
}
constexpr u64 align_up(u64 v, u64 alignment) {
  return align_down(v + alignment - 1, alignment);
}

/// The low `bytes` bytes of `v`, sign-extended; bytes in 1, 2, 4, 8.
constexpr u64 sign_extend(u64 v, unsigned bytes) {
  unsigned shift = 64 - 8 * bytes;
  return static_cast<u64>(static_cast<i64>(v << shift) >> shift);
}

/// Unaligned little-endian access to plain bytes.
template <class T>
T load(const void* p) {
  static_assert(std::is_trivially_copyable_v<T>);
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void store(void* p, T v) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(p, &v, sizeof v);
}

}  // namespace skerry
