// The bus between local APICs, IOAPIC and devices that send MSIs: decides which LAPICs a message is
// for (SDM 3A 11.6.2 destination, 11.11 MSI).
//
// Threading: LAPICs are added before vCPUs start; everything else is callable from any thread and
// takes no lock, but broadcast_eoi(), whose callback takes the board lock.
#pragma once

#include <functional>
#include <vector>

#include "machine/irq.hpp"

namespace skerry::irq {

class Lapic;

class ApicBus final : public machine::MsiSink {
 public:
  enum class Mode : u8 { fixed, lowest, smi, remote_read, nmi, init, sipi, extint };

  void add(Lapic& lapic);
  void remove(Lapic& lapic);

  /// What to do with the EOI of a level-triggered vector: takes the board lock and tells the
  /// IOAPIC. Called from vCPU threads without the board lock.
  void set_eoi_callback(std::function<void(u8 vector)> callback) { eoi_ = std::move(callback); }
  /// What to do with pin routes of the IOAPIC; this bus needs none.

  // machine::MsiSink
  void send(machine::MsiMessage message) override;

  /// The write of an interrupt command register; `destination` is 8 bits wide, or 32 if `wide`.
  void ipi(Lapic& from, u32 icr_low, u32 destination, bool wide);
  /// A fixed interrupt or an NMI to every APIC whose id is `first` plus the number of a set bit.
  /// How many there are.
  unsigned ipis(u32 first, u64 mask_low, u64 mask_high, bool nmi, u8 vector);
  machine::VcpuPort* port_of(u32 apic_id) const;
  void broadcast_eoi(u8 vector) {
    if (eoi_) eoi_(vector);
  }

 private:
  void route(Mode mode, u8 vector, bool level, u32 destination, bool logical, bool wide,
             bool lowest);
  static void deliver(Lapic& to, Mode mode, u8 vector, bool level);

  std::vector<Lapic*> lapics_;
  std::function<void(u8)> eoi_;
};

}  // namespace skerry::irq
