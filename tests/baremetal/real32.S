// Real-mode part of real32.cpp, copied to physical 0x8000. Results go to 0x7000.. (words).
    .text
    .global real_blob, real_blob_end, real_enter
#define AT(label) (label - real_blob + 0x8000)

// void real_enter(): there and back.
real_enter:
    pusha
    mov %esp, saved_esp
    sidt saved_idtr
    ljmp $0x48, $AT(in16)       // 16-bit code, base 0
back:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov saved_esp, %esp
    lidt saved_idtr
    popa
    ret

real_blob:
    .code16
in16:
    mov $0x50, %ax              // 16-bit data, limit ffff
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x58, %ax              // FS keeps a limit of 4 GiB: unreal mode
    mov %ax, %fs
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $AT(real)
real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x6ff0, %sp
    lidtw AT(ivt)
    // Handlers: 13 and 12 and 6 and 0 and 0x40
    movw $AT(on_gp), 13*4
    movw %cs, 13*4+2
    movw $AT(on_ss), 12*4
    movw %cs, 12*4+2
    movw $AT(on_ud), 6*4
    movw %cs, 6*4+2
    movw $AT(on_de), 0
    movw %cs, 2
    movw $AT(on_int), 0x40*4
    movw %cs, 0x40*4+2
    movw $AT(on_of), 4*4
    movw %cs, 4*4+2

    int $0x40                   // [7000] = 1
    // Segment arithmetic: 1234:0010 is 12350
    mov $0x1234, %ax
    mov %ax, %ds
    movw $0xbeef, 0x10
    xor %ax, %ax
    mov %ax, %ds
    mov $0x1235, %ax
    mov %ax, %es
    mov %es:0, %ax
    mov %ax, 0x7002             // beef
    // A word at ffff is beyond the limit: #GP, which skips it
    mov $AT(1f), %bp
    mov 0xffff, %ax
1:  // the same in the stack segment: #SS
    mov $0xffff, %bx
    mov $AT(1f), %bp
    mov %ss:(%bx), %ax
1:  // a 32-bit offset beyond 64 KiB: #GP
    mov $0x10000, %ebx
    mov $AT(1f), %bp
    mov (%ebx), %ax
1:  // not so through FS, whose descriptor said 4 GiB
    mov $0x200000, %ebx
    movl $0x600df00d, %fs:(%ebx)
    mov %fs:(%ebx), %eax
    mov %eax, 0x700c
    // a load of FS in real mode changes its base only
    mov $0x10, %ax
    mov %ax, %fs
    mov $0x200000 - 0x100, %ebx
    mov %fs:(%ebx), %eax
    mov %eax, 0x7010
    // Undefined in real mode: LLDT, ARPL
    mov $AT(1f), %bp
    lldt %ax
1:  mov $AT(1f), %bp
    arpl %ax, %ax
1:  mov $AT(1f), %bp
    ud2
1:  xor %cx, %cx
    mov $AT(1f), %bp
    div %cx
1:  // INTO
    mov $0x7f, %al
    add $1, %al
    into
    // PUSHA and POPA, PUSHF of 32 bits, 32-bit stack arithmetic on SP
    mov %sp, 0x701a
    pusha
    mov %sp, %ax
    mov %ax, 0x701c
    popa
    mov %sp, 0x701e
    // String with a segment override and 16-bit wrap-around of SI
    mov $0x1000, %ax
    mov %ax, %es
    xor %di, %di
    movb $0x5a, %es:0xffff
    movb $0xa5, %es:0
    push %ds
    push %es
    pop %ds
    push %es
    xor %ax, %ax
    mov %ax, %es
    mov $0xffff, %si
    mov $0x7020, %di
    mov $2, %cx
    cld
    rep movsb
    pop %es
    pop %ds
    mov %si, 0x7022             // 1
    // LOOP and JCXZ count in CX
    mov $0x10003, %ecx
    xor %ax, %ax
1:  inc %ax
    loop 1b
    mov %ax, 0x7024             // 3
    mov %ecx, 0x7028            // 10000
    // far call and return
    lcall $0x800, $(far - real_blob)
    jmp 1f
far:
    mov %cs, 0x702c             // 800
    lret
1:  // SMSW, and back to protected mode
    smsw %ax
    mov %ax, 0x702e
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $back

on_int:
    movw $1, 0x7000
    iret
on_gp:
    incw 0x7004
    jmp 1f
on_ss:
    incw 0x7006
    jmp 1f
on_ud:
    incw 0x7014
    jmp 1f
on_de:
    incw 0x7016
    jmp 1f
on_of:
    incw 0x7018
    iret
1:  mov %bp, %ax                // go on where BP says
    mov %sp, %bp
    mov %ax, (%bp)
    iret

    .align 4
ivt:
    .word 0x3ff
    .long 0
real_blob_end:
    .code32
    .data
saved_esp: .long 0
saved_idtr: .skip 6
    .section .note.GNU-stack, "", @progbits
