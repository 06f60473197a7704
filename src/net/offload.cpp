#include "net/offload.hpp"

#include <cstring>
#include <vector>

#include "base/bits.hpp"
#include "net/wire.hpp"

namespace skerry::net {

namespace {

constexpr u16 kVlan = 0x8100, kIp4 = 0x0800, kIp6 = 0x86dd;

/// Of the TCP header at `at`, 0 if it is none.
size_t tcp_header_length(std::span<const u8> frame, size_t at) {
  if (at + 20 > frame.size()) return 0;
  size_t length = size_t{frame[at + 12]} >> 4 << 2;
  return length < 20 || at + length > frame.size() ? 0 : length;
}

}  // namespace

Layout layout_of(std::span<const u8> frame) {
  Layout layout;
  if (frame.size() < kEthernetHeader) return layout;
  size_t at = 12;
  u16 type = get16(frame, at);
  if (type == kVlan && frame.size() >= at + 6) type = get16(frame, at += 4);
  at += 2;
  layout.network = static_cast<u16>(at);
  if (type == kIp4 && frame.size() >= at + 20 && frame[at] >> 4 == 4) {
    size_t header = size_t{frame[at]} % 16 * 4;
    if (header < 20 || frame.size() < at + header) return layout;
    layout.ip4 = true;
    layout.fragment = get16(frame, at + 6) & 0x3fff;  // more to come, or not the first
    layout.transport = static_cast<u16>(at + header);
    if (!(get16(frame, at + 6) & 0x1fff)) layout.protocol = frame[at + 9];
  } else if (type == kIp6 && frame.size() >= at + 40 && frame[at] >> 4 == 6) {
    layout.ip6 = true;
    layout.transport = static_cast<u16>(at + 40);
    layout.protocol = frame[at + 6];
  }
  return layout;
}

bool holds_tcp(const Layout& l, std::span<const u8> frame) {
  return l.protocol == kTcp && !l.fragment && frame.size() >= l.transport + kTcpHeader;
}

bool well_formed(const Offload& o, std::span<const u8> frame) {
  if (frame.size() < kEthernetHeader || frame.size() > kMaxFrame) return false;
  if (o.flags & ~(Offload::kNeedsChecksum | Offload::kDataValid)) return false;
  if (o.needs_checksum() && (o.checksum_start < kEthernetHeader ||
                             size_t{o.checksum_start} + o.checksum_offset + 2 > frame.size()))
    return false;
  if (o.gso_type == 0) return true;
  // 5.1.6.2: a frame to be segmented always lacks its checksum, too.
  if (!o.needs_checksum() || o.gso_size < kMinSegment || o.checksum_offset != 16) return false;
  Layout layout = layout_of(frame);
  bool fits =
      (o.segments_as() == Offload::kTcp4 && layout.ip4 && layout.protocol == kTcp &&
       layout.transport == o.checksum_start && !layout.fragment) ||
      (o.segments_as() == Offload::kTcp6 && layout.ip6 && o.checksum_start >= layout.transport);
  return fits && tcp_header_length(frame, o.checksum_start) != 0;
}

// Summed eight bytes at a time in host order: the Internet checksum does not mind (RFC 1071 2B).
u32 checksum_add(std::span<const u8> bytes, u32 sum) {
  u64 total = 0;
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    u64 word = load<u64>(bytes.data() + at);
    total += (word & 0xffff'ffff) + (word >> 32);
  }
  for (; at + 2 <= bytes.size(); at += 2) total += load<u16>(bytes.data() + at);
  if (at < bytes.size()) total += bytes[at];
  while (total >> 16) total = (total & 0xffff) + (total >> 16);
  total = (total >> 8 | total << 8) & 0xffff;  // as a big-endian number
  return sum + static_cast<u32>(total);
}

u16 checksum_end(u32 sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<u16>(~sum);
}

void finish_checksum(const Offload& o, std::span<u8> frame) {
  u16 value = checksum_end(checksum_add(frame.subspan(o.checksum_start)));
  // RFC 768: zero means "none" in UDP; TCP does not mind the other zero.
  put16(frame, size_t{o.checksum_start} + o.checksum_offset, value ? value : 0xffff);
}

u16 transport_checksum(const Layout& l, std::span<const u8> frame, size_t length) {
  auto addresses = l.ip4 ? frame.subspan(l.network + 12, 8) : frame.subspan(l.network + 8, 32);
  u32 sum = checksum_add(addresses) + kTcp + static_cast<u32>(length);
  return checksum_end(checksum_add(frame.subspan(l.transport, length), sum));
}

void set_tcp_checksum(const Layout& l, std::span<u8> frame) {
  put16(frame, l.transport + 16u, 0);
  put16(frame, l.transport + 16u, transport_checksum(l, frame, frame.size() - l.transport));
}

void set_ip_length(const Layout& l, std::span<u8> frame) {
  const size_t length = frame.size() - l.network;
  if (!l.ip4) return put16(frame, l.network + 4u, length - 40);
  put16(frame, l.network + 2u, length);
  put16(frame, l.network + 10u, 0);
  const size_t header = size_t{frame[l.network]} % 16 * 4;
  put16(frame, l.network + 10u, checksum_end(checksum_add(frame.subspan(l.network, header))));
}

namespace {

// TCP segmentation: the header before each piece of the payload, with what differs between them.
void segment(const Offload& o, std::span<const u8> frame, const Emit& emit) {
  Layout layout = layout_of(frame);
  layout.transport = o.checksum_start;  // behind IPv6 extension headers, if any
  const size_t header = o.checksum_start + tcp_header_length(frame, o.checksum_start);
  const std::span<const u8> payload = frame.subspan(header);
  const u32 sequence = get32(frame, o.checksum_start + 4);
  const u16 id = layout.ip4 ? get16(frame, layout.network + 4) : u16{0};
  const u8 flags = frame[o.checksum_start + 13];
  std::vector<u8> out(header + std::min<size_t>(payload.size(), o.gso_size));
  size_t at = 0, index = 0;
  do {
    size_t length = std::min<size_t>(payload.size() - at, o.gso_size);
    bool first = at == 0, last = at + length == payload.size();
    std::memcpy(out.data(), frame.data(), header);
    if (length) std::memcpy(out.data() + header, payload.data() + at, length);
    std::span<u8> part(out.data(), header + length);
    if (layout.ip4) put16(part, layout.network + 4, (id + index) & 0xffff);
    set_ip_length(layout, part);
    put32(part, o.checksum_start + 4, sequence + static_cast<u32>(at));
    u8 kept = flags;
    if (!last) kept &= static_cast<u8>(~(kFin | kPsh));
    if (!first) kept &= static_cast<u8>(~kCwr);
    part[o.checksum_start + 13] = kept;
    set_tcp_checksum(layout, part);
    emit({}, part);
    at += length;
    ++index;
  } while (at < payload.size());
}

}  // namespace

void adapt(const Offload& o, std::span<const u8> frame, const Abilities& can, const Emit& emit) {
  if (o.gso_type) {
    bool whole = can.checksum && (o.segments_as() == Offload::kTcp4 ? can.tcp4 : can.tcp6) &&
                 (can.ecn || !(o.gso_type & Offload::kEcn));
    return whole ? emit(o, frame) : segment(o, frame, emit);
  }
  if (!o.needs_checksum()) return emit({can.checksum ? o.flags : u8{0}, 0, 0, 0, 0, 0}, frame);
  if (can.checksum) return emit(o, frame);
  std::vector<u8> copy(frame.begin(), frame.end());
  finish_checksum(o, copy);
  emit({}, copy);
}

void fragment(std::span<const u8> frame, size_t mtu,
              const std::function<void(std::span<const u8>)>& emit) {
  Layout l = layout_of(frame);
  if (frame.size() <= l.network + mtu) return emit(frame);
  if (!l.ip4) return;
  const size_t ip_end = l.network + size_t{get16(frame, l.network + 2u)};
  if (ip_end > frame.size() || ip_end < l.transport) return;
  const std::span<const u8> payload = frame.subspan(l.transport, ip_end - l.transport);
  const size_t step = (mtu - (l.transport - l.network)) & ~size_t{7};
  const u16 place = get16(frame, l.network + 6u);
  for (size_t at = 0; at < payload.size(); at += step) {
    size_t length = std::min(step, payload.size() - at);
    std::vector<u8> part(frame.begin(), frame.begin() + l.transport);
    part.insert(part.end(), payload.begin() + static_cast<long>(at),
                payload.begin() + static_cast<long>(at + length));
    bool more = at + length < payload.size() || place & 0x2000;
    put16(part, l.network + 6u, ((place & 0x1fff) + at / 8) | (more ? 0x2000 : 0));
    set_ip_length(l, part);
    emit(part);
  }
}

u32 flow_hash(std::span<const u8> frame) {
  Layout l = layout_of(frame);
  u32 hash = 0;
  auto mix = [&](u32 value) { hash += value * 0x9e37'79b1; };  // commutative: both directions alike
  size_t width = l.ip4 ? 4 : l.ip6 ? 16 : 0;
  for (size_t i = 0; i < width; i += 4) {
    size_t from = l.network + (l.ip4 ? 12 : 8) + i;
    mix(get32(frame, from) ^ get32(frame, from + width));
  }
  if (width && !l.fragment && (l.protocol == kTcp || l.protocol == 17) &&
      frame.size() >= size_t{l.transport} + 4)
    mix(get16(frame, l.transport) ^ get16(frame, l.transport + 2));
  return hash ^ hash >> 15;
}

}  // namespace skerry::net
