// The pair of 8259A interrupt controllers of a PC, with the edge/level control registers of the
// chipset (Intel 8259A data sheet; ICH9 datasheet 13.4).
//
// An edge request stays latched until the INTA cycle even if its line falls again, so a device may
// pulse. A level request that falls before the INTA cycle gives the spurious IRQ 7 or 15. MCS-80/85
// mode and buffered mode are accepted and ignored. Threading: a device (board lock held), but
// pending() and acknowledge(), which vCPU threads call without the lock: acknowledge() takes it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "machine/byte_registers.hpp"
#include "machine/irq.hpp"

namespace skerry::irq {

class Pic final : public machine::Device, public machine::ExtIntSource {
 public:
  /// `intr(level)` is called, with the board lock held, when INTR changes.
  Pic(std::mutex& board_lock, std::function<void(bool)> intr = {});
  ~Pic() override;

  /// IRQ 0-15 (2 is the cascade and has no wire).
  machine::IrqLine& line(unsigned irq);
  machine::Registers& master_ports() { return master_ports_; }  ///< 0x20, 2 bytes
  machine::Registers& slave_ports() { return slave_ports_; }    ///< 0xa0, 2 bytes
  machine::Registers& elcr_ports() { return elcr_ports_; }      ///< 0x4d0, 2 bytes

  bool pending() override { return intr_.load(std::memory_order_acquire); }
  u8 acknowledge() override;
  /// The same with the board lock held already.
  u8 acknowledge_locked();

  std::string name() const override { return "pic"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct Chip {
    u8 irr = 0, isr = 0, imr = 0;
    u8 lines = 0;      ///< levels of the inputs
    u8 elcr = 0;       ///< 1: level-triggered
    u8 lowest = 7;     ///< the input with the lowest priority
    u8 base = 0;       ///< ICW2
    u8 init_step = 0;  ///< the ICW expected next at A0=1: 2, 3, 4; 0: none
    bool icw4_needed = false, single = false, level_mode = false;  ///< ICW1
    bool auto_eoi = false, fully_nested = false;                   ///< ICW4
    bool rotate_auto = false, special_mask = false, poll = false, read_isr = false;
    static void describe(auto& s, auto& v) {
      v.field("irr", s.irr);
      v.field("isr", s.isr);
      v.field("imr", s.imr);
      v.field("lines", s.lines);
      v.field("elcr", s.elcr);
      v.field("lowest", s.lowest);
      v.field("base", s.base);
      v.field("init_step", s.init_step);
      v.field("icw4_needed", s.icw4_needed);
      v.field("single", s.single);
      v.field("level_mode", s.level_mode);
      v.field("auto_eoi", s.auto_eoi);
      v.field("fully_nested", s.fully_nested);
      v.field("rotate_auto", s.rotate_auto);
      v.field("special_mask", s.special_mask);
      v.field("poll", s.poll);
      v.field("read_isr", s.read_isr);
    }
  };
  struct State {
    std::array<Chip, 2> chip;
    static void describe(auto& s, auto& v) { v.field("chip", s.chip); }
  };

 private:
  class Line;
  void set_line(unsigned irq, bool level);
  void set_input(unsigned chip, unsigned n, bool level);
  int requested(unsigned chip) const;
  u8 take(unsigned chip);
  void update();
  void end_of_interrupt(Chip& c, u8 command);
  u8 read_port(unsigned chip, u64 offset);
  void write_port(unsigned chip, u64 offset, u8 value);

  std::mutex& board_lock_;
  std::function<void(bool)> intr_changed_;
  std::array<std::unique_ptr<Line>, 16> lines_;
  machine::ByteBlock master_ports_, slave_ports_, elcr_ports_;
  State s_;
  std::atomic<bool> intr_{false};
};

}  // namespace skerry::irq
