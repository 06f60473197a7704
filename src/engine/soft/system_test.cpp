// System instructions, device accesses and their replay, breakpoints of a debugger, saving and
// loading.
#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::rax;
using machine::rbx;
using machine::rcx;
using machine::rdi;
using machine::rdx;
using machine::rsi;
using machine::rsp;

class System : public SoftTest {
 protected:
  System() { long_mode(); }
  /// Runs `bytes` and expects `vector`, or the HLT at their end.
  void expect_fault(u8 vector, u32 error, std::initializer_list<u8> bytes) {
    code(kCodeAt, bytes);
    start();
    run_to(vector);
    if (vector == GP) {
      EXPECT_EQ(stack(0), error);
    }
  }
  void expect_ok(std::initializer_list<u8> bytes) {
    code(kCodeAt, bytes);
    start();
    EXPECT_EQ(run_to_halt(), kCodeAt + bytes.size() - 1);
  }
};

// ---- devices

TEST_F(System, a_read_modify_write_of_a_device_is_one_read_and_one_write) {
  std::vector<std::string> seen;
  on_mmio = [&](const machine::Mmio& m) -> u64 {
    seen.push_back(
        fmt::format("{}{} {:#x} {:#x}", m.write ? 'w' : 'r', m.size, m.at, m.write ? m.value : 0));
    return 0x10;
  };
  state.gpr[rsi] = kMmioAt + 4;
  state.gpr[rax] = 3;
  expect_ok({0x01, 0x06, 0xf4});  // add [rsi], eax
  EXPECT_EQ(seen, (std::vector<std::string>{"r4 0xd0000004 0x0", "w4 0xd0000004 0x13"}));
  EXPECT_EQ(cpu().eflags() & kArithmeticFlags, 0u);
}

TEST_F(System, memory_to_device_moves_do_not_repeat_what_is_done) {
  unsigned reads = 0, writes = 0;
  on_mmio = [&](const machine::Mmio& m) -> u64 { return m.write ? ++writes : ++reads; };
  state.gpr[rsi] = kMmioAt;
  state.gpr[rdi] = kMmioAt + 0x100;
  expect_ok({0xa5, 0xa5, 0xf4});  // movsd; movsd
  EXPECT_EQ(reads, 2u);
  EXPECT_EQ(writes, 2u);
  EXPECT_EQ(reg(rdi), kMmioAt + 0x108);
}

TEST_F(System, pushes_from_a_device) {
  on_mmio = [&](const machine::Mmio&) -> u64 { return 0xabcdef; };
  state.gpr[rsi] = kMmioAt;
  expect_ok({0xff, 0x36, 0xf4});  // push qword [rsi]
  EXPECT_EQ(reg(rsp), kStackAt - 8);
  EXPECT_EQ(stack(0), 0xabcdefu);
}

TEST_F(System, string_input_asks_the_port_for_each_element) {
  unsigned calls = 0;
  on_port = [&](const machine::PortIo& io) -> u64 {
    EXPECT_EQ(io.port, 0x60);
    EXPECT_EQ(io.size, 1);
    return 0x41 + calls++;
  };
  state.gpr[rdx] = 0x60;
  state.gpr[rdi] = 0x100000;
  state.gpr[rcx] = 5;
  expect_ok({0xf3, 0x6c, 0xf4});  // rep insb
  EXPECT_EQ(calls, 5u);
  EXPECT_EQ(get<u32>(0x100000), 0x44434241u);
  EXPECT_EQ(get<u8>(0x100004), 0x45);
  EXPECT_EQ(reg(rcx), 0u);
}

TEST_F(System, wide_accesses_reach_a_device_in_pieces) {
  unsigned bytes = 0;
  on_mmio = [&](const machine::Mmio& m) -> u64 {
    EXPECT_TRUE(m.write);
    return bytes += m.size;
  };
  state.gpr[rsi] = kMmioAt;
  expect_ok({0x0f, 0xae, 0x06, 0xf4});  // fxsave [rsi]
  EXPECT_EQ(bytes, 416u);               // the rest of the image is not written
}

TEST_F(System, users_need_permission_for_ports) {
  user();
  put<u16>(kTssAt + 102, 0x68);
  expect_fault(GP, 0, {0xe4, 0x60});  // limit excludes the bitmap
  gdt(kTss, descriptor(kTssAt, 0x80, 0x0089));
  state.tr = loaded(kTss);
  put<u8>(kTssAt + 0x68 + 0x60 / 8, 0xfe);
  put<u8>(kTssAt + 0x68 + 0x60 / 8 + 1, 0xff);
  state.rip = kCodeAt;
  code(kCodeAt, {0xe4, 0x60, 0xe4, 0x61});  // in al, 0x60 is allowed, 0x61 is not
  start();
  run_to(GP);
  EXPECT_EQ(stack(1), kCodeAt + 2);
}

// ---- control registers

TEST_F(System, checks_control_register_writes) {
  state.gpr[rax] = u64{1} << 31;  // PG without PE
  expect_fault(GP, 0, {0x0f, 0x22, 0xc0});
  state.gpr[rax] = 0x80000011 | 1 << 29;  // NW without CD
  expect_fault(GP, 0, {0x0f, 0x22, 0xc0});
  state.gpr[rax] = 0x620 | 1 << 12;  // LA57
  expect_fault(GP, 0, {0x0f, 0x22, 0xe0});
  state.gpr[rax] = 0x600;  // PAE off in long mode
  expect_fault(GP, 0, {0x0f, 0x22, 0xe0});
  state.gpr[rax] = u64{1} << 60;
  expect_fault(GP, 0, {0x0f, 0x22, 0xd8});
  expect_fault(UD, 0, {0x0f, 0x22, 0xc8});  // CR1
  state.gpr[rax] = 16;
  expect_fault(GP, 0, {0x44, 0x0f, 0x22, 0xc0});
  user();
  expect_fault(GP, 0, {0x0f, 0x20, 0xc0});
}

TEST_F(System, leaves_long_mode_by_compatibility_mode) {
  // From 32-bit code: CR0.PG off clears LMA.
  state.seg[machine::cs] = loaded(kCode32);
  state.gpr[rax] = 0x11;
  code(kCodeAt, {0x0f, 0x22, 0xc0, 0xf4});
  start();
  EXPECT_FALSE(cpu().flat);
  EXPECT_EQ(run_to_halt(), kCodeAt + 3);
  EXPECT_FALSE(cpu().s.efer & 0x400);
  EXPECT_FALSE(cpu().long_mode);
}

TEST_F(System, protects_debug_registers) {
  state.dr7 = 0x2400;  // GD
  expect_fault(DB, 0, {0x0f, 0x21, 0xf3});
  EXPECT_TRUE(cpu().s.dr6 & 1 << 13);
  EXPECT_FALSE(cpu().s.dr7 & 1 << 13);
  state.dr7 = 0x400;
  state.cr4 |= 8;
  expect_fault(UD, 0, {0x0f, 0x21, 0xe3});  // DR4 with CR4.DE
}

// ---- MSRs

TEST_F(System, msr_writes_are_checked) {
  struct Case {
    u32 index;
    u64 value;
    bool ok;
  };
  const Case cases[] = {
      {0xc0000082, 0x8000'0000'0000'0000, false},  // LSTAR not canonical
      {0xc0000082, 0xffff'8000'0000'0000, true},
      {0xc0000100, u64{1} << 47, false},
      {0x277, 0x0007040600070406, true},
      {0x277, 2, false},  // no such memory type
      {0x2ff, 0xc06, true},
      {0x2ff, 0xc02, false},
      {0x250, 0x0606060606060606, true},
      {0x250, 0x0306060606060606, false},
      {0xc0000080, 0xc01, false},  // LME cannot change while paging
      {0xc0000080, 0xd01 | 1 << 1, false},
      {0xc0000080, 0xd01, true},
      {0xc0000103, u64{1} << 32, false},
      {0x12345, 0, false},
      {0x10a, 0, false},  // read-only
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{:#x} = {:#x}", c.index, c.value));
    state.gpr[rcx] = c.index;
    state.gpr[rax] = static_cast<u32>(c.value);
    state.gpr[rdx] = c.value >> 32;
    if (c.ok) {
      expect_ok({0x0f, 0x30, 0xf4});
    } else {
      expect_fault(GP, 0, {0x0f, 0x30, 0xf4});
    }
  }
}

TEST_F(System, unknown_msrs_fault_on_reading) {
  state.gpr[rcx] = 0xdeadbeef;
  expect_fault(GP, 0, {0x0f, 0x32});
}

TEST_F(System, cpuid_follows_registers) {
  state.gpr[rax] = 1;
  expect_ok({0x0f, 0xa2, 0xf4});
  EXPECT_FALSE(bit(reg(rcx), 27));
  state.cr4 |= 1 << 18;
  expect_ok({0x0f, 0xa2, 0xf4});
  EXPECT_TRUE(bit(reg(rcx), 27));
  EXPECT_TRUE(bit(reg(rcx), 31));
}

TEST_F(System, the_tsc_can_be_set) {
  state.gpr[rcx] = 0x10;
  state.gpr[rax] = 0;
  state.gpr[rdx] = 0x100;
  expect_ok({0x0f, 0x30, 0x0f, 0x31, 0xf4});  // wrmsr; rdtsc
  EXPECT_EQ(reg(rdx), 0x100u);
}

TEST_F(System, kvmclock_fills_its_page) {
  clock.advance(5'000'000'000);
  state.gpr[rcx] = 0x4b564d01;
  state.gpr[rax] = 0x100001;
  state.gpr[rdx] = 0;
  expect_ok({0x0f, 0x30, 0xf4});
  EXPECT_EQ(get<u32>(0x100000) & 1, 0u);
  EXPECT_NE(get<u32>(0x100000), 0u);
  EXPECT_EQ(get<u64>(0x100010), 5'000'000'000u);
  EXPECT_EQ(get<u8>(0x10001d), 1);
  // 1 GHz: mul * 2^shift / 2^32 == 1
  double factor = get<u32>(0x100018) / 4294967296.0;
  int shift = static_cast<i8>(get<u8>(0x10001c));
  EXPECT_NEAR(shift >= 0 ? factor * (1 << shift) : factor / (1 << -shift), 1.0, 1e-6);
}

// ---- descriptor tables

TEST_F(System, umip_hides_tables_from_users) {
  state.cr4 |= 1 << 11;
  user();
  state.gpr[rsi] = 0x100000;
  expect_fault(GP, 0, {0x0f, 0x01, 0x06});  // sgdt [rsi]
}

TEST_F(System, ltr_marks_the_tss_busy) {
  state.gpr[rax] = kTss;
  expect_ok({0x0f, 0x00, 0xd8, 0xf4});
  EXPECT_EQ(get<u8>(kGdtAt + kTss + 5), 0x8b);
  expect_fault(GP, kTss, {0x0f, 0x00, 0xd8});  // busy now
}

TEST_F(System, lar_and_lsl_look_at_descriptors) {
  state.gpr[rcx] = kData;
  // lar ebx, ecx; lsl edx, ecx
  expect_ok({0x0f, 0x02, 0xd9, 0x0f, 0x03, 0xd1, 0xf4});
  EXPECT_EQ(reg(rbx), 0xcf9300u);
  EXPECT_EQ(reg(rdx), 0xffffffffu);
  EXPECT_TRUE(cpu().eflags() & ZF);
  state.gpr[rcx] = 0x3000;
  state.gpr[rbx] = 5;
  expect_ok({0x0f, 0x02, 0xd9, 0xf4});
  EXPECT_EQ(reg(rbx), 5u);
  EXPECT_FALSE(cpu().eflags() & ZF);
}

TEST_F(System, exchanges_gs_bases) {
  state.cr4 |= 1 << 16;
  state.seg[machine::gs].base = 0x1000;
  state.kernel_gs_base = 0xffff'8000'0000'2000;
  expect_ok({0x0f, 0x01, 0xf8, 0xf3, 0x48, 0x0f, 0xae, 0xc8, 0xf4});  // swapgs; rdgsbase rax
  EXPECT_EQ(reg(rax), 0xffff'8000'0000'2000u);
  EXPECT_EQ(cpu().s.kernel_gs_base, 0x1000u);
}

TEST_F(System, answers_unknown_hypercalls) {
  state.gpr[rax] = 77;
  expect_ok({0x0f, 0x01, 0xc1, 0xf4});
  EXPECT_EQ(reg(rax), static_cast<u64>(-1000));
}

// ---- the debugger's side

TEST_F(System, stops_at_a_debuggers_breakpoint_and_goes_on) {
  code(kCodeAt, {0x90, 0x90, 0x90, 0xf4});
  start();
  ASSERT_TRUE(vcpu().set_debug({false, {kCodeAt + 1}, {}}));
  auto exit = run();
  ASSERT_TRUE(std::holds_alternative<machine::Debug>(exit));
  EXPECT_EQ(cpu().rip, kCodeAt + 1);
  EXPECT_EQ(run_to_halt(), kCodeAt + 3);
}

TEST_F(System, stops_after_a_watched_store) {
  state.gpr[rsi] = 0x100004;
  code(kCodeAt, {0x8b, 0x06, 0x89, 0x06, 0xf4});
  start();
  ASSERT_TRUE(vcpu().set_debug({false, {}, {{0x100006, 1, false, true}}}));
  auto exit = run();
  auto* debug = std::get_if<machine::Debug>(&exit);
  ASSERT_TRUE(debug);
  EXPECT_EQ(debug->watch_address, 0x100006u);
  EXPECT_EQ(cpu().rip, kCodeAt + 4);
}

TEST_F(System, steps) {
  code(kCodeAt, {0x90, 0x90, 0xf4});
  start();
  ASSERT_TRUE(vcpu().set_debug({true, {}, {}}));
  for (u64 i = 1; i <= 2; ++i) {
    auto exit = run();
    EXPECT_TRUE(std::holds_alternative<machine::Debug>(exit));
    EXPECT_EQ(cpu().rip, kCodeAt + i);
  }
}

TEST_F(System, translates_for_a_debugger) {
  start();
  EXPECT_EQ(vcpu().translate(0x123456), 0x123456u);
  EXPECT_FALSE(vcpu().translate(u64{9} << 30));
  EXPECT_FALSE(vcpu().translate(u64{1} << 47));
}

TEST_F(System, what_is_saved_can_be_loaded) {
  state.gpr[rbx] = 0x123;
  state.seg[machine::fs].base = 0x7777;
  state.rflags = 0x246;
  start();
  machine::CpuState saved;
  ASSERT_TRUE(vcpu().save(saved));
  EXPECT_EQ(saved.gpr, state.gpr);
  EXPECT_EQ(saved.rflags, state.rflags);
  EXPECT_EQ(saved.cr3, state.cr3);
  EXPECT_EQ(saved.seg[machine::fs].base, 0x7777u);
  ASSERT_TRUE(vcpu().load(saved));
}

TEST_F(System, refuses_impossible_states) {
  state.cr4 = 0;  // long mode without PAE
  EXPECT_FALSE(vcpu().load(state));
  state = {};
  state.cr0 = 0x80000010;
  EXPECT_FALSE(vcpu().load(state));
}

TEST_F(System, a_kick_waits_for_the_instruction) {
  on_mmio = [&](const machine::Mmio& m) -> u64 {
    if (!m.write) vcpu().kick();
    return 1;
  };
  state.gpr[rsi] = kMmioAt;
  code(kCodeAt, {0x83, 0x06, 0x05, 0xf4});  // add dword [rsi], 5
  start();
  EXPECT_TRUE(std::holds_alternative<machine::Interrupted>(run()));
  EXPECT_FALSE(vcpu().mid_instruction());
  EXPECT_EQ(cpu().rip, kCodeAt + 3);
}

}  // namespace
}  // namespace skerry::soft
