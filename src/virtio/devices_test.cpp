// What each other virtio device does with good requests, and with bad ones of its own kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "virtio/console.hpp"
#include "virtio/fake_driver.hpp"
#include "virtio/rng.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kBasic = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;
using B = FakeDriver::Buffer;

i64 length_of(std::optional<FakeDriver::Used> used) {
  return used ? i64{used->length} : -1;
}

TEST(RngTest, FillsBuffersWithinBounds) {
  Rig rig;
  u8 next = 0;
  rig.plug(std::make_unique<Rng>("rng0", [&](std::span<u8> to) {
    ASSERT_LE(to.size(), 256u);
    for (u8& b : to) b = ++next;
  }));
  FakeDriver driver(rig, 1);
  ASSERT_TRUE(driver.start(kBasic));
  Gpa a = driver.allocate(10), b = driver.allocate(20);
  driver.put(0, {{a, 10, true}, {b, 20, true}});
  driver.put(0, {{0x20'0000 + MiB, 8 * MiB, true}});
  driver.put(0, {{a, 10, false}});  // nothing to fill
  driver.kick(0);
  EXPECT_EQ(length_of(driver.wait_used(0)), 30);
  EXPECT_EQ(driver.text(b, 1), std::string(1, 11));
  EXPECT_EQ(length_of(driver.wait_used(0)), i64{Rng::kMost});
  EXPECT_EQ(length_of(driver.wait_used(0)), 0);
}

TEST(RngTest, ARateIsKept) {
  Rig rig;
  rig.plug(std::make_unique<Rng>("rng0", Rng::Limit{1000, rig.clock, rig.environment()}));
  FakeDriver driver(rig, 1);
  ASSERT_TRUE(driver.start(kFeatureVersion1));
  auto given = [&] {
    u64 bytes = 0;
    rig.run();
    while (auto used = driver.used(0)) bytes += used->length;
    return bytes;
  };
  for (int i = 0; i < 60; ++i) driver.put(0, {{driver.allocate(100), 100, true}});
  driver.kick(0);
  EXPECT_EQ(given(), 1000u) << "what came in in a second";
  for (int i = 0; i < 20; ++i) driver.kick(0);
  EXPECT_EQ(given(), 0u);
  u64 bytes = 0;
  for (int i = 0; i < 20; ++i) {
    rig.clock.advance(50'000'000);
    rig.loop->reconsider_timers();
    bytes += given();
  }
  EXPECT_GE(bytes, 900u);
  EXPECT_LE(bytes, 1000u);
  rig.clock.advance(60'000'000'000);
  EXPECT_EQ(given(), 1000u);
  // A request that waits is finished before the machine is saved, with less.
  rig.clock.advance(30'000'000);
  rig.transports[0]->quiesce();
  EXPECT_EQ(given(), 30u);
  rig.clock.advance(10'000'000'000);
  EXPECT_EQ(given(), 0u) << "nothing happens in a saved machine";
  rig.transports[0]->resume();
  EXPECT_EQ(given(), 1000u);
  // A reset leaves nothing waiting.
  ASSERT_TRUE(driver.start(kFeatureVersion1));
  rig.clock.advance(10'000'000'000);
  EXPECT_EQ(given(), 0u);
}

TEST(RngTest, HostEntropyDiffers) {
  u8 a[64] = {}, b[64] = {};
  Rng::host_entropy(a);
  Rng::host_entropy(b);
  EXPECT_NE(std::memcmp(a, b, sizeof a), 0);
}

struct ConsoleTest : testing::Test {
  ConsoleTest() {
    auto owned = std::make_unique<Console>("console0", [this](std::span<const u8> bytes) {
      output.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
    console = owned.get();
    device = &rig.plug(std::move(owned));
    driver.emplace(rig, 1);
  }
  size_t type(std::string_view text) {
    std::lock_guard guard(rig.lock);
    return console->receive({reinterpret_cast<const u8*>(text.data()), text.size()});
  }
  Rig rig;
  std::string output;
  Console* console = nullptr;
  TransportPci* device = nullptr;
  std::optional<FakeDriver> driver;
};

TEST_F(ConsoleTest, Output) {
  ASSERT_TRUE(driver->start(kBasic));
  driver->put(1, {{driver->place("hello, "), 7, false}, {driver->place("world\n"), 6, false}});
  driver->kick(1);
  ASSERT_TRUE(driver->wait_used(1));
  EXPECT_EQ(output, "hello, world\n");
  driver->put(1, {{0, 16 * MiB, false}});
  driver->kick(1);
  ASSERT_TRUE(driver->wait_used(1));
  EXPECT_EQ(output.size(), 13 + Console::kLongest);
}

TEST_F(ConsoleTest, Input) {
  EXPECT_EQ(type("early "), 6u);  // waits for the driver
  ASSERT_TRUE(driver->start(kBasic | Console::kFeatureSize));
  EXPECT_EQ(driver->read_config(0, 2), 80u);
  EXPECT_EQ(driver->read_config(2, 2), 25u);
  Gpa a = driver->allocate(4), b = driver->allocate(64);
  driver->put(0, {{a, 4, true}});
  driver->kick(0);
  EXPECT_EQ(length_of(driver->wait_used(0)), 4);
  EXPECT_EQ(driver->text(a, 4), "earl");
  driver->put(0, {{b, 64, true}});
  driver->kick(0);
  EXPECT_EQ(length_of(driver->wait_used(0)), 2);
  driver->put(0, {{b, 64, true}});
  driver->kick(0);
  rig.run();
  EXPECT_FALSE(driver->used(0));  // nothing to say
  type("late");
  EXPECT_EQ(length_of(driver->wait_used(0)), 4);
  EXPECT_EQ(driver->text(b, 4), "late");
}

TEST_F(ConsoleTest, InputIsBounded) {
  int room = 0;
  console->has_room = [&] { ++room; };
  std::string much(100 * KiB, 'm');
  EXPECT_EQ(type(much), Console::kPending);
  EXPECT_EQ(type("x"), 0u);
  ASSERT_TRUE(driver->start(kBasic));
  driver->put(0, {{driver->allocate(100), 100, true}});
  driver->kick(0);
  ASSERT_TRUE(driver->wait_used(0));
  EXPECT_EQ(room, 1);
  EXPECT_EQ(console->room(), 100u);
}

TEST_F(ConsoleTest, PendingInputSurvivesASave) {
  ASSERT_TRUE(driver->start(kBasic));
  type("waiting");
  state::Image image;
  {
    std::lock_guard guard(rig.lock);
    device->quiesce();
  }
  driver->put(0, {{driver->allocate(16), 16, true}});
  type("!");
  EXPECT_FALSE(driver->used(0));  // quiesced: only remembered
  device->save(image);
  Console fresh("console0", [](std::span<const u8>) {});
  ASSERT_TRUE(fresh.load(image));
  EXPECT_EQ(fresh.room(), Console::kPending - 8);
  ASSERT_TRUE(device->load(image));
  {
    std::lock_guard guard(rig.lock);
    device->resume();
  }
  auto used = driver->wait_used(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 8u);
}

TEST_F(ConsoleTest, EmergencyWrite) {
  driver->set(TransportPci::kDevice + 8, 4, 'E');
  EXPECT_EQ(output, "E");
}

}  // namespace
}  // namespace skerry::virtio
