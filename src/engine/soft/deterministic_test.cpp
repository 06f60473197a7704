// Runs that stop at a position, and the clock that goes with them.
#include "engine/soft/deterministic.hpp"

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::rcx;
using machine::rdi;

class Deterministic : public SoftTest {
 protected:
  Cpu::Core& core() { return *cpu().core; }
  /// Whether the run ended at the stop, not by itself.
  bool run_to(u64 position) {
    core().stop_at = core().position() + position;
    return std::holds_alternative<machine::Interrupted>(vcpu().run());
  }
};

TEST_F(Deterministic, StopsAtEveryInstruction) {
  long_mode();
  code(kCodeAt, {0xb9, 5, 0, 0, 0,  // mov ecx, 5
                 0xff, 0xc9,        // dec ecx
                 0x75, 0xfc,        // jnz
                 0xf4});
  for (u64 stop = 1; stop <= 11; ++stop) {
    SCOPED_TRACE(stop);
    start();
    const u64 before = core().position();
    ASSERT_TRUE(run_to(stop));
    EXPECT_EQ(core().position() - before, stop);
    EXPECT_EQ(reg(rcx), 5 - stop / 2);
  }
}

TEST_F(Deterministic, StopsAfterABlock) {
  long_mode();
  code(kCodeAt, {0x90, 0xeb, 0x00, 0x90, 0xf4});  // nop; jmp; nop; hlt
  start();
  core().single_block = true;
  const u64 before = core().position();
  ASSERT_TRUE(run_to(1000));
  EXPECT_EQ(core().position() - before, 2u);
  EXPECT_EQ(cpu().rip, kCodeAt + 3);
}

// It gives way to whoever wants attention, but nobody sees its middle.
TEST_F(Deterministic, ARepeatedStringInstructionIsOnePosition) {
  for (bool single : {false, true}) {
    SCOPED_TRACE(single);
    long_mode();
    code(kCodeAt, {0xf3, 0xaa, 0x90, 0xf4});  // rep stosb; nop; hlt
    state.gpr[rcx] = 2 * MiB;
    state.gpr[rdi] = 4 * MiB;
    start();
    core().single_block = single;
    const u64 before = core().position();
    ASSERT_TRUE(run_to(1));
    EXPECT_EQ(core().position() - before, 1u);
    EXPECT_EQ(reg(rcx), 0u);
    EXPECT_EQ(reg(rdi), 6 * MiB);
    EXPECT_EQ(cpu().rip, kCodeAt + 2);
  }
}

TEST_F(Deterministic, AnExceptionIsAPosition) {
  long_mode();
  code(kCodeAt, {0x90, 0x0f, 0x0b});  // nop; ud2
  start();
  ASSERT_TRUE(run_to(1));
  EXPECT_EQ(cpu().rip, kCodeAt + 1);
  ASSERT_TRUE(run_to(1));
  EXPECT_EQ(cpu().rip, kHandlersAt + 16 * UD);
}

TEST_F(Deterministic, WhatOverwritesItsOwnBlockIsCountedOnce) {
  long_mode();
  code(kCodeAt, {0xc6, 0x05, 1, 0, 0, 0, 0x90,  // mov byte [rip + 1], 0x90
                 0x90,                          // nop
                 0xcc,                          // int3, until then
                 0xf4});
  start();
  const u64 before = core().position();
  EXPECT_FALSE(run_to(1000));
  EXPECT_EQ(cpu().rip, kCodeAt + 10);
  EXPECT_EQ(core().position() - before, 3u);
}

TEST(DeterministicClock, NeverGoesBackAndNeverStandsStillForTheGuest) {
  DeterministicClock c;
  c.advance_to(100);
  EXPECT_EQ(c.ticks(), 100u);
  EXPECT_EQ(c.ticks(), 100u);
  c.set_guest(true);
  EXPECT_EQ(c.ticks(), 101u);
  EXPECT_EQ(c.ticks(), 102u);
  EXPECT_EQ(c.now(), 100);
  c.set_guest(false);
  c.advance_to(101);
  EXPECT_EQ(c.now(), 102);
  EXPECT_EQ(c.ticks(), 102u);
  EXPECT_EQ(c.wall() - c.now(), DeterministicClock::kStart);
}

}  // namespace
}  // namespace skerry::soft
