// Ports: the virtio console with named ports and no console. Virtio 1.2 section 5.3 with
// VIRTIO_CONSOLE_F_MULTIPORT.
//
// Each port is a byte stream between a device file of the guest (/dev/virtio-ports/NAME) and one
// program of the host at a time. The guest is told when a program comes and goes (PORT_OPEN). What
// the host writes is read from its socket only when the guest has opened the port and has a buffer;
// at most kBuffer bytes of the guest's wait for a slow reader, then its requests wait. With no
// program there, what the guest writes is dropped (Linux waits instead of writing). Port 0, the
// console of drivers without MULTIPORT, takes what it is given and does nothing.
//
// In a saved machine is what the guest knows of its ports. Bytes on the way to a program are not:
// it stays with the process that it was connected to.
//
// Threading: as VirtioDevice; sockets are watched on the environment's loop.
#pragma once

#include "net/clients.hpp"
#include "net/stream.hpp"
#include "virtio/device.hpp"

namespace skerry::virtio {

class Ports final : public VirtioDevice {
 public:
  static constexpr u64 kFeatureMultiport = 1 << 1;
  /// Also the most taken from one request: Linux sends at most half of it.
  static constexpr size_t kBuffer = 64 * KiB;
  static constexpr size_t kMaxPorts = 8, kLongestName = 63;

  enum Event : u16 {  ///< 5.3.6.2
    device_ready = 0,
    port_add = 1,
    port_ready = 3,
    port_open = 6,
    port_name = 7
  };
  struct Control {  ///< struct virtio_console_control
    u32 id;
    u16 event, value;
  };

  struct Setup {
    std::string name;  ///< at most kLongestName bytes
    std::unique_ptr<net::Clients> clients;
  };
  /// At most kMaxPorts.
  Ports(std::string name, Environment environment, std::vector<Setup> ports);
  ~Ports() override;

  u16 id() const override { return 3; }
  u32 class_code() const override { return 0x078000; }
  std::string name() const override { return name_; }
  u64 features() const override { return kFeatureMultiport; }
  std::vector<u16> queue_sizes() const override {
    return std::vector<u16>(4 + 2 * ports_.size(), 64);
  }
  std::span<const u8> config() const override { return config_; }
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override { queues_.clear(); }
  bool notify(unsigned queue) override;
  void quiesce() override { quiet_ = true; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;
  std::vector<machine::Counter> counters() const override;

  /// Queues of the port with this number, from 1.
  static constexpr unsigned to_guest(size_t port) { return static_cast<unsigned>(2 * port + 2); }
  static constexpr unsigned from_guest(size_t port) { return to_guest(port) + 1; }

 private:
  struct PortState {
    bool owes_add = false, owes_name = false;  ///< messages to the driver
    bool ready = false;                        ///< the driver has made the port
    bool guest_open = false;
    bool told_open = false;  ///< the guest believes that a program of the host is there
    static void describe(auto& s, auto& v) {
      v.field("owes_add", s.owes_add);
      v.field("owes_name", s.owes_name);
      v.field("ready", s.ready);
      v.field("guest_open", s.guest_open);
      v.field("told_open", s.told_open);
    }
  };
  struct State {
    std::vector<PortState> ports;
    static void describe(auto& s, auto& v) { v.field("ports", s.ports); }
  };
  struct Port {
    std::string name;
    std::unique_ptr<net::Clients> clients;
    PortState state;
    std::unique_ptr<net::Stream> stream;  ///< the program of the host
    u64 number = 0;                       ///< of its connection
    std::string out;                      ///< what it has not taken
    bool readable = false;                ///< the stream may have bytes
    bool ended = false;                   ///< it will have no more
    bool owes_close = false;              ///< the program that the guest knows of has gone

    /// The guest knows of the program that is there.
    bool joined() const { return stream && state.told_open && !owes_close; }
  };

  void connected(size_t index, Fd socket);
  void on_ready(size_t index, u64 number, u32 events);
  void disconnect(Port& p);
  void watch(Port& p);
  bool flush(Port& p);
  void pump(size_t index);
  bool send_input(size_t index);
  bool take_output(size_t index);
  bool send_control();
  bool next_message(std::string& bytes, std::function<void()>& sent);
  bool take_control();
  void take_message(const Control& m);
  bool swallow(unsigned queue);
  Queue* queue(unsigned index) const { return index < queues_.size() ? queues_[index] : nullptr; }

  std::string name_;
  Environment environment_;
  std::vector<Port> ports_;  ///< number 1 first
  std::array<u8, 12> config_{};
  std::vector<Queue*> queues_;
  bool quiet_ = false;  ///< between quiesce() and the next notify()
  std::vector<u8> scratch_;
  u64 next_number_ = 1;
  u64 to_guest_ = 0, from_guest_ = 0;
  std::shared_ptr<Ports*> self_ = std::make_shared<Ports*>(this);
};

}  // namespace skerry::virtio
