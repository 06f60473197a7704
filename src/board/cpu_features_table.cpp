// Feature bits of CPUID by name: SDM 2A table 3-8 and following, AMD APM 3 appendix E, Linux
// Documentation/virt/kvm/x86/cpuid.rst. A feature whose state CpuState does not hold (MPX, PKU,
// CET, AMX, LBR, PMU) is not listed, so no guest gets it.
#include <algorithm>

#include "board/cpu_model.hpp"

namespace skerry::board {

namespace {

using enum CpuidRegister;

constexpr CpuFeature kFeatures[] = {
    // clang-format off
    {"fpu",             1, 0, edx, 0, ""},
    {"vme",             1, 0, edx, 1, ""},
    {"de",              1, 0, edx, 2, ""},
    {"pse",             1, 0, edx, 3, ""},
    {"tsc",             1, 0, edx, 4, ""},
    {"msr",             1, 0, edx, 5, ""},
    {"pae",             1, 0, edx, 6, ""},
    {"mce",             1, 0, edx, 7, ""},
    {"cx8",             1, 0, edx, 8, ""},
    {"apic",            1, 0, edx, 9, ""},
    {"sep",             1, 0, edx, 11, ""},
    {"mtrr",            1, 0, edx, 12, ""},
    {"pge",             1, 0, edx, 13, ""},
    {"mca",             1, 0, edx, 14, ""},
    {"cmov",            1, 0, edx, 15, ""},
    {"pat",             1, 0, edx, 16, ""},
    {"pse36",           1, 0, edx, 17, ""},
    {"clflush",         1, 0, edx, 19, ""},
    {"mmx",             1, 0, edx, 23, ""},
    {"fxsr",            1, 0, edx, 24, ""},
    {"sse",             1, 0, edx, 25, "fxsr"},
    {"sse2",            1, 0, edx, 26, "sse"},
    {"ss",              1, 0, edx, 27, ""},
    {"sse3",            1, 0, ecx, 0, "sse2"},
    {"pclmulqdq",       1, 0, ecx, 1, "sse2"},
    {"ssse3",           1, 0, ecx, 9, "sse3"},
    {"fma",             1, 0, ecx, 12, "avx"},
    {"cx16",            1, 0, ecx, 13, ""},
    {"pcid",            1, 0, ecx, 17, ""},
    {"sse4.1",          1, 0, ecx, 19, "ssse3"},
    {"sse4.2",          1, 0, ecx, 20, "sse4.1"},
    {"x2apic",          1, 0, ecx, 21, "apic"},
    {"movbe",           1, 0, ecx, 22, ""},
    {"popcnt",          1, 0, ecx, 23, ""},
    {"tsc-deadline",    1, 0, ecx, 24, "apic"},
    {"aes",             1, 0, ecx, 25, "sse2"},
    {"xsave",           1, 0, ecx, 26, "fxsr"},
    {"avx",             1, 0, ecx, 28, "xsave"},
    {"f16c",            1, 0, ecx, 29, "avx"},
    {"rdrand",          1, 0, ecx, 30, ""},
    {"hypervisor",      1, 0, ecx, 31, ""},
    {"arat",            6, 0, eax, 2, ""},
    {"fsgsbase",        7, 0, ebx, 0, ""},
    {"tsc-adjust",      7, 0, ebx, 1, ""},
    {"bmi1",            7, 0, ebx, 3, ""},
    {"avx2",            7, 0, ebx, 5, "avx"},
    {"smep",            7, 0, ebx, 7, ""},
    {"bmi2",            7, 0, ebx, 8, ""},
    {"erms",            7, 0, ebx, 9, ""},
    {"invpcid",         7, 0, ebx, 10, ""},
    {"avx512f",         7, 0, ebx, 16, "avx2"},
    {"avx512dq",        7, 0, ebx, 17, "avx512f"},
    {"rdseed",          7, 0, ebx, 18, ""},
    {"adx",             7, 0, ebx, 19, ""},
    {"smap",            7, 0, ebx, 20, ""},
    {"avx512ifma",      7, 0, ebx, 21, "avx512f"},
    {"clflushopt",      7, 0, ebx, 23, "clflush"},
    {"clwb",            7, 0, ebx, 24, "clflush"},
    {"avx512cd",        7, 0, ebx, 28, "avx512f"},
    {"sha-ni",          7, 0, ebx, 29, "sse2"},
    {"avx512bw",        7, 0, ebx, 30, "avx512f"},
    {"avx512vl",        7, 0, ebx, 31, "avx512f"},
    {"avx512vbmi",      7, 0, ecx, 1, "avx512bw"},
    {"umip",            7, 0, ecx, 2, ""},
    {"avx512vbmi2",     7, 0, ecx, 6, "avx512bw"},
    {"gfni",            7, 0, ecx, 8, "sse2"},
    {"vaes",            7, 0, ecx, 9, "avx"},
    {"vpclmulqdq",      7, 0, ecx, 10, "avx"},
    {"avx512vnni",      7, 0, ecx, 11, "avx512f"},
    {"avx512bitalg",    7, 0, ecx, 12, "avx512bw"},
    {"avx512vpopcntdq", 7, 0, ecx, 14, "avx512f"},
    {"la57",            7, 0, ecx, 16, ""},
    {"rdpid",           7, 0, ecx, 22, ""},
    {"movdiri",         7, 0, ecx, 27, ""},
    {"movdir64b",       7, 0, ecx, 28, ""},
    {"fsrm",            7, 0, edx, 4, ""},
    {"avx512vp2intersect", 7, 0, edx, 8, "avx512f"},
    {"md-clear",        7, 0, edx, 10, ""},
    {"serialize",       7, 0, edx, 14, ""},
    {"avx512fp16",      7, 0, edx, 23, "avx512bw"},
    {"spec-ctrl",       7, 0, edx, 26, ""},
    {"stibp",           7, 0, edx, 27, ""},
    {"arch-capabilities", 7, 0, edx, 29, ""},
    {"ssbd",            7, 0, edx, 31, ""},
    {"avx-vnni",        7, 1, eax, 4, "avx2"},
    {"avx512bf16",      7, 1, eax, 5, "avx512bw"},
    {"fzrm",            7, 1, eax, 10, ""},
    {"bhi-ctrl",        7, 2, edx, 4, "spec-ctrl"},
    {"fsrs",            7, 1, eax, 11, ""},
    {"fsrc",            7, 1, eax, 12, ""},
    {"xsaveopt",        0xd, 1, eax, 0, "xsave"},
    {"xsavec",          0xd, 1, eax, 1, "xsave"},
    {"xgetbv1",         0xd, 1, eax, 2, "xsave"},
    {"xsaves",          0xd, 1, eax, 3, "xsavec"},
    {"kvm-nopiodelay",  0x40000001, 0, eax, 1, "hypervisor"},
    {"kvmclock",        0x40000001, 0, eax, 3, "hypervisor"},
    {"kvm-steal-time",  0x40000001, 0, eax, 5, "hypervisor"},
    {"kvm-pv-eoi",      0x40000001, 0, eax, 6, "hypervisor"},
    {"kvm-pv-unhalt",   0x40000001, 0, eax, 7, "hypervisor"},
    {"kvm-pv-tlb-flush", 0x40000001, 0, eax, 9, "kvm-steal-time"},
    {"kvm-pv-ipi",      0x40000001, 0, eax, 11, "hypervisor"},
    {"kvm-pv-sched-yield", 0x40000001, 0, eax, 13, "kvm-steal-time"},
    {"kvmclock-stable", 0x40000001, 0, eax, 24, "kvmclock"},
    {"lahf-lm",         0x80000001, 0, ecx, 0, ""},
    {"cr8legacy",       0x80000001, 0, ecx, 4, ""},
    {"lzcnt",           0x80000001, 0, ecx, 5, ""},
    {"sse4a",           0x80000001, 0, ecx, 6, "sse3"},
    {"misalignsse",     0x80000001, 0, ecx, 7, "sse"},
    {"3dnowprefetch",   0x80000001, 0, ecx, 8, ""},
    {"syscall",         0x80000001, 0, edx, 11, ""},
    {"nx",              0x80000001, 0, edx, 20, ""},
    {"mmxext",          0x80000001, 0, edx, 22, "mmx"},
    {"fxsr-opt",        0x80000001, 0, edx, 25, "fxsr"},
    {"pdpe1gb",         0x80000001, 0, edx, 26, ""},
    {"rdtscp",          0x80000001, 0, edx, 27, ""},
    {"lm",              0x80000001, 0, edx, 29, "pae"},
    {"invtsc",          0x80000007, 0, edx, 8, "tsc"},
    {"clzero",          0x80000008, 0, ebx, 0, ""},
    {"xsaveerptr",      0x80000008, 0, ebx, 2, "xsave"},
    {"wbnoinvd",        0x80000008, 0, ebx, 9, ""},
    {"amd-ibpb",        0x80000008, 0, ebx, 12, ""},
    {"amd-ibrs",        0x80000008, 0, ebx, 14, ""},
    {"amd-stibp",       0x80000008, 0, ebx, 15, ""},
    {"amd-ssb-no",      0x80000008, 0, ebx, 26, ""},
    {"btc-no",          0x80000008, 0, ebx, 29, ""},
    {"lfence-rdtsc",    0x80000021, 0, eax, 2, ""},
    {"null-sel-clr-base", 0x80000021, 0, eax, 6, ""},
    {"auto-ibrs",       0x80000021, 0, eax, 8, "amd-ibrs"},
    {"srso-no",         0x80000021, 0, eax, 29, ""},
    {"tsa-sq-no",       0x80000021, 0, ecx, 1, ""},
    {"tsa-l1-no",       0x80000021, 0, ecx, 2, ""},
    // clang-format on
};

}  // namespace

std::span<const CpuFeature> cpu_features() {
  return kFeatures;
}

const CpuFeature* find_cpu_feature(std::string_view name) {
  // Linux's and QEMU's spellings differ in these.
  std::string plain(name);
  std::replace(plain.begin(), plain.end(), '_', '-');
  struct Alias {
    std::string_view alias, name;
  };
  static constexpr Alias kAliases[] = {
      {"pni", "sse3"},      {"abm", "lzcnt"},      {"sse4-1", "sse4.1"},
      {"sse4-2", "sse4.2"}, {"ibrs", "spec-ctrl"}, {"tsc-deadline-timer", "tsc-deadline"},
  };
  for (const Alias& a : kAliases)
    if (plain == a.alias) plain = a.name;
  for (const CpuFeature& f : kFeatures)
    if (f.name == plain) return &f;
  return nullptr;
}

}  // namespace skerry::board
