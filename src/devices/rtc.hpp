// The MC146818 real-time clock with 128 bytes of CMOS memory (Motorola MC146818A data sheet; ICH9
// datasheet 13.6).
//
// The time is Clock::wall() plus what the guest has set. UIP is high for the last 2228 us of each
// second (244 us of warning and 1984 us of update), and the new time shows when it falls. Flags of
// register C are computed from the Clock when somebody looks. Daylight saving and the square wave
// are not there. Threading: a device (board lock held).
#pragma once

#include <memory>

#include "machine/byte_registers.hpp"

namespace skerry::devices {

/// What firmware reads from CMOS about the machine.
struct CmosConfig {
  u64 ram_below_4g = 0;  ///< bytes
  u64 ram_above_4g = 0;
  unsigned cpus = 1;
};

class Rtc final : public machine::Device {
 public:
  Rtc(machine::Surroundings& around, machine::IrqLine& irq8, const CmosConfig& config);

  machine::Registers& ports() { return ports_; }  ///< 0x70, 2 bytes

  /// A byte of CMOS memory, for the board (boot order...). Kept over reset.
  void poke(u8 index, u8 value);
  u8 peek(u8 index) const { return s_.cmos[index & 0x7f]; }
  /// The HPET's legacy replacement cuts the RTC off from its interrupt.
  void mute_irq(bool muted);

  std::string name() const override { return "rtc"; }
  /// Keeps the time and the memory, as the battery does.
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct State {
    i64 offset = 0;              ///< nanoseconds to add to Clock::wall()
    i64 stopped_at = 0;          ///< the clock's time (ns since 1970) while it is stopped
    i64 seen_second = 0;         ///< up to which UF and AF have been computed
    i64 seen_period = 0;         ///< periods up to which PF has been computed
    std::array<u8, 128> cmos{};  ///< registers A-D and, while SET is 1, the time included
    u8 index = 0;
    u8 weekday_shift = 0;  ///< the guest's day of the week less the calendar's
    bool muted = false;
    bool irq = false;
    std::array<u8, 4> unused{};
    static void describe(auto& s, auto& v) {
      v.field("offset", s.offset);
      v.field("stopped_at", s.stopped_at);
      v.field("seen_second", s.seen_second);
      v.field("seen_period", s.seen_period);
      v.field("cmos", s.cmos);
      v.field("index", s.index);
      v.field("weekday_shift", s.weekday_shift);
      v.field("muted", s.muted);
      v.field("irq", s.irq);
      v.field("unused", s.unused);
    }
  };

 private:
  u8 read8(u64 offset);
  void write8(u64 offset, u8 value);
  u8 read_cmos(u8 index);
  void write_cmos(u8 index, u8 value);
  void write_a(u8 value);
  void write_b(u8 value);

  bool held() const;  ///< SET, or the divider in reset: no updates
  i64 time() const;   ///< the RTC's time in ns since 1970
  void set_time(i64 seconds);
  void to_cmos(i64 seconds);
  i64 from_cmos() const;
  u8 encode(unsigned value) const;
  unsigned decode(u8 value) const;
  u8 encode_hour(unsigned hour) const;
  unsigned decode_hour(u8 value) const;
  bool updating() const;
  bool alarm_at(i64 second) const;
  i64 period_ticks() const;  ///< of the 32768 Hz divider, 0: off
  void catch_up();
  void resume_counting();
  void update();

  machine::Surroundings& around_;
  machine::IrqLine& irq8_;
  std::unique_ptr<machine::Timer> timer_;
  machine::ByteBlock ports_;
  State s_;
};

}  // namespace skerry::devices
