// The board's interrupt wires: which device line goes to which input of the 8259 pair and the
// IOAPIC.
#pragma once

#include <deque>

#include "irq/ioapic.hpp"
#include "irq/pic.hpp"
#include "pci/chipset.hpp"

namespace skerry::board {

/// GSI of an ISA interrupt: IRQ 0 is wired to pin 2 (the MADT's interrupt source override says so).
constexpr unsigned isa_gsi(unsigned irq) {
  return irq == 0 ? 2 : irq;
}

class Wires {
 public:
  Wires(irq::Pic& pic, irq::Ioapic& ioapic);

  /// An ISA device's line: to the 8259 input and the IOAPIC pin at once; the controllers' masks
  /// decide which of them acts. Lives as long as this.
  machine::IrqLine& isa(unsigned irq);
  /// A share of one IOAPIC pin alone. Lives as long as this.
  machine::IrqLine& ioapic_pin(unsigned pin) { return *pins_[pin].driver(); }
  /// What the LPC bridge drives: IOAPIC pins 16-23 and a share in each 8259 input.
  pci::Lpc::Outputs lpc_outputs();

 private:
  class Both final : public machine::IrqLine {
   public:
    Both(machine::IrqLine* a, machine::IrqLine* b) : a_(a), b_(b) {}
    void set(bool level) override {
      if (a_) a_->set(level);
      b_->set(level);
    }

   private:
    machine::IrqLine *a_, *b_;
  };
  irq::Pic& pic_;
  irq::Ioapic& ioapic_;
  std::array<pci::SharedLine, 16> pic_inputs_;
  std::array<pci::SharedLine, irq::Ioapic::kPins> pins_;
  std::deque<Both> lines_;
};

}  // namespace skerry::board
