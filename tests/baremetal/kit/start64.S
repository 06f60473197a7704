// Multiboot entry -> long mode, everything below 4 GiB identity-mapped with 2 MiB pages that ring 3 may
// use too; then main(). And the 256 exception and interrupt entries.
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0, -0x1badb002

    .bss
    .align 4096
    .global boot_pml4, boot_pdpt, boot_pd
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
    .skip 65536
    .global boot_stack
boot_stack:

    .data
    .align 16
    .global multiboot_info
multiboot_info: .long 0, 0
boot_gdtr:
    .word 12 * 8 - 1
    .quad gdt

    .text
    .code32
    .global start
start:
    cld
    mov $boot_stack, %esp
    mov %ebx, multiboot_info
    movl $boot_pdpt + 7, boot_pml4
    mov $boot_pd + 7, %eax
    xor %ecx, %ecx
1:  mov %eax, boot_pdpt(,%ecx,8)
    add $4096, %eax
    inc %ecx
    cmp $4, %ecx
    jne 1b
    mov $0x87, %eax
    xor %ecx, %ecx
1:  mov %eax, boot_pd(,%ecx,8)
    add $0x200000, %eax
    inc %ecx
    cmp $2048, %ecx
    jne 1b
    .global enter_long
enter_long:              // application processors come here too, with their stack in ESP
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0x620, %eax     // PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax      // SCE, LME, NXE
    wrmsr
    mov $0x80010033, %eax  // PG, WP, NE, ET, MP, PE
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $1f
    .code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %esp, %esp
    mov long_entry, %rax
    test %rax, %rax
    jnz 2f
    movq $ap_main, long_entry
    lea kit_main, %rax
2:  and $-16, %rsp
    call *%rax
1:  hlt
    jmp 1b
    .weak ap_main
    .data
long_entry: .quad 0
    .text

// ---- entries: all push {registers, vector, error} under the processor's frame
    .altmacro
    .macro entry n
    .align 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21)
    nop
    nop
    .else
    push $0
    .endif
    push $\n
    jmp common
    .endm
    .align 16
    .global entries
entries:
    .set n, 0
    .rept 256
    entry %n
    .set n, n + 1
    .endr

common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call kit_dispatch
    mov %rbx, %rsp
    test %eax, %eax
    jnz resume
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

// void attempt_raw(void (*f)(void*), void* context): comes back even if f faults.
    .global attempt_raw
attempt_raw:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, resume_sp
    movl $1, attempt_armed
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
resume:
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov resume_sp, %rsp
    movl $0, attempt_armed
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

// The same in ring 3, where f ends by INT 0x80. RDX: user stack, ECX: CS, R8: RFLAGS.
    .global attempt_user_raw
attempt_user_raw:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, resume_sp
    movl $1, attempt_armed
    mov %rdi, %rax
    mov %rsi, %rdi
    pushq $0x2b
    push %rdx
    push %r8
    mov %ecx, %ecx
    push %rcx
    lea 1f, %rdx
    push %rdx
    iretq
1:  call *%rax
    int $0x80

    .bss
    .align 8
resume_sp: .quad 0
    .global attempt_armed
attempt_armed: .long 0
    .section .note.GNU-stack, "", @progbits
