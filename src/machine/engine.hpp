// Engine and Vcpu: what runs guest instructions. Engines never see devices.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "machine/cpu_state.hpp"
#include "machine/exit.hpp"
#include "machine/irq.hpp"

namespace skerry::machine {

/// What a debugger wants of a vCPU. Addresses are guest-virtual.
struct DebugRequest {
  bool single_step = false;
  std::vector<u64> breakpoints;
  struct Watch {
    u64 address;
    u32 length;  ///< bytes
    bool on_read, on_write;
  };
  std::vector<Watch> watches;
  bool any() const { return single_step || !breakpoints.empty() || !watches.empty(); }
};

/// Something that a vCPU counts, for `skerry run --stats`. The name is lower-case English and lives
/// for ever: "instructions".
struct Counter {
  std::string_view name;
  u64 value;
};

/// Runs one CpuState. run(), answer(), load(), save(), translate() and set_debug() belong to the
/// vCPU's thread (or to any one thread while that one does not run); kick() and wake hooks to any.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  /// Runs guest instructions until there is something for the machine to do.
  virtual Exit run() = 0;
  /// The value read by the PortIo or Mmio that run() returned.
  virtual void answer(u64 value) = 0;
  /// Makes the current or the next run() return Interrupted soon. Thread-safe, async-signal-safe.
  virtual void kick() = 0;
  /// Tells a running vCPU that its LAPIC or NMI line wants attention. Does not make run() return.
  virtual void notify_interrupt() { kick(); }

  /// An instruction that is waiting for an answer must be completed (one more run() with a pending
  /// kick) before its state is saved: true while there is one.
  virtual bool mid_instruction() const = 0;

  /// An error names the register that the host refuses.
  virtual Result<> load(const CpuState& state) = 0;
  virtual Result<> save(CpuState& state) = 0;
  /// As load() of what save() has just given, changed here and there (INIT, SIPI), except that the
  /// time-stamp counter runs on.
  virtual Result<> reload(const CpuState& state) { return load(state); }
  /// The LAPIC, for engines with one of their own (Engine::owns_lapic).
  virtual Result<> load_lapic(const LapicState&) { return {}; }
  virtual Result<> save_lapic(LapicState&) { return {}; }
  /// Queues an NMI.
  virtual void inject_nmi() = 0;

  virtual Result<> set_debug(const DebugRequest& request) = 0;
  /// Guest-virtual to guest-physical by the current page tables, without side effects.
  virtual std::optional<memory::Gpa> translate(u64 virtual_address) = 0;

  /// Guest instructions executed so far, or 0 if the engine does not count.
  virtual u64 instructions() const { return 0; }
  /// What the engine has counted since the vCPU was made; every vCPU of an engine gives the same
  /// names in the same order. Only while the vCPU does not run.
  virtual std::vector<Counter> counters() const { return {}; }
};

struct EngineSetup {
  memory::GuestMemory* memory = nullptr;
  const Clock* clock = nullptr;
  CpuidTable cpuid;  ///< what the guest sees; filled after the engine said what it supports
  unsigned cpus = 1;
  u64 tsc_hz = 0;                  ///< of the guest; the host's
  ExtIntSource* extint = nullptr;  ///< the 8259 pair
  bool interpreter = false;        ///< the software engine: interpret, do not translate
  bool trace_tables = false;       ///< the software engine: see every store into page tables
  u64 code_cache = 0;  ///< the software engine: bytes for translated code; 0: its choice
};

/// One engine per machine. Errors of creation say what the host lacks and how to mend it.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;

  /// Every CPUID leaf with all that this engine can do on this host; CPU models are intersected
  /// with it.
  virtual CpuidTable supported_cpuid() const = 0;
  /// Whether VMCALL and VMMCALL both are hypercalls, whatever the guest takes its processor for.
  virtual bool any_hypercall() const { return true; }
  /// Before the first create_vcpu().
  virtual Result<> configure(const EngineSetup& setup) = 0;

  /// True: LAPICs are the engine's, MSIs go to msi_sink(). False: each vCPU is given a LocalApic.
  virtual bool owns_lapic() const = 0;
  virtual MsiSink* msi_sink() { return nullptr; }
  /// INTR of the 8259 changed (engines that own the LAPIC).
  virtual void set_extint(bool level) { (void)level; }

  /// `lapic` is null if owns_lapic(), else outlives the vCPU.
  virtual Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index, LocalApic* lapic) = 0;

  /// From now on stores of `size` bytes to this guest-physical address only signal `eventfd`.
  /// False: not supported; the store exits as Mmio.
  virtual bool add_doorbell(memory::Gpa at, u32 size, int eventfd) {
    (void)at, (void)size, (void)eventfd;
    return false;
  }
  virtual void remove_doorbell(memory::Gpa at, u32 size, int eventfd) {
    (void)at, (void)size, (void)eventfd;
  }
  /// Guest code may write memory behind GuestMemory's back: bring its DirtyMap up to date.
  virtual Result<> sync_dirty() { return {}; }
};

}  // namespace skerry::machine
