// FXSAVE and the XSAVE family: images, what is in use, checks.
#include "engine/soft/vector_fixture.hpp"

namespace skerry::soft::vector_testing {
namespace {

constexpr u64 kHeaderAt = kData + 512;

class XsaveTest : public VectorTest {
 protected:
  XsaveTest() {
    ok({0xdb, 0xe3});
    cpu.gpr[machine::rbx] = kData;
    request(~u64{0});
  }
  void request(u64 mask) {
    cpu.gpr[machine::rax] = static_cast<u32>(mask);
    cpu.gpr[machine::rdx] = mask >> 32;
  }
  void header(u64 present, u64 format) {
    std::memset(data(kHeaderAt), 0, 64);
    poke(kHeaderAt, present);
    poke(kHeaderAt + 8, format);
  }
  bool avx() const { return supported_vector_features().xcr0 & 4; }
  static constexpr std::initializer_list<int> kXsave = {0x48, 0x0f, 0xae, 0x23},
                                              kXrstor = {0x48, 0x0f, 0xae, 0x2b},
                                              kXsaveopt = {0x48, 0x0f, 0xae, 0x33},
                                              kXsavec = {0x48, 0x0f, 0xc7, 0x23},
                                              kXrstors = {0x48, 0x0f, 0xc7, 0x1b};
};

TEST_F(XsaveTest, FxsaveImage) {
  ok({0xd9, 0xe8});
  fill(3, 0x5a);
  fill(12, 0xa5);
  std::memset(data(kData), 0xee, 512);
  ok({0x48, 0x0f, 0xae, 0x03});  // fxsave64 [rbx]
  EXPECT_EQ(peek<u16>(kData), 0x37f);
  EXPECT_EQ(peek<u16>(kData + 4), 0x80);
  EXPECT_EQ(peek<u64>(kData + 8), kCodeAt);
  EXPECT_EQ(peek<u32>(kData + 24), 0x1f80u);
  EXPECT_EQ(peek<u32>(kData + 28), 0xffffu);
  EXPECT_EQ(peek<u64>(kData + 32), u64{1} << 63);
  EXPECT_EQ(peek<u8>(kData + 160 + 48), 0x5a);
  EXPECT_EQ(peek<u8>(kData + 160 + 192), 0xa5);
  EXPECT_EQ(peek<u8>(kData + 464), 0xee) << "the software's 48 bytes";
  fill(3, 0);
  ok({0xdb, 0xe3});
  ok({0x48, 0x0f, 0xae, 0x0b});  // fxrstor64
  EXPECT_EQ(vector(3)[0], 0x5a);
  EXPECT_EQ(fsw(cpu) >> 11, 7);
}

TEST_F(XsaveTest, FxrstorChecksBeforeItChanges) {
  ok({0x48, 0x0f, 0xae, 0x03});
  poke<u32>(kData + 24, 0x10000);
  poke<u8>(kData + 160, 0x77);
  fault({0x48, 0x0f, 0xae, 0x0b}, GP);
  EXPECT_EQ(vector(0)[0], 0);
  cpu.gpr[machine::rbx] = kData + 8;
  fault({0x48, 0x0f, 0xae, 0x0b}, GP);
  fault({0x48, 0x0f, 0xae, 0x03}, GP);
  cpu.gpr[machine::rbx] = kDataEnd - 256;
  fault({0x48, 0x0f, 0xae, 0x0b}, PF);
}

TEST_F(XsaveTest, OnlyEightRegistersOutside64BitMode) {
  fill(7, 0x11);
  fill(8, 0x22);
  cpu.code_bits = 32;
  cpu.flat = false;
  cpu.seg[machine::ds].limit = 0xffffffff;
  cpu.update_segment(machine::ds);
  std::memset(data(kData), 0xee, 512);
  ok({0x0f, 0xae, 0x03});
  EXPECT_EQ(peek<u8>(kData + 160 + 112), 0x11);
  EXPECT_EQ(peek<u8>(kData + 160 + 128), 0xee);
}

TEST_F(XsaveTest, XsaveTellsWhatIsInUse) {
  std::memset(data(kData), 0, 4096);
  poke<u64>(kHeaderAt, u64{1} << 9);  // bits that are not asked for stay
  ok(kXsave);
  EXPECT_EQ(peek<u64>(kHeaderAt), u64{1} << 9);
  store<u64>(xmm_of(cpu, 0), 1);
  ok(kXsave);
  EXPECT_EQ(peek<u64>(kHeaderAt) & 7, 2u);
  EXPECT_EQ(peek<u64>(kData + 160), 1u);
  if (!avx()) return;
  cpu.s.xsave[area::kYmm] = 9;
  ok(kXsave);
  EXPECT_EQ(peek<u64>(kHeaderAt) & 7, 6u);
  EXPECT_EQ(peek<u8>(kData + area::kYmm), 9);
  request(2);
  cpu.s.xsave[area::kYmm] = 10;
  ok(kXsave);
  EXPECT_EQ(peek<u8>(kData + area::kYmm), 9) << "not requested";
}

TEST_F(XsaveTest, XsaveoptSkipsInitialComponents) {
  std::memset(data(kData), 0xee, 576);
  header(0, 0);
  ok(kXsaveopt);
  EXPECT_EQ(peek<u64>(kHeaderAt), 0u);
  EXPECT_EQ(peek<u8>(kData + 160), 0xee);
  EXPECT_EQ(peek<u8>(kData), 0xee);
  EXPECT_EQ(peek<u32>(kData + 24), 0x1f80u);
}

TEST_F(XsaveTest, XsavecPacksComponents) {
  if (!(cpu.s.xcr0 & 0xe0)) GTEST_SKIP() << "the host has no AVX-512";
  set_opmask(cpu, 3, 0x1234);
  request(0x20);  // opmask alone
  ok(kXsavec);
  EXPECT_EQ(peek<u64>(kHeaderAt), 0x20u);
  EXPECT_EQ(peek<u64>(kHeaderAt + 8), (u64{1} << 63) | 0x20);
  EXPECT_EQ(peek<u64>(kData + 576 + 24), 0x1234u);
  set_opmask(cpu, 3, 0);
  ok(kXrstor);
  EXPECT_EQ(opmask(cpu, 3), 0x1234u);
}

TEST_F(XsaveTest, XrstorInitialises) {
  store<u64>(xmm_of(cpu, 5), 77);
  set_mxcsr(cpu, 0x3f80);
  ok({0xd9, 0xe8});
  std::memset(data(kData), 0, 576);
  poke<u32>(kData + 24, 0x5f80);
  header(0, 0);
  ok(kXrstor);
  EXPECT_EQ(load<u64>(xmm_of(cpu, 5)), 0u);
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0);
  EXPECT_EQ(fcw(cpu), 0x37f);
  EXPECT_EQ(mxcsr(cpu), 0x5f80u) << "standard format: always from memory";
  header(0, u64{1} << 63);
  ok(kXrstor);
  EXPECT_EQ(mxcsr(cpu), 0x1f80u) << "compacted: part of SSE state";
}

TEST_F(XsaveTest, XrstorChecks) {
  std::memset(data(kData), 0, 4096);
  header(u64{1} << 9, 0);  // a component that XCR0 does not have
  fault(kXrstor, GP);
  header(0, 1);  // XCOMP_BV without its top bit
  fault(kXrstor, GP);
  header(2, (u64{1} << 63) | 1);  // present but not in the format
  fault(kXrstor, GP);
  header(0, (u64{1} << 63));
  poke<u64>(kHeaderAt + 24, 1);
  fault(kXrstor, GP);
  header(0, 0);
  fault(kXrstors, GP);  // wants the compacted format
  poke<u32>(kData + 24, 0x80000000);
  fault(kXrstor, GP);
  cpu.gpr[machine::rbx] = kData + 16;
  fault(kXrstor, GP);
  fault(kXsave, GP);
  cpu.gpr[machine::rbx] = kData;
  poke<u32>(kData + 24, 0x1f80);
  cpu.s.cr0 |= kCr0Ts;
  fault(kXrstor, NM);
  cpu.s.cr4 &= ~kCr4OsXsave;
  fault(kXrstor, UD);
}

TEST_F(XsaveTest, XsaveFaultsBeforeItWrites) {
  store<u64>(xmm_of(cpu, 0), 1);
  cpu.gpr[machine::rbx] = kDataEnd - 0x200;  // the header is not there
  std::memset(data(kDataEnd - 0x200), 0xee, 0x200);
  fault(kXsave, PF);
  EXPECT_EQ(peek<u8>(kDataEnd - 0x200 + 24), 0xee);
}

TEST_F(XsaveTest, Xcr0) {
  auto xsetbv = [&](u64 value) {
    request(value);
    cpu.gpr[machine::rcx] = 0;
    return run({0x0f, 0x01, 0xd1});
  };
  // No CPUID table in these tests: nothing may be enabled beyond... x87 and SSE are in leaf 0xd.
  EXPECT_EQ(xsetbv(2), Flow::fault);
  EXPECT_EQ(cpu.fault.vector, GP);
  EXPECT_EQ(xsetbv(5), Flow::fault);  // AVX without SSE
  EXPECT_EQ(xsetbv(u64{1} << 40 | 1), Flow::fault);
  cpu.gpr[machine::rcx] = 0;
  ok({0x0f, 0x01, 0xd0});  // xgetbv
  EXPECT_EQ(cpu.gpr[machine::rax], cpu.s.xcr0);
  cpu.gpr[machine::rcx] = 1;
  store<u64>(xmm_of(cpu, 0), 1);
  ok({0x0f, 0x01, 0xd0});
  EXPECT_EQ(cpu.gpr[machine::rax] & 3, 2u);
  cpu.gpr[machine::rcx] = 2;
  fault({0x0f, 0x01, 0xd0}, GP);
}

TEST_F(XsaveTest, LoadedAndSavedForms) {
  machine::CpuState s;
  s.xsave.fill(0xff);  // hostile
  vector_state_loaded(s);
  EXPECT_EQ(load<u32>(&s.xsave[area::kMxcsr]), kMxcsrMask);
  EXPECT_EQ(load<u16>(&s.xsave[area::kFcw]) & ~0x1f7f, 0);
  machine::CpuState fresh;
  vector_state_loaded(fresh);
  EXPECT_EQ(load<u16>(&fresh.xsave[area::kFcw]), 0x40) << "after RESET, not FNINIT";
  store<u64>(&fresh.xsave[area::kXmm], 5);
  vector_state_saving(fresh);
  EXPECT_EQ(load<u64>(&fresh.xsave[area::kHeader]), 3u);
  // What is not in use may hold anything in the saved form.
  store<u64>(&fresh.xsave[area::kHeader], 0);
  vector_state_loaded(fresh);
  EXPECT_EQ(load<u64>(&fresh.xsave[area::kXmm]), 0u);
}

TEST(XsaveCpuid, Layout) {
  EXPECT_EQ(xsave_cpuid(0, 7, 3, 0).ebx, 576u);
  EXPECT_EQ(xsave_cpuid(0, 7, 7, 0).ebx, 832u);
  EXPECT_EQ(xsave_cpuid(0, 0xe7, 3, 0).ecx, 2688u);
  EXPECT_EQ(xsave_cpuid(1, 0xe7, 0xe7, 0).ebx, 576u + 256 + 64 + 512 + 1024);
  EXPECT_EQ(xsave_cpuid(5, 0xe7, 7, 0).ebx, 1088u);
  EXPECT_EQ(xsave_cpuid(7, 7, 7, 0).eax, 0u);
}

}  // namespace
}  // namespace skerry::soft::vector_testing
