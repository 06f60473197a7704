#include "board/mptable.hpp"

#include <span>

#include "base/append.hpp"
#include "board/acpi.hpp"
#include "pci/chipset.hpp"

namespace skerry::board {

namespace {

constexpr u8 kPciBus = 0, kIsaBus = 1;

class Table {
 public:
  template <class T>
  Table& put(T value) {
    append(bytes, value);
    return *this;
  }
  Table& text(std::string_view text, size_t size) {
    for (size_t i = 0; i < size; ++i) put(i < text.size() ? static_cast<u8>(text[i]) : u8{' '});
    return *this;
  }
  void entry() { ++entries; }
  std::vector<u8> bytes;
  u16 entries = 0;
};

// 4.3.4: type 0 INT, 1 NMI, 3 ExtINT. `flags`: polarity and trigger; 0 is what the bus has.
void interrupt(Table& t, u8 entry, u8 type, u16 flags, u8 bus, u8 irq, u8 target, u8 pin) {
  t.put(entry).put(type).put(flags).put(bus).put(irq).put(target).put(pin);
  t.entry();
}

}  // namespace

std::vector<u8> build_mptable(const MpConfig& config, Gpa at) {
  constexpr Gpa kFloating = 16;
  Table t;
  // 4.2: "PCMP", length, revision, checksum: filled in at the end.
  t.text("PCMP", 4).put(u16{0}).put(u8{4}).put(u8{0}).text("SKERRY", 8).text("SKERRY", 12);
  t.put(u32{0}).put(u16{0}).put(u16{0}).put(static_cast<u32>(kLapic)).put(u32{0});

  unsigned cpus = std::min(config.cpus, 255u);
  for (unsigned i = 0; i < cpus; ++i) {
    u8 flags = i == 0 ? 3 : 1;  // enabled; bootstrap processor
    t.put(u8{0}).put(static_cast<u8>(i)).put(u8{0x14}).put(flags);
    t.put(config.cpu_signature).put(config.cpu_features).put(u64{0});
    t.entry();
  }
  t.put(u8{1}).put(kPciBus).text("PCI", 6), t.entry();
  t.put(u8{1}).put(kIsaBus).text("ISA", 6), t.entry();
  t.put(u8{2}).put(config.ioapic_id).put(u8{0x20}).put(u8{1}).put(static_cast<u32>(kIoapic));
  t.entry();

  constexpr u8 kIo = 3, kLocal = 4, kInt = 0, kNmi = 1, kExtInt = 3;
  for (u8 irq = 0; irq < 16; ++irq) {
    if (irq == 2) continue;  // the cascade
    constexpr u16 kLevelHigh = 0xd;
    interrupt(t, kIo, kInt, irq == kSciIrq ? kLevelHigh : 0, kIsaBus, irq, config.ioapic_id,
              irq == 0 ? 2 : irq);
  }
  for (unsigned device = 1; device < 32; ++device)
    for (unsigned pin = 0; pin < 4; ++pin)
      interrupt(t, kIo, kInt, 0, kPciBus, static_cast<u8>(device << 2 | pin), config.ioapic_id,
                static_cast<u8>(pci::pirq_gsi(pci::pirq_of(device, pin))));
  interrupt(t, kLocal, kExtInt, 0, kIsaBus, 0, 0, 0);
  interrupt(t, kLocal, kNmi, 0, kIsaBus, 0, 0xff, 1);

  store(&t.bytes[4], static_cast<u16>(t.bytes.size()));
  store(&t.bytes[34], t.entries);
  set_checksum(t.bytes, 7);

  // 4.1
  Table floating;
  floating.text("_MP_", 4).put(static_cast<u32>(at + kFloating)).put(u8{1}).put(u8{4}).put(u8{0});
  floating.put(u8{0}).put(u32{0});
  set_checksum(floating.bytes, 10);
  floating.bytes.insert(floating.bytes.end(), t.bytes.begin(), t.bytes.end());
  return floating.bytes;
}

Result<> install_mptable(memory::GuestMemory& memory, const MpConfig& config, Window area) {
  std::vector<u8> bytes = build_mptable(config, area.start);
  if (bytes.size() > area.size) return fail("the MP tables are too big");
  if (!memory.write(area.start, bytes))
    return fail_hint("use --memory 2M or more", "no guest memory for the MP tables");
  return {};
}

}  // namespace skerry::board
