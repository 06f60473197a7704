// A 16550A UART (National PC16550D data sheet).
//
// Bytes leave at once, at any baud rate; received bytes come as fast as the guest takes them.
// Parity, framing and the modem's inputs are always good: CTS, DSR and DCD are on. Threading: a
// device (board lock held), receive() and send_break() included. The sink must not block.
#pragma once

#include <memory>
#include <span>

#include "machine/byte_registers.hpp"

namespace skerry::devices {

class Uart16550 final : public machine::Device, public machine::ByteRegisters {
 public:
  /// The host's side. Neither call may block or touch the device.
  struct Host {
    std::function<void(std::span<const u8>)> write;  ///< bytes from the guest
    std::function<void()> room;  ///< after receive() took less than all: there is room again
  };

  Uart16550(std::string name, machine::Surroundings& around, machine::IrqLine& irq, Host host);

  /// Bytes for the guest: how many were taken. room() follows if not all were.
  size_t receive(std::span<const u8> bytes);
  void send_break();

  std::string name() const override { return name_; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct State {
    u8 ier = 0, fcr = 0, lcr = 0, mcr = 0, lsr = 0x60, msr = 0xb0, scr = 0;
    u8 count = 0;  ///< bytes in the receive FIFO (or buffer)
    u16 divisor = 12;
    std::array<u8, 16> fifo{};    ///< [0] is the next to be read
    bool transmit_empty = false;  ///< THRE interrupt is pending
    bool timed_out = false;       ///< character timeout is pending
    bool wants_room = false;      ///< receive() refused something
    u8 break_after = 0xff;        ///< FIFO index of the character that is a break; 0xff: none
    static void describe(auto& s, auto& v) {
      v.field("ier", s.ier);
      v.field("fcr", s.fcr);
      v.field("lcr", s.lcr);
      v.field("mcr", s.mcr);
      v.field("lsr", s.lsr);
      v.field("msr", s.msr);
      v.field("scr", s.scr);
      v.field("count", s.count);
      v.field("divisor", s.divisor);
      v.field("fifo", s.fifo);
      v.field("transmit_empty", s.transmit_empty);
      v.field("timed_out", s.timed_out);
      v.field("wants_room", s.wants_room);
      v.field("break_after", s.break_after);
    }
  };

 private:
  u8 read8(u64 offset) override;
  void write8(u64 offset, u8 value) override;
  bool fifos() const { return s_.fcr & 1; }
  unsigned capacity() const { return fifos() ? 16 : 1; }
  unsigned trigger() const;
  u8 interrupt_id() const;
  void update();
  void push(u8 byte);
  u8 pop();
  void transmit(u8 byte);
  void update_modem();
  void restart_timeout();
  void offer_room();

  const std::string name_;
  machine::IrqLine& irq_;
  Host host_;
  machine::Surroundings& around_;
  std::unique_ptr<machine::Timer> timeout_;
  State s_;
};

}  // namespace skerry::devices
