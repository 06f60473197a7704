#include "pci/chipset.hpp"

#include "pci/bus.hpp"

namespace skerry::pci {

HostBridge::HostBridge()
    : Function("mch", {.vendor = 0x8086, .device = 0x29c0, .revision = 2, .class_code = 0x060000}) {
  // Enabled, 256 MiB (bits 2:1 = 00). Fixed: firmware that programs it asks for this address.
  config_.set32(kPciexbar, static_cast<u32>(kEcamBase) | 1);
  for (unsigned i = 0; i < 7; ++i) config_.set8(kPam + i, 0, i == 0 ? 0x30 : 0x33);
  config_.set8(kSmram, 0x02, 0x78);
  config_.set8(kSmram + 1, 0x38, 0xc7);
}

void HostBridge::tell_pam() {
  if (pam_changed) pam_changed(std::span<const u8, 7>(&config_.bytes()[kPam], 7));
}

void HostBridge::after_config_write(unsigned offset, unsigned size) {
  if (offset < kPam + 7 && offset + size > kPam) tell_pam();
}

void HostBridge::reset() {
  Function::reset();
  tell_pam();
}

Result<> HostBridge::load(const state::Image& image) {
  TRY_VOID(Function::load(image));
  tell_pam();
  return {};
}

machine::IrqLine* SharedLine::driver() {
  return drivers_.emplace_back(std::make_unique<Driver>(*this)).get();
}

void SharedLine::Driver::set(bool level) {
  if (level == high) return;
  high = level;
  bool before = line.level();
  line.high_ += level ? 1 : -1;
  if (line.out_ && line.level() != before) line.out_(line.level());
}

Lpc::Lpc(u16 pm_base, Outputs outputs)
    : Function("lpc", {.vendor = 0x8086, .device = 0x2918, .revision = 2, .class_code = 0x060100}),
      outputs_(outputs) {
  config_.put<u16>(reg::command, command::io | command::memory | command::master);
  config_.set32(kPmbase, u32{pm_base} | 1, 0xff80);      // 13.1.13: 128 ports, bit 0 hardwired
  config_.set8(kAcpiControl, pm_base ? 0x80 : 0, 0x87);  // 13.1.14: ACPI_EN, SCI_IRQ_SEL
  for (unsigned i = 0; i < 4; ++i) {
    config_.set8(kPirqA + i, 0x80, 0x8f);  // 13.1.17: bit 7: not routed to the 8259
    config_.set8(kPirqE + i, 0x80, 0x8f);
  }
  config_.set8(0x64, 0x10, 0xff);       // SERIRQ_CNTL: stored
  config_.set32(kRcba, 0, 0xffffc001);  // 13.1.35: 16 KiB, bit 0: enable
  for (unsigned i = 0; i < 8; ++i)
    pirqs_[i].connect([this, i](bool level) {
      if (outputs_.apic[i]) outputs_.apic[i]->set(level);
      route();
    });
}

Lpc::~Lpc() {
  if (rcba_at_ && wiring().memory) wiring().memory->unmap(*rcba_at_, rcba_);
}

// Several PIRQs may share an input of the 8259; it is high while any of them is.
void Lpc::route() {
  std::array<bool, 16> level{};
  for (unsigned i = 0; i < 8; ++i) {
    u8 route = config_.get8((i < 4 ? kPirqA : kPirqE - 4) + i);
    if (!(route & 0x80)) level[route & 15] |= pirqs_[i].level();
  }
  // Inputs 0, 1, 2, 8 and 13 are reserved in the route (13.1.17).
  for (unsigned irq : {3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})
    if (outputs_.pic[irq]) outputs_.pic[irq]->set(level[irq]);
}

void Lpc::apply() {
  u32 rcba = config_.get32(kRcba);
  std::optional<u64> want;
  if ((rcba & 1) && (rcba & ~1u)) want = rcba & 0xffffc000;
  if (want != rcba_at_ && wiring().memory) {
    if (rcba_at_) wiring().memory->unmap(*rcba_at_, rcba_);
    if (want) wiring().memory->map(*want, 16 * KiB, rcba_, "lpc.rcba");
    rcba_at_ = want;
  }
  u16 base = config_.get32(kPmbase) & 0xff80;
  bool on = (config_.get8(kAcpiControl) & 0x80) && base;
  auto pm_base = on ? std::optional(base) : std::nullopt;
  if (pm_base != pm_base_) {
    pm_base_ = pm_base;
    if (pm_base_changed) pm_base_changed(pm_base);
  }
  route();
}

void Lpc::after_config_write(unsigned, unsigned) {
  apply();
}

void Lpc::reset() {
  Function::reset();
  apply();
}

Result<> Lpc::load(const state::Image& image) {
  TRY_VOID(Function::load(image));
  apply();
  return {};
}

}  // namespace skerry::pci
