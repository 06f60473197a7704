#include "net/closed_windows.hpp"

#include <algorithm>

#include "net/wire.hpp"

namespace skerry::net {

namespace {

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
  set_ip_length(l, p);
  const size_t tcp = l.transport;
  put32(p, tcp + 4, acknowledged - 1);
  put16(p, tcp + 12, 0x5000 | kAck);
  put16(p, tcp + 14, 0);  // window
  put16(p, tcp + 18, 0);  // urgent pointer
  set_tcp_checksum(l, p);
  return probe;
}

}  // namespace

void ClosedWindows::sees(std::span<const u8> frame, std::span<const u8> cause) {
  Layout there = layout_of(frame);
  if (!holds_tcp(there, frame)) return;
  const size_t tcp = there.transport;
  u8 flags = frame[tcp + 13];
  bool closed = (flags & (kFin | kSyn | kRst | kAck)) == kAck && get16(frame, tcp + 14) < kSmall;
  if (!closed && probes_.empty()) return;
  u32 flow = flow_hash(frame);
  if (!closed) {
    probes_.erase(flow);
    return;
  }
  if (cause.empty() || probes_.size() >= kMost) return;
  Layout layout = layout_of(cause);
  if (!holds_tcp(layout, cause) || !answers(there, frame, layout, cause)) return;
  probes_[flow] = make_probe(cause, layout, get32(frame, tcp + 8));
}

void ClosedWindows::probe(const std::function<void(std::span<const u8>)>& input) {
  for (const auto& [flow, probe] : std::exchange(probes_, {})) input(probe);
}

}  // namespace skerry::net
