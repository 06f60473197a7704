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

u64 arch_capabilities(const CpuidTable& table) {
  constexpr u32 kSpecCtrl = 1u << 26, kArchCapabilities = 1u << 29;
  // By number of the bit.
  enum : unsigned {
    rdcl_no = 0,
    ibrs_all = 1,
    skip_l1dfl_vmentry = 3,
    ssb_no = 4,
    mds_no = 5,
    if_pschange_mc_no = 6,
    taa_no = 8,
    sbdr_ssdp_no = 13,
    fbsdp_no = 14,
    psdp_no = 15,
    bhi_no = 20,
    pbrsb_no = 24,
    gds_no = 26,
    rfds_no = 27,
    its_no = 62,
  };
  u32 edx = 0;
  for (const CpuidLeaf& l : table)
    if (l.leaf == 7 && l.subleaf == 0) edx = l.edx;
  if (!(edx & kArchCapabilities)) return 0;
  u64 value = edx & kSpecCtrl ? u64{1} << ibrs_all : 0;
  for (unsigned n : {rdcl_no, skip_l1dfl_vmentry, ssb_no, mds_no, if_pschange_mc_no, taa_no,
                     sbdr_ssdp_no, fbsdp_no, psdp_no, bhi_no, pbrsb_no, gds_no, rfds_no, its_no})
    value |= u64{1} << n;
  return value;
}

}  // namespace skerry::machine
