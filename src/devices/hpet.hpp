// The high-precision event timer (IA-PC HPET specification 1.0a): a 100 MHz 64-bit main counter and
// three 64-bit comparators, all of them periodic-capable, with legacy replacement. FSB delivery is
// not offered.
//
// The counter is computed from the Clock (10 ns a tick). Missed periods become one interrupt.
// Threading: a device (board lock held).
#pragma once

#include <memory>

#include "machine/device.hpp"

namespace skerry::devices {

class Hpet final : public machine::Device, public machine::Registers {
 public:
  static constexpr u64 kWindow = 0x400;  ///< bytes of the register block
  static constexpr u64 kTickNanos = 10;
  static constexpr unsigned kTimers = 3;

  struct Wiring {
    u32 routes = 0x00f00000;  ///< IOAPIC pins that a timer may use
    std::function<machine::IrqLine&(unsigned pin)> pin;
    machine::IrqLine* irq0 = nullptr;  ///< timer 0 under legacy replacement
    machine::IrqLine* irq8 = nullptr;  ///< timer 1
    std::function<void(bool)> legacy;  ///< on: cut off PIT and RTC
  };

  Hpet(machine::Surroundings& around, Wiring wiring);

  u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;

  std::string name() const override { return "hpet"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct Comparator {
    u64 config = 0;
    u64 comparator = ~u64{0};
    u64 period = 0;
    u64 seen = 0;  ///< counter up to which matches have been delivered
    static void describe(auto& s, auto& v) {
      v.field("config", s.config);
      v.field("comparator", s.comparator);
      v.field("period", s.period);
      v.field("seen", s.seen);
    }
  };
  struct State {
    u64 config = 0, status = 0;
    u64 counter = 0;  ///< while halted the count, else what to add to the Clock's ticks
    std::array<Comparator, kTimers> timer{};
    static void describe(auto& s, auto& v) {
      v.field("config", s.config);
      v.field("status", s.status);
      v.field("counter", s.counter);
      v.field("timer", s.timer);
    }
  };

 private:
  bool enabled() const { return s_.config & 1; }
  bool legacy() const { return s_.config & 2; }
  u64 clock_ticks() const;
  u64 counter() const;
  u64 read_register(u64 offset);
  void write_register(u64 offset, u64 value, u64 mask);
  void write_config(u64 value);
  void write_comparator(Comparator& t, u64 value, u64 mask);
  void run(unsigned n);
  void rearm(unsigned n);
  void fire(unsigned n);
  machine::IrqLine* line(unsigned n) const;
  void drive_levels();

  machine::Surroundings& around_;
  Wiring wiring_;
  std::array<std::unique_ptr<machine::Timer>, kTimers> timers_;
  State s_;
};

}  // namespace skerry::devices
