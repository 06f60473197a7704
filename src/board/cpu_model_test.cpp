// CPU models: what CPUID says for each, and what is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "board/cpu_model.hpp"

namespace skerry::board {
namespace {

using machine::cpuid_lookup;
using machine::CpuidLeaf;
using machine::CpuidTable;

constexpr u64 kTsc = 2'095'123'000;

void set(CpuidTable& table, const CpuFeature& f, bool on) {
  CpuidLeaf* leaf = nullptr;
  for (CpuidLeaf& l : table)
    if (l.leaf == f.leaf && l.subleaf == f.subleaf) leaf = &l;
  if (!leaf) {
    CpuidLeaf l;
    l.leaf = f.leaf, l.subleaf = f.subleaf, l.indexed = f.leaf == 7 || f.leaf == 0xd;
    leaf = &table.emplace_back(l);
  }
  u32* regs[] = {&leaf->eax, &leaf->ebx, &leaf->ecx, &leaf->edx};
  u32& reg = *regs[static_cast<int>(f.reg)];
  reg = on ? reg | 1u << f.bit : reg & ~(1u << f.bit);
}

/// An engine that can do everything, and bits that no model knows.
CpuidTable everything() {
  CpuidTable t;
  for (const CpuFeature& f : cpu_features()) set(t, f, true);
  CpuidLeaf zero;
  zero.leaf = 0, zero.eax = 0x1f;
  zero.ebx = 0x68747541, zero.edx = 0x69746e65, zero.ecx = 0x444d4163;  // AuthenticAMD
  t.push_back(zero);
  for (CpuidLeaf& l : t)
    if (l.leaf == 1) l.eax = 0x00a20f10, l.ecx |= 1u << 3;  // MONITOR: not in our list
  CpuidLeaf xsave;
  xsave.leaf = 0xd, xsave.indexed = true, xsave.eax = 0x2e7;
  t.push_back(xsave);
  for (CpuidLeaf& l : t)
    if (l.leaf == 0x80000008) l.eax = 0x3034;
  return t;
}
CpuidTable without(std::initializer_list<const char*> names) {
  CpuidTable t = everything();
  for (const char* name : names) set(t, *find_cpu_feature(name), false);
  return t;
}

Result<CpuidTable> build(const std::string& model, const CpuidTable& supported = everything(),
                         unsigned cpus = 1) {
  return build_cpuid({model, cpus, kTsc}, supported);
}
bool has(const CpuidTable& t, const char* name) {
  return has_feature(t, *find_cpu_feature(name));
}

TEST(CpuModel, LevelsGrow) {
  struct Expect {
    const char *model, *has, *lacks;
  };
  for (Expect e : {Expect{"x86-64-v1", "sse2", "sse4.2"}, Expect{"x86-64-v2", "sse4.2", "avx"},
                   Expect{"x86-64-v3", "avx2", "avx512f"}, Expect{"x86-64-v4", "avx512vl", "gfni"},
                   Expect{"host", "gfni", nullptr}}) {
    auto t = build(e.model);
    ASSERT_TRUE(t) << e.model << t.error().message();
    EXPECT_TRUE(has(*t, e.has)) << e.model;
    if (e.lacks) {
      EXPECT_FALSE(has(*t, e.lacks)) << e.model;
    }
    EXPECT_TRUE(has(*t, "hypervisor"));
    EXPECT_FALSE(cpuid_lookup(*t, 1, 0).ecx & 1u << 3) << "MONITOR is nobody's";
  }
}

TEST(CpuModel, NothingThatTheEngineLacksIsShown) {
  CpuidTable supported = without({"aes", "x2apic", "invtsc", "spec-ctrl", "rdrand"});
  for (const char* model : {"x86-64-v2", "x86-64-v4", "host"}) {
    CpuidTable t = build(model, supported).value();
    for (const CpuFeature& f : cpu_features()) {
      EXPECT_TRUE(!has_feature(t, f) || has_feature(supported, f) || f.name == "hypervisor")
          << model << ": " << f.name;
    }
  }
}

TEST(CpuModel, AModelThatIsTooMuchNamesWhatIsMissingAndTheNextBest) {
  auto t = build("x86-64-v3", without({"avx2", "fma"}));
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().what.find("avx2"), std::string::npos);
  EXPECT_NE(t.error().what.find("fma"), std::string::npos);
  EXPECT_NE(t.error().hint.find("x86-64-v2"), std::string::npos);

  // AVX without the XSAVE component is no AVX.
  CpuidTable no_ymm = everything();
  for (CpuidLeaf& l : no_ymm)
    if (l.leaf == 0xd && l.subleaf == 0) l.eax = 3;
  t = build("x86-64-v3", no_ymm);
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().what.find("avx"), std::string::npos);
  EXPECT_FALSE(has(build("host", no_ymm).value(), "avx2"));

  t = build("x86-64-v1", without({"sse2"}));
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().hint.find("host"), std::string::npos);
}

TEST(CpuModel, UnknownNamesGetTheNearest) {
  auto t = build("x86-64-v5");
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().message().find("x86-64-v4"), std::string::npos) << t.error().message();
  t = build("x86-64-v2,+avx3");
  ASSERT_FALSE(t);
  EXPECT_NE(t.error().message().find("avx2"), std::string::npos) << t.error().message();
}

TEST(CpuModel, ChangesFollowTheirDependencies) {
  CpuidTable t = build("x86-64-v4,-avx").value();
  for (const char* name : {"avx", "avx2", "fma", "avx512f", "avx512vl"}) EXPECT_FALSE(has(t, name));
  EXPECT_TRUE(has(t, "bmi2"));
  t = build("x86-64-v1,+avx2").value();
  for (const char* name : {"avx", "avx2", "xsave"}) EXPECT_TRUE(has(t, name)) << name;
  EXPECT_EQ(cpuid_lookup(t, 0xd, 0).eax, 7u);
  EXPECT_TRUE(has(build("x86-64-v2,+sha_ni").value(), "sha-ni"));
  auto refused = build("x86-64-v2,+sha-ni", without({"sha-ni"}));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("sha-ni"), std::string::npos);
}

TEST(CpuModel, XsaveAreaHoldsExactlyTheComponents) {
  struct Expect {
    const char* model;
    u32 mask, size;
  };
  for (Expect e : {Expect{"x86-64-v2", 3, 576}, Expect{"x86-64-v3", 7, 832},
                   Expect{"x86-64-v4", 0xe7, 2688}}) {
    CpuidTable t = build(e.model).value();
    CpuidLeaf l = cpuid_lookup(t, 0xd, 0);
    EXPECT_EQ(l.eax, e.mask);
    EXPECT_EQ(l.ecx, e.size);
    for (u32 n = 2; n < 32; ++n)
      EXPECT_EQ(cpuid_lookup(t, 0xd, n).eax != 0, bool(e.mask >> n & 1)) << n;
  }
}

TEST(CpuModel, XsaveOffsetsAreTheHosts) {
  CpuidTable supported = everything();
  CpuidLeaf opmask;  // as AMD's Zen 4 has it
  opmask.leaf = 0xd, opmask.subleaf = 5, opmask.indexed = true, opmask.eax = 64, opmask.ebx = 832;
  supported.push_back(opmask);
  EXPECT_EQ(cpuid_lookup(build("x86-64-v4", supported).value(), 0xd, 5).ebx, 832u);
}

TEST(CpuModel, Topology) {
  for (unsigned cpus : {1u, 2u, 3u, 8u, 255u}) {
    CpuidTable t = build("x86-64-v2", everything(), cpus).value();
    CpuidLeaf core = cpuid_lookup(t, 0xb, 1);
    EXPECT_EQ(core.ebx, cpus);
    EXPECT_GE(1u << core.eax, cpus) << "the package has room for every id";
    EXPECT_EQ(core.ecx, 0x201u);
    EXPECT_EQ(cpuid_lookup(t, 0xb, 0).ebx, 1u);
    EXPECT_EQ(cpuid_lookup(t, 0xb, 2).ecx, 2u);
    EXPECT_EQ(bool(cpuid_lookup(t, 1, 0).edx & 1u << 28), cpus > 1);
    for (u32 n = 0; n < 4; ++n) EXPECT_NE(cpuid_lookup(t, 4, n).eax & 31, 0u);
    EXPECT_EQ(cpuid_lookup(t, 4, 4).eax & 31, 0u) << "the list of caches ends";
  }
}

TEST(CpuModel, TscFrequencyCanBeReadWithoutCalibration) {
  for (u64 hz :
       {u64{1'000'000'000}, kTsc, u64{2'399'999'000}, u64{3'792'881'234}, u64{4'900'000'000}}) {
    CpuidTable t = build_cpuid({"x86-64-v2", 1, hz}, everything()).value();
    CpuidLeaf l = cpuid_lookup(t, 0x15, 0);
    if (hz > 4'294'000'000) {  // more than Linux's arithmetic holds
      EXPECT_LE(u64{l.ebx} * (kApicHz / 1000), 0xffffffffu);
    }
    ASSERT_NE(l.eax, 0u);
    EXPECT_EQ(l.ecx, kApicHz);
    // Linux: crystal kHz * EBX / EAX, in 32 bits.
    u32 khz = l.ecx / 1000 * l.ebx / l.eax;
    EXPECT_LT(std::abs(khz * 1e3 - double(hz)) / double(hz), 2e-6) << hz;
    EXPECT_EQ(cpuid_lookup(t, 0x40000010, 0).eax, hz / 1000);
    EXPECT_EQ(cpuid_lookup(t, 0x40000010, 0).ebx, 1'000'000u);
  }
  EXPECT_EQ(cpuid_lookup(build_cpuid({"x86-64-v2", 1, 0}, everything()).value(), 0x15, 0).eax, 0u);
}

TEST(CpuModel, HypercallsOfAnotherVendorAreNotOffered) {
  // The models are Intel's, everything()'s host is AMD's.
  auto offered = [](const char* model, bool any) {
    CpuidTable t = build_cpuid({model, 2, kTsc, any}, everything()).value();
    EXPECT_TRUE(has(t, "kvm-pv-eoi") && has(t, "kvm-pv-tlb-flush")) << "these need none";
    EXPECT_EQ(has(t, "kvm-pv-unhalt"), has(t, "kvm-pv-ipi"));
    EXPECT_EQ(has(t, "kvm-pv-unhalt"), has(t, "kvm-pv-sched-yield"));
    return has(t, "kvm-pv-unhalt");
  };
  EXPECT_TRUE(offered("x86-64-v2", true));
  EXPECT_FALSE(offered("x86-64-v2", false));
  EXPECT_TRUE(offered("host", false));
}

TEST(CpuModel, Identity) {
  CpuidTable t = build("x86-64-v2").value();
  CpuidLeaf zero = cpuid_lookup(t, 0, 0);
  EXPECT_EQ(zero.ebx, 0x756e6547u) << "GenuineIntel on any host";
  EXPECT_EQ(cpuid_lookup(t, 1, 0).eax >> 8 & 15, 6u);
  EXPECT_EQ(cpuid_lookup(t, 0x40000000, 0).ebx, 0x4b4d564bu);
  EXPECT_TRUE(cpuid_lookup(t, 0x40000001, 0).eax & 1u << 3);
  char brand[49] = {};
  for (u32 i = 0; i < 3; ++i) {
    CpuidLeaf l = cpuid_lookup(t, 0x80000002 + i, 0);
    u32 regs[4] = {l.eax, l.ebx, l.ecx, l.edx};
    std::memcpy(brand + 16 * i, regs, 16);
  }
  EXPECT_STREQ(brand, "Skerry vCPU");
  EXPECT_EQ(cpuid_lookup(t, 0x80000008, 0).eax, 0x302eu) << "46 bits at most";
  EXPECT_EQ(physical_bits(t), 46u);

  CpuidTable host = build("host").value();
  EXPECT_EQ(cpuid_lookup(host, 0, 0).ebx, 0x68747541u);
  EXPECT_EQ(cpuid_lookup(host, 1, 0).eax, 0x00a20f10u);
  EXPECT_EQ(cpuid_lookup(host, 0x80000000, 0).eax, 0x80000021u);
}

TEST(CpuModel, KernelsNeedNoWorkarounds) {
  CpuidTable t = build("x86-64-v2").value();
  u64 value = machine::arch_capabilities(t);
  EXPECT_EQ(value & 0x0d10e17b, 0x0d10e17bu);
  EXPECT_TRUE(value >> 62 & 1) << "ITS_NO";
  value = machine::arch_capabilities(build("x86-64-v2,-spec-ctrl").value());
  EXPECT_FALSE(value & 2) << "IBRS_ALL needs the register that turns IBRS on";
  EXPECT_EQ(machine::arch_capabilities(build("x86-64-v2,-arch-capabilities").value()), 0u);

  // BHI_NO does not keep Linux from clearing the branch history in software; BHI_DIS_S does.
  EXPECT_TRUE(cpuid_lookup(t, 7, 2).edx >> 4 & 1);
  EXPECT_EQ(cpuid_lookup(t, 7, 0).eax, 2u);
  EXPECT_FALSE(has(build("x86-64-v2,-spec-ctrl").value(), "bhi-ctrl"));
  EXPECT_EQ(cpuid_lookup(build("x86-64-v2,-bhi-ctrl").value(), 7, 0).eax, 0u);
  // AMD's way, for the host model on such a host.
  CpuidTable host = build("host").value();
  EXPECT_EQ(cpuid_lookup(host, 0x80000021, 0).ecx, 6u);
  EXPECT_EQ(cpuid_lookup(host, 0x80000021, 0).eax >> 29 & 1, 1u);
  EXPECT_TRUE(has(host, "auto-ibrs") && has(host, "btc-no") && has(host, "amd-ssb-no"));
  EXPECT_FALSE(has(t, "auto-ibrs"));
}

TEST(CpuModel, FeatureNamesAreUniqueAndTheirGroundsExist) {
  for (const CpuFeature& a : cpu_features()) {
    EXPECT_EQ(find_cpu_feature(a.name), &a) << a.name;
    if (!a.needs.empty()) {
      EXPECT_TRUE(find_cpu_feature(a.needs)) << a.name;
    }
    for (const CpuFeature& b : cpu_features()) {
      EXPECT_TRUE(&a == &b || a.leaf != b.leaf || a.subleaf != b.subleaf || a.reg != b.reg ||
                  a.bit != b.bit)
          << a.name << " and " << b.name;
    }
  }
}

}  // namespace
}  // namespace skerry::board
