// The local APIC: xAPIC and x2APIC (SDM 3A chapter 11).
//
// Not modelled: SMI delivery, the CMCI LVT entry (not advertised), remote read, focus processors,
// and the delivery-status bits, which read as idle because delivery is immediate.
//
// Threading: registers belong to the vCPU's own thread. Other threads deliver through deliver(),
// deliver_extint(), set_lint() and error_from_bus(), which post into atomics that the owner merges
// when it looks. What the bus needs for choosing a destination is published in atomics too.
#pragma once

#include <atomic>
#include <functional>

#include "base/clock.hpp"
#include "machine/irq.hpp"

namespace skerry::irq {

class ApicBus;

/// The timer's bus clock before the divider: 1 GHz, so a tick at divide-by-1 is one nanosecond.
constexpr u64 kApicBusHz = 1'000'000'000;

/// Bits of the error status register (SDM 3A figure 11-9).
enum ApicError : u32 {
  kSendIllegalVector = 1 << 5,
  kReceiveIllegalVector = 1 << 6,
  kIllegalRegister = 1 << 7,
};

struct LapicSetup {
  u32 id = 0;
  bool bsp = false;
  bool x2apic = true;                ///< CPUID.1:ECX[21]
  bool tsc_deadline = true;          ///< CPUID.1:ECX[24]
  bool directed_eoi = false;         ///< offer suppression of the EOI broadcast (version bit 24)
  unsigned physical_bits = 46;       ///< CPUID.80000008H:EAX[7:0]
  u64 tsc_hz = 1'000'000'000;        ///< rate of guest_tsc
  std::function<u64()> guest_tsc{};  ///< this vCPU's TSC now; empty: Clock scaled to tsc_hz
};

class Lapic final : public machine::LocalApic {
 public:
  /// `clock` and `bus` outlive it. Registers itself with the bus.
  Lapic(LapicSetup setup, const Clock& clock, ApicBus& bus);
  ~Lapic() override;

  /// Where interrupts wake the vCPU, NMI, INIT and SIPI go. Before vCPUs start; null: nowhere.
  void set_port(machine::VcpuPort* port) { port_ = port; }
  /// The 8259 pair behind LINT0. Before vCPUs start.
  void set_extint(machine::ExtIntSource* source) { extint_ = source; }
  void set_tsc(std::function<u64()> guest_tsc, u64 tsc_hz) override;

  /// LINT0 as ExtINT, unmasked: what firmware sets up for the virtual wire to the 8259. For the
  /// board when it boots a kernel without firmware; on the owner's thread or before it starts.
  void set_virtual_wire();
  /// RESET: as after power-up, IA32_APIC_BASE included.
  void reset();

  // machine::LocalApic
  bool deliverable() override;
  std::optional<u8> acknowledge() override;
  u64 cr8() const override { return s_.tpr >> 4; }
  void set_cr8(u64 value) override;
  std::optional<u64> read_msr(u32 index) override;
  bool write_msr(u32 index, u64 value) override;
  u64 apic_base() const override { return base_.load(std::memory_order_relaxed); }
  u32 mmio_read(u32 offset) override;
  void mmio_write(u32 offset, u32 value) override;
  std::optional<Nanos> timer_deadline() override;
  void run_timer() override;
  void init_reset() override;
  machine::LapicState save() const override;
  void load(const machine::LapicState& state, u64 apic_base) override;
  void set_eoi_flag(machine::EoiFlag* flag) override;
  void settle() override;
  std::optional<unsigned> send_ipis(u32 first, u64 mask_low, u64 mask_high, u32 icr) override;
  void unhalt(u32 apic_id) override;

  // From any thread.
  /// A fixed interrupt. Dropped if the APIC is disabled.
  void deliver(u8 vector, bool level);
  /// An ExtINT message: the vCPU runs an INTA cycle with the 8259.
  void deliver_extint();
  /// The LINT0 (pin 0) or LINT1 (pin 1) input.
  void set_lint(unsigned pin, bool level);
  u32 id() const { return setup_.id; }
  machine::VcpuPort* port() const { return port_; }
  bool enabled() const { return apic_base() & 0x800; }
  bool software_enabled() const {
    return match_.load(std::memory_order_relaxed) & kSoftwareEnabled;
  }
  bool in_x2apic() const { return (apic_base() & 0xc00) == 0xc00; }
  /// Does `destination` of this kind name this APIC? `wide`: a 32-bit (x2APIC) destination.
  bool matches(u32 destination, bool logical, bool wide) const;
  /// For lowest-priority arbitration.
  u8 arbitration_priority() const { return priority_.load(std::memory_order_relaxed); }

 private:
  // match_: the xAPIC LDR's and DFR's high bytes, and whether SVR enables the APIC.
  static constexpr u32 kSoftwareEnabled = 1 << 16;

  void reset_registers();
  void publish();
  void merge();
  void update_priority();
  std::optional<u32> read_register(u32 reg, bool x2);
  /// False: reserved register or bits.
  bool write_register(u32 reg, u32 value, bool x2);
  bool write_lvt(u32& lvt, u32 value, u32 valid, u32 read_only, bool x2);
  bool write_timer_lvt(u32 value, bool x2);
  bool write_base(u64 value);
  void write_svr(u32 value);
  void write_icr(u32 low, u32 destination);
  void eoi();
  void notice_eoi();
  void error(u32 bit);
  void deliver_lvt(u32 lvt);

  enum class TimerMode : u8 { one_shot = 0, periodic = 1, tsc_deadline = 2, reserved = 3 };
  TimerMode timer_mode() const { return static_cast<TimerMode>((s_.lvt_timer >> 17) & 3); }
  u64 divider() const;
  u64 guest_tsc() const;
  u32 current_count() const;
  void start_count(u64 count);

  LapicSetup setup_;
  const Clock& clock_;
  ApicBus& bus_;
  machine::VcpuPort* port_ = nullptr;
  machine::ExtIntSource* extint_ = nullptr;
  machine::EoiFlag* eoi_flag_ = nullptr;  ///< owner only
  /// The flag was raised for the highest vector in ISR, which is edge-triggered. Until the owner
  /// has looked, priority_ may still count a vector whose handler is done.
  bool flag_raised_ = false;

  machine::LapicState s_;  ///< owner only
  std::atomic<u64> base_;
  int top_irr_ = -1;  ///< highest vector in IRR, -1: none
  int top_isr_ = -1;
  u8 ppr_ = 0;

  std::atomic<bool> posted_{false};  ///< pending_ may have bits
  std::atomic<bool> extint_message_{false};
  std::array<std::atomic<u64>, 4> pending_{};
  std::array<std::atomic<u64>, 4> level_{};  ///< of a pending vector: it came level-triggered
  std::atomic<u32> errors_{0};               ///< accumulated for ESR
  std::array<std::atomic<u32>, 2> lint_lvt_{};
  std::array<std::atomic<bool>, 2> lint_{};  ///< wire levels; wiring, not state
  std::atomic<u32> match_{0};
  std::atomic<u8> priority_{0};
};

}  // namespace skerry::irq
