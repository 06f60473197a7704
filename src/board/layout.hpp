// What sits where in the guest-physical and port address spaces: the one place for the board's
// numbers. Devices know only offsets; ACPI, SMBIOS, loaders and the assembly of the machine read
// these constants.
//
// The map follows the Intel Q35/ICH9 (datasheets 316966, 316972) as far as firmware and drivers
// assume it.
#pragma once

#include "memory/guest_memory.hpp"

namespace skerry::board {

using memory::Gpa;

/// [start, start + size).
struct Window {
  u64 start = 0, size = 0;
  constexpr u64 end() const { return start + size; }
  bool operator==(const Window&) const = default;
};

// ---- the first MiB
constexpr Gpa kBiosData = 0x400;  ///< BIOS data area: EBDA segment at +0x0e, KiB of RAM at +0x13
constexpr Gpa kEbda = 0x9fc00;    ///< extended BIOS data area, 1 KiB
constexpr Gpa kVideoHole = 0xa0000;
constexpr Window kAcpiArea{0xe0000, 0xf000};     ///< RSDP and all tables (direct boot)
constexpr Gpa kVmGeneration = 0xef000;           ///< VM generation ID, alone in its page
constexpr Window kSmbiosArea{0xf0000, 0x8000};   ///< both anchors and the structures
constexpr Window kMpTableArea{0xf8000, 0x8000};  ///< MP floating pointer and configuration table
constexpr Gpa kOneMiB = 0x100000;

// ---- the hole below 4 GiB
constexpr Window kEcam{0xb000'0000, 0x1000'0000};
constexpr Window kPciWindow32{0xc000'0000, 0x3ec0'0000};  ///< up to the IOAPIC
constexpr Gpa kIoapic = 0xfec0'0000;
constexpr Gpa kHpet = 0xfed0'0000;
constexpr Gpa kLapic = 0xfee0'0000;
static_assert(kEcam.start == memory::kHoleStart && kPciWindow32.end() == kIoapic);

// ---- ports
constexpr u16 kPmBase = 0x600;     ///< ICH9 ACPI registers: PM1a at +0, PM timer +8, GPE0 +0x20
constexpr u16 kResetPort = 0xcf9;  ///< ICH9 13.7.5
constexpr u8 kResetValue = 6;      ///< hard reset of the CPUs
constexpr u16 kSmiCommand = 0xb2;
constexpr u8 kAcpiEnable = 2, kAcpiDisable = 3;  ///< as ICH9 firmware has them
constexpr u8 kSciIrq = 9;
constexpr u16 kPvPanicPort = 0x505;
constexpr u8 kVmGenerationGpe = 5;  ///< \\_GPE._E05
constexpr u8 kCmosCentury = 0x32;

/// Where 64-bit BARs go: above all RAM, below 2^physical_bits, a multiple of 1 GiB. Empty if there
/// is no room.
constexpr Window high_window(u64 ram_bytes, unsigned physical_bits) {
  u64 ram_end =
      memory::kHighStart + (ram_bytes > memory::kHoleStart ? ram_bytes - memory::kHoleStart : 0);
  u64 limit = u64{1} << physical_bits;
  u64 start = align_up(ram_end, 4 * GiB);
  if (start >= limit) return {};
  u64 size = limit - start < 512 * GiB ? align_down(limit - start, GiB) : 512 * GiB;
  return {start, size};
}

}  // namespace skerry::board
