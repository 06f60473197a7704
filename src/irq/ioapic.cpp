#include "irq/ioapic.hpp"

#include "base/log.hpp"

namespace skerry::irq {
namespace {

constexpr u64 kRemoteIrr = 1 << 14, kLevel = 1 << 15, kMasked = 1 << 16;
// 82093AA 3.2.4: vector, delivery mode, destination mode, polarity, trigger, mask, destination.
constexpr u64 kWritable = 0xff00'0000'0001'afff;

machine::MsiMessage message_of(u64 entry) {
  machine::MsiMessage m;
  m.address = 0xfee00000 | ((entry >> 56) << 12) | (entry & 0x800 ? 4 : 0);
  m.data = static_cast<u32>(entry & 0x7ff) | (entry & kLevel ? 0xc000 : 0);
  return m;
}

}  // namespace

class Ioapic::Pin final : public machine::IrqLine {
 public:
  Pin(Ioapic& owner, unsigned n) : owner_(owner), n_(n) {}
  void set(bool level) override { owner_.set_pin(n_, level); }

 private:
  Ioapic& owner_;
  unsigned n_;
};

Ioapic::Ioapic(machine::MsiSink& sink) : sink_(sink) {
  for (unsigned n = 0; n < kPins; ++n) pins_[n] = std::make_unique<Pin>(*this, n);
}
Ioapic::~Ioapic() = default;

machine::IrqLine& Ioapic::pin(unsigned n) {
  SKERRY_CHECK(n < kPins, "no such IOAPIC pin");
  return *pins_[n];
}

void Ioapic::set_pin(unsigned n, bool level) {
  u32 mask = 1u << n;
  bool before = s_.lines & mask;
  if (before == level) return;
  s_.lines ^= mask;
  u64 entry = s_.redirection[n];
  if (entry & kLevel) return service_level(n);
  // 82093AA 3.4.2: an edge at a masked pin is lost.
  if (!level || (entry & kMasked)) return;
  trace(Trace::irq, "ioapic: edge on pin {}", n);
  sink_.send(message_of(entry));
}

// A level pin sends once per acceptance; Remote IRR holds it until the EOI.
void Ioapic::service_level(unsigned n) {
  u64& entry = s_.redirection[n];
  if ((entry & (kLevel | kMasked | kRemoteIrr)) != kLevel || !((s_.lines >> n) & 1)) return;
  // Remote IRR belongs to fixed and lowest priority; others do not get an EOI (82093AA 3.2.4).
  if (((entry >> 8) & 7) <= 1) entry |= kRemoteIrr;
  trace(Trace::irq, "ioapic: level on pin {}", n);
  sink_.send(message_of(entry));
}

void Ioapic::eoi(u8 vector) {
  for (unsigned n = 0; n < kPins; ++n) {
    u64& entry = s_.redirection[n];
    if (static_cast<u8>(entry) != vector || !(entry & kRemoteIrr)) continue;
    entry &= ~kRemoteIrr;
    service_level(n);
  }
}

void Ioapic::announce(unsigned n) {
  u64 entry = s_.redirection[n];
  if (entry & kMasked)
    sink_.set_pin_route(n, std::nullopt);
  else
    sink_.set_pin_route(n, message_of(entry));
}

u32 Ioapic::read_register() const {
  switch (s_.select) {
    case 0: return u32{s_.id} << 24;
    case 1: return 0x20 | (kPins - 1) << 16;
    case 2: return u32{s_.arbitration} << 24;
    default: break;
  }
  if (s_.select < 0x10 || s_.select >= 0x10 + 2 * kPins) return 0xffffffff;
  u64 entry = s_.redirection[(s_.select - 0x10) / 2];
  return static_cast<u32>(s_.select & 1 ? entry >> 32 : entry);
}

void Ioapic::write_register(u32 value) {
  if (s_.select == 0) {
    s_.id = (value >> 24) & 15;
    s_.arbitration = s_.id;  // 82093AA 3.2.3: loaded together
    return;
  }
  if (s_.select < 0x10 || s_.select >= 0x10 + 2 * kPins) return;
  unsigned n = (s_.select - 0x10) / 2;
  u64& entry = s_.redirection[n];
  u64 fresh = s_.select & 1 ? (entry & 0xffffffff) | u64{value} << 32
                            : (entry & 0xffffffff00000000) | value;
  fresh = (fresh & kWritable) | (entry & kRemoteIrr);
  // Guests without the EOI register flip a pin to edge and back to get rid of a stuck Remote IRR.
  if (!(fresh & kLevel)) fresh &= ~kRemoteIrr;
  bool changed = fresh != entry;
  entry = fresh;
  if (changed) announce(n);
  service_level(n);
}

u64 Ioapic::read(u64 offset, unsigned) {
  if ((offset & ~u64{3}) == 0x00) return offset & 3 ? 0 : s_.select;
  if ((offset & ~u64{3}) == 0x10) return read_register() >> (8 * (offset & 3));
  return 0;
}

void Ioapic::write(u64 offset, unsigned, u64 value) {
  switch (offset) {
    case 0x00: s_.select = static_cast<u8>(value); break;
    case 0x10: write_register(static_cast<u32>(value)); break;
    case 0x40: eoi(static_cast<u8>(value)); break;
    default: break;
  }
}

void Ioapic::reset() {
  u32 lines = s_.lines;  // what is at the pins does not change
  s_ = {};
  s_.lines = lines;
  for (unsigned n = 0; n < kPins; ++n) announce(n);
}

void Ioapic::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> Ioapic::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  for (u64& entry : s.redirection) entry &= kWritable | kRemoteIrr;
  s_ = s;
  for (unsigned n = 0; n < kPins; ++n) announce(n);
  return {};
}

}  // namespace skerry::irq
