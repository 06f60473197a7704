// The MP tables of Intel's MultiProcessor Specification 1.4, for kernels without ACPI. Pure
// function, no threading.
#pragma once

#include <vector>

#include "board/layout.hpp"

namespace skerry::board {

struct MpConfig {
  unsigned cpus = 1;
  u8 ioapic_id = 0;
  u32 cpu_signature = 0x600;  ///< CPUID.1:EAX
  u32 cpu_features = 0;       ///< CPUID.1:EDX
};

/// The floating pointer, then the configuration table, as they are at guest-physical `at` (a
/// multiple of 16).
std::vector<u8> build_mptable(const MpConfig& config, Gpa at);
Result<> install_mptable(memory::GuestMemory& memory, const MpConfig& config,
                         Window area = kMpTableArea);

}  // namespace skerry::board
