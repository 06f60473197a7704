// machine::Vcpu over a Cpu and its Core.
#pragma once

#include "engine/soft/core.hpp"
#include "engine/soft/room.hpp"

namespace skerry::soft {

class SoftVcpu final : public machine::Vcpu {
 public:
  SoftVcpu(std::shared_ptr<Shared> shared, unsigned index, machine::LocalApic* lapic);
  ~SoftVcpu() override;

  machine::Exit run() override { return core_.run(); }
  void answer(u64 value) override;
  void kick() override { cpu_->attention.fetch_or(kKick, std::memory_order_seq_cst); }
  void notify_interrupt() override {
    cpu_->attention.fetch_or(kInterrupt, std::memory_order_seq_cst);
  }
  bool mid_instruction() const override { return core_.mid_instruction; }

  Result<> load(const machine::CpuState& state) override;
  Result<> save(machine::CpuState& state) override;
  Result<> reload(const machine::CpuState& state) override;
  void inject_nmi() override;

  Result<> set_debug(const machine::DebugRequest& request) override;
  std::optional<memory::Gpa> translate(u64 virtual_address) override;
  u64 instructions() const override { return core_.instructions; }
  std::vector<machine::Counter> counters() const override;

  Cpu& cpu() { return *cpu_; }  ///< for tests

 private:
  std::shared_ptr<Shared> shared_;
  Room room_;
  Cpu* const cpu_;
  Cpu::Core core_;
};

}  // namespace skerry::soft
