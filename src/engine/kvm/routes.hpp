// MSIs into the kernel's LAPICs.
//
// A message that comes often gets a GSI route and an irqfd of its own, so that sending it is one
// write to an eventfd; rare ones go through KVM_SIGNAL_MSI. IOAPIC pins have routes too, which
// nobody triggers: from them KVM knows which level-triggered vectors must report their EOI.
#pragma once

#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "base/fd.hpp"
#include "machine/irq.hpp"

namespace skerry::kvm {

constexpr unsigned kIoapicPins = 24;

class Routes final : public machine::MsiSink {
 public:
  explicit Routes(int vm_fd) : vm_(vm_fd) {}
  void send(machine::MsiMessage message) override;
  void set_pin_route(unsigned pin, std::optional<machine::MsiMessage> route) override;

 private:
  struct Route {
    u64 sent = 0;
    u32 gsi = 0;
    Fd irqfd;
  };
  bool publish();
  void promote(Route& route);

  const int vm_;
  std::mutex mutex_;
  std::array<std::optional<machine::MsiMessage>, kIoapicPins> pins_;
  std::map<std::pair<u64, u32>, Route> routes_;
  u32 next_gsi_ = kIoapicPins;
};

}  // namespace skerry::kvm
