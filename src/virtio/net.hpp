// Net: the virtio network card over a net::Port.
//
// Virtio 1.2 section 5.1: one to kMaxPairs pairs of queues and a control queue; mergeable receive
// buffers; checksum and TCP segmentation offload both ways, done here in software for a driver that
// has not negotiated them; address filters, link state, MTU. Frames for the guest go to the pair
// whose transmit queue last sent of the same flow (5.1.6.5.6): the port sees to that
// if it has several queues, else the table here. Not here: UFO, USO, RSS, VLAN
// filters, hash reports.
//
// A frame is copied out of guest memory before anything in it is looked at. Frames under way are no
// state: a machine that is loaded has lost them, as a network may.
//
// Threading: as VirtioDevice; the port's events come on the event loop without the board lock.
#pragma once

#include <deque>

#include "net/offload.hpp"
#include "virtio/device.hpp"

namespace skerry::virtio {

class Net final : public VirtioDevice {
 public:
  static constexpr u16 kQueueSize = 256, kControlSize = 64;
  static constexpr unsigned kMaxPairs = 8;
  static constexpr u16 kMinMtu = 68, kMaxMtu = 65535;
  /// Addresses in each filter table (5.1.6.5.2); with more, all are let through.
  static constexpr size_t kMaxFilter = 64;
  static constexpr u64 kFeatureChecksum = 1 << 0, kFeatureGuestChecksum = 1 << 1,
                       kFeatureGuestOffloads = 1 << 2, kFeatureMtu = 1 << 3, kFeatureMac = 1 << 5,
                       kFeatureGuestTso4 = 1 << 7, kFeatureGuestTso6 = 1 << 8,
                       kFeatureGuestEcn = 1 << 9, kFeatureHostTso4 = 1 << 11,
                       kFeatureHostTso6 = 1 << 12, kFeatureHostEcn = 1 << 13,
                       kFeatureMergeable = 1 << 15, kFeatureStatus = 1 << 16,
                       kFeatureControl = 1 << 17, kFeatureRxMode = 1 << 18,
                       kFeatureRxExtra = 1 << 20, kFeatureMultiqueue = 1 << 22,
                       kFeatureSetMac = 1 << 23;
  static constexpr size_t kHeader = 12;  ///< struct virtio_net_hdr with num_buffers

  struct Setup {
    net::Mac mac{};
    unsigned pairs = 1;  ///< 1 to kMaxPairs
    u16 mtu = 0;         ///< told to the driver; 0: not told
  };
  Net(std::string name, Environment environment, std::unique_ptr<net::Port> port, Setup setup);
  ~Net() override;

  // For the host's operator. Board lock held.
  /// Plugs or unplugs the cable. Frames are dropped while it is out.
  void set_link(bool up);
  bool link_up() const { return cable_ && carrier_; }
  /// The port's view of the guest: sent is what the guest sent.
  const net::Counters& traffic() const { return counters_; }
  const net::Port& port() const { return *port_; }
  const net::Mac& mac() const { return state_.mac; }

  u16 id() const override { return 1; }
  u32 class_code() const override { return 0x020000; }
  std::string name() const override { return name_; }
  u64 features() const override;
  std::vector<u16> queue_sizes() const override;
  std::span<const u8> config() const override { return config_; }
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override { quiet_ = true; }
  void reset() override;
  void save(state::Image& image) const override { image.put(name_, state_); }
  Result<> load(const state::Image& image) override;
  std::vector<machine::Counter> counters() const override;

 private:
  struct Filter {
    std::vector<u8> addresses;  ///< six bytes each
    bool overflow = false;
    static void describe(auto& s, auto& v) {
      v.field("addresses", s.addresses);
      v.field("overflow", s.overflow);
    }
    bool has(const u8* mac) const;
  };
  struct State {
    net::Mac mac{};
    u16 pairs = 1;  ///< in use
    u64 offloads = 0;
    bool promiscuous = true, all_multicast = false, all_unicast = false;
    bool no_multicast = false, no_unicast = false, no_broadcast = false;
    Filter unicast, multicast;
    static void describe(auto& s, auto& v) {
      v.field("mac", s.mac);
      v.field("pairs", s.pairs);
      v.field("offloads", s.offloads);
      v.field("promiscuous", s.promiscuous);
      v.field("all_multicast", s.all_multicast);
      v.field("all_unicast", s.all_unicast);
      v.field("no_multicast", s.no_multicast);
      v.field("no_unicast", s.no_unicast);
      v.field("no_broadcast", s.no_broadcast);
      v.field("unicast", s.unicast);
      v.field("multicast", s.multicast);
    }
  };
  struct Waiting {
    net::Offload offload;
    std::vector<u8> frame;
    unsigned queue;  ///< of the port's
  };
  enum class Put : u8 { done, no_room, never };
  /// In State::offloads: the driver chose them; without, all that were negotiated are on.
  static constexpr u64 kOffloadsSet = u64{1} << 63;

  unsigned control_queue() const { return 2 * setup_.pairs; }
  Queue* queue(unsigned index) const;
  bool may_receive() const { return !queues_.empty() && !quiet_; }
  void show_link();

  bool transmit(unsigned pair);
  void transmit_all();
  bool send(Chain& chain, unsigned pair);

  bool receive(const net::Offload& offload, std::span<const u8> frame, unsigned queue);
  bool wanted(const u8* mac) const;
  unsigned pair_for(std::span<const u8> frame, unsigned queue) const;
  void pairs_changed();
  Put put(Queue& queue, const net::Offload& offload, std::span<const u8> frame);
  Put put_single(Queue& queue, std::span<const u8> header, std::span<const u8> frame);
  void count_received(Put put, size_t length);
  void send_waiting();

  bool control();
  bool command(Chain& chain);
  bool rx_mode(u8 command, Chain& chain);
  bool mac_command(u8 command, Chain& chain);
  bool read_filter(Chain& chain, u64& at, Filter& filter);

  std::string name_;
  Environment environment_;
  Setup setup_;
  std::array<u8, 12> config_{};
  State state_;
  bool cable_ = true, carrier_ = true;
  net::Counters counters_;

  std::span<const std::unique_ptr<Queue>> queues_;  ///< empty while inactive
  u64 features_ = 0;
  bool quiet_ = false;           ///< between quiesce() and the next notify()
  bool refused_ = false;         ///< the port waits for resume()
  std::array<u8, 256> steer_{};  ///< flow hash -> pair
  std::deque<Waiting> waiting_;  ///< what did not fit of one frame that was cut into segments
  std::vector<u8> scratch_;
  std::shared_ptr<Net*> self_ = std::make_shared<Net*>(this);  ///< tells events that we live
  std::unique_ptr<net::Port> port_;
};

}  // namespace skerry::virtio
