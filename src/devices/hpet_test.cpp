#include "devices/hpet.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct HpetTest : testing::Test {
  Hpet::Wiring wiring() {
    Hpet::Wiring w;
    w.routes = 0x00f00004;
    w.pin = [this](unsigned pin) -> machine::IrqLine& { return pins[pin]; };
    w.irq0 = &irq0;
    w.irq8 = &irq8;
    w.legacy = [this](bool on) { legacy = on; };
    return w;
  }
  u64 get(u64 reg) { return hpet.read(reg, 8); }
  void put(u64 reg, u64 value) { hpet.write(reg, 8, value); }

  machine::ManualSurroundings around;
  std::array<machine::ProbeLine, 32> pins;
  machine::ProbeLine irq0, irq8;
  bool legacy = false;
  Hpet hpet{around, wiring()};
};

TEST_F(HpetTest, Capabilities) {
  EXPECT_EQ(get(0), 0x009896808086a201u);
  EXPECT_EQ(hpet.read(4, 4), 10'000'000u) << "femtoseconds a tick";
  EXPECT_EQ(get(0x100) >> 32, 0x00f00004u);
  EXPECT_EQ(get(0x100) & 0x8030, 0x30u) << "periodic, 64 bits, no FSB";
  EXPECT_EQ(hpet.read(0x3f8, 8), 0u);
  EXPECT_EQ(hpet.read(0x400, 4), ~u64{0});
}

TEST_F(HpetTest, CounterRunsHaltsAndIsSet) {
  around.advance(12345);
  EXPECT_EQ(get(0xf0), 0u);
  put(0x10, 1);
  around.advance(1'000'000);
  EXPECT_EQ(get(0xf0), 100'000u);
  EXPECT_EQ(hpet.read(0xf4, 4), 0u);
  put(0x10, 0);
  around.advance(500);
  EXPECT_EQ(get(0xf0), 100'000u);
  put(0xf0, 0x1'0000'0000);
  put(0x10, 1);
  around.advance(100);
  EXPECT_EQ(get(0xf0), 0x1'0000'000au);
}

// How Linux uses a one-shot timer: 32-bit mode, edge, comparator a little ahead.
TEST_F(HpetTest, OneShotEdge) {
  put(0x10, 1);
  put(0x120, 4 | 0x100 | 20 << 9);
  hpet.write(0x128, 4, hpet.read(0xf0, 4) + 500);
  around.advance(4999);
  EXPECT_EQ(pins[20].edges, 0u);
  around.advance(1);
  EXPECT_EQ(pins[20].edges, 1u);
  EXPECT_FALSE(pins[20].level);
  around.advance(1'000'000'000);
  EXPECT_EQ(pins[20].edges, 1u);
  around.advance(42'949'672'960 - 1'000'000'000);
  EXPECT_EQ(pins[20].edges, 2u) << "32 bits come round again";
}

TEST_F(HpetTest, PassedComparatorWaits) {
  put(0x10, 1);
  around.advance(10'000);
  put(0x100, 4 | 20 << 9);
  put(0x108, 999);
  around.advance(10'000'000'000);
  EXPECT_EQ(pins[20].edges, 0u);
}

// Linux's hpet_set_periodic: accumulator under VAL_SET, then the period.
TEST_F(HpetTest, Periodic) {
  put(0x10, 1);
  around.advance(1000);
  put(0x100, 4 | 8 | 0x40 | 0x100 | 20 << 9);
  hpet.write(0x108, 4, 100 + 5000);
  EXPECT_FALSE(get(0x100) & 0x40) << "VAL_SET clears itself";
  hpet.write(0x108, 4, 5000);
  EXPECT_EQ(hpet.read(0x108, 4), 5100u);
  around.advance_to(1000 + 10 * 50'000 - 1);
  EXPECT_EQ(pins[20].edges, 9u);
  around.advance(1);
  EXPECT_EQ(pins[20].edges, 10u);
  EXPECT_EQ(hpet.read(0x108, 4), 55'100u);
}

TEST_F(HpetTest, FastestPeriodIsBounded) {
  put(0x10, 1);
  put(0x100, 4 | 8 | 0x40 | 20 << 9);
  put(0x108, 1);
  u64 before = around.fired();
  around.advance(1'000'000);
  EXPECT_LT(around.fired() - before, 200u);
  EXPECT_GT(pins[20].edges, 10u);
}

TEST_F(HpetTest, LevelHoldsUntilCleared) {
  put(0x10, 1);
  put(0x140, 2 | 4 | 21 << 9);
  put(0x148, 100);
  around.advance(1000);
  EXPECT_TRUE(pins[21].level);
  EXPECT_EQ(get(0x20), 4u);
  put(0x20, 3);
  EXPECT_TRUE(pins[21].level);
  put(0x20, 4);
  EXPECT_FALSE(pins[21].level);
  EXPECT_EQ(get(0x20), 0u);
}

TEST_F(HpetTest, LegacyReplacement) {
  put(0x100, 4);
  put(0x108, 100);
  put(0x120, 4);
  put(0x128, 200);
  put(0x10, 3);
  EXPECT_TRUE(legacy);
  around.advance(1000);
  EXPECT_EQ(irq0.edges, 1u);
  around.advance(1000);
  EXPECT_EQ(irq8.edges, 1u);
  put(0x10, 1);
  EXPECT_FALSE(legacy);
  put(0x10, 3);
  hpet.reset();
  EXPECT_FALSE(legacy);
}

TEST_F(HpetTest, UnroutedTimerIsSilent) {
  put(0x10, 1);
  put(0x100, 4 | 5 << 9);
  put(0x108, 100);
  around.advance(10'000);
  EXPECT_EQ(pins[5].edges, 0u);
}

TEST_F(HpetTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Hpet::State>().empty());
  around.advance(777);
  put(0x10, 1);
  put(0x100, 4 | 8 | 0x40 | 20 << 9);
  put(0x108, 5000);
  put(0x140, 2 | 4 | 21 << 9);
  put(0x148, 100);
  around.advance(2500);
  std::array<machine::ProbeLine, 32> pins2;
  auto w = wiring();
  w.pin = [&](unsigned pin) -> machine::IrqLine& { return pins2[pin]; };
  Hpet other(around, w);
  move_state(hpet, other);
  EXPECT_TRUE(pins2[21].level);
  EXPECT_EQ(other.read(0xf0, 8), get(0xf0));
  unsigned before = pins[20].edges;
  around.advance(500'000);
  EXPECT_EQ(pins2[20].edges, pins[20].edges - before);
  EXPECT_EQ(pins2[20].edges, 10u);
}

}  // namespace
}  // namespace skerry::devices
