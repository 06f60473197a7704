// SMBIOS 3.0 tables (DMTF DSP0134): what the guest's dmidecode shows. Both anchors are written: the
// 64-bit "_SM3_" and the 32-bit "_SM_". Pure functions, no threading.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "board/layout.hpp"

namespace skerry::board {

struct SmbiosConfig {
  std::string name;     ///< of the machine: the system's serial number if not empty
  std::string version;  ///< of Skerry
  std::array<u8, 16> uuid{};
  unsigned cpus = 1;
  u64 memory = 0;  ///< bytes
};

struct SmbiosTables {
  std::vector<u8> structures;
  unsigned count = 0;
  u32 largest = 0;  ///< bytes of the largest structure
  /// The anchors for structures at `at`.
  std::array<u8, 24> anchor64(Gpa at) const;
  std::array<u8, 31> anchor32(Gpa at) const;
  /// Anchors at the start of the area, structures behind.
  Result<> install(memory::GuestMemory& memory, Window area = kSmbiosArea) const;
};

SmbiosTables build_smbios(const SmbiosConfig& config);

}  // namespace skerry::board
