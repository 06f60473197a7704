// Multiboot entry -> 32-bit protected mode without paging, then main(). And the 256 exception and
// interrupt entries.
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0, -0x1badb002

    .bss
    .skip 65536
    .align 16
    .global boot_stack
boot_stack:

    .data
    .align 16
    .global multiboot_info
multiboot_info: .long 0, 0
boot_gdtr:
    .word 32 * 8 - 1
    .long gdt

    .text
    .global start
start:
    cld
    mov $boot_stack, %esp
    mov %ebx, multiboot_info
    lgdt boot_gdtr
    ljmp $8, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    call kit_main
1:  hlt
    jmp 1b

// ---- entries: all push {segments, registers, vector, error} under the processor's frame
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
    pusha
    push %ds
    push %es
    push %fs
    push %gs
    cld
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, %ebx
    push %ebx
    call kit_dispatch
    mov %ebx, %esp
    test %eax, %eax
    jnz resume
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

// void attempt_raw(void (*f)(void*), void* context): comes back even if f faults.
    .global attempt_raw
attempt_raw:
    mov 4(%esp), %eax
    mov 8(%esp), %edx
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov %esp, resume_sp
    movl $1, attempt_armed
    push %edx
    call *%eax
resume:
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov resume_sp, %esp
    movl $0, attempt_armed
    popf
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

// The same in ring 3, where f ends by INT 0x80: (f, context, stack, cs, eflags).
    .global attempt_user_raw
attempt_user_raw:
    mov 4(%esp), %eax
    mov 8(%esp), %edx
    mov 12(%esp), %ecx
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov %esp, resume_sp
    movl $1, attempt_armed
    mov 36(%esp), %esi   // cs
    mov 40(%esp), %edi   // eflags
    sub $8, %ecx
    mov %edx, 4(%ecx)
    pushl $0x2b
    push %ecx
    push %edi
    push %esi
    pushl $1f
    mov $0x2b, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    iret
1:  add $4, %esp
    call *%eax
    int $0x80

// Enters virtual-8086 mode as kit_v86 says; ends like attempt_user_raw.
    .global attempt_v86_raw
attempt_v86_raw:         // (const u32 frame[9]): eip cs eflags esp ss es ds fs gs
    mov 4(%esp), %eax
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov %esp, resume_sp
    movl $1, attempt_armed
    mov $9, %ecx
1:  pushl -4(%eax,%ecx,4)
    loop 1b
    iret

    .bss
    .align 4
resume_sp: .long 0
    .global attempt_armed
attempt_armed: .long 0
    .section .note.GNU-stack, "", @progbits
