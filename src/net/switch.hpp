// Switch: decides where frames between ports go. No I/O: the owner brings frames and takes them
// away.
//
// Ports are access ports: each is in one VLAN (0: the common one) and sends and receives untagged
// frames; tagged ones are dropped. A port sends only from its own address. An uplink sends from any
// address that is not a machine's on the switch; those are learned and forgotten after kAge.
// Isolated ports reach ports that are not isolated only. Frames to an address nobody has go to the
// uplinks of the VLAN: the addresses of all other ports are known.
//
// A rate holds back what a port sends, by a token bucket over bytes of frames.
//
// Threading: one thread.
#pragma once

#include <map>
#include <vector>

#include "base/clock.hpp"
#include "net/port.hpp"

namespace skerry::net {

class Switch {
 public:
  static constexpr Nanos kAge = 300'000'000'000;
  static constexpr size_t kMaxLearned = 1024;
  using PortId = u32;

  struct PortSetup {
    std::string owner;  ///< "web/net0", for people
    Mac mac{};          ///< of an uplink: not used
    u16 vlan = 0;
    bool isolated = false, uplink = false;
    u64 rate = 0;  ///< bits per second; 0: no limit
  };
  struct PortCounters {
    u64 in_frames = 0, in_bytes = 0;          ///< from the port, forwarded
    u64 out_frames = 0, out_bytes = 0;        ///< to the port
    u64 out_dropped = 0;                      ///< to the port, which had no room
    u64 spoofed = 0, tagged = 0, errors = 0;  ///< from the port, dropped
    u64 unreachable = 0;                      ///< from the port, nobody there or not allowed
    u64 rate_unused = 0;                      ///< bytes that its rate allowed and it did not send
  };
  struct PortState {
    PortSetup setup;
    PortCounters counters;
    i64 tokens = 0;  ///< bytes that may be sent now; negative after a long frame
    Nanos filled = 0;
  };
  struct Entry {
    PortId port;
    Nanos seen;
  };
  struct Key {
    u16 vlan;
    Mac mac;
    auto operator<=>(const Key&) const = default;
  };

  /// The address must be free in the whole switch.
  Result<PortId> add(PortSetup setup, Nanos now);
  void remove(PortId port);
  const std::map<PortId, PortState>& ports() const { return ports_; }
  PortState* find(PortId port);
  const std::map<Key, Entry>& table() const { return table_; }

  /// Brings rate_unused up to date.
  void settle(Nanos now);
  /// 0 if the port may send now, else when.
  Nanos may_send(PortId port, Nanos now);

  /// `header`: at least the first 18 bytes of the frame if it has so many, which nobody changes any
  /// more; `length` is the whole frame's. Calls `deliver` for each port the frame goes to, which
  /// says whether there was room.
  template <class Deliver>
  void forward(PortId from, std::span<const u8> header, size_t length, Nanos now,
               const Deliver& deliver) {
    targets_.clear();
    route(from, header, length, now);
    for (PortId to : targets_) {
      PortState* port = find(to);
      if (deliver(to)) {
        ++port->counters.out_frames;
        port->counters.out_bytes += length;
      } else {
        ++port->counters.out_dropped;
      }
    }
  }

 private:
  void route(PortId from, std::span<const u8> header, size_t length, Nanos now);
  bool may_speak_for(const PortState& from, const Mac& source) const;
  void learn(const Key& key, PortId port, Nanos now);
  static void refill(PortState& port, Nanos now);
  static bool allowed(const PortState& from, const PortState& to);

  std::map<PortId, PortState> ports_;
  std::map<Key, Entry> table_;
  std::vector<PortId> targets_;
  size_t learned_ = 0;
  PortId next_ = 1;
};

}  // namespace skerry::net
