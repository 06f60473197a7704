// Hostile guests on a whole machine inside this process.
#include <gtest/gtest.h>

#include <random>

#include "board/board.hpp"
#include "engine/soft/engine.hpp"
#include "tests/hostile/guests.hpp"
#include "tests/test_engine.hpp"

namespace skerry::hostile {
namespace {

using machine::Request;

#if defined(__SANITIZE_ADDRESS__)
constexpr u64 kGrowth = 256 * MiB;  // ASan keeps freed memory for a while
#else
constexpr u64 kGrowth = 112 * MiB;  // RAM, TLBs and decoded code come and go; it ends near 100
#endif
constexpr u64 kRam = 16 * MiB;
constexpr u64 kEcam = 0xb000'0000;

struct Hostile : testing::Test {
  Hostile() {
    schema::MachineSpec spec;
    spec.memory.count = kRam;
    spec.code_cache.count = 8 * MiB;  // random code fills it, so that all is evicted many times
    spec.serials = {{schema::SerialKind::none, ""}};
    spec.consoles = {{schema::SerialKind::none, ""}};
    spec.debug_exit = true;
    spec.engine = test_engine();
    auto sinks = [](size_t) { return board::LineSink{[](std::span<const u8>) {}, [] {}}; };
    board = std::move(
        board::Board::build(spec, std::move(soft::create_engine().value()), sinks).value());
  }
  machine::Machine& machine() { return board->machine(); }

  /// The state in which a Multiboot loader would start `code`.
  machine::CpuState start32(const Code& code) {
    EXPECT_TRUE(machine().memory().write(kEntry, code));
    machine::CpuState s;
    for (auto& seg : s.seg) seg = {0x10, 0, 0xffffffff, 0xc093};
    s.seg[machine::cs] = {0x08, 0, 0xffffffff, 0xc09b};
    s.cr0 = 0x11;
    s.rip = kEntry;
    return s;
  }
  void power_on(const Code& code) {
    machine().set_boot([this, code] { return start32(code); });
    ASSERT_TRUE(machine().power_on());
  }
  void run(const Code& code) {
    if (!powered_) {
      power_on(code);
      powered_ = true;
    } else {
      machine().pause();
      machine().set_boot([this, code] { return start32(code); });
      ASSERT_TRUE(machine().reset());
    }
    machine().resume();
  }
  /// The machine is whole: a good guest still does what it should.
  void expect_works() {
    run({0x66, 0xba, 0xf4, 0x00, 0xb0, 0x21, 0xee, 0xf4});  // debug exit with 0x21
    auto outcome = machine().wait_request(20'000);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->what, Request::debug_exit);
    EXPECT_EQ(outcome->code, 0x21u);
  }

  std::unique_ptr<board::Board> board;
  bool powered_ = false;
};

TEST_F(Hostile, TripleFault) {
  for (int i = 0; i < 3; ++i) {
    run(triple_fault());
    auto outcome = machine().wait_request(20'000);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->what, Request::crash);
  }
  expect_works();
}

TEST_F(Hostile, JumpsToWhereNoCodeIs) {
  for (u32 at : {0xfec00000u, 0xfed00000u, 0xfee00000u, 0xfee00ffeu, 0xb0000000u, 0xb00f8000u,
                 0xc0000000u, 0xd0000000u, u32{kRam}, u32{kRam} - 1, 0xffffffffu, 0xfffffff0u}) {
    SCOPED_TRACE(testing::Message() << std::hex << at);
    run(jump_to(at));
    auto outcome = machine().wait_request(20'000);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->what, Request::crash);
  }
  expect_works();
}

TEST_F(Hostile, FaultsForEver) {
  run(fault_storm());
  EXPECT_FALSE(machine().wait_request(500));  // it does not crash, and
  machine().pause();                          // stops when told
  expect_works();
}

struct RandomCode : Hostile {
  void try_seed(u64 seed, int seconds);
};

// Random bytes as code, mostly until they crash; started in a mode of their own each time.
void RandomCode::try_seed(u64 seed, int seconds) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  u64 rounds = 0, crashes = 0, before = 0;
  machine().set_boot([&] {
    Code code(16 * KiB);
    for (auto& byte : code) byte = static_cast<u8>(random());
    machine::CpuState s = start32(code);
    for (auto& reg : s.gpr) reg = random() % (2 * kRam);
    if (random() & 1) {  // real mode
      for (auto& seg : s.seg) seg = {0x1000, 0x10000, 0xffff, 0x93};
      s.seg[machine::cs] = {0xffff, 0xffff0, 0xffff, 0x9b};
      s.cr0 = 0x10;
      s.rip = 0x30;
      s.idtr = {0, 0x3ff};
    } else if (random() & 1) {
      s.idtr = {random() % kRam, 0xfff};
      s.gdtr = {random() % kRam, 0xffff};
      s.cr4 = random() & 0x3306ff;
    }
    s.rflags |= random() & 0x4fd5;
    return s;
  });
  ASSERT_TRUE(machine().power_on());
  powered_ = true;
  for (Nanos end = HostClock::monotonic() + Nanos{seconds} * 1'000'000'000;
       HostClock::monotonic() < end; ++rounds) {
    if (rounds == 50) before = resident();
    machine().resume();
    if (auto outcome = machine().wait_request(20)) {
      ++crashes;
      ASSERT_NE(outcome->what, Request::fatal) << "the engine gave up";
    }
    machine().pause();
    ASSERT_TRUE(machine().reset());
  }
  EXPECT_GT(rounds, 20u);
  EXPECT_GT(crashes, 0u);
  if (before) {
    EXPECT_LT(resident(), before + kGrowth);
  }
  RecordProperty("rounds", static_cast<int>(rounds));
  expect_works();
}
TEST_F(RandomCode, FixedSeed) {
  try_seed(7, 4);
}
TEST_F(RandomCode, FreshSeed) {
  u64 seed = std::random_device{}();
  std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
  try_seed(seed, 4);
}

TEST_F(Hostile, TenMillionRandomPortWrites) {
  run(halt_for_ever());
  std::mt19937_64 random(11);
  auto writes = [&](int count) {
    for (int i = 0; i < count; ++i) {
      u64 r = random();
      u64 port = r & 0x1000'0000 ? r & 0xffff : r & 0x7ff;
      machine().ports().write(port, 1u << (r >> 32) % 3, r >> 36);
      if (i % 4096 == 0) (void)machine().wait_request(0);
    }
  };
  testing::internal::CaptureStderr();
  writes(500'000);
  u64 before = resident();
  writes(9'500'000);
  EXPECT_LT(resident(), before + kGrowth);
  EXPECT_LT(testing::internal::GetCapturedStderr().size(), 64 * KiB) << "a guest can flood the log";
  expect_works();
}

TEST_F(Hostile, DescriptorLoops) {
  run(halt_for_ever());
  machine::Space& space = machine().memory_space();
  memory::GuestMemory& memory = machine().memory();
  for (unsigned slot : {1u, 2u}) {  // console, rng
    u64 config = kEcam + (u64{slot} << 15), bar = 0xc000'0000 + slot * 0x10'0000;
    space.write(config + 0x10, 4, bar);
    space.write(config + 0x14, 4, 0);
    space.write(config + 4, 2, 6);
    ASSERT_EQ(space.read(config, 2), 0x1af4u);
    for (bool indirect : {false, true}) {
      SCOPED_TRACE(testing::Message() << "slot " << slot << " indirect " << indirect);
      space.write(bar + 0x14, 1, 0);
      space.write(bar + 0x14, 1, 3);
      for (u32 half : {0u, 1u}) {  // all that is offered
        space.write(bar, 4, half);
        u64 offered = space.read(bar + 4, 4);
        space.write(bar + 8, 4, half);
        space.write(bar + 0xc, 4, offered);
      }
      space.write(bar + 0x14, 1, 11);
      unsigned queue = slot == 1 ? 1 : 0;
      space.write(bar + 0x16, 2, queue);
      space.write(bar + 0x18, 2, 8);
      const u64 ring = 0x20'0000, table = 0x21'0000;
      ASSERT_TRUE(memory.fill(ring, 0, 0x1000));
      space.write(bar + 0x20, 8, ring);
      space.write(bar + 0x28, 8, ring + 0x100);
      space.write(bar + 0x30, 8, ring + 0x200);
      space.write(bar + 0x1c, 2, 1);
      space.write(bar + 0x14, 1, 15);
      // 0 -> 1 -> 0 -> ...; or a table of 64Ki descriptors that all lead to the first.
      auto descriptor = [&](u64 at, u64 to, u32 length, u16 flags, u16 next) {
        ASSERT_TRUE(memory.write_value<u64>(at, to) && memory.write_value<u32>(at + 8, length) &&
                    memory.write_value<u16>(at + 12, flags) &&
                    memory.write_value<u16>(at + 14, next));
      };
      const u16 direction = slot == 1 ? 0 : 2;
      if (indirect) {
        descriptor(ring, table, 16 * 65536, 4, 0);
        descriptor(table, 0x30'0000, 16, direction | 1, 1);
        descriptor(table + 16, 0x30'0000, 16, direction | 1, 0);
      } else {
        descriptor(ring, 0x30'0000, 16, direction | 1, 1);
        descriptor(ring + 16, 0x30'0000, 16, direction | 1, 0);
      }
      ASSERT_TRUE(memory.write_value<u16>(ring + 0x102, 1));
      space.write(bar + 0x3000 + 4 * queue, 2, queue);
      bool refused = false;
      for (Nanos end = HostClock::monotonic() + 20'000'000'000;
           !refused && HostClock::monotonic() < end;)
        refused = space.read(bar + 0x14, 1) & 0x40;  // DEVICE_NEEDS_RESET
      EXPECT_TRUE(refused);
    }
  }
  expect_works();
}

}  // namespace
}  // namespace skerry::hostile
