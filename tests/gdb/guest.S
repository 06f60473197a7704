// A guest for debugging: round a loop with something in it for every kind of stop.
#include "long_mode.inc"

.globl steps, string, after_string, interrupt, system_call, after_system_call
.globl around, store, load, after_load, work, crash, on_interrupt, on_system_call, halt_here, ticks
main:
  gate 0x80, on_interrupt
  lidt idt_pointer
  mov $0xc0000081, %ecx  // STAR
  xor %eax, %eax
  mov $8, %edx
  wrmsr
  inc %ecx               // LSTAR
  lea on_system_call(%rip), %rax
  xor %edx, %edx
  wrmsr
  movups pattern(%rip), %xmm3
  fld1
  mov $0x1122334455667788, %r12
steps:
  nop
  inc %r13
  mov $5, %ecx
  lea source(%rip), %rsi
  lea target(%rip), %rdi
string:
  rep movsb
after_string:
  xor %edx, %edx
interrupt:
  int $0x80
system_call:
  syscall
after_system_call:
  nop
around:
  incq %r14
store:
  incq counter(%rip)
load:
  mov counter(%rip), %rax
after_load:
  call work
  jmp around
work:
  lea 1(%rax), %r15
  ret
crash:
  lidt null_pointer(%rip)
  int3
halt_here:
  cli
  hlt
  jmp halt_here
on_interrupt:
  incq ticks(%rip)
  iretq
on_system_call:
  jmp *%rcx

.data
.globl counter, pattern, source, target
.balign 16
pattern: .quad 0x0123456789abcdef, 0xfedcba9876543210
counter: .quad 0
ticks: .quad 0
source: .ascii "guest"
target: .space 11
null_pointer:
  .word 0
  .quad 0
end_of_data:
.bss
end_of_bss:
