#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "pci/bus.hpp"
#include "pci/chipset.hpp"

namespace skerry::pci {
namespace {

struct Block final : machine::Registers {
  u64 read(u64 offset, unsigned) override { return 0xa0 + offset; }
  void write(u64 offset, unsigned, u64 value) override { last = {offset, value}; }
  std::pair<u64, u64> last;
};

struct Line final : machine::IrqLine {
  void set(bool l) override { level = l; }
  bool level = false;
};

struct Msis final : machine::MsiSink {
  void send(machine::MsiMessage m) override { sent.push_back(m); }
  std::vector<machine::MsiMessage> sent;
};

class Card final : public Function {
 public:
  Card()
      : Function("card", {.vendor = 0x1234,
                          .device = 0x5678,
                          .revision = 3,
                          .class_code = 0x020000,
                          .subsystem_vendor = 0x1111,
                          .subsystem = 0x2222,
                          .interrupt_pin = 1}) {
    add_bar(0, BarKind::memory32, 0x1000, low);
    add_bar(1, BarKind::io, 0x20, io);
    add_bar(2, BarKind::memory64, 0x10000, high);
    add_msix(4, 3);
    add_msi();
  }
  using Function::message_interrupts;
  using Function::msix;
  using Function::send_msi;
  using Function::set_intx;
  void bar_moved(unsigned index, std::optional<u64> address) override {
    moves.push_back({index, address});
  }
  Block low, io, high;
  std::vector<std::pair<unsigned, std::optional<u64>>> moves;
};

struct PciTest : testing::Test {
  PciTest() {
    ports.map(kConfigPort, kConfigPorts, bus.ports(), "pci");
    space.map(kEcamBase, kEcamSize, bus.ecam(), "ecam");
    bus.add(3, 0, card);
    card.reset();
    card.moves.clear();
  }
  u32 read(unsigned offset, unsigned size) {
    ports.write(0xcf8, 4, 0x80000000 | 3 << 11 | (offset & ~3u));
    return static_cast<u32>(ports.read(0xcfc + (offset & 3), size));
  }
  void write(unsigned offset, unsigned size, u32 value) {
    ports.write(0xcf8, 4, 0x80000000 | 3 << 11 | (offset & ~3u));
    ports.write(0xcfc + (offset & 3), size, value);
  }
  std::mutex lock;
  machine::Space ports{lock}, space{lock};
  Msis msis;
  Line line;
  Card card;
  Bus bus{{.ports = &ports,
           .memory = &space,
           .msi = &msis,
           .intx = [this](unsigned, unsigned) { return &line; },
           .add_doorbell = {},
           .remove_doorbell = {}}};
  u64 ecam = kEcamBase + (3 << 15);
};

TEST_F(PciTest, HeaderThroughPortsAndEcam) {
  EXPECT_EQ(read(0, 4), 0x56781234u);
  EXPECT_EQ(read(2, 2), 0x5678u);
  EXPECT_EQ(read(3, 1), 0x56u);
  EXPECT_EQ(read(8, 4), 0x02000003u);
  EXPECT_EQ(read(0x2c, 4), 0x22221111u);
  EXPECT_EQ(read(0x3d, 1), 1u);
  EXPECT_EQ(read(0x0e, 1), 0u);
  EXPECT_EQ(space.read(ecam, 4), 0x56781234u);
  EXPECT_EQ(space.read(ecam, 8) & 0xffffffff, 0x56781234u);
  EXPECT_EQ(space.read(ecam + 1, 2), 0x7812u);
  EXPECT_EQ(space.read(ecam + 0x100, 4), 0xffffffffu);           // no extended space
  EXPECT_EQ(space.read(ecam + 0x8000, 4), 0xffffffffu);          // an empty slot
  EXPECT_EQ(space.read(kEcamBase + (1 << 20), 4), 0xffffffffu);  // an empty bus
  write(0, 4, 0xdeadbeef);
  EXPECT_EQ(read(0, 4), 0x56781234u);
}

TEST_F(PciTest, AddressRegister) {
  ports.write(0xcf8, 4, 0xffffffff);
  EXPECT_EQ(ports.read(0xcf8, 4), 0x80fffffcu);
  ports.write(0xcf9, 1, 0);  // the reset register's
  ports.write(0xcf8, 2, 0);
  EXPECT_EQ(ports.read(0xcf8, 4), 0x80fffffcu);
  EXPECT_EQ(ports.read(0xcf9, 1), 0xffu);
  ports.write(0xcf8, 4, 3 << 11);  // not enabled
  EXPECT_EQ(ports.read(0xcfc, 4), 0xffffffffu);
  ports.write(0xcf8, 4, 0x80000000 | 3 << 11);
  EXPECT_EQ(ports.read(0xcfd, 4), 0xffffffffu);  // leaves the dword
}

TEST_F(PciTest, SizesBars) {
  for (unsigned at : {0x10, 0x14, 0x18, 0x1c, 0x20, 0x24}) write(at, 4, 0xffffffff);
  EXPECT_EQ(read(0x10, 4), 0xfffff000u);
  EXPECT_EQ(read(0x14, 4), 0xffffffe1u);
  EXPECT_EQ(read(0x18, 4), 0xffff0004u);
  EXPECT_EQ(read(0x1c, 4), 0xffffffffu);
  EXPECT_EQ(read(0x20, 4), 0xfffff000u);
  EXPECT_EQ(read(0x24, 4), 0u);
  EXPECT_TRUE(card.moves.empty());
}

TEST_F(PciTest, BarsFollowTheGuest) {
  write(0x10, 4, 0xc0000000);
  EXPECT_EQ(space.read(0xc0000004, 4), 0xffffffffu);  // decoding is off
  write(0x04, 2, command::memory);
  EXPECT_EQ(space.read(0xc0000004, 4), 0xa4u);
  write(0x10, 4, 0xd0000fff);  // low bits are not writable
  EXPECT_EQ(space.read(0xc0000004, 4), 0xffffffffu);
  EXPECT_EQ(space.read(0xd0000008, 4), 0xa8u);
  write(0x04, 2, 0);
  EXPECT_EQ(space.read(0xd0000008, 4), 0xffffffffu);
  EXPECT_EQ(card.moves.size(), 4u);

  write(0x14, 4, 0xc001);
  write(0x04, 2, command::io);
  EXPECT_EQ(ports.read(0xc003, 1), 0xa3u);
  ports.write(0xc01f, 1, 7);
  EXPECT_EQ(card.io.last, std::pair(u64{0x1f}, u64{7}));
  EXPECT_EQ(ports.read(0xc020, 1), 0xffu);
}

TEST_F(PciTest, WideBars) {
  write(0x04, 2, command::memory);
  write(0x18, 4, 0x80000000);
  EXPECT_EQ(space.read(0x80000000, 1), 0xa0u);
  write(0x1c, 4, 0x12);
  EXPECT_EQ(space.read(0x80000000, 1), 0xffu);
  EXPECT_EQ(space.read(0x12'8000'0000, 1), 0xa0u);
  card.reset();
  EXPECT_EQ(space.read(0x12'8000'0000, 1), 0xffu);
  EXPECT_EQ(read(0x18, 4), 4u);
}

TEST_F(PciTest, HostileBarsAreNotMapped) {
  write(0x04, 2, command::memory | command::io);
  std::string before = space.dump() + ports.dump();
  write(0x10, 4, 0xffffffff);
  EXPECT_FALSE(card.bar_address(0));
  write(0x14, 4, 0xffffffff);
  EXPECT_FALSE(card.bar_address(1));
  write(0x14, 4, 0x12340001);  // beyond 64 Ki ports
  EXPECT_FALSE(card.bar_address(1));
  write(0x18, 4, 0xffffffff);
  EXPECT_FALSE(card.bar_address(2));
  write(0x1c, 4, 0xffffffff);
  EXPECT_FALSE(card.bar_address(2));
  write(0x18, 4, 0);
  write(0x1c, 4, 0x4000);  // 2^46
  EXPECT_FALSE(card.bar_address(2));
  write(0x1c, 4, 0x3fff);
  write(0x18, 4, 0xffff0000);  // the last 64 KiB below it: the end is what sizing leaves
  EXPECT_FALSE(card.bar_address(2));
  EXPECT_EQ(space.dump() + ports.dump(), before);
  write(0x18, 4, 0xfffe0000);
  EXPECT_TRUE(card.bar_address(2));
}

TEST_F(PciTest, TwoBarsMaySwap) {
  write(0x10, 4, 0xc0000000);
  write(0x20, 4, 0xc0010000);
  write(0x04, 2, command::memory);
  write(0x10, 4, 0xc0010000);  // over the MSI-X table for a moment
  write(0x20, 4, 0xc0000000);
  EXPECT_EQ(space.read(0xc0010004, 4), 0xa4u);
  EXPECT_EQ(space.read(0xc000000c, 4), 1u);  // vector control: masked
}

TEST_F(PciTest, BarsMoveWhileOthersAccessThem) {
  write(0x10, 4, 0xc0000000);
  write(0x04, 2, command::memory);
  std::atomic<bool> ending = false;
  std::atomic<unsigned> odd = 0, hits = 0;
  std::thread vcpu([&] {
    while (!ending) {
      for (u64 at : {0xc0000008, 0xd0000008}) {
        u64 value = space.read(at, 4);
        if (value == 0xa8)
          ++hits;
        else if (value != 0xffffffff)
          ++odd;
      }
    }
  });
  for (int i = 0; i < 2000 || hits == 0; ++i) write(0x10, 4, i % 2 ? 0xc0000000 : 0xd0000000);
  ending = true;
  vcpu.join();
  EXPECT_EQ(odd, 0u);
}

TEST_F(PciTest, RandomConfigurationWrites) {
  std::string before = space.dump() + ports.dump();
  std::mt19937_64 random(7);
  for (int i = 0; i < 50'000; ++i) {
    u64 r = random();
    unsigned offset = r % 4 ? 4 + (r >> 8) % 0x24 : (r >> 8) % 256;
    unsigned size = 1u << (r >> 20) % 3;
    card.config_write(offset & ~(size - 1), size, static_cast<u32>(r % 16 ? random() : ~u64{0}));
    card.msix()->trigger((r >> 24) % 4);
    for (unsigned bar = 0; bar < 6; ++bar)
      if (auto at = card.bar_address(bar)) {
        ASSERT_LT(*at, Function::kAddressLimit);
        ASSERT_NE(*at, 0u);
      }
  }
  EXPECT_EQ(read(0, 4), 0x56781234u);
  card.reset();
  EXPECT_EQ(space.dump() + ports.dump(), before);
}

TEST_F(PciTest, Intx) {
  card.set_intx(true);
  EXPECT_TRUE(line.level);
  EXPECT_TRUE(read(0x06, 2) & kStatusInterrupt);
  write(0x04, 2, command::intx_disable);
  EXPECT_FALSE(line.level);
  EXPECT_TRUE(read(0x06, 2) & kStatusInterrupt);
  write(0x04, 2, 0);
  EXPECT_TRUE(line.level);
  card.reset();
  EXPECT_FALSE(line.level);
}

TEST_F(PciTest, CapabilityList) {
  ASSERT_TRUE(read(0x06, 2) & kStatusCapabilities);
  unsigned at = read(0x34, 1);
  EXPECT_EQ(read(at, 1), 0x11u);
  EXPECT_EQ(read(at + 2, 2), 2u);  // three vectors
  EXPECT_EQ(read(at + 4, 4), 4u);  // table in BAR 4 at 0
  EXPECT_EQ(read(at + 8, 4), 64u | 4);
  at = read(at + 1, 1);
  EXPECT_EQ(read(at, 1), 0x05u);
  EXPECT_EQ(read(at + 1, 1), 0u);
}

TEST_F(PciTest, Msix) {
  unsigned cap = card.config().find_capability(0x11);
  u64 table = 0xc0000000;
  write(0x20, 4, 0xc0000000);
  write(0x04, 2, command::memory | command::master);
  space.write(table + 16, 8, 0xfee01000);
  space.write(table + 24, 4, 0x41);
  card.msix()->trigger(1);
  EXPECT_TRUE(msis.sent.empty());
  write(cap + 2, 2, Msix::kEnable);
  EXPECT_FALSE(space.read(table + 64, 8) & 2);  // what came before was lost
  card.msix()->trigger(1);                      // the vector is masked
  EXPECT_TRUE(msis.sent.empty());
  EXPECT_EQ(space.read(table + 64, 8), 2u);
  space.write(table + 64, 8, ~u64{0});  // read-only
  EXPECT_EQ(space.read(table + 64, 8), 2u);
  space.write(table + 28, 4, 0);
  ASSERT_EQ(msis.sent.size(), 1u);
  EXPECT_EQ(msis.sent[0], (machine::MsiMessage{0xfee01000, 0x41}));
  EXPECT_EQ(space.read(table + 64, 8), 0u);
  write(cap + 2, 2, Msix::kEnable | Msix::kFunctionMask);
  card.msix()->trigger(1);
  EXPECT_EQ(msis.sent.size(), 1u);
  write(cap + 2, 2, Msix::kEnable);
  EXPECT_EQ(msis.sent.size(), 2u);
  write(0x04, 2, command::memory);  // no bus master, no message
  card.msix()->trigger(1);
  EXPECT_EQ(msis.sent.size(), 2u);
  card.msix()->trigger(77);
  EXPECT_EQ(space.read(table + 0xff8, 8), 0u);
  space.write(table + 0xffc, 8, 1);
}

TEST_F(PciTest, Msi) {
  unsigned cap = card.config().find_capability(0x05);
  write(cap + 4, 4, 0xfee00000);
  write(cap + 12, 2, 0x30);
  card.send_msi();
  EXPECT_TRUE(msis.sent.empty());
  write(cap + 2, 2, 1);
  write(0x04, 2, command::master);
  card.set_intx(true);
  EXPECT_FALSE(line.level);  // MSI replaces the pin
  card.send_msi();
  ASSERT_EQ(msis.sent.size(), 1u);
  EXPECT_EQ(msis.sent[0], (machine::MsiMessage{0xfee00000, 0x30}));
}

TEST_F(PciTest, SaveAndLoad) {
  write(0x10, 4, 0xc0000000);
  write(0x3c, 1, 11);
  write(0x04, 2, command::memory | command::master);
  card.set_intx(true);
  state::Image image;
  card.save(image);
  bus.save(image);
  card.reset();
  EXPECT_FALSE(line.level);
  ASSERT_TRUE(card.load(image));
  ASSERT_TRUE(bus.load(image));
  EXPECT_EQ(space.read(0xc0000004, 4), 0xa4u);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(read(0x3c, 1), 11u);

  Function::State state;
  ASSERT_TRUE(image.get("card.pci", state));
  state.config[0x08] = 0x99;  // read-only bits of an image have no effect
  image.put("card.pci", state);
  ASSERT_TRUE(card.load(image));
  EXPECT_EQ(read(0x08, 1), 3u);
  state.config[0] = 0;
  image.put("card.pci", state);
  EXPECT_FALSE(card.load(image));
  state.config[0] = 0x34;
  state.msix.table.resize(9);
  image.put("card.pci", state);
  EXPECT_FALSE(card.load(image));
  EXPECT_EQ(space.read(0xc0000004, 4), 0xa4u);
}

TEST_F(PciTest, SeveralFunctions) {
  Card second;
  bus.add(3, 1, second);
  EXPECT_EQ(read(0x0e, 1), 0x80u);
  card.reset();
  EXPECT_EQ(read(0x0e, 1), 0x80u);
  EXPECT_EQ(space.read(ecam + 0x1000, 4), 0x56781234u);
  EXPECT_EQ(bus.free_device(3), 4u);
}

TEST(Chipset, HostBridge) {
  HostBridge mch;
  Bus bus{Wiring{}};
  bus.add(0, 0, mch);
  unsigned told = 0;
  mch.pam_changed = [&](std::span<const u8, 7> pam) { told = pam[1]; };
  mch.reset();
  EXPECT_EQ(mch.config_read(0, 4), 0x29c08086u);
  EXPECT_EQ(mch.config_read(8, 4) >> 8, 0x060000u);
  // What SeaBIOS and OVMF do: off, high half, low half with the enable bit.
  mch.config_write(0x60, 4, 0);
  mch.config_write(0x64, 4, 0);
  mch.config_write(0x60, 4, 0xb0000001);
  EXPECT_EQ(mch.config_read(0x60, 4), 0xb0000001u);
  mch.config_write(0x91, 1, 0x33);
  EXPECT_EQ(told, 0x33u);
}

TEST(Chipset, LpcRoutesInterrupts) {
  std::mutex lock;
  machine::Space space(lock);
  std::array<Line, 8> apic;
  std::array<Line, 16> pic;
  Lpc::Outputs outputs;
  for (unsigned i = 0; i < 8; ++i) outputs.apic[i] = &apic[i];
  for (unsigned i = 0; i < 16; ++i) outputs.pic[i] = &pic[i];
  Lpc lpc(0x600, outputs);
  Bus bus{{.ports = {},
           .memory = &space,
           .msi = {},
           .intx = {},
           .add_doorbell = {},
           .remove_doorbell = {}}};
  bus.add(31, 0, lpc);
  std::optional<u16> pm;
  lpc.pm_base_changed = [&](std::optional<u16> base) { pm = base; };
  lpc.reset();
  EXPECT_EQ(pm, 0x600);
  machine::IrqLine* a = lpc.pirq(0);
  machine::IrqLine* b = lpc.pirq(0);
  machine::IrqLine* e = lpc.pirq(4);
  a->set(true);
  b->set(true);
  EXPECT_TRUE(apic[0].level);
  EXPECT_FALSE(pic[10].level);  // not routed after reset
  lpc.config_write(0x60, 1, 10);
  EXPECT_TRUE(pic[10].level);
  a->set(false);
  EXPECT_TRUE(apic[0].level && pic[10].level);  // b still holds it
  lpc.config_write(0x68, 1, 10);
  e->set(true);
  b->set(false);
  EXPECT_FALSE(apic[0].level);
  EXPECT_TRUE(apic[4].level && pic[10].level);
  lpc.config_write(0x68, 1, 0x80);
  EXPECT_FALSE(pic[10].level);
  lpc.config_write(0x68, 1, 2);  // reserved inputs stay alone
  EXPECT_FALSE(pic[2].level);

  lpc.config_write(0x40, 4, 0xb001);
  EXPECT_EQ(pm, 0xb000);
  lpc.config_write(0x44, 1, 0);
  EXPECT_FALSE(pm);
  lpc.config_write(0xf0, 4, 0xfed1c001);
  EXPECT_EQ(space.read(0xfed1f404, 4), 0u);
  lpc.config_write(0xf0, 4, 0xfed1c000);
  EXPECT_EQ(space.read(0xfed1f404, 4), 0xffffffffu);
}

}  // namespace
}  // namespace skerry::pci
