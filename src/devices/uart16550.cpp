#include "devices/uart16550.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace skerry::devices {
namespace {

enum Lsr : u8 {
  kDataReady = 1,
  kOverrun = 2,
  kBreak = 0x10,
  kThrEmpty = 0x20,
  kIdle = 0x40,
  kFifoError = 0x80
};
enum Ier : u8 { kOnData = 1, kOnEmpty = 2, kOnLine = 4, kOnModem = 8 };
// Interrupt ids, in order of priority (PC16550D table IV).
enum Iir : u8 { kNone = 1, kLine = 6, kData = 4, kTimeout = 0xc, kEmpty = 2, kModem = 0 };
constexpr u8 kNoBreak = 0xff;
constexpr u8 kLoop = 0x10;

}  // namespace

Uart16550::Uart16550(std::string name, machine::Surroundings& around, machine::IrqLine& irq,
                     Host host)
    : name_(std::move(name)),
      irq_(irq),
      host_(std::move(host)),
      around_(around),
      timeout_(around.make_timer([this] {
        if (s_.count == 0) return;
        s_.timed_out = true;
        update();
      })) {}

unsigned Uart16550::trigger() const {
  static constexpr std::array<u8, 4> kLevels{1, 4, 8, 14};
  return fifos() ? kLevels[s_.fcr >> 6] : 1;
}

u8 Uart16550::interrupt_id() const {
  if ((s_.ier & kOnLine) && (s_.lsr & (kOverrun | kBreak))) return kLine;
  if (s_.ier & kOnData) {
    if (s_.count >= trigger()) return kData;
    if (s_.timed_out) return kTimeout;
  }
  if ((s_.ier & kOnEmpty) && s_.transmit_empty) return kEmpty;
  if ((s_.ier & kOnModem) && (s_.msr & 0x0f)) return kModem;
  return kNone;
}

void Uart16550::update() {
  irq_.set(interrupt_id() != kNone);
}

/// Four character times without a read or a new character (PC16550D 8.4).
void Uart16550::restart_timeout() {
  s_.timed_out = false;
  if (!fifos() || s_.count == 0) return timeout_->disarm();
  // 1.8432 MHz / 16 / divisor baud, ten bits a character; slow lines are not made to wait for
  // hours.
  Nanos character = Nanos{std::max<u16>(s_.divisor, 1)} * 10 * 1'000'000'000 / 115200;
  timeout_->arm(around_.clock().now() + std::min<Nanos>(4 * character, 20'000'000));
}

void Uart16550::push(u8 byte) {
  if (s_.count >= capacity()) {
    s_.lsr |= kOverrun;
    if (!fifos()) s_.fifo[0] = byte;  // the buffer is overwritten, a full FIFO is not
    return;
  }
  s_.fifo[s_.count++] = byte;
  s_.lsr |= kDataReady;
}

u8 Uart16550::pop() {
  if (s_.count == 0) return 0;
  u8 byte = s_.fifo[0];
  std::copy(s_.fifo.begin() + 1, s_.fifo.end(), s_.fifo.begin());
  s_.fifo.back() = 0;
  --s_.count;
  // LSR shows the error of the character at the top.
  if (s_.break_after != kNoBreak && s_.break_after-- == 0) s_.break_after = kNoBreak;
  if (s_.break_after == 0) s_.lsr |= kBreak;
  if (s_.break_after == kNoBreak) s_.lsr &= static_cast<u8>(~kFifoError);
  if (s_.count == 0) s_.lsr &= static_cast<u8>(~kDataReady);
  return byte;
}

void Uart16550::offer_room() {
  if (!s_.wants_room || s_.count >= capacity()) return;
  s_.wants_room = false;
  if (host_.room) host_.room();
}

size_t Uart16550::receive(std::span<const u8> bytes) {
  size_t taken = 0;
  if (!(s_.mcr & kLoop)) {
    taken = std::min<size_t>(bytes.size(), capacity() - std::min<unsigned>(s_.count, capacity()));
    for (u8 byte : bytes.first(taken)) push(byte);
  }
  if (taken < bytes.size()) s_.wants_room = true;
  if (taken) {
    restart_timeout();
    update();
  }
  return taken;
}

void Uart16550::send_break() {
  if ((s_.mcr & kLoop) || s_.count >= capacity()) return;
  u8 index = s_.count;
  push(0);
  if (s_.break_after == kNoBreak) s_.break_after = index;
  if (index == 0) s_.lsr |= kBreak;
  if (fifos()) s_.lsr |= kFifoError;
  restart_timeout();
  update();
}

void Uart16550::transmit(u8 byte) {
  if (s_.mcr & kLoop) {
    push(byte);
    restart_timeout();
  } else if (host_.write) {
    host_.write({&byte, 1});
  }
  s_.transmit_empty = true;  // the shifter took it already
}

/// In loopback the modem's inputs come from MCR: RTS, DTR, OUT1, OUT2 as CTS, DSR, RI, DCD.
void Uart16550::update_modem() {
  u8 now = 0xb0;
  if (s_.mcr & kLoop)
    now = static_cast<u8>((s_.mcr & 2) << 3 | (s_.mcr & 1) << 5 | (s_.mcr & 4) << 4 |
                          (s_.mcr & 8) << 4);
  u8 changed = (now ^ s_.msr) & 0xf0;
  u8 delta = (changed >> 4) & 0x0b;
  if ((changed & 0x40) && !(now & 0x40)) delta |= 4;  // RI tells its trailing edge only
  s_.msr = static_cast<u8>(now | (s_.msr & 0x0f) | delta);
}

u8 Uart16550::read8(u64 offset) {
  u8 value = 0xff;
  switch (offset) {
    case 0:
      if (s_.lcr & 0x80) return static_cast<u8>(s_.divisor);
      value = pop();
      restart_timeout();
      offer_room();
      break;
    case 1: return s_.lcr & 0x80 ? static_cast<u8>(s_.divisor >> 8) : s_.ier;
    case 2:
      value = interrupt_id();
      if (value == kEmpty) s_.transmit_empty = false;
      value |= fifos() ? 0xc0 : 0;
      break;
    case 3: return s_.lcr;
    case 4: return s_.mcr;
    case 5:
      value = s_.lsr;
      s_.lsr &= static_cast<u8>(~(kOverrun | kBreak));
      break;
    case 6:
      value = s_.msr;
      s_.msr &= 0xf0;
      break;
    case 7: return s_.scr;
    default: return 0xff;
  }
  update();
  return value;
}

void Uart16550::write8(u64 offset, u8 value) {
  switch (offset) {
    case 0:
      if (s_.lcr & 0x80)
        s_.divisor = static_cast<u16>((s_.divisor & 0xff00) | value);
      else
        transmit(value);
      break;
    case 1:
      if (s_.lcr & 0x80) {
        s_.divisor = static_cast<u16>((s_.divisor & 0xff) | value << 8);
      } else {
        // Enabling THRE while the holding register is empty interrupts at once.
        if ((value & kOnEmpty) && !(s_.ier & kOnEmpty)) s_.transmit_empty = true;
        s_.ier = value & 0x0f;
      }
      break;
    case 2:
      // Switching the FIFOs on or off clears them (PC16550D 8.5).
      if ((value & 2) || ((value ^ s_.fcr) & 1)) {
        s_.count = 0;
        s_.fifo = {};
        s_.break_after = kNoBreak;
        s_.lsr &= static_cast<u8>(~(kDataReady | kFifoError));
      }
      s_.fcr = value & 1 ? value & 0xc9 : 0;
      restart_timeout();
      offer_room();
      break;
    case 3: s_.lcr = value; break;
    case 4:
      s_.mcr = value & 0x1f;
      update_modem();
      if (!(s_.mcr & kLoop)) offer_room();
      break;
    case 7: s_.scr = value; break;
    default: break;  // LSR and MSR are not for writing
  }
  update();
}

void Uart16550::reset() {
  bool wanted = s_.wants_room;
  s_ = {};
  s_.wants_room = wanted;
  timeout_->disarm();
  update();
  offer_room();
}

void Uart16550::save(state::Image& image) const {
  image.put(name_, s_);
}

Result<> Uart16550::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name_, s));
  if (s.count > s.fifo.size()) return fail("section {}: more bytes than the FIFO holds", name_);
  s_ = s;
  // A timeout that was running runs again from here.
  bool timed_out = s_.timed_out;
  restart_timeout();
  s_.timed_out = timed_out;
  update();
  return {};
}

}  // namespace skerry::devices
