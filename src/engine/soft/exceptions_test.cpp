// Delivery of exceptions and interrupts, returns from them, gates, task switches, virtual-8086
// mode.
#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::cs;
using machine::rsp;
using machine::ss;

class Long : public SoftTest {
 protected:
  Long() { long_mode(); }
};

TEST_F(Long, delivers_a_fault_with_its_frame) {
  code(kCodeAt, {0x31, 0xc9, 0xf7, 0xf1});  // xor ecx, ecx; div ecx
  start();
  run_to(DE);
  EXPECT_EQ(stack(0), kCodeAt + 2);
  EXPECT_EQ(stack(1), kCode64);
  EXPECT_EQ(stack(2), 0x10046u);  // RF in the image, ZF and PF of XOR
  EXPECT_EQ(stack(3), kStackAt);
  EXPECT_EQ(stack(4), kData);
  EXPECT_EQ(cpu().rflags & (IF | TF | RF), 0u);
}

TEST_F(Long, delivers_page_faults_with_error_code_and_cr2) {
  code(kCodeAt, {0x48, 0x8b, 0x04, 0x25, 0x08, 0x00, 0x00, 0x50});  // mov rax, [0x50000008]
  start();
  run_to(PF);
  EXPECT_EQ(stack(0), 0u);
  EXPECT_EQ(stack(1), kCodeAt);
  EXPECT_EQ(cpu().s.cr2, 0x50000008u);
}

TEST_F(Long, switches_stacks_from_user_code_and_returns) {
  user();
  idt(0x30, gate(static_cast<u32>(kHandlersAt + 16 * 0x30), kCode64, 14, 3));
  code(kCodeAt, {0xcd, 0x30, 0x0f, 0x0b});      // int 0x30; ud2
  code(kHandlersAt + 16 * 0x30, {0x48, 0xcf});  // iretq
  start();
  run_to(UD);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[rsp], kInnerStackAt - 40);
  EXPECT_EQ(stack(0), kCodeAt + 2);
  EXPECT_EQ(stack(1), kUserCode64);
  EXPECT_EQ(stack(3), kStackAt);
  EXPECT_EQ(stack(4), kUserData);
  EXPECT_EQ(cpu().seg[ss].selector, 0);  // null with RPL 0
}

TEST_F(Long, refuses_software_interrupts_through_privileged_gates) {
  user();
  code(kCodeAt, {0xcd, 0x31});
  start();
  run_to(GP);
  EXPECT_EQ(stack(0), 0x31u * 8 + 2);
  EXPECT_EQ(stack(1), kCodeAt);
}

TEST_F(Long, uses_the_interrupt_stack_table) {
  idt(UD, gate(static_cast<u32>(kHandlersAt + 16 * UD), kCode64, 14, 0, 1));
  code(kCodeAt, {0x0f, 0x0b});
  start();
  run_to(UD);
  EXPECT_EQ(cpu().gpr[rsp], kIstAt - 40);
}

TEST_F(Long, turns_a_fault_while_delivering_into_a_double_fault) {
  idt(GP, 0);                         // not present: #NP... of a zero gate: type 0, #GP
  code(kCodeAt, {0x0f, 0x22, 0xc0});  // mov cr0, rax with rax = 0: #GP
  state.gpr[0] = u64{1} << 40;
  start();
  run_to(DF);
  EXPECT_EQ(stack(0), 0u);
  EXPECT_EQ(stack(1), kCodeAt);
}

TEST_F(Long, shuts_down_after_three) {
  state.idtr.limit = 0;
  code(kCodeAt, {0x0f, 0x0b});
  start();
  EXPECT_TRUE(std::holds_alternative<machine::Shutdown>(run()));
}

TEST_F(Long, delivers_benign_faults_one_after_the_other) {
  idt(UD, gate(static_cast<u32>(kHandlersAt), kCode64, 14, 0) & ~(u64{0x80} << 40));
  code(kCodeAt, {0x0f, 0x0b});
  start();
  run_to(NP);  // #UD then #NP is no double fault
  EXPECT_EQ(stack(0), UD * 8u + 3);
}

TEST_F(Long, page_faults_while_delivering_a_page_fault_are_double) {
  state.gpr[rsp] = 0x5000'0000;  // the handler's frame faults too
  idt(DF, gate(static_cast<u32>(kHandlersAt + 16 * DF), kCode64, 14, 0, 1));
  code(kCodeAt, {0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x51});
  start();
  run_to(DF);
  EXPECT_EQ(cpu().s.cr2, 0x5000'0000u - 48);
}

TEST_F(Long, single_steps) {
  // pushfq; or qword [rsp], 0x100; popfq; nop; nop; hlt
  code(kCodeAt, {0x9c, 0x48, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0x90, 0xf4});
  start();
  run_to(DB);
  EXPECT_EQ(stack(0), kCodeAt + 11);  // after the first nop
  EXPECT_EQ(cpu().s.dr6 & 0xf00f, 0x4000u);
  EXPECT_EQ(stack(2) & TF, u64{TF});
}

TEST_F(Long, breaks_on_execution_once) {
  state.dr[0] = kCodeAt + 1;
  state.dr7 = 0x401 | 2;
  code(kCodeAt, {0x90, 0x90, 0x90, 0xf4});
  code(kHandlersAt + 16 * DB,
       {0xff, 0xc0, 0x48, 0xcf});  // inc eax; iretq, with RF set in the image
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 3);
  EXPECT_EQ(reg(0), 1u);
  EXPECT_EQ(cpu().s.dr6 & 15, 1u);
}

TEST_F(Long, breaks_after_data_accesses) {
  state.dr[1] = 0x100004;
  state.dr7 = 0x400 | 1 << 2 | u64{0xd} << 20;  // write, 4 bytes
  state.gpr[machine::rsi] = 0x100004;
  code(kCodeAt, {0x8b, 0x06, 0x89, 0x06, 0x90, 0xf4});  // mov eax, [rsi]; mov [rsi], eax; nop; hlt
  start();
  run_to(DB);
  EXPECT_EQ(stack(0), kCodeAt + 4);
  EXPECT_EQ(cpu().s.dr6 & 15, 2u);
}

TEST_F(Long, holds_debug_traps_after_mov_ss) {
  state.rflags |= TF;
  state.gpr[0] = kData;
  code(kCodeAt, {0x8e, 0xd0, 0x90, 0x90, 0xf4});  // mov ss, eax; nop; nop
  start();
  run_to(DB);
  EXPECT_EQ(stack(0), kCodeAt + 3);
}

TEST_F(Long, blocks_nmis_until_iret) {
  code(kCodeAt, {0x90, 0xf4});
  start();
  vcpu().inject_nmi();
  run_to(NMI);
  vcpu().inject_nmi();
  code(kHandlersAt + 16 * NMI + 1, {0x90, 0x48, 0xcf});
  EXPECT_EQ(run_to_halt(), kHandlersAt + 16 * NMI);  // again, after the IRET
  EXPECT_EQ(cpu().gpr[rsp], kStackAt - 40);
}

TEST_F(Long, enters_and_leaves_the_kernel_by_syscall) {
  user();
  state.star = u64{kCode64} << 32 | u64{kCode32 + 3} << 48;
  state.lstar = kCodeAt + 0x100;
  state.sfmask = IF;
  state.rflags |= IF;
  code(kCodeAt, {0x0f, 0x05, 0x0f, 0x0b});
  code(kCodeAt + 0x100, {0x48, 0x0f, 0x07});
  start();
  run_to(UD);
  EXPECT_EQ(stack(0), kCodeAt + 2);
  EXPECT_EQ(stack(1), kCode32 + 3u + 16);
  EXPECT_EQ(stack(2) & IF, u64{IF});
  EXPECT_EQ(reg(machine::r11) & IF, u64{IF});
}

TEST_F(Long, calls_through_a_64_bit_gate_to_an_inner_level) {
  user();
  put<u64>(kGdtAt + kGate, gate(kCodeAt + 0x100, kCode64, 12, 3));
  put<u64>(kGdtAt + kGate + 8, 0);
  put<u32>(0x100000, 0);
  put<u16>(0x100004, kGate | 3);
  state.gpr[machine::rsi] = 0x100000;
  code(kCodeAt, {0xff, 0x1e});  // call far [rsi]
  code(kCodeAt + 2, {0x0f, 0x0b});
  code(kCodeAt + 0x100, {0x48, 0xcb});  // retf
  start();
  run_to(UD);
  EXPECT_EQ(stack(0), kCodeAt + 2);
  EXPECT_EQ(stack(1), kUserCode64);
  EXPECT_EQ(stack(3), kStackAt);
}

class Protected : public SoftTest {
 protected:
  Protected() { protected_mode(); }
};

TEST_F(Protected, delivers_with_error_codes) {
  code(kCodeAt, {0x8e, 0xd8});  // mov ds, eax
  state.gpr[0] = 0x1000;        // beyond the GDT
  start();
  run_to(GP);
  EXPECT_EQ(stack<u32>(0), 0x1000u);
  EXPECT_EQ(stack<u32>(1), kCodeAt);
  EXPECT_EQ(stack<u32>(2), kCode32);
}

TEST_F(Protected, distinguishes_segment_faults) {
  gdt(kUserData, descriptor(0, 0xfffff, 0xc013));  // not present, DPL 0
  state.gpr[0] = kUserData & 0xfff8;
  code(kCodeAt, {0x8e, 0xd0});  // mov ss, eax
  start();
  run_to(SS);
  EXPECT_EQ(stack<u32>(0), kUserData & 0xfff8u);
  state.seg = {}, protected_mode();
  gdt(kUserData, descriptor(0, 0xfffff, 0xc013));
  state.gpr[0] = kUserData & 0xfff8;
  code(kCodeAt, {0x8e, 0xc0});  // mov es, eax
  start();
  run_to(NP);
}

TEST_F(Protected, sets_the_accessed_bit) {
  gdt(kUserData, descriptor(0, 0xfffff, 0xc0f2));
  state.gpr[0] = kUserData;
  code(kCodeAt, {0x8e, 0xc0, 0xf4});
  start();
  run_to_halt();
  EXPECT_EQ(get<u8>(kGdtAt + 0x30 + 5), 0xf3);
  EXPECT_EQ(cpu().seg[machine::es].selector, kUserData);
}

TEST_F(Protected, goes_through_16_bit_gates) {
  idt(0x30, gate(kHandlersAt + 16 * 0x30, kCode32, 6, 0));
  code(kCodeAt, {0xcd, 0x30});
  start();
  run_to(0x30);
  EXPECT_EQ(cpu().gpr[rsp], kStackAt - 6);
  EXPECT_EQ(stack<u16>(0), kCodeAt + 2 - 0x20000);  // IP is 16 bits wide
}

TEST_F(Protected, trap_gates_keep_interrupts) {
  idt(0x30, gate(kHandlersAt + 16 * 0x30, kCode32, 15, 0));
  state.rflags |= IF;
  code(kCodeAt, {0xcd, 0x30});
  start();
  run_to(0x30);
  EXPECT_TRUE(cpu().rflags & IF);
}

TEST_F(Protected, changes_privilege_both_ways) {
  segments(kUserCode32, kUserData);
  idt(0x30, gate(kHandlersAt + 16 * 0x30, kCode32, 14, 3));
  code(kCodeAt, {0xcd, 0x30, 0x0f, 0x0b});
  code(kHandlersAt + 16 * 0x30, {0xcf});
  start();
  run_to(UD);
  EXPECT_EQ(cpu().gpr[rsp], kInnerStackAt - 20);
  EXPECT_EQ(stack<u32>(1), kUserCode32);
  EXPECT_EQ(stack<u32>(3), kStackAt);
  EXPECT_EQ(stack<u32>(4), kUserData);
}

TEST_F(Protected, copies_parameters_through_call_gates) {
  segments(kUserCode32, kUserData);
  put<u64>(kGdtAt + kGate, gate(kCodeAt + 0x100, kCode32, 12, 3, 2));
  put<u32>(kStackAt, 0x1111), put<u32>(kStackAt + 4, 0x2222);
  code(kCodeAt, {0x9a, 0, 0, 0, 0, 0x60, 0});
  code(kCodeAt + 0x100, {0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x100);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(stack<u32>(0), kCodeAt + 7);
  EXPECT_EQ(stack<u32>(1), kUserCode32);
  EXPECT_EQ(stack<u32>(2), 0x1111u);
  EXPECT_EQ(stack<u32>(3), 0x2222u);
  EXPECT_EQ(stack<u32>(4), kStackAt);
  EXPECT_EQ(stack<u32>(5), kUserData);
}

TEST_F(Protected, nulls_inner_segments_on_outer_returns) {
  // The outer frame of an IRET, and ES with DPL 0.
  put<u32>(kStackAt, kCodeAt + 0x100);
  put<u32>(kStackAt + 4, kUserCode32);
  put<u32>(kStackAt + 8, 0x202);
  put<u32>(kStackAt + 12, kStackAt);
  put<u32>(kStackAt + 16, kUserData);
  code(kCodeAt, {0xcf});
  code(kCodeAt + 0x100, {0x0f, 0x0b});
  start();
  run_to(UD);
  EXPECT_EQ(cpu().seg[machine::es].selector, 0);
  EXPECT_TRUE(cpu().seg[machine::es].unusable());
  EXPECT_EQ(stack<u32>(1), kUserCode32);
}

class Task : public Protected {
 protected:
  static constexpr u64 kNewTss = 0x5000;
  Task() {
    gdt(kTss2, descriptor(kNewTss, 0x67, 0x0089));
    put<u32>(kNewTss + 32, kCodeAt + 0x100);
    put<u32>(kNewTss + 36, 2);
    put<u32>(kNewTss + 40, 0xaaaa);              // EAX
    put<u32>(kNewTss + 40 + 16, kInnerStackAt);  // ESP
    const u16 selectors[6] = {kData, kCode32, kData, kData, 0, 0};
    for (unsigned i = 0; i < 6; ++i) put<u32>(kNewTss + 72 + 4 * i, selectors[i]);
  }
};

TEST_F(Task, switches_by_jump) {
  gdt(kTss, descriptor(kTssAt, 0x67, 0x008b));
  state.gpr[machine::rbx] = 0x77;
  code(kCodeAt, {0xea, 0, 0, 0, 0, 0x50, 0});
  code(kCodeAt + 0x100, {0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x100);
  EXPECT_EQ(reg(0), 0xaaaau);
  EXPECT_EQ(cpu().s.tr.selector, kTss2);
  EXPECT_EQ(get<u32>(kTssAt + 32), kCodeAt + 7);
  EXPECT_EQ(get<u32>(kTssAt + 52), 0x77u);
  EXPECT_EQ(get<u8>(kGdtAt + kTss + 5) & 2, 0) << "the old one is available";
  EXPECT_EQ(get<u8>(kGdtAt + kTss2 + 5) & 2, 2) << "the new one is busy";
  EXPECT_TRUE(cpu().s.cr0 & 8);
}

TEST_F(Task, is_called_and_returns) {
  gdt(kTss, descriptor(kTssAt, 0x67, 0x008b));
  put<u64>(kGdtAt + kTaskGate, gate(0, kTss2, 5, 0));
  code(kCodeAt, {0x9a, 0, 0, 0, 0, 0x78, 0, 0xf4});
  code(kCodeAt + 0x100, {0xcf});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 7);
  EXPECT_EQ(cpu().s.tr.selector, kTss);
  EXPECT_EQ(get<u16>(kNewTss), kTss);
  EXPECT_EQ(get<u8>(kGdtAt + kTss + 5) & 2, 2);
  EXPECT_EQ(get<u8>(kGdtAt + kTss2 + 5) & 2, 0);
  EXPECT_FALSE(cpu().rflags & NT);
}

TEST_F(Task, handles_exceptions_with_their_error_code) {
  gdt(kTss, descriptor(kTssAt, 0x67, 0x008b));
  idt(GP, gate(0, kTss2, 5, 0));
  state.gpr[0] = 0x2000;
  code(kCodeAt, {0x8e, 0xd8});  // mov ds, eax
  code(kCodeAt + 0x100, {0xf4});
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 0x100);
  EXPECT_EQ(stack<u32>(0), 0x2000u);
  EXPECT_EQ(get<u32>(kTssAt + 32), kCodeAt);
  EXPECT_TRUE(cpu().rflags & NT);
}

TEST_F(Task, faults_of_the_new_context_are_the_new_tasks) {
  gdt(kTss, descriptor(kTssAt, 0x67, 0x008b));
  put<u32>(kNewTss + 72, 0x3000);  // ES beyond the GDT
  code(kCodeAt, {0xea, 0, 0, 0, 0, 0x50, 0});
  start();
  run_to(TS);
  EXPECT_EQ(stack<u32>(0), 0x3000u);
  EXPECT_EQ(stack<u32>(1), kCodeAt + 0x100);
  EXPECT_EQ(cpu().s.tr.selector, kTss2);
}

class V86 : public Protected {
 protected:
  void enter(u32 flags) {
    // An IRET frame into virtual-8086 mode at 0700:0010.
    const u32 frame[] = {0x10,  0x700, flags | u32{VM} | 2, 0x500, 0x600, 0x111, 0x222,
                         0x333, 0x444};
    for (unsigned i = 0; i < 9; ++i) put<u32>(kStackAt + 4 * i, frame[i]);
    code(kCodeAt, {0xcf});
    start();
  }
};

TEST_F(V86, runs_real_mode_code_and_faults_to_the_monitor) {
  code(0x7010, {0x8c, 0xd8, 0xcd, 0x21});  // mov ax, ds; int 0x21 with IOPL 0
  enter(0);
  run_to(GP);
  EXPECT_EQ(reg(0) & 0xffff, 0x222u);
  EXPECT_EQ(cpu().gpr[rsp], kInnerStackAt - 40);
  EXPECT_EQ(stack<u32>(0), 0u);
  EXPECT_EQ(stack<u32>(1), 0x12u);
  EXPECT_EQ(stack<u32>(2), 0x700u);
  EXPECT_EQ(stack<u32>(3) & VM, u32{VM});
  EXPECT_EQ(stack<u32>(4), 0x500u);
  EXPECT_EQ(stack<u32>(5), 0x600u);
  EXPECT_EQ(stack<u32>(6), 0x111u);
  EXPECT_EQ(stack<u32>(9), 0x444u);
  EXPECT_FALSE(cpu().v86);
  EXPECT_TRUE(cpu().seg[machine::ds].unusable());
}

TEST_F(V86, interrupts_with_iopl_3_go_through_the_idt) {
  idt(0x21, gate(kHandlersAt + 16 * 0x21, kCode32, 14, 3));
  code(0x7010, {0xcd, 0x21});
  enter(u32{IOPL});
  run_to(0x21);
  EXPECT_EQ(stack<u32>(0), 0x12u);
}

class Real : public SoftTest {
 protected:
  Real() { real_mode(); }
};

TEST_F(Real, goes_through_the_vector_table_and_back) {
  code(0x7000, {0xcd, 0x21, 0xf4});
  code(kHandlersAt + 16 * 0x21, {0xb8, 0x34, 0x12, 0xcf});  // mov ax, 0x1234; iret
  state.rflags |= IF;
  start();
  EXPECT_EQ(run_to_halt(), 0x7002u);
  EXPECT_EQ(reg(0) & 0xffff, 0x1234u);
  EXPECT_EQ(cpu().gpr[rsp], 0x6000u);
  EXPECT_TRUE(cpu().rflags & IF);
}

TEST_F(Real, keeps_limits_of_unreal_mode) {
  state.seg[machine::ds] = {0, 0, 0xffffffff, 0xc093};
  put<u32>(0x200000, 0xfeed);
  // xor ax, ax; mov ds, ax; mov esi, 0x200000; mov eax, [esi]; hlt
  code(0x7000, {0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xbe, 0, 0, 0x20, 0, 0x67, 0x66, 0x8b, 0x06, 0xf4});
  start();
  run_to_halt();
  EXPECT_EQ(reg(0), 0xfeedu);
}

TEST_F(Real, faults_beyond_the_limit_without_an_error_code) {
  code(0x7000, {0xa1, 0xff, 0xff});  // mov ax, [0xffff]
  start();
  run_to(GP);
  EXPECT_EQ(cpu().gpr[rsp], 0x6000u - 6);
  EXPECT_EQ(stack<u16>(0), 0x7000u);
}

}  // namespace
}  // namespace skerry::soft
