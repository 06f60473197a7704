// The decode cache: self-modifying code, code changed by devices and by other vCPUs, instructions
// that cross pages, fetch faults.
#include <thread>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

class Code : public SoftTest {
 protected:
  Code() { long_mode(); }
};

TEST_F(Code, a_store_changes_the_next_instruction_of_its_block) {
  // mov byte [rip+1], 0xc3 patches the inc eax behind it into inc ebx
  code(kCodeAt, {0xc6, 0x05, 0x01, 0, 0, 0, 0xc3, 0xff, 0xc0, 0xf4});
  start();
  run_to_halt();
  EXPECT_EQ(reg(0), 0u);
  EXPECT_EQ(reg(machine::rbx), 1u);
}

TEST_F(Code, code_is_seen_anew_each_time_it_changes) {
  // loop: inc byte [rip+imm of mov]; mov eax, imm; add ebx, eax; dec ecx; jnz loop; hlt
  code(kCodeAt,
       {0xfe, 0x05, 0x01, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x01, 0xc3, 0xff, 0xc9, 0x75, 0xef, 0xf4});
  state.gpr[machine::rcx] = 10;
  start();
  run_to_halt();
  EXPECT_EQ(reg(machine::rbx), 55u);
}

TEST_F(Code, a_device_changes_code) {
  // loop: mov eax, 1; out 0x10, al; hlt... and back
  code(kCodeAt, {0xb8, 1, 0, 0, 0, 0xe6, 0x10, 0xeb, 0xf7});
  unsigned calls = 0;
  std::vector<u64> seen;
  on_port = [&](const machine::PortIo& io) -> u64 {
    seen.push_back(io.value);
    put<u8>(kCodeAt + 1, static_cast<u8>(++calls + 1));
    if (calls == 5) put<u8>(kCodeAt + 7, 0xf4);
    return 0;
  };
  start();
  run_to_halt();
  EXPECT_EQ(seen, (std::vector<u64>{1, 2, 3, 4, 5}));
}

TEST_F(Code, data_beside_code_does_not_disturb_it) {
  // loop: inc dword [rip+far]; dec ecx; jnz loop; hlt: the counter is in the same page
  code(kCodeAt, {0xff, 0x05, 0xfa, 0x0e, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xf4});
  state.gpr[machine::rcx] = 1000;
  start();
  run_to_halt();
  EXPECT_EQ(get<u32>(kCodeAt + 0xf00), 1000u);
}

TEST_F(Code, instructions_cross_pages) {
  u64 at = kCodeAt + 0xffd;
  code(at, {0xb8, 0x78, 0x56, 0x34, 0x12, 0xf4});
  state.rip = at;
  start();
  EXPECT_EQ(run_to_halt(), at + 5);
  EXPECT_EQ(reg(0), 0x12345678u);
  put<u8>(kCodeAt + 0x1000, 0xff);  // the second page's part changes
  start();
  run_to_halt();
  EXPECT_EQ(reg(0), 0x12ff5678u);
}

TEST_F(Code, the_second_page_of_an_instruction_may_fault) {
  constexpr u64 kFar = u64{5} << 30;
  map_page(kFar, 0x100000, 3);
  code(0x100ffd, {0xb8, 0x78, 0x56});
  state.rip = kFar + 0xffd;
  start();
  run_to(PF);
  EXPECT_EQ(cpu().s.cr2, kFar + 0x1000);
  EXPECT_EQ(stack(1), kFar + 0xffd);
}

TEST_F(Code, the_same_page_runs_under_another_mapping) {
  constexpr u64 kFar = u64{5} << 30;
  u64 pte = map_page(kFar, 0x100000, 3);
  code(0x100000, {0xb8, 1, 0, 0, 0, 0xf4});
  code(0x101000, {0xb8, 2, 0, 0, 0, 0xf4});
  state.rip = kFar;
  start();
  run_to_halt();
  EXPECT_EQ(reg(0), 1u);
  put<u64>(pte, 0x101003);
  cpu().tlb.flush_page(kFar);
  cpu().rip = kFar;
  run_to_halt();
  EXPECT_EQ(reg(0), 2u);
}

TEST_F(Code, too_long_instructions_are_gp) {
  for (u64 i = 0; i < 15; ++i) put<u8>(kCodeAt + i, 0x66);
  put<u8>(kCodeAt + 15, 0x90);
  start();
  run_to(GP);
}

TEST_F(Code, running_off_the_canonical_range_is_gp) {
  state.rip = 0x7fff'ffff'ffff;
  start();
  run_to(PF);
  state.rip = u64{1} << 47;
  start();
  run_to(GP);
}

TEST_F(Code, code_outside_memory_is_undefined) {
  state.rip = kMmioAt;
  start();
  run_to(UD);
}

class Smp : public SoftTest {
 protected:
  Smp() : SoftTest(2) { long_mode(); }
};

TEST_F(Smp, locked_increments_are_not_lost) {
  // loop: lock inc dword [rsi]; dec rcx; jnz loop; hlt
  code(kCodeAt, {0xf0, 0xff, 0x06, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xf4});
  state.gpr[machine::rcx] = 200000;
  state.gpr[machine::rsi] = 0x100ffe;  // crosses a page
  for (unsigned i : {0u, 1u}) {
    state.gpr[machine::rsi] = i == 0 ? 0x100ffe : 0x100ffe;
    start(i);
  }
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  EXPECT_EQ(get<u32>(0x100ffe), 400000u);
}

TEST_F(Smp, one_vcpu_sees_the_code_that_another_writes) {
  // CPU 0: loop: call f; cmp eax, 7; jne loop; hlt, with f at +0x1000: mov eax, imm; ret
  code(kCodeAt, {0xe8, 0xfb, 0x0f, 0, 0, 0x83, 0xf8, 0x07, 0x75, 0xf6, 0xf4});
  code(kCodeAt + 0x1000, {0xb8, 0, 0, 0, 0, 0xc3});
  // CPU 1: write the same page often, then patch: loop: mov [rsi+64], ecx; dec ecx; jnz loop;
  // mov byte [rsi+1], 7; hlt
  code(kCodeAt + 0x3000, {0x89, 0x4e, 0x40, 0xff, 0xc9, 0x75, 0xf9, 0xc6, 0x46, 0x01, 0x07, 0xf4});
  start(0);
  state.rip = kCodeAt + 0x3000;
  state.gpr[machine::rsi] = kCodeAt + 0x1000;
  state.gpr[machine::rcx] = 100000;
  state.gpr[machine::rsp] = kStackAt + 0x4000;
  start(1);
  std::thread other([&] { run(1); });
  EXPECT_EQ(run_to_halt(0), kCodeAt + 10);
  other.join();
}

}  // namespace
}  // namespace skerry::soft
