// Registers of parts with an 8-bit data bus: wider accesses are split into bytes, lowest address
// first, as the ISA bridge does (ICH9 datasheet 5.7).
#pragma once

#include "machine/device.hpp"

namespace skerry::machine {

class ByteRegisters : public Registers {
 public:
  u64 read(u64 offset, unsigned size) final {
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= u64{read8(offset + i)} << (8 * i);
    return value;
  }
  void write(u64 offset, unsigned size, u64 value) final {
    for (unsigned i = 0; i < size; ++i) write8(offset + i, static_cast<u8>(value >> (8 * i)));
  }

 protected:
  /// Offsets outside the block: 0xff, and writes are dropped.
  virtual u8 read8(u64 offset) = 0;
  virtual void write8(u64 offset, u8 value) = 0;
};

/// A block of byte registers whose accesses a device handles itself: one device, several blocks.
class ByteBlock final : public ByteRegisters {
 public:
  ByteBlock(std::function<u8(u64)> read, std::function<void(u64, u8)> write)
      : read_(std::move(read)), write_(std::move(write)) {}

 private:
  u8 read8(u64 offset) override { return read_(offset); }
  void write8(u64 offset, u8 value) override { write_(offset, value); }
  std::function<u8(u64)> read_;
  std::function<void(u64, u8)> write_;
};

}  // namespace skerry::machine
