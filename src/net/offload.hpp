// Checksum and segmentation in software, for receivers that do not do it themselves.
//
// Everything here takes bytes of a guest's; well_formed() is the door: what it lets through the
// other functions handle without looking outside the frame and with bounded work.
#pragma once

#include "net/port.hpp"

namespace skerry::net {

/// Where things lie in a frame.
struct Layout {
  bool ip4 = false, ip6 = false;
  u8 protocol = 0;    ///< IP protocol, 0 if not known (a later fragment, an extension header)
  u16 network = 0;    ///< offset of the IP header
  u16 transport = 0;  ///< offset of what follows it, 0 if not known
  bool fragment = false;
};
/// Of a frame with at most one VLAN tag. Headers that it names lie within the frame.
Layout layout_of(std::span<const u8> frame);

/// Whether the frame holds a TCP header, at Layout::transport; its options may be cut off.
bool holds_tcp(const Layout& layout, std::span<const u8> frame);

/// Whether `frame` is an Ethernet frame of allowed length to which `offload` can be done.
bool well_formed(const Offload& offload, std::span<const u8> frame);

/// The Internet checksum (RFC 1071) of `bytes`, not yet complemented, added to `sum`.
u32 checksum_add(std::span<const u8> bytes, u32 sum = 0);
/// The sum folded and complemented, in the order in which it is stored.
u16 checksum_end(u32 sum);

/// Stores the checksum that the frame lacks: the bytes from checksum_start on, the field itself
/// holding the pseudo header's part (virtio 1.2 5.1.6.2).
void finish_checksum(const Offload& offload, std::span<u8> frame);

using Emit = std::function<void(const Offload&, std::span<const u8> frame)>;
/// Gives `emit` the frame as a receiver with `abilities` takes it: as it is, with its checksum
/// finished, or cut into segments with theirs. A well-formed frame makes at most kMaxSegments.
void adapt(const Offload& offload, std::span<const u8> frame, const Abilities& abilities,
           const Emit& emit);

/// IPv4 fragments (RFC 791) of at most `mtu` bytes of IP each, `mtu` at least 68. A frame that
/// cannot be cut (IPv6, not IP) or need not be is given as it is or, if too long, not at all.
void fragment(std::span<const u8> frame, size_t mtu,
              const std::function<void(std::span<const u8> frame)>& emit);

/// Linux sends no smaller segments than this many bytes with headers (TCP_MIN_SND_MSS).
constexpr u16 kMinSegment = 48;
constexpr size_t kMaxSegments = kMaxFrame / kMinSegment + 1;

/// A checksum over a whole TCP or UDP segment in an IP packet, the field set to 0 before.
u16 transport_checksum(const Layout& layout, std::span<const u8> frame, size_t length);

/// Stores the checksum of the TCP segment that the frame ends with.
void set_tcp_checksum(const Layout& layout, std::span<u8> frame);
/// Stores in the IP header that the packet ends with the frame, and IPv4's checksum, which covers
/// whatever else has changed there.
void set_ip_length(const Layout& layout, std::span<u8> frame);

/// The same for both directions of a connection.
u32 flow_hash(std::span<const u8> frame);

}  // namespace skerry::net
