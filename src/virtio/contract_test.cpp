// What every virtio device must keep, whatever it is: negotiation, reset, save and load in mid-use,
// and a driver that breaks every rule.
#include <gtest/gtest.h>

#include <random>

#include "virtio/contract_kinds.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kAll = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;
using B = FakeDriver::Buffer;

struct Contract : testing::TestWithParam<Kind> {
  Contract() : device(rig.plug(GetParam().make(rig))), driver(rig, 1), queue(GetParam().queue) {}

  /// A well-formed request that every device answers in its way.
  std::vector<B> request() {
    Gpa in = driver.allocate(16), out = driver.allocate(64);
    (void)rig.memory->write_value<u8>(in, GetParam().request);
    return {{in, 16, false}, {out, 64, true}};
  }
  void expect_works() {
    u16 head = driver.put(queue, request());
    driver.kick(queue);
    auto used = driver.wait_used(queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_FALSE(driver.status() & TransportPci::kNeedsReset);
  }
  /// After a broken queue: the device says so, stays quiet, and works again after a reset.
  void expect_broken_and_mendable() {
    driver.kick(queue);
    rig.run();
    EXPECT_TRUE(driver.status() & TransportPci::kNeedsReset);
    EXPECT_GE(device.guest_errors(), 1u);
    EXPECT_FALSE(driver.used(queue));
    driver.kick(queue);
    rig.run();
    EXPECT_FALSE(driver.used(queue));
    ASSERT_TRUE(driver.start(kAll));
    EXPECT_FALSE(driver.status() & TransportPci::kNeedsReset);
    expect_works();
  }

  Rig rig;
  TransportPci& device;
  FakeDriver driver;
  unsigned queue;
};

TEST_P(Contract, LooksLikeVirtio) {
  EXPECT_EQ(driver.config_read(0, 4), 0x1af4u | (0x1040u + device.device().id()) << 16);
  EXPECT_EQ(driver.config_read(8, 1), 1u);
  unsigned seen = 0;
  for (unsigned at = driver.config_read(0x34, 1); at; at = driver.config_read(at + 1, 1)) {
    if (driver.config_read(at, 1) != 9) continue;
    unsigned type = driver.config_read(at + 3, 1);
    seen |= 1 << type;
    if (type == 5) continue;
    u64 end = u64{driver.config_read(at + 8, 4)} + driver.config_read(at + 12, 4);
    EXPECT_LE(end, TransportPci::kBarSize);
    EXPECT_EQ(driver.config_read(at + 4, 1), TransportPci::kBar);
  }
  bool has_config = !device.device().config().empty();
  EXPECT_EQ(seen, 1u << 1 | 1u << 2 | 1u << 3 | (has_config ? 1u << 4 : 0) | 1u << 5);
  EXPECT_EQ(driver.offered() & kAll, kAll);
}

TEST_P(Contract, AnswersARequest) {
  for (u64 features : {kFeatureVersion1, kAll}) {
    ASSERT_TRUE(driver.start(features));
    for (int i = 0; i < 200; ++i) expect_works();
  }
}

TEST_P(Contract, RefusesBadFeatures) {
  EXPECT_FALSE(driver.negotiate(0));
  EXPECT_FALSE(driver.negotiate(kAll | u64{1} << 40));
  driver.set_up_queue(queue);
  driver.driver_ok();  // without FEATURES_OK
  EXPECT_FALSE(driver.status() & TransportPci::kDriverOk);
  EXPECT_TRUE(driver.negotiate(kAll));
  driver.set(FakeDriver::driver_feature_select, 4, 1);
  driver.set(FakeDriver::driver_feature, 4, 0);  // too late
  EXPECT_EQ(driver.get(FakeDriver::driver_feature, 4), kAll >> 32);
}

TEST_P(Contract, DoesNothingBeforeDriverOk) {
  ASSERT_TRUE(driver.negotiate(kAll));
  driver.set_up_queue(queue);
  driver.put(queue, request());
  driver.kick(queue);
  rig.run();
  EXPECT_FALSE(driver.used(queue));
  driver.driver_ok();  // what is there already is served
  EXPECT_TRUE(driver.wait_used(queue));
}

TEST_P(Contract, DoesNothingWithoutBusMaster) {
  ASSERT_TRUE(driver.start(kAll));
  driver.config_write(4, 2, pci::command::memory);
  driver.put(queue, request());
  driver.kick(queue);
  rig.run();
  EXPECT_FALSE(driver.used(queue));
  driver.config_write(4, 2, pci::command::memory | pci::command::master);
  EXPECT_TRUE(driver.wait_used(queue));
}

TEST_P(Contract, QueueSetup) {
  ASSERT_TRUE(driver.negotiate(kAll));
  auto get = [&](u32 field, unsigned size) { return driver.get(field, size); };
  driver.set(FakeDriver::queue_select, 2, queue);
  u64 most = get(FakeDriver::queue_size, 2);
  for (u64 bad : {u64{0}, u64{3}, most * 2, u64{0x8000}}) {
    driver.set(FakeDriver::queue_size, 2, bad);
    EXPECT_EQ(get(FakeDriver::queue_size, 2), most);
  }
  driver.set(FakeDriver::queue_size, 2, 8);
  EXPECT_EQ(get(FakeDriver::queue_size, 2), 8u);
  driver.set(FakeDriver::queue_vector, 2, 0x123);
  EXPECT_EQ(get(FakeDriver::queue_vector, 2), TransportPci::kNoVector);
  driver.set(FakeDriver::queue_vector, 2, 0);
  EXPECT_EQ(get(FakeDriver::queue_vector, 2), 0u);
  driver.set(FakeDriver::queue_enable, 2, 1);
  driver.set(FakeDriver::queue_size, 2, 4);  // enabled: fixed
  EXPECT_EQ(get(FakeDriver::queue_size, 2), 8u);
  driver.set(FakeDriver::queue_select, 2, 999);  // no such queue
  EXPECT_EQ(get(FakeDriver::queue_size, 2), 0u);
  driver.set(FakeDriver::queue_enable, 2, 1);
  EXPECT_EQ(get(FakeDriver::queue_enable, 2), 0u);
  driver.set(FakeDriver::device_status, 1, 0);
  driver.set(FakeDriver::queue_select, 2, queue);
  EXPECT_EQ(get(FakeDriver::queue_size, 2), most);
  EXPECT_EQ(get(FakeDriver::queue_enable, 2), 0u);
}

TEST_P(Contract, SmallQueuesAndIndirectOnes) {
  for (u16 size : {4, 8, 64}) {
    ASSERT_TRUE(driver.negotiate(kAll));
    driver.set_up_queue(queue, size);
    driver.driver_ok();
    for (int i = 0; i < 40; ++i) expect_works();
    for (int i = 0; i < 40; ++i) {
      u16 head = driver.put(queue, request(), true);
      driver.kick(queue);
      auto used = driver.wait_used(queue);
      ASSERT_TRUE(used);
      EXPECT_EQ(used->id, head);
    }
  }
}

TEST_P(Contract, InterruptsThroughMsixAndThePin) {
  ASSERT_TRUE(driver.start(kFeatureVersion1));
  expect_works();
  EXPECT_TRUE(rig.line.level);
  EXPECT_EQ(driver.get(TransportPci::kIsr, 1), 1u);
  EXPECT_FALSE(rig.line.level);
  EXPECT_EQ(driver.get(TransportPci::kIsr, 1), 0u);
  driver.set_available_flags(queue, 1);  // NO_INTERRUPT
  expect_works();
  EXPECT_FALSE(rig.line.level);
  EXPECT_TRUE(rig.msis.sent.empty());

  ASSERT_TRUE(driver.negotiate(kAll));
  driver.enable_msix();
  for (unsigned i = 0; i < driver.get(FakeDriver::num_queues, 2); ++i) driver.set_up_queue(i);
  driver.driver_ok();
  expect_works();
  ASSERT_EQ(rig.msis.sent.size(), 1u);
  EXPECT_EQ(rig.msis.sent[0].data, 0x40 + queue);
  EXPECT_FALSE(rig.line.level);
  // used_event is still 0: nothing more until the driver moves it (2.7.10).
  expect_works();
  EXPECT_EQ(rig.msis.sent.size(), 1u);
  driver.set_used_event(queue, 3);
  expect_works();
  EXPECT_EQ(rig.msis.sent.size(), 1u);
  expect_works();
  EXPECT_EQ(rig.msis.sent.size(), 2u);
  // And the device asked to be told of the fifth request.
  EXPECT_EQ(driver.available_event(queue), 4u);
}

TEST_P(Contract, ResetForgetsEverything) {
  ASSERT_TRUE(driver.start(kAll));
  driver.enable_msix();
  driver.put(queue, request());
  driver.set(FakeDriver::device_status, 1, 0);
  EXPECT_EQ(driver.status(), 0);
  driver.kick(queue);
  rig.run();
  EXPECT_FALSE(driver.used(queue));
  EXPECT_EQ(driver.get(FakeDriver::config_vector, 2), TransportPci::kNoVector);
  device.reset();
  EXPECT_EQ(driver.config_read(4, 2), 0u);
  EXPECT_TRUE(rig.doorbells.empty());
  FakeDriver again(rig, 1);
  ASSERT_TRUE(again.start(kAll));
  again.put(queue, request());
  again.kick(queue);
  EXPECT_TRUE(again.wait_used(queue));
}

TEST_P(Contract, DoorbellsFollowTheBar) {
  EXPECT_EQ(rig.doorbells.size(), device.device().queue_sizes().size());
  EXPECT_EQ(rig.doorbells[0], driver.bar() + TransportPci::kNotify);
  driver.config_write(0x14, 4, 1);
  ASSERT_FALSE(rig.doorbells.empty());
  EXPECT_EQ(rig.doorbells[0], driver.bar() + TransportPci::kNotify + 0x1'0000'0000);
  driver.config_write(4, 2, 0);
  EXPECT_TRUE(rig.doorbells.empty());
}

TEST_P(Contract, SaveAndLoadInMidUse) {
  ASSERT_TRUE(driver.start(kAll));
  driver.enable_msix();
  expect_works();
  u16 head = driver.put(queue, request());
  driver.kick(queue);
  state::Image image;
  {
    std::lock_guard guard(rig.lock);
    device.quiesce();
  }
  rig.run();
  EXPECT_FALSE(driver.used(queue));  // the notification waits
  device.save(image);
  auto bytes = image.serialize();

  // Another machine with the same memory goes on.
  Rig other;
  TransportPci& copy = other.plug(GetParam().make(other));
  std::vector<u8> ram(rig.memory->size());
  ASSERT_TRUE(rig.memory->read(0, ram));
  ASSERT_TRUE(other.memory->write(0, ram));
  auto parsed = state::Image::parse(bytes);
  ASSERT_TRUE(parsed);
  auto loaded = copy.load(*parsed);
  ASSERT_TRUE(loaded) << loaded.error().message();
  EXPECT_EQ(copy.status(), device.status());
  EXPECT_EQ(copy.bar_address(TransportPci::kBar), device.bar_address(TransportPci::kBar));
  auto used_index = [&](Rig& r) {
    return *r.memory->read_value<u16>(driver.ring(queue) + 0x6000 + 2);
  };
  u16 before = used_index(other);
  for (int i = 0; i < 100 && used_index(other) == before; ++i) other.loop->run_once(100);
  EXPECT_EQ(used_index(other), before + 1);
  EXPECT_FALSE(driver.used(queue));
  state::Image again;
  {
    std::lock_guard guard(other.lock);
    copy.quiesce();
  }
  copy.save(again);

  // The first one goes on as well.
  {
    std::lock_guard guard(rig.lock);
    device.resume();
  }
  auto used = driver.wait_used(queue);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
}

TEST_P(Contract, LoadedWhileQuiesced) {
  ASSERT_TRUE(driver.start(kAll));
  driver.put(queue, request());
  {
    std::lock_guard guard(rig.lock);
    device.quiesce();
  }
  state::Image image;
  device.save(image);
  ASSERT_TRUE(device.load(image));
  rig.run();
  EXPECT_FALSE(driver.used(queue));  // guest memory may be loaded after the devices
  {
    std::lock_guard guard(rig.lock);
    device.resume();
  }
  EXPECT_TRUE(driver.wait_used(queue));
}

TEST_P(Contract, ImagesAreCheckedBeforeAnythingChanges) {
  ASSERT_TRUE(driver.start(kAll));
  state::Image image;
  device.save(image);
  TransportPci::State state;
  std::string section = device.name() + ".virtio";
  ASSERT_TRUE(image.get(section, state));
  auto refuse = [&](auto change) {
    TransportPci::State bad = state;
    change(bad);
    state::Image changed = image;
    changed.put(section, bad);
    EXPECT_FALSE(device.load(changed));
    expect_works();
  };
  refuse([](auto& s) { s.queues.clear(); });
  refuse([](auto& s) { s.queues[0].ring.size = 0; });
  refuse([](auto& s) { s.queues[0].ring.size = 0x8000; });
  refuse([](auto& s) { s.driver_features = ~u64{0}; });
  refuse([](auto& s) { s.status = TransportPci::kDriverOk; });
  // Rings outside memory are the guest's doing: the queue is broken, the machine is not.
  state.queues[queue].ring.used = 0xffff'ffff'ffff'fff0;
  image.put(section, state);
  EXPECT_TRUE(device.load(image));
  EXPECT_TRUE(device.status() & TransportPci::kNeedsReset);
}

TEST_P(Contract, WindowInConfigurationSpace) {
  unsigned at = driver.config_read(0x34, 1);
  while (at && !(driver.config_read(at, 1) == 9 && driver.config_read(at + 3, 1) == 5))
    at = driver.config_read(at + 1, 1);
  ASSERT_TRUE(at);
  driver.config_write(at + 4, 1, TransportPci::kBar);
  driver.config_write(at + 8, 4, FakeDriver::num_queues);
  driver.config_write(at + 12, 4, 2);
  EXPECT_EQ(driver.config_read(at + 16, 2), device.device().queue_sizes().size());
  driver.config_write(at + 8, 4, FakeDriver::device_status);
  driver.config_write(at + 12, 4, 1);
  driver.config_write(at + 16, 1, TransportPci::kAcknowledge);
  EXPECT_EQ(driver.status(), TransportPci::kAcknowledge);
  for (u32 bad : {0u, 3u, 8u, ~0u}) {
    driver.config_write(at + 12, 4, bad);
    driver.config_write(at + 16, 4, 0);
    driver.config_read(at + 16, 4);
  }
  driver.config_write(at + 12, 4, 4);
  for (u32 bad : {0x4000u, 0xfffffffcu, 0x3fffu}) {
    driver.config_write(at + 8, 4, bad);
    driver.config_write(at + 16, 4, 0);
  }
  EXPECT_EQ(driver.status(), TransportPci::kAcknowledge);
}

TEST(QueueState, NoFieldIsForgotten) {
  // What describe() does not reach is padding: before the addresses and at the end.
  EXPECT_EQ(state::uncovered<Queue::State>(), (std::vector<size_t>{4, 5, 6, 7, 39}));
}

// ---- drivers that break the rules

TEST_P(Contract, RingsOutsideMemory) {
  for (u64 bad : {u64{0xffff'ffff'ffff'f000}, u64{16 * MiB - 16}, u64{0xb000'0000}, u64{1} << 45}) {
    for (u32 field :
         {FakeDriver::queue_descriptors, FakeDriver::queue_driver, FakeDriver::queue_device}) {
      ASSERT_TRUE(driver.negotiate(kAll));
      driver.set_up_queue(queue);
      ASSERT_TRUE(driver.negotiate(kAll));
      driver.set(FakeDriver::queue_select, 2, queue);
      for (u32 ring :
           {FakeDriver::queue_descriptors, FakeDriver::queue_driver, FakeDriver::queue_device}) {
        driver.set(ring, 4, ring == field ? bad & 0xffffffff : 0x100000 + 0x8000 * (ring & 0x18));
        driver.set(ring + 4, 4, ring == field ? bad >> 32 : 0);
      }
      driver.set(FakeDriver::queue_enable, 2, 1);
      driver.driver_ok();
      EXPECT_TRUE(driver.status() & TransportPci::kNeedsReset) << field << " " << bad;
      driver.kick(queue);
      rig.run();
    }
  }
  ASSERT_TRUE(driver.start(kAll));
  expect_works();
}

TEST_P(Contract, UnalignedRings) {
  ASSERT_TRUE(driver.negotiate(kAll));
  driver.set(FakeDriver::queue_select, 2, queue);
  driver.set(FakeDriver::queue_descriptors, 4, 0x100000);
  driver.set(FakeDriver::queue_driver, 4, 0x104001);
  driver.set(FakeDriver::queue_device, 4, 0x106000);
  driver.set(FakeDriver::queue_enable, 2, 1);
  driver.driver_ok();
  EXPECT_TRUE(driver.status() & TransportPci::kNeedsReset);
}

TEST_P(Contract, AvailableIndexJumps) {
  ASSERT_TRUE(driver.start(kAll));
  driver.set_available(queue, static_cast<u16>(driver.queue_entries(queue) + 1));
  expect_broken_and_mendable();
}

TEST_P(Contract, HeadOutOfRange) {
  ASSERT_TRUE(driver.start(kAll));
  driver.publish(queue, driver.queue_entries(queue));
  expect_broken_and_mendable();
}

TEST_P(Contract, NextOutOfRange) {
  ASSERT_TRUE(driver.start(kAll));
  driver.descriptor(queue, 0, driver.allocate(64), 16, FakeDriver::kNext, 0xffff);
  driver.publish(queue, 0);
  expect_broken_and_mendable();
}

TEST_P(Contract, Loops) {
  ASSERT_TRUE(driver.start(kAll));
  Gpa at = driver.allocate(64);
  driver.descriptor(queue, 0, at, 16, FakeDriver::kNext, 0);  // onto itself
  driver.publish(queue, 0);
  expect_broken_and_mendable();
  driver.descriptor(queue, 0, at, 16, FakeDriver::kNext, 1);
  driver.descriptor(queue, 1, at, 0, FakeDriver::kNext, 0);
  driver.publish(queue, 0);
  expect_broken_and_mendable();
}

TEST_P(Contract, BuffersOutsideMemory) {
  for (auto [at, length] : {std::pair<u64, u32>{16 * MiB - 8, 16},
                            {16 * MiB, 1},
                            {~u64{0} - 7, 16},
                            {~u64{0}, 0xffffffff},
                            {0xc000'0000, 16},
                            {0, 0xffffffff}}) {
    for (u16 flags : {u16{0}, FakeDriver::kWrite}) {
      ASSERT_TRUE(driver.start(kAll));
      driver.descriptor(queue, 0, at, length, flags);
      driver.publish(queue, 0);
      expect_broken_and_mendable();
    }
  }
}

TEST_P(Contract, ReadableAfterWritable) {
  ASSERT_TRUE(driver.start(kAll));
  Gpa at = driver.allocate(64);
  driver.put(queue, {{at, 16, true}, {at, 16, false}});
  expect_broken_and_mendable();
}

TEST_P(Contract, BadIndirectTables) {
  Gpa table = driver.allocate(256);
  Gpa data = driver.allocate(64);
  auto attempt = [&](u64 at, u32 length, u16 flags) {
    ASSERT_TRUE(driver.start(kAll));
    driver.descriptor(queue, 0, at, length, flags, 1);
    driver.descriptor(queue, 1, data, 16, FakeDriver::kWrite);
    driver.publish(queue, 0);
    expect_broken_and_mendable();
  };
  driver.write_descriptor(table, data, 16, 0);
  attempt(table, 15, FakeDriver::kIndirect);
  attempt(table, 0, FakeDriver::kIndirect);
  attempt(table, 0xfffffff0, FakeDriver::kIndirect);
  attempt(~u64{0} - 15, 32, FakeDriver::kIndirect);
  attempt(table, 16, FakeDriver::kIndirect | FakeDriver::kNext);
  driver.write_descriptor(table, table, 16, FakeDriver::kIndirect);  // nested
  attempt(table, 16, FakeDriver::kIndirect);
  driver.write_descriptor(table, data, 16, FakeDriver::kNext, 0);  // a loop
  attempt(table, 64, FakeDriver::kIndirect);
  driver.write_descriptor(table, data, 16, FakeDriver::kNext, 4);  // past its end
  attempt(table, 64, FakeDriver::kIndirect);
  // Not negotiated.
  ASSERT_TRUE(driver.start(kFeatureVersion1));
  driver.write_descriptor(table, data, 16, 0);
  driver.descriptor(queue, 0, table, 16, FakeDriver::kIndirect);
  driver.publish(queue, 0);
  expect_broken_and_mendable();
}

TEST_P(Contract, OddButLawfulRequests) {
  ASSERT_TRUE(driver.start(kAll));
  Gpa at = driver.allocate(4096);
  std::vector<std::vector<B>> odd = {
      {{at, 0, false}},
      {{at, 0, true}},
      {{at, 0, false}, {at, 0, true}},
      {{at, 1, false}},
      {{at, 1, true}},
      {{at, 4096, true}},
      {{at, 16, false}, {at, 1, true}},
      std::vector<B>(40, {at, 3, false}),
      std::vector<B>(40, {at, 7, true}),
      {{0, 16 * MiB, false}, {at, 1, true}},
  };
  for (const auto& buffers : odd) {
    u16 head = driver.put(queue, buffers);
    driver.kick(queue);
    auto used = driver.wait_used(queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    expect_works();
  }
}

TEST_P(Contract, TheSameHeadManyTimes) {
  ASSERT_TRUE(driver.start(kAll));
  auto buffers = request();
  driver.descriptor(queue, 0, buffers[0].at, 16, FakeDriver::kNext, 1);
  driver.descriptor(queue, 1, buffers[1].at, 64, FakeDriver::kWrite);
  for (int i = 0; i < driver.queue_entries(queue); ++i) driver.publish(queue, 0);
  driver.kick(queue);
  EXPECT_TRUE(driver.wait_used(queue));
}

struct RandomContract : Contract {
  void try_seed(u64 seed);
};

void RandomContract::try_seed(u64 seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    if (!driver.start(kAll & random())) driver.start(kAll);
    for (int i = 0; i < 150; ++i) {
      u64 r = random();
      switch (r % 8) {
        case 0:
          driver.set(static_cast<u32>(r >> 8) % TransportPci::kBarSize, 1u << (r >> 40) % 4,
                     random());
          break;
        case 1:
          driver.get(static_cast<u32>(r >> 8) % TransportPci::kBarSize, 1u << (r >> 40) % 4);
          break;
        case 2:
          driver.descriptor(queue, static_cast<u16>((r >> 8) % 8), random() % (17 * MiB),
                            static_cast<u32>((r >> 16) % 8192), (r >> 32) % 8, (r >> 40) % 9);
          break;
        case 3: driver.publish(queue, (r >> 8) % 8); break;
        case 4: driver.kick(queue); break;
        case 5: rig.run(); break;
        case 6: {
          unsigned at = 0x40 + (r >> 8) % 0xc0;
          driver.config_write(at, 1, static_cast<u8>(random()));
          break;
        }
        case 7:
          (void)rig.memory->write_value<u16>(driver.ring(queue) + (r >> 8) % 0x8000,
                                             static_cast<u16>(random()));
          break;
      }
    }
    rig.run();
  }
  device.reset();
  FakeDriver again(rig, 1);
  ASSERT_TRUE(again.start(kAll));
  again.put(queue, request());
  again.kick(queue);
  EXPECT_TRUE(again.wait_used(queue));
}

TEST_P(RandomContract, FixedSeed) {
  try_seed(42);
}
TEST_P(RandomContract, FreshSeed) {
  try_seed(std::random_device{}());
}

INSTANTIATE_TEST_SUITE_P(Devices, Contract, testing::ValuesIn(kKinds),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Devices, RandomContract, testing::ValuesIn(kKinds),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace skerry::virtio
