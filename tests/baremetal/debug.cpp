// Debug registers, single step, and the interrupt shadow as far as it concerns debugging.
#include "kit/kit.hpp"

enum : u64 { TF = 0x100, RF = 0x10000 };
static u32 hits;
static u64 dr6_seen[64], rip_seen[64], flags_seen[64];
static void on_debug(Frame& f) {
  if (hits < 64) {
    dr6_seen[hits] = read_dr6();
    rip_seen[hits] = f.rip;
    flags_seen[hits] = f.rflags;
  }
  ++hits;
  write_dr6(0xffff0ff0);
  f.rflags |= RF;
}
static void reset() {
  hits = 0;
  write_dr6(0xffff0ff0);
}
static u64 here(const void* p) {
  return reinterpret_cast<u64>(p);
}

extern "C" u8 bp_0[], bp_1[], bp_2[], bp_end[], step_0[], step_1[], step_2[], step_3[];
extern "C" void bp_code(), step_code();
asm(R"(
bp_code:
bp_0: nop
bp_1: mov %ss, %eax
bp_2: mov %eax, %ss
bp_end: nop
    ret
step_code:
    pushfq
    orq $0x100, (%rsp)
    popfq
step_0: nop
step_1: mov %ss, %eax
step_2: mov %eax, %ss
    nop
step_3: pushfq
    andq $~0x100, (%rsp)
    popfq
    ret
)");

static void execution() {
  reset();
  write_dr0(here(bp_1));
  write_dr7(0x402 | 0x300);  // G0: execute
  bp_code();
  CHECK(hits == 1 && rip_seen[0] == here(bp_1));
  CHECK((dr6_seen[0] & 0xf) == 1 && !(dr6_seen[0] & 0x4000));
  if (!lenient) CHECK(flags_seen[0] & RF);
  write_dr7(0x400);
  bp_code();
  CHECK(hits == 1);
  // Behind MOV SS an instruction breakpoint is not recognised.
  if (!lenient) {
    write_dr0(here(bp_end));
    write_dr7(0x402);
    bp_code();
    CHECK(hits == 1);
  }
  write_dr7(0x400);
}

alignas(64) static u64 watched[4];

static void data() {
  reset();
  write_dr1(here(&watched[0]));
  write_dr2(here(&watched[1]));
  // DR1: write, 8 bytes; DR2: read or write, 4 bytes.
  write_dr7(0x400 | 0x8 | 0x20 | (0x9ul << 20) | (0xful << 24));
  BARRIER();
  [[maybe_unused]] volatile u64 v = *const_cast<volatile u64*>(&watched[0]);
  CHECK(hits == 0);
  asm volatile("movb $1, %0\n 1: lea 1b(%%rip), %%rax"
               : "=m"(reinterpret_cast<u8*>(watched)[7])::"rax");
  CHECK(hits == 1 && (dr6_seen[0] & 0xf) == 2);
  u64 after;
  asm volatile("mov %1, %%ecx\n 1: lea 1b(%%rip), %0" : "=r"(after) : "m"(watched[1]) : "rcx");
  CHECK(hits == 2 && (dr6_seen[1] & 0xf) == 4);
  CHECK(rip_seen[1] == after);  // a trap: behind the access
  asm volatile("mov %0, %%ecx" ::"m"(reinterpret_cast<u32*>(watched)[3]) : "rcx");
  CHECK(hits == 2);  // bytes 12-15: beyond the 4
  asm volatile("movl $5, %0" : "=m"(*reinterpret_cast<u32*>(reinterpret_cast<u8*>(watched) + 6)));
  CHECK(hits == 3 && (lenient || (dr6_seen[2] & 0xf) == 6));  // both at once
  // Reported between the elements of a repeated move.
  static u8 source[32];
  u8* to = reinterpret_cast<u8*>(watched) - 0;
  const u8* from = source;
  uptr count = 16;
  hits = 0;
  write_dr7(0x400 | 0x8 | (0x1ul << 20));  // DR1: write, 1 byte
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  CHECK(hits == 1 && count == 0);
  write_dr7(0x400);
  CHECK(read_dr7() == 0x400);
}

static void general_detect() {
  on(1, nullptr);
  write_dr6(0xffff0ff0);
  write_dr7(0x2400);
  Fault f = attempt([] { read_dr0(); });
  CHECK(f.is(1));
  CHECK(read_dr6() & 0x2000);
  CHECK(!(read_dr7() & 0x2000));
  write_dr7(0x400);
  // DR4 and DR5 are DR6 and DR7 unless CR4.DE.
  write_cr4(read_cr4() | 8);
  CHECK_FAULT(attempt([] {
                uptr v;
                asm volatile("mov %%db4, %0" : "=r"(v));
              }),
              6);
  write_cr4(read_cr4() & ~8ul);
  uptr v, w = 0xffff4ff0;
  write_dr6(w);
  asm volatile("mov %%db4, %0" : "=r"(v));
  CHECK(v == read_dr6());
  CHECK_FAULT(attempt([] { write_dr6(1ul << 32); }), 13, 0);
  CHECK_FAULT(attempt([] { write_dr7(1ul << 32); }), 13, 0);
  on(1, on_debug);
}

static void single_step() {
  reset();
  step_code();
  // After: NOP, MOV, (MOV SS: shadowed) NOP, PUSHF, AND, POPF.
  CHECK(hits == 6);
  CHECK(rip_seen[0] == here(step_1) && rip_seen[1] == here(step_2) && rip_seen[2] == here(step_3));
  CHECK((dr6_seen[0] & 0x400f) == 0x4000);
  // Every element of a repeated string instruction.
  static u8 a[16], b[16];
  u8 *to = b, *from = a;
  uptr count = 4;
  reset();
  asm volatile(
      "pushfq\n orq $0x100, (%%rsp)\n popfq\n"
      "rep movsb\n"
      "pushfq\n andq $~0x100, (%%rsp)\n popfq"
      : "+D"(to), "+S"(from), "+c"(count)::"memory");
  CHECK(count == 0 && to == b + 4);
  CHECK(hits == 4 + 3);
  // Entering a handler clears TF; a fault is not stepped.
  reset();
  on(0x46, [](Frame& f) { flags_seen[60] = flags() | (f.rflags << 32); });
  asm volatile(
      "pushfq\n orq $0x100, (%%rsp)\n popfq\n int $0x46\n pushfq\n andq $~0x100, (%%rsp)\n popfq" ::
          : "memory");
  CHECK(!(flags_seen[60] & TF) && (flags_seen[60] >> 32 & TF));
  CHECK(hits == 3 || lenient);
  // PUSHF shows TF, not RF.
  u64 v;
  reset();
  asm volatile(
      "pushfq\n orq $0x100, (%%rsp)\n popfq\n pushfq\n pop %0\n pushfq\n andq $~0x100, (%%rsp)\n "
      "popfq"
      : "=r"(v)::"memory");
  CHECK((v & TF) && !(v & RF));
}

int main() {
  on(1, on_debug);
  execution();
  data();
  if (!lenient) general_detect();
  single_step();
  return 0;
}
