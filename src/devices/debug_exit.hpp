// Small ports: debug exit (0xf4), the debug console (0x402, 0xe9), the POST code (0x80), fast A20
// and reset (0x92), and the reset control register (0xcf9). Threading: devices (board lock held).
#pragma once

#include <span>

#include "machine/byte_registers.hpp"

namespace skerry::devices {

/// A write ends the VM process with status (code << 1) | 1: Control::request(debug_exit, code).
class DebugExit final : public machine::Registers {
 public:
  explicit DebugExit(machine::Control& control) : control_(control) {}
  u64 read(u64, unsigned) override { return 0; }
  void write(u64 offset, unsigned size, u64 value) override;

 private:
  machine::Control& control_;
};

/// Bytes for a log. Reads 0xe9, by which a guest knows that it is there.
class DebugConsole final : public machine::ByteRegisters {
 public:
  explicit DebugConsole(std::function<void(u8)> sink) : sink_(std::move(sink)) {}

 private:
  u8 read8(u64) override { return 0xe9; }
  void write8(u64 offset, u8 value) override {
    if (offset == 0 && sink_) sink_(value);
  }
  std::function<void(u8)> sink_;
};

/// Port 0x80: kernels write it to wait a microsecond, firmware to tell how far it got.
class PostPort final : public machine::Device, public machine::ByteRegisters {
 public:
  std::string name() const override { return "post"; }
  void reset() override { s_ = {}; }
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override { return image.get(name(), s_); }
  struct State {
    u8 code = 0;
    static void describe(auto& s, auto& v) { v.field("code", s.code); }
  };

 private:
  u8 read8(u64 offset) override { return offset == 0 ? s_.code : 0xff; }
  void write8(u64 offset, u8 value) override {
    if (offset == 0) s_.code = value;
  }
  State s_;
};

/// Port 0x92 (ICH9 datasheet 13.7.2): bit 0 resets on its rising edge, bit 1 is A20, which is
/// always on.
class Port92 final : public machine::Device, public machine::ByteRegisters {
 public:
  explicit Port92(machine::Control& control) : control_(control) {}
  std::string name() const override { return "port92"; }
  void reset() override { s_ = {}; }
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override { return image.get(name(), s_); }
  struct State {
    u8 value = 2;
    static void describe(auto& s, auto& v) { v.field("value", s.value); }
  };

 private:
  u8 read8(u64 offset) override { return offset == 0 ? s_.value : 0xff; }
  void write8(u64 offset, u8 value) override;
  machine::Control& control_;
  State s_;
};

/// Reset control at 0xcf9 (ICH9 datasheet 13.7.5): bit 2 rising resets. Shares the port with PCI's
/// 0xcf8, whose accesses are four bytes wide; the board maps this one byte over it.
class ResetPort final : public machine::Device, public machine::ByteRegisters {
 public:
  explicit ResetPort(machine::Control& control) : control_(control) {}
  std::string name() const override { return "reset"; }
  void reset() override { s_ = {}; }
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override { return image.get(name(), s_); }
  struct State {
    u8 value = 0;
    static void describe(auto& s, auto& v) { v.field("value", s.value); }
  };

 private:
  u8 read8(u64 offset) override { return offset == 0 ? s_.value : 0xff; }
  void write8(u64 offset, u8 value) override;
  machine::Control& control_;
  State s_;
};

}  // namespace skerry::devices
