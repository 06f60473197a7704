// x87 and MMX: stack and tags, pointers, exceptions, environment images.
#include "engine/soft/vector_fixture.hpp"

namespace skerry::soft::vector_testing {
namespace {

unsigned top(const Cpu& cpu) {
  return fsw(cpu) >> 11 & 7;
}

TEST_F(VectorTest, X87Gates) {
  cpu.s.cr0 |= kCr0Em;
  fault({0xd9, 0xe8}, NM);  // fld1
  cpu.s.cr0 = (cpu.s.cr0 & ~kCr0Em) | kCr0Ts;
  fault({0xd9, 0xe8}, NM);
  fault({0xdb, 0xe3}, NM);  // fninit
  fault({0x9b}, NM);        // wait: MP is set as well
  cpu.s.cr0 &= ~kCr0Mp;
  ok({0x9b});
  cpu.s.cr0 = (cpu.s.cr0 & ~kCr0Ts) | kCr0Em;
  fault({0x0f, 0x77}, UD);  // emms
}

TEST_F(VectorTest, StackAndTags) {
  ok({0xdb, 0xe3});  // fninit
  ok({0xd9, 0xe8});  // fld1
  ok({0xd9, 0xee});  // fldz
  EXPECT_EQ(top(cpu), 6u);
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0xc0);
  EXPECT_EQ(load<u64>(&cpu.s.xsave[area::kSt + 16]), u64{1} << 63);
  ok({0xdd, 0xd8});  // fstp st(0)
  EXPECT_EQ(top(cpu), 7u);
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0x80);
  // MMX takes the registers over; EMMS frees them.
  ok({0x0f, 0xef, 0xc0});  // pxor mm0, mm0
  EXPECT_EQ(top(cpu), 0u);
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0xff);
  EXPECT_EQ(load<u16>(&cpu.s.xsave[area::kSt + 8]), 0xffff);
  ok({0x0f, 0x77});
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0);
}

TEST_F(VectorTest, FninitKeepsThePhysicalRegisters) {
  ok({0xdb, 0xe3});
  ok({0xd9, 0xe8});  // fld1: physical register 7
  ok({0xdb, 0xe3});
  EXPECT_EQ(top(cpu), 0u);
  EXPECT_EQ(load<u64>(&cpu.s.xsave[area::kSt + 16 * 7]), u64{1} << 63);
}

TEST_F(VectorTest, PointersAreTheGuests) {
  ok({0xdb, 0xe3});
  cpu.gpr[machine::rax] = kData + 0x30;
  poke<double>(kData + 0x30, 1.5);
  ok({0xdd, 0x00});  // fld qword [rax]
  const u8* x = cpu.s.xsave.data();
  EXPECT_EQ(load<u64>(x + area::kFip), kCodeAt);
  EXPECT_EQ(load<u64>(x + area::kFdp), kData + 0x30);
  EXPECT_EQ(load<u16>(x + area::kFop), 0x500);
  ok({0xd9, 0x78, 0x10});  // fnstcw: control instructions leave them alone
  EXPECT_EQ(load<u64>(x + area::kFdp), kData + 0x30);
}

TEST_F(VectorTest, UnmaskedExceptionIsDeliveredByTheNextWaitingInstruction) {
  ok({0xdb, 0xe3});
  set_fcw(cpu, 0x37f & ~4);  // divide-by-zero unmasked
  ok({0xd9, 0xe8});
  ok({0xd9, 0xee});
  ok({0xde, 0xf9});  // fdivp st(1), st(0): raises
  EXPECT_EQ(fsw(cpu) & 0x8084, 0x8084);
  EXPECT_EQ(top(cpu), 6u) << "operands stay for the handler";
  u16 before = fsw(cpu);
  cpu.gpr[machine::rbx] = kDataEnd + 0x1000;
  fault({0xdd, 0x03}, MF);        // fld qword [rbx]: before the page fault
  fault({0x9b}, MF);              // wait
  fault({0x0f, 0xef, 0xc0}, MF);  // pxor mm0, mm0
  EXPECT_EQ(fsw(cpu), before);
  cpu.gpr[machine::rax] = 0x1234'0000;
  ok({0xdf, 0xe0});  // fnstsw ax
  EXPECT_EQ(cpu.gpr[machine::rax], 0x1234'0000u | before);
  ok({0xdb, 0xe2});  // fnclex
  ok({0x9b});
}

TEST_F(VectorTest, StoreWithUnmaskedStackFaultDoesNotWrite) {
  ok({0xdb, 0xe3});
  set_fcw(cpu, 0x37e);  // invalid operation unmasked
  cpu.gpr[machine::rax] = kData;
  poke<u64>(kData, 0x1122334455667788);
  ok({0xdd, 0x18});  // fstp qword [rax] with an empty stack
  EXPECT_EQ(peek<u64>(kData), 0x1122334455667788u);
  EXPECT_EQ(fsw(cpu) & 0xc1, 0xc1);
  EXPECT_EQ(top(cpu), 0u);
  fault({0xd9, 0xe8}, MF);
}

TEST_F(VectorTest, StoreThatFaultsDoesNotPop) {
  ok({0xdb, 0xe3});
  ok({0xd9, 0xe8});
  auto before = cpu.s.xsave;
  cpu.gpr[machine::rax] = kDataEnd - 4;
  fault({0xdd, 0x18}, PF);
  EXPECT_EQ(cpu.fault.address, kDataEnd);
  EXPECT_EQ(cpu.s.xsave, before);
  fault({0xdb, 0x38}, PF);  // fstp tbyte
  EXPECT_EQ(cpu.s.xsave, before);
}

TEST_F(VectorTest, EnvironmentImages) {
  ok({0xdb, 0xe3});
  ok({0xd9, 0xe8});
  ok({0xd9, 0xee});
  cpu.gpr[machine::rax] = kData;
  set_fcw(cpu, 0x340);
  ok({0xd9, 0x30});  // fnstenv [rax], 28 bytes
  EXPECT_EQ(peek<u16>(kData), 0x340);
  EXPECT_EQ(peek<u16>(kData + 4) >> 11 & 7, 6);
  EXPECT_EQ(peek<u16>(kData + 8), 0x1fff);  // 7: valid, 6: zero, others empty
  EXPECT_EQ(peek<u32>(kData + 12), static_cast<u32>(kCodeAt));
  EXPECT_EQ(peek<u32>(kData + 16) >> 16 & 0x7ff, 0x1ee);
  EXPECT_EQ(fcw(cpu), 0x37f) << "FNSTENV masks all exceptions";
  ok({0xdb, 0xe3});
  ok({0xd9, 0x20});  // fldenv [rax]
  EXPECT_EQ(fcw(cpu), 0x340);
  EXPECT_EQ(top(cpu), 6u);
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0xc0);
  EXPECT_EQ(load<u64>(&cpu.s.xsave[area::kSt + 16]), u64{1} << 63) << "registers are not touched";
}

TEST_F(VectorTest, RealModeImageHoldsLinearAddresses) {
  cpu.code_bits = 16;
  cpu.protected_mode = false;
  cpu.seg[machine::cs].base = 0x12340;
  store<u64>(&cpu.s.xsave[area::kFip], 0x12345);
  store<u16>(&cpu.s.xsave[area::kFop], 0x123);
  cpu.gpr[machine::rbx] = 0;
  cpu.seg_base[machine::ds] = kData;
  ok({0xd9, 0x37});  // fnstenv [bx], 14 bytes
  EXPECT_EQ(peek<u16>(kData + 6), 0x2345);
  EXPECT_EQ(peek<u16>(kData + 8), 0x1123);
}

TEST_F(VectorTest, SaveAndRestore) {
  ok({0xdb, 0xe3});
  ok({0xd9, 0xeb});  // fldpi
  auto before = cpu.s.xsave;
  cpu.gpr[machine::rax] = kData;
  ok({0xdd, 0x30});  // fnsave [rax]
  EXPECT_EQ(cpu.s.xsave[area::kFtw], 0);
  EXPECT_EQ(top(cpu), 0u);
  ok({0xdd, 0x20});  // frstor [rax]
  EXPECT_EQ(std::memcmp(&before[area::kSt], &cpu.s.xsave[area::kSt], 128), 0);
  EXPECT_EQ(std::memcmp(&before[0], &cpu.s.xsave[0], 5), 0);
}

TEST_F(VectorTest, FcomiAndFcmov) {
  ok({0xdb, 0xe3});
  ok({0xd9, 0xe8});  // 1
  ok({0xd9, 0xee});  // 0
  cpu.set_eflags(2 | kArithmeticFlags);
  ok({0xdb, 0xf1});  // fcomi st, st(1): 0 < 1
  EXPECT_EQ(cpu.eflags() & (CF | ZF | PF_), CF);
  ok({0xda, 0xc1});  // fcmovb st, st(1)
  EXPECT_EQ(load<u64>(&cpu.s.xsave[area::kSt]), u64{1} << 63);
}

}  // namespace
}  // namespace skerry::soft::vector_testing
