// The DSDT: what a driver cannot find out by probing (ACPI 6.4 chapters 5, 6 and 8).
#include "board/acpi.hpp"
#include "board/aml.hpp"
#include "pci/chipset.hpp"

namespace skerry::board {

namespace {

using namespace aml;

// Every pin of every device of bus 0 to a pin of the IOAPIC, without link devices: only systems
// that use the IOAPIC look here; the others read the interrupt line registers.
Code routing() {
  std::vector<Code> entries;
  for (unsigned device = 0; device < 32; ++device)
    for (unsigned pin = 0; pin < 4; ++pin)
      entries.push_back(package({integer(device << 16 | 0xffff), integer(pin), integer(0),
                                 integer(pci::pirq_gsi(pci::pirq_of(device, pin)))}));
  return name("_PRT", package(entries));
}

Code host_bridge(const AcpiConfig& config) {
  Code windows = concat({
      word_bus_numbers(255),
      io_port(0xcf8, 8),
      word_io(0, 0xcf7),
      word_io(0xd00, 0xffff),
      dword_memory(static_cast<u32>(kVideoHole), 0xbffff),
      dword_memory(static_cast<u32>(config.pci_window32.start),
                   static_cast<u32>(config.pci_window32.end() - 1)),
  });
  if (config.pci_window64.size)
    windows = concat(
        {windows, qword_memory(config.pci_window64.start, config.pci_window64.end() - 1, true)});
  return concat({
      name("_HID", eisa_id("PNP0A08")),
      name("_CID", eisa_id("PNP0A03")),
      name("_UID", integer(0)),
      name("_SEG", integer(0)),
      name("_BBN", integer(0)),
      name("_CCA", integer(1)),
      name("_CRS", resources({windows})),
      routing(),
  });
}

// ECAM and the ACPI registers: nobody else may have them (PCI Firmware 3.2, 4.1.2).
Code motherboard(const AcpiConfig& config) {
  return device("MBRD", concat({name("_HID", eisa_id("PNP0C02")), name("_UID", integer(1)),
                                name("_CRS", resources({
                                                 memory32_fixed(static_cast<u32>(kEcam.start),
                                                                static_cast<u32>(kEcam.size), true),
                                                 io_port(config.pm_base, 128),
                                                 io_port(kSmiCommand, 2),
                                             }))}));
}

Code uart(unsigned index, const AcpiConfig::Uart& config) {
  std::string path = "COM" + std::to_string(index + 1);
  return device(path,
                concat({name("_HID", eisa_id("PNP0501")), name("_UID", integer(index + 1)),
                        name("_DDN", string(path)), name("_STA", integer(15)),
                        name("_CRS", resources({io_port(config.port, 8), irq(config.irq)}))}));
}

Code isa_devices(const AcpiConfig& config) {
  Code code = device("RTC_", concat({name("_HID", eisa_id("PNP0B00")),
                                     name("_CRS", resources({io_port(0x70, 8), irq(8)}))}));
  if (config.keyboard)
    code = concat(
        {code,
         device("KBD_",
                concat({name("_HID", eisa_id("PNP0303")), name("_STA", integer(15)),
                        name("_CRS", resources({io_port(0x60, 1), io_port(0x64, 1), irq(1)}))}))});
  for (unsigned i = 0; i < config.uarts.size(); ++i)
    code = concat({code, uart(i, config.uarts[i])});
  // Linux's pvpanic driver knows QEMU's id.
  code = concat(
      {code, device("PEVT", concat({name("_HID", string("QEMU0001")), name("_STA", integer(15)),
                                    name("_CRS", resources({io_port(kPvPanicPort, 1)}))}))});
  return device("ISA_", concat({name("_ADR", integer(0x1f0000)), code}));
}

Code hpet_device() {
  return device(
      "HPET",
      concat({name("_HID", eisa_id("PNP0103")), name("_UID", integer(0)), name("_STA", integer(15)),
              name("_CRS", resources({memory32_fixed(static_cast<u32>(kHpet), 0x400, false)}))}));
}

// "Virtual Machine Generation ID" (Microsoft, 2012): the compatible id finds the driver, ADDR says
// where the 16 bytes are, a notification 0x80 that they changed.
Code vm_generation() {
  return device("VGEN",
                concat({name("_HID", string("SKRY0001")), name("_CID", string("VM_Gen_Counter")),
                        name("_DDN", string("VM_Gen_Counter")), name("_STA", integer(15)),
                        name("ADDR", package({integer(kVmGeneration & 0xffff'ffff),
                                              integer(kVmGeneration >> 32)}))}));
}

Code processors(unsigned count) {
  Code code;
  for (unsigned i = 0; i < count; ++i) {
    // C000 ... CFFF
    Code body = concat({name("_HID", string("ACPI0007")), name("_UID", integer(i))});
    Code one = device(fmt::format("C{:03X}", i), body);
    code.insert(code.end(), one.begin(), one.end());
  }
  return code;
}

}  // namespace

std::vector<u8> build_dsdt(const AcpiConfig& config) {
  Code bridge =
      device("PCI0", concat({host_bridge(config), motherboard(config), isa_devices(config)}));
  Code system = concat({bridge, vm_generation(), processors(config.cpus)});
  if (config.hpet) system = concat({system, hpet_device()});
  // SLP_TYP of S5 is 0 in both halves.
  Code events = method(fmt::format("_E{:02X}", kVmGenerationGpe), 0, notify("\\_SB.VGEN", 0x80));
  Code body = concat({scope("\\_SB", system), scope("\\_GPE", events),
                      name("\\_S5", package({integer(0), integer(0), integer(0), integer(0)}))});
  return body;
}

}  // namespace skerry::board
