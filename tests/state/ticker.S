// A guest whose output does not depend on time, although all it does is wait for timers: the 8254, the
// LAPIC's one-shot, periodic and TSC-deadline modes, with integer, SSE and x87 registers in use
// meanwhile. Prints a line a turn on COM1 and ends through the debug-exit port. With CPUS=2 another CPU
// is started half-way and must keep counting.
#include "../gdb/long_mode.inc"
.set kTurns, 96
.set kPort, 0x3f8
#if CPUS > 1
.set kStart, kTurns / 2
#endif

.macro msr number
  mov $\number, %ecx
  xor %edx, %edx
  wrmsr
.endm
.macro port number, value
  mov $\value, %al
  out %al, $\number
.endm

main:
  gate 0x20, on_pic
  gate 0x40, on_timer
  gate 0xff, on_spurious
  gate 0x27, on_spurious
  lidt idt_pointer
  port 0x20, 0x11
  port 0xa0, 0x11
  port 0x21, 0x20
  port 0xa1, 0x28
  port 0x21, 4
  port 0xa1, 2
  port 0x21, 1
  port 0xa1, 1
  port 0x21, 0xfe
  port 0xa1, 0xff
  mov $0x1b, %ecx
  rdmsr
  or $0xc00, %eax
  wrmsr                   // x2APIC mode
  mov $0x1ff, %eax
  msr 0x80f
  mov $0xb, %eax
  msr 0x83e               // divide by 1: nanoseconds
  xor %r12d, %r12d        // the turn
  mov $0x123456789abcdef1, %r13
  movq %r13, %xmm7
  fld1
  fld1
turn:
  movq $0, ticked(%rip)
  mov $1, %ebx            // ticks to wait for
  mov %r12d, %eax
  and $3, %eax
  jz pit
  cmp $2, %eax
  jb one_shot
  je deadline
periodic:
  mov $0x20040, %eax
  msr 0x832
  mov $150000, %eax
  msr 0x838
  mov $3, %ebx
  jmp work
pit:
  port 0x43, 0x30
  port 0x40, 0x80
  port 0x40, 0x01         // 384 ticks of 838 ns
  jmp work
one_shot:
  mov $0x40, %eax
  msr 0x832
  mov $300000, %eax
  msr 0x838
  jmp work
deadline:
  mov $0x40040, %eax
  msr 0x832
  rdtsc
  add $800000, %eax
  adc $0, %edx
  mov $0x6e0, %ecx
  wrmsr
work:
  mov $2000, %ecx
1:
  mov $6364136223846793005, %rax
  imul %rax, %r13
  add $12345, %r13
  movq %r13, %xmm6
  pxor %xmm6, %xmm7
  paddq %xmm7, %xmm7
  dec %ecx
  jnz 1b
  fadd %st(1), %st        // counts turns
wait:
  cli
  cmp %rbx, ticked(%rip)
  jae done
  sti
  hlt
  jmp wait
done:
  sti
  mov $0x10000, %eax
  msr 0x832
  xor %eax, %eax
  msr 0x838
  rdtsc                   // never goes back
  shl $32, %rdx
  or %rdx, %rax
  cmp last_tsc(%rip), %rax
  mov %rax, last_tsc(%rip)
  ja 2f
  mov $'T', %al
  call put
2:
#if CPUS > 1
  cmp $kStart, %r12d
  jb 5f
  ja 4f
  lea second_cpu(%rip), %rsi
  mov $0x8000, %edi
  mov $second_cpu_end - second_cpu, %ecx
  rep movsb
  mov $0x830, %ecx
  mov $1, %edx
  mov $0x4500, %eax
  wrmsr                   // INIT
  mov $0x4608, %eax
  wrmsr                   // SIPI to 0x8000
4: mov 0x8100, %eax       // it lives
3: pause
  cmp %eax, 0x8100
  je 3b
5:
#endif
  mov %r13, %rax
  call hex
  inc %r12d
  cmp $kTurns, %r12d
  jb turn
  movq %xmm7, %rax
  call hex
  fistpq scratch(%rip)
  mov scratch(%rip), %rax
  call hex
  mov $7, %al
  out %al, $0xf4
  cli
  hlt

hex:                      // rax and a new line
  mov %rax, %rdi
  mov $16, %esi
1: rol $4, %rdi
  mov %edi, %eax
  and $15, %eax
  add $'0', %al
  cmp $'9', %al
  jbe 2f
  add $'a' - '9' - 1, %al
2: call put
  dec %esi
  jnz 1b
  mov $'\n', %al
put:
  mov %eax, %r8d
  mov $kPort + 5, %edx
1: in %dx, %al
  test $0x20, %al
  jz 1b
  mov $kPort, %edx
  mov %r8d, %eax
  out %al, %dx
  ret

on_pic:
  push %rax
  incq ticked(%rip)
  port 0x20, 0x20
  pop %rax
  iretq
on_timer:
  push %rax
  push %rcx
  push %rdx
  incq ticked(%rip)
  xor %eax, %eax
  msr 0x80b
  pop %rdx
  pop %rcx
  pop %rax
on_spurious:
  iretq

.code16
second_cpu:
1: incl %cs:0x100
  pause
  jmp 1b
second_cpu_end:
.code64

.data
ticked: .quad 0
last_tsc: .quad 0
scratch: .quad 0
end_of_data:
.bss
end_of_bss:
