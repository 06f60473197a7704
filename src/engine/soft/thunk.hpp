// Everything that computes on x87, MMX, SSE, AVX, AVX-512 or opmask state, and the instructions
// that save and restore that state.
//
// Most of these instructions run as *host thunks* (thunk_code.hpp): the same instruction, executed
// by the host CPU on the guest's registers, so results and exception flags are exact by
// construction. What a thunk cannot do is written out in C++: masked and gathered memory accesses
// (vector_masked.cpp), the x87 environment (x87.cpp), the XSAVE family (xsave.cpp); what busybox
// and libc do all day has direct handlers (vector_fast.cpp).
//
// Invariant while a vCPU runs: every component of s.xsave holds its full contents, also those that
// are in their initial state; XSTATE_BV in it means nothing. vector_state_loaded() establishes
// that, vector_state_saving() leaves it.
#pragma once

#include "engine/soft/cpu.hpp"

namespace skerry::soft {

/// The handler of an instruction of class x87, mmx, sse, avx, avx512 or mask, and of fxsave,
/// fxrstor, xsave*, xrstor*, xgetbv, xsetbv, wait. Null: not one of these.
Handler select_vector(const isa::Insn& insn);

/// What this engine can execute on this host, as CPUID bits: the engine intersects what the guest
/// sees with it (only the bits that belong to vector state; everything else is all ones).
struct VectorFeatures {
  u32 leaf1_ecx, leaf1_edx;
  u32 leaf7_ebx, leaf7_ecx, leaf7_edx;  ///< subleaf 0
  u32 leaf7_1_eax, leaf7_1_edx;         ///< subleaf 1
  u32 ext1_ecx, ext1_edx;               ///< leaf 0x8000'0001
  u32 leaf_d1_eax;                      ///< XSAVEOPT, XSAVEC, XGETBV(1), XSAVES: all ours
  u64 xcr0;                             ///< components that XSETBV may enable
};
const VectorFeatures& supported_vector_features();

/// CPUID leaf 0xd for a guest: our fixed layout (the standard one), whatever the host's is.
/// Subleaf 0 and 1 depend on the vCPU's XCR0 and XSS: recomputed by the CPUID instruction.
machine::CpuidLeaf xsave_cpuid(u32 subleaf, u64 supported_xcr0, u64 xcr0, u64 xss);

/// After Cpu::s was loaded: brings s.xsave into the running form. Tolerates any contents.
void vector_state_loaded(machine::CpuState& s);
/// Before Cpu::s is handed out: sets XSTATE_BV to the components that are not in initial state.
void vector_state_saving(machine::CpuState& s);

}  // namespace skerry::soft
