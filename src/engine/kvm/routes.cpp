#include "engine/kvm/routes.hpp"

#include "base/log.hpp"
#include "engine/kvm/api.hpp"

namespace skerry::kvm {
namespace {
constexpr u64 kPromoteAfter = 16;  ///< sends before a message gets an irqfd
constexpr size_t kMaxRoutes =
    512;  ///< a guest that invents messages must not exhaust GSIs or memory
}  // namespace

void Routes::send(machine::MsiMessage message) {
  std::lock_guard guard(mutex_);
  auto it = routes_.find({message.address, message.data});
  if (it == routes_.end() && routes_.size() < kMaxRoutes)
    it = routes_.try_emplace({message.address, message.data}).first;
  if (it != routes_.end()) {
    Route& route = it->second;
    if (!route.irqfd && ++route.sent == kPromoteAfter) promote(route);
    if (route.irqfd) return signal_event(route.irqfd.get());
  }
  kvm_msi msi{};
  msi.address_lo = static_cast<u32>(message.address);
  msi.address_hi = static_cast<u32>(message.address >> 32);
  msi.data = message.data;
  if (::ioctl(vm_, KVM_SIGNAL_MSI, &msi) < 0)
    trace(Trace::irq, "KVM_SIGNAL_MSI {:#x} {:#x}: errno {}", message.address, message.data, errno);
}

void Routes::set_pin_route(unsigned pin, std::optional<machine::MsiMessage> route) {
  if (pin >= kIoapicPins) return;
  std::lock_guard guard(mutex_);
  if (pins_[pin] == route) return;
  pins_[pin] = route;
  publish();
}

void Routes::promote(Route& route) {
  auto event = Fd::event();
  if (!event) return;
  route.gsi = next_gsi_;
  route.irqfd = std::move(*event);
  kvm_irqfd binding{};
  binding.fd = static_cast<u32>(route.irqfd.get());
  binding.gsi = route.gsi;
  if (publish() && ::ioctl(vm_, KVM_IRQFD, &binding) == 0) {
    ++next_gsi_;
  } else {
    route.irqfd = Fd();
  }
}

bool Routes::publish() {
  std::vector<u8> block(8 + (kIoapicPins + routes_.size()) * sizeof(kvm_irq_routing_entry));
  u32 count = 0;
  auto add = [&](u32 gsi, const machine::MsiMessage& m) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<u32>(m.address);
    entry.u.msi.address_hi = static_cast<u32>(m.address >> 32);
    entry.u.msi.data = m.data;
    store(block.data() + 8 + count++ * sizeof entry, entry);
  };
  for (u32 pin = 0; pin < kIoapicPins; ++pin)
    if (pins_[pin]) add(pin, *pins_[pin]);
  for (auto& [key, route] : routes_)
    if (route.irqfd) add(route.gsi, {key.first, key.second});
  store<u32>(block.data(), count);
  if (::ioctl(vm_, number::kSetGsiRouting, block.data()) == 0) return true;
  trace(Trace::irq, "KVM_SET_GSI_ROUTING of {} routes: errno {}", count, errno);
  return false;
}

}  // namespace skerry::kvm
