#include "pci/bus.hpp"

namespace skerry::pci {

namespace {
constexpr u32 kAddressBits = 0x80ff'fffc;  // enable, bus, device, function, dword; the rest reads 0
}

Bus::Bus(Wiring wiring) : wiring_(std::move(wiring)) {}

void Bus::add(unsigned device, unsigned function, Function& what) {
  SKERRY_CHECK(device < 32 && function < 8 && !at(device, function));
  unsigned pin = what.config().get8(reg::interrupt_pin);
  functions_[device * 8 + function] = &what;
  // PCI 3.0 6.2.1: bit 7 of the header type of function 0 announces the others.
  bool several = false;
  for (unsigned f = 1; f < 8; ++f) several |= at(device, f) != nullptr;
  if (several && at(device, 0)) at(device, 0)->set_multifunction();
  what.connect(wiring_, pin && wiring_.intx ? wiring_.intx(device, pin - 1) : nullptr);
}

std::optional<unsigned> Bus::free_device(unsigned first) const {
  for (unsigned device = first; device < 32; ++device) {
    bool free = true;
    for (unsigned f = 0; f < 8; ++f) free &= !at(device, f);
    if (free) return device;
  }
  return std::nullopt;
}

u32 Bus::config_read(unsigned bdf, unsigned offset, unsigned size) const {
  Function* f = bdf < functions_.size() ? functions_[bdf] : nullptr;
  return f ? f->config_read(offset, size) : ~0u;
}

void Bus::config_write(unsigned bdf, unsigned offset, unsigned size, u32 value) {
  if (Function* f = bdf < functions_.size() ? functions_[bdf] : nullptr)
    f->config_write(offset, size, value);
}

Result<> Bus::load(const state::Image& image) {
  State state;
  TRY_VOID(image.get(name(), state));
  state.address &= kAddressBits;
  state_ = state;
  return {};
}

u64 Bus::Ports::read(u64 offset, unsigned size) {
  u32 address = bus.state_.address;
  if (offset < 4) return offset == 0 && size == 4 ? address : ~u64{0};
  unsigned within = offset & 3;
  if (!(address >> 31) || within + size > 4) return ~u64{0};
  return bus.config_read((address >> 8) & 0xffff, (address & 0xfc) + within, size);
}

void Bus::Ports::write(u64 offset, unsigned size, u64 value) {
  u32& address = bus.state_.address;
  if (offset < 4) {
    if (offset == 0 && size == 4) address = static_cast<u32>(value) & kAddressBits;
    return;
  }
  unsigned within = offset & 3;
  if (!(address >> 31) || within + size > 4) return;
  bus.config_write((address >> 8) & 0xffff, (address & 0xfc) + within, size,
                   static_cast<u32>(value));
}

u64 Bus::Ecam::read(u64 offset, unsigned size) {
  if (size == 8) return read(offset, 4) | read(offset + 4, 4) << 32;
  if ((offset & 3) + size >
      4) {  // an access across dwords: byte by byte, as the CPU would split it
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= (read(offset + i, 1) & 0xff) << (8 * i);
    return value;
  }
  return bus.config_read(static_cast<unsigned>(offset >> 12), offset & 0xfff, size);
}

void Bus::Ecam::write(u64 offset, unsigned size, u64 value) {
  if (size == 8) {
    write(offset, 4, value & 0xffff'ffff);
    write(offset + 4, 4, value >> 32);
    return;
  }
  if ((offset & 3) + size > 4) {
    for (unsigned i = 0; i < size; ++i) write(offset + i, 1, (value >> (8 * i)) & 0xff);
    return;
  }
  bus.config_write(static_cast<unsigned>(offset >> 12), offset & 0xfff, size,
                   static_cast<u32>(value));
}

}  // namespace skerry::pci
