#include "machine/cpu_state.hpp"

namespace skerry::machine {

CpuidLeaf cpuid_lookup(const CpuidTable& table, u32 leaf, u32 subleaf) {
  auto find = [&](u32 wanted) -> const CpuidLeaf* {
    for (const CpuidLeaf& l : table)
      if (l.leaf == wanted && (!l.indexed || l.subleaf == subleaf)) return &l;
    return nullptr;
  };
  if (const CpuidLeaf* l = find(leaf)) return *l;
  // Hypervisor leaves (0x4000'0000 up) and extended leaves have their own maxima; a hole in them is
  // zero.
  if (leaf < 0x4000'0000) {
    const CpuidLeaf* zero = find(0);
    if (zero && leaf > zero->eax)
      if (const CpuidLeaf* top = find(zero->eax)) return *top;
  }
  return {leaf, subleaf, true, 0, 0, 0, 0};
}

}  // namespace skerry::machine
