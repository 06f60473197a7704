// What the block device does with good requests, with bad ones, and with a host that fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <numeric>
#include <thread>

#include "storage/memory_disk.hpp"
#include "virtio/blk.hpp"
#include "virtio/fake_driver.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kBasic = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;
using B = FakeDriver::Buffer;

struct BlkTest : testing::Test {
  void plug(bool readonly = false, u64 size = 64 * KiB) {
    auto owned = std::make_unique<storage::MemoryDisk>(size, readonly);
    disk = owned.get();
    device = &rig.plug(std::make_unique<Blk>("disk0", rig.environment(), std::move(owned),
                                             "serial-number-longer-than-20"));
    driver.emplace(rig, 1);
    ASSERT_TRUE(driver->start(kBasic | Blk::kFeatureFlush));
  }
  Gpa header(u32 type, u64 sector) {
    Gpa at = driver->allocate(16);
    (void)rig.memory->write_value<u32>(at, type);
    (void)rig.memory->write_value<u64>(at + 8, sector);
    return at;
  }
  /// Submits header, data, status; the status byte, or -1.
  int request(u32 type, u64 sector, std::vector<B> data = {}) {
    std::vector<B> all{{header(type, sector), 16, false}};
    all.insert(all.end(), data.begin(), data.end());
    Gpa status = driver->allocate(1);
    (void)rig.memory->write_value<u8>(status, 0xee);
    all.push_back({status, 1, true});
    driver->put(0, all);
    driver->kick(0);
    auto used = driver->wait_used(0);
    if (!used) return -1;
    length = used->length;
    return *rig.memory->read_value<u8>(status);
  }
  Rig rig;
  storage::MemoryDisk* disk = nullptr;
  TransportPci* device = nullptr;
  std::optional<FakeDriver> driver;
  u32 length = 0;
};

TEST_F(BlkTest, Configuration) {
  plug();
  EXPECT_EQ(driver->read_config(0, 4), 128u);
  EXPECT_EQ(driver->read_config(4, 4), 0u);
  EXPECT_EQ(driver->read_config(12, 4), 254u);
  EXPECT_EQ(driver->read_config(20, 4), 512u);
  EXPECT_EQ(driver->read_config(60, 4), 0u);
  EXPECT_FALSE(driver->offered() & Blk::kFeatureReadOnly);
  EXPECT_EQ(driver->config_read(0x0a, 2), 0x0100u);
}

TEST_F(BlkTest, WritesAndReadsInScatteredPieces) {
  plug();
  Gpa a = driver->place(std::string(200, 'a')), b = driver->place(std::string(824, 'b'));
  EXPECT_EQ(request(1, 3, {{a, 200, false}, {b, 824, false}}), 0);
  EXPECT_EQ(length, 1u);
  EXPECT_EQ(disk->bytes[3 * 512], 'a');
  EXPECT_EQ(disk->bytes[3 * 512 + 199], 'a');
  EXPECT_EQ(disk->bytes[3 * 512 + 200], 'b');
  EXPECT_EQ(disk->bytes[5 * 512], 0);

  rig.memory->dirty().take();
  Gpa c = driver->allocate(1000), d = driver->allocate(24);
  EXPECT_EQ(request(0, 3, {{c, 1000, true}, {d, 24, true}}), 0);
  EXPECT_EQ(length, 1025u);
  EXPECT_EQ(driver->text(c, 1000), std::string(200, 'a') + std::string(800, 'b'));
  EXPECT_EQ(driver->text(d, 24), std::string(24, 'b'));
  EXPECT_TRUE(rig.memory->dirty().test(c));
  EXPECT_TRUE(rig.memory->dirty().test(d));
}

TEST_F(BlkTest, HeaderAndStatusMayShareBuffersWithData) {
  plug();
  disk->bytes[0] = 'z';
  Gpa in = driver->allocate(513);
  driver->put(0, {{header(0, 0), 8, false}, {0, 0, false}, {in, 513, true}});
  driver->kick(0);
  ASSERT_TRUE(driver->wait_used(0));  // a header of 8 bytes is none
  EXPECT_EQ(driver->text(in, 1), std::string(1, '\0'));
  Gpa h = header(0, 0);
  driver->put(0, {{h, 4, false}, {h + 4, 12, false}, {in, 513, true}});
  driver->kick(0);
  auto used = driver->wait_used(0);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 513u);
  EXPECT_EQ(driver->text(in, 1), "z");
}

TEST_F(BlkTest, FlushReachesTheDisk) {
  plug();
  Gpa a = driver->allocate(512);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
  EXPECT_TRUE(disk->dirty);
  EXPECT_EQ(request(4, 0), 0);
  EXPECT_FALSE(disk->dirty);
  EXPECT_EQ(disk->flushes, 1u);
  // A driver that cannot flush gets durable writes.
  ASSERT_TRUE(driver->start(kBasic));
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
  EXPECT_FALSE(disk->dirty);
}

struct Segment16 {
  u64 sector;
  u32 count, flags;
};

TEST_F(BlkTest, DiscardAndWriteZeroes) {
  plug();
  constexpr u64 both = Blk::kFeatureDiscard | Blk::kFeatureWriteZeroes;
  EXPECT_EQ(driver->offered() & both, both);
  EXPECT_EQ(driver->read_config(40, 4), 16u);
  auto send = [&](u32 type, std::vector<Segment16> segments) {
    Gpa at = driver->place(std::string(reinterpret_cast<char*>(segments.data()),
                                       segments.size() * sizeof segments[0]));
    return request(type, 0, {{at, static_cast<u32>(16 * segments.size()), false}});
  };
  EXPECT_EQ(send(11, {{0, 1, 0}}), 2);  // not negotiated
  ASSERT_TRUE(driver->start(kBasic | Blk::kFeatureFlush | both));
  std::fill(disk->bytes.begin(), disk->bytes.end(), u8{7});
  EXPECT_EQ(send(11, {{1, 1, 0}, {4, 2, 0}}), 0);
  EXPECT_EQ(disk->discards, 2u);
  EXPECT_EQ(disk->bytes[512], 0);
  EXPECT_EQ(disk->bytes[1024], 7);
  EXPECT_EQ(disk->bytes[6 * 512 - 1], 0);
  EXPECT_EQ(send(13, {{8, 1, 1}, {9, 1, 0}}), 0);
  EXPECT_EQ(disk->bytes[8 * 512], 0);
  EXPECT_EQ(disk->bytes[10 * 512 - 1], 0);
  EXPECT_EQ(disk->bytes[10 * 512], 7);
  // What is wrong.
  EXPECT_EQ(send(11, {{0, 1, 1}}), 2);
  EXPECT_EQ(send(13, {{0, 1, 2}}), 2);
  EXPECT_EQ(send(13, {{128, 1, 0}}), 1);
  EXPECT_EQ(send(13, {{~u64{0}, 1, 0}}), 1);
  EXPECT_EQ(send(13, {{0, ~u32{0}, 0}}), 1);
  EXPECT_EQ(send(11, std::vector<Segment16>(17, {0, 1, 0})), 1);
  EXPECT_EQ(send(11, {}), 1);
  Gpa half = driver->allocate(16);
  EXPECT_EQ(request(11, 0, {{half, 8, false}}), 1);
  EXPECT_EQ(disk->bytes[0], 7);
}

TEST_F(BlkTest, TheDriverSwitchesTheCache) {
  plug();
  ASSERT_TRUE(driver->start(kBasic | Blk::kFeatureFlush | Blk::kFeatureConfigWce));
  Gpa a = driver->allocate(512);
  EXPECT_EQ(driver->read_config(32, 1), 1u);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
  EXPECT_TRUE(disk->dirty);
  driver->set(TransportPci::kDevice + 32, 1, 0);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
  EXPECT_FALSE(disk->dirty);
  driver->set(TransportPci::kDevice + 32, 1, 1);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
  EXPECT_TRUE(disk->dirty);
  // Nothing else can be written, and a reset brings the cache back.
  driver->set(TransportPci::kDevice + 0, 4, 5);
  driver->set(TransportPci::kDevice + 32, 1, 0);
  ASSERT_TRUE(driver->start(kBasic));
  EXPECT_EQ(driver->read_config(32, 1), 1u);
  EXPECT_EQ(driver->read_config(0, 4), 128u);
}

TEST_F(BlkTest, BecomesLargerWhileInUse) {
  plug();
  auto& blk = static_cast<Blk&>(device->device());
  Gpa a = driver->allocate(512);
  EXPECT_EQ(request(1, 200, {{a, 512, false}}), 1);
  auto generation = driver->get(FakeDriver::config_generation, 1);
  EXPECT_FALSE(blk.resize(32 * KiB));
  ASSERT_TRUE(blk.resize(128 * KiB));
  EXPECT_NE(driver->get(FakeDriver::config_generation, 1), generation);
  EXPECT_EQ(driver->read_config(0, 4), 256u);
  EXPECT_EQ(request(1, 200, {{a, 512, false}}), 0);
}

TEST_F(BlkTest, Limits) {
  plug();
  auto& blk = static_cast<Blk&>(device->device());
  auto set = [&](Blk::Limits limits) {
    std::lock_guard guard(rig.lock);
    blk.set_limits(limits, rig.clock);
  };
  auto served = [&](Nanos during, u32 length) {
    unsigned count = 0;
    for (int i = 0; i < 64; ++i)
      driver->put(0, {{header(0, 0), 16, false},
                      {driver->allocate(length), length, true},
                      {driver->allocate(1), 1, true}});
    driver->kick(0);
    for (int step = 0; step < 200; ++step) {
      rig.loop->run_once(1);
      rig.run();
      while (driver->used(0)) ++count;
      rig.clock.advance(during / 200);
      rig.loop->reconsider_timers();
    }
    while (driver->used(0)) ++count;
    return count;
  };
  set({.operations = 10, .operations_burst = 4});
  unsigned n = served(2'000'000'000, 512);
  EXPECT_GE(n, 22u);
  EXPECT_LE(n, 26u);
  // Who waits by the old limits goes on by the new ones, at once.
  set({.operations = 1});
  EXPECT_LE(served(1'000'000, 512), 1u);
  unsigned left = 0;
  set({});
  for (int step = 0; step < 200; ++step) {
    rig.loop->run_once(1);
    while (driver->used(0)) ++left;
  }
  EXPECT_GE(left, 64u);
}

TEST_F(BlkTest, Counts) {
  plug();
  Gpa a = driver->allocate(1024);
  EXPECT_EQ(request(1, 0, {{a, 1024, false}}), 0);
  EXPECT_EQ(request(0, 0, {{a, 512, true}}), 0);
  EXPECT_EQ(request(4, 0), 0);
  EXPECT_EQ(request(0, 500, {{a, 512, true}}), 1);
  std::map<std::string_view, u64> all;
  for (auto& c : device->device().counters()) all[c.name] = c.value;
  EXPECT_EQ(all["writes"], 1u);
  EXPECT_EQ(all["bytes written"], 1024u);
  EXPECT_EQ(all["reads"], 1u);
  EXPECT_EQ(all["bytes read"], 512u);
  EXPECT_EQ(all["flushes"], 1u);
  EXPECT_EQ(all["requests refused"], 1u);
}

TEST_F(BlkTest, Identity) {
  plug();
  Gpa id = driver->allocate(32);
  EXPECT_EQ(request(8, 0, {{id, 20, true}}), 0);
  EXPECT_EQ(driver->text(id, 20), "serial-number-longer");
  EXPECT_EQ(length, 21u);
  EXPECT_EQ(request(8, 0, {{id, 4, true}}), 0);
  EXPECT_EQ(request(8, 0, {{id, 32, true}}), 0);
  EXPECT_EQ(length, 20u);
}

TEST_F(BlkTest, RefusesWhatIsWrong) {
  plug();
  Gpa a = driver->allocate(4096);
  EXPECT_EQ(request(0, 128, {{a, 512, true}}), 1);
  EXPECT_EQ(request(0, 127, {{a, 512, true}}), 0);
  EXPECT_EQ(request(0, 127, {{a, 1024, true}}), 1);
  EXPECT_EQ(request(0, ~u64{0}, {{a, 512, true}}), 1);
  EXPECT_EQ(request(0, u64{1} << 55, {{a, 512, true}}), 1);
  EXPECT_EQ(request(1, 128, {{a, 512, false}}), 1);
  EXPECT_EQ(request(1, 0, {{a, 100, false}}), 1);
  EXPECT_EQ(request(0, 0, {{a, 100, true}}), 1);
  EXPECT_EQ(request(11, 0, {{a, 512, false}}), 2);
  EXPECT_EQ(request(0xffffffff, 0), 2);
  EXPECT_EQ(request(0, 128), 0);  // nothing, at the end
  EXPECT_EQ(request(0, 129), 1);
  EXPECT_EQ(disk->bytes, std::vector<u8>(64 * KiB));
}

TEST_F(BlkTest, ReadOnly) {
  plug(true);
  EXPECT_TRUE(driver->offered() & Blk::kFeatureReadOnly);
  Gpa a = driver->allocate(512);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 1);
  EXPECT_EQ(request(0, 0, {{a, 512, true}}), 0);
  EXPECT_EQ(request(4, 0), 0);
}

TEST_F(BlkTest, HostErrorsAreIoErrors) {
  plug();
  disk->failing = true;
  Gpa a = driver->allocate(512);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 30; ++i) EXPECT_EQ(request(0, 0, {{a, 512, true}}), 1);
  std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("the disk is on fire"), std::string::npos);
  EXPECT_LE(std::count(log.begin(), log.end(), '\n'), 12);
  disk->failing = false;
  EXPECT_EQ(request(0, 0, {{a, 512, true}}), 0);
}

TEST_F(BlkTest, ResetWaitsForRequestsInFlight) {
  plug();
  disk->bytes[0] = 'q';
  Gpa a = driver->allocate(512);
  disk->hold();
  driver->put(0, {{header(0, 0), 16, false}, {a, 512, true}, {driver->allocate(1), 1, true}});
  driver->kick(0);
  rig.run();
  disk->wait_held();
  std::atomic<bool> reset_done = false;
  std::thread vcpu([&] {
    driver->set(FakeDriver::device_status, 1, 0);
    reset_done = true;
  });
  EXPECT_FALSE(reset_done);
  disk->let_go();
  vcpu.join();
  // From here on the memory is the guest's: nothing may arrive any more.
  (void)rig.memory->write_value<u8>(a, 'n');
  rig.run();
  EXPECT_EQ(driver->text(a, 1), "n");
  ASSERT_TRUE(driver->start(kBasic));
  EXPECT_EQ(request(0, 0, {{a, 512, true}}), 0);
}

TEST_F(BlkTest, QuiesceFinishesRequestsInFlight) {
  plug();
  disk->hold();
  for (int i = 0; i < 5; ++i)
    driver->put(0, {{header(0, 0), 16, false},
                    {driver->allocate(512), 512, true},
                    {driver->allocate(1), 1, true}});
  driver->kick(0);
  rig.run();
  disk->wait_held();
  EXPECT_FALSE(driver->used(0));
  disk->let_go();
  {
    std::lock_guard guard(rig.lock);
    device->quiesce();
  }
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(driver->used(0));
  EXPECT_FALSE(driver->used(0));
}

struct BlkFull : BlkTest {
  void SetUp() override {
    plug();
    blk = &static_cast<Blk&>(device->device());
    blk->set_on_error({.pause_if_full = true, .ask = [this](const std::string& text) {
                         ++asked;
                         why = text;
                       }});
    disk->code = ENOSPC;
    disk->failing = true;
  }
  Gpa put(u32 type, u64 sector, char data) {
    Gpa status = driver->allocate(1);
    (void)rig.memory->write_value<u8>(status, 0xee);
    Gpa at = driver->place(std::string(512, data));
    driver->put(0, {{header(type, sector), 16, false}, {at, 512, type == 0}, {status, 1, true}});
    return status;
  }
  /// Lets the loop run until `condition`.
  template <class F>
  bool until(F condition) {
    for (int i = 0; i < 500 && !condition(); ++i) rig.loop->run_once(10);
    return condition();
  }
  void pause() {
    std::lock_guard guard(rig.lock);
    device->quiesce();
  }
  void go_on() {
    std::lock_guard guard(rig.lock);
    device->resume();
  }
  Blk* blk = nullptr;
  int asked = 0;
  std::string why;
};

TEST_F(BlkFull, WaitsForAPauseAndIsDoneAfterIt) {
  Gpa first = put(1, 3, 'f');
  driver->kick(0);
  ASSERT_TRUE(until([&] { return asked == 1; }));
  EXPECT_EQ(why, "the disk is on fire");
  EXPECT_TRUE(blk->stuck());
  // Nothing begins before the pause, though there is room again.
  disk->failing = false;
  Gpa second = put(1, 4, 's');
  driver->kick(0);
  rig.run();
  EXPECT_FALSE(driver->used(0));
  pause();
  EXPECT_FALSE(driver->used(0));
  go_on();
  ASSERT_TRUE(driver->wait_used(0));
  ASSERT_TRUE(driver->wait_used(0));
  EXPECT_FALSE(blk->stuck());
  EXPECT_EQ(asked, 1);
  for (Gpa status : {first, second}) EXPECT_EQ(*rig.memory->read_value<u8>(status), 0);
  EXPECT_EQ(disk->bytes[3 * 512], 'f');
  EXPECT_EQ(disk->bytes[4 * 512], 's');
  std::map<std::string_view, u64> all;
  for (auto& c : blk->counters()) all[c.name] = c.value;
  EXPECT_EQ(all["times stuck"], 1u);
  EXPECT_EQ(all["writes"], 2u);
}

TEST_F(BlkFull, AsksAgainWhileTheHostIsFull) {
  put(1, 3, 'f');
  driver->kick(0);
  for (int round = 1; round <= 3; ++round) {
    ASSERT_TRUE(until([&] { return asked == round; }));
    pause();
    if (round < 3) go_on();
  }
  disk->failing = false;
  go_on();
  EXPECT_TRUE(driver->wait_used(0));
  EXPECT_EQ(asked, 3);
}

TEST_F(BlkFull, FoundWhilePausing) {
  Gpa status = put(1, 3, 'f');
  disk->hold();
  driver->kick(0);
  rig.run();
  disk->wait_held();
  disk->let_go();
  pause();
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(driver->used(0));
  disk->failing = false;
  go_on();
  ASSERT_TRUE(driver->wait_used(0));
  EXPECT_EQ(*rig.memory->read_value<u8>(status), 0);
}

TEST_F(BlkFull, OtherErrorsAreTheGuests) {
  disk->code = EIO;
  Gpa a = driver->allocate(512);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 1);
  EXPECT_EQ(asked, 0);
  blk->set_on_error({.pause = true, .ask = [this](const std::string&) { ++asked; }});
  put(0, 3, 'f');
  driver->kick(0);
  ASSERT_TRUE(until([&] { return asked == 1; }));
  EXPECT_FALSE(driver->used(0));
}

TEST_F(BlkFull, AResetAnswersWhatWaits) {
  Gpa status = put(1, 3, 'f');
  driver->kick(0);
  ASSERT_TRUE(until([&] { return asked == 1; }));
  driver->set(FakeDriver::device_status, 1, 0);
  EXPECT_FALSE(blk->stuck());
  EXPECT_EQ(*rig.memory->read_value<u8>(status), 1);
  disk->failing = false;
  ASSERT_TRUE(driver->start(kBasic));
  Gpa a = driver->allocate(512);
  EXPECT_EQ(request(1, 0, {{a, 512, false}}), 0);
}

TEST_F(BlkFull, WhatWaitsIsSaved) {
  Gpa first = put(1, 3, 'f'), second = put(1, 9, 's');
  driver->kick(0);
  ASSERT_TRUE(until([&] { return asked > 0; }));
  pause();
  state::Image image;
  device->save(image);
  // Into a device that was never stuck, and once more before it runs.
  disk->failing = false;
  driver->set(FakeDriver::device_status, 1, 0);
  for (Gpa status : {first, second}) (void)rig.memory->write_value<u8>(status, 0xee);
  std::fill(disk->bytes.begin(), disk->bytes.end(), u8{0});
  ASSERT_TRUE(device->load(image));
  pause();
  state::Image again;
  device->save(again);
  ASSERT_TRUE(device->load(again));
  // The used ring as it was, without what the reset put there.
  (void)rig.memory->write_value<u16>(driver->ring(0) + 0x6000 + 2, 0);
  go_on();
  ASSERT_TRUE(driver->wait_used(0));
  ASSERT_TRUE(driver->wait_used(0));
  EXPECT_FALSE(driver->used(0));
  for (Gpa status : {first, second}) EXPECT_EQ(*rig.memory->read_value<u8>(status), 0);
  EXPECT_EQ(disk->bytes[3 * 512], 'f');
  EXPECT_EQ(disk->bytes[9 * 512], 's');
}

TEST_F(BlkTest, DestroyedWithRequestsInFlight) {
  plug();
  disk->hold();
  for (int i = 0; i < 5; ++i)
    driver->put(0, {{header(0, 0), 16, false}, {driver->allocate(513), 513, true}});
  driver->kick(0);
  rig.run();
  disk->wait_held();
  disk->let_go();
  rig.transports.clear();
  rig.run();  // what was posted finds nobody
  EXPECT_FALSE(driver->used(0));
  EXPECT_FALSE(rig.line.level);
}

TEST_F(BlkTest, AnotherDiskIsRefusedAtLoad) {
  plug();
  state::Image image;
  device->save(image);
  Rig other;
  auto& smaller = other.plug(std::make_unique<Blk>(
      "disk0", other.environment(), std::make_unique<storage::MemoryDisk>(32 * KiB)));
  auto loaded = smaller.load(image);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().what.find("128 sectors"), std::string::npos);
  EXPECT_EQ(smaller.status(), 0);
}

TEST_F(BlkTest, AGuestThatRunsMeanwhile) {
  plug();
  // A vCPU submits and reaps on its own thread while the event loop serves.
  constexpr unsigned kRequests = 2000;
  std::atomic<bool> ending = false;
  std::thread loop([&] {
    while (!ending) rig.loop->run_once(10);
  });
  struct Slot {
    Gpa header, data, status;
  };
  std::vector<Slot> slots;
  for (int i = 0; i < 16; ++i)
    slots.push_back({header(0, i), driver->allocate(512), driver->allocate(1)});
  // A slot is used again when its own request is done, for they end in any order.
  std::vector<unsigned> idle(slots.size());
  std::iota(idle.begin(), idle.end(), 0u);
  for (int i = 0; i < 16; ++i) disk->bytes[512 * static_cast<u64>(i)] = static_cast<u8>(i + 1);
  auto* used_index = reinterpret_cast<u16*>(rig.memory->host(driver->ring(0) + 0x6002, 2));
  auto* avail_index = reinterpret_cast<u16*>(rig.memory->host(driver->ring(0) + 0x4002, 2));
  unsigned submitted = 0, reaped = 0;
  while (reaped < kRequests) {
    while (submitted < kRequests && !idle.empty()) {
      unsigned i = idle.back();
      idle.pop_back();
      auto first = static_cast<u16>(3 * i);
      driver->descriptor(0, first, slots[i].header, 16, 1, first + 1);
      driver->descriptor(0, first + 1, slots[i].data, 512, 3, first + 2);
      driver->descriptor(0, first + 2, slots[i].status, 1, 2);
      (void)rig.memory->write_value<u16>(
          driver->ring(0) + 0x4004 + 2 * (submitted % driver->queue_entries(0)), first);
      ++submitted;
      std::atomic_ref(*avail_index).store(static_cast<u16>(submitted), std::memory_order_release);
      driver->kick(0);
    }
    u16 now = std::atomic_ref(*used_index).load(std::memory_order_acquire);
    if (now == static_cast<u16>(reaped)) std::this_thread::yield();
    while (static_cast<u16>(reaped) != now) {
      Gpa at = driver->ring(0) + 0x6004 + 8 * (reaped % driver->queue_entries(0));
      unsigned i = *rig.memory->read_value<u32>(at) / 3;
      ASSERT_LT(i, 16u);
      EXPECT_EQ(*rig.memory->read_value<u8>(slots[i].data), i + 1);
      EXPECT_EQ(*rig.memory->read_value<u8>(slots[i].status), 0);
      idle.push_back(i);
      ++reaped;
    }
  }
  ending = true;
  loop.join();
}

}  // namespace
}  // namespace skerry::virtio
