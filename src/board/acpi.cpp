#include "board/acpi.hpp"

#include <algorithm>

#include "base/append.hpp"
#include "devices/acpi_pm.hpp"

namespace skerry::board {

namespace {

// Little-endian fields one after the other.
class Fields {
 public:
  template <class T>
  Fields& put(T value) {
    append(bytes_, value);
    return *this;
  }
  Fields& text(std::string_view text, size_t size) {
    for (size_t i = 0; i < size; ++i)
      bytes_.push_back(i < text.size() ? static_cast<u8>(text[i]) : 0);
    return *this;
  }
  Fields& zeros(size_t count) {
    bytes_.insert(bytes_.end(), count, 0);
    return *this;
  }
  /// 5.2.3.2, Generic Address Structure.
  Fields& address(u8 space, u8 bits, u8 access, u64 at) {
    return put(space).put(bits).put(u8{0}).put(access).put(at);
  }
  Fields& bytes(const std::vector<u8>& more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
    return *this;
  }
  size_t size() const { return bytes_.size(); }
  std::vector<u8> take() { return std::move(bytes_); }

 private:
  std::vector<u8> bytes_;
};

constexpr u8 kMemorySpace = 0, kPortSpace = 1;
constexpr size_t kChecksum = 9, kHeaderSize = 36;

// 5.2.6: the header that all tables but RSDP and FACS have.
std::vector<u8> table(std::string_view signature, u8 revision, const std::vector<u8>& body) {
  Fields f;
  f.text(signature, 4).put(static_cast<u32>(kHeaderSize + body.size())).put(revision).put(u8{0});
  f.text("SKERRY", 6).text("SKERRY", 8).put(u32{1}).text("SKRY", 4).put(u32{1});
  f.bytes(body);
  std::vector<u8> bytes = f.take();
  set_checksum(bytes, kChecksum);
  return bytes;
}

// Offsets in the FADT of what points to other tables.
constexpr u32 kFadtFirmwareControl = 36, kFadtDsdt = 40, kFadtXDsdt = 140;

// 5.2.9, revision 6.3. Offsets of blocks are the ICH9's (devices::AcpiPm).
std::vector<u8> fadt(const AcpiConfig& config) {
  using devices::AcpiPm;
  u32 event = config.pm_base + AcpiPm::kPm1Event, control = config.pm_base + AcpiPm::kPm1Control,
      timer = config.pm_base + AcpiPm::kPmTimer, gpe = config.pm_base + AcpiPm::kGpe0;
  enum : u32 {
    kWbinvd = 1 << 0,
    kProcC1 = 1 << 2,
    kSleepButton = 1 << 5,  // no fixed one
    kTimer32 = 1 << 8,
    kResetRegister = 1 << 10,
  };
  enum : u16 { kLegacyDevices = 1, k8042 = 2, kNoVga = 4, kNoAspm = 16 };
  constexpr u16 kNoC2 = 101, kNoC3 = 1001;  // latencies beyond what makes sense

  Fields f;
  f.put(u32{0});                              // FIRMWARE_CTRL: pointed at later
  f.put(u32{0});                              // DSDT: later
  f.put(u8{0}).put(u8{4}).put(u16{kSciIrq});  // preferred profile: enterprise server
  f.put(u32{kSmiCommand}).put(kAcpiEnable).put(kAcpiDisable).put(u8{0}).put(u8{0});
  f.put(event).put(u32{0}).put(control).put(u32{0}).put(u32{0}).put(timer).put(gpe).put(u32{0});
  f.put(u8{4}).put(u8{2}).put(u8{0}).put(u8{4}).put(static_cast<u8>(AcpiPm::kGpe0Size)).put(u8{0});
  f.put(u8{0}).put(u8{0}).put(kNoC2).put(kNoC3).put(u16{0}).put(u16{0});
  f.put(u8{0}).put(u8{0}).put(u8{0}).put(u8{0}).put(kCmosCentury);
  u16 boot = kNoVga | kNoAspm | (config.uarts.empty() ? 0 : kLegacyDevices) |
             (config.keyboard ? k8042 : 0);
  f.put(boot).put(u8{0});
  // The power button is the fixed feature: PWR_BUTTON (bit 4) clear.
  f.put(u32{kWbinvd | kProcC1 | kSleepButton | kTimer32 | kResetRegister});
  f.address(kPortSpace, 8, 1, kResetPort).put(kResetValue).put(u16{0}).put(u8{3});
  f.put(u64{0}).put(u64{0});  // X_FIRMWARE_CTRL (only one may be used), X_DSDT: later
  f.address(kPortSpace, 32, 2, event).address(kPortSpace, 0, 0, 0);
  f.address(kPortSpace, 16, 2, control).address(kPortSpace, 0, 0, 0);
  f.address(kPortSpace, 0, 0, 0).address(kPortSpace, 32, 3, timer);
  f.address(kPortSpace, 8 * AcpiPm::kGpe0Size, 1, gpe).address(kPortSpace, 0, 0, 0);
  f.address(kPortSpace, 0, 0, 0).address(kPortSpace, 0, 0, 0);  // sleep registers: none
  f.text("Skerry", 8);
  return table("FACP", 6, f.take());
}

// 5.2.10
std::vector<u8> facs() {
  Fields f;
  f.text("FACS", 4).put(u32{64}).zeros(24).put(u8{2}).zeros(31);
  return f.take();
}

// 5.2.12
std::vector<u8> madt(const AcpiConfig& config) {
  constexpr u32 kEnabled = 1;
  constexpr u16 kEdgeHigh = 0x5, kLevelHigh = 0xd;
  Fields f;
  f.put(static_cast<u32>(kLapic)).put(u32{1});  // PCAT_COMPAT: there are 8259s
  for (unsigned i = 0; i < config.cpus; ++i) {
    if (i < 255)
      f.put(u8{0}).put(u8{8}).put(static_cast<u8>(i)).put(static_cast<u8>(i)).put(kEnabled);
    else
      f.put(u8{9}).put(u8{16}).put(u16{0}).put(u32{i}).put(kEnabled).put(u32{i});
  }
  f.put(u8{1})
      .put(u8{12})
      .put(config.ioapic_id)
      .put(u8{0})
      .put(static_cast<u32>(kIoapic))
      .put(u32{0});
  // ISA IRQ 0, the PIT, is on pin 2; the SCI is level-triggered.
  f.put(u8{2}).put(u8{10}).put(u8{0}).put(u8{0}).put(u32{2}).put(kEdgeHigh);
  f.put(u8{2}).put(u8{10}).put(u8{0}).put(kSciIrq).put(u32{kSciIrq}).put(kLevelHigh);
  // LINT1 of every processor is NMI.
  f.put(u8{4}).put(u8{6}).put(u8{0xff}).put(kEdgeHigh).put(u8{1});
  if (config.cpus > 255)
    f.put(u8{10}).put(u8{12}).put(kEdgeHigh).put(u32{0xffffffff}).put(u8{1}).zeros(3);
  return table("APIC", 5, f.take());
}

// PCI Firmware Specification 3.2, 4.1.2.
std::vector<u8> mcfg() {
  Fields f;
  f.zeros(8).put(kEcam.start).put(u16{0}).put(u8{0}).put(u8{255}).put(u32{0});
  return table("MCFG", 1, f.take());
}

// IA-PC HPET Specification 1.0a, 3.2.4: Intel, legacy replacement, 64 bits, 3 timers.
std::vector<u8> hpet() {
  Fields f;
  f.put(u32{0x8086a201}).address(kMemorySpace, 64, 0, kHpet).put(u8{0}).put(u16{0x80}).put(u8{0});
  return table("HPET", 1, f.take());
}

constexpr u32 kRsdpSize = 36, kRsdpXsdt = 24, kRsdpChecksum = 8, kRsdpExtended = 32;

// 5.2.5
std::vector<u8> rsdp() {
  Fields f;
  f.text("RSD PTR ", 8).put(u8{0}).text("SKERRY", 6).put(u8{2}).put(u32{0}).put(kRsdpSize);
  f.put(u64{0}).put(u8{0}).zeros(3);
  return f.take();
}

void checksum_all(std::vector<u8>& bytes, const std::vector<AcpiTables::Table>& tables) {
  for (const AcpiTables::Table& t : tables) {
    std::span<u8> span(bytes.data() + t.offset, t.size);
    if (t.signature == "RSDP") {
      set_checksum(span.first(20), kRsdpChecksum);
      set_checksum(span, kRsdpExtended);
    } else if (t.signature != "FACS") {
      set_checksum(span, kChecksum);
    }
  }
}

}  // namespace

void set_checksum(std::span<u8> table, size_t offset) {
  table[offset] = 0;
  u8 sum = 0;
  for (u8 b : table) sum = static_cast<u8>(sum + b);
  table[offset] = static_cast<u8>(-sum);
}

u32 AcpiTables::add(const std::string& signature, std::vector<u8> bytes) {
  // The FACS wants 64 bytes of alignment (5.2.10); it does the others no harm.
  bytes_.resize(align_up(bytes_.size(), 64));
  u32 offset = static_cast<u32>(bytes_.size());
  tables_.push_back({signature, offset, static_cast<u32>(bytes.size())});
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  return offset;
}

void AcpiTables::point(u32 at, u8 size, u32 target) {
  pointers_.push_back({at, size});
  std::memcpy(&bytes_[at], &target, 4);
}

AcpiTables build_acpi(const AcpiConfig& config) {
  AcpiTables t;
  u32 root = t.add("RSDP", rsdp());
  u32 facs_at = t.add("FACS", facs());
  u32 dsdt_at = t.add("DSDT", table("DSDT", 2, build_dsdt(config)));
  u32 fadt_at = t.add("FACP", fadt(config));
  std::vector<u32> listed{fadt_at, t.add("APIC", madt(config)), t.add("MCFG", mcfg())};
  if (config.hpet) listed.push_back(t.add("HPET", hpet()));
  u32 xsdt_at = t.add("XSDT", table("XSDT", 1, std::vector<u8>(8 * listed.size())));

  t.point(root + kRsdpXsdt, 8, xsdt_at);
  t.point(fadt_at + kFadtFirmwareControl, 4, facs_at);
  t.point(fadt_at + kFadtDsdt, 4, dsdt_at);
  t.point(fadt_at + kFadtXDsdt, 8, dsdt_at);
  for (size_t i = 0; i < listed.size(); ++i)
    t.point(static_cast<u32>(xsdt_at + kHeaderSize + 8 * i), 8, listed[i]);
  checksum_all(t.bytes_, t.tables_);
  return t;
}

std::vector<u8> AcpiTables::placed(Gpa at) const {
  std::vector<u8> bytes = bytes_;
  for (const Pointer& p : pointers_) {
    u64 value = 0;
    std::memcpy(&value, &bytes[p.offset], p.size);
    value += at;
    std::memcpy(&bytes[p.offset], &value, p.size);
  }
  checksum_all(bytes, tables_);
  return bytes;
}

Result<Gpa> AcpiTables::install(memory::GuestMemory& memory, Gpa at) const {
  if (at == kAcpiArea.start && bytes_.size() > kAcpiArea.size)
    return fail_hint("use fewer --cpus", "the ACPI tables have {} KiB and there is room for {} KiB",
                     bytes_.size() / KiB, kAcpiArea.size / KiB);
  if (!memory.write(at, placed(at)))
    return fail_hint("use --memory 2M or more", "no guest memory at {:#x} for the ACPI tables", at);
  return at;
}

}  // namespace skerry::board
