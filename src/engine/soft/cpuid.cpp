// CPUID as the guest sees it: the configured table plus the bits that follow registers (SDM 2A
// CPUID).
#include "engine/soft/system.hpp"
#include "engine/soft/thunk.hpp"

namespace skerry::soft::system {

bool guest_has(const Cpu& cpu, u32 leaf, u32 subleaf, isa::CpuidReg reg, unsigned n) {
  // A leaf beyond the maximum answers with another one's data, which is no feature bit.
  const machine::CpuidTable& table = cpu.core->shared.setup.cpuid;
  for (const machine::CpuidLeaf& l : table) {
    if (l.leaf != leaf || (l.indexed && l.subleaf != subleaf)) continue;
    const u32 values[4] = {l.eax, l.ebx, l.ecx, l.edx};
    return bit(values[static_cast<unsigned>(reg)], n);
  }
  return false;
}

bool kvm_has(const Cpu& cpu, unsigned n) {
  machine::CpuidLeaf l = machine::cpuid_lookup(cpu.core->shared.setup.cpuid, 0x40000000, 0);
  return l.ebx == 0x4b4d564b && guest_has(cpu, 0x40000001, 0, isa::CpuidReg::eax, n);
}

void cpuid(Cpu& cpu, u32 leaf, u32 subleaf, machine::CpuidLeaf& out) {
  const Cpu::Core& core = *cpu.core;
  const machine::CpuidTable& table = core.shared.setup.cpuid;
  out = machine::cpuid_lookup(table, leaf, subleaf);
  switch (leaf) {
    case 1:
      out.ebx = (out.ebx & 0x00ff'ffff) | (core.index << 24);
      out.ecx = (out.ecx & ~(1u << 27)) | (cpu.s.cr4 & kCr4Osxsave ? 1u << 27 : 0);
      if (core.lapic && !(core.lapic->apic_base() & 0x800)) out.edx &= ~(1u << 9);
      break;
    case 0xb:
    case 0x1f: out.edx = core.index; break;
    case 0xd: {
      machine::CpuidLeaf features = machine::cpuid_lookup(table, 0xd, 0);
      u64 supported = features.eax | (u64{features.edx} << 32);
      if (!supported) break;
      machine::CpuidLeaf area = xsave_cpuid(subleaf, supported, cpu.s.xcr0, cpu.s.xss);
      if (subleaf == 1) area.eax &= out.eax;
      out = area;
      break;
    }
    default: break;
  }
}

}  // namespace skerry::soft::system
