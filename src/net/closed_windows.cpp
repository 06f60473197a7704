#include "net/closed_windows.hpp"

#include <algorithm>

#include "base/bits.hpp"

namespace skerry::net {

namespace {

constexpr u8 kTcp = 6, kFin = 0x01, kSyn = 0x02, kRst = 0x04, kAck = 0x10;
constexpr size_t kTcpHeader = 20;

u32 get(std::span<const u8> b, size_t at, size_t bytes) {
  u32 value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | b[at + i];
  return value;
}
void put(std::span<u8> b, size_t at, size_t bytes, u32 value) {
  for (size_t i = bytes; i-- > 0; value >>= 8) b[at + i] = static_cast<u8>(value);
}

/// Where the TCP header of a frame is, 0 if it has none.
size_t tcp_of(const Layout& l, std::span<const u8> frame) {
  bool whole = l.protocol == kTcp && !l.fragment && frame.size() >= l.transport + kTcpHeader;
  return whole ? l.transport : 0;
}

/// Whether two segments are of the two directions of one connection.
bool answers(const Layout& l, std::span<const u8> frame, const Layout& of, std::span<const u8> to) {
  const size_t width = l.ip4 ? 4 : 16, at = l.ip4 ? 12 : 8;
  auto mirrored = [](std::span<const u8> a, std::span<const u8> b, size_t n) {
    return std::equal(a.begin(), a.begin() + n, b.begin() + n) &&
           std::equal(b.begin(), b.begin() + n, a.begin() + n);
  };
  return l.ip4 == of.ip4 &&
         mirrored(frame.subspan(l.network + at), to.subspan(of.network + at), width) &&
         mirrored(frame.subspan(l.transport), to.subspan(of.transport), 2);
}

/// What the guest sends to ask for the window: no data, and a sequence number that was
/// acknowledged, so that it has to be answered. A window of 0, or it could pass for a duplicate
/// acknowledgement.
std::vector<u8> make_probe(std::span<const u8> of_guest, const Layout& l, u32 acknowledged) {
  std::vector<u8> probe(of_guest.begin(), of_guest.begin() + l.transport + kTcpHeader);
  std::span<u8> p(probe);
  if (l.ip4) {
    put(p, l.network + 2u, 2, static_cast<u32>(probe.size() - l.network));
    put(p, l.network + 10u, 2, 0);
    u32 sum = checksum_add(p.subspan(l.network, size_t{l.transport} - l.network));
    put(p, l.network + 10u, 2, checksum_end(sum));
  } else {
    put(p, l.network + 4u, 2, static_cast<u32>(probe.size() - l.network - 40));
  }
  const size_t tcp = l.transport;
  put(p, tcp + 4, 4, acknowledged - 1);
  put(p, tcp + 12, 2, 0x5000 | kAck);
  put(p, tcp + 14, 2, 0);  // window
  put(p, tcp + 16, 4, 0);  // checksum, urgent pointer
  put(p, tcp + 16, 2, transport_checksum(l, probe, kTcpHeader));
  return probe;
}

}  // namespace

void ClosedWindows::sees(std::span<const u8> frame, std::span<const u8> cause) {
  Layout there = layout_of(frame);
  size_t tcp = tcp_of(there, frame);
  if (!tcp) return;
  u8 flags = frame[tcp + 13];
  bool closed = (flags & (kFin | kSyn | kRst | kAck)) == kAck && get(frame, tcp + 14, 2) < kSmall;
  if (!closed && probes_.empty()) return;
  u32 flow = flow_hash(frame);
  if (!closed) {
    probes_.erase(flow);
    return;
  }
  if (cause.empty() || probes_.size() >= kMost) return;
  Layout layout = layout_of(cause);
  if (!tcp_of(layout, cause) || !answers(there, frame, layout, cause)) return;
  probes_[flow] = make_probe(cause, layout, get(frame, tcp + 8, 4));
}

void ClosedWindows::probe(const std::function<void(std::span<const u8>)>& input) {
  for (const auto& [flow, probe] : std::exchange(probes_, {})) input(probe);
}

}  // namespace skerry::net
