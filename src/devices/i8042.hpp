// The keyboard controller (IBM PC AT technical reference, "8042"), with a PS/2 keyboard and a PS/2
// mouse behind it.
//
// The keyboard speaks scan code set 2, which the controller translates to set 1 while bit 6 of its
// command byte is set; sets 1 and 3 are accepted and ignored. Typematic repeat is left to the host.
// A20 is accepted and always on. Bytes have no transmission time. Threading: a device (board lock
// held), the inject functions included.
#pragma once

#include <memory>
#include <span>

#include "machine/byte_registers.hpp"

namespace skerry::devices {

class I8042 final : public machine::Device {
 public:
  I8042(machine::Control& control, machine::IrqLine& irq1, machine::IrqLine& irq12);

  machine::Registers& data_port() { return data_; }        ///< 0x60, 1 byte
  machine::Registers& command_port() { return command_; }  ///< 0x64, 1 byte

  /// Bytes of scan code set 2 as a keyboard sends them. False (nothing queued) if the keyboard is
  /// disabled or its buffer lacks the room.
  bool inject_scancodes(std::span<const u8> set2);
  /// A key by its set-1 code (0xe0 prefix as 0xe0xx), as display protocols name keys.
  bool inject_key(u16 set1, bool down);
  /// Movement (right and up positive) and the buttons held (1 left, 2 right, 4 middle).
  bool inject_mouse(int dx, int dy, u8 buttons);

  std::string name() const override { return "i8042"; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  struct Queue {
    std::array<u8, 31> bytes{};
    u8 count = 0;
    static void describe(auto& s, auto& v) {
      v.field("bytes", s.bytes);
      v.field("count", s.count);
    }
  };
  struct State {
    Queue keyboard, mouse;
    std::array<u8, 32> ram{0x45};  ///< [0] is the command byte: translate, system flag, IRQ 1
    u8 output = 0;                 ///< the output buffer
    u8 status = 0x1c;              ///< OBF 0, SYS 2, command 3, not locked 4, aux OBF 5
    u8 port = 0xcf;                ///< output port: reset line high, A20 on
    u8 pending = 0;                ///< controller command that waits for its byte, or 0
    u8 key_command = 0;            ///< keyboard command that waits for its byte, or 0
    u8 leds = 0, scan_set = 2, typematic = 0x2b;
    u8 mouse_command = 0, mouse_rate = 100, mouse_resolution = 2, mouse_buttons = 0;
    u8 last_key = 0, last_mouse = 0;  ///< for resend
    bool scanning = true;             ///< the keyboard sends keys
    bool mouse_reporting = false, mouse_remote = false, mouse_scale2 = false;
    bool break_seen = false;  ///< translation is in the middle of 0xf0 xx
    static void describe(auto& s, auto& v) {
      v.field("keyboard", s.keyboard);
      v.field("mouse", s.mouse);
      v.field("ram", s.ram);
      v.field("output", s.output);
      v.field("status", s.status);
      v.field("port", s.port);
      v.field("pending", s.pending);
      v.field("key_command", s.key_command);
      v.field("leds", s.leds);
      v.field("scan_set", s.scan_set);
      v.field("typematic", s.typematic);
      v.field("mouse_command", s.mouse_command);
      v.field("mouse_rate", s.mouse_rate);
      v.field("mouse_resolution", s.mouse_resolution);
      v.field("mouse_buttons", s.mouse_buttons);
      v.field("last_key", s.last_key);
      v.field("last_mouse", s.last_mouse);
      v.field("scanning", s.scanning);
      v.field("mouse_reporting", s.mouse_reporting);
      v.field("mouse_remote", s.mouse_remote);
      v.field("mouse_scale2", s.mouse_scale2);
      v.field("break_seen", s.break_seen);
    }
  };

 private:
  u8 read_data();
  void write_data(u8 value);
  void write_command(u8 value);
  void write_port(u8 value);
  void answer(u8 value, bool aux = false);
  bool put_output(u8 value, bool aux);
  std::optional<u8> translate(u8 set2);
  void keyboard_write(u8 value);
  void keyboard_defaults();
  void mouse_write(u8 value);
  void mouse_defaults();
  void queue_mouse_packet(int dx, int dy);
  void refill();
  void update();
  u8& mode() { return s_.ram[0]; }

  machine::Control& control_;
  machine::IrqLine& irq1_;
  machine::IrqLine& irq12_;
  machine::ByteBlock data_, command_;
  State s_;
};

}  // namespace skerry::devices
