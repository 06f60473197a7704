// One vCPU of the KVM engine.
#pragma once

#include <pthread.h>
#include <atomic>
#include <set>

#include "engine/kvm/api.hpp"
#include "machine/engine.hpp"

namespace skerry::kvm {

class KvmVcpu final : public machine::Vcpu {
 public:
  /// `fd` from KVM_CREATE_VCPU; `msrs` are the indices that this KVM saves and restores.
  static Result<std::unique_ptr<KvmVcpu>> create(Fd fd, int system_fd, unsigned index,
                                                 const machine::EngineSetup& setup,
                                                 const std::set<u32>& msrs);
  ~KvmVcpu() override;

  machine::Exit run() override;
  void answer(u64 value) override;
  void kick() override;
  void notify_interrupt() override;
  bool mid_instruction() const override { return io_open_; }
  Result<> load(const machine::CpuState& state) override;
  Result<> save(machine::CpuState& state) override;
  Result<> load_lapic(const machine::LapicState& state) override;
  Result<> save_lapic(machine::LapicState& state) override;
  void inject_nmi() override;
  Result<> set_debug(const machine::DebugRequest& request) override;
  std::optional<memory::Gpa> translate(u64 virtual_address) override;
  std::vector<machine::Counter> counters() const override;

 private:
  KvmVcpu(Fd fd, unsigned index, const machine::EngineSetup& setup, const std::set<u32>& msrs)
      : fd_(std::move(fd)), index_(index), setup_(setup), msrs_(msrs) {}
  Result<> set_cpuid(int system_fd);
  void offer_extint();
  std::optional<machine::Exit> exit_of_run();
  std::optional<machine::Exit> next_port_element();
  machine::Exit fatal(std::string_view what) const;
  Result<> load_msrs(const machine::CpuState& state);
  Result<> save_msrs(machine::CpuState& state);
  Result<bool> x2apic();
  u64 clock_lag() const;

  Fd fd_;
  const unsigned index_;
  const machine::EngineSetup& setup_;
  const std::set<u32>& msrs_;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
  bool io_open_ = false;  ///< an exit for I/O waits for its completion by the next KVM_RUN
  u32 port_element_ = 0;  ///< of a string port access: the one handed out last
  u64 exits_ = 0, interrupted_ = 0, windows_ = 0;  ///< returns of KVM_RUN, and why
  u64 clock_lag_ = 0;                              ///< after the last run; 0: has not run
  std::atomic<bool> in_run_{false};
  std::atomic<pthread_t> thread_{};
};

}  // namespace skerry::kvm
