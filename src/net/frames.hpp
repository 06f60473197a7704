// Frames for tests, and a check of the checksums in one.
#pragma once

#include <vector>

#include "net/offload.hpp"

namespace skerry::net {

/// TCP with `payload` bytes. Its checksum field holds the pseudo header's part, as with offload.
struct TcpFrame {
  static constexpr u32 kSequence = 0xffff'f000;  // wraps
  TcpFrame(bool v6, size_t payload, u8 flags = 0x10) {
    std::vector<u8>& b = bytes;
    b.assign({2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1});
    b.insert(b.end(), {static_cast<u8>(v6 ? 0x86 : 8), static_cast<u8>(v6 ? 0xdd : 0)});
    size_t length = 20 + payload;
    if (v6) {
      b.insert(b.end(),
               {0x60, 0, 0, 0, static_cast<u8>(length >> 8), static_cast<u8>(length), 6, 64});
      for (u8 host : {1, 2})
        for (u8 i = 0; i < 16; ++i) b.push_back(i == 0 ? 0xfd : i == 15 ? host : 0);
    } else {
      length += 20;
      b.insert(b.end(), {0x45,
                         0,
                         static_cast<u8>(length >> 8),
                         static_cast<u8>(length),
                         0,
                         7,
                         0x40,
                         0,
                         64,
                         6,
                         0,
                         0,
                         10,
                         0,
                         0,
                         1,
                         10,
                         0,
                         0,
                         2});
      u16 sum = checksum_end(checksum_add(std::span(b).subspan(14)));
      b[24] = static_cast<u8>(sum >> 8), b[25] = static_cast<u8>(sum);
    }
    transport = static_cast<u16>(b.size());
    b.insert(b.end(),
             {0x12, 0x34, 0, 80, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0});
    for (size_t i = 0; i < payload; ++i) b.push_back(static_cast<u8>(i * 7 + i / 251));
    auto addresses = v6 ? std::span(b).subspan(22, 32) : std::span(b).subspan(26, 8);
    u32 sum = checksum_add(addresses) + 6 + static_cast<u32>(20 + payload);
    u16 pseudo = static_cast<u16>(~checksum_end(sum));
    b[transport + 16u] = static_cast<u8>(pseudo >> 8), b[transport + 17u] = static_cast<u8>(pseudo);
    ip6 = v6;
  }
  Offload partial() const {
    return {.flags = Offload::kNeedsChecksum, .checksum_start = transport, .checksum_offset = 16};
  }
  Offload large(u16 size) const {
    Offload o = partial();
    o.gso_type = ip6 ? Offload::kTcp6 : Offload::kTcp4;
    o.gso_size = size;
    o.header_length = static_cast<u16>(transport + 20);
    return o;
  }
  std::vector<u8> bytes;
  u16 transport = 0;
  bool ip6 = false;
};

/// UDP over IPv4 with `payload` bytes, without a UDP checksum.
inline std::vector<u8> udp_frame(size_t payload) {
  size_t length = 28 + payload, udp = 8 + payload;
  std::vector<u8> b{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0};
  b.insert(b.end(), {0x45,
                     0,
                     static_cast<u8>(length >> 8),
                     static_cast<u8>(length),
                     0,
                     9,
                     0,
                     0,
                     64,
                     17,
                     0,
                     0,
                     10,
                     0,
                     0,
                     1,
                     10,
                     0,
                     0,
                     2});
  b.insert(b.end(), {0, 53, 0x20, 0, static_cast<u8>(udp >> 8), static_cast<u8>(udp), 0, 0});
  for (size_t i = 0; i < payload; ++i) b.push_back(static_cast<u8>(i * 5));
  return b;
}

/// The IPv4 header's and the TCP checksum of a frame without VLAN tag.
inline bool checksums_right(std::span<const u8> frame) {
  Layout l = layout_of(frame);
  if (l.ip4 &&
      checksum_end(checksum_add(frame.subspan(l.network, size_t{l.transport} - l.network))) != 0)
    return false;
  return (l.ip4 || l.ip6) && transport_checksum(l, frame, frame.size() - l.transport) == 0;
}

}  // namespace skerry::net
