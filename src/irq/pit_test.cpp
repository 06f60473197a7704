#include "irq/pit.hpp"

#include <gtest/gtest.h>

#include "machine/manual_surroundings.hpp"

namespace skerry::irq {
namespace {

struct PitTest : testing::Test {
  /// Moves to the first nanosecond of PIT tick now + n.
  void ticks(u64 n) {
    u64 now = static_cast<u64>(static_cast<u128>(around.clock().now()) * kPitHz / 1'000'000'000);
    u128 at = (static_cast<u128>(now + n) * 1'000'000'000 + kPitHz - 1) / kPitHz;
    around.advance_to(static_cast<Nanos>(at));
  }
  void control(u8 value) { pit.ports().write(3, 1, value); }
  void count(unsigned channel, u16 value) {
    pit.ports().write(channel, 1, value & 0xff);
    pit.ports().write(channel, 1, value >> 8);
  }
  u16 latched(unsigned channel) {
    control(static_cast<u8>(channel << 6));
    auto low = pit.ports().read(channel, 1);
    return static_cast<u16>(low | pit.ports().read(channel, 1) << 8);
  }
  u8 port61() { return static_cast<u8>(pit.control_port().read(0, 1)); }
  bool out2() { return port61() & 0x20; }
  void gate2(bool on) { pit.control_port().write(0, 1, on); }
  u8 status(unsigned channel) {
    control(static_cast<u8>(0xe0 | 2 << channel));
    return static_cast<u8>(pit.ports().read(channel, 1));
  }

  machine::ManualSurroundings around;
  machine::ProbeLine irq0;
  Pit pit{around, irq0};
};

// What Linux's pit_hpet_ptimer_calibrate_cpu does: 50 ms in mode 0 on channel 2, waiting for OUT2.
TEST_F(PitTest, LinuxCalibratesByChannel2) {
  pit.control_port().write(0, 1, (port61() & ~2) | 1);
  control(0xb0);
  EXPECT_FALSE(out2());
  u16 latch = 1193182 / 20;
  count(2, latch);
  ticks(latch);
  EXPECT_FALSE(out2()) << "N + 1 clocks";
  ticks(1);
  EXPECT_TRUE(out2());
  EXPECT_NEAR(around.clock().now(), 50'000'000, 2000);
}

// quick_pit_calibrate: mode 0, 0xffff, then the MSB without a latch.
TEST_F(PitTest, LinuxQuickCalibration) {
  gate2(true);
  control(0xb0);
  count(2, 0xffff);
  auto msb = [&] {
    pit.ports().read(2, 1);
    return static_cast<u8>(pit.ports().read(2, 1));
  };
  ticks(1);
  EXPECT_EQ(msb(), 0xff);
  ticks(255);
  EXPECT_EQ(msb(), 0xff);
  ticks(1);
  EXPECT_EQ(msb(), 0xfe);
  ticks(256);
  EXPECT_EQ(msb(), 0xfd);
}

TEST_F(PitTest, Mode0CountsOnceAndWrapsOn) {
  control(0x30);
  EXPECT_FALSE(irq0.level);
  count(0, 100);
  EXPECT_EQ(status(0) & 0xc0, 0x40) << "OUT low, count not yet taken";
  ticks(1);
  EXPECT_EQ(latched(0), 100);
  ticks(99);
  EXPECT_EQ(latched(0), 1);
  EXPECT_FALSE(irq0.level);
  ticks(1);
  EXPECT_TRUE(irq0.level);
  EXPECT_EQ(latched(0), 0);
  ticks(1);
  EXPECT_EQ(latched(0), 0xffff);
  EXPECT_EQ(status(0), 0x80 | 0x30);
  pit.ports().write(0, 1, 5);  // half of a new count clears OUT and stops
  EXPECT_FALSE(irq0.level);
  ticks(1000);
  EXPECT_FALSE(irq0.level);
  pit.ports().write(0, 1, 0);
  ticks(6);
  EXPECT_TRUE(irq0.level);
}

TEST_F(PitTest, Mode2InterruptsOncePerPeriodWithoutDrift) {
  control(0x34);
  count(0, 11932);  // 100 Hz, about
  irq0.edges = 0;
  around.advance_to(10'000'000'000);
  // 1193182 * 10 / 11932 = 999.98
  EXPECT_EQ(irq0.edges, 999u);
  around.advance(1'000'000);
  EXPECT_EQ(irq0.edges, 1000u);
}

TEST_F(PitTest, Mode2Counter) {
  control(0x34);
  count(0, 10);
  ticks(1);
  for (u16 want : {10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 10, 9}) {
    EXPECT_EQ(latched(0), want);
    EXPECT_EQ(status(0) >> 7, want != 1) << want;
    ticks(1);
  }
}

TEST_F(PitTest, Mode2TakesANewCountAtTheEndOfThePeriod) {
  control(0x34);
  count(0, 1000);
  ticks(1 + 100);
  count(0, 50);
  EXPECT_EQ(latched(0), 900);
  EXPECT_TRUE(status(0) & 0x40);
  ticks(900);
  EXPECT_EQ(latched(0), 50);
  EXPECT_FALSE(status(0) & 0x40);
  ticks(50);
  EXPECT_EQ(latched(0), 50);
}

TEST_F(PitTest, Mode3SquareWave) {
  gate2(true);
  control(0xb6);
  count(2, 10);
  ticks(1);
  std::string wave;
  std::vector<int> counts;
  for (int i = 0; i < 20; ++i) {
    wave += out2() ? '#' : '.';
    if (i < 10) counts.push_back(latched(2));
    ticks(1);
  }
  EXPECT_EQ(wave, "#####.....#####.....");
  EXPECT_EQ(counts, (std::vector<int>{10, 8, 6, 4, 2, 10, 8, 6, 4, 2}));
  control(0xb6);
  count(2, 7);
  ticks(1);
  wave.clear();
  for (int i = 0; i < 14; ++i, ticks(1)) wave += out2() ? '#' : '.';
  EXPECT_EQ(wave, "####...####...");
}

TEST_F(PitTest, Mode3OnChannel0) {
  control(0x36);
  count(0, 0);  // 65536: 18.2 Hz
  irq0.edges = 0;
  around.advance_to(1'000'000'000);
  EXPECT_EQ(irq0.edges, 18u);
}

TEST_F(PitTest, GatePausesMode0AndRestartsMode2) {
  gate2(true);
  control(0xb0);
  count(2, 1000);
  ticks(1 + 300);
  gate2(false);
  ticks(5000);
  EXPECT_EQ(latched(2), 700);
  EXPECT_FALSE(out2());
  gate2(true);
  ticks(699);
  EXPECT_FALSE(out2());
  ticks(1);
  EXPECT_TRUE(out2());
  control(0xb4);
  count(2, 100);
  ticks(1 + 99);
  EXPECT_FALSE(out2());
  gate2(false);
  EXPECT_TRUE(out2()) << "GATE low forces OUT high";
  ticks(33);
  gate2(true);
  ticks(1);
  EXPECT_EQ(latched(2), 100) << "its rise reloads";
}

TEST_F(PitTest, Mode1OneShotByGate) {
  control(0xb2);
  count(2, 20);
  EXPECT_TRUE(out2());
  ticks(50);
  EXPECT_TRUE(out2());
  gate2(true);
  ticks(1);
  EXPECT_FALSE(out2());
  ticks(19);
  EXPECT_FALSE(out2());
  ticks(1);
  EXPECT_TRUE(out2());
  gate2(false), gate2(true);
  ticks(1);
  EXPECT_FALSE(out2()) << "retriggered";
}

TEST_F(PitTest, Mode4Strobe) {
  control(0x38);  // what Linux uses for one-shot ticks
  EXPECT_TRUE(irq0.level);
  irq0.edges = 0;
  count(0, 500);
  ticks(1 + 500);
  EXPECT_EQ(irq0.edges, 0u);
  ticks(1);
  EXPECT_EQ(irq0.edges, 1u);
  ticks(70000);
  EXPECT_EQ(irq0.edges, 1u) << "once";
  count(0, 500);
  ticks(600);
  EXPECT_EQ(irq0.edges, 2u);
}

TEST_F(PitTest, Mode5StrobeByGate) {
  control(0xba);
  count(2, 5);
  ticks(20);
  EXPECT_TRUE(out2());
  gate2(true);
  ticks(1 + 5);
  EXPECT_FALSE(out2());
  ticks(1);
  EXPECT_TRUE(out2());
}

TEST_F(PitTest, BcdAndAccessModes) {
  gate2(true);
  control(0xb1);
  count(2, 0x1000);
  ticks(2);
  EXPECT_EQ(latched(2), 0x0999);
  control(0x90);  // low byte only
  pit.ports().write(2, 1, 77);
  ticks(2);
  EXPECT_EQ(pit.ports().read(2, 1), 76u);
  control(0xa0);  // high byte only
  pit.ports().write(2, 1, 2);
  ticks(2);
  EXPECT_EQ(pit.ports().read(2, 1), 1u);
}

TEST_F(PitTest, ReadBackLatchesStatusThenCount) {
  control(0x34);
  count(0, 1000);
  ticks(1 + 10);
  control(0xc2);
  ticks(100);
  control(0xc2);  // already latched: ignored
  EXPECT_EQ(pit.ports().read(0, 1), 0xb4u);
  u16 value = static_cast<u16>(pit.ports().read(0, 1));
  value |= static_cast<u16>(pit.ports().read(0, 1) << 8);
  EXPECT_EQ(value, 990);
}

TEST_F(PitTest, RefreshToggles) {
  u8 first = port61() & 0x10;
  around.advance(15'085);
  EXPECT_NE(port61() & 0x10, first);
}

TEST_F(PitTest, FastestPeriodIsBounded) {
  control(0x34);
  count(0, 2);
  u64 before = around.fired();
  around.advance(1'000'000);
  EXPECT_LT(around.fired() - before, 60u);
  EXPECT_GT(irq0.edges, 10u);
}

TEST_F(PitTest, MutedItIsSilent) {
  control(0x34);
  count(0, 1000);
  pit.mute_irq(true);
  EXPECT_FALSE(irq0.level);
  unsigned edges = irq0.edges;
  ticks(10000);
  EXPECT_EQ(irq0.edges, edges);
  pit.mute_irq(false);
  ticks(2000);
  EXPECT_GE(irq0.edges, edges + 2);
}

TEST_F(PitTest, ALoadRightAfterResetLeavesTheLineAlone) {
  pit.reset();
  bool level = irq0.level;
  state::Image image;
  pit.save(image);
  ASSERT_TRUE(pit.load(image));
  EXPECT_EQ(irq0.level, level);
}

TEST_F(PitTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Pit::State>().empty());
  control(0x34);
  count(0, 1000);
  gate2(true);
  control(0xb0);
  count(2, 5000);
  ticks(333);
  pit.ports().write(0, 1, 0x10);  // in the middle of a write
  control(0x80);                  // and of a latched read
  pit.ports().read(2, 1);
  state::Image image;
  pit.save(image);
  machine::ProbeLine line2;
  Pit other(around, line2);
  ASSERT_TRUE(other.load(image));
  state::Image again;
  other.save(again);
  EXPECT_EQ(image.serialize(), again.serialize());
  EXPECT_EQ(pit.ports().read(2, 1), other.ports().read(2, 1));
  unsigned a = irq0.edges, b = line2.edges;
  ticks(5555);
  EXPECT_EQ(irq0.edges - a, line2.edges - b);
  EXPECT_EQ(irq0.edges - a, 5u);
  EXPECT_EQ(other.control_port().read(0, 1), pit.control_port().read(0, 1));
  pit.ports().write(0, 1, 0x01);
  other.ports().write(0, 1, 0x01);
  ticks(4000);
  EXPECT_EQ(irq0.edges - a, line2.edges - b);

  Pit::State bad;
  bad.channel[0].reload_at = 5;
  image.put("pit", bad);
  EXPECT_FALSE(other.load(image));
}

}  // namespace
}  // namespace skerry::irq
