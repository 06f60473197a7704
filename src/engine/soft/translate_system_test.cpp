// Translated system and x87 instructions where golden translations and the block programs cannot
// look: time, and what the host's registers might let into guest state.
#include "engine/soft/soft_fixture.hpp"
#include "engine/soft/thunk_code.hpp"

namespace skerry::soft {
namespace {

constexpr u64 kData = 0x200000;

class TranslatedSystem : public SoftTest {
 protected:
  TranslatedSystem() { long_mode(); }
};

TEST_F(TranslatedSystem, the_time_stamp_counter_never_goes_back) {
  // 1: rdtsc; shl rdx, 32; or rax, rdx; cmp rax, rbx; jb 2f; mov rbx, rax; dec rcx; jnz 1b; hlt
  // 2: ud2
  code(kCodeAt, {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x39, 0xd8, 0x72,
                 0x09, 0x48, 0x89, 0xc3, 0x48, 0xff, 0xc9, 0x75, 0xea, 0xf4, 0x0f, 0x0b});
  state.gpr[machine::rbx] = 0;
  for (unsigned entry = 0; entry < 20; ++entry) {
    state.gpr[machine::rcx] = 1000;
    state.tsc = state.gpr[machine::rbx];
    start();
    ASSERT_EQ(run_to_halt(), kCodeAt + 22);
    EXPECT_GT(reg(machine::rbx), state.gpr[machine::rbx]);
    state.gpr[machine::rbx] = reg(machine::rbx);
  }
}

TEST_F(TranslatedSystem, the_x87_pointers_are_never_the_hosts) {
  // fld1; fadd dword [rsi]; fstp dword [rsi + 4]; hlt
  code(kCodeAt, {0xd9, 0xe8, 0xd8, 0x06, 0xd9, 0x5e, 0x04, 0xf4});
  put<u32>(kData, 0x40000000);  // 2.0
  state.gpr[machine::rsi] = kData;
  start();
  run_to_halt();
  EXPECT_EQ(get<u32>(kData + 4), 0x40400000u);
  machine::CpuState saved;
  ASSERT_TRUE(vcpu().save(saved));
  const u64 fip = load<u64>(&saved.xsave[area::kFip]), fdp = load<u64>(&saved.xsave[area::kFdp]);
  EXPECT_TRUE(fip == 0 || fip - kCodeAt < 16) << std::hex << fip;
  EXPECT_TRUE(fdp == 0 || fdp - kData < 16) << std::hex << fdp;
}

TEST_F(TranslatedSystem, an_unmasked_x87_exception_comes_at_the_next_waiting_instruction) {
  // fldcw [rsi]; fld1; fldz; fdivp; nop; fwait; hlt
  code(kCodeAt, {0xd9, 0x2e, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0x9b, 0xf4});
  put<u16>(kData, 0x37b);
  state.gpr[machine::rsi] = kData;
  start();
  run_to(MF);
  EXPECT_EQ(stack(0), kCodeAt + 9);
}

TEST_F(TranslatedSystem, segment_bases_are_written_at_once_if_they_may_be) {
  // wrfsbase rax; wrgsbase rbx; mov rdx, fs:[8]; mov rsi, gs:[8]; rdfsbase rcx; hlt
  code(kCodeAt, {0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xdb, 0x64, 0x48,
                 0x8b, 0x14, 0x25, 8,    0,    0,    0,    0x65, 0x48, 0x8b, 0x34, 0x25,
                 8,    0,    0,    0,    0xf3, 0x48, 0x0f, 0xae, 0xc1, 0xf4});
  put<u64>(kData + 8, 1234);
  put<u64>(kData + 0x108, 5678);
  state.cr4 |= 1 << 16;
  state.gpr[machine::rax] = kData;
  state.gpr[machine::rbx] = kData + 0x100;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 33);
  EXPECT_EQ(reg(machine::rdx), 1234u);
  EXPECT_EQ(reg(machine::rsi), 5678u);
  EXPECT_EQ(reg(machine::rcx), kData);
  state.gpr[machine::rbx] = u64{1} << 47;  // not canonical
  start();
  run_to(GP);
  EXPECT_EQ(stack(1), kCodeAt + 5);
  state.cr4 &= ~u64{1 << 16};
  start();
  run_to(UD);
  EXPECT_EQ(stack(0), kCodeAt);
}

TEST_F(TranslatedSystem, fast_returns_check_what_they_load) {
  // push 0x1234 as CS of the frame: IRET raises #GP with that selector and changes nothing.
  code(kCodeAt, {0x48, 0xcf});
  const u64 sp = kStackAt - 40;
  const u64 frame[] = {kCodeAt + 0x100, 0x1234, 0x2, kStackAt, 0x10};
  for (unsigned n = 0; n < 5; ++n) put<u64>(sp + 8 * n, frame[n]);
  state.gpr[machine::rsp] = sp;
  start();
  run_to(GP);
  EXPECT_EQ(stack(0), 0x1234u & 0xfffcu);
  EXPECT_EQ(stack(1), kCodeAt);
}

}  // namespace
}  // namespace skerry::soft
