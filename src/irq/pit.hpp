// The 8254 programmable interval timer and port 0x61 (Intel 8254 data sheet; ICH9
// datasheet 13.3, 13.7).
//
// Counts are computed from the Clock on its 1.193182 MHz grid when somebody looks: no error
// accumulates. Missed periods of channel 0 become one interrupt. GATE of channels 0 and 1 is tied
// high. Threading: a device (board lock held).
#pragma once

#include <memory>

#include "machine/byte_registers.hpp"
#include "machine/irq.hpp"

namespace skerry::irq {

constexpr u64 kPitHz = 1193182;

class Pit final : public machine::Device {
 public:
  /// `irq0` is driven by OUT of channel 0.
  Pit(machine::Surroundings& around, machine::IrqLine& irq0);

  machine::Registers& ports() { return ports_; }          ///< 0x40, 4 bytes
  machine::Registers& control_port() { return port61_; }  ///< 0x61, 1 byte

  /// The HPET's legacy replacement cuts channel 0 off from its interrupt.
  void mute_irq(bool muted);

  std::string name() const override { return "pit"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct Channel {
    u64 start = 0;       ///< tick at which the counting element took its count
    u64 stopped_at = 0;  ///< elapsed ticks when GATE went low (modes 0, 4)
    u64 reload_at = 0;   ///< tick at which next_count is taken (modes 2, 3); 0: none
    u32 count = 0;       ///< 1 to 65536 (BCD: 10000); 0: none loaded yet
    u32 next_count = 0;
    u16 latch = 0;
    u8 mode = 0;
    u8 access = 3;    ///< 1 low byte, 2 high byte, 3 both
    u8 low_byte = 0;  ///< first half of a two-byte write
    u8 status = 0;    ///< latched by read-back
    u8 latched = 0;   ///< bytes of `latch` still to be read
    bool bcd = false;
    bool write_high = false;  ///< the next write is the high byte of two
    bool read_high = false;
    bool status_latched = false;
    bool gate = true;
    bool triggered = false;    ///< modes 1, 5: GATE has risen
    bool count_waits = false;  ///< modes 1, 5: next_count waits for the trigger
    std::array<u8, 4> unused{};
    static void describe(auto& s, auto& v) {
      v.field("start", s.start);
      v.field("stopped_at", s.stopped_at);
      v.field("reload_at", s.reload_at);
      v.field("count", s.count);
      v.field("next_count", s.next_count);
      v.field("latch", s.latch);
      v.field("mode", s.mode);
      v.field("access", s.access);
      v.field("low_byte", s.low_byte);
      v.field("status", s.status);
      v.field("latched", s.latched);
      v.field("bcd", s.bcd);
      v.field("write_high", s.write_high);
      v.field("read_high", s.read_high);
      v.field("status_latched", s.status_latched);
      v.field("gate", s.gate);
      v.field("triggered", s.triggered);
      v.field("count_waits", s.count_waits);
      v.field("unused", s.unused);
    }
  };
  struct State {
    std::array<Channel, 3> channel{};
    u64 seen = 0;    ///< tick up to which irq0 has been told the edges
    u32 port61 = 0;  ///< writable bits of port 0x61
    bool muted = false;
    bool out0 = false;  ///< level last given to irq0; as mode 0 without a count has it
    std::array<u8, 2> unused{};
    static void describe(auto& s, auto& v) {
      v.field("channel", s.channel);
      v.field("seen", s.seen);
      v.field("port61", s.port61);
      v.field("muted", s.muted);
      v.field("out0", s.out0);
      v.field("unused", s.unused);
    }
  };

 private:
  u64 tick() const;
  Nanos nanos_of(u64 tick) const;
  /// Brings a channel up to now: a new count of modes 2 and 3 takes effect at a boundary.
  void sync(unsigned n);
  static void take_next_count(Channel& c);
  /// Ticks since the count was taken; negative while the next clock has yet to take it.
  static i64 elapsed(const Channel& c, u64 now);
  /// The first edge of OUT after tick `from` that irq0 must hear of: rising, in mode 3 falling too.
  static std::optional<u64> next_edge(const Channel& c, u64 from);
  void run_edges(u64 until);
  static bool out(const Channel& c, u64 now);
  static u16 counter(const Channel& c, u64 now);
  static bool null_count(const Channel& c, u64 now);
  void set_gate(Channel& c, bool gate);
  void load_count(Channel& c, u32 raw);
  void write_mode(u8 value);
  void write_counter(unsigned n, u8 value);
  u8 read_counter(unsigned n);
  void latch_count(Channel& c, u64 now);
  void update_irq();
  u8 read61();

  machine::Surroundings& around_;
  machine::IrqLine& irq0_;
  std::unique_ptr<machine::Timer> timer_;
  machine::ByteBlock ports_, port61_;
  State s_;
};

}  // namespace skerry::irq
