// TapPort: the guest on a tap device of the host's kernel: part of the host's own network, alone or
// in a bridge.
//
// Frames pass with their virtio_net_hdr both ways (IFF_VNET_HDR; Linux,
// Documentation/networking/tuntap.rst), so that checksums and TCP segments are left to whoever is
// able to: the kernel, the host's card, or nobody on the way to another guest.
//
// With several queues (IFF_MULTI_QUEUE) there is a descriptor for each. The kernel keeps a flow on
// that queue on which it was last sent; those that the guest does not use are detached
// (TUNSETQUEUE).
//
// Making a device or adding it to a bridge takes CAP_NET_ADMIN; a persistent one that was made for
// the user does not.
//
// Threading: as Port.
#pragma once

#include <vector>

#include "base/event_loop.hpp"
#include "net/port.hpp"

namespace skerry::net {

struct TapSetup {
  std::string ifname;  ///< "": the kernel chooses skerry0, skerry1...
  std::string bridge;  ///< to be added to; "" none
  unsigned queues = 1;
  bool operator==(const TapSetup&) const = default;
};

class TapPort final : public Port {
 public:
  static Result<std::unique_ptr<TapPort>> create(EventLoop& loop, const TapSetup& setup);
  ~TapPort() override;

  void attach(Events events) override;
  unsigned queues() const override { return static_cast<unsigned>(queues_.size()); }
  void use_queues(unsigned count) override;
  bool send(const Offload& offload, std::span<const u8> frame, unsigned queue) override;
  void resume() override;
  std::string describe() const override { return "tap " + name_; }
  /// Of the device.
  const std::string& name() const { return name_; }

 private:
  struct Queue {
    Fd fd;
    std::vector<u8> buffer = std::vector<u8>(sizeof(Offload) + kMaxFrame + 1);
    size_t held = 0;  ///< bytes in buffer of a frame that the guest had no room for
    bool refused = false, blocked = false, watched = false;
  };
  explicit TapPort(EventLoop& loop) : loop_(loop) {}
  Result<> open(const TapSetup& setup);
  bool set_attached(Queue& queue, bool attached);
  void watch(unsigned index);
  void unwatch(Queue& queue);
  void writable_soon();
  void on_ready(unsigned index, u32 events);
  void take(unsigned index);
  void lose(int why);

  EventLoop& loop_;
  Events events_;
  std::vector<Queue> queues_;
  unsigned used_ = 1;
  std::string name_;
  bool posted_ = false;
  std::shared_ptr<TapPort*> self_ = std::make_shared<TapPort*>(this);
};

}  // namespace skerry::net
