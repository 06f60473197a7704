// The pvpanic port (QEMU's docs/specs/pvpanic): a guest's kernel tells that it panics.
//
// A read gives the events that it may tell, a write tells them. Each is told once until the next
// reset, so that a guest cannot keep the host busy. Threading: a device (board lock held).
#pragma once

#include "machine/byte_registers.hpp"

namespace skerry::devices {

class PvPanic final : public machine::Device, public machine::ByteRegisters {
 public:
  /// The kernel panics; or it does so and goes on to a crash kernel.
  enum Event : u8 { kPanicked = 1, kCrashLoaded = 2 };

  /// Asks for Request::panic with the events as its code.
  explicit PvPanic(machine::Control& control) : control_(control) {}
  std::string name() const override { return "pvpanic"; }
  void reset() override { s_ = {}; }
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override { return image.get(name(), s_); }
  struct State {
    u8 told = 0;
    static void describe(auto& s, auto& v) { v.field("told", s.told); }
  };

 private:
  u8 read8(u64 offset) override { return offset == 0 ? kPanicked | kCrashLoaded : 0xff; }
  void write8(u64 offset, u8 value) override {
    u8 fresh = static_cast<u8>(value & (kPanicked | kCrashLoaded) & ~s_.told);
    if (offset != 0 || !fresh) return;
    s_.told |= fresh;
    control_.request(machine::Request::panic, fresh);
  }

  machine::Control& control_;
  State s_;
};

}  // namespace skerry::devices
