// SSE and AVX: gates, what is kept and zeroed, faults before changes, numeric exceptions, masked
// accesses, the thunk cache. Results as such are the oracle's business (tests/oracle).
#include <set>

#include "engine/soft/vector_fixture.hpp"

namespace skerry::soft::vector_testing {
namespace {

TEST_F(VectorTest, LegacySseGates) {
  cpu.s.cr4 &= ~kCr4OsFxsr;
  fault({0x0f, 0x58, 0xc1}, UD);        // addps xmm0, xmm1 (thunk)
  fault({0x66, 0x0f, 0xef, 0xc1}, UD);  // pxor xmm0, xmm1 (direct)
  cpu.s.cr4 |= kCr4OsFxsr;
  cpu.s.cr0 |= kCr0Ts;
  fault({0x0f, 0x58, 0xc1}, NM);
  fault({0x66, 0x0f, 0xef, 0xc1}, NM);
  cpu.s.cr0 |= kCr0Em;
  fault({0x0f, 0x58, 0xc1}, UD);
  fault({0x66, 0x0f, 0xef, 0xc1}, UD);
}

TEST_F(VectorTest, GateComesBeforeTheOperand) {
  cpu.gpr[machine::rax] = kDataEnd + 0x1000;
  cpu.s.cr0 |= kCr0Ts;
  fault({0x0f, 0x58, 0x00}, NM);  // addps xmm0, [rax]
  cpu.s.cr0 &= ~kCr0Ts;
  fault({0x0f, 0x58, 0x00}, PF);
}

TEST_F(VectorTest, VexGates) {
  if (!host_has_avx2()) GTEST_SKIP() << "the host has no AVX2";
  cpu.s.cr4 &= ~kCr4OsXsave;
  fault({0xc5, 0xf4, 0x58, 0xc2}, UD);  // vaddps ymm0, ymm1, ymm2
  cpu.s.cr4 |= kCr4OsXsave;
  cpu.s.xcr0 = 3;
  fault({0xc5, 0xf4, 0x58, 0xc2}, UD);
  cpu.s.xcr0 = 7;
  cpu.s.cr0 |= kCr0Ts;
  fault({0xc5, 0xf4, 0x58, 0xc2}, NM);
  cpu.s.cr0 = (cpu.s.cr0 & ~kCr0Ts) | kCr0Em;  // EM does not concern VEX
  ok({0xc5, 0xf4, 0x58, 0xc2});
}

TEST_F(VectorTest, OpmaskNeedsItsStateEnabled) {
  if (!(supported_vector_features().xcr0 & 0x20)) GTEST_SKIP() << "the host has no AVX-512";
  ok({0xc5, 0xf8, 0x90, 0xca});  // kmovw k1, k2
  cpu.s.xcr0 = 7;
  fault({0xc5, 0xf8, 0x90, 0xca}, UD);
}

TEST_F(VectorTest, LegacyKeepsTheUpperPartAndVexZeroesIt) {
  if (!host_has_avx2()) GTEST_SKIP() << "the host has no AVX2";
  fill(1, 0x11);
  fill(2, 0x22);
  for (auto code : {std::initializer_list<int>{0x0f, 0x58, 0xca},  // addps xmm1, xmm2
                    {0x66, 0x0f, 0xef, 0xca}}) {                   // pxor xmm1, xmm2
    ok(code);
    auto v = vector(1);
    EXPECT_EQ(std::set(v.begin() + 16, v.end()), std::set<u8>{0x11});
  }
  ok({0xc5, 0xe8, 0x58, 0xca});  // vaddps xmm1, xmm2, xmm2
  auto v = vector(1);
  EXPECT_EQ(std::set(v.begin() + 16, v.end()), std::set<u8>{0});
  EXPECT_NE(v[0], 0);
  v = vector(2);
  EXPECT_EQ(std::set(v.begin(), v.end()), std::set<u8>{0x22});
}

TEST_F(VectorTest, VzeroupperTouchesEightRegistersOutside64BitMode) {
  if (!host_has_avx2()) GTEST_SKIP() << "the host has no AVX2";
  for (u8 n = 0; n < 16; n++) fill(n, 0x33);
  cpu.code_bits = 32;
  ok({0xc5, 0xf8, 0x77});
  EXPECT_EQ(vector(7)[15], 0x33);
  EXPECT_EQ(vector(7)[16], 0);
  EXPECT_EQ(vector(8)[16], 0x33);
  cpu.code_bits = 64;
  ok({0xc5, 0xf8, 0x77});
  EXPECT_EQ(vector(8)[16], 0);
}

TEST_F(VectorTest, AlignedFormsWantAlignment) {
  cpu.gpr[machine::rax] = kData + 8;
  fault({0x0f, 0x28, 0x00}, GP);  // movaps xmm0, [rax]
  EXPECT_TRUE(cpu.fault.has_error);
  EXPECT_EQ(cpu.fault.error, 0u);
  fault({0x0f, 0x29, 0x00}, GP);
  fault({0x0f, 0x58, 0x00}, GP);  // addps
  ok({0x0f, 0x10, 0x00});         // movups
  // Misalignment comes before the page fault.
  cpu.gpr[machine::rax] = kDataEnd + 8;
  fault({0x0f, 0x58, 0x00}, GP);
}

TEST_F(VectorTest, LoadAcrossTheEndChangesNothing) {
  fill(0, 0x44);
  cpu.gpr[machine::rax] = kDataEnd - 8;
  fault({0x0f, 0x10, 0x00}, PF);
  EXPECT_EQ(cpu.fault.address, kDataEnd);
  EXPECT_EQ(vector(0)[0], 0x44);
  poke<u64>(kDataEnd - 8, 0x5555);
  fault({0x0f, 0x11, 0x00}, PF);  // movups [rax], xmm0
  EXPECT_EQ(peek<u64>(kDataEnd - 8), 0x5555u);
}

TEST_F(VectorTest, UnmaskedNumericExceptionIsXmAndLeavesTheDestination) {
  float one = 1, zero = 0;
  store(xmm_of(cpu, 0), one);
  store(xmm_of(cpu, 1), zero);
  set_mxcsr(cpu, 0x1f80 & ~0x200u);     // divide-by-zero unmasked
  fault({0xf3, 0x0f, 0x5e, 0xc1}, XM);  // divss xmm0, xmm1
  EXPECT_EQ(load<float>(xmm_of(cpu, 0)), one);
  EXPECT_EQ(mxcsr(cpu) & 0x3f, 4u);
  cpu.s.cr4 &= ~kCr4OsXmmExcpt;
  fault({0xf3, 0x0f, 0x5e, 0xc1}, UD);
  // The host's own floating point still works, and with its own MXCSR.
  set_mxcsr(cpu, 0x1f80);
  ok({0xf3, 0x0f, 0x5e, 0xc1});
  EXPECT_EQ(load<u32>(xmm_of(cpu, 0)), 0x7f800000u);
  u32 host;
  asm volatile("stmxcsr %0" : "=m"(host));
  EXPECT_EQ(host & ~0x3fu, 0x1f80u);
}

TEST_F(VectorTest, RoundingIsTheGuests) {
  store(xmm_of(cpu, 1), 2.5);
  set_mxcsr(cpu, 0x1f80 | 0x4000);  // up
  ok({0xf2, 0x0f, 0x2d, 0xc1});     // cvtsd2si eax, xmm1
  EXPECT_EQ(cpu.gpr[machine::rax], 3u);
  EXPECT_EQ(mxcsr(cpu) & 0x3f, 0x20u);  // inexact
  set_mxcsr(cpu, 0x1f80 | 0x2000);
  ok({0xf2, 0x0f, 0x2d, 0xe1});  // cvtsd2si esp, xmm1
  EXPECT_EQ(cpu.gpr[machine::rsp], 2u);
}

TEST_F(VectorTest, LdmxcsrRefusesReservedBits) {
  cpu.gpr[machine::rax] = kData;
  poke<u32>(kData, 0x11f80);
  fault({0x0f, 0xae, 0x10}, GP);
  EXPECT_EQ(mxcsr(cpu), 0x1f80u);
  poke<u32>(kData, 0xffff);
  ok({0x0f, 0xae, 0x10});
  EXPECT_EQ(mxcsr(cpu), 0xffffu);
  ok({0x0f, 0xae, 0x58, 0x04});  // stmxcsr [rax + 4]
  EXPECT_EQ(peek<u32>(kData + 4), 0xffffu);
}

TEST_F(VectorTest, ComparisonSetsFlags) {
  store(xmm_of(cpu, 0), 1.0f);
  store(xmm_of(cpu, 1), 2.0f);
  cpu.set_eflags(2 | kArithmeticFlags | 0x400);
  ok({0x0f, 0x2e, 0xc1});  // ucomiss xmm0, xmm1
  EXPECT_EQ(cpu.eflags() & kArithmeticFlags, CF);
  EXPECT_TRUE(cpu.eflags() & 0x400);
}

TEST_F(VectorTest, GatherKeepsWhatItHasDoneWhenItFaults) {
  if (!host_has_avx2()) GTEST_SKIP() << "the host has no AVX2";
  fill(0, 0xaa);
  fill(2, 0xff);
  cpu.gpr[machine::rax] = kData;
  const i32 index[4] = {0, 8, 0x2000, 16};  // the third is not there
  u8 v[16];
  std::memcpy(v, index, 16);
  write_vector(cpu, 1, 16, v);
  poke<u32>(kData, 0x1111);
  poke<u32>(kData + 8, 0x2222);
  poke<u32>(kData + 16, 0x3333);
  // vpgatherdd xmm0, [rax + xmm1], xmm2
  fault({0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08}, PF);
  EXPECT_EQ(cpu.fault.address, kDataEnd);
  auto d = vector(0), m = vector(2);
  EXPECT_EQ(load<u32>(&d[0]), 0x1111u);
  EXPECT_EQ(load<u32>(&d[4]), 0x2222u);
  EXPECT_EQ(load<u32>(&d[8]), 0xaaaaaaaau);
  EXPECT_EQ(load<u64>(&m[0]), 0u);
  EXPECT_EQ(load<u32>(&m[8]) >> 31, 1u);
  // Mended, it goes on where it was.
  store<i32>(xmm_of(cpu, 1) + 8, 24);
  poke<u32>(kData, 0x9999);  // not read again
  ok({0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08});
  d = vector(0);
  EXPECT_EQ(load<u32>(&d[0]), 0x1111u);
  EXPECT_EQ(load<u32>(&d[12]), 0x3333u);
  EXPECT_EQ(load<u64>(&d[16]), 0u);
  EXPECT_EQ(load<u64>(&vector(2)[8]), 0u);
}

TEST_F(VectorTest, MaskedMovesDoNotTouchWhatIsNotSelected) {
  if (!host_has_avx2()) GTEST_SKIP() << "the host has no AVX2";
  fill(1, 0);
  store<u32>(xmm_of(cpu, 1), 0x80000000);
  fill(2, 0x77);
  cpu.gpr[machine::rax] = kDataEnd - 4;
  ok({0xc4, 0xe2, 0x71, 0x2e, 0x10});  // vmaskmovps [rax], xmm1, xmm2
  EXPECT_EQ(peek<u32>(kDataEnd - 4), 0x77777777u);
  ok({0xc4, 0xe2, 0x71, 0x2c, 0x18});  // vmaskmovps xmm3, xmm1, [rax]
  EXPECT_EQ(load<u32>(xmm_of(cpu, 3)), 0x77777777u);
  EXPECT_EQ(load<u32>(xmm_of(cpu, 3) + 4), 0u);
  store<u32>(xmm_of(cpu, 1) + 4, 0x80000000);
  poke<u32>(kDataEnd - 4, 0);
  fault({0xc4, 0xe2, 0x71, 0x2e, 0x10}, PF);
  EXPECT_EQ(peek<u32>(kDataEnd - 4), 0u);
}

TEST_F(VectorTest, EvexMaskSuppressesFaults) {
  if (!(supported_vector_features().xcr0 & 0x20)) GTEST_SKIP() << "the host has no AVX-512";
  set_opmask(cpu, 1, 1);
  fill(2, 0x66);
  cpu.gpr[machine::rax] = kDataEnd - 4;
  ok({0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x10});  // vmovdqu32 [rax]{k1}, zmm2
  EXPECT_EQ(peek<u32>(kDataEnd - 4), 0x66666666u);
  ok({0x62, 0xf1, 0x7e, 0xc9, 0x6f, 0x18});  // vmovdqu32 zmm3{k1}{z}, [rax]
  EXPECT_EQ(load<u64>(&vector(3)[0]), 0x66666666u);
  set_opmask(cpu, 1, 3);
  fault({0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x10}, PF);
}

TEST_F(VectorTest, MoreInstructionsThanTheCacheHolds) {
  store(xmm_of(cpu, 1), u64{0x0004'0003'0002'0001});
  u64 before = CodeArena::of_this_thread()->generation();
  for (int round = 0; round < 2; round++)
    for (int dst = 0; dst < 16; dst++)
      for (int src = 0; src < 16; src++)
        for (int imm = 0; imm < 256; imm++) {
          store(xmm_of(cpu, static_cast<u8>(src)), u64{0x0004'0003'0002'0001});
          int rex = 0x40 | (dst & 8) >> 1 | src >> 3;
          // pshuflw dst, src, imm
          ASSERT_EQ(run({0xf2, rex, 0x0f, 0x70, 0xc0 | (dst & 7) << 3 | (src & 7), imm}),
                    Flow::next);
          u64 expected = 0;
          for (int i = 0; i < 4; i++)
            expected |= u64{static_cast<u64>((imm >> (2 * i) & 3) + 1)} << (16 * i);
          ASSERT_EQ(load<u64>(xmm_of(cpu, static_cast<u8>(dst))), expected);
        }
  EXPECT_NE(CodeArena::of_this_thread()->generation(), before) << "the cache was never full";
}

TEST_F(VectorTest, NoWritableCode) {
  // The two mappings of the arena: one writable, one executable, none both.
  ASSERT_NE(CodeArena::of_this_thread(), nullptr);
  FILE* maps = fopen("/proc/self/maps", "r");
  ASSERT_NE(maps, nullptr);
  char line[512];
  unsigned writable = 0, executable = 0;
  while (fgets(line, sizeof line, maps)) {
    if (!strstr(line, "skerry-thunks")) continue;
    bool w = strstr(line, "rw-s"), x = strstr(line, "r-xs");
    EXPECT_TRUE(w != x) << line;
    writable += w;
    executable += x;
  }
  fclose(maps);
  EXPECT_EQ(writable, 1u);
  EXPECT_EQ(executable, 1u);
}

}  // namespace
}  // namespace skerry::soft::vector_testing
