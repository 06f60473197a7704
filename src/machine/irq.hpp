// The ways in which a device interrupts, and the seams between interrupt controllers and engines.
#pragma once

#include <functional>
#include <optional>

#include "machine/cpu_state.hpp"

namespace skerry::machine {

/// A wire into an interrupt controller. set() is called with the board lock held (see Space).
class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void set(bool level) = 0;
  void pulse() {
    set(true);
    set(false);
  }
};

/// A message-signalled interrupt: a 32-bit store to 0xfeexxxxx (SDM 3A 11.11).
struct MsiMessage {
  u64 address = 0;
  u32 data = 0;
  bool operator==(const MsiMessage&) const = default;
};

/// Where MSIs go: the LAPICs. Thread-safe, callable with or without the board lock.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual void send(MsiMessage message) = 0;
  /// The IOAPIC tells what its pin would send (nullopt: masked), for engines whose LAPIC is
  /// elsewhere and must report the EOI of level-triggered vectors.
  virtual void set_pin_route(unsigned pin, std::optional<MsiMessage> route) {
    (void)pin, (void)route;
  }
};

/// The 8259 pair as seen by CPU 0: INTR and the INTA cycle. Called from vCPU threads without the
/// board lock; the implementation takes it.
class ExtIntSource {
 public:
  virtual ~ExtIntSource() = default;
  virtual bool pending() = 0;
  virtual u8 acknowledge() = 0;
};

/// A vCPU as an interrupt controller sees it. Thread-safe.
class VcpuPort {
 public:
  virtual ~VcpuPort() = default;
  /// Look at your LAPIC again: something may have become deliverable. Wakes from HLT.
  virtual void notify_interrupt() = 0;
  virtual void nmi() = 0;
  virtual void init() = 0;
  virtual void sipi(u8 vector) = 0;
  /// KVM's paravirtual kick (KVM_HC_KICK_CPU): ends a HLT, this one or the next, even if interrupts
  /// are off.
  virtual void unhalt() {}
};

/// A word in guest memory by which KVM's paravirtual EOI works: raised when an interrupt is taken;
/// a guest that finds it raised lowers it instead of writing the EOI register.
class EoiFlag {
 public:
  virtual ~EoiFlag() = default;
  /// False: it cannot be raised, and was not.
  virtual bool raise() = 0;
  virtual bool raised() = 0;
  /// Whether it still was raised.
  virtual bool lower() = 0;
};

/// A local APIC as its own vCPU sees it, for engines that have none of their own. All calls come
/// from the vCPU's thread, without the board lock. Implemented by irq::Lapic.
class LocalApic {
 public:
  virtual ~LocalApic() = default;

  /// True if an interrupt would be taken now if RFLAGS.IF were 1 (fixed, or ExtINT from the 8259).
  virtual bool deliverable() = 0;
  /// Takes it: the vector (the INTA cycle), or nullopt if it went away.
  virtual std::optional<u8> acknowledge() = 0;

  virtual u64 cr8() const = 0;
  virtual void set_cr8(u64 value) = 0;

  /// IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range 0x800-0x8ff. nullopt / false: #GP.
  virtual std::optional<u64> read_msr(u32 index) = 0;
  virtual bool write_msr(u32 index, u64 value) = 0;

  /// IA32_APIC_BASE as it is; engines derive CPUID.1:EDX.APIC from bit 11.
  virtual u64 apic_base() const = 0;
  /// The xAPIC page is at this guest-physical page when in xAPIC mode and enabled.
  bool claims(u64 gpa) const {
    u64 base = apic_base();
    return (base & 0xc00) == 0x800 && (gpa & ~u64{0xfff}) == (base & 0xf'ffff'ffff'f000);
  }
  /// Registers of the xAPIC page, by offset.
  virtual u32 mmio_read(u32 offset) = 0;
  virtual void mmio_write(u32 offset, u32 value) = 0;

  /// The vCPU's time-stamp counter, for the TSC-deadline timer: engines that keep one say how to
  /// read it. Called on the vCPU's thread. Without it the TSC is taken to be the Clock at its rate.
  virtual void set_tsc(std::function<u64()> guest_tsc, u64 tsc_hz) {
    (void)guest_tsc, (void)tsc_hz;
  }

  /// From now on interrupts may be ended by this flag; null: no more. Not level-triggered ones,
  /// which the IOAPIC has to hear of.
  virtual void set_eoi_flag(EoiFlag* flag) { (void)flag; }
  /// Before guest memory is saved or handed over: no raised flag stays in it.
  virtual void settle() {}

  /// KVM_HC_SEND_IPI: the vector and delivery mode (fixed or NMI) of `icr` to the APICs with id
  /// `first` + n for each bit n that is set in the 128-bit mask. How many were there; nullopt if
  /// `icr` asks for anything else.
  virtual std::optional<unsigned> send_ipis(u32 first, u64 mask_low, u64 mask_high, u32 icr) {
    (void)first, (void)mask_low, (void)mask_high, (void)icr;
    return std::nullopt;
  }
  /// KVM_HC_KICK_CPU to the vCPU with this APIC id, if there is one.
  virtual void unhalt(u32 apic_id) { (void)apic_id; }

  /// When the timer fires next, in Clock time; nullopt if it is not armed.
  virtual std::optional<Nanos> timer_deadline() = 0;
  /// Fires what is due. Cheap when nothing is.
  virtual void run_timer() = 0;

  /// The INIT IPI (keeps the id) and RESET.
  virtual void init_reset() = 0;

  virtual LapicState save() const = 0;
  virtual void load(const LapicState& state, u64 apic_base) = 0;
};

}  // namespace skerry::machine
