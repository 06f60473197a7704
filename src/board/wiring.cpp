#include "board/wiring.hpp"

namespace skerry::board {

Wires::Wires(irq::Pic& pic, irq::Ioapic& ioapic) : pic_(pic), ioapic_(ioapic) {
  for (unsigned i = 0; i < 16; ++i)
    pic_inputs_[i].connect([this, i](bool level) { pic_.line(i).set(level); });
  for (unsigned i = 0; i < irq::Ioapic::kPins; ++i)
    pins_[i].connect([this, i](bool level) { ioapic_.pin(i).set(level); });
}

machine::IrqLine& Wires::isa(unsigned irq) {
  // Input 2 of the first 8259 is the second one's output.
  machine::IrqLine* pic = irq == 2 ? nullptr : pic_inputs_[irq].driver();
  return lines_.emplace_back(pic, pins_[isa_gsi(irq)].driver());
}

pci::Lpc::Outputs Wires::lpc_outputs() {
  pci::Lpc::Outputs outputs;
  for (unsigned i = 0; i < 8; ++i) outputs.apic[i] = pins_[pci::pirq_gsi(i)].driver();
  for (unsigned i = 3; i < 16; ++i)
    if (i != 8 && i != 13) outputs.pic[i] = pic_inputs_[i].driver();
  return outputs;
}

}  // namespace skerry::board
