#include "pci/function.hpp"

namespace skerry::pci {

namespace {
constexpr u8 kMsiId = 0x05, kMsixId = 0x11;  // PCI 3.0 appendix H
constexpr u16 kMsiEnable = 1 << 0, kMsi64 = 1 << 7;
}  // namespace

Function::Function(std::string name, const Identity& id) : name_(std::move(name)) {
  config_.set16(reg::vendor, id.vendor);
  config_.set16(reg::device, id.device);
  // Parity, SERR and the like have no effect here but drivers expect them to stick.
  config_.set16(reg::command, 0, command::master | command::intx_disable | 1 << 6 | 1 << 8);
  config_.set8(reg::revision, id.revision);
  config_.set8(reg::prog_if, static_cast<u8>(id.class_code));
  config_.set16(reg::class_code, static_cast<u16>(id.class_code >> 8));
  config_.set8(reg::cache_line, 0, 0xff);
  config_.set8(reg::latency, 0, 0xf8);
  config_.set16(reg::subsystem_vendor, id.subsystem_vendor);
  config_.set16(reg::subsystem, id.subsystem);
  config_.set8(reg::interrupt_pin, id.interrupt_pin);
  if (id.interrupt_pin) config_.set8(reg::interrupt_line, 0, 0xff);
}

// The Spaces outlive the functions, so mappings must not.
Function::~Function() {
  for (Bar& bar : bars_) {
    machine::Space* space = bar.kind == BarKind::io ? wiring_.ports : wiring_.memory;
    if (bar.mapped && space) space->unmap(*bar.mapped, *bar.registers);
  }
}

void Function::connect(const Wiring& wiring, machine::IrqLine* intx) {
  wiring_ = wiring;
  intx_line_ = intx;
  if (msix_) msix_->connect(wiring.msi);
  initial_ = config_.bytes();
  initial_known_ = true;
}

void Function::add_bar(unsigned index, BarKind kind, u64 size, machine::Registers& registers) {
  bool wide = kind == BarKind::memory64;
  SKERRY_CHECK(index + wide < 6 && bars_[index].size == 0 && is_power_of_two(size));
  SKERRY_CHECK(size >= (kind == BarKind::io ? 4 : 16) && size <= (wide ? kAddressLimit : 2 * GiB));
  SKERRY_CHECK(kind != BarKind::io || size <= 256, "PCI 3.0 6.2.5.1: at most 256 ports");
  bars_[index] = {kind, size, &registers, std::nullopt};
  unsigned at = reg::bar0 + 4 * index;
  u64 writable = ~(size - 1);
  if (kind == BarKind::io) {
    config_.set32(at, 1, static_cast<u32>(writable) & ~3u);
  } else {
    config_.set32(at, wide ? 4 : 0, static_cast<u32>(writable) & ~15u);
    if (wide) config_.set32(at + 4, 0, static_cast<u32>(writable >> 32));
  }
  config_.allow16(reg::command, kind == BarKind::io ? command::io : command::memory);
}

void Function::add_msix(unsigned bar, unsigned vectors) {
  msix_.emplace(vectors);
  add_bar(bar, BarKind::memory32, msix_->size(), *msix_);
  u8 body[10];
  store<u16>(body, static_cast<u16>(vectors - 1));
  store<u32>(body + 2, bar);
  store<u32>(body + 6, msix_->pba_offset() | bar);
  msix_at_ = config_.add_capability(kMsixId, body);
  config_.allow16(msix_at_ + 2, Msix::kEnable | Msix::kFunctionMask);
}

void Function::add_msi() {
  u8 body[12] = {};
  store<u16>(body, kMsi64);
  msi_at_ = config_.add_capability(kMsiId, body);
  config_.allow16(msi_at_ + 2, kMsiEnable);
  config_.set32(msi_at_ + 4, 0, ~3u);
  config_.set32(msi_at_ + 8, 0, ~0u);
  config_.set16(msi_at_ + 12, 0, 0xffff);
}

bool Function::message_interrupts() const {
  return (msix_ && msix_->enabled()) || (msi_at_ && (config_.get16(msi_at_ + 2) & kMsiEnable));
}

void Function::send_msi() {
  if (!msi_at_ || !(config_.get16(msi_at_ + 2) & kMsiEnable) || !bus_master() || !wiring_.msi)
    return;
  wiring_.msi->send({u64{config_.get32(msi_at_ + 8)} << 32 | config_.get32(msi_at_ + 4),
                     config_.get16(msi_at_ + 12)});
}

void Function::set_intx(bool level) {
  intx_ = level;
  drive_intx();
}

// PCI 3.0 6.2.3: STATUS shows the request even where COMMAND keeps it from the pin.
void Function::drive_intx() {
  u16 status = config_.get16(reg::status);
  config_.put<u16>(reg::status, static_cast<u16>(intx_ ? status | kStatusInterrupt
                                                       : status & ~kStatusInterrupt));
  bool masked = config_.get16(reg::command) & command::intx_disable;
  if (intx_line_) intx_line_->set(intx_ && !masked && !message_interrupts());
}

u32 Function::config_read(unsigned offset, unsigned size) {
  if (offset < Config::kSize) before_config_read(offset, size);
  u32 value = config_.read(offset, size);
  trace(Trace::pci, "{} config read  {:#04x} size {} = {:#x}", name_, offset, size, value);
  return value;
}

void Function::config_write(unsigned offset, unsigned size, u32 value) {
  trace(Trace::pci, "{} config write {:#04x} size {} = {:#x}", name_, offset, size, value);
  if (offset >= Config::kSize) return;
  config_.write(offset, size, value);
  settle();
  after_config_write(offset, size);
}

// Where the guest wants the BAR, or nullopt. The two values that sizing leaves behind, 0 and the
// top of the range, decode nothing: many drivers size without switching decoding off first, and
// there the range would cover something else.
std::optional<u64> Function::decoded(unsigned index) const {
  const Bar& bar = bars_[index];
  u16 command = config_.get16(reg::command);
  if (bar.size == 0 || !(command & (bar.kind == BarKind::io ? command::io : command::memory)))
    return std::nullopt;
  u64 address = config_.get32(reg::bar0 + 4 * index), limit = u64{1} << 32;
  if (bar.kind == BarKind::io) {
    address &= ~u64{3};
    limit = 0x10000;
  } else {
    address &= ~u64{15};
    if (bar.kind == BarKind::memory64) {
      address |= u64{config_.get32(reg::bar0 + 4 * index + 4)} << 32;
      if (address >= limit) limit = kAddressLimit;
    }
  }
  if (address == 0 || address >= limit || bar.size >= limit - address) return std::nullopt;
  return address;
}

void Function::place(unsigned index, std::optional<u64> address) {
  Bar& bar = bars_[index];
  if (bar.mapped == address) return;
  machine::Space* space = bar.kind == BarKind::io ? wiring_.ports : wiring_.memory;
  if (space && bar.mapped) space->unmap(*bar.mapped, *bar.registers);
  bar.mapped = address;
  if (space && address)
    space->map(*address, bar.size, *bar.registers, fmt::format("{}.bar{}", name_, index));
  trace(Trace::pci, "{} bar {} {:#x}", name_, index, address.value_or(0));
  bar_moved(index, address);
}

void Function::settle() {
  // All leave before any arrives: a guest may swap two BARs.
  for (unsigned i = 0; i < bars_.size(); ++i)
    if (bars_[i].mapped != decoded(i)) place(i, std::nullopt);
  for (unsigned i = 0; i < bars_.size(); ++i) place(i, decoded(i));
  if (msix_) msix_->set_control(config_.get16(msix_at_ + 2), bus_master());
  drive_intx();
}

void Function::reset() {
  SKERRY_CHECK(initial_known_, "a PCI function is reset before it is connected");
  config_.restore(initial_);
  if (msix_) msix_->reset();
  intx_ = false;
  settle();
}

void Function::save(state::Image& image) const {
  State state{config_.bytes(), intx_, msix_ ? msix_->state() : Msix::State{}};
  image.put(name_ + ".pci", state);
}

Result<Function::State> Function::parse(const state::Image& image) const {
  State state;
  TRY_VOID(image.get(name_ + ".pci", state));
  if (skerry::load<u32>(&state.config[reg::vendor]) != config_.get32(reg::vendor))
    return fail("{} is another device in the image", name_);
  if (msix_ ? !msix_->fits(state.msix) : !state.msix.table.empty())
    return fail("{} has another number of interrupt vectors in the image", name_);
  for (Msix::Entry& e : state.msix.table) e.control &= 1;
  return state;
}

void Function::adopt(State state) {
  config_.adopt(state.config);
  if (msix_) msix_->adopt(std::move(state.msix));
  intx_ = state.intx;
  settle();
}

Result<> Function::load(const state::Image& image) {
  adopt(TRY(parse(image)));
  return {};
}

}  // namespace skerry::pci
