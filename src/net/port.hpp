// Port: the host's end of a network card: where a guest's frames go and come from.
//
// Host side only: no guest types, no virtio queues. A frame is an Ethernet frame without FCS; with
// it goes an Offload, which says what is still to be done to it (checksum, segmentation), with the
// meaning and layout of virtio's and the kernel's virtio_net_hdr. Whoever hands a frame on has
// checked it: the Offload's fields lie within the frame and fit its protocol headers
// (net::well_formed).
//
// Threading: a port lives on one EventLoop. send(), flush(), resume() and use_queues() are called
// on its thread; the events are called on it, too, never from inside one of those four and never
// after the port was destroyed.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.hpp"

namespace skerry::net {

constexpr size_t kEthernetHeader = 14;
/// The longest frame: 65,535 bytes of IP with Ethernet header and one VLAN tag.
constexpr size_t kMaxFrame = 65535 + kEthernetHeader + 4;

using Mac = std::array<u8, 6>;

/// What is left to do to a frame (virtio 1.2 5.1.6; struct virtio_net_hdr in linux/virtio_net.h).
struct Offload {
  static constexpr u8 kNeedsChecksum = 1, kDataValid = 2;  // flags
  static constexpr u8 kTcp4 = 1, kTcp6 = 4, kEcn = 0x80;   // gso_type
  u8 flags = 0, gso_type = 0;
  u16 header_length = 0;  ///< a hint
  u16 gso_size = 0;       ///< bytes of payload per segment
  u16 checksum_start = 0, checksum_offset = 0;

  bool needs_checksum() const { return flags & kNeedsChecksum; }
  u8 segments_as() const { return static_cast<u8>(gso_type & ~kEcn); }  ///< 0: not to be segmented
  bool operator==(const Offload&) const = default;
};
static_assert(sizeof(Offload) == 10);

/// What a receiver takes without that it is done before.
struct Abilities {
  bool checksum = false, tcp4 = false, tcp6 = false, ecn = false;
};

/// Frames and bytes since the port was made. dropped: for want of room, of a link or by a rule;
/// errors: malformed.
struct Counters {
  u64 sent_frames = 0, sent_bytes = 0, sent_dropped = 0, sent_errors = 0;
  u64 received_frames = 0, received_bytes = 0, received_dropped = 0;
};

class Port {
 public:
  struct Events {
    /// A frame for the guest, from one of queues(). False: it has no room now; the port offers the
    /// frame again after resume(), or drops it.
    std::function<bool(const Offload&, std::span<const u8> frame, unsigned queue)> receive;
    /// send() will take frames again.
    std::function<void()> writable;
    /// The far end came or went.
    std::function<void(bool up)> carrier;
  };

  virtual ~Port() = default;
  /// Once, before anything else.
  virtual void attach(Events events) = 0;
  /// How many queues it has. Several: what is received comes on that queue on which its flow was
  /// last sent. One: it is for the receiver to spread it.
  virtual unsigned queues() const { return 1; }
  /// The guest takes from the first `count` of them; at first from one.
  virtual void use_queues(unsigned count) { (void)count; }
  /// A frame of the guest's; copied. False: no room, nothing happened; Events::writable comes.
  /// `queue` may be beyond those in use: then any will do.
  virtual bool send(const Offload& offload, std::span<const u8> frame, unsigned queue) = 0;
  /// The end of a batch of send().
  virtual void flush() {}
  /// The guest has room again after receive() was false.
  virtual void resume() {}
  /// "user", "switch lan1": for people.
  virtual std::string describe() const = 0;
};

/// "52:54:00:12:34:56".
std::string to_text(const Mac& mac);
constexpr bool is_multicast(const u8* mac) {
  return mac[0] & 1;
}
/// The address of network card `index` of the machine called `name`, always the same: locally
/// administered, unicast.
Mac stable_mac(std::string_view name, unsigned index);

}  // namespace skerry::net
