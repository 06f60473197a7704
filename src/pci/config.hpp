// The 256 bytes of configuration space of a conventional PCI function: values and write masks.
//
// PCI Local Bus 3.0 chapter 6. The extended space of PCI Express is absent (reads as all ones),
// which is how a conventional function behind an ECAM looks. Plain data, no locks.
#pragma once

#include <array>
#include <span>

#include "base/bits.hpp"

namespace skerry::pci {

/// Offsets in the type 0 header (PCI 3.0 6.1).
namespace reg {
constexpr unsigned vendor = 0x00, device = 0x02, command = 0x04, status = 0x06, revision = 0x08,
                   prog_if = 0x09, class_code = 0x0a, cache_line = 0x0c, latency = 0x0d,
                   header_type = 0x0e, bar0 = 0x10, subsystem_vendor = 0x2c, subsystem = 0x2e,
                   rom = 0x30, capabilities = 0x34, interrupt_line = 0x3c, interrupt_pin = 0x3d;
}
/// Bits of COMMAND (6.2.2) and STATUS (6.2.3).
namespace command {
constexpr u16 io = 1 << 0, memory = 1 << 1, master = 1 << 2, intx_disable = 1 << 10;
}
constexpr u16 kStatusInterrupt = 1 << 3, kStatusCapabilities = 1 << 4;

class Config {
 public:
  static constexpr unsigned kSize = 256;

  /// The value itself, or all ones outside the 256 bytes.
  u32 read(unsigned offset, unsigned size) const;
  /// What software may change changes.
  void write(unsigned offset, unsigned size, u32 value);

  u8 get8(unsigned offset) const { return bytes_[offset]; }
  u16 get16(unsigned offset) const { return load<u16>(&bytes_[offset]); }
  u32 get32(unsigned offset) const { return load<u32>(&bytes_[offset]); }
  void set8(unsigned offset, u8 value, u8 writable = 0) { set(offset, value, writable); }
  void set16(unsigned offset, u16 value, u16 writable = 0) { set(offset, value, writable); }
  void set32(unsigned offset, u32 value, u32 writable = 0) { set(offset, value, writable); }
  /// Lets software change these bits, too.
  void allow16(unsigned offset, u16 writable) {
    store<u16>(&mask_[offset], static_cast<u16>(load<u16>(&mask_[offset]) | writable));
  }
  /// Changes a value that the device owns; its write mask stays.
  template <class T>
  void put(unsigned offset, T value) {
    store<T>(&bytes_[offset], value);
  }

  /// Links a capability of `body` (what follows id and next pointer) into the list, in call order.
  /// Returns its offset.
  unsigned add_capability(u8 id, std::span<const u8> body);
  /// The offset of the first capability with this id, or 0.
  unsigned find_capability(u8 id) const;

  const std::array<u8, kSize>& bytes() const { return bytes_; }
  void restore(const std::array<u8, kSize>& bytes) { bytes_ = bytes; }
  /// Takes the writable bits from `saved`. The rest is the function's identity.
  void adopt(const std::array<u8, kSize>& saved);

 private:
  template <class T>
  void set(unsigned offset, T value, T writable) {
    store<T>(&bytes_[offset], value);
    store<T>(&mask_[offset], writable);
  }
  std::array<u8, kSize> bytes_{}, mask_{};
  unsigned next_capability_ = 0x40;
  unsigned last_capability_ = 0;
};

}  // namespace skerry::pci
