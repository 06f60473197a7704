// SYSCALL and SYSRET, SYSENTER and SYSEXIT, SWAPGS and the segment bases, compatibility mode, and
// leaving long mode and coming back.
#include "kit/kit.hpp"

extern "C" {
u64 sc_rcx, sc_r11, sc_rsp, sc_flags, sc_cs, sc_ss, sc_user_cs, sc_user_ss, sc_back;
u64 sc_kernel_stack;
extern u8 syscall_entry[], syscall_user[], syscall_user_after[], sysenter_entry[], sysenter_user[],
    sysenter_after[];
void compat_call();
u64 compat_result[8];
void leave_long();
}
asm(R"(
syscall_entry:
    mov %rcx, sc_rcx
    mov %r11, sc_r11
    mov %rsp, sc_rsp
    pushfq
    pop %rax
    mov %rax, sc_flags
    mov %cs, sc_cs
    mov %ss, sc_ss
    sysretq
syscall_user:
    syscall
syscall_user_after:
    mov %cs, sc_user_cs
    mov %ss, sc_user_ss
    pushfq
    pop %rax
    mov %rax, sc_back
    ret
sysenter_entry:
    mov %rsp, sc_rsp
    mov %cs, sc_cs
    mov %ss, sc_ss
    pushfq
    pop %rax
    mov %rax, sc_flags
    mov $sysenter_after, %rdx
    mov sc_rcx, %rcx
    rex.W sysexit
sysenter_user:
    mov %rsp, sc_rcx
    sysenter
sysenter_after:
    mov %cs, sc_user_cs
    mov %ss, sc_user_ss
    ret


compat_call:
    push %rbx
    push %rbp
    mov %rsp, %rbp
    ljmp *compat_pointer
    .code32
compat_code:
    mov $0x7fffffff, %eax
    inc %eax
    mov %eax, compat_result
    mov $0x79, %al
    add $0x35, %al
    daa
    movzbl %al, %eax
    mov %eax, compat_result + 8
    push %ds
    pop %ecx
    mov %cx, compat_result + 16
    mov %esp, %ebx
    call 1f
1:  pop %eax
    sub $1b, %eax
    mov %eax, compat_result + 24
    mov $0xffff, %esi
    xor %eax, %eax
    addr16 lea 2(%si), %eax
    mov %eax, compat_result + 32
    ljmp $8, $compat_back
    .code64
compat_back:
    mov %rbp, %rsp
    pop %rbp
    pop %rbx
    ret


leave_long:
    push %rbx
    push %rbp
    mov %rsp, %rbp
    ljmp *leave_pointer
    .code32
leave_code:
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    mov %eax, compat_result + 40
    and $~0x100, %eax
    wrmsr
    mov %cr4, %eax
    and $~0x20, %eax
    mov %eax, %cr4
    mov $0x1234567, %eax
    mov %eax, compat_result + 48
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    mov %eax, compat_result + 56
    ljmp $8, $compat_back
    .code64
    .data
compat_pointer: .long compat_code
    .word 0x18
leave_pointer: .long leave_code
    .word 0x18
    .text
)");

static void system_calls() {
  constexpr u64 kStar = u64{kCode} << 32 | u64{0x23} << 48;  // user selectors from 0x20
  wrmsr(0xc0000081, kStar);
  wrmsr(0xc0000082, reinterpret_cast<u64>(syscall_entry));
  wrmsr(0xc0000084, 0x40600);  // AC, DF, IF... are masked
  uptr sp = 0;
  CHECK_FINE(attempt_user(
      [&] {
        asm volatile("mov %%rsp, %0\n std\n stc\n call syscall_user\n cld"
                     : "=m"(sp)::"rax", "rcx", "r11", "memory");
      },
      0x40002));
  CHECK(sc_rcx == reinterpret_cast<u64>(syscall_user_after));
  CHECK((sc_r11 & 0x40401) == 0x40401);
  CHECK((sc_flags & 0x40600) == 0 && (lenient || (sc_flags & 1) == 1));
  CHECK(sc_cs == kCode && sc_ss == kData);
  CHECK(sc_user_cs == kUserCode64 && sc_user_ss == kUserData);
  CHECK((sc_back & 0x40401) == 0x40401);  // restored from R11
  // Without SCE it is undefined; SYSRET in ring 3 is a #GP.
  wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
  CHECK_FAULT(attempt([] { asm volatile("syscall" ::: "rcx", "r11"); }), 6);
  CHECK_FAULT(attempt([] { asm volatile("sysretq"); }), 6);
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
  CHECK_FAULT(attempt_user([] { asm volatile("sysretq"); }), 13, 0);
}

static void fast_calls() {
  static u8 stack[4096];
  wrmsr(0x174, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("sysenter"); }), 13, 0);
  wrmsr(0x174, kCode);
  wrmsr(0x175, reinterpret_cast<u64>(stack + sizeof stack));
  wrmsr(0x176, reinterpret_cast<u64>(sysenter_entry));
  CHECK_FINE(attempt_user(
      [] {
        asm volatile("call sysenter_user" ::: "rax", "rcx", "rdx", "memory");
      },
      0x202));
  CHECK(sc_rsp == reinterpret_cast<u64>(stack + sizeof stack));
  CHECK(sc_cs == kCode && sc_ss == kData && (sc_flags & 0x200) == 0);
  CHECK(sc_user_cs == kCode + 35 && sc_user_ss == kCode + 43);
  CHECK_FAULT(attempt_user([] { asm volatile("rex.W sysexit"); }), 13, 0);
}

static void bases() {
  static u64 a = 0x1111, b = 0x2222;
  wrmsr(0xc0000101, reinterpret_cast<u64>(&a));
  wrmsr(0xc0000102, reinterpret_cast<u64>(&b));
  u64 v;
  asm volatile("mov %%gs:0, %0" : "=r"(v));
  CHECK(v == 0x1111);
  asm volatile("swapgs\n mov %%gs:0, %0" : "=r"(v));
  CHECK(v == 0x2222);
  CHECK(rdmsr(0xc0000102) == reinterpret_cast<u64>(&a));
  wrmsr(0xc0000100, reinterpret_cast<u64>(&b) + 0x1000);
  asm volatile("mov %%fs:-0x1000, %0" : "=r"(v));
  CHECK(v == 0x2222);
  // A null selector: the base stays on AMD and is cleared on Intel; a real one loads 32 bits.
  gdt[kSpare / 8] = descriptor(static_cast<u32>(reinterpret_cast<u64>(&a)), 0xfffff, 0x93, 12);
  asm volatile("mov %1, %%fs\n mov %%fs:0, %0" : "=r"(v) : "r"(kSpare));
  CHECK(v == 0x1111);
  CHECK(rdmsr(0xc0000100) == reinterpret_cast<u64>(&a));
  // DS and the others have no base in 64-bit mode.
  asm volatile("mov %1, %%ds\n mov %2, %0\n mov %3, %%ds"
               : "=r"(v)
               : "r"(kSpare), "m"(b), "r"(kData));
  CHECK(v == 0x2222);
  if (cpuid(7).b & 1) {
    CHECK_FAULT(attempt([] { asm volatile("rdfsbase %%rax" ::: "rax"); }), 6);
    write_cr4(read_cr4() | (1ul << 16));
    asm volatile("wrgsbase %1\n rdgsbase %0" : "=r"(v) : "r"(0x123456789abcul));
    CHECK(v == 0x123456789abc && rdmsr(0xc0000101) == v);
    if (!lenient)
      CHECK_FAULT(attempt([] { asm volatile("wrgsbase %0" ::"r"(0x8000000000000000ul)); }), 13, 0);
    CHECK_FINE(attempt_user([] { asm volatile("rdgsbase %%rax" ::: "rax"); }));
  }
}

int main() {
  system_calls();
  if (!lenient) fast_calls();  // AMD's has no SYSENTER in long mode
  bases();
  compat_call();
  CHECK(compat_result[0] == 0x80000000);
  CHECK(compat_result[1] == 0x14);
  CHECK(compat_result[2] == kData);
  CHECK(compat_result[3] == 0);
  CHECK(compat_result[4] == 1);
  leave_long();
  CHECK((compat_result[5] & 0x500) == 0x100);
  CHECK(compat_result[6] == 0x1234567);
  CHECK((compat_result[7] & 0x500) == 0x500);
  return 0;
}
