// The I/O APIC: Intel 82093AA with 24 pins, register-compatible with version 0x20 (EOI register).
//
// A pin's set(true) means "asserted", whatever polarity the guest programs: the board's wires know
// no volts. The APIC serial bus is replaced by messages to an MsiSink. Threading: a device (board
// lock held), eoi() included.
#pragma once

#include <memory>

#include "machine/device.hpp"

namespace skerry::irq {

class Ioapic final : public machine::Device, public machine::Registers {
 public:
  static constexpr unsigned kPins = 24;
  static constexpr u64 kWindow = 0x1000;  ///< bytes of the register window

  explicit Ioapic(machine::MsiSink& sink);
  ~Ioapic() override;

  machine::IrqLine& pin(unsigned n);
  /// The EOI of a level-triggered vector, from a LAPIC's broadcast or the engine.
  void eoi(u8 vector);

  u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;

  std::string name() const override { return "ioapic"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct State {
    static constexpr u64 kMasked = 0x10000;
    std::array<u64, kPins> redirection = [] {
      std::array<u64, kPins> all;
      all.fill(kMasked);
      return all;
    }();
    u32 lines = 0;  ///< levels of the inputs
    u8 select = 0;
    u8 id = 0;
    u16 arbitration = 0;
    static void describe(auto& s, auto& v) {
      v.field("redirection", s.redirection);
      v.field("lines", s.lines);
      v.field("select", s.select);
      v.field("id", s.id);
      v.field("arbitration", s.arbitration);
    }
  };

 private:
  class Pin;
  void set_pin(unsigned n, bool level);
  void service_level(unsigned n);
  void announce(unsigned n);
  u32 read_register() const;
  void write_register(u32 value);

  machine::MsiSink& sink_;
  std::array<std::unique_ptr<Pin>, kPins> pins_;
  State s_;
};

}  // namespace skerry::irq
