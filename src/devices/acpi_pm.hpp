// ACPI fixed hardware in ICH9's layout (ACPI 6.4 section 4.8; ICH9 datasheet 13.8.3): PM1a events
// and control, the power-management timer, the GPE0 block, and the SMI command port that switches
// ACPI on.
//
// Only S5 is implemented: there is no sleep to wake from. No SMM: SMI_EN is storage.
// Threading: a device (board lock held).
#pragma once

#include <memory>

#include "machine/byte_registers.hpp"

namespace skerry::devices {

constexpr u64 kPmTimerHz = 3579545;

class AcpiPm final : public machine::Device {
 public:
  static constexpr u64 kBlockSize = 128;
  // Offsets in the block.
  static constexpr u64 kPm1Event = 0, kPm1Control = 4, kPmTimer = 8, kGpe0 = 0x20;
  static constexpr u64 kGpe0Size = 16;                    ///< 8 bytes of status, 8 of enable
  static constexpr u8 kAcpiEnable = 2, kAcpiDisable = 3;  ///< values for the SMI command port

  struct Setup {
    bool timer_32bit = true;  ///< FADT flag TMR_VAL_EXT
    u8 s5_type = 0;           ///< SLP_TYP of \_S5
  };

  AcpiPm(machine::Surroundings& around, machine::Control& control, machine::IrqLine& sci,
         Setup setup);

  machine::Registers& block() { return block_; }      ///< PMBASE, kBlockSize bytes
  machine::Registers& smi_command() { return smi_; }  ///< 0xb2, 2 bytes

  void press_power_button();
  /// Sets a bit of GPE0_STS (0-63).
  void raise_gpe(unsigned n);
  /// A board without a firmware hands the machine over in ACPI mode.
  void enable_acpi();

  std::string name() const override { return "acpi_pm"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct State {
    u64 gpe_status = 0, gpe_enable = 0;
    u64 timer_seen = 0;  ///< half-periods of the timer's top bit already accounted to TMR_STS
    u32 smi_enable = 0;
    u16 status = 0, enable = 0, control = 0;
    u8 smi_command = 0, smi_data = 0;
    std::array<u8, 4> unused{};
    static void describe(auto& s, auto& v) {
      v.field("gpe_status", s.gpe_status);
      v.field("gpe_enable", s.gpe_enable);
      v.field("timer_seen", s.timer_seen);
      v.field("smi_enable", s.smi_enable);
      v.field("status", s.status);
      v.field("enable", s.enable);
      v.field("control", s.control);
      v.field("smi_command", s.smi_command);
      v.field("smi_data", s.smi_data);
      v.field("unused", s.unused);
    }
  };

 private:
  u64 ticks() const;
  u32 timer_value() const;
  void catch_up();
  void update();
  u8 read_block(u64 offset);
  void write_block(u64 offset, u8 value);
  void write_control(u16 value);
  void write_smi(u64 offset, u8 value);

  machine::Surroundings& around_;
  machine::Control& control_;
  machine::IrqLine& sci_;
  const Setup setup_;
  std::unique_ptr<machine::Timer> timer_;
  // The timer is read as a whole: bytes of one access come from one moment.
  class Block final : public machine::Registers {
   public:
    explicit Block(AcpiPm& owner) : owner_(owner) {}
    u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    AcpiPm& owner_;
  };
  Block block_{*this};
  machine::ByteBlock smi_;
  State s_;
};

}  // namespace skerry::devices
