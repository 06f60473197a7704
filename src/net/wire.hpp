// Fields of frames as they are on the wire: in network byte order.
#pragma once

#include <span>

#include "base/types.hpp"

namespace skerry::net {

constexpr u8 kTcp = 6;             ///< IP protocol
constexpr size_t kTcpHeader = 20;  ///< bytes, without options
constexpr u8 kFin = 0x01, kSyn = 0x02, kRst = 0x04, kPsh = 0x08, kAck = 0x10, kCwr = 0x80;

inline u16 get16(std::span<const u8> bytes, size_t at) {
  return static_cast<u16>(bytes[at] << 8 | bytes[at + 1]);
}
inline void put16(std::span<u8> bytes, size_t at, size_t value) {
  bytes[at] = static_cast<u8>(value >> 8);
  bytes[at + 1] = static_cast<u8>(value);
}
inline u32 get32(std::span<const u8> bytes, size_t at) {
  return u32{get16(bytes, at)} << 16 | get16(bytes, at + 2);
}
inline void put32(std::span<u8> bytes, size_t at, u32 value) {
  put16(bytes, at, value >> 16);
  put16(bytes, at + 2, value & 0xffff);
}

}  // namespace skerry::net
