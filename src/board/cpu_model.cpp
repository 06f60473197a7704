#include "board/cpu_model.hpp"

#include <algorithm>
#include <set>

#include "base/bits.hpp"
#include "schema/machine_spec.hpp"
#include "schema/text.hpp"

namespace skerry::board {

namespace {

using machine::CpuidLeaf;
using machine::CpuidTable;
using Names = std::set<std::string_view>;

constexpr std::string_view kModels[] = {"x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4", "host"};
constexpr size_t kHost = std::size(kModels) - 1;

// The levels of the x86-64 psABI (version 1.0, table 3.1); each includes the ones before.
constexpr std::string_view kV1[] = {"fpu", "cx8",  "cmov", "mmx", "fxsr",
                                    "sse", "sse2", "pae",  "lm",  "syscall"};
constexpr std::string_view kV2[] = {"cx16",  "lahf-lm", "popcnt", "sse3",
                                    "ssse3", "sse4.1",  "sse4.2"};
constexpr std::string_view kV3[] = {"xsave", "avx", "avx2",  "bmi1", "bmi2",
                                    "f16c",  "fma", "lzcnt", "movbe"};
constexpr std::string_view kV4[] = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"};
constexpr std::span<const std::string_view> kLevels[] = {kV1, kV2, kV3, kV4};

// What every named model has beside its level where the engine can do it: what operating systems
// use for themselves, and instructions that every machine of the last ten years has.
constexpr std::string_view kExtras[] = {"vme",
                                        "de",
                                        "pse",
                                        "tsc",
                                        "msr",
                                        "mce",
                                        "apic",
                                        "sep",
                                        "mtrr",
                                        "pge",
                                        "mca",
                                        "pat",
                                        "pse36",
                                        "clflush",
                                        "ss",
                                        "pcid",
                                        "x2apic",
                                        "tsc-deadline",
                                        "rdrand",
                                        "hypervisor",
                                        "arat",
                                        "fsgsbase",
                                        "tsc-adjust",
                                        "smep",
                                        "erms",
                                        "invpcid",
                                        "rdseed",
                                        "smap",
                                        "clflushopt",
                                        "umip",
                                        "rdpid",
                                        "fsrm",
                                        "spec-ctrl",
                                        "arch-capabilities",
                                        "bhi-ctrl",
                                        "xsave",
                                        "xsaveopt",
                                        "xsavec",
                                        "xgetbv1",
                                        "xsaves",
                                        "nx",
                                        "pdpe1gb",
                                        "rdtscp",
                                        "3dnowprefetch",
                                        "invtsc",
                                        "aes",
                                        "pclmulqdq",
                                        "kvm-nopiodelay",
                                        "kvmclock",
                                        "kvm-steal-time",
                                        "kvm-pv-eoi",
                                        "kvm-pv-unhalt",
                                        "kvm-pv-tlb-flush",
                                        "kvm-pv-ipi",
                                        "kvm-pv-sched-yield",
                                        "kvmclock-stable"};
// From x86-64-v3 on.
constexpr std::string_view kExtrasV3[] = {"adx", "clwb", "sha-ni"};

// Named models are an Intel of family 6, model 0x8f: every system knows it, and with
// IA32_ARCH_CAPABILITIES it needs no workarounds.
constexpr u32 kSignature = 0x000806f8;
constexpr std::string_view kVendor = "GenuineIntel";
constexpr std::string_view kBrand = "Skerry vCPU";

u32& reg_of(CpuidLeaf& leaf, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::eax: return leaf.eax;
    case CpuidRegister::ebx: return leaf.ebx;
    case CpuidRegister::ecx: return leaf.ecx;
    case CpuidRegister::edx: break;
  }
  return leaf.edx;
}

// ---- XSAVE components (SDM 1 13.5)

struct Component {
  u8 number;
  u32 size, offset;  ///< Intel's; a host's CPUID may place them elsewhere (AMD does)
  std::string_view feature;
};
constexpr Component kComponents[] = {{2, 256, 576, "avx"},
                                     {5, 64, 1088, "avx512f"},
                                     {6, 512, 1152, "avx512f"},
                                     {7, 1024, 1664, "avx512f"}};

// Features whose registers the engine's XCR0 cannot enable are not supported, whatever their bit.
bool xcr0_allows(const CpuidTable& supported, const CpuFeature& feature) {
  u32 xcr0 = machine::cpuid_lookup(supported, 0xd, 0).eax;
  for (const CpuFeature* f = &feature; f; f = find_cpu_feature(f->needs)) {
    for (const Component& c : kComponents)
      if (c.feature == f->name && !bit(xcr0, c.number)) return false;
    if (f->needs.empty()) break;
  }
  return true;
}

bool supports(const CpuidTable& supported, const CpuFeature& feature) {
  // "hypervisor" is a statement, not an ability.
  if (feature.name == "hypervisor") return true;
  return has_feature(supported, feature) && xcr0_allows(supported, feature);
}

// ---- choosing features

std::vector<std::string_view> missing_for(size_t level, const CpuidTable& supported) {
  std::vector<std::string_view> missing;
  for (size_t i = 0; i <= level; ++i)
    for (std::string_view name : kLevels[i])
      if (!supports(supported, *find_cpu_feature(name))) missing.push_back(name);
  return missing;
}

Error lacking(size_t level, const CpuidTable& supported) {
  std::vector<std::string_view> missing = missing_for(level, supported);
  Error e{fmt::format("this engine cannot give the guest CPU model {} on this host: it lacks {}",
                      kModels[level], schema::join(missing)),
          "use --cpu host", 0};
  for (size_t i = level; i-- > 0;)
    if (missing_for(i, supported).empty()) {
      e.hint = fmt::format("use --cpu {}", kModels[i]);
      break;
    }
  return e;
}

Result<Names> base_features(size_t model, const CpuidTable& supported) {
  Names on;
  auto add = [&](std::span<const std::string_view> names) {
    for (std::string_view name : names)
      if (supports(supported, *find_cpu_feature(name))) on.insert(name);
  };
  if (model == kHost) {
    for (const CpuFeature& f : cpu_features())
      if (supports(supported, f)) on.insert(f.name);
    return on;
  }
  if (!missing_for(model, supported).empty()) return std::unexpected(lacking(model, supported));
  for (size_t i = 0; i <= model; ++i) add(kLevels[i]);
  add(kExtras);
  if (model >= 2) add(kExtrasV3);
  return on;
}

Result<> apply(const std::vector<std::pair<std::string, bool>>& changes,
               const CpuidTable& supported, Names& on) {
  for (const auto& [name, enable] : changes) {
    const CpuFeature* f = find_cpu_feature(name);
    if (!f) {
      std::vector<std::string_view> names;
      for (const CpuFeature& known : cpu_features()) names.push_back(known.name);
      return std::unexpected(schema::unknown_word("CPU feature", name, names));
    }
    if (!enable) {
      on.erase(f->name);
      continue;
    }
    for (; f; f = f->needs.empty() ? nullptr : find_cpu_feature(f->needs)) {
      if (!supports(supported, *f))
        return fail_hint(fmt::format("leave +{} away", name),
                         "this engine cannot give the guest the CPU feature {} on this host",
                         f->name);
      on.insert(f->name);
    }
  }
  // What lost its ground goes too. Chains are short; one pass per link.
  for (bool changed = true; changed;) {
    changed = false;
    for (const CpuFeature& f : cpu_features())
      if (!f.needs.empty() && on.count(f.name) && !on.count(f.needs)) {
        on.erase(f.name);
        changed = true;
      }
  }
  return {};
}

// ---- leaves

class Builder {
 public:
  Builder(const CpuRequest& request, const CpuidTable& supported, const Names& on, bool host)
      : request_(request), supported_(supported), on_(on), host_(host) {
    CpuidLeaf zero = machine::cpuid_lookup(supported, 0, 0);
    if (host && zero.ebx) {
      vendor_[0] = zero.ebx, vendor_[1] = zero.edx, vendor_[2] = zero.ecx;
      signature_ = machine::cpuid_lookup(supported, 1, 0).eax;
    } else {
      std::memcpy(vendor_, kVendor.data(), sizeof vendor_);
    }
    while ((1u << id_bits_) < request.cpus) ++id_bits_;
    table_.reserve(128);  // leaf() hands out references
  }

  CpuidTable build() {
    basic();
    caches();
    topology();
    xsave();
    frequencies();
    hypervisor();
    extended();
    for (const CpuFeature& f : cpu_features())
      if (on_.count(f.name)) {
        bool indexed = f.leaf == 7 || f.leaf == 0xd;
        reg_of(leaf(f.leaf, f.subleaf, indexed), f.reg) |= 1u << f.bit;
      }
    finish();
    return std::move(table_);
  }

 private:
  CpuidLeaf& leaf(u32 number, u32 subleaf = 0, bool indexed = false) {
    for (CpuidLeaf& l : table_)
      if (l.leaf == number && l.subleaf == subleaf) return l;
    SKERRY_CHECK(table_.size() < table_.capacity());
    CpuidLeaf l;
    l.leaf = number, l.subleaf = subleaf, l.indexed = indexed;
    return table_.emplace_back(l);
  }
  bool amd() const { return vendor_[0] == 0x68747541; }  // "Auth"

  void basic() {
    CpuidLeaf& zero = leaf(0);
    zero.eax = 0x16;
    zero.ebx = vendor_[0], zero.edx = vendor_[1], zero.ecx = vendor_[2];
    CpuidLeaf& one = leaf(1);
    one.eax = signature_;
    // CLFLUSH of 64 bytes; how many APIC ids the package has.
    one.ebx = 8u << 8 | std::min(1u << id_bits_, 255u) << 16;
    if (request_.cpus > 1) one.edx |= 1u << 28;  // HTT: that count is valid
    leaf(6);
    leaf(7, 0, true);
  }

  // Deterministic cache parameters: a plain server core. Levels 1 and 2 are private.
  void caches() {
    leaf(2).eax = 0x00feff01;  // "see leaf 4"
    struct Cache {
      u32 type, level, ways, sets;
    };
    static constexpr Cache kCaches[] = {
        {1, 1, 12, 64}, {2, 1, 8, 64}, {3, 2, 16, 2048}, {3, 3, 16, 16384}};
    u32 cores = std::min((1u << id_bits_) - 1, 63u);
    u32 n = 0;
    for (const Cache& c : kCaches) {
      CpuidLeaf& l = leaf(4, n++, true);
      u32 sharing = c.level == 3 ? (1u << id_bits_) - 1 : 0;
      l.eax = c.type | c.level << 5 | 1u << 8 | sharing << 14 | cores << 26;
      l.ebx = (c.ways - 1) << 22 | 63;  // lines of 64 bytes
      l.ecx = c.sets - 1;
    }
    leaf(4, n, true);
    leaf(0x80000006).ecx = 2048u << 16 | 8u << 12 | 64;  // L2: KiB, ways, line
  }

  // One package, a core for each vCPU, one thread in a core. EDX is the engine's.
  void topology() {
    CpuidLeaf& thread = leaf(0xb, 0, true);
    thread.ebx = 1, thread.ecx = 1 << 8;
    CpuidLeaf& core = leaf(0xb, 1, true);
    core.eax = id_bits_, core.ebx = request_.cpus, core.ecx = 2 << 8 | 1;
    leaf(0xb, 2, true).ecx = 2;
    u32 ids = amd() ? id_bits_ << 12 | (request_.cpus - 1) : 0;
    leaf(0x80000008).ecx = ids;
  }

  void xsave() {
    if (!on_.count("xsave")) return;
    u32 mask = 3, end = 576, compact = 576;
    for (const Component& c : kComponents) {
      if (!on_.count(c.feature)) continue;
      CpuidLeaf from = machine::cpuid_lookup(supported_, 0xd, c.number);
      if (!from.eax) from.eax = c.size, from.ebx = c.offset, from.ecx = 0;
      CpuidLeaf& l = leaf(0xd, c.number, true);
      l.eax = from.eax, l.ebx = from.ebx;
      l.ecx = from.ecx & 2;  // bit 1: aligned to 64 when compacted
      mask |= 1u << c.number;
      end = std::max(end, l.ebx + l.eax);
      compact = (l.ecx & 2 ? static_cast<u32>(align_up(compact, 64)) : compact) + l.eax;
    }
    CpuidLeaf& zero = leaf(0xd, 0, true);
    zero.eax = mask, zero.ebx = end, zero.ecx = end;
    leaf(0xd, 1, true).ebx = compact;
  }

  // Leaf 0x15: TSC = crystal * EBX / EAX. The crystal is also what Linux takes for the APIC timer's
  // clock, so it has to be kApicHz; and Linux multiplies kHz in 32 bits, which bounds EBX. The best
  // fraction within that bound is good to less than a part in a million.
  void frequencies() {
    leaf(0x15), leaf(0x16);
    u64 tsc = request_.tsc_hz;
    if (tsc < 1'000'000) return;
    u64 limit = 0xffffffff / (kApicHz / 1000);
    u64 best_p = 0, best_q = 0;
    u128 best_error = ~u128{0};
    for (u64 q = 1; q <= limit; ++q) {
      u64 p = static_cast<u64>((u128{tsc} * q + kApicHz / 2) / kApicHz);
      if (p > limit) break;
      if (p == 0) continue;
      u128 got = u128{p} * kApicHz, want = u128{tsc} * q;
      // |got - want| / q, compared without division.
      u128 error = got > want ? got - want : want - got;
      if (best_q == 0 || error * best_q < best_error * q)
        best_p = p, best_q = q, best_error = error;
    }
    if (best_q) {
      CpuidLeaf& crystal = leaf(0x15);
      crystal.eax = static_cast<u32>(best_q), crystal.ebx = static_cast<u32>(best_p);
      crystal.ecx = kApicHz;
    }
    CpuidLeaf& mhz = leaf(0x16);
    mhz.eax = mhz.ebx = static_cast<u32>(std::min<u64>((tsc + 500'000) / 1'000'000, 0xffff));
    mhz.ecx = 100;
  }

  // Linux Documentation/virt/kvm/x86/cpuid.rst; 0x40000010 is VMware's timing leaf.
  void hypervisor() {
    if (!on_.count("hypervisor")) return;
    CpuidLeaf& signature = leaf(0x40000000);
    signature.eax = 0x40000010;
    signature.ebx = 0x4b4d564b, signature.ecx = 0x564b4d56, signature.edx = 0x4d;  // "KVMKVMKVM"
    leaf(0x40000001);
    CpuidLeaf& timing = leaf(0x40000010);
    timing.eax = static_cast<u32>(std::min<u64>(request_.tsc_hz / 1000, 0xffffffff));
    timing.ebx = kApicHz / 1000;
  }

  void extended() {
    leaf(0x80000000);
    leaf(0x80000001);
    char brand[48] = {};
    std::copy(kBrand.begin(), kBrand.end(), brand);
    if (host_ && machine::cpuid_lookup(supported_, 0x80000002, 0).eax)
      for (u32 i = 0; i < 3; ++i) {
        CpuidLeaf l = machine::cpuid_lookup(supported_, 0x80000002 + i, 0);
        std::memcpy(brand + 16 * i, &l.eax, 16);
      }
    for (u32 i = 0; i < 3; ++i) std::memcpy(&leaf(0x80000002 + i).eax, brand + 16 * i, 16);
    leaf(0x80000007);
    // Linear: 48 bits, or 57 with five-level paging.
    u32 physical = std::min(physical_bits(supported_), 46u);
    leaf(0x80000008).eax = physical | (on_.count("la57") ? 57 : 48) << 8;
  }

  void finish() {
    u32 top = 0x80000008;
    for (const CpuidLeaf& l : table_)
      if (l.leaf >= 0x80000000) top = std::max(top, l.leaf);
    CpuidLeaf& extended = leaf(0x80000000);
    extended.eax = top;
    if (amd()) {
      extended.ebx = vendor_[0], extended.edx = vendor_[1], extended.ecx = vendor_[2];
      CpuidLeaf& features = leaf(0x80000001);
      features.eax = signature_;
      // APM 3 E.4.2: these bits repeat leaf 1's.
      features.edx |= leaf(1).edx & 0x0183f3ff;
    }
    u32 top_subleaf = 0;
    for (const CpuidLeaf& l : table_)
      if (l.leaf == 7) top_subleaf = std::max(top_subleaf, l.subleaf);
    leaf(7, 0, true).eax = top_subleaf;
    std::sort(table_.begin(), table_.end(), [](const CpuidLeaf& a, const CpuidLeaf& b) {
      return std::pair(a.leaf, a.subleaf) < std::pair(b.leaf, b.subleaf);
    });
  }

  const CpuRequest& request_;
  const CpuidTable& supported_;
  const Names& on_;
  const bool host_;
  CpuidTable table_;
  u32 vendor_[3] = {};  ///< EBX, EDX, ECX
  u32 signature_ = kSignature;
  u32 id_bits_ = 0;  ///< of an APIC id that tell the cores apart
};

}  // namespace

std::span<const std::string_view> cpu_models() {
  return kModels;
}

bool has_feature(const CpuidTable& table, const CpuFeature& feature) {
  // Only listed leaves count: beyond the maximum, CPUID repeats other data.
  for (const CpuidLeaf& l : table)
    if (l.leaf == feature.leaf && (!l.indexed || l.subleaf == feature.subleaf)) {
      CpuidLeaf copy = l;
      return bit(reg_of(copy, feature.reg), feature.bit);
    }
  return false;
}

unsigned physical_bits(const CpuidTable& table) {
  u32 bits = machine::cpuid_lookup(table, 0x80000008, 0).eax & 0xff;
  return bits >= 32 && bits <= 52 ? bits : 36;
}

Result<CpuidTable> build_cpuid(const CpuRequest& request, const CpuidTable& every) {
  if (request.cpus == 0 || request.cpus > 4096)
    return fail("{} CPUs are not possible", request.cpus);
  auto parsed = schema::parse_cpu(request.model);
  if (!parsed) return std::unexpected(std::move(parsed).error());
  const schema::CpuModel& wanted = *parsed;
  size_t model = static_cast<size_t>(
      std::find(std::begin(kModels), std::end(kModels), wanted.base) - std::begin(kModels));
  if (model == std::size(kModels))
    return std::unexpected(schema::unknown_word("CPU model", wanted.base, kModels));
  // A guest takes VMMCALL or VMCALL by its processor's vendor, and the named models are Intel's.
  const u32 host_vendor = machine::cpuid_lookup(every, 0, 0).ebx;
  const bool vmmcall = host_vendor == 0x68747541 || host_vendor == 0x6f677948;  // "Auth", "Hygo"
  CpuidTable supported = every;
  if (!request.any_hypercall && model != kHost && vmmcall)
    for (CpuidLeaf& l : supported)
      if (l.leaf == 0x40000001) l.eax &= ~(1u << 7 | 1u << 11 | 1u << 13);  // unhalt, IPI, yield
  auto on = base_features(model, supported);
  if (!on) return std::unexpected(std::move(on).error());
  TRY_VOID(apply(wanted.features, supported, *on));
  return Builder(request, supported, *on, model == kHost).build();
}

}  // namespace skerry::board
