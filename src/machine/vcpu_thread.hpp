// VcpuThread: one host thread that runs one vCPU and hands its exits to the machine's devices.
//
// For engines without LAPICs of their own it also is the CPU's INIT, SIPI, NMI and HLT logic (SDM
// 3A 9.4, 11.6). Others reach it through VcpuPort, whose calls are thread-safe and never block for
// long.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "machine/engine.hpp"
#include "machine/space.hpp"

namespace skerry::machine {

/// What the vCPU threads of one machine share.
struct VcpuHost {
  Space* ports = nullptr;
  Space* memory = nullptr;
  const Clock* clock = nullptr;
  Control* control = nullptr;
  /// EOI of a level-triggered vector by an engine's own LAPIC.
  std::function<void(u8 vector)> ioapic_eoi;
  /// Called on the vCPU's thread when the debugger's condition hit; the vCPU then stays parked.
  std::function<void(unsigned index, const Debug&)> debug_hit;
};

class VcpuThread final : public VcpuPort {
 public:
  VcpuThread(unsigned index, VcpuHost& host) : index_(index), host_(host) {}
  ~VcpuThread() override;

  /// Before start(). `lapic` is null if the engine owns it; the caller keeps it alive.
  void attach(std::unique_ptr<Vcpu> vcpu, LocalApic* lapic);
  void start();
  /// Ends the thread.
  void stop();

  /// Parks the vCPU between two instructions. park() only asks; wait_parked() waits until it is so.
  /// Not from the vCPU's own thread (park() alone is allowed there).
  void park();
  void wait_parked();
  void unpark();
  bool parked() const;

  // While parked (or before start()):
  Vcpu& vcpu() { return *vcpu_; }
  LocalApic* lapic() { return lapic_; }
  /// Loads everything, the RunState included.
  Result<> load(const CpuState& state);
  Result<> save(CpuState& state);
  /// The vCPU's and what it asked of the machine.
  std::vector<Counter> counters() const;

  void notify_interrupt() override;
  void nmi() override;
  void init() override;
  void sipi(u8 vector) override;
  void unhalt() override { post(kUnhalt); }

 private:
  enum Event : u32 { kNmi = 1, kInit = 2, kSipi = 4, kWake = 8, kUnhalt = 16 };
  void post(u32 events);
  void main();
  bool step();  ///< false: the thread ends
  void take_events(u32 events);
  bool wait_for_wake();
  bool poll_for_wake(Nanos began) const;  ///< while halted; true if it may run
  void dispatch(Exit exit);
  void access(const Mmio& mmio);
  void settle();  ///< completes an instruction that waits for a device, before parking

  const unsigned index_;
  VcpuHost& host_;
  std::unique_ptr<Vcpu> vcpu_;
  LocalApic* lapic_ = nullptr;
  std::thread thread_;

  std::atomic<u32> events_{0};
  static constexpr Nanos kLongestPoll = 50'000;
  Nanos poll_ = 0;  ///< how long to look for an event before sleeping
  std::atomic<u8> sipi_vector_{0};
  RunState run_ =
      RunState::running;   ///< engines without LAPIC; the vCPU's thread, or anybody while parked
  bool unhalted_ = false;  ///< unhalt() came before the HLT
  bool interruptible_ = true;                           ///< IF when it halted
  std::array<u64, std::variant_size_v<Exit>> exits_{};  ///< by kind; the vCPU's thread

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> want_park_{false}, want_stop_{false};
  std::atomic<bool> sleeping_{false};
  bool parked_ = false;
};

/// What INIT leaves of a state (SDM 3A table 10-1): most MSRs, caches and FPU state survive.
CpuState after_init(const CpuState& before);

}  // namespace skerry::machine
