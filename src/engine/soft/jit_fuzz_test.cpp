// Random programs with fixed seeds: the translator against the interpreter (block_rig.hpp). More of
// them: bin/skerry-blocks, fuzz/jit.cpp.
#include <gtest/gtest.h>

#include "engine/soft/block_rig.hpp"

namespace skerry::soft::block_fuzz {
namespace {

void run(Rig& rig, u64 from, u64 count) {
  const isa::FeatureSet features = rig.features();
  for (u64 seed = from; seed < from + count; ++seed) {
    Program p = Generator(seed, features).make();
    const Failure f = rig.test(p);
    if (f.empty()) continue;
    ADD_FAILURE() << report(p);
    return;
  }
}

class Blocks : public testing::TestWithParam<u64> {};

TEST_P(Blocks, do_the_same_as_on_the_interpreter) {
  Rig rig;
  run(rig, GetParam(), 150);
  // They do run, mostly to their end.
  EXPECT_GT(rig.runs, 300u);
  EXPECT_GT(rig.runs, 20 * rig.discarded);
  EXPECT_GT(rig.runs, rig.faults + rig.runs / 5);
  EXPECT_GT(rig.steps, 500u);
}

INSTANTIATE_TEST_SUITE_P(Fixed, Blocks, testing::Values(1000, 2000, 3000, 4000));

TEST(BlocksInASmallCache, do_the_same_as_on_the_interpreter) {
  Rig rig(Jit::kLeastCache);
  run(rig, 5000, 500);
  EXPECT_GT(rig.evictions(), 4u);
}

/// What the comparison would not see it could not report.
TEST(BlockRig, sees_a_difference) {
  Rig rig;
  Program p = Generator(7, rig.features()).make();
  ASSERT_EQ(rig.test(p), "");
  EXPECT_TRUE(rig.differs_after_a_change());
}

TEST(BlockProgram, instructions_that_read_undefined_flags_are_found) {
  Program p;
  auto add = [&](std::initializer_list<u8> bytes) {
    Item& item = p.items.emplace_back();
    for (u8 b : bytes) item.bytes[item.length++] = b;
  };
  add({0x0f, 0xaf, 0xc3});  // imul eax, ebx: SF, ZF, AF, PF are undefined
  add({0x0f, 0x92, 0xc0});  // setb al
  add({0xf4});
  p.items[2].leads = Item::Leads::stop;
  ASSERT_TRUE(p.lay_out());
  EXPECT_FALSE(p.flags_defined());
  p.items[0].on = false;
  ASSERT_TRUE(p.lay_out());
  EXPECT_TRUE(p.flags_defined());
}

}  // namespace
}  // namespace skerry::soft::block_fuzz
