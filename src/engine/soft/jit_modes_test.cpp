// Translated 32-bit and 16-bit code: what differs from 64-bit code. What runs here runs on the
// interpreter as well, and random programs compare the two (jit_fuzz_test.cpp).
#include "engine/soft/jit.hpp"
#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

class Narrow : public SoftTest {
 protected:
  Narrow() {
    protected_mode();
    state.gpr[machine::rsi] = kDataAt;
  }
  const Jit::Counters* counters() {
    const Jit* jit = cpu().core->jit.get();
    return jit ? &jit->counters : nullptr;
  }
  static constexpr u64 kDataAt = 0x200000;
};

TEST_F(Narrow, loops_are_translated) {
  // 1: inc ebx; add [esi], ebx; push ebx; pop edx; call 2f; dec ecx; jnz 1b; hlt; 2: ret
  code(kCodeAt, {0x43, 0x01, 0x1e, 0x53, 0x5a, 0xe8, 0x04, 0, 0, 0, 0x49, 0x75, 0xf3, 0xf4, 0xc3});
  state.gpr[machine::rcx] = 100000;
  state.gpr[machine::rbx] = 0;
  put<u32>(kDataAt, 0);
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 13);
  EXPECT_EQ(reg(machine::rbx), 100000u);
  EXPECT_EQ(reg(machine::rdx), 100000u);
  EXPECT_EQ(get<u32>(kDataAt), static_cast<u32>(u64{100000} * 100001 / 2));
  EXPECT_EQ(reg(machine::rsp), kStackAt);
  if (counters()) {
    EXPECT_GT(counters()->translated_blocks, 1u);
    EXPECT_LT(counters()->interpreted, 100u);
  }
}

TEST_F(Narrow, one_byte_increments_keep_the_carry) {
  // stc; inc eax; dec ebx; sbb edx, edx; clc; dec ecx; sbb edi, edi; hlt
  code(kCodeAt, {0xf9, 0x40, 0x4b, 0x19, 0xd2, 0xf8, 0x49, 0x19, 0xff, 0xf4});
  state.gpr[machine::rax] = 0xffff'ffff;
  state.gpr[machine::rcx] = 0;
  start();
  run_to_halt();
  EXPECT_EQ(reg(machine::rax), 0u);
  EXPECT_EQ(reg(machine::rcx), 0xffff'ffffu);
  EXPECT_EQ(reg(machine::rdx), 0xffff'ffffu);
  EXPECT_EQ(reg(machine::rdi), 0u);
}

TEST_F(Narrow, addresses_wrap_at_4_gib) {
  put<u32>(kDataAt + 0x10, 0x1234);
  put<u32>(kDataAt - 8, 0x5678);
  // mov eax, [ebx + 0x20]; mov edx, fs:[0xfffffff8]; mov ecx, [ebx + esi - 0x1f8000]; hlt
  code(kCodeAt, {0x8b, 0x43, 0x20, 0x64, 0x8b, 0x15, 0xf8, 0xff, 0xff, 0xff, 0x8b, 0x8c, 0x33, 0x00,
                 0x80, 0xe0, 0xff, 0xf4});
  state.gpr[machine::rbx] = kDataAt - 0x10;
  state.gpr[machine::rsi] = 0x1f8020;
  state.seg[machine::fs].base = kDataAt;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 17);
  EXPECT_EQ(reg(machine::rax), 0x1234u);
  EXPECT_EQ(reg(machine::rdx), 0x5678u);
  EXPECT_EQ(reg(machine::rcx), 0x1234u);
}

TEST_F(Narrow, an_access_beyond_a_limit_faults_in_hot_code) {
  // 1: mov eax, fs:[esi]; add esi, 4; dec ecx; jnz 1b; hlt
  code(kCodeAt, {0x64, 0x8b, 0x06, 0x83, 0xc6, 0x04, 0x49, 0x75, 0xf7, 0xf4});
  state.seg[machine::fs] = {kData, kDataAt, 0xfff, 0x4093};
  state.gpr[machine::rsi] = 0;
  state.gpr[machine::rcx] = 5000;
  start();
  run_to(GP);
  EXPECT_EQ(reg(machine::rsi), 0x1000u);
  EXPECT_EQ(stack<u32>(0), 0u);
  EXPECT_EQ(stack<u32>(1), kCodeAt);
}

TEST_F(Narrow, a_data_segment_loaded_in_hot_code_counts_at_once) {
  constexpr u16 kSmall = 0x70;
  gdt(kSmall, descriptor(0, static_cast<u32>((kDataAt >> 12) - 1), 0xc093));
  // 1: mov [esi], ecx; dec ecx; jnz 1b; mov ds, edi; mov [esi], ecx; hlt
  code(kCodeAt, {0x89, 0x0e, 0x49, 0x75, 0xfb, 0x8e, 0xdf, 0x89, 0x0e, 0xf4});
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rdi] = kSmall;
  start();
  run_to(GP);
  EXPECT_EQ(stack<u32>(1), kCodeAt + 7);
  EXPECT_EQ(get<u32>(kDataAt), 1u);
}

TEST_F(Narrow, pushes_of_selectors_leave_the_upper_half) {
  put<u32>(kStackAt - 4, 0xaaaa'aaaa);
  // push ds; push esp; pop eax; pop ebx; hlt
  code(kCodeAt, {0x1e, 0x54, 0x58, 0x5b, 0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 4);
  EXPECT_EQ(reg(machine::rax), kStackAt - 4);
  EXPECT_EQ(reg(machine::rbx), 0xaaaa'0000u | kData);
}

TEST_F(Narrow, a_16_bit_stack_wraps) {
  state.seg[machine::ss] = {kData, kDataAt, 0xffff, 0x0093};
  state.gpr[machine::rsp] = 0x1234'0000;
  state.gpr[machine::rbx] = 0xfeed'f00d;
  // push ebx; pop eax; push 0x55; call 1f; 1: pop edx; hlt
  code(kCodeAt, {0x53, 0x58, 0x6a, 0x55, 0xe8, 0, 0, 0, 0, 0x5a, 0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 10);
  EXPECT_EQ(reg(machine::rsp), 0x1234'fffcu);
  EXPECT_EQ(reg(machine::rax), 0xfeed'f00du);
  EXPECT_EQ(reg(machine::rdx), kCodeAt + 9);
  EXPECT_EQ(get<u32>(kDataAt + 0xfffc), 0x55u);
}

TEST_F(Narrow, vex_bits_that_32_bit_code_ignores) {
  state.cr4 |= 0x40620;
  state.xcr0 = 7;
  // VPEXTRD, W = 1: 32 bits here. VEX.B = 0 (a register above 7 in 64-bit code) is ignored.
  // vpcmpeqd xmm1, xmm1, xmm1; vpextrq-encoded [esi], xmm1, 0; vmovd eax, xmm1 with B = 0; hlt
  code(kCodeAt, {0xc5, 0xf1, 0x76, 0xc9, 0xc4, 0xe3, 0xf9, 0x16, 0x0e, 0x00, 0xc4, 0xc1, 0x79, 0x7e,
                 0xc8, 0xf4});
  put<u64>(kDataAt, 0);
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 15);
  EXPECT_EQ(get<u64>(kDataAt), 0xffff'ffffu);
  EXPECT_EQ(reg(machine::rax), 0xffff'ffffu);
}

// ---- what kernels do

TEST_F(Narrow, sysenter_and_sysexit) {
  // 1: mov edx, user; mov ecx, esp'; sysexit
  code(kCodeAt, {0xba, 0x00, 0x08, 0x02, 0, 0xb9, 0x00, 0x00, 0x20, 0x00, 0x0f, 0x35});
  code(kCodeAt + 0x800, {0x43, 0x53, 0x0f, 0x34});            // user: inc ebx; push ebx; sysenter
  code(kCodeAt + 0x400, {0x4f, 0x0f, 0x85, 0xf9, 0xfb, 0xff,  // dec edi; jnz 1b; hlt
                         0xff, 0xf4});
  static_assert(kCodeAt == 0x20000);
  state.sysenter_cs = kCode32;
  state.sysenter_eip = kCodeAt + 0x400;
  state.sysenter_esp = kStackAt;
  state.gpr[machine::rdi] = 1000;
  state.gpr[machine::rbx] = 0;
  state.rflags |= IF;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x407);
  EXPECT_EQ(reg(machine::rbx), 1000u);
  EXPECT_EQ(get<u32>(kDataAt - 4), 1000u);
  EXPECT_EQ(reg(machine::rsp), kStackAt);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().seg[machine::cs].selector, kCode32);
  EXPECT_EQ(cpu().seg[machine::ss].selector, kCode32 + 8);
  EXPECT_FALSE(cpu().rflags & IF);
  if (counters()) {
    EXPECT_LT(counters()->interpreted, 20u);
  }
}

TEST_F(Narrow, iret_to_a_user_and_an_interrupt_back) {
  idt(0x80, gate(kCodeAt + 0x400, kCode32, 14, 3));
  // 1: push SS; push esp'; pushf; push CS; push eip; iret
  code(kCodeAt, {0x6a, kUserData, 0x68, 0x00, 0x00, 0x20, 0x00, 0x9c, 0x6a, kUserCode32, 0x68, 0x00,
                 0x08, 0x02, 0x00, 0xcf});
  // inc ebx; push ebx; stc; int 0x80
  code(kCodeAt + 0x800, {0x43, 0x53, 0xf9, 0xcd, 0x80});
  // setc al; add esp, 20; dec edi; jnz 1b; hlt
  code(kCodeAt + 0x400,
       {0x0f, 0x92, 0xc0, 0x83, 0xc4, 20, 0x4f, 0x0f, 0x85, 0xf3, 0xfb, 0xff, 0xff, 0xf4});
  state.gpr[machine::rdi] = 1000;
  state.gpr[machine::rbx] = state.gpr[machine::rax] = 0;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x40d);
  EXPECT_EQ(reg(machine::rbx), 1000u);
  EXPECT_EQ(reg(machine::rax) & 0xff, 1u);
  EXPECT_EQ(get<u32>(kDataAt - 4), 1000u);
  EXPECT_EQ(get<u32>(kInnerStackAt - 20), kCodeAt + 0x805);
  EXPECT_EQ(get<u32>(kInnerStackAt - 16), u32{kUserCode32});
  EXPECT_EQ(get<u32>(kInnerStackAt - 8), kDataAt - 4);
  EXPECT_EQ(get<u32>(kInnerStackAt - 4), u32{kUserData});
}

TEST_F(Narrow, segment_registers_are_saved_and_restored) {
  constexpr u16 kOwn = 0x78;
  gdt(kOwn, descriptor(kDataAt, 0xfff, 0x4093));
  // 1: push es; push fs; mov es, ecx; mov fs, edx; inc dword fs:[8]; pop fs; pop es; dec edi; jnz
  // 1b; mov eax, fs; mov ebx, es; hlt
  code(kCodeAt, {0x06, 0x0f, 0xa0, 0x8e, 0xc1, 0x8e, 0xe2, 0x64, 0xff, 0x05, 0x08, 0,   0,
                 0,    0x0f, 0xa1, 0x07, 0x4f, 0x75, 0xec, 0x8c, 0xe0, 0x8c, 0xc3, 0xf4});
  state.gpr[machine::rcx] = kData;
  state.gpr[machine::rdx] = kOwn;
  state.gpr[machine::rdi] = 1000;
  state.seg[machine::fs] = {0, 0, 0, machine::Segment::kUnusable};
  put<u32>(kDataAt + 8, 0);
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 24);
  EXPECT_EQ(get<u32>(kDataAt + 8), 1000u);
  EXPECT_EQ(reg(machine::rax), 0u);
  EXPECT_EQ(reg(machine::rbx), u32{kData});
  EXPECT_TRUE(cpu().seg[machine::fs].unusable());
  EXPECT_EQ(reg(machine::rsp), kStackAt);
}

TEST_F(Narrow, a_null_selector_faults_when_it_is_used) {
  // xor eax, eax; mov ebx, 100; 1: mov gs, eax; dec ebx; jnz 1b; mov ecx, gs:[esi]; hlt
  code(kCodeAt,
       {0x31, 0xc0, 0xbb, 100, 0, 0, 0, 0x8e, 0xe8, 0x4b, 0x75, 0xfb, 0x65, 0x8b, 0x0e, 0xf4});
  start();
  run_to(GP);
  EXPECT_EQ(stack<u32>(1), kCodeAt + 12);
}

// ---- code segments with a base and a limit

class Segmented : public Narrow {
 protected:
  static constexpr u64 kBase = kCodeAt + 0x123;
  /// A code segment of 4 KiB; `attributes` say how many bits its code has.
  void code_segment(u32 attributes) {
    state.seg[machine::cs] = {kCode32, kBase, 0xfff, attributes};
    state.rip = 0;
    state.gpr[machine::rcx] = 1000;
  }
  /// #GP at this offset, with nothing changed.
  void faults_at(u32 eip) {
    start();
    run_to(GP);
    EXPECT_EQ(stack<u32>(0), 0u);
    EXPECT_EQ(stack<u32>(1), eip);
    EXPECT_EQ(reg(machine::rsp), kStackAt - 16);
    if (counters()) {
      EXPECT_GE(counters()->translated_blocks, 1u);
      EXPECT_LT(counters()->interpreted, 10u);
    }
  }
};

TEST_F(Segmented, calls_and_a_jump_beyond_the_limit) {
  // 1: call edx; dec ecx; jnz 1b; mov ebx, 0x1000; jmp ebx
  code(kBase, {0xff, 0xd2, 0x49, 0x75, 0xfb, 0xbb, 0x00, 0x10, 0, 0, 0xff, 0xe3});
  code(kBase + 0x10, {0x40, 0xc3});  // inc eax; ret
  code_segment(0x409b);
  state.gpr[machine::rdx] = 0x10;
  state.gpr[machine::rax] = 0;
  faults_at(0xa);
  EXPECT_EQ(reg(machine::rax), 1000u);
}

TEST_F(Segmented, a_16_bit_jump_beyond_the_limit) {
  code(kBase, {0x49, 0x75, 0xfd, 0xe9, 0xfa, 0x0f});  // 1: dec cx; jnz 1b; jmp 0x1000
  code_segment(0x009b);
  faults_at(3);
}

TEST_F(Segmented, a_16_bit_conditional_jump_beyond_the_limit) {
  code(kBase, {0x49, 0x75, 0xfd, 0x0f, 0x84, 0xf9, 0x0f});
  code_segment(0x009b);
  faults_at(3);
}

TEST_F(Segmented, a_16_bit_call_beyond_the_limit) {
  code(kBase, {0x49, 0x75, 0xfd, 0xe8, 0xfa, 0x0f});
  code_segment(0x009b);
  put<u16>(kStackAt - 2, 0x5555);
  faults_at(3);
}

TEST_F(Segmented, a_16_bit_return_beyond_the_limit) {
  code(kBase, {0x49, 0x75, 0xfd, 0xc3});
  code_segment(0x009b);
  put<u16>(kStackAt, 0x1000);
  faults_at(3);
}

TEST_F(Segmented, code_runs_into_the_limit) {
  // 1: dec cx; jnz 1b; nop, up to the end
  code(kBase + 0xff0, {0x49, 0x75, 0xfd, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
                       0x90, 0x90, 0x90, 0x90});
  code_segment(0x009b);
  state.rip = 0xff0;
  start();
  run_to(GP);
  EXPECT_EQ(stack<u32>(1), 0x1000u);
}

// ---- real and virtual-8086 mode

class OldModes : public Narrow {
 protected:
  OldModes() { real_mode(); }
  static machine::Segment segment(u64 base, u32 attributes = 0x93) {
    return {static_cast<u16>(base >> 4), base, 0xffff, attributes};
  }
  /// 1: inc ax; add [si], ax; push ax; pop dx; call 2f; dec cx; jnz 1b; hlt; 2: ret
  void loop_at(u64 linear) {
    code(linear, {0x40, 0x01, 0x04, 0x50, 0x5a, 0xe8, 0x04, 0, 0x49, 0x75, 0xf5, 0xf4, 0xc3});
    state.seg[machine::ds] = segment(0x40000, state.seg[machine::ds].attributes);
    state.gpr[machine::rsi] = 0xaaaa'0010;
    state.gpr[machine::rcx] = 50000;
    state.gpr[machine::rax] = 0x5555'0000;
    put<u32>(0x40010, 0);
  }
  void has_looped() {
    EXPECT_EQ(reg(machine::rax), 0x5555'0000u + 50000);
    EXPECT_EQ(reg(machine::rdx) & 0xffff, 50000u);
    EXPECT_EQ(get<u32>(0x40010), static_cast<u16>(u64{50000} * 50001 / 2));
    if (counters()) {
      EXPECT_GT(counters()->translated_blocks, 1u);
      EXPECT_LT(counters()->interpreted, 100u);
    }
  }
};

TEST_F(OldModes, loops_are_translated_wherever_their_segment_begins) {
  constexpr struct {
    u64 base, ip;
  } kPlaces[] = {{0x20000, 0}, {0x20110, 0}, {0x20110, 0x10}, {0x10100, 0xffe0}, {0x20ff0, 0x8}};
  for (auto [base, ip] : kPlaces) {
    state.seg[machine::cs] = segment(base);
    state.rip = ip;
    loop_at(base + ip);
    start();
    EXPECT_EQ(run_to_halt(), ip + 11);
    has_looped();
  }
}

TEST_F(OldModes, jumps_wrap_at_64_kib) {
  state.seg[machine::cs] = segment(kCodeAt);
  code(kCodeAt + 0xffe0, {0xeb, 0x28});                       // 1: jmp 2f
  code(kCodeAt + 0xa, {0x49, 0x0f, 0x85, 0xd1, 0xff, 0xf4});  // 2: dec cx; jnz 1b; hlt
  state.rip = 0xffe0;
  state.gpr[machine::rcx] = 1000;
  start();
  EXPECT_EQ(run_to_halt(), 0xfu);
  EXPECT_EQ(reg(machine::rcx), 0u);
}

TEST_F(OldModes, the_same_offsets_in_other_segments) {
  // call 1f; retf; 1: inc bx (or dx); ret
  code(0x20000, {0xe8, 0x01, 0x00, 0xcb, 0x43, 0xc3});
  code(0x24000, {0xe8, 0x01, 0x00, 0xcb, 0x42, 0xc3});
  // 1: call 2000:0; call 2400:0; dec cx; jnz 1b; hlt
  code(0x28000, {0x9a, 0, 0, 0, 0x20, 0x9a, 0, 0, 0, 0x24, 0x49, 0x75, 0xf3, 0xf4});
  state.seg[machine::cs] = segment(0x28000);
  state.rip = 0;
  state.gpr[machine::rcx] = 1000;
  state.gpr[machine::rbx] = state.gpr[machine::rdx] = 0;
  start();
  EXPECT_EQ(run_to_halt(), 0xdu);
  EXPECT_EQ(reg(machine::rbx), 1000u);
  EXPECT_EQ(reg(machine::rdx), 1000u);
}

TEST_F(OldModes, segment_registers_are_loaded_in_hot_code) {
  // 1: mov ds, ax; mov bx, [si]; mov ds, dx; add bx, [si]; push ds; pop es; add bx, es:[si]; dec
  // cx; jnz 1b; hlt
  code(kCodeAt, {0x8e, 0xd8, 0x8b, 0x1c, 0x8e, 0xda, 0x03, 0x1c, 0x1e, 0x07, 0x26, 0x03, 0x1c, 0x49,
                 0x75, 0xf0, 0xf4});
  state.seg[machine::cs] = segment(kCodeAt);
  state.seg[machine::es] = {0, 0, 0, machine::Segment::kUnusable};
  state.rip = 0;
  state.gpr[machine::rax] = 0x4000;
  state.gpr[machine::rdx] = 0x4100;
  state.gpr[machine::rsi] = 0x10;
  state.gpr[machine::rcx] = 1000;
  put<u16>(0x40010, 5);
  put<u16>(0x41010, 7);
  start();
  EXPECT_EQ(run_to_halt(), 0x10u);
  EXPECT_EQ(reg(machine::rbx) & 0xffff, 19u);
  EXPECT_EQ(cpu().seg[machine::ds].base, 0x41000u);
  EXPECT_EQ(cpu().seg[machine::es].selector, 0x4100u);
  EXPECT_EQ(cpu().seg[machine::es].limit, 0xffffu);
  if (counters()) {
    EXPECT_LT(counters()->interpreted, 50u);
  }
}

TEST_F(OldModes, a_control_register_is_read_whole) {
  code(kCodeAt, {0x0f, 0x20, 0xc0, 0xf4});  // mov eax, cr0; hlt
  state.seg[machine::cs] = segment(kCodeAt);
  state.rip = 0;
  state.gpr[machine::rax] = 0x6005'0000;
  start();
  EXPECT_EQ(run_to_halt(), 3u);
  EXPECT_EQ(reg(machine::rax), cpu().s.cr0);
}

TEST_F(OldModes, virtual_8086_mode) {
  protected_mode();
  for (auto& s : state.seg) s = segment(0, 0xf3);
  state.seg[machine::cs] = segment(kCodeAt, 0xf3);
  state.rflags |= VM | IOPL;
  state.rip = 0;
  loop_at(kCodeAt);
  state.gpr[machine::rsp] = 0x6000;
  start();
  run_to(GP);  // HLT is privileged
  has_looped();
  EXPECT_EQ(stack<u32>(1), 11u);
  EXPECT_EQ(stack<u32>(2), kCodeAt >> 4);
  EXPECT_TRUE(stack<u32>(3) & VM);
  EXPECT_EQ(stack<u32>(4), 0x6000u);
}

}  // namespace
}  // namespace skerry::soft
