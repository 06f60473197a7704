#include "irq/lapic.hpp"

#include <bit>

#include "base/bits.hpp"
#include "base/log.hpp"
#include "irq/apic_bus.hpp"

namespace skerry::irq {
namespace {

constexpr u64 kEnable = 0x800, kExtended = 0x400, kBsp = 0x100;
constexpr u32 kMasked = 0x10000;
constexpr u32 kSvrEnable = 0x100, kSvrSuppressEoi = 0x1000;

enum Reg : u32 {
  kId = 0x02,
  kVersion = 0x03,
  kTpr = 0x08,
  kApr = 0x09,
  kPpr = 0x0a,
  kEoi = 0x0b,
  kRemoteRead = 0x0c,
  kLdr = 0x0d,
  kDfr = 0x0e,
  kSvr = 0x0f,
  kIsr = 0x10,
  kTmr = 0x18,
  kIrr = 0x20,
  kEsr = 0x28,
  kIcrLow = 0x30,
  kIcrHigh = 0x31,
  kLvtTimer = 0x32,
  kLvtThermal = 0x33,
  kLvtPerf = 0x34,
  kLvtLint0 = 0x35,
  kLvtLint1 = 0x36,
  kLvtError = 0x37,
  kTimerInitial = 0x38,
  kTimerCurrent = 0x39,
  kTimerDivide = 0x3e,
  kSelfIpi = 0x3f,
};

int highest(const std::array<u32, 8>& set) {
  for (int i = 7; i >= 0; --i)
    if (set[i]) return 32 * i + 31 - std::countl_zero(set[i]);
  return -1;
}
void set_bit(std::array<u32, 8>& set, u8 n) {
  set[n / 32] |= 1u << (n % 32);
}
void clear_bit(std::array<u32, 8>& set, u8 n) {
  set[n / 32] &= ~(1u << (n % 32));
}
bool test_bit(const std::array<u32, 8>& set, u8 n) {
  return (set[n / 32] >> (n % 32)) & 1;
}

/// What a described vector of pending bits adds to IRR and TMR.
void merge_word(machine::LapicState& s, unsigned i, u64 pending, u64 level) {
  for (unsigned half = 0; half < 2; ++half) {
    auto p = static_cast<u32>(pending >> (32 * half)), l = static_cast<u32>(level >> (32 * half));
    s.irr[2 * i + half] |= p;
    s.tmr[2 * i + half] = (s.tmr[2 * i + half] & ~p) | (l & p);
  }
}

}  // namespace

Lapic::Lapic(LapicSetup setup, const Clock& clock, ApicBus& bus)
    : setup_(std::move(setup)), clock_(clock), bus_(bus) {
  reset();
  bus_.add(*this);
}
Lapic::~Lapic() {
  bus_.remove(*this);
}

void Lapic::set_tsc(std::function<u64()> guest_tsc, u64 tsc_hz) {
  setup_.guest_tsc = std::move(guest_tsc);
  setup_.tsc_hz = tsc_hz;
}

// --- reset
// -----------------------------------------------------------------------------------------

void Lapic::reset() {
  base_ = 0xfee00000 | kEnable | (setup_.bsp ? kBsp : 0);
  reset_registers();
}

// SDM 3A 11.4.7.3: INIT gives the state after RESET except for the APIC id (and IA32_APIC_BASE).
void Lapic::init_reset() {
  reset_registers();
}

void Lapic::reset_registers() {
  s_ = {};
  s_.id = setup_.id;
  flag_raised_ = false;
  posted_ = false;
  extint_message_ = false;
  for (auto& word : pending_) word = 0;
  errors_ = 0;
  update_priority();
  publish();
}

void Lapic::set_virtual_wire() {
  s_.svr |= kSvrEnable;
  s_.lvt_lint0 = 0x700;
  s_.lvt_lint1 = 0x400;
  publish();
}

void Lapic::publish() {
  match_.store(
      (s_.ldr >> 24) | ((s_.dfr >> 24) << 8) | (s_.svr & kSvrEnable ? kSoftwareEnabled : 0),
      std::memory_order_relaxed);
  lint_lvt_[0].store(s_.lvt_lint0, std::memory_order_relaxed);
  lint_lvt_[1].store(s_.lvt_lint1, std::memory_order_relaxed);
}

// --- delivery from anywhere
// ------------------------------------------------------------------------

void Lapic::deliver(u8 vector, bool level) {
  if (!enabled() || !software_enabled()) return;
  if (vector < 16) {
    // SDM 3A 11.5.2; the LVT error interrupt follows when the owner merges.
    errors_.fetch_or(kReceiveIllegalVector, std::memory_order_relaxed);
  } else {
    u64 mask = u64{1} << (vector % 64);
    if (level)
      level_[vector / 64].fetch_or(mask, std::memory_order_relaxed);
    else
      level_[vector / 64].fetch_and(~mask, std::memory_order_relaxed);
    pending_[vector / 64].fetch_or(mask, std::memory_order_release);
  }
  posted_.store(true, std::memory_order_release);
  if (port_) port_->notify_interrupt();
}

void Lapic::deliver_extint() {
  if (!enabled() || !software_enabled()) return;
  extint_message_.store(true, std::memory_order_release);
  if (port_) port_->notify_interrupt();
}

void Lapic::set_lint(unsigned pin, bool level) {
  bool before = lint_[pin].exchange(level);
  if (!level || before) return;
  if (!enabled()) {
    // LINT0 and LINT1 are the plain INTR and NMI pins then (SDM 3A 11.4.3).
    if (!port_) return;
    if (pin == 0)
      port_->notify_interrupt();
    else
      port_->nmi();
    return;
  }
  deliver_lvt(lint_lvt_[pin].load(std::memory_order_relaxed));
}

void Lapic::deliver_lvt(u32 lvt) {
  if (lvt & kMasked) return;
  switch ((lvt >> 8) & 7) {
    case 0: deliver(static_cast<u8>(lvt), false); break;
    case 4:
      if (port_) port_->nmi();
      break;
    case 5:
      if (port_) port_->init();
      break;
    case 7:
      if (port_) port_->notify_interrupt();
      break;
    default: break;
  }
}

bool Lapic::matches(u32 destination, bool logical, bool wide) const {
  if (destination == (wide ? 0xffffffff : 0xff)) return true;
  bool x2 = in_x2apic();
  if (!logical) return destination == (x2 ? setup_.id : (setup_.id & 0xff));
  if (x2) {
    // SDM 3A 11.12.10.2: the logical id is derived from the id.
    u32 ldr = ((setup_.id >> 4) << 16) | (1u << (setup_.id & 15));
    return (ldr >> 16) == (destination >> 16) && (ldr & destination & 0xffff);
  }
  if (destination > 0xff) return false;
  u32 match = match_.load(std::memory_order_relaxed);
  u32 ldr = match & 0xff;
  switch ((match >> 12) & 15) {
    case 15: return ldr & destination;
    case 0: return (ldr >> 4) == (destination >> 4) && (ldr & destination & 15);
    default: return false;
  }
}

// --- the owner's side
// ------------------------------------------------------------------------------

void Lapic::merge() {
  posted_.exchange(false, std::memory_order_acquire);
  for (unsigned i = 0; i < pending_.size(); ++i) {
    if (!pending_[i].load(std::memory_order_relaxed)) continue;
    u64 pending = pending_[i].exchange(0, std::memory_order_acquire);
    merge_word(s_, i, pending, level_[i].load(std::memory_order_relaxed));
  }
  if (u32 fresh = errors_.load(std::memory_order_relaxed) & ~s_.esr_pending) {
    s_.esr_pending |= fresh;
    if (!(s_.lvt_error & kMasked) && (s_.lvt_error & 0xf0)) {
      set_bit(s_.irr, static_cast<u8>(s_.lvt_error));
      clear_bit(s_.tmr, static_cast<u8>(s_.lvt_error));
    }
  }
  update_priority();
}

// SDM 3A 11.8.3.1.
void Lapic::update_priority() {
  top_irr_ = highest(s_.irr);
  top_isr_ = highest(s_.isr);
  u8 service = top_isr_ < 0 ? 0 : static_cast<u8>(top_isr_ & 0xf0);
  ppr_ = (s_.tpr & 0xf0) >= service ? s_.tpr : service;
  priority_.store(ppr_, std::memory_order_relaxed);
}

// --- KVM's paravirtual EOI (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN)
//
// The flag is raised only while nothing else waits, and lowered as soon as something does: the
// guest then writes the EOI register, which is when what waits can be delivered.

void Lapic::set_eoi_flag(machine::EoiFlag* flag) {
  settle();
  eoi_flag_ = flag;
}

/// The guest may have lowered the flag.
void Lapic::notice_eoi() {
  if (!flag_raised_ || eoi_flag_->raised()) return;
  flag_raised_ = false;
  if (top_isr_ >= 0) clear_bit(s_.isr, static_cast<u8>(top_isr_));
  update_priority();
}

void Lapic::settle() {
  notice_eoi();
  if (!flag_raised_) return;
  flag_raised_ = false;
  eoi_flag_->lower();
}

bool Lapic::deliverable() {
  if (flag_raised_) notice_eoi();
  if (posted_.load(std::memory_order_relaxed)) merge();
  if (flag_raised_ && top_irr_ >= 0) settle();
  if (top_irr_ >= 0 && (top_irr_ & 0xf0) > (ppr_ & 0xf0)) return true;
  if (!extint_) return false;
  bool wired = !enabled() || (s_.lvt_lint0 & (kMasked | 0x700)) == 0x700 ||
               extint_message_.load(std::memory_order_relaxed);
  return wired && extint_->pending();
}

std::optional<u8> Lapic::acknowledge() {
  if (!deliverable()) return std::nullopt;
  if (extint_ && (!enabled() || (s_.lvt_lint0 & (kMasked | 0x700)) == 0x700 ||
                  extint_message_.load(std::memory_order_relaxed))) {
    if (extint_->pending()) {
      settle();
      u8 vector = extint_->acknowledge();
      if (!extint_->pending()) extint_message_.store(false, std::memory_order_relaxed);
      return vector;
    }
  }
  if (top_irr_ < 0 || (top_irr_ & 0xf0) <= (ppr_ & 0xf0)) return std::nullopt;
  auto vector = static_cast<u8>(top_irr_);
  clear_bit(s_.irr, vector);
  const bool alone = top_isr_ < 0;
  set_bit(s_.isr, vector);
  update_priority();
  if (eoi_flag_ && alone && top_irr_ < 0 && !test_bit(s_.tmr, vector))
    flag_raised_ = eoi_flag_->raise();
  trace(Trace::irq, "lapic{}: takes {:#x}", setup_.id, vector);
  return vector;
}

void Lapic::set_cr8(u64 value) {
  s_.tpr = static_cast<u8>((value & 15) << 4);
  update_priority();
}

void Lapic::eoi() {
  settle();
  if (posted_.load(std::memory_order_relaxed)) merge();
  if (top_isr_ < 0) return;  // the EOI of a spurious interrupt
  auto vector = static_cast<u8>(top_isr_);
  clear_bit(s_.isr, vector);
  update_priority();
  // SDM 3A 11.8.5: level-triggered vectors are broadcast to the IOAPICs.
  if (test_bit(s_.tmr, vector) && !(s_.svr & kSvrSuppressEoi)) bus_.broadcast_eoi(vector);
}

void Lapic::error(u32 bit) {
  errors_.fetch_or(bit, std::memory_order_relaxed);
  merge();
}

// --- registers
// -------------------------------------------------------------------------------------

std::optional<u32> Lapic::read_register(u32 reg, bool x2) {
  notice_eoi();
  if (posted_.load(std::memory_order_relaxed)) merge();
  if (reg >= kIsr && reg < kIsr + 8) return s_.isr[reg - kIsr];
  if (reg >= kTmr && reg < kTmr + 8) return s_.tmr[reg - kTmr];
  if (reg >= kIrr && reg < kIrr + 8) return s_.irr[reg - kIrr];
  switch (reg) {
    case kId: return x2 ? setup_.id : setup_.id << 24;
    case kVersion: return 0x00050014 | (setup_.directed_eoi ? 1u << 24 : 0);
    case kTpr: return s_.tpr;
    case kApr: return x2 ? std::nullopt : std::optional<u32>(0);
    case kPpr: return ppr_;
    case kRemoteRead: return x2 ? std::nullopt : std::optional<u32>(0);
    case kEoi: return x2 ? std::nullopt : std::optional<u32>(0);
    case kLdr:
      if (x2) return ((setup_.id >> 4) << 16) | (1u << (setup_.id & 15));
      return s_.ldr;
    case kDfr: return x2 ? std::nullopt : std::optional<u32>(s_.dfr);
    case kSvr: return s_.svr;
    case kEsr: return s_.esr;
    case kIcrLow: return s_.icr_low;
    case kIcrHigh: return s_.icr_high;  // x2APIC: read_msr() never asks
    case kLvtTimer: return s_.lvt_timer;
    case kLvtThermal: return s_.lvt_thermal;
    case kLvtPerf: return s_.lvt_perf;
    case kLvtLint0: return s_.lvt_lint0;
    case kLvtLint1: return s_.lvt_lint1;
    case kLvtError: return s_.lvt_error;
    case kTimerInitial: return s_.timer_initial;
    case kTimerCurrent: run_timer(); return current_count();
    case kTimerDivide: return s_.timer_divide;
    default: return std::nullopt;
  }
}

bool Lapic::write_lvt(u32& lvt, u32 value, u32 valid, u32 read_only, bool x2) {
  if (x2 && (value & ~(valid | read_only))) return false;
  value &= valid;
  if (!(s_.svr & kSvrEnable)) value |= kMasked;  // SDM 3A 11.4.7.2
  lvt = value;
  publish();
  return true;
}

bool Lapic::write_register(u32 reg, u32 value, bool x2) {
  constexpr u32 kIdle = 0x1000;  // delivery status, read-only
  switch (reg) {
    case kId: return !x2;  // read-only: what MADT and CPUID say stays true
    case kTpr:
      if (x2 && (value & ~0xffu)) return false;
      s_.tpr = static_cast<u8>(value);
      update_priority();
      return true;
    case kEoi:
      if (x2 && value) return false;
      eoi();
      return true;
    case kLdr:
      if (x2) return false;
      s_.ldr = value & 0xff000000;
      publish();
      return true;
    case kDfr:
      if (x2) return false;
      s_.dfr = value | 0x0fffffff;
      publish();
      return true;
    case kSvr: {
      u32 valid = 0x3ff | (setup_.directed_eoi ? kSvrSuppressEoi : 0);
      if (x2 && (value & ~valid)) return false;
      write_svr(value & valid);
      return true;
    }
    case kEsr:
      // SDM 3A 11.5.3: a write shows what has happened since the last one.
      if (x2 && value) return false;
      merge();
      s_.esr = s_.esr_pending;
      s_.esr_pending = 0;
      errors_.store(0, std::memory_order_relaxed);
      return true;
    case kIcrLow: write_icr(value, s_.icr_high >> 24); return true;
    case kIcrHigh: s_.icr_high = value & 0xff000000; return true;
    case kLvtTimer: return write_timer_lvt(value, x2);
    case kLvtThermal: return write_lvt(s_.lvt_thermal, value, 0x107ff, kIdle, x2);
    case kLvtPerf: return write_lvt(s_.lvt_perf, value, 0x107ff, kIdle, x2);
    case kLvtLint0: return write_lvt(s_.lvt_lint0, value, 0x1a7ff, kIdle | 0x4000, x2);
    case kLvtLint1: return write_lvt(s_.lvt_lint1, value, 0x1a7ff, kIdle | 0x4000, x2);
    case kLvtError: return write_lvt(s_.lvt_error, value, 0x100ff, kIdle, x2);
    case kTimerInitial:
      run_timer();
      if (timer_mode() == TimerMode::tsc_deadline) return true;  // ignored, SDM 3A 11.5.4.1
      s_.timer_initial = value;
      start_count(value);
      return true;
    case kTimerDivide: {
      if (x2 && (value & ~0xbu)) return false;
      run_timer();
      u32 left = current_count();
      s_.timer_divide = value & 0xb;
      if (s_.timer_expires) start_count(left);
      return true;
    }
    default: return false;
  }
}

void Lapic::write_svr(u32 value) {
  run_timer();
  s_.svr = value;
  if (!(value & kSvrEnable))
    for (u32* lvt : {&s_.lvt_timer, &s_.lvt_thermal, &s_.lvt_perf, &s_.lvt_lint0, &s_.lvt_lint1,
                     &s_.lvt_error})
      *lvt |= kMasked;
  publish();
}

void Lapic::write_icr(u32 low, u32 destination) {
  bool x2 = in_x2apic();
  s_.icr_low = low & 0x000ccfff;
  auto mode = (low >> 8) & 7;
  if (mode <= 1 && (low & 0xff) < 16) return error(kSendIllegalVector);
  bus_.ipi(*this, s_.icr_low, destination, x2);
}

u32 Lapic::mmio_read(u32 offset) {
  offset &= 0xfff;
  if (offset & 0xc) return 0;  // between the registers, which are 16 bytes apart
  auto value = read_register(offset >> 4, false);
  if (value) return *value >> (8 * (offset & 3));
  error(kIllegalRegister);
  return 0;
}

void Lapic::mmio_write(u32 offset, u32 value) {
  offset &= 0xfff;
  if (offset & 0xf) return;
  if (!write_register(offset >> 4, value, false)) error(kIllegalRegister);
}

std::optional<u64> Lapic::read_msr(u32 index) {
  if (index == 0x1b) return apic_base();
  if (index == 0x6e0) {
    if (!setup_.tsc_deadline) return std::nullopt;
    run_timer();
    return timer_mode() == TimerMode::tsc_deadline ? s_.tsc_deadline : 0;
  }
  if (index < 0x800 || index > 0x8ff || !in_x2apic()) return std::nullopt;
  u32 reg = index - 0x800;
  if (reg == kIcrLow) return u64{s_.icr_high} << 32 | s_.icr_low;
  if (reg == kIcrHigh) return std::nullopt;
  auto value = read_register(reg, true);
  if (!value) return std::nullopt;
  return *value;
}

bool Lapic::write_msr(u32 index, u64 value) {
  if (index == 0x1b) return write_base(value);
  if (index == 0x6e0) {
    if (!setup_.tsc_deadline) return false;
    // SDM 3A 11.5.4.1: without effect in the other modes.
    if (timer_mode() == TimerMode::tsc_deadline) s_.tsc_deadline = value;
    return true;
  }
  if (index < 0x800 || index > 0x8ff || !in_x2apic()) return false;
  u32 reg = index - 0x800;
  if (reg == kIcrLow) {
    if (static_cast<u32>(value) & 0xfff32000u) return false;  // bit 12, once "busy", is ignored
    s_.icr_high = static_cast<u32>(value >> 32);
    write_icr(static_cast<u32>(value), s_.icr_high);
    return true;
  }
  if (value >> 32) return false;
  if (reg == kSelfIpi) {
    if (value & ~u64{0xff}) return false;
    write_icr(static_cast<u32>(value) | 0x40000, 0);
    return true;
  }
  if (reg == kIcrHigh || reg == kId) return false;
  return write_register(reg, static_cast<u32>(value), true);
}

// SDM 3A 11.12.5, figure 11-27: the states of EN and EXTD and the ways between them.
bool Lapic::write_base(u64 value) {
  u64 reserved = 0x2ff | ~(byte_mask(8) >> (64 - setup_.physical_bits));
  if (!setup_.x2apic) reserved |= kExtended;
  if (value & reserved) return false;
  u64 old = apic_base();
  bool was_on = old & kEnable, was_x2 = old & kExtended;
  bool on = value & kEnable, x2 = value & kExtended;
  if (x2 && !on) return false;
  if (x2 && !was_on) return false;
  if (on && !x2 && was_x2) return false;
  base_ = value;
  if (was_on && !on) reset_registers();
  if (x2 && !was_x2) s_.icr_high = 0;
  publish();
  return true;
}

// --- KVM's hypercalls

std::optional<unsigned> Lapic::send_ipis(u32 first, u64 mask_low, u64 mask_high, u32 icr) {
  const auto mode = (icr >> 8) & 7;
  const auto vector = static_cast<u8>(icr);
  constexpr u32 kShorthand = 0xc0000, kLevel = 0x8000;
  if ((icr & (kShorthand | kLevel)) || (mode != 0 && mode != 4)) return std::nullopt;
  if (mode == 0 && vector < 16) {
    error(kSendIllegalVector);
    return 0;
  }
  return bus_.ipis(first, mask_low, mask_high, mode == 4, vector);
}

void Lapic::unhalt(u32 apic_id) {
  if (machine::VcpuPort* port = bus_.port_of(apic_id)) port->unhalt();
}

// --- state
// -----------------------------------------------------------------------------------------

machine::LapicState Lapic::save() const {
  machine::LapicState s = s_;
  if (flag_raised_ && top_isr_ >= 0 && !eoi_flag_->raised())
    clear_bit(s.isr, static_cast<u8>(top_isr_));
  for (unsigned i = 0; i < pending_.size(); ++i)
    merge_word(s, i, pending_[i].load(std::memory_order_acquire), level_[i].load());
  s.esr_pending |= errors_.load();
  return s;
}

void Lapic::load(const machine::LapicState& state, u64 apic_base) {
  base_ = apic_base;
  reset_registers();
  s_ = state;
  s_.id = setup_.id;
  s_.dfr |= 0x0fffffff;
  errors_ = s_.esr_pending;
  for (auto* set : {&s_.irr, &s_.isr}) (*set)[0] &= 0xffff0000;  // vectors below 16 do not exist
  publish();
  update_priority();
}

}  // namespace skerry::irq
