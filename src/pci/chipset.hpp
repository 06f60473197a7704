// The two functions that make firmware and kernels recognise a Q35/ICH9 board.
//
// HostBridge 00:00.0: the configuration registers of the Intel 82G33/Q35 MCH (datasheet 316966,
// chapter 5) that Linux, SeaBIOS and OVMF touch: PCIEXBAR (fixed), PAM and SMRAM (stored, reported
// to the board). Lpc 00:1f.0: the LPC bridge of the ICH9 (datasheet 316972, chapter 13): PMBASE,
// ACPI_CNTL, PIRQ routing, RCBA (a block that reads zero). No TCO, GPIO, SMM or DMA remapping.
//
// Threading: called with the board lock held.
#pragma once

#include "pci/function.hpp"

namespace skerry::pci {

class HostBridge final : public Function {
 public:
  static constexpr unsigned kPciexbar = 0x60, kPam = 0x90, kSmram = 0x9d;

  HostBridge();
  /// PAM0..PAM6 after every change: how 0xc0000..0xfffff decodes (5.1.17).
  std::function<void(std::span<const u8, 7>)> pam_changed;
  void reset() override;
  Result<> load(const state::Image& image) override;

 private:
  void after_config_write(unsigned offset, unsigned size) override;
  void tell_pam();
};

/// The PIRQ (0 = A ... 7 = H) that a pin (0 = INTA) of a device on bus 0 is wired to. The board's
/// ACPI tables say the same. Devices 25 to 31 are not rotated, as SeaBIOS expects of a Q35.
constexpr unsigned pirq_of(unsigned device, unsigned pin) {
  return device < 25 ? (device + pin) % 8 : pin % 4;
}
/// In APIC mode PIRQ n is this IOAPIC pin (ICH9 5.8.1.1).
constexpr unsigned pirq_gsi(unsigned pirq) {
  return 16 + pirq;
}

/// A level-triggered wire that is high while any of its drivers is.
class SharedLine {
 public:
  void connect(std::function<void(bool)> out) { out_ = std::move(out); }
  /// A new driver; it lives as long as this.
  machine::IrqLine* driver();
  bool level() const { return high_ > 0; }

 private:
  struct Driver final : machine::IrqLine {
    explicit Driver(SharedLine& l) : line(l) {}
    void set(bool level) override;
    SharedLine& line;
    bool high = false;
  };
  std::vector<std::unique_ptr<Driver>> drivers_;
  std::function<void(bool)> out_;
  unsigned high_ = 0;
};

class Lpc final : public Function {
 public:
  static constexpr unsigned kPmbase = 0x40, kAcpiControl = 0x44, kPirqA = 0x60, kPirqE = 0x68,
                            kRcba = 0xf0;

  struct Outputs {
    /// IOAPIC pins 16..23 and 8259 inputs 0..15; null: not there. The 8259's are shared with ISA
    /// devices, so the board gives lines that it combines itself.
    std::array<machine::IrqLine*, 8> apic{};
    std::array<machine::IrqLine*, 16> pic{};
  };
  /// `pm_base`: where the ACPI registers are after reset, or 0 to leave it to the firmware.
  Lpc(u16 pm_base, Outputs outputs);
  ~Lpc() override;

  /// A new driver of PIRQ 0..7; what Wiring::intx returns.
  machine::IrqLine* pirq(unsigned index) { return pirqs_[index].driver(); }
  /// PMBASE and ACPI_EN after every change; nullopt: not decoded.
  std::function<void(std::optional<u16>)> pm_base_changed;

  void reset() override;
  Result<> load(const state::Image& image) override;

 private:
  struct Rcba final : machine::Registers {
    u64 read(u64, unsigned) override { return 0; }
    void write(u64, unsigned, u64) override {}
  };
  void after_config_write(unsigned offset, unsigned size) override;
  void apply();
  void route();

  std::array<SharedLine, 8> pirqs_;
  Outputs outputs_;
  Rcba rcba_;
  std::optional<u64> rcba_at_;
  std::optional<u16> pm_base_;
};

}  // namespace skerry::pci
