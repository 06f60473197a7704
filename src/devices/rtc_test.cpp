#include "devices/rtc.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

constexpr Nanos kSecond = 1'000'000'000;
// 2024-02-28 23:59:58 UTC, a Wednesday.
constexpr i64 kStart = 1709164798;

struct RtcTest : testing::Test {
  u8 in(Rtc& rtc, u8 index) {
    rtc.ports().write(0, 1, index);
    return static_cast<u8>(rtc.ports().read(1, 1));
  }
  u8 in(u8 index) { return in(rtc, index); }
  void out(u8 index, u8 value) {
    rtc.ports().write(0, 1, index);
    rtc.ports().write(1, 1, value);
  }
  std::string time() {
    return fmt::format("{:02x}{:02x}-{:02x}-{:02x} {:02x}:{:02x}:{:02x} {}", in(0x32), in(9), in(8),
                       in(7), in(4), in(2), in(0), in(6));
  }

  struct Around : machine::ManualSurroundings {
    Around() { manual_clock().set_wall(kStart * kSecond); }
  } around;
  machine::ProbeLine irq;
  CmosConfig config{3 * GiB, 5 * GiB, 4};
  Rtc rtc{around, irq, config};
};

TEST_F(RtcTest, TellsTheTimeOverALeapDay) {
  EXPECT_EQ(time(), "2024-02-28 23:59:58 4");
  around.advance(2 * kSecond);
  EXPECT_EQ(time(), "2024-02-29 00:00:00 5");
  around.advance(86400 * kSecond);
  EXPECT_EQ(time(), "2024-03-01 00:00:00 6");
  out(0x0b, 0x06);
  EXPECT_EQ(in(9), 24);
  EXPECT_EQ(in(0x32), 20);
}

TEST_F(RtcTest, TwelveHourFormat) {
  out(0x0b, 0x00);
  EXPECT_EQ(in(4), 0x91) << "11 pm";
  around.advance(2 * kSecond);
  EXPECT_EQ(in(4), 0x12) << "12 am";
  around.advance(12 * 3600 * kSecond);
  EXPECT_EQ(in(4), 0x92) << "12 pm";
  out(4, 0x83);
  out(0x0b, 0x02);
  EXPECT_EQ(in(4), 0x15);
}

// Linux's mc146818_get_time: reads while UIP is clear are consistent, and it is clear long enough.
TEST_F(RtcTest, UipBracketsTheUpdate) {
  around.advance(kSecond - 2'228'001);
  EXPECT_FALSE(in(0x0a) & 0x80);
  around.advance(1);
  EXPECT_TRUE(in(0x0a) & 0x80);
  around.advance(2'227'999);
  EXPECT_TRUE(in(0x0a) & 0x80);
  EXPECT_EQ(in(0), 0x58);
  around.advance(1);
  EXPECT_FALSE(in(0x0a) & 0x80);
  EXPECT_EQ(in(0), 0x59);
}

TEST_F(RtcTest, GuestSetsTheTimeUnderSet) {
  around.advance(300'000'000);
  out(0x0b, 0x82);
  out(0x32, 0x19), out(9, 0x99), out(8, 0x12), out(7, 0x31), out(4, 0x23), out(2, 0x59),
      out(0, 0x59);
  around.advance(5 * kSecond);
  EXPECT_EQ(in(0), 0x59) << "it stands still";
  EXPECT_FALSE(in(0x0a) & 0x80);
  out(0x0b, 0x02);
  EXPECT_EQ(time().substr(0, 19), "1999-12-31 23:59:59");
  around.advance(699'000'000);
  EXPECT_EQ(in(0), 0x59);
  around.advance(1'000'000);
  EXPECT_EQ(time().substr(0, 19), "2000-01-01 00:00:00") << "the phase of the second is kept";
  rtc.reset();
  EXPECT_EQ(time().substr(0, 19), "2000-01-01 00:00:00") << "and survives reset";
}

// hwclock and the kernel rely on it: after the divider's reset the first update is half a second
// away.
TEST_F(RtcTest, DividerResetGivesHalfASecond) {
  out(0x0b, 0x82);
  out(0x0a, 0x76);
  out(0, 0x10);
  around.advance(7 * kSecond);
  out(0x0b, 0x02);
  out(0x0a, 0x26);
  EXPECT_EQ(in(0), 0x10);
  around.advance(499'000'000);
  EXPECT_EQ(in(0), 0x10);
  around.advance(1'000'000);
  EXPECT_EQ(in(0), 0x11);
}

TEST_F(RtcTest, UpdateInterrupt) {
  out(0x0b, 0x12);
  around.advance(999'000'000);
  EXPECT_FALSE(irq.level);
  around.advance(1'000'000);
  EXPECT_TRUE(irq.level);
  around.advance(3 * kSecond);
  EXPECT_EQ(irq.edges, 1u) << "until register C is read";
  EXPECT_EQ(in(0x0c) & 0x90, 0x90);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(in(0x0c), 0);
  around.advance(kSecond);
  EXPECT_TRUE(irq.level);
}

TEST_F(RtcTest, FlagsAreSetWithoutInterrupts) {
  in(0x0c);
  around.advance(1'500'000'000);
  EXPECT_EQ(in(0x0c), 0x50) << "UF and PF, no IRQF";
  EXPECT_FALSE(irq.level);
}

TEST_F(RtcTest, Alarm) {
  out(1, 0x05), out(3, 0x00), out(5, 0x00);
  in(0x0c);
  out(0x0b, 0x22);
  around.advance(6'999'000'000);
  EXPECT_FALSE(irq.level);
  around.advance(1'000'000);
  EXPECT_TRUE(irq.level) << "at 00:00:05";
  EXPECT_EQ(in(0x0c) & 0xa0, 0xa0);
  around.advance(86399 * kSecond);
  EXPECT_FALSE(irq.level);
  around.advance(kSecond);
  EXPECT_TRUE(irq.level) << "and every day";
  in(0x0c);
  out(3, 0xff), out(5, 0xc0);  // every minute at :05
  around.advance(180 * kSecond);
  EXPECT_TRUE(irq.level);
  in(0x0c);
  around.advance(60 * kSecond);
  EXPECT_TRUE(irq.level);
  out(0x0b, 0x02);
  EXPECT_FALSE(irq.level);
}

TEST_F(RtcTest, PeriodicInterrupt) {
  out(0x0a, 0x2f);  // 2 Hz
  in(0x0c);
  out(0x0b, 0x42);
  int fired = 0;
  for (int i = 0; i < 1000; ++i) {
    around.advance(10'000'000);
    if (irq.level) ++fired, in(0x0c);
  }
  EXPECT_EQ(fired, 20);
  out(0x0a, 0x26);  // 1024 Hz
  unsigned edges = irq.edges;
  for (int i = 0; i < 10000; ++i) {
    around.advance(100'000);
    if (irq.level) in(0x0c);
  }
  EXPECT_NEAR(irq.edges - edges, 1024, 1);
  out(0x0a, 0x20);  // off
  in(0x0c);
  around.advance(kSecond);
  EXPECT_FALSE(irq.level);
}

TEST_F(RtcTest, CmosTellsTheMachine) {
  EXPECT_EQ(in(0x15) | in(0x16) << 8, 640);
  EXPECT_EQ(in(0x17) | in(0x18) << 8, 0xffff);
  EXPECT_EQ(in(0x30) | in(0x31) << 8, 0xffff);
  EXPECT_EQ(in(0x34) | in(0x35) << 8, (3 * 1024 - 16) * 16);
  EXPECT_EQ(in(0x5b) | in(0x5c) << 8 | in(0x5d) << 16, 5 * 1024 * 16);
  EXPECT_EQ(in(0x5f), 3);
  out(0x0f, 0x0a);
  rtc.reset();
  EXPECT_EQ(in(0x0f), 0x0a) << "the shutdown byte survives reset";
  EXPECT_EQ(in(0x8f), 0x0a) << "NMI mask bit";
  EXPECT_EQ(in(0x0d), 0x80);
  EXPECT_EQ(rtc.ports().read(0, 1), 0xffu);
}

TEST_F(RtcTest, NonsenseIsSurvived) {
  for (u8 i : {0, 2, 4, 6, 7, 8, 9, 0x32}) out(i, 0xff);
  out(0x0b, 0xff), out(0x0a, 0xff);
  for (u8 i : {0, 2, 4, 6, 7, 8, 9, 0x32}) out(i, 0xff);
  out(0x0b, 0x7f), out(0x0a, 0x01);
  around.advance(10 * kSecond);
  for (unsigned i = 0; i < 128; ++i) in(static_cast<u8>(i));
}

TEST_F(RtcTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Rtc::State>().empty());
  out(0, 0x30);
  out(6, 1);
  out(0x0b, 0x12);
  out(0x40, 0x77);
  machine::ProbeLine irq2;
  Rtc other(around, irq2, {});
  move_state(rtc, other);
  around.advance(kSecond);
  EXPECT_TRUE(irq2.level);
  for (u8 i : {0, 2, 4, 6, 7, 8, 9, 0x32, 0x40, 0x5f}) EXPECT_EQ(in(other, i), in(i)) << int(i);
  EXPECT_EQ(in(other, 0), 0x31);
  Rtc::State bad;
  bad.offset = INT64_MAX;
  EXPECT_FALSE(accepts(other, bad));
}

}  // namespace
}  // namespace skerry::devices
