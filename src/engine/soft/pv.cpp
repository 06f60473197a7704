#include "engine/soft/pv.hpp"

#include <sched.h>

#include "engine/soft/core.hpp"

namespace skerry::soft {
namespace {

// struct kvm_steal_time, Documentation/virt/kvm/x86/msr.rst (MSR_KVM_STEAL_TIME).
constexpr u64 kPreemptedOffset = 16;
constexpr u8 kPreempted = 1, kFlushTlb = 2;
constexpr u64 kEnabled = 1;

}  // namespace

Pv::~Pv() {
  if (cpu_.core->lapic) cpu_.core->lapic->set_eoi_flag(nullptr);
}

bool Pv::write_steal_time(u64 value) {
  if (value & 0x3e) return false;  // reserved: records are 64-byte aligned
  cpu_.s.kvm_steal_time = value;
  back();
  return true;
}

bool Pv::write_eoi(u64 value) {
  if (value & 2) return false;                                    // words are 4-byte aligned
  if (cpu_.core->lapic) cpu_.core->lapic->set_eoi_flag(nullptr);  // settles the old word
  cpu_.s.kvm_pv_eoi = value;
  resume();
  return true;
}

void Pv::resume() {
  if (machine::LocalApic* lapic = cpu_.core->lapic)
    lapic->set_eoi_flag(cpu_.s.kvm_pv_eoi & kEnabled ? this : nullptr);
  back();
}

u8* Pv::preempted() const {
  if (!(cpu_.s.kvm_steal_time & kEnabled)) return nullptr;
  const u64 at = (cpu_.s.kvm_steal_time & ~kEnabled) + kPreemptedOffset;
  const Cpu::Core::Page page = cpu_.core->page(at);
  return page.host && page.writable ? page.host + (at & 0xfff) : nullptr;
}

bool Pv::back() {
  u8* byte = preempted();
  if (!byte || !std::atomic_ref(*byte).load(std::memory_order_relaxed)) return false;
  const u8 was = std::atomic_ref(*byte).exchange(0);
  cpu_.core->memory.mark_dirty((cpu_.s.kvm_steal_time & ~kEnabled) + kPreemptedOffset, 1);
  if (!(was & kFlushTlb)) return false;
  cpu_.tlb.flush_all();
  return true;
}

bool Pv::yield() {
  u8* byte = preempted();
  // From here until back() no translation is used, so a flush may come late.
  if (byte) std::atomic_ref(*byte).store(kPreempted);
  sched_yield();
  return byte && back();
}

bool Pv::raise() {
  const u64 at = cpu_.s.kvm_pv_eoi & ~kEnabled;
  auto word = cpu_.core->memory.read_value<u32>(at);
  return word && cpu_.core->memory.write_value(at, *word | 1);
}

bool Pv::raised() {
  auto word = cpu_.core->memory.read_value<u32>(cpu_.s.kvm_pv_eoi & ~kEnabled);
  return word && (*word & 1);
}

bool Pv::lower() {
  const u64 at = cpu_.s.kvm_pv_eoi & ~kEnabled;
  auto word = cpu_.core->memory.read_value<u32>(at);
  if (!word || !(*word & 1)) return false;
  return cpu_.core->memory.write_value(at, *word & ~u32{1});
}

}  // namespace skerry::soft
