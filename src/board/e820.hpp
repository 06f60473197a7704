// The memory map that loaders and firmware tell the guest of (ACPI 6.4 chapter 15, INT 15h E820).
// Pure data; no threading.
#pragma once

#include <vector>

#include "board/layout.hpp"

namespace skerry::board {

enum class E820Type : u32 { ram = 1, reserved = 2, acpi = 3, nvs = 4 };

struct E820Entry {
  Gpa start = 0;
  u64 size = 0;
  E820Type type = E820Type::ram;
  Gpa end() const { return start + size; }
  bool operator==(const E820Entry&) const = default;
};
/// In address order, without overlaps.
using E820Map = std::vector<E820Entry>;

/// RAM as the guest may use it, the BIOS areas of the first MiB, and ECAM.
E820Map build_e820(const memory::GuestMemory& memory);

/// Writes the words of the BIOS data area that kernels read to find the EBDA and the end of
/// conventional memory. Needs 1 MiB of RAM.
Result<> install_bios_data(memory::GuestMemory& memory);

}  // namespace skerry::board
