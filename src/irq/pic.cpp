#include "irq/pic.hpp"

#include "base/log.hpp"

namespace skerry::irq {
namespace {

// Inputs that the chipset fixes to edge: timer, keyboard, cascade; RTC, coprocessor.
constexpr std::array<u8, 2> kElcrMask{0xf8, 0xde};

/// How far `n` is from the highest priority, 0 to 7.
unsigned rank(const Pic::Chip& c, unsigned n) {
  return (n - c.lowest - 1) & 7;
}

/// The input with the highest priority in `set`, or -1.
int highest(const Pic::Chip& c, u8 set) {
  if (!set) return -1;
  for (unsigned i = 1; i <= 8; ++i) {
    unsigned n = (c.lowest + i) & 7;
    if (set & (1 << n)) return static_cast<int>(n);
  }
  return -1;
}

bool is_level(const Pic::Chip& c, unsigned n) {
  return c.level_mode || (c.elcr & (1 << n));
}

}  // namespace

class Pic::Line final : public machine::IrqLine {
 public:
  Line(Pic& owner, unsigned irq) : owner_(owner), irq_(irq) {}
  void set(bool level) override { owner_.set_line(irq_, level); }

 private:
  Pic& owner_;
  unsigned irq_;
};

Pic::Pic(std::mutex& board_lock, std::function<void(bool)> intr)
    : board_lock_(board_lock),
      intr_changed_(std::move(intr)),
      master_ports_([this](u64 o) { return read_port(0, o); },
                    [this](u64 o, u8 v) { write_port(0, o, v); }),
      slave_ports_([this](u64 o) { return read_port(1, o); },
                   [this](u64 o, u8 v) { write_port(1, o, v); }),
      elcr_ports_([this](u64 o) -> u8 { return o < 2 ? s_.chip[o].elcr : 0xff; },
                  [this](u64 o, u8 v) {
                    if (o >= 2) return;
                    s_.chip[o].elcr = v & kElcrMask[o];
                    update();
                  }) {
  for (unsigned irq = 0; irq < 16; ++irq) lines_[irq] = std::make_unique<Line>(*this, irq);
}
Pic::~Pic() = default;

machine::IrqLine& Pic::line(unsigned irq) {
  SKERRY_CHECK(irq < 16, "no such IRQ");
  return *lines_[irq];
}

void Pic::set_line(unsigned irq, bool level) {
  if (irq == 2) return;
  set_input(irq / 8, irq % 8, level);
  update();
}

void Pic::set_input(unsigned chip, unsigned n, bool level) {
  Chip& c = s_.chip[chip];
  auto mask = static_cast<u8>(1 << n);
  bool rising = level && !(c.lines & mask);
  c.lines = static_cast<u8>(level ? c.lines | mask : c.lines & ~mask);
  if (is_level(c, n))
    c.irr = static_cast<u8>(level ? c.irr | mask : c.irr & ~mask);
  else if (rising)
    c.irr |= mask;
}

/// The input that would be taken now, or -1: a request above everything in service.
int Pic::requested(unsigned chip) const {
  const Chip& c = s_.chip[chip];
  int n = highest(c, c.irr & ~c.imr);
  if (n < 0) return -1;
  u8 service = c.isr;
  // Special mask mode: inputs masked by OCW1 do not hold back lower ones.
  if (c.special_mask) service &= ~c.imr;
  // Special fully nested mode: the master lets the slave in again while it serves it.
  if (c.fully_nested && chip == 0) service &= static_cast<u8>(~4);
  int busy = highest(c, service);
  if (busy >= 0 && rank(c, static_cast<unsigned>(n)) >= rank(c, static_cast<unsigned>(busy)))
    return -1;
  return n;
}

void Pic::update() {
  set_input(0, 2, requested(1) >= 0);
  // The cascade is a wire, not a latch: a slave that takes its request back takes the master's too.
  if (requested(1) < 0) s_.chip[0].irr &= static_cast<u8>(~4);
  bool level = requested(0) >= 0;
  if (level == intr_.load(std::memory_order_relaxed)) return;
  intr_.store(level, std::memory_order_release);
  if (intr_changed_) intr_changed_(level);
}

/// The INTA cycle of one chip: the input taken, 7 if the request went away.
u8 Pic::take(unsigned chip) {
  Chip& c = s_.chip[chip];
  int n = requested(chip);
  if (n < 0) return 7;  // spurious: ISR is not set
  auto mask = static_cast<u8>(1 << n);
  if (c.auto_eoi) {
    if (c.rotate_auto) c.lowest = static_cast<u8>(n);
  } else {
    c.isr |= mask;
  }
  if (!is_level(c, static_cast<unsigned>(n))) c.irr &= static_cast<u8>(~mask);
  return static_cast<u8>(n);
}

u8 Pic::acknowledge() {
  std::scoped_lock lock(board_lock_);
  return acknowledge_locked();
}

u8 Pic::acknowledge_locked() {
  bool cascade = requested(0) == 2;
  u8 n = take(0);
  u8 vector = s_.chip[0].base + n;
  if (cascade) {
    n = take(1);
    set_input(0, 2, false);  // the slave drops INT during INTA; what it has left is a new edge
    vector = s_.chip[1].base + n;
  }
  update();
  trace(Trace::irq, "pic: takes vector {:#x}", vector);
  return vector;
}

// OCW2 (8259A figure 8): rotate, specific, EOI; level.
void Pic::end_of_interrupt(Chip& c, u8 command) {
  u8 n = command & 7;
  // What non-specific EOI ends; in special mask mode a masked input is left to specific EOI.
  u8 candidates = c.special_mask ? c.isr & ~c.imr : c.isr;
  int top = highest(c, candidates);
  switch (command >> 5) {
    case 0: c.rotate_auto = false; break;
    case 1:
    case 5:
      if (top < 0) break;
      c.isr &= static_cast<u8>(~(1 << top));
      if (command >> 5 == 5) c.lowest = static_cast<u8>(top);
      break;
    case 2: break;
    case 3: c.isr &= static_cast<u8>(~(1 << n)); break;
    case 4: c.rotate_auto = true; break;
    case 6: c.lowest = n; break;
    case 7:
      c.isr &= static_cast<u8>(~(1 << n));
      c.lowest = n;
      break;
  }
}

u8 Pic::read_port(unsigned chip, u64 offset) {
  if (offset > 1) return 0xff;
  Chip& c = s_.chip[chip];
  if (c.poll) {
    // The read after OCW3.P is an INTA cycle that answers with the input's number.
    c.poll = false;
    if (requested(chip) < 0) return 0;
    u8 n = take(chip);
    update();
    return 0x80 | n;
  }
  if (offset == 1) return c.imr;
  return c.read_isr ? c.isr : c.irr;
}

void Pic::write_port(unsigned chip, u64 offset, u8 value) {
  if (offset > 1) return;
  Chip& c = s_.chip[chip];
  if (offset == 0) {
    if (value & 0x10) {
      // ICW1 clears IMR, ISR, the edge latches, rotation and modes; the wires and ELCR stay.
      Chip fresh;
      fresh.lines = c.lines;
      fresh.elcr = c.elcr;
      fresh.base = c.base;
      fresh.init_step = 2;
      fresh.icw4_needed = value & 1;
      fresh.single = value & 2;
      fresh.level_mode = value & 8;
      for (unsigned n = 0; n < 8; ++n)
        if (is_level(fresh, n)) fresh.irr |= fresh.lines & (1 << n);
      c = fresh;
    } else if (value & 8) {
      if (value & 4) c.poll = true;
      if (value & 2) c.read_isr = value & 1;
      if (value & 0x40) c.special_mask = value & 0x20;
    } else {
      end_of_interrupt(c, value);
    }
  } else {
    switch (c.init_step) {
      case 2:
        c.base = value & 0xf8;
        c.init_step = !c.single ? 3 : c.icw4_needed ? 4 : 0;
        break;
      case 3: c.init_step = c.icw4_needed ? 4 : 0; break;  // the cascade is wired to IRQ 2
      case 4:
        c.auto_eoi = value & 2;
        c.fully_nested = value & 0x10;
        c.init_step = 0;
        break;
      default: c.imr = value; break;
    }
  }
  update();
}

void Pic::reset() {
  for (Chip& c : s_.chip) {
    Chip fresh;
    fresh.lines = c.lines;
    c = fresh;
  }
  update();
}

void Pic::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> Pic::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  for (unsigned i = 0; i < 2; ++i) {
    if (s.chip[i].lowest > 7 || s.chip[i].init_step > 4)
      return fail("section {}: chip {} has an impossible priority or step", name(), i);
    s.chip[i].elcr &= kElcrMask[i];
  }
  s_ = s;
  update();
  return {};
}

}  // namespace skerry::irq
