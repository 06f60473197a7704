// TapPort: the guest on a tap device of the host's kernel: part of the host's own network, alone or
// in a bridge.
//
// Frames pass with their virtio_net_hdr both ways (IFF_VNET_HDR; Linux,
// Documentation/networking/tuntap.rst), so that checksums and TCP segments are left to whoever is
// able to: the kernel, the host's card, or nobody on the way to another guest.
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
  bool operator==(const TapSetup&) const = default;
};

class TapPort final : public Port {
 public:
  static Result<std::unique_ptr<TapPort>> create(EventLoop& loop, const TapSetup& setup);
  ~TapPort() override;

  void attach(Events events) override;
  bool send(const Offload& offload, std::span<const u8> frame) override;
  void resume() override;
  std::string describe() const override { return "tap " + name_; }
  /// Of the device.
  const std::string& name() const { return name_; }

 private:
  explicit TapPort(EventLoop& loop) : loop_(loop) {}
  void watch();
  void on_ready(u32 events);
  void take();

  EventLoop& loop_;
  Events events_;
  Fd tap_;
  std::string name_;
  std::vector<u8> buffer_ = std::vector<u8>(sizeof(Offload) + kMaxFrame + 1);
  size_t held_ = 0;  ///< bytes in buffer_ of a frame that the guest had no room for
  bool refused_ = false, blocked_ = false, watched_ = false, posted_ = false;
  std::shared_ptr<TapPort*> self_ = std::make_shared<TapPort*>(this);
};

}  // namespace skerry::net
