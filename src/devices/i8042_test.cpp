#include "devices/i8042.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct I8042Test : testing::Test {
  u8 status(I8042& kbc) { return static_cast<u8>(kbc.command_port().read(0, 1)); }
  u8 status() { return status(kbc); }
  void command(u8 value) { kbc.command_port().write(0, 1, value); }
  void data(u8 value) { kbc.data_port().write(0, 1, value); }
  void mouse(u8 value) { command(0xd4), data(value); }
  /// All bytes waiting, in hex; those of the aux port with an m.
  std::string drain(I8042& kbc) {
    std::string text;
    for (int i = 0; i < 100 && (status(kbc) & 1); ++i) {
      bool aux = status(kbc) & 0x20;
      text += fmt::format("{}{:02x} ", aux ? "m" : "", kbc.data_port().read(0, 1));
    }
    return text;
  }
  std::string drain() { return drain(kbc); }

  FakeControl control;
  machine::ProbeLine irq1, irq12;
  I8042 kbc{control, irq1, irq12};
};

// The order of Linux's i8042 driver.
TEST_F(I8042Test, LinuxProbesIt) {
  command(0x20);
  EXPECT_EQ(drain(), "45 ");
  command(0x60), data(0x74);  // both ports off
  command(0xd3), data(0x5a);  // aux loop
  EXPECT_EQ(drain(), "m5a ");
  command(0xa9);
  EXPECT_EQ(drain(), "00 ");
  command(0xa7);
  command(0x20);
  EXPECT_EQ(drain(), "74 ");
  command(0xa8);
  command(0x20);
  EXPECT_EQ(drain(), "54 ");
  command(0xaa);
  EXPECT_EQ(drain(), "55 ");
  command(0x60), data(0x47);
  data(0xf2);
  EXPECT_EQ(drain(), "fa ab 41 ") << "the id, translated";
  data(0xff);
  EXPECT_EQ(drain(), "fa aa ");
  data(0xed), data(0x02);
  EXPECT_EQ(drain(), "fa fa ");
  data(0xf3), data(0x00);
  EXPECT_EQ(drain(), "fa fa ");
  data(0xf0), data(0x00);
  EXPECT_EQ(drain(), "fa fa 41 ") << "set 2, translated as everything";
  data(0xee);
  EXPECT_EQ(drain(), "ee ");
  data(0xe1);
  EXPECT_EQ(drain(), "fe ");
}

TEST_F(I8042Test, KeysAndInterrupts) {
  EXPECT_TRUE(kbc.inject_key(0x1e, true));
  EXPECT_TRUE(irq1.level);
  EXPECT_TRUE(kbc.inject_key(0x1e, false));
  EXPECT_TRUE(kbc.inject_key(0xe048, true));
  EXPECT_EQ(drain(), "1e 9e e0 48 ");
  EXPECT_EQ(irq1.edges, 4u) << "an edge for each byte";
  EXPECT_FALSE(irq1.level);
  command(0x60), data(0x05);  // translation off
  kbc.inject_key(0x1e, false);
  EXPECT_EQ(drain(), "f0 1c ");
  kbc.inject_key(0x41, true);
  EXPECT_EQ(drain(), "83 ");
  command(0x60), data(0x44);  // no interrupt
  kbc.inject_key(0x1e, true);
  EXPECT_FALSE(irq1.level);
  EXPECT_EQ(drain(), "1e ");
  EXPECT_FALSE(kbc.inject_key(0x7f00 | 0x00, true)) << "no such key";
}

TEST_F(I8042Test, EveryKeyTranslatesBack) {
  for (u16 code = 1; code <= 0x58; ++code) {
    if (code == 0x55) continue;
    if (!kbc.inject_key(code, true)) continue;
    EXPECT_EQ(drain(), fmt::format("{:02x} ", code));
    kbc.inject_key(code, false);
    EXPECT_EQ(drain(), fmt::format("{:02x} ", code | 0x80));
  }
}

TEST_F(I8042Test, DisabledKeyboardHoldsItsBytes) {
  command(0xad);
  kbc.inject_key(0x1e, true);
  EXPECT_FALSE(status() & 1);
  command(0xae);
  EXPECT_EQ(drain(), "1e ");
  data(0xf5);
  drain();
  EXPECT_FALSE(kbc.inject_key(0x1e, true)) << "scanning is off";
  data(0xf4);
  EXPECT_EQ(drain(), "fa ");
  int taken = 0;
  while (kbc.inject_key(0x1e, true)) ++taken;
  EXPECT_GE(taken, 16);
  EXPECT_LE(taken, 32);
}

TEST_F(I8042Test, Mouse) {
  command(0x60), data(0x47);
  mouse(0xff);
  EXPECT_EQ(drain(), "mfa maa m00 ");
  EXPECT_EQ(irq12.edges, 3u);
  mouse(0xf2);
  EXPECT_EQ(drain(), "mfa m00 ");
  EXPECT_FALSE(kbc.inject_mouse(1, 1, 0)) << "not reporting";
  mouse(0xf4);
  drain();
  EXPECT_TRUE(kbc.inject_mouse(-2, 3, 1));
  EXPECT_EQ(drain(), "m19 mfe m03 ");
  mouse(0xf3), mouse(40);
  EXPECT_EQ(drain(), "mfa mfa ");
  mouse(0xe9);
  EXPECT_EQ(drain(), "mfa m21 m02 m28 ");
  mouse(0xab);
  EXPECT_EQ(drain(), "mfe ");
}

TEST_F(I8042Test, ResetLine) {
  command(0xfe);
  EXPECT_TRUE(control.asked(machine::Request::reset));
  control.requests.clear();
  command(0xd1), data(0xdf);
  EXPECT_TRUE(control.requests.empty()) << "A20";
  command(0xff);
  EXPECT_TRUE(control.requests.empty());
  command(0xd1), data(0xde);
  EXPECT_TRUE(control.asked(machine::Request::reset));
  command(0xd0);
  EXPECT_TRUE(kbc.data_port().read(0, 1) & 2) << "A20 is on";
}

TEST_F(I8042Test, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<I8042::State>().empty());
  kbc.inject_key(0x1e, true);
  kbc.inject_key(0xe048, false);
  data(0xed);
  command(0xd4);
  machine::ProbeLine line1, line12;
  I8042 other(control, line1, line12);
  move_state(kbc, other);
  EXPECT_TRUE(line1.level);
  for (I8042* k : {&kbc, &other}) k->data_port().write(0, 1, 0xf2);  // for the mouse
  auto expected = drain();
  EXPECT_EQ(drain(other), expected);
  EXPECT_EQ(expected, "1e e0 c8 fa mfa m00 ");
  I8042::State bad;
  bad.keyboard.count = 32;
  EXPECT_FALSE(accepts(other, bad));
  bad = {};
  bad.pending = 0x80;
  EXPECT_FALSE(accepts(other, bad));
}

}  // namespace
}  // namespace skerry::devices
