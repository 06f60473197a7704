#include "irq/lapic_fixture.hpp"

namespace skerry::irq {
namespace {

TEST_F(LapicTest, OneShotTimer) {
  Lapic& l = add(0);
  l.mmio_write(kDivide, 0xb);  // by 1
  l.mmio_write(kLvtTimer, 0x40);
  l.mmio_write(kInitial, 1000);
  EXPECT_EQ(l.timer_deadline(), 1000);
  clock.advance(400);
  EXPECT_EQ(l.mmio_read(kCurrent), 600u);
  clock.advance(599);
  l.run_timer();
  EXPECT_FALSE(l.deliverable());
  clock.advance(1);
  l.run_timer();
  EXPECT_EQ(l.acknowledge(), 0x40);
  EXPECT_EQ(l.mmio_read(kCurrent), 0u);
  EXPECT_FALSE(l.timer_deadline());
  l.mmio_write(kDivide, 0x3);  // by 16
  l.mmio_write(kInitial, 100);
  EXPECT_EQ(l.timer_deadline(), clock.now() + 1600);
  clock.advance(160);
  l.mmio_write(kDivide, 0x0);  // by 2, in flight: the count stays
  EXPECT_EQ(l.mmio_read(kCurrent), 90u);
  EXPECT_EQ(l.timer_deadline(), clock.now() + 180);
  l.mmio_write(kInitial, 0);
  EXPECT_FALSE(l.timer_deadline());
}

TEST_F(LapicTest, PeriodicTimerKeepsPhase) {
  Lapic& l = add(0);
  l.mmio_write(kDivide, 0xb);
  l.mmio_write(kLvtTimer, 0x20041);
  l.mmio_write(kInitial, 1000);
  int fired = 0;
  for (int i = 0; i < 100; ++i) {
    clock.advance(95);
    l.run_timer();
    if (l.acknowledge()) ++fired, l.mmio_write(kEoi, 0);
  }
  EXPECT_EQ(fired, 9);
  EXPECT_EQ(l.timer_deadline(), 10000);
  clock.advance(5555);  // late: one interrupt, and back in phase
  l.run_timer();
  EXPECT_EQ(take_all(l), Vectors{0x41});
  EXPECT_EQ(l.timer_deadline(), 16000);
  // Masked it runs on without waking anybody, and what expired meanwhile does not come later.
  l.mmio_write(kEoi, 0);
  l.mmio_write(kLvtTimer, 0x30041);
  EXPECT_FALSE(l.timer_deadline());
  clock.advance(5000);
  l.mmio_write(kLvtTimer, 0x20041);
  EXPECT_FALSE(l.deliverable());
  EXPECT_EQ(l.timer_deadline(), 21000);
}

TEST_F(LapicTest, TscDeadline) {
  Lapic& l = add(0);
  EXPECT_TRUE(l.write_msr(0x6e0, 5000));
  EXPECT_EQ(l.read_msr(0x6e0), 0u) << "not in that mode";
  l.mmio_write(kLvtTimer, 0x40042);
  EXPECT_TRUE(l.write_msr(0x6e0, 5000));  // 2 GHz: at 2500 ns
  EXPECT_EQ(l.read_msr(0x6e0), 5000u);
  EXPECT_EQ(l.timer_deadline(), 2500);
  l.mmio_write(kInitial, 100);
  EXPECT_EQ(l.mmio_read(kCurrent), 0u) << "initial count is ignored";
  clock.advance(2499);
  l.run_timer();
  EXPECT_FALSE(l.deliverable());
  clock.advance(1);
  l.run_timer();
  EXPECT_EQ(take_all(l), Vectors{0x42});
  EXPECT_EQ(l.read_msr(0x6e0), 0u) << "disarmed by firing";
  l.mmio_write(kEoi, 0);
  EXPECT_TRUE(l.write_msr(0x6e0, 1));  // past: at once
  EXPECT_EQ(l.timer_deadline(), clock.now());
  l.run_timer();
  EXPECT_EQ(take_all(l), Vectors{0x42});
  EXPECT_TRUE(l.write_msr(0x6e0, 9000));
  l.mmio_write(kLvtTimer, 0x42);  // leaving the mode disarms
  EXPECT_FALSE(l.timer_deadline());
}

TEST_F(LapicTest, TscDeadlineFollowsTheGuestsTsc) {
  u64 tsc = 1'000'000;
  Lapic& l = add(0);
  l.set_tsc([&] { return tsc; }, 3'000'000'000);
  l.mmio_write(kLvtTimer, 0x40042);
  l.write_msr(0x6e0, 1'000'010);
  EXPECT_EQ(l.timer_deadline(), clock.now() + 4) << "10 ticks at 3 GHz, rounded up";
  tsc = 1'000'010;
  l.run_timer();
  EXPECT_TRUE(l.deliverable());
}

}  // namespace
}  // namespace skerry::irq
