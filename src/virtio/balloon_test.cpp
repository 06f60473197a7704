#include "virtio/balloon.hpp"

#include <gtest/gtest.h>

#include <sys/stat.h>

#include "virtio/fake_driver.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kBase = kFeatureVersion1;
constexpr u64 kPage = Balloon::kPage;

struct Balloons : testing::Test {
  Balloons()
      : transport(rig.plug(std::make_unique<Balloon>("balloon0", *rig.memory))), driver(rig, 1) {}
  Balloon& balloon() { return static_cast<Balloon&>(transport.device()); }
  u64 used() {
    struct stat file {};
    ::fstat(rig.memory->fd(), &file);
    return static_cast<u64>(file.st_blocks) * 512;
  }
  void request(unsigned queue, const std::vector<FakeDriver::Buffer>& buffers) {
    driver.put(queue, buffers);
    driver.kick(queue);
  }
  FakeDriver::Buffer numbers(const std::vector<u32>& pages) {
    Gpa at = driver.allocate(static_cast<u32>(4 * pages.size()));
    (void)rig.memory->write(at, {reinterpret_cast<const u8*>(pages.data()), 4 * pages.size()});
    return {at, static_cast<u32>(4 * pages.size()), false};
  }
  FakeDriver::Buffer statistics(const std::vector<std::pair<u16, u64>>& list) {
    Gpa at = driver.allocate(static_cast<u32>(10 * list.size()));
    for (size_t i = 0; i < list.size(); ++i) {
      (void)rig.memory->write_value<u16>(at + 10 * i, list[i].first);
      (void)rig.memory->write_value<u64>(at + 10 * i + 2, list[i].second);
    }
    return {at, static_cast<u32>(10 * list.size()), false};
  }

  Rig rig;
  TransportPci& transport;
  FakeDriver driver;
};

TEST_F(Balloons, TheDriverIsToldOfTheTargetAndTellsHowFarItIs) {
  ASSERT_TRUE(driver.start(kBase));
  driver.enable_msix();
  EXPECT_EQ(driver.read_config(0, 4), 0u);
  balloon().set_target(1000);
  EXPECT_EQ(driver.read_config(0, 4), 1000u);
  ASSERT_EQ(rig.msis.sent.size(), 1u);
  EXPECT_EQ(rig.msis.sent[0].data, 0x44u);  // the configuration's vector
  driver.set(TransportPci::kDevice + 4, 4, 600);
  EXPECT_EQ(balloon().actual(), 600u);
  driver.set(TransportPci::kDevice, 4, 7);  // not the driver's
  EXPECT_EQ(balloon().target(), 1000u);
  EXPECT_EQ(driver.read_config(0, 4), 1000u);
  // A new driver starts with an empty balloon and the same wish.
  ASSERT_TRUE(driver.start(kBase));
  EXPECT_EQ(driver.read_config(0, 4), 1000u);
  EXPECT_EQ(driver.read_config(4, 4), 0u);
}

TEST_F(Balloons, PagesInTheBalloonGoBackToTheHostAndComeBackWhenTouched) {
  ASSERT_TRUE(driver.start(kBase));
  ASSERT_TRUE(rig.memory->fill(8 * MiB, 0x55, 4 * MiB));
  u64 before = used();
  std::vector<u32> pages;
  for (u32 i = 0; i < 256; ++i) pages.push_back(static_cast<u32>(8 * MiB / kPage) + i);
  for (u32 i = 0; i < 256; ++i) pages.push_back(static_cast<u32>(10 * MiB / kPage) - i);  // down
  request(0, {numbers(pages)});
  ASSERT_TRUE(driver.wait_used(0));
  EXPECT_LE(used(), before - 511 * kPage + 2 * kPage);
  EXPECT_EQ(*rig.memory->read_value<u32>(8 * MiB), 0u);
  EXPECT_EQ(*rig.memory->read_value<u32>(10 * MiB), 0u);
  EXPECT_EQ(*rig.memory->read_value<u32>(10 * MiB + kPage), 0x55555555u);
  EXPECT_TRUE(rig.memory->dirty().test(8 * MiB + 5 * kPage));
  request(1, {numbers(pages)});
  ASSERT_TRUE(driver.wait_used(1));
  ASSERT_TRUE(rig.memory->write_value<u32>(8 * MiB, 9));
  EXPECT_EQ(*rig.memory->read_value<u32>(8 * MiB), 9u);
}

TEST_F(Balloons, NumbersOutsideMemoryDoNothing) {
  ASSERT_TRUE(driver.start(kBase));
  ASSERT_TRUE(rig.memory->fill(8 * MiB, 0x55, kPage));
  request(0, {numbers({~0u, ~0u - 1, 0x80000000, static_cast<u32>(16 * MiB / kPage), 0xb0000})});
  ASSERT_TRUE(driver.wait_used(0));
  EXPECT_EQ(transport.guest_errors(), 0u);
  EXPECT_EQ(*rig.memory->read_value<u8>(8 * MiB), 0x55);
}

TEST_F(Balloons, FreePagesThatAreReportedGoBack) {
  // Without statistics the reporting queue moves up (5.5.2).
  for (u64 features :
       {kBase | Balloon::kReporting, kBase | Balloon::kReporting | Balloon::kStats}) {
    unsigned queue = features & Balloon::kStats ? 3 : 2;
    ASSERT_TRUE(driver.start(features));
    ASSERT_TRUE(rig.memory->fill(8 * MiB, 0x55, 4 * MiB));
    request(queue, {{8 * MiB, 2 * MiB, true}, {11 * MiB, 64 * KiB, true}});
    ASSERT_TRUE(driver.wait_used(queue));
    EXPECT_EQ(*rig.memory->read_value<u8>(8 * MiB), 0);
    EXPECT_EQ(*rig.memory->read_value<u8>(10 * MiB), 0x55);
    EXPECT_EQ(*rig.memory->read_value<u8>(11 * MiB), 0);
  }
}

TEST_F(Balloons, PoisonedPagesKeepTheirPoison) {
  ASSERT_TRUE(driver.start(kBase | Balloon::kReporting | Balloon::kPoison));
  driver.set(TransportPci::kDevice + 12, 4, 0xaaaaaaaa);
  ASSERT_TRUE(rig.memory->fill(8 * MiB, 0xaa, 64 * KiB));
  request(2, {{8 * MiB, 64 * KiB, true}});
  ASSERT_TRUE(driver.wait_used(2));
  EXPECT_EQ(*rig.memory->read_value<u8>(8 * MiB), 0xaa);
  driver.set(TransportPci::kDevice + 12, 4, 0);  // zeros are what we have
  request(2, {{8 * MiB, 64 * KiB, true}});
  ASSERT_TRUE(driver.wait_used(2));
  EXPECT_EQ(*rig.memory->read_value<u8>(8 * MiB), 0);
}

TEST_F(Balloons, StatisticsAreToldWhenAsked) {
  EXPECT_FALSE(balloon().ask_statistics());
  ASSERT_TRUE(driver.start(kBase | Balloon::kStats));
  request(2, {statistics({{4, 123456}, {99, 5}, {0, 7}})});
  rig.run();
  EXPECT_FALSE(driver.used(2)) << "the buffer waits until somebody asks";
  EXPECT_EQ(balloon().statistics()[4], 123456u);
  EXPECT_EQ(balloon().statistics()[0], 7u);
  EXPECT_FALSE(balloon().statistics()[5]);
  EXPECT_TRUE(balloon().ask_statistics());
  EXPECT_TRUE(driver.used(2));
  EXPECT_FALSE(balloon().ask_statistics());
  request(2, {statistics({{4, 99}})});
  rig.run();
  EXPECT_EQ(balloon().statistics()[4], 99u);
  EXPECT_EQ(balloon().statistics_count(), 2u);
  // Before it is saved, nothing is in flight; the driver tells again afterwards.
  transport.quiesce();
  EXPECT_TRUE(driver.used(2));
  EXPECT_FALSE(balloon().ask_statistics());
  transport.resume();
}

}  // namespace
}  // namespace skerry::virtio
