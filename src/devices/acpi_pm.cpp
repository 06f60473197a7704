#include "devices/acpi_pm.hpp"

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::devices {
namespace {

// ACPI 6.4 tables 4.10 and 4.11.
enum Pm1 : u16 { kTimer = 1, kGlobal = 1 << 5, kPowerButton = 1 << 8, kWake = 1 << 15 };
constexpr u16 kStatusBits = 0x8731, kEnableBits = 0x0721;
enum Control : u16 { kSciEnable = 1, kSleepEnable = 1 << 13 };

u8 byte_of(u64 value, u64 n) {
  return static_cast<u8>(value >> (8 * n));
}
template <class T>
T with_byte(T value, u64 n, u8 byte) {
  return static_cast<T>((value & ~(T{0xff} << (8 * n))) | T{byte} << (8 * n));
}

}  // namespace

AcpiPm::AcpiPm(machine::Surroundings& around, machine::Control& control, machine::IrqLine& sci,
               Setup setup)
    : around_(around),
      control_(control),
      sci_(sci),
      setup_(setup),
      timer_(around.make_timer([this] { update(); })),
      smi_([this](u64 o) -> u8 { return o == 0   ? s_.smi_command
                                        : o == 1 ? s_.smi_data
                                                 : 0xff; },
           [this](u64 o, u8 v) { write_smi(o, v); }) {}

u64 AcpiPm::ticks() const {
  return static_cast<u64>(static_cast<u128>(around_.clock().now()) * kPmTimerHz / 1'000'000'000);
}
u32 AcpiPm::timer_value() const {
  return static_cast<u32>(ticks()) & (setup_.timer_32bit ? 0xffffffff : 0xffffff);
}

/// TMR_STS is set whenever the timer's top bit changes (ACPI 6.4 4.8.2.1).
void AcpiPm::catch_up() {
  u64 halves = ticks() >> (setup_.timer_32bit ? 31 : 23);
  if (halves == s_.timer_seen) return;
  s_.timer_seen = halves;
  s_.status |= kTimer;
}

void AcpiPm::update() {
  catch_up();
  bool event = (s_.status & s_.enable & (kTimer | kGlobal | kPowerButton)) ||
               (s_.gpe_status & s_.gpe_enable);
  sci_.set(event && (s_.control & kSciEnable));
  if (!(s_.enable & kTimer) || (s_.status & kTimer)) return timer_->disarm();
  u128 next = static_cast<u128>(s_.timer_seen + 1) << (setup_.timer_32bit ? 31 : 23);
  timer_->arm(static_cast<Nanos>((next * 1'000'000'000 + kPmTimerHz - 1) / kPmTimerHz));
}

void AcpiPm::press_power_button() {
  s_.status |= kPowerButton;
  update();
}
void AcpiPm::raise_gpe(unsigned n) {
  if (n < 64) s_.gpe_status |= u64{1} << n;
  update();
}
void AcpiPm::enable_acpi() {
  s_.control |= kSciEnable;
  update();
}

u64 AcpiPm::Block::read(u64 offset, unsigned size) {
  AcpiPm& pm = owner_;
  pm.update();
  if (offset >= kPmTimer && offset < kPmTimer + 4)
    return (pm.timer_value() >> (8 * (offset - kPmTimer))) & byte_mask(size);
  u64 value = 0;
  for (unsigned i = 0; i < size; ++i) value |= u64{pm.read_block(offset + i)} << (8 * i);
  return value;
}
void AcpiPm::Block::write(u64 offset, unsigned size, u64 value) {
  // A control write acts as a whole: SLP_TYP and SLP_EN are both in its high byte, SCI_EN in the
  // low.
  for (unsigned i = 0; i < size; ++i) owner_.write_block(offset + i, byte_of(value, i));
  owner_.update();
}

u8 AcpiPm::read_block(u64 offset) {
  if (offset < 2) return byte_of(s_.status, offset);
  if (offset < 4) return byte_of(s_.enable, offset - 2);
  if (offset < 6) return byte_of(s_.control, offset - 4);
  if (offset >= kGpe0 && offset < kGpe0 + 8) return byte_of(s_.gpe_status, offset - kGpe0);
  if (offset >= kGpe0 + 8 && offset < kGpe0 + 16) return byte_of(s_.gpe_enable, offset - kGpe0 - 8);
  if (offset >= 0x30 && offset < 0x34) return byte_of(s_.smi_enable, offset - 0x30);
  return 0;
}

void AcpiPm::write_block(u64 offset, u8 value) {
  if (offset < 2) {
    catch_up();
    s_.status &= static_cast<u16>(~((value << (8 * offset)) & kStatusBits));  // write 1 to clear
  } else if (offset < 4) {
    s_.enable = with_byte(s_.enable, offset - 2, value) & kEnableBits;
  } else if (offset < 6) {
    write_control(with_byte(s_.control, offset - 4, value));
  } else if (offset >= kGpe0 && offset < kGpe0 + 8) {
    s_.gpe_status &= ~(u64{value} << (8 * (offset - kGpe0)));
  } else if (offset >= kGpe0 + 8 && offset < kGpe0 + 16) {
    s_.gpe_enable = with_byte(s_.gpe_enable, offset - kGpe0 - 8, value);
  } else if (offset >= 0x30 && offset < 0x34) {
    s_.smi_enable = with_byte(s_.smi_enable, offset - 0x30, value);
  }
}

void AcpiPm::write_control(u16 value) {
  // SCI_EN belongs to the SMI command port (ACPI 6.4 4.8.2.5); OSes write it back as they read it.
  u16 sci = s_.control & kSciEnable;
  s_.control = static_cast<u16>((value & 0x1c06) | sci);
  if (!(value & kSleepEnable)) return;
  unsigned type = (value >> 10) & 7;
  trace(Trace::io, "acpi: sleep type {}", type);
  if (type == setup_.s5_type) control_.request(machine::Request::power_off);
}

void AcpiPm::write_smi(u64 offset, u8 value) {
  if (offset == 1) s_.smi_data = value;
  if (offset != 0) return;
  s_.smi_command = value;
  if (value == kAcpiEnable)
    s_.control |= kSciEnable;
  else if (value == kAcpiDisable)
    s_.control &= static_cast<u16>(~kSciEnable);
  update();
}

void AcpiPm::reset() {
  s_ = {};
  s_.timer_seen = ticks() >> (setup_.timer_32bit ? 31 : 23);
  update();
}

void AcpiPm::save(state::Image& image) const {
  image.put(name(), s_);
}

Result<> AcpiPm::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  s_ = s;
  update();
  return {};
}

}  // namespace skerry::devices
