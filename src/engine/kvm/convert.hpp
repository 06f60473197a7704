// KVM's register structures to CpuState and back. Pure functions.
#pragma once

#include <linux/kvm.h>
#include <span>

#include "engine/kvm/api.hpp"
#include "machine/cpu_state.hpp"

namespace skerry::kvm {

kvm_regs to_kvm_regs(const machine::CpuState& s);
void from_kvm(const kvm_regs& regs, machine::CpuState& s);

kvm_sregs to_kvm_sregs(const machine::CpuState& s);
void from_kvm(const kvm_sregs& sregs, machine::CpuState& s);

kvm_vcpu_events to_kvm_events(const machine::CpuState& s);
void from_kvm(const kvm_vcpu_events& events, machine::CpuState& s);

kvm_debugregs to_kvm_debugregs(const machine::CpuState& s);
void from_kvm(const kvm_debugregs& regs, machine::CpuState& s);

/// Our XSAVE area has Intel's standard offsets; the host's may differ (AMD's AVX-512 parts do).
void xsave_to_host(const machine::CpuState& s, std::span<u8> host);
void xsave_from_host(std::span<const u8> host, machine::CpuState& s);

/// Every MSR in CpuState. In the order in which they must be written.
std::vector<MsrValue> msrs_of(const machine::CpuState& s);
/// Where the MSR lives in `s`, or nullptr.
u64* msr_field(u32 index, machine::CpuState& s);

kvm_lapic_state to_kvm_lapic(const machine::LapicState& s, bool x2apic, Nanos now);
machine::LapicState from_kvm_lapic(const kvm_lapic_state& regs, bool x2apic, Nanos now);

u32 to_kvm_mp_state(machine::RunState run);
machine::RunState from_kvm_mp_state(u32 mp_state);

}  // namespace skerry::kvm
