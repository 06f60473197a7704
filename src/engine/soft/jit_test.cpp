// Translated code and what disturbs it: stops, steps, breakpoints, interrupts, changes to code.
// Several vCPUs: jit_smp_test.cpp. What runs here runs on the interpreter as well.
#include "engine/soft/jit.hpp"

#include <thread>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

class Translated : public SoftTest {
 protected:
  Translated() { long_mode(); }
  const Jit::Counters* counters() {
    const Jit* jit = cpu().core->jit.get();
    return jit ? &jit->counters : nullptr;
  }
};

// ---- kicks

struct Loop {
  const char* name;
  std::vector<u8> code;
};

class Kicked : public Translated, public testing::WithParamInterface<Loop> {};

TEST_P(Kicked, loops_are_left_soon) {
  ASSERT_TRUE(memory->write(kCodeAt, GetParam().code));
  state.gpr[machine::rax] = kCodeAt;
  state.gpr[machine::rbp] = kStackAt;
  state.gpr[machine::rsi] = 0x200000;
  state.gpr[machine::rbx] = 0x400000;
  start();
  machine::Exit exit = machine::Fatal{};
  std::thread runner([&] { exit = vcpu().run(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const Nanos before = HostClock::monotonic();
  vcpu().kick();
  runner.join();
  // A busy host may not let the thread run at once.
  EXPECT_LT(HostClock::monotonic() - before, 500'000'000);
  EXPECT_TRUE(std::holds_alternative<machine::Interrupted>(exit)) << exit.index();
  EXPECT_GE(cpu().rip, kCodeAt);
  EXPECT_LT(cpu().rip, kCodeAt + GetParam().code.size());
  machine::CpuState saved;
  ASSERT_TRUE(vcpu().save(saved));
  EXPECT_EQ(saved.gpr[machine::rbp], kStackAt);
}

INSTANTIATE_TEST_SUITE_P(
    Loops, Kicked,
    testing::Values(
        Loop{"jump_to_self", {0xeb, 0xfe}},
        // 1: test rax, rax; jne 1b; jmp 1b
        Loop{"conditional", {0x48, 0x85, 0xc0, 0x75, 0xfb, 0xeb, 0xf9}},
        // 1: loop 1b; jmp 1b
        Loop{"loop_instruction", {0xe2, 0xfe, 0xeb, 0xfc}},
        // 1: call 2f; jmp 1b; 2: ret
        Loop{"call_and_return", {0xe8, 0x02, 0x00, 0x00, 0x00, 0xeb, 0xf9, 0xc3}},
        // 1: mov rsp, rbp; mov rcx, 100; call 3f; jmp 1b; 3: dec rcx; jz 4f; call 3b; 4: ret
        Loop{"recursion",
             {0x48, 0x89, 0xec, 0x48, 0xc7, 0xc1, 0x64, 0x00, 0x00, 0x00, 0xe8, 0x02, 0x00, 0x00,
              0x00, 0xeb, 0xef, 0x48, 0xff, 0xc9, 0x74, 0x05, 0xe8, 0xf6, 0xff, 0xff, 0xff, 0xc3}},
        // jmp rax
        Loop{"indirect_jump", {0xff, 0xe0}},
        // 1: mov rcx, rbx; mov rdi, rsi; rep stosb; jmp 1b
        Loop{"repeated_string", {0x48, 0x89, 0xd9, 0x48, 0x89, 0xf7, 0xf3, 0xaa, 0xeb, 0xf6}}),
    [](const auto& info) { return std::string(info.param.name); });

// ---- steps, shadows, breakpoints

TEST_F(Translated, a_trap_flag_set_in_hot_code_steps) {
  // 1: dec ecx; jnz 1b; pushfq; or qword [rsp], 0x100; popfq; nop; mov rax, [rsi]; add rax, 1;
  // push rax; pop rbx; call 2f; hlt; 2: ret
  code(kCodeAt, {0xff, 0xc9, 0x75, 0xfc, 0x9c, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x01,
                 0x00, 0x00, 0x9d, 0x90, 0x48, 0x8b, 0x06, 0x48, 0x83, 0xc0, 0x01,
                 0x50, 0x5b, 0xe8, 0x01, 0x00, 0x00, 0x00, 0xf4, 0xc3});
  // #DB: inc r12; mov r13, [rsp]; iretq
  code(kHandlersAt + 16 * DB, {0x49, 0xff, 0xc4, 0x4c, 0x8b, 0x2c, 0x24, 0x48, 0xcf});
  put<u64>(0x200000, 41);
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rsi] = 0x200000;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x1d);
  // After NOP, MOV, ADD, PUSH, POP, CALL and RET.
  EXPECT_EQ(reg(machine::r12), 7u);
  EXPECT_EQ(reg(machine::r13), kCodeAt + 0x1d);
  EXPECT_EQ(reg(machine::rbx), 42u);
}

/// An interrupt may be made pending.
class Apic final : public machine::LocalApic {
 public:
  bool interrupting = false;
  bool deliverable() override { return interrupting; }
  std::optional<u8> acknowledge() override {
    interrupting = false;
    return 0x40;
  }
  u64 cr8() const override { return 0; }
  void set_cr8(u64) override {}
  std::optional<u64> read_msr(u32) override { return 0; }
  bool write_msr(u32, u64) override { return true; }
  u64 apic_base() const override { return 0xfee00900; }
  u32 mmio_read(u32) override { return 0; }
  void mmio_write(u32, u32) override {}
  std::optional<Nanos> timer_deadline() override { return std::nullopt; }
  void run_timer() override {}
  void init_reset() override {}
  machine::LapicState save() const override { return {}; }
  void load(const machine::LapicState&, u64) override {}
};

TEST_F(Translated, the_instruction_behind_sti_runs_before_an_interrupt) {
  Apic apic;
  vcpus.push_back(std::move(engine->create_vcpu(1, &apic)).value());
  // 1: dec ecx; jnz 1b; out 0x10, al; cli; nop; sti; inc rbx; inc rbx; hlt
  code(kCodeAt, {0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10, 0xfa, 0x90, 0xfb, 0x48, 0xff, 0xc3, 0x48, 0xff,
                 0xc3, 0xf4});
  on_port = [&](const machine::PortIo&) -> u64 {
    apic.interrupting = true;
    vcpu(1).notify_interrupt();
    return 0;
  };
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rbx] = 0;
  start(1);
  EXPECT_EQ(run_to_halt(1), kHandlersAt + 16 * 0x40);
  EXPECT_EQ(cpu(1).gpr[machine::rbx], 1u);
  EXPECT_EQ(get<u64>(cpu(1).gpr[machine::rsp]), kCodeAt + 12);
  vcpus.pop_back();
}

TEST_F(Translated, mov_ss_holds_back_a_data_breakpoint) {
  // 1: dec ecx; jnz 1b; mov ss, [rsi]; inc rbx; inc rbx; hlt
  code(kCodeAt, {0xff, 0xc9, 0x75, 0xfc, 0x8e, 0x16, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc3, 0xf4});
  put<u16>(0x200000, kData);
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rbx] = 0;
  state.gpr[machine::rsi] = 0x200000;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 12);  // without it, and hot
  state.dr[0] = 0x200000;
  state.dr7 = 0x400 | 1 | 3 << 16 | 1 << 18;
  start();
  run_to(DB);
  EXPECT_EQ(reg(machine::rbx), 1u);
  EXPECT_EQ(stack(0), kCodeAt + 9);
}

TEST_F(Translated, loads_from_two_pages_read_both) {
  // 1: mov rax, [rsi]; movdqu xmm0, [rsi-4]; add rdi, rax; dec rcx; jnz 1b; movdqa [rbp], xmm0; hlt
  code(kCodeAt, {0x48, 0x8b, 0x06, 0xf3, 0x0f, 0x6f, 0x46, 0xfc, 0x48, 0x01, 0xc7,
                 0x48, 0xff, 0xc9, 0x75, 0xf0, 0x66, 0x0f, 0x7f, 0x45, 0x00, 0xf4});
  put<u64>(0x200ff0, 0x1716151413121110);
  put<u64>(0x200ff8, 0x1f1e1d1c1b1a1918);
  put<u64>(0x201000, 0x2726252423222120);
  state.cr4 |= 0x200;
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rdi] = 0;
  state.gpr[machine::rsi] = 0x200ffb;
  state.gpr[machine::rbp] = 0x300000;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 21);
  EXPECT_EQ(reg(machine::rax), 0x2221201f1e1d1c1bu);
  EXPECT_EQ(reg(machine::rdi), 1000 * 0x2221201f1e1d1c1bu);
  EXPECT_EQ(get<u64>(0x300000), 0x1e1d1c1b1a191817u);
  EXPECT_EQ(get<u64>(0x300008), 0x262524232221201fu);
  if (counters()) {
    EXPECT_GE(counters()->loads_across, 1900u);
  }
}

// 1: inc rbx; mov [rsi], rbx; dec rcx; jnz 1b; hlt
constexpr u8 kCounting[] = {0x48, 0xff, 0xc3, 0x48, 0x89, 0x1e, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xf4};

TEST_F(Translated, breakpoints_and_watchpoints_hit_in_hot_code) {
  ASSERT_TRUE(memory->write(kCodeAt, kCounting));
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rbx] = 0;
  state.gpr[machine::rsi] = 0x200000;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 11);

  start();
  machine::DebugRequest request;
  request.breakpoints = {kCodeAt + 6};
  ASSERT_TRUE(vcpu().set_debug(request));
  for (u64 n = 1; n < 4; ++n) {
    machine::Exit exit = vcpu().run();
    ASSERT_TRUE(std::holds_alternative<machine::Debug>(exit));
    EXPECT_EQ(cpu().rip, kCodeAt + 6);
    EXPECT_EQ(reg(machine::rbx), n);
  }
  request.breakpoints.clear();
  request.watches = {{0x200004, 1, false, true}};
  ASSERT_TRUE(vcpu().set_debug(request));
  machine::Exit exit = vcpu().run();
  ASSERT_TRUE(std::holds_alternative<machine::Debug>(exit));
  EXPECT_EQ(std::get<machine::Debug>(exit).watch_address, 0x200004u);
  EXPECT_EQ(cpu().rip, kCodeAt + 6);
  EXPECT_EQ(reg(machine::rbx), 4u);
  ASSERT_TRUE(vcpu().set_debug({}));
  EXPECT_EQ(run_to_halt(), kCodeAt + 11);
  EXPECT_EQ(get<u64>(0x200000), 1000u);
}

TEST_F(Translated, the_guests_own_breakpoints_hit_in_hot_code) {
  ASSERT_TRUE(memory->write(kCodeAt, kCounting));
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rbx] = 0;
  state.gpr[machine::rsi] = 0x200000;
  start();
  run_to_halt();
  state.dr[1] = kCodeAt + 9;  // JNZ
  state.dr7 = 0x400 | 1 << 2;
  start();
  run_to(DB);
  EXPECT_EQ(stack(0), kCodeAt + 9);
  EXPECT_EQ(reg(machine::rcx), 999u);
  state.dr[2] = 0x200000;  // a data breakpoint, as a trap
  state.dr7 = 0x400 | 1 << 4 | 1 << 24 | 3 << 26;
  start();
  run_to(DB);
  EXPECT_EQ(stack(0), kCodeAt + 6);
}

// ---- addresses

TEST_F(Translated, the_stack_is_wide_whatever_the_address_size) {
  constexpr u64 kHigh = u64{5} << 30;
  map_page(kHigh, 0x300000, 3);
  state.gpr[machine::rsp] = kHigh + 0x100;
  state.gpr[machine::rbp] = kHigh + 0x200;
  state.gpr[machine::rbx] = 0x1234;
  put<u64>(0x300200, 0x5678);
  // addr32 push rbx; addr32 pop rax; addr32 call 1f; 1: addr32 leave; hlt
  code(kCodeAt, {0x67, 0x53, 0x67, 0x58, 0x67, 0xe8, 0, 0, 0, 0, 0x67, 0xc9, 0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 12);
  EXPECT_EQ(reg(machine::rax), 0x1234u);
  EXPECT_EQ(get<u64>(0x3000f8), kCodeAt + 10);
  EXPECT_EQ(reg(machine::rbp), 0x5678u);
  EXPECT_EQ(reg(machine::rsp), kHigh + 0x208);
}

// ---- code that changes

TEST_F(Translated, data_in_a_code_page_does_not_cost_translations) {
  ASSERT_TRUE(memory->write(kCodeAt, kCounting));
  state.gpr[machine::rcx] = 100000;
  state.gpr[machine::rbx] = 0;
  state.gpr[machine::rsi] = kCodeAt + 0xf00;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 11);
  EXPECT_EQ(get<u64>(kCodeAt + 0xf00), 100000u);
  if (counters()) {
    EXPECT_LT(counters()->translated_blocks, 20u);
    EXPECT_LT(counters()->revalidated, 20u);
  }
}

}  // namespace
}  // namespace skerry::soft
