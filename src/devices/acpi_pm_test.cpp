#include "devices/acpi_pm.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct AcpiTest : testing::Test {
  u64 in(u64 at, unsigned size) { return pm.block().read(at, size); }
  void out(u64 at, unsigned size, u64 value) { pm.block().write(at, size, value); }

  machine::ManualSurroundings around;
  FakeControl control;
  machine::ProbeLine sci;
  AcpiPm pm{around, control, sci, {}};
};

TEST_F(AcpiTest, TimerRate) {
  EXPECT_EQ(in(8, 4), 0u);
  around.advance(1'000'000'000);
  EXPECT_EQ(in(8, 4), 3579545u);
  around.advance(Nanos{3600} * 1'000'000'000);
  EXPECT_EQ(in(8, 4), static_cast<u32>(3601 * u64{3579545}));
  EXPECT_EQ(in(10, 2), static_cast<u32>(3601 * u64{3579545}) >> 16);
  AcpiPm narrow(around, control, sci, {.timer_32bit = false});
  EXPECT_EQ(narrow.block().read(8, 4), 3601 * u64{3579545} & 0xffffff);
}

TEST_F(AcpiTest, TimerOverflowInterrupts) {
  AcpiPm narrow(around, control, sci, {.timer_32bit = false});
  narrow.enable_acpi();
  narrow.block().write(2, 2, 1);
  around.advance(2'343'000'000);
  EXPECT_FALSE(sci.level);
  around.advance(1'000'000);  // 2^23 ticks are 2.3435 s
  EXPECT_TRUE(sci.level);
  EXPECT_EQ(narrow.block().read(0, 2), 1u);
  narrow.block().write(0, 2, 1);
  EXPECT_FALSE(sci.level);
  around.advance(2'344'000'000);
  EXPECT_TRUE(sci.level);
}

TEST_F(AcpiTest, SmiCommandSwitchesAcpiOn) {
  EXPECT_EQ(in(4, 2) & 1, 0u);
  pm.smi_command().write(0, 1, AcpiPm::kAcpiEnable);
  EXPECT_EQ(in(4, 2) & 1, 1u);
  out(4, 2, 0);
  EXPECT_EQ(in(4, 2) & 1, 1u) << "SCI_EN is not the OS's to write";
  pm.smi_command().write(0, 1, AcpiPm::kAcpiDisable);
  EXPECT_EQ(in(4, 2) & 1, 0u);
}

TEST_F(AcpiTest, PowerButton) {
  pm.enable_acpi();
  pm.press_power_button();
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in(0, 2), 0x100u);
  out(2, 2, 0x100);
  EXPECT_TRUE(sci.level);
  out(0, 2, 0x100);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in(0, 2), 0u);
}

TEST_F(AcpiTest, Gpe0) {
  pm.enable_acpi();
  pm.raise_gpe(1);
  pm.raise_gpe(63);
  pm.raise_gpe(64);
  EXPECT_EQ(in(0x20, 8), u64{1} << 63 | 2);
  out(0x28, 1, 2);
  EXPECT_TRUE(sci.level);
  out(0x20, 1, 2);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in(0x20, 8), u64{1} << 63);
}

TEST_F(AcpiTest, SoftOff) {
  out(4, 2, 0x2000 | 5 << 10);
  EXPECT_TRUE(control.requests.empty()) << "not the type of S5";
  out(4, 2, 0x2001);
  EXPECT_TRUE(control.asked(machine::Request::power_off));
  EXPECT_EQ(in(4, 2) & 0x2000, 0u) << "SLP_EN reads as 0";
}

TEST_F(AcpiTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<AcpiPm::State>().empty());
  pm.enable_acpi();
  out(2, 2, 0x121);
  out(0x28, 4, 0x55);
  pm.press_power_button();
  machine::ProbeLine sci2;
  AcpiPm other(around, control, sci2, {});
  move_state(pm, other);
  EXPECT_TRUE(sci2.level);
  other.reset();
  EXPECT_FALSE(sci2.level);
}

}  // namespace
}  // namespace skerry::devices
