// The code cache (jit_cache.cpp) while it is too small for what runs: regions are evicted, and
// what led into them is undone.
#include "engine/soft/jit.hpp"
#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using namespace machine;

class SmallCache : public SoftTest {
 protected:
  SmallCache() : SoftTest(1, Jit::kLeastCache) { long_mode(); }
  const Jit::Counters* counters() {
    const Jit* jit = cpu().core->jit.get();
    return jit ? &jit->counters : nullptr;
  }
  u64 run_from(u64 at) {
    state.rip = at;
    start();
    (void)run_to_halt();
    return reg(rax);
  }
};

constexpr u64 kFunctions = 0x400000, kTable = 0x300000;
constexpr u32 kCount = 1024, kSize = 192;

/// Functions of five blocks that jump to each other within a page, called in a random order: some
/// three times what the cache holds.
class ManyFunctions : public SmallCache {
 protected:
  static u64 address(u32 n) { return kFunctions + 0x1000 * (n / 16) + kSize * (n % 16); }
  void make(u64 alias) {
    for (u32 n = 0; n < kCount; ++n) {
      std::vector<u8> text;
      auto add = [&](std::initializer_list<u8> bytes) { text.insert(text.end(), bytes); };
      auto dword = [&](u32 v) {
        for (u32 i = 0; i < 4; ++i) text.push_back(static_cast<u8>(v >> (8 * i)));
      };
      // add rbx, imm32; test rbx, 1; jz +39; add rbx, 3; jmp +32 (twice over); then 1: ...
      add({0x48, 0x81, 0xc3});
      dword(n * 7 + 1);
      add({0xf6, 0xc3, 0x01, 0x74, 0x14});        // test bl, 1; jz 1f
      add({0x48, 0x8b, 0x04, 0x24});              // mov rax, [rsp]
      add({0x48, 0x83, 0xc3, 0x03, 0xeb, 0x0e});  // add rbx, 3; jmp 2f
      while (text.size() < 32) text.push_back(0x90);
      add({0x48, 0x8d, 0x5b, 0x05});              // 1: lea rbx, [rbx+5]
      add({0xf6, 0xc3, 0x02, 0x75, 0x04});        // 2: test bl, 2; jnz 3f
      add({0x48, 0x83, 0xc3, 0x09});              // add rbx, 9
      add({0x48, 0x89, 0x5c, 0x24, 0xf0, 0xc3});  // 3: mov [rsp-16], rbx; ret
      ASSERT_LE(text.size(), kSize);
      ASSERT_TRUE(memory->write(address(n), text));
      put<u64>(kTable + 8 * n, address(n) + (n % 3 == 0 ? alias : 0));
    }
  }
  /// What the functions do.
  static u64 call(u64 rbx, u32 n) {
    rbx += n * 7 + 1;
    rbx += rbx & 1 ? 3 : 5;
    if (!(rbx & 2)) rbx += 9;
    return rbx;
  }
  /// 1: imul rdx, rdx, 1103515245; add rdx, 12345; mov rax, rdx; shr rax, 16; and eax, 1023; call
  /// [rsi+rax*8]; dec rcx; jnz 1b; hlt
  void loop(u64 times) {
    code(kCodeAt, {0x48, 0x69, 0xd2, 0x6d, 0x4e, 0xc6, 0x41, 0x48, 0x81, 0xc2, 0x39, 0x30,
                   0,    0,    0x48, 0x89, 0xd0, 0x48, 0xc1, 0xe8, 0x10, 0x25, 0xff, 0x03,
                   0,    0,    0xff, 0x14, 0xc6, 0x48, 0xff, 0xc9, 0x75, 0xde, 0xf4});
    state.gpr[rcx] = times;
    state.gpr[rbx] = 0;
    state.gpr[rdx] = 1;
    state.gpr[rsi] = kTable;
    start();
    ASSERT_EQ(run_to_halt(), kCodeAt + 34);
    u64 rbx_wanted = 0, random = 1;
    for (u64 i = 0; i < times; ++i) {
      random = random * 1103515245 + 12345;
      rbx_wanted = call(rbx_wanted, (random >> 16) & 1023);
    }
    EXPECT_EQ(reg(rbx), rbx_wanted);
  }
};

TEST_F(ManyFunctions, a_working_set_larger_than_the_cache_runs) {
  make(0);
  loop(60000);
  if (!counters()) return;
  EXPECT_GT(counters()->evictions, 20u);
  EXPECT_GT(counters()->evicted_blocks, 1000u);
  EXPECT_GT(counters()->unlinks, 1000u);
  EXPECT_EQ(counters()->flushes, 0u);
}

TEST_F(ManyFunctions, at_two_addresses_each) {
  // The second GiB is the first again.
  put<u64>(kPagesAt + 0x1000 + 8, (kPagesAt + 0x2000) | 7);
  make(u64{1} << 30);
  loop(40000);
  if (counters()) {
    EXPECT_GT(counters()->evictions, 10u);
  }
}

TEST_F(ManyFunctions, whose_pages_are_written_meanwhile) {
  make(0);
  for (u32 round = 0; round < 20; ++round) {
    loop(3000);
    // Some change, some are written with what they have.
    for (u32 n = round; n < kCount; n += 7) {
      auto byte = get<u8>(address(n) + 31);
      put<u8>(address(n) + 31, n & 8 ? byte : u8{0x90});
      put<u8>(address(n), 0x48);
    }
  }
  if (counters()) {
    EXPECT_GT(counters()->stale_blocks, 1000u);
    EXPECT_GT(counters()->revalidated, 100u);
  }
}

TEST_F(SmallCache, one_page_at_many_addresses) {
  // 1: add rbx, 1; ret
  code(0x500000, {0x48, 0x83, 0xc3, 0x01, 0xc3});
  constexpr u64 kMany = 100;
  for (u64 n = 0; n < kMany; ++n) map_page((u64{5} << 30) + 0x1000 * n, 0x500000, 3);
  // 1: mov rsi, rdi; mov ecx, 100; 2: call rsi; add rsi, 0x1000; loop 2b; dec edx; jnz 1b; hlt
  code(kCodeAt, {0x48, 0x89, 0xfe, 0xb9, 0x64, 0,    0,    0,    0xff, 0xd6, 0x48, 0x81,
                 0xc6, 0,    0x10, 0,    0,    0xe2, 0xf5, 0xff, 0xca, 0x75, 0xe9, 0xf4});
  state.gpr[rdi] = u64{5} << 30;
  state.gpr[rdx] = 50;
  state.gpr[rbx] = 0;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 23);
  EXPECT_EQ(reg(rbx), 50 * kMany);
}

// A block that begins with a jump to another one, both of which change: while it is stale its first
// bytes are a jump of ours.
TEST_F(SmallCache, a_stale_block_that_begins_with_a_link) {
  constexpr u64 kA = 0x500000, kB = kA + 0x100, kC = kA + 0x200;
  auto answer = [&](u64 at, u8 value) { code(at, {0xb8, value, 0, 0, 0, 0xf4}); };
  code(kA, {0xe9, 0xfb, 0, 0, 0});  // jmp kB
  answer(kB, 1);
  answer(kC, 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run_from(kA), 1u);
  // kB changes; kA is written, but does not.
  code(kA, {0xe9, 0xfb, 0, 0, 0});
  answer(kB, 2);
  EXPECT_EQ(run_from(kB), 2u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run_from(kA), 2u);
  // Both change.
  code(kA, {0xe9, 0xfb, 0x01, 0, 0});  // jmp kC
  answer(kB, 4);
  EXPECT_EQ(run_from(kB), 4u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run_from(kA), 3u);
}

TEST_F(SmallCache, a_loop_that_rewrites_itself_fills_it) {
  // 1: add dword [rip + (imm)], 1; mov eax, imm; add rbx, rax; 40 x add [rsi+rdi+8i], ecx; dec rcx;
  // jnz 1b; hlt
  std::vector<u8> text = {0x83, 0x05, 0x01, 0, 0, 0, 1, 0xb8, 0, 0, 0, 0, 0x48, 0x01, 0xc3};
  for (u8 i = 0; i < 40; ++i)
    for (u8 b : {0x01, 0x8c, 0x3e, 8 * (i & 15), 0, 0, 0}) text.push_back(b);
  text.insert(text.end(), {0x48, 0xff, 0xc9, 0x0f, 0x85});
  const u32 back = static_cast<u32>(-static_cast<i64>(text.size() + 4));
  for (u32 i = 0; i < 4; ++i) text.push_back(static_cast<u8>(back >> (8 * i)));
  text.push_back(0xf4);
  constexpr u64 kTimes = 2000;
  state.gpr[machine::rcx] = kTimes;
  state.gpr[machine::rbx] = 0;
  state.gpr[machine::rsi] = 0x200000;
  state.gpr[machine::rdi] = 64;
  ASSERT_TRUE(memory->write(kCodeAt, text));
  start();
  ASSERT_EQ(run_to_halt(), kCodeAt + text.size() - 1);
  EXPECT_EQ(reg(machine::rbx), kTimes * (kTimes + 1) / 2);
  if (counters()) {
    EXPECT_GT(counters()->evictions, 10u);
    EXPECT_EQ(counters()->flushes, 0u);
  }
}

// Code that is made again and again in one place does not pile up.
TEST_F(SmallCache, code_made_again_and_again) {
  for (u32 n = 0; n < 12000; ++n) {
    code(0x500000, {0x48, 0x81, 0xc3, static_cast<u8>(n), static_cast<u8>(n >> 8), 0, 0, 0x48, 0x89,
                    0xd8, 0x75, 0x01, 0x90, 0xf4});
    state.gpr[rbx] = n;
    ASSERT_EQ(run_from(0x500000), 2 * u64{n});
  }
  if (counters()) {
    EXPECT_GT(counters()->evictions, 1u);
    EXPECT_EQ(counters()->flushes, 0u);
  }
}

}  // namespace
}  // namespace skerry::soft
