// KVM's paravirtual interfaces of one software vCPU but for the clock (kvmclock.cpp): EOI through a
// flag in memory, and the record of steal time with its "preempted" byte, by which other vCPUs
// leave a TLB flush to be done later.
//
// A vCPU says that it is preempted where it gives its host CPU away of its own accord while it
// spins. Not while it is halted: Linux would take an idle CPU for a busy one
// (available_idle_cpu()), which costs more than the interrupts that it saves; KVM does the same.
// What the host's scheduler takes away is not known here, so the stolen time stays 0.
//
// Belongs to the vCPU's thread; the preempted byte is shared with the guest's other vCPUs.
#pragma once

#include "base/types.hpp"
#include "machine/irq.hpp"

namespace skerry::soft {

struct Cpu;

class Pv final : public machine::EoiFlag {
 public:
  explicit Pv(Cpu& cpu) : cpu_(cpu) {}
  ~Pv() override;

  // The MSRs; false: #GP.
  bool write_steal_time(u64 value);
  bool write_eoi(u64 value);

  /// The vCPU begins to run: its state may be a new one.
  void resume();
  /// Lets other threads of the host have the CPU. True if the guest's translations were flushed
  /// meanwhile: what follows in the block must be looked up again.
  bool yield();

  bool raise() override;
  bool raised() override;
  bool lower() override;

 private:
  u8* preempted() const;  ///< in guest memory; null: none
  bool back();            ///< not preempted any more; true: flushed

  Cpu& cpu_;
};

}  // namespace skerry::soft
