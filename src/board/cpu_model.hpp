// CPU models: what CPUID tells the guest, the same under every engine.
//
// A named model is a level of the x86-64 psABI: features that must all be there (a model that the
// engine cannot give is refused, naming what is missing and the best model that works), and what an
// operating system likes to have beside them, as far as the engine can do it. "host" is all that
// the engine can do. Vendor and family of the named models are fixed, so that a guest's choices of
// workarounds do not depend on the host it runs on.
//
// Bits that change at run time (OSXSAVE, APIC ids, the size in leaf 0xd:0.EBX) are completed by the
// engine (machine/cpu_state.hpp). Pure functions, no threading.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "machine/cpu_state.hpp"

namespace skerry::board {

enum class CpuidRegister : u8 { eax, ebx, ecx, edx };

/// One feature bit with the name that Linux's /proc/cpuinfo and QEMU use.
struct CpuFeature {
  std::string_view name;
  u32 leaf, subleaf;
  CpuidRegister reg;
  u8 bit;
  std::string_view needs;  ///< the feature without which it cannot be, or empty
};
/// Every feature that a model may have. Other bits are never shown to a guest.
std::span<const CpuFeature> cpu_features();
/// nullptr if there is no such feature.
const CpuFeature* find_cpu_feature(std::string_view name);
bool has_feature(const machine::CpuidTable& table, const CpuFeature& feature);

/// The models' names, the least first, "host" last.
std::span<const std::string_view> cpu_models();
/// What a machine gets that does not say.
constexpr std::string_view kDefaultCpuModel = "x86-64-v2";

struct CpuRequest {
  /// A model, then "+feature" and "-feature", by commas: "x86-64-v3,+aes,-avx2".
  std::string model = std::string(kDefaultCpuModel);
  unsigned cpus = 1;
  u64 tsc_hz = 0;             ///< of the guest; 0: unknown, the guest must calibrate
  bool any_hypercall = true;  ///< Engine::any_hypercall()
};
/// The guest's CPUID. `supported` is Engine::supported_cpuid().
Result<machine::CpuidTable> build_cpuid(const CpuRequest& request,
                                        const machine::CpuidTable& supported);

/// Bits of a guest-physical address by leaf 0x80000008 (36 if absent).
unsigned physical_bits(const machine::CpuidTable& table);

/// The frequency that timers of the guest's local APIC count at, by leaf 0x15 and KVM's 0x40000010.
constexpr u32 kApicHz = 1'000'000'000;

}  // namespace skerry::board
