// Every exception that software can raise in 64-bit mode, with its error code and saved RIP.
#include "kit/kit.hpp"

static u8 code[64];

/// Runs these bytes.
template <int n>
static Fault run(const u8 (&bytes)[n]) {
  memcpy(code, bytes, n);
  return attempt([] { asm volatile("call *%0" ::"r"(code) : "memory", "rax", "rdx"); });
}
static bool at_code(const Fault& f) {
  return f.rip == reinterpret_cast<uptr>(code);
}

static void divide() {
  CHECK_FAULT(attempt([] {
                asm volatile("xor %%ecx, %%ecx\n div %%ecx" ::: "rax", "rcx", "rdx");
              }),
              0);
  CHECK_FAULT(attempt([] {
                asm volatile("mov $0x80000000, %%eax\n cltd\n mov $-1, %%ecx\n idiv %%ecx" ::
                                 : "rax", "rcx", "rdx");
              }),
              0);
  CHECK_FAULT(attempt([] {
                asm volatile("mov $1, %%edx\n mov $1, %%ecx\n div %%rcx" ::: "rax", "rcx", "rdx");
              }),
              0);
  CHECK_FINE(attempt_user([] {
    asm volatile("mov $0x7fffffff, %%eax\n cltd\n mov $-1, %%ecx\n idiv %%ecx" ::
                     : "rax", "rcx", "rdx");
  }));
  CHECK_FAULT(attempt_user([] {
                asm volatile("mov $0x80000000, %%eax\n cltd\n mov $-1, %%ecx\n idiv %%ecx" ::
                                 : "rax", "rcx", "rdx");
              }),
              0);
}

static void traps() {
  Fault f = run({0xcc});
  CHECK(f.is(3) && f.rip == reinterpret_cast<uptr>(code) + 1);
  if (!lenient) {
    f = run({0xf1});
    CHECK(f.is(1) && f.rip == reinterpret_cast<uptr>(code) + 1);
  }
  f = run({0xcd, 0x40});
  CHECK(f.is(0x40) && f.rip == reinterpret_cast<uptr>(code) + 2);
  f = attempt_user([] { asm volatile("int $0x40"); });
  CHECK(f.is(13) && (lenient || f.error == 0x40 * 8 + 2));
  f = attempt_user([] { asm volatile("int3"); });
  CHECK(f.is(13) && (lenient || f.error == 3 * 8 + 2));
  set_gate(3, entries[3], 0xee);
  CHECK_FAULT(attempt_user([] { asm volatile("int3"); }), 3);
}

static void undefined() {
  const Fault all[] = {run({0x0f, 0x0b}),
                       run({0x0f, 0xff, 0xc0}),
                       run({0x0f, 0xb9, 0xc0}),
                       run({0x06}) /* push es */,
                       run({0x27}) /* daa */,
                       run({0xce}) /* into */,
                       run({0x62, 0x00}) /* bound */,
                       run({0xf0, 0x01, 0xc0}) /* lock add reg */,
                       run({0x8d, 0xc0}) /* lea reg */,
                       run({0x0f, 0x20, 0xc8}) /* cr1 */,
                       run({0x8e, 0xc8}) /* mov cs */,
                       run({0x0f, 0xc7, 0xc8}) /* cmpxchg8b reg */,
                       run({0xc5, 0xf8, 0x77}) /* vex, no OSXSAVE */};
  for (const Fault& f : all)
    if (!f.is(6) || !at_code(f)) {
      CHECK(!"every one is #UD");
      print_hex(static_cast<u64>(&f - all));
      show(f);
    }
  // More than 15 bytes.
  Fault f = run({0xf0, 0x8b, 0x00});  // lock mov
  CHECK(lenient || (f.is(6) && at_code(f)));
  f = run({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
           0x90, 0xc3});
  CHECK(f.is(13, 0) && at_code(f));
  f = run({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90,
           0xc3});
  CHECK_FINE(f);
}

static void not_canonical() {
  constexpr uptr kHole = 0x8000000000000000;
  // Its handler cannot push on the bad stack.
  static u8 stack[4096];
  tss.ist[1] = reinterpret_cast<uptr>(stack + sizeof stack);
  set_gate(12, entries[12], 0x8e, kCode, 2);
  set_gate(13, entries[13], 0x8e, kCode, 2);
  CHECK_FAULT(attempt([] { read<u8>(kHole); }), 13, 0);
  CHECK_FAULT(attempt([] { write<u8>(0x0000800000000000, 1); }), 13, 0);
  // A jump to a hole faults at the jump, not at the target.
  Fault f = attempt([] { asm volatile("jmp *%0" ::"r"(kHole)); });
  CHECK(f.is(13, 0));
  if (lenient) return;
  CHECK(f.rip < 0x1000000);
  CHECK_FAULT(attempt([] {
                asm volatile(
                    "mov %%rsp, %%rcx\n mov %0, %%rsp\n push %%rax\n mov %%rcx, %%rsp" ::"r"(kHole)
                    : "rcx", "memory");
              }),
              12, 0);
  CHECK_FAULT(attempt([] {
                asm volatile("xchg %%rbp, %0\n mov (%%rbp), %%rax\n xchg %%rbp, %0" ::"r"(kHole)
                             : "rax", "memory");
              }),
              12, 0);
  CHECK_FAULT(attempt([] { wrmsr(0xc0000100, kHole); }), 13, 0);
  CHECK_FAULT(attempt([] { wrmsr(0xc0000082, kHole); }), 13, 0);
  struct [[gnu::packed]] {
    u16 limit = 0xff;
    u64 base = kHole;
  } table;
  CHECK_FAULT(attempt([&] { asm volatile("lgdt %0" ::"m"(table)); }), 13, 0);
  CHECK_FAULT(attempt([&] { asm volatile("lidt %0" ::"m"(table)); }), 13, 0);
}

static void privileged() {
  set_gate(13, entries[13]);
  CHECK_FAULT(attempt_user([] { asm volatile("hlt"); }), 13, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("cli"); }), 13, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("sti"); }), 13, 0);
  CHECK_FAULT(attempt_user([] { read_cr0(); }), 13, 0);
  CHECK_FAULT(attempt_user([] { read_dr7(); }), 13, 0);
  CHECK_FAULT(attempt_user([] { rdmsr(0xc0000080); }), 13, 0);
  CHECK_FAULT(attempt_user([] { in8(0x80); }), 13, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("wbinvd"); }), 13, 0);
  CHECK_FAULT(attempt_user([] { invlpg(code); }), 13, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("swapgs"); }), 13, 0);
  CHECK_FAULT(attempt_user([] { asm volatile("ltr %w0" ::"r"(kTss)); }), 13, 0);
  // The I/O permission bitmap opens single ports; an access needs all its bits.
  tss.bitmap[0x80 / 8] = 0xfe;
  CHECK_FINE(attempt_user([] { in8(0x80); }));
  CHECK_FAULT(attempt_user([] { out16(0x80, 0); }), 13, 0);
  tss.bitmap[0x80 / 8] = 0xff;
  CHECK_FINE(attempt_user([] { in8(0x80); }, 0x3002));  // IOPL 3
  CHECK_FINE(attempt_user([] { asm volatile("cli"); }, 0x3002));
  if (lenient) return;
  CHECK_FAULT(attempt([] { rdmsr(0x12345); }), 13, 0);
  CHECK_FAULT(attempt([] { wrmsr(0x12345, 0); }), 13, 0);
  CHECK_FAULT(attempt([] { wrmsr(0xc0000080, ~u64{0}); }), 13, 0);
  CHECK_FAULT(attempt([] { write_cr0(read_cr0() & ~1ul); }), 13, 0);           // PE without PG
  CHECK_FAULT(attempt([] { write_cr0(0x80000001ul | (1ul << 32)); }), 13, 0);  // reserved
  CHECK_FAULT(attempt([] { write_cr0((read_cr0() | 1ul << 29) & ~(1ul << 30)); }), 13,
              0);  // NW, no CD
  CHECK_FAULT(attempt([] { write_cr4(read_cr4() | (1ul << 63)); }), 13, 0);
  CHECK_FAULT(attempt([] { write_cr4(read_cr4() & ~0x20ul); }), 13, 0);  // PAE in long mode
}

static void segments() {
  auto load_ds = [](u16 s) { return attempt([s] { asm volatile("mov %0, %%ds" ::"r"(s)); }); };
  CHECK_FINE(load_ds(0));
  CHECK_FINE(load_ds(kData));
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x13, 0xc);  // not present
  CHECK_FAULT(load_ds(kSpare), 11, kSpare);
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x99, 0xc);  // execute-only code
  CHECK_FAULT(load_ds(kSpare), 13, kSpare);
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x89, 0);  // a system segment
  CHECK_FAULT(load_ds(kSpare), 13, kSpare);
  CHECK_FAULT(load_ds(0x60), 13, 0x60);  // beyond the limit
  CHECK_FAULT(load_ds(0x4c), 13, 0x4c);  // no LDT
  auto load_ss = [](u16 s) { return attempt([s] { asm volatile("mov %0, %%ss" ::"r"(s)); }); };
  CHECK_FINE(load_ss(0));  // allowed in ring 0 of 64-bit mode
  asm volatile("mov %0, %%ss" ::"r"(kData));
  CHECK_FAULT(load_ss(kUserData), 13, kUserData & ~3);
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x13, 0xc);
  CHECK_FAULT(load_ss(kSpare), 12, kSpare);
  CHECK_FAULT(attempt_user([] { asm volatile("mov %0, %%ss" ::"r"(0)); }), 13, 0);
  CHECK_FAULT(attempt([] { asm volatile("ltr %w0" ::"r"(kTss)); }), 13, kTss);  // busy
  gdt[kSpare / 8] = descriptor(0, 0xffff, 0x09, 0);
  gdt[kSpare / 8 + 1] = 0;
  CHECK_FAULT(attempt([] { asm volatile("ltr %w0" ::"r"(kSpare)); }), 11, kSpare);
  asm volatile("mov %0, %%ds" ::"r"(kData));
}

static void gates() {
  // A gate that is not present, has a bad type, leads to bad code.
  set_gate(0x50, entries[0x50], 0x0e);
  Fault f = attempt([] { asm volatile("int $0x50"); });
  CHECK(f.is(11) && (lenient || f.error == 0x50 * 8 + 2));
  set_gate(0x50, entries[0x50], 0x85);
  f = attempt([] { asm volatile("int $0x50"); });
  CHECK(f.is(13) && (lenient || f.error == 0x50 * 8 + 2));
  set_gate(0x50, entries[0x50], 0x8e, kData);
  CHECK_FAULT(attempt([] { asm volatile("int $0x50"); }), 13, kData);
  set_gate(0x50, entries[0x50], 0x8e, 0);
  CHECK_FAULT(attempt([] { asm volatile("int $0x50"); }), 13, 0);
  set_gate(0x50, entries[0x50], 0x8e, kCode32);  // 64-bit code it must be
  CHECK_FAULT(attempt([] { asm volatile("int $0x50"); }), 13, kCode32);
  // A #GP that cannot be delivered is a double fault, on its own stack.
  static u8 stack[4096];
  tss.ist[0] = reinterpret_cast<uptr>(stack + sizeof stack);
  set_gate(8, entries[8], 0x8e, kCode, 1);
  set_gate(13, entries[13], 0x0e);
  if (!lenient) CHECK_FAULT(attempt([] { read<u8>(0x8000000000000000); }), 8, 0);
  set_gate(13, entries[13]);
}

static void numeric() {
  write_cr0(read_cr0() | 8);  // TS
  CHECK_FAULT(attempt([] { asm volatile("fnop"); }), 7);
  CHECK_FAULT(attempt([] { asm volatile("pxor %xmm0, %xmm0"); }), 7);
  asm volatile("clts");
  CHECK_FINE(attempt([] { asm volatile("fninit\n fnop"); }));
  write_cr0(read_cr0() | 4);  // EM
  CHECK_FAULT(attempt([] { asm volatile("pxor %xmm0, %xmm0"); }), 6);
  CHECK_FAULT(attempt([] { asm volatile("fnop"); }), 7);
  write_cr0(read_cr0() & ~4ul);
  u16 control = 0x37b;  // division by zero unmasked
  CHECK_FAULT(
      attempt([&] { asm volatile("fldcw %0\n fld1\n fldz\n fdivrp\n fwait" ::"m"(control)); }), 16);
  asm volatile("fnclex\n fninit");
  CHECK_FAULT(attempt([] { asm volatile("movaps 1(%0), %%xmm0" ::"r"(code) : "memory"); }), 13, 0);
  if (lenient) return;
  u32 mxcsr = 0x1d80, normal = 0x1f80;
  CHECK_FAULT(attempt([&] {
                asm volatile(
                    "ldmxcsr %0\n pxor %%xmm0, %%xmm0\n mov $1, %%eax\n cvtsi2sd %%eax, %%xmm1\n"
                    "divsd %%xmm0, %%xmm1" ::"m"(mxcsr)
                    : "rax");
              }),
              19);
  asm volatile("ldmxcsr %0" ::"m"(normal));
  u32 bad = 0x10000;
  CHECK_FAULT(attempt([&] { asm volatile("ldmxcsr %0" ::"m"(bad)); }), 13, 0);
  // Alignment is checked in ring 3 with CR0.AM and EFLAGS.AC.
  write_cr0(read_cr0() | (1ul << 18));
  CHECK_FAULT(attempt_user([] { read<u32>(reinterpret_cast<uptr>(user_stack) + 1); }, 0x40002), 17,
              0);
  CHECK_FINE(attempt_user([] { read<u32>(reinterpret_cast<uptr>(user_stack) + 4); }, 0x40002));
  CHECK_FINE(attempt_user([] { read<u32>(reinterpret_cast<uptr>(user_stack) + 1); }));
  CHECK_FINE(attempt([] { read<u32>(reinterpret_cast<uptr>(user_stack) + 1); }));
}

int main() {
  code[63] = 0xc3;
  divide();
  traps();
  undefined();
  not_canonical();
  privileged();
  segments();
  gates();
  numeric();
  return 0;
}
