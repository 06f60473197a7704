#include "irq/apic_bus.hpp"

#include "base/bits.hpp"
#include "base/log.hpp"
#include "irq/lapic.hpp"

namespace skerry::irq {

void ApicBus::add(Lapic& lapic) {
  lapics_.push_back(&lapic);
}
void ApicBus::remove(Lapic& lapic) {
  std::erase(lapics_, &lapic);
}

void ApicBus::deliver(Lapic& to, Mode mode, u8 vector, bool level) {
  if (!to.enabled()) {
    // With the APIC globally disabled the core still sees INIT and SIPI on the bus (SDM 3A 11.4.3
    // leaves it open; without it an AP that cleared EN could never be restarted).
    if (mode != Mode::init && mode != Mode::sipi) return;
  }
  machine::VcpuPort* port = to.port();
  switch (mode) {
    case Mode::fixed:
    case Mode::lowest: to.deliver(vector, level); break;
    case Mode::extint: to.deliver_extint(); break;
    case Mode::nmi:
      if (port) port->nmi();
      break;
    case Mode::init:
      if (port) port->init();
      break;
    case Mode::sipi:
      if (port) port->sipi(vector);
      break;
    case Mode::smi:
    case Mode::remote_read: break;  // there is no SMM, and remote read is a P6 relic
  }
}

void ApicBus::route(Mode mode, u8 vector, bool level, u32 destination, bool logical, bool wide,
                    bool lowest) {
  trace(Trace::irq, "apic: mode {} vector {:#x} {} to {:#x} {}", static_cast<int>(mode), vector,
        level ? "level" : "edge", destination, logical ? "logical" : "physical");
  if (!lowest) {
    for (Lapic* lapic : lapics_)
      if (lapic->matches(destination, logical, wide)) deliver(*lapic, mode, vector, level);
    return;
  }
  // Lowest priority (SDM 3A 11.6.2.4): among equals the vector decides, so that a device's
  // interrupts stay on one CPU.
  Lapic* best = nullptr;
  unsigned best_rank = 0;
  auto count = static_cast<unsigned>(lapics_.size());
  for (unsigned i = 0; i < count; ++i) {
    Lapic* lapic = lapics_[(i + vector) % count];
    if (!lapic->matches(destination, logical, wide)) continue;
    if (!lapic->enabled() || !lapic->software_enabled()) continue;
    unsigned rank = lapic->arbitration_priority() >> 4;
    if (!best || rank < best_rank) best = lapic, best_rank = rank;
  }
  if (best) deliver(*best, mode, vector, level);
}

void ApicBus::send(machine::MsiMessage message) {
  // SDM 3A 11.11.1: 0xfee in bits 31:20, destination 19:12, RH bit 3, DM bit 2.
  if ((message.address & ~u64{0xfffff}) != 0xfee00000) return;
  auto mode = static_cast<Mode>((message.data >> 8) & 7);
  bool lowest = mode == Mode::lowest || (mode == Mode::fixed && (message.address & 8));
  route(mode, static_cast<u8>(message.data), message.data & 0x8000,
        static_cast<u8>(message.address >> 12), message.address & 4, false, lowest);
}

void ApicBus::ipi(Lapic& from, u32 icr_low, u32 destination, bool wide) {
  auto mode = static_cast<Mode>((icr_low >> 8) & 7);
  auto vector = static_cast<u8>(icr_low);
  bool level_trigger = icr_low & 0x8000, assert = icr_low & 0x4000;
  // INIT level de-assert only synchronised arbitration ids of old buses (SDM 3A 11.6.1).
  if (mode == Mode::init && level_trigger && !assert) return;
  if (mode == Mode::extint) return;  // reserved in the ICR
  switch ((icr_low >> 18) & 3) {
    case 0:
      route(mode, vector, false, destination, icr_low & 0x800, wide, mode == Mode::lowest);
      break;
    case 1:  // self: only fixed is defined; NMI is taken as everybody implements it
      if (mode == Mode::fixed || mode == Mode::lowest || mode == Mode::nmi)
        deliver(from, mode, vector, false);
      break;
    case 2:
      for (Lapic* lapic : lapics_) deliver(*lapic, mode, vector, false);
      break;
    case 3:
      for (Lapic* lapic : lapics_)
        if (lapic != &from) deliver(*lapic, mode, vector, false);
      break;
  }
}

unsigned ApicBus::ipis(u32 first, u64 mask_low, u64 mask_high, bool nmi, u8 vector) {
  unsigned sent = 0;
  for (Lapic* lapic : lapics_) {
    if (lapic->id() < first || lapic->id() - first >= 128) continue;
    const u32 n = lapic->id() - first;
    if (!bit(n < 64 ? mask_low : mask_high, n % 64)) continue;
    deliver(*lapic, nmi ? Mode::nmi : Mode::fixed, vector, false);
    ++sent;
  }
  return sent;
}

machine::VcpuPort* ApicBus::port_of(u32 apic_id) const {
  for (Lapic* lapic : lapics_)
    if (lapic->id() == apic_id) return lapic->port();
  return nullptr;
}

}  // namespace skerry::irq
