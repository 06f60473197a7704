// Vsock: the virtio socket device. Virtio 1.2 section 5.10.
//
// Carries stream connections between programs of the guest and sockets of the host (net::StreamHost
// makes these). Credit in both directions: the device holds at most kBuffer bytes of a connection
// that the host's reader has not taken, and reads from the host's writer only what the guest has
// room for. Not here: seqpacket sockets, CIDs other than the host's (2), guest to guest.
//
// Connections are not part of a saved machine: after a load the guest is told that they are gone
// (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, 5.10.6.7).
//
// Threading: as VirtioDevice; sockets are watched on the environment's loop.
#pragma once

#include <deque>
#include <map>

#include "net/stream.hpp"
#include "net/stream_host.hpp"
#include "virtio/device.hpp"

namespace skerry::virtio {

class Vsock final : public VirtioDevice {
 public:
  static constexpr u64 kHostCid = 2;
  static constexpr u64 kFeatureStream = 1 << 0;
  static constexpr u32 kBuffer = 64 * KiB;
  /// More are refused: each costs a descriptor and up to kBuffer.
  static constexpr size_t kMaxConnections = 256;
  /// Refusals that wait for a buffer of the guest's; with more, its packets wait.
  static constexpr size_t kMaxResets = 256;
  /// First port that the host's connections seem to come from.
  static constexpr u32 kFirstHostPort = 1u << 30;

  enum Op : u16 {
    request = 1,
    response = 2,
    rst = 3,
    shutdown = 4,
    rw = 5,
    credit_update = 6,
    credit_request = 7
  };
  static constexpr u16 kStream = 1;
  /// Flags of `shutdown`: its sender will receive, send no more.
  static constexpr u32 kNoReceive = 1, kNoSend = 2, kBoth = 3;

  struct Header {  ///< 5.10.6: struct virtio_vsock_hdr, little-endian
    u64 source_cid, destination_cid;
    u32 source_port, destination_port, length;
    u16 type, op;
    u32 flags, buffer, forwarded;
  };
  static constexpr size_t kHeader = 44;  ///< the struct's bytes that count

  /// `cid`: of the guest, from 3 to 2^32 - 2.
  Vsock(std::string name, Environment environment, u32 cid, std::unique_ptr<net::StreamHost> host);
  ~Vsock() override;

  u16 id() const override { return 19; }
  u32 class_code() const override { return 0x078000; }
  std::string name() const override { return name_; }
  u64 features() const override { return kFeatureStream; }
  std::vector<u16> queue_sizes() const override { return {256, 256, 16}; }
  std::span<const u8> config() const override { return config_; }
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override { quiet_ = true; }
  void reset() override { reset_due_ = false; }
  void save(state::Image&) const override {}
  Result<> load(const state::Image&) override;
  std::vector<machine::Counter> counters() const override;

  net::StreamHost& host() { return *host_; }
  size_t connections() const { return connections_.size(); }

 private:
  struct Key {
    u32 host_port, guest_port;
    auto operator<=>(const Key&) const = default;
  };
  struct Connection {
    Key key{};
    u16 type = kStream;
    u64 number = 0;                       ///< never used twice
    bool asking = true;                   ///< no response yet
    std::unique_ptr<net::Stream> stream;  ///< null: the host's side is gone
    std::string out;                      ///< from the guest; the host has not taken it yet
    // 5.10.6.3: free-running byte counts.
    u32 received = 0, forwarded = 0, told = 0;            ///< from the guest; told: of `forwarded`
    u32 sent = 0, guest_buffer = 0, guest_forwarded = 0;  ///< to the guest
    u32 guest_ended = 0, host_ended = 0;                  ///< kNoReceive, kNoSend
    bool owes_request = false, owes_response = false, owes_shutdown = false, owes_credit = false;
    bool owes_question = false, asked = false;  ///< for credit
    bool readable = false;                      ///< the stream may have bytes
    bool in_turn = false;                       ///< in turns_

    u32 credit() const {
      u32 used = sent - guest_forwarded;
      return used >= guest_buffer ? 0 : guest_buffer - used;
    }
  };
  struct Refusal {
    Key key;
    u16 type;
  };

  void incoming(Fd socket, u32 port);
  void on_ready(Key key, u64 number, u32 events);
  Connection& add(Key key, Fd socket);
  void send_event();
  void pump();  ///< send_packets() until there is nothing more
  bool send_packets();
  bool send_one(Connection& c, Chain& chain);
  void put(Chain& chain, const Connection& c, u16 op, u32 flags, std::span<const u8> data = {});
  bool take_packets();
  void take(const Header& h, Chain& chain);
  void take_request(const Header& h, Key key);
  void take_response(Connection& c);
  void take_data(Connection& c, Chain& chain, u32 length);
  void take_shutdown(Connection& c, u32 flags);
  /// False: `c` has gone.
  bool forward(Connection& c);
  void host_ends(Connection& c, u32 how);
  void refuse(Key key, u16 type = kStream);
  void drop(Connection& c, bool tell);
  void want_turn(Connection& c);
  void watch(Connection& c);

  std::string name_;
  Environment environment_;
  std::unique_ptr<net::StreamHost> host_;
  std::array<u8, 8> config_{};
  Queue* rx_ = nullptr;
  Queue* tx_ = nullptr;
  Queue* events_ = nullptr;
  bool quiet_ = false;      ///< between quiesce() and the next notify()
  bool reset_due_ = false;  ///< the guest does not know yet that connections are gone
  bool tx_waits_ = false;   ///< for room in refusals_
  std::map<Key, std::unique_ptr<Connection>> connections_;
  std::deque<Key> turns_;  ///< connections that may have something for the guest
  std::deque<Refusal> refusals_;
  std::vector<u8> scratch_;
  u64 next_number_ = 0;
  u32 next_port_ = kFirstHostPort;
  u64 opened_ = 0, refused_ = 0, to_guest_ = 0, from_guest_ = 0;
  std::shared_ptr<Vsock*> self_ = std::make_shared<Vsock*>(this);
};

}  // namespace skerry::virtio
