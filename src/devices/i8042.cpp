#include "devices/i8042.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace skerry::devices {
namespace {

enum Status : u8 { kOutputFull = 1, kSystem = 4, kCommand = 8, kUnlocked = 0x10, kAuxFull = 0x20 };
enum Mode : u8 {
  kIrq1 = 1,
  kIrq12 = 2,
  kSystemFlag = 4,
  kKeyboardOff = 0x10,
  kAuxOff = 0x20,
  kTranslate = 0x40
};
constexpr u8 kAck = 0xfa, kResend = 0xfe;

// Set 2 to set 1 as the AT's controller translates; from 0x80 on codes pass unchanged but for 0x83
// and 0x84.
constexpr std::array<u8, 128> kSet1{
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54};

u8 set1_of(u8 set2) {
  if (set2 < 0x80) return kSet1[set2];
  return set2 == 0x83 ? 0x41 : set2 == 0x84 ? 0x54 : set2;
}
std::optional<u8> set2_of(u8 set1) {
  if (set1 == 0x41) return 0x83;  // F7; 0x02 is not a key of any keyboard
  for (unsigned i = 1; i < kSet1.size(); ++i)
    if (kSet1[i] == set1) return static_cast<u8>(i);
  return std::nullopt;
}

void push(I8042::Queue& q, u8 byte) {
  if (q.count < q.bytes.size()) q.bytes[q.count++] = byte;
}
u8 pop(I8042::Queue& q) {
  u8 byte = q.bytes[0];
  std::copy(q.bytes.begin() + 1, q.bytes.end(), q.bytes.begin());
  q.bytes.back() = 0;
  --q.count;
  return byte;
}

}  // namespace

I8042::I8042(machine::Control& control, machine::IrqLine& irq1, machine::IrqLine& irq12)
    : control_(control),
      irq1_(irq1),
      irq12_(irq12),
      data_([this](u64 o) -> u8 { return o ? 0xff : read_data(); },
            [this](u64 o, u8 v) {
              if (o == 0) write_data(v);
            }),
      command_([this](u64 o) -> u8 { return o ? 0xff : s_.status; },
               [this](u64 o, u8 v) {
                 if (o == 0) write_command(v);
               }) {}

// --- the output buffer
// -----------------------------------------------------------------------------

bool I8042::put_output(u8 value, bool aux) {
  if (s_.status & kOutputFull) return false;
  s_.output = value;
  s_.status |= kOutputFull | (aux ? kAuxFull : 0);
  return true;
}

/// A byte of the controller itself, which overtakes the devices' queues.
void I8042::answer(u8 value, bool aux) {
  s_.status &= static_cast<u8>(~(kOutputFull | kAuxFull));
  put_output(value, aux);
  update();
}

std::optional<u8> I8042::translate(u8 set2) {
  if (!(mode() & kTranslate)) return set2;
  if (set2 == 0xf0) {
    s_.break_seen = true;
    return std::nullopt;
  }
  u8 code = set1_of(set2);
  if (s_.break_seen) code |= 0x80;
  s_.break_seen = false;
  return code;
}

void I8042::refill() {
  while (!(s_.status & kOutputFull)) {
    if (s_.keyboard.count && !(mode() & kKeyboardOff)) {
      if (auto code = translate(pop(s_.keyboard))) put_output(*code, false);
    } else if (s_.mouse.count && !(mode() & kAuxOff)) {
      put_output(pop(s_.mouse), true);
    } else {
      return;
    }
  }
}

void I8042::update() {
  refill();
  bool full = s_.status & kOutputFull, aux = s_.status & kAuxFull;
  irq1_.set(full && !aux && (mode() & kIrq1));
  irq12_.set(full && aux && (mode() & kIrq12));
}

u8 I8042::read_data() {
  u8 value = s_.output;
  s_.status &= static_cast<u8>(~(kOutputFull | kAuxFull));
  // The lines fall before the next byte raises them: each byte is an edge.
  irq1_.set(false);
  irq12_.set(false);
  update();
  return value;
}

// --- controller commands
// ---------------------------------------------------------------------------

void I8042::write_command(u8 value) {
  trace(Trace::io, "i8042: command {:#x}", value);
  s_.status |= kCommand;
  s_.pending = 0;
  if (value >= 0x20 && value < 0x40) return answer(s_.ram[value - 0x20]);
  if (value >= 0x60 && value < 0x80) {
    s_.pending = value;
    return;
  }
  if (value >= 0xf0) {  // pulses output port bits 0-3 low; bit 0 is the CPU's reset
    if (!(value & 1)) control_.request(machine::Request::reset);
    return;
  }
  switch (value) {
    case 0xa7: mode() |= kAuxOff; break;
    case 0xa8: mode() &= static_cast<u8>(~kAuxOff); break;
    case 0xa9: return answer(0x00);  // aux interface test: good
    case 0xaa:
      mode() |= kSystemFlag;
      s_.status |= kSystem;
      return answer(0x55);
    case 0xab: return answer(0x00);
    case 0xad: mode() |= kKeyboardOff; break;
    case 0xae: mode() &= static_cast<u8>(~kKeyboardOff); break;
    case 0xc0: return answer(0x80);  // input port: keyboard not locked
    case 0xd0:
      return answer(static_cast<u8>((s_.port & 0xcf) | (s_.status & kOutputFull ? 0x10 : 0) |
                                    (s_.status & kAuxFull ? 0x20 : 0)));
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4: s_.pending = value; break;
    default: break;  // 0xdd, 0xdf: A20, which is always on
  }
  update();
}

void I8042::write_port(u8 value) {
  s_.port = value | 2;
  if (!(value & 1)) control_.request(machine::Request::reset);
}

void I8042::write_data(u8 value) {
  s_.status &= static_cast<u8>(~kCommand);
  u8 command = s_.pending;
  s_.pending = 0;
  switch (command) {
    case 0: keyboard_write(value); break;
    case 0xd1: write_port(value); break;
    case 0xd2: return answer(value);
    case 0xd3: return answer(value, true);
    case 0xd4: mouse_write(value); break;
    default:
      s_.ram[command - 0x60] = value;
      if (command == 0x60)
        s_.status = static_cast<u8>((s_.status & ~kSystem) | (value & kSystemFlag));
  }
  update();
}

// --- the keyboard
// ----------------------------------------------------------------------------------

void I8042::keyboard_defaults() {
  s_.leds = 0;
  s_.typematic = 0x2b;
  s_.scan_set = 2;
  s_.keyboard = {};
}

void I8042::keyboard_write(u8 value) {
  // A byte from the host enables the interface (AT technical reference).
  mode() &= static_cast<u8>(~kKeyboardOff);
  auto& q = s_.keyboard;
  u8 command = s_.key_command;
  s_.key_command = 0;
  if (command && value < 0xed) {
    push(q, kAck);
    if (command == 0xed) s_.leds = value & 7;
    if (command == 0xf3) s_.typematic = value & 0x7f;
    if (command == 0xf0) {
      if (value == 0)
        push(q, s_.scan_set);
      else if (value <= 3)
        s_.scan_set = value;
    }
    return;
  }
  switch (value) {
    case 0xed:
    case 0xf0:
    case 0xf3:
      s_.key_command = value;
      push(q, kAck);
      break;
    case 0xee: push(q, 0xee); break;
    case 0xf2:
      push(q, kAck);
      push(q, 0xab);
      push(q, 0x83);
      break;
    case 0xf4:
      s_.scanning = true;
      push(q, kAck);
      break;
    case 0xf5:
      keyboard_defaults();
      s_.scanning = false;
      push(q, kAck);
      break;
    case 0xf6:
      keyboard_defaults();
      push(q, kAck);
      break;
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: push(q, kAck); break;  // key types of set 3
    case 0xfe: push(q, s_.last_key); break;
    case 0xff:
      keyboard_defaults();
      s_.scanning = true;
      push(q, kAck);
      push(q, 0xaa);
      break;
    default: push(q, kResend); break;
  }
}

bool I8042::inject_scancodes(std::span<const u8> set2) {
  if (!s_.scanning || s_.keyboard.count + set2.size() > s_.keyboard.bytes.size()) return false;
  for (u8 byte : set2) push(s_.keyboard, byte);
  if (!set2.empty()) s_.last_key = set2.back();
  update();
  return true;
}

bool I8042::inject_key(u16 set1, bool down) {
  auto code = set2_of(static_cast<u8>(set1 & 0x7f));
  if (!code) return false;
  std::array<u8, 3> bytes{};
  size_t n = 0;
  if (set1 >> 8 == 0xe0) bytes[n++] = 0xe0;
  if (!down) bytes[n++] = 0xf0;
  bytes[n++] = *code;
  return inject_scancodes(std::span(bytes).first(n));
}

// --- the mouse
// -------------------------------------------------------------------------------------

void I8042::mouse_defaults() {
  s_.mouse_rate = 100;
  s_.mouse_resolution = 2;
  s_.mouse_reporting = s_.mouse_remote = s_.mouse_scale2 = false;
  s_.mouse = {};
}

void I8042::queue_mouse_packet(int dx, int dy) {
  dx = std::clamp(dx, -255, 255);
  dy = std::clamp(dy, -255, 255);
  push(s_.mouse,
       static_cast<u8>(8 | (s_.mouse_buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
  push(s_.mouse, static_cast<u8>(dx));
  push(s_.mouse, static_cast<u8>(dy));
}

void I8042::mouse_write(u8 value) {
  auto& q = s_.mouse;
  u8 command = s_.mouse_command;
  s_.mouse_command = 0;
  if (command) {
    if (command == 0xe8) s_.mouse_resolution = value & 3;
    if (command == 0xf3) s_.mouse_rate = value;
    return push(q, kAck);
  }
  if (value != 0xfe) q = {};  // a command ends what was being sent
  switch (value) {
    case 0xe6: s_.mouse_scale2 = false; break;
    case 0xe7: s_.mouse_scale2 = true; break;
    case 0xe8:
    case 0xf3: s_.mouse_command = value; break;
    case 0xe9:
      push(q, kAck);
      push(q, static_cast<u8>((s_.mouse_remote ? 0x40 : 0) | (s_.mouse_reporting ? 0x20 : 0) |
                              (s_.mouse_scale2 ? 0x10 : 0) | (s_.mouse_buttons & 7)));
      push(q, s_.mouse_resolution);
      return push(q, s_.mouse_rate);
    case 0xea: s_.mouse_remote = false; break;
    case 0xeb: push(q, kAck); return queue_mouse_packet(0, 0);
    case 0xf0: s_.mouse_remote = true; break;
    case 0xf2: push(q, kAck); return push(q, 0x00);  // a plain PS/2 mouse
    case 0xf4: s_.mouse_reporting = true; break;
    case 0xf5: s_.mouse_reporting = false; break;
    case 0xf6: mouse_defaults(); break;
    case 0xfe: return push(q, s_.last_mouse);
    case 0xff:
      mouse_defaults();
      push(q, kAck);
      push(q, 0xaa);
      return push(q, 0x00);
    default: return push(q, kResend);
  }
  push(q, kAck);
}

bool I8042::inject_mouse(int dx, int dy, u8 buttons) {
  s_.mouse_buttons = buttons & 7;
  if (!s_.mouse_reporting || s_.mouse_remote) return false;
  if (s_.mouse.count + 3u > s_.mouse.bytes.size()) return false;
  queue_mouse_packet(dx, dy);
  s_.last_mouse = s_.mouse.bytes[s_.mouse.count - 1];
  update();
  return true;
}

// --- state
// -----------------------------------------------------------------------------------------

void I8042::reset() {
  s_ = {};
  irq1_.set(false);
  irq12_.set(false);
}

void I8042::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> I8042::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  bool command_good = s.pending == 0 || (s.pending >= 0x60 && s.pending < 0x80) ||
                      (s.pending >= 0xd1 && s.pending <= 0xd4);
  if (s.keyboard.count > s.keyboard.bytes.size() || s.mouse.count > s.mouse.bytes.size() ||
      !command_good)
    return fail("section {}: a queue or a command is out of range", name());
  s_ = s;
  update();
  return {};
}

}  // namespace skerry::devices
