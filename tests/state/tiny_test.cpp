// A tiny guest (ticker.S) that is saved and loaded over and over says what it says when left alone.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <thread>

#include "guest_run.hpp"

namespace skerry::state_test {
namespace {

schema::MachineSpec ticker(unsigned cpus) {
  schema::MachineSpec spec;
  spec.memory.count = 4 * MiB;
  spec.cpus = cpus;
  spec.kernel = fmt::format("{}/ticker{}.bin", TICKER_DIRECTORY, cpus);
  spec.debug_exit = true;
  return spec;
}

/// Runs the guest to its end with up to `trips` round trips on the way; its output.
std::string run(unsigned cpus, unsigned trips, u32 seed) {
  schema::MachineSpec spec = ticker(cpus);
  Transcript transcript;
  std::unique_ptr<board::Board> board;
  auto built = build(spec, transcript);
  if (!built) return built.error().message();
  board = std::move(*built);
  std::mt19937 random(seed);
  unsigned done = 0;
  board->machine().resume();
  while (true) {
    int wait = done < trips ? static_cast<int>(random() % 4) : 60'000;
    auto outcome = board->machine().wait_request(wait);
    board->machine().pause();
    if (outcome) {
      EXPECT_EQ(outcome->what, machine::Request::debug_exit);
      EXPECT_EQ(outcome->code, 7u);
      break;
    }
    if (done++ >= trips) {
      ADD_FAILURE() << "the guest stands still after " << trips << " round trips, seed " << seed;
      break;
    }
    auto tripped = round_trip(spec, transcript, board);
    if (!tripped) {
      ADD_FAILURE() << tripped.error().message();
      break;
    }
    board->machine().resume();
  }
  EXPECT_GE(done, std::min(trips, 1u)) << "the guest was too fast to be saved";
  return transcript.text();
}

TEST(TinyGuest, goes_on_where_it_was_saved) {
  std::string alone = run(1, 0, 0);
  EXPECT_EQ(std::count(alone.begin(), alone.end(), '\n'), 98);
  EXPECT_EQ(alone.find('T'), std::string::npos) << "the TSC went back";
  EXPECT_EQ(run(1, 24, 1), alone);
}

TEST(TinyGuest, goes_on_with_two_cpus) {
  std::string alone = run(2, 0, 0);
  EXPECT_EQ(std::count(alone.begin(), alone.end(), '\n'), 98);
  EXPECT_EQ(run(2, 24, 2), alone);
}

TEST(TinyGuest, stands_still_while_paused) {
  Transcript transcript;
  auto board = build(ticker(2), transcript);
  ASSERT_TRUE(board) << board.error().message();
  machine::Machine& machine = (*board)->machine();
  machine.resume();
  (void)machine.wait_request(5);
  machine.pause();
  auto before = machine.save();
  ASSERT_TRUE(before);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  auto after = machine.save();
  ASSERT_TRUE(after);
  // A timer that was due when the clock stopped may still expire.
  EXPECT_EQ(differences_but_time(*before, *after), "");
}

// Going back in the same process, into a machine that has run on.
TEST(TinyGuest, can_be_taken_back) {
  std::string alone = run(1, 0, 0);
  Transcript transcript;
  auto board = build(ticker(1), transcript);
  ASSERT_TRUE(board) << board.error().message();
  machine::Machine& machine = (*board)->machine();
  machine.resume();
  if (machine.wait_request(10)) GTEST_SKIP() << "the host was too busy to stop the guest in time";
  machine.pause();
  size_t said = transcript.text().size();
  auto image = machine.save();
  ASSERT_TRUE(image);
  for (int turn = 0; turn < 3; ++turn) {
    machine.resume();
    auto outcome = machine.wait_request(turn < 2 ? 7 : 60'000);
    machine.pause();
    if (turn == 2) {
      ASSERT_TRUE(outcome && outcome->what == machine::Request::debug_exit);
      break;
    }
    auto loaded = machine.load(*image);
    ASSERT_TRUE(loaded) << loaded.error().message();
    said = transcript.text().size();
  }
  std::string last = transcript.text().substr(said);
  ASSERT_LE(last.size(), alone.size());
  EXPECT_EQ(last, alone.substr(alone.size() - last.size()));
}

// The pause is not in the guest's time, and its two clocks stay together.
TEST(TinyGuest, has_no_time_for_pauses) {
  Transcript transcript;
  auto board = build(ticker(1), transcript);
  ASSERT_TRUE(board) << board.error().message();
  machine::Machine& machine = (*board)->machine();
  auto tsc = [&] {
    machine::CpuState state;
    EXPECT_TRUE(machine.cpu(0).save(state));
    return static_cast<double>(state.tsc) / static_cast<double>(host_tsc_hz());
  };
  EXPECT_EQ(tsc(), 0);
  Nanos start = machine.clock().now();
  for (int i = 0; i < 20; ++i) {
    machine.resume();
    machine.pause();
    Nanos now = machine.clock().now();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(machine.clock().now(), now);
    EXPECT_NEAR(tsc(), static_cast<double>(now - start) / 1e9, 20e-6);
  }
}

// An NMI, an INIT and a SIPI that reach a CPU which has already stopped are in its state.
TEST(TinyGuest, keeps_events_that_come_late) {
  Transcript transcript;
  auto board = build(ticker(2), transcript);
  ASSERT_TRUE(board) << board.error().message();
  machine::Machine& machine = (*board)->machine();
  machine.cpu(0).nmi();
  machine.cpu(1).init();
  machine.cpu(1).sipi(8);
  auto image = machine.save();
  ASSERT_TRUE(image);
  machine::CpuState first, second;
  ASSERT_TRUE(image->get("cpu0", first));
  ASSERT_TRUE(image->get("cpu1", second));
  EXPECT_TRUE(first.nmi_pending);
  EXPECT_EQ(second.run, machine::RunState::running);
  EXPECT_EQ(second.seg[machine::cs].base, 0x8000u);
  EXPECT_EQ(second.rip, 0u);
}

TEST(TinyGuest, refuses_an_image_of_another_machine) {
  Transcript transcript;
  auto one = build(ticker(1), transcript), two = build(ticker(2), transcript);
  ASSERT_TRUE(one && two);
  auto image = (*one)->machine().save(), other = (*two)->machine().save();
  ASSERT_TRUE(image && other);
  EXPECT_FALSE((*two)->machine().load(*image));
  EXPECT_FALSE((*one)->machine().load(*other));
}

}  // namespace
}  // namespace skerry::state_test
