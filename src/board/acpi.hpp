// ACPI tables (ACPI 6.4): RSDP, XSDT, FADT, FACS, MADT, MCFG, HPET and the DSDT.
//
// The hardware model is full ACPI with the ICH9's registers: SMI_CMD with ACPI_ENABLE and
// ACPI_DISABLE, SCI_EN set by the enable command, so firmware, operating systems and the LPC bridge
// agree. No NUMA, no hot plug, no sleep states but S5. Pure functions, no threading.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "board/layout.hpp"

namespace skerry::board {

struct AcpiConfig {
  unsigned cpus = 1;  ///< APIC ids 0 .. cpus-1, the processor's _UID the same
  u8 ioapic_id = 0;
  u16 pm_base = kPmBase;
  struct Uart {
    u16 port;
    u8 irq;
  };
  std::vector<Uart> uarts;  ///< at most 4: COM1 and on
  bool hpet = true;
  bool keyboard = true;  ///< an i8042
  Window pci_window32 = kPciWindow32;
  Window pci_window64;  ///< high_window(); size 0: none
};

/// The standard PC's UARTs, COM1 first.
constexpr std::array<AcpiConfig::Uart, 4> kUarts{{{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}}};

/// All tables at offsets from a base that is known only when they are installed.
class AcpiTables {
 public:
  struct Table {
    std::string signature;
    u32 offset;  ///< in the blob
    u32 size;
  };
  /// A pointer inside the blob to another place in it; `offset`, `size` of the pointer.
  struct Pointer {
    u32 offset;
    u8 size;
  };

  /// The blob with pointers relative to its start and checksums of that; the RSDP is at offset 0.
  const std::vector<u8>& bytes() const { return bytes_; }
  const std::vector<Table>& tables() const { return tables_; }
  const std::vector<Pointer>& pointers() const { return pointers_; }
  /// The bytes as they are at guest-physical `at`, pointers and checksums right. `at` is a multiple
  /// of 64.
  std::vector<u8> placed(Gpa at) const;
  /// Writes them to memory. Returns the RSDP's address, which is `at`.
  Result<Gpa> install(memory::GuestMemory& memory, Gpa at = kAcpiArea.start) const;

 private:
  friend AcpiTables build_acpi(const AcpiConfig& config);
  u32 add(const std::string& signature, std::vector<u8> table);
  void point(u32 at, u8 size, u32 target);
  std::vector<u8> bytes_;
  std::vector<Table> tables_;
  std::vector<Pointer> pointers_;
};

AcpiTables build_acpi(const AcpiConfig& config);

/// The AML of the DSDT, without header.
std::vector<u8> build_dsdt(const AcpiConfig& config);

/// Sets the byte at `offset` so that all bytes of the table sum to 0.
void set_checksum(std::span<u8> table, size_t offset);

}  // namespace skerry::board
