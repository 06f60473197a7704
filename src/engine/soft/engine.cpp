#include "engine/soft/engine.hpp"

#include <cpuid.h>

#include <algorithm>

#include "engine/soft/thunk.hpp"
#include "engine/soft/vcpu.hpp"

namespace skerry::soft {
namespace {

using machine::CpuidLeaf;
using machine::CpuidTable;

constexpr u32 bits_of(std::initializer_list<unsigned> list) {
  u32 v = 0;
  for (unsigned b : list) v |= 1u << b;
  return v;
}

CpuidLeaf host_leaf(u32 leaf, u32 subleaf = 0) {
  CpuidLeaf l{leaf, subleaf};
  if (__get_cpuid_max(leaf & 0x8000'0000, nullptr) >= leaf)
    __cpuid_count(leaf, subleaf, l.eax, l.ebx, l.ecx, l.edx);
  return l;
}

CpuidTable supported() {
  const VectorFeatures& vector = supported_vector_features();
  CpuidTable table;
  auto add = [&](u32 leaf, u32 subleaf, bool indexed, u32 a, u32 b, u32 c, u32 d) {
    table.push_back({leaf, subleaf, indexed, a, b, c, d});
  };
  CpuidLeaf zero = host_leaf(0), one = host_leaf(1);
  add(0, 0, false, 0x16, zero.ebx, zero.ecx, zero.edx);
  // SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE AVX
  // F16C RDRAND hypervisor
  u32 ecx1 = bits_of({0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31});
  // FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
  // SS
  u32 edx1 =
      bits_of({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27});
  add(1, 0, false, one.eax, 0, ecx1 & vector.leaf1_ecx, edx1 & vector.leaf1_edx);
  add(6, 0, false, 1u << 2, 0, 0, 0);  // ARAT
  // FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID AVX512F DQ RDSEED ADX SMAP IFMA CLFLUSHOPT
  // CLWB AVX512CD SHA AVX512BW VL
  u32 ebx7 = bits_of({0, 1, 3, 5, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31});
  // VBMI UMIP VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ RDPID MOVDIRI MOVDIR64B
  u32 ecx7 = bits_of({1, 2, 6, 8, 9, 10, 11, 12, 14, 22, 27, 28});
  // FSRM VP2INTERSECT SERIALIZE SPEC_CTRL STIBP ARCH_CAPABILITIES SSBD
  u32 edx7 = bits_of({4, 8, 14, 26, 27, 29, 31});
  add(7, 0, true, 2, ebx7 & vector.leaf7_ebx, ecx7 & vector.leaf7_ecx, edx7 & vector.leaf7_edx);
  add(7, 1, true, bits_of({4, 5}) & vector.leaf7_1_eax, 0, 0, 0);
  // BHI_CTRL: Linux sets BHI_DIS_S once, else it clears the branch history at every system call,
  // whatever ARCH_CAPABILITIES.BHI_NO says.
  add(7, 2, true, 0, 0, 0, bits_of({4}));
  const u64 xcr0 = vector.xcr0;
  for (u32 n = 0; n < 63; ++n) {
    if (n >= 2 && !bit(xcr0, n)) continue;
    CpuidLeaf l = xsave_cpuid(n, xcr0, xcr0, 0);
    if (n == 1) l.eax &= vector.leaf_d1_eax;
    add(0xd, n, true, l.eax, l.ebx, l.ecx, l.edx);
  }
  // KVM's paravirtual leaves: clock (old and new MSRs), no I/O delay, steal time, EOI, unhalt, TLB
  // flush, IPIs, yield, stable clock. Not its polling control: nothing here polls.
  add(0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
  add(0x40000001, 0, false, bits_of({0, 1, 3, 5, 6, 7, 9, 11, 13, 24}), 0, 0, 0);
  add(0x80000000, 0, false, 0x80000021, zero.ebx, zero.ecx, zero.edx);
  // LAHF LZCNT SSE4A PREFETCHW; SYSCALL NX PDPE1GB RDTSCP LM
  add(0x80000001, 0, false, one.eax, 0, bits_of({0, 5, 6, 8}) & vector.ext1_ecx,
      bits_of({11, 20, 26, 27, 29}) & vector.ext1_edx);
  add(0x80000007, 0, false, 0, 0, 0, 1u << 8);  // invariant TSC
  u32 physical = std::clamp<u32>(host_leaf(0x80000008).eax & 0xff, 36, 48);
  // CLZERO WBNOINVD. AMD's way to say what ARCH_CAPABILITIES says: IBPB IBRS STIBP SSB_NO BTC_NO;
  // LFENCE orders RDTSC, AutoIBRS, SRSO_NO; TSA_SQ_NO, TSA_L1_NO.
  const bool amd = zero.ebx == 0x68747541;
  add(0x80000008, 0, false, physical | 48u << 8,
      bits_of({0, 9}) | (amd ? bits_of({12, 14, 15, 26, 29}) : 0), 0, 0);
  add(0x80000021, 0, false, bits_of({2}) | (amd ? bits_of({8, 29}) : 0), 0,
      amd ? bits_of({1, 2}) : 0, 0);
  return table;
}

isa::FeatureSet features_of(const CpuidTable& table) {
  isa::FeatureSet set;
  for (unsigned i = 1; i < isa::kFeatures; ++i) {
    auto feature = static_cast<isa::Feature>(i);
    const isa::FeatureInfo& info = isa::feature_info(feature);
    for (const CpuidLeaf& l : table) {
      if (l.leaf != info.leaf || (l.indexed && l.subleaf != info.subleaf)) continue;
      const u32 values[4] = {l.eax, l.ebx, l.ecx, l.edx};
      if (bit(values[static_cast<unsigned>(info.reg)], info.bit)) set.add(feature);
      break;
    }
  }
  return set;
}

class SoftEngine final : public machine::Engine {
 public:
  ~SoftEngine() override = default;
  std::string_view name() const override { return "soft"; }
  CpuidTable supported_cpuid() const override { return supported(); }

  Result<> configure(const machine::EngineSetup& setup) override {
    if (!setup.memory) return fail("the software engine was given no memory");
    shared_ = std::make_shared<Shared>();
    shared_->setup = setup;
    if (!shared_->setup.tsc_hz) shared_->setup.tsc_hz = host_tsc_hz();
    shared_->features = features_of(setup.cpuid);
    u32 physical = 36;
    for (const CpuidLeaf& l : setup.cpuid)
      if (l.leaf == 0x80000008) physical = std::clamp<u32>(l.eax & 0xff, 32, 52);
    shared_->physical_mask = (u64{1} << physical) - 1;
    setup.memory->dirty().taken = [shared = std::weak_ptr(shared_)] {
      if (auto s = shared.lock()) s->flush_writes(nullptr, 0);
    };
    setup.memory->dirty().code_changed = [shared = std::weak_ptr(shared_)](u64 page) {
      if (auto s = shared.lock()) s->code_written(page);
    };
    return {};
  }

  bool owns_lapic() const override { return false; }

  Result<std::unique_ptr<machine::Vcpu>> create_vcpu(unsigned index,
                                                     machine::LocalApic* lapic) override {
    if (!shared_) return fail("the software engine has not been configured");
    shared_->slots = shared_->setup.memory->slots();
    return std::make_unique<SoftVcpu>(shared_, index, lapic);
  }

  bool add_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    std::lock_guard lock(shared_->doorbell_mutex);
    shared_->doorbells.push_back({at, size, eventfd});
    shared_->any_doorbell = true;
    return true;
  }
  void remove_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    std::lock_guard lock(shared_->doorbell_mutex);
    std::erase_if(shared_->doorbells, [&](const Shared::Doorbell& d) {
      return d.at == at && d.size == size && d.eventfd == eventfd;
    });
    shared_->any_doorbell = !shared_->doorbells.empty();
  }

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace

Result<std::unique_ptr<machine::Engine>> create_engine() {
  return std::make_unique<SoftEngine>();
}

}  // namespace skerry::soft
