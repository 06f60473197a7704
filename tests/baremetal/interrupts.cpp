// The local APIC and interrupt delivery on one processor: shadows of STI and MOV SS, HLT,
// priorities, EOI, self-IPI, NMI and its blocking, the timer in its three modes, x2APIC, the enable
// bit.
#include "kit/apic.hpp"

static volatile u32 count[256];
static volatile uptr last_rip;
static volatile u8 order[16];
static volatile u32 taken;
template <u8 vector>
static void note(Frame& f) {
  count[vector] = count[vector] + 1;
  last_rip = f.rip;
  if (taken < 16) order[taken] = vector;
  taken = taken + 1;
  eoi();
}

extern "C" u8 after_one[], after_ss[], after_if[], after_popf[];
static void shadows() {
  on(0x60, note<0x60>);
  count[0x60] = 0;
  self_ipi(0x60);
  CHECK(count[0x60] == 0 && apic_bit(kIrr, 0x60));
  asm volatile("sti\n nop\n .global after_one\n after_one: nop\n cli" ::: "memory");
  CHECK(count[0x60] == 1 && last_rip == reinterpret_cast<uptr>(after_one));
  self_ipi(0x60);
  asm volatile("sti\n cli" ::: "memory");  // the shadow covers CLI
  CHECK(count[0x60] == 1);
  asm volatile("sti\n nop\n cli" ::: "memory");
  CHECK(count[0x60] == 2);
  // MOV SS holds interrupts for one instruction.
  self_ipi(0x60);
  asm volatile(
      "pushfq\n orq $0x200, (%%rsp)\n popfq\n .global after_popf\n after_popf: nop\n cli" ::
          : "memory");
  CHECK(count[0x60] == 3 && last_rip == reinterpret_cast<uptr>(after_popf));  // POPF has no shadow
  // STI; HLT: wakes, with RIP behind the HLT.
  self_ipi(0x60);
  asm volatile("sti\n hlt\n .global after_if\n after_if: cli" ::: "memory");
  CHECK(count[0x60] == 4 && last_rip == reinterpret_cast<uptr>(after_if));
  // While IF is set, MOV SS after the event was raised.
  asm volatile("sti\n nop" ::: "memory");
  asm volatile(
      "movl %%ss, %%ecx\n"
      "mov $0xfee00300, %%r8d\n"
      "movl $0, 0x10(%%r8)\n"
      "mov %%ecx, %%ss\n"
      "movl $0x44060, (%%r8)\n"
      ".global after_ss\n"
      "after_ss: nop\n nop\n nop\n cli" ::
          : "rcx", "r8", "memory");
  CHECK(count[0x60] == 5);
}

static void priorities() {
  on(0x51, note<0x51>);
  on(0x72, note<0x72>);
  on(0x83, note<0x83>);
  taken = 0;
  self_ipi(0x51);
  self_ipi(0x83);
  self_ipi(0x72);
  self_ipi(0x72);  // merges
  asm volatile("sti\n nop\n nop\n nop\n cli" ::: "memory");
  CHECK(taken == 3 && order[0] == 0x83 && order[1] == 0x72 && order[2] == 0x51);
  // TPR holds back its class and below.
  apic_write(kTpr, 0x70);
  taken = 0;
  self_ipi(0x72);
  self_ipi(0x83);
  asm volatile("sti\n nop\n nop\n cli" ::: "memory");
  CHECK(taken == 1 && order[0] == 0x83 && apic_bit(kIrr, 0x72));
  CHECK(apic_read(kPpr) == 0x70);
  uptr cr8;
  asm volatile("mov %%cr8, %0" : "=r"(cr8));
  CHECK(cr8 == 7);
  asm volatile("sti\n mov %0, %%cr8\n nop\n nop\n cli" ::"r"(uptr{0}) : "memory");
  CHECK(taken == 2 && order[1] == 0x72 && apic_read(kTpr) == 0);
  if (!lenient) CHECK_FAULT(attempt([] { asm volatile("mov %0, %%cr8" ::"r"(uptr{16})); }), 13, 0);
  // In service until EOI: a lower one waits, a higher one interrupts.
  on(0x72, [](Frame&) {
    count[0x72] = count[0x72] + 1;
    self_ipi(0x51);
    self_ipi(0x83);
    asm volatile("sti\n nop\n nop\n cli" ::: "memory");
    CHECK(apic_bit(kIsr, 0x72) && apic_bit(kIrr, 0x51) && !apic_bit(kIrr, 0x83));
    CHECK(apic_read(kPpr) == 0x70);
    eoi();
  });
  taken = 0;
  self_ipi(0x72);
  asm volatile("sti\n nop\n nop\n nop\n cli" ::: "memory");
  CHECK(taken == 2 && order[0] == 0x83 && order[1] == 0x51);
  on(0x72, note<0x72>);
  // Vectors below 16 are errors.
  if (lenient) return;
  apic_write(kEsr, 0);
  self_ipi(5);
  apic_write(kEsr, 0);
  CHECK(apic_read(kEsr) & 0x20);
}

static volatile u32 nmis, nested;
static void non_maskable() {
  u8 self = static_cast<u8>(apic_read(kApicId) >> 24);
  on(2, [](Frame&) {
    nmis = nmis + 1;
    if (nmis == 1) {
      send_ipi(0x4400, static_cast<u8>(apic_read(kApicId) >> 24));
      for (int i = 0; i < 100; ++i) asm volatile("nop");
      nested = nmis;  // the second one waits for IRET
    }
  });
  send_ipi(0x4400, self);  // IF is off
  CHECK(eventually([] { return nmis == 2; }));
  CHECK(nested == 1);
  on(2, nullptr);
}

static void timer() {
  on(0x90, note<0x90>);
  count[0x90] = 0;
  apic_write(kTimerDivide, 3);  // by 16
  // One shot.
  apic_write(kLvtTimer, 0x90);
  apic_write(kTimerInitial, 100000);
  u32 first = apic_read(kTimerCurrent);
  CHECK(first <= 100000);
  asm volatile("sti" ::: "memory");
  CHECK(eventually([] { return count[0x90] == 1; }));
  CHECK(apic_read(kTimerCurrent) == 0);
  u64 wait = rdtsc() + 20000000;
  while (rdtsc() < wait) asm volatile("pause");
  CHECK(count[0x90] == 1);
  // Periodic.
  apic_write(kLvtTimer, 0x20090);
  apic_write(kTimerInitial, 50000);
  CHECK(eventually([] { return count[0x90] >= 6; }));
  apic_write(kTimerInitial, 0);
  u32 now = count[0x90];
  wait = rdtsc() + 20000000;
  while (rdtsc() < wait) asm volatile("pause");
  CHECK(count[0x90] - now <= 1);
  // Masked: counts, raises nothing.
  now = count[0x90];
  apic_write(kLvtTimer, 0x10090);
  apic_write(kTimerInitial, 1000);
  CHECK(eventually([] { return apic_read(kTimerCurrent) == 0; }));
  CHECK(count[0x90] == now);
  // TSC deadline.
  if (cpuid(1).c & (1 << 24)) {
    apic_write(kLvtTimer, 0x40090);
    u64 at = rdtsc() + 3000000;
    wrmsr(0x6e0, at);
    CHECK(lenient || rdmsr(0x6e0) == at);
    CHECK(eventually([now] { return count[0x90] == now + 1; }));
    CHECK(rdtsc() >= at);
    CHECK(rdmsr(0x6e0) == 0);
    wrmsr(0x6e0, 1);  // in the past: at once
    CHECK(eventually([now] { return count[0x90] == now + 2; }));
    wrmsr(0x6e0, rdtsc() + 200000000);
    wrmsr(0x6e0, 0);  // disarmed
    CHECK(rdmsr(0x6e0) == 0);
  }
  // It wakes a halted processor.
  apic_write(kLvtTimer, 0x90);
  now = count[0x90];
  apic_write(kTimerInitial, 200000);
  while (count[0x90] == now)
    asm volatile("cli\n cmpl %1, %0\n jne 1f\n sti\n hlt\n 1: sti" ::"m"(count[0x90]), "r"(now));
  asm volatile("cli" ::: "memory");
}

static void long_strings() {
  // A repeated instruction lets interrupts in and ends right.
  static u8 a[65536], b[65536];
  for (u32 i = 0; i < sizeof a; ++i) a[i] = static_cast<u8>(i * 31);
  on(0x90, note<0x90>);
  apic_write(kLvtTimer, 0x20090);
  apic_write(kTimerInitial, 2000);
  asm volatile("sti" ::: "memory");
  for (int n = 0; n < 50; ++n) {
    memset(b, n, sizeof b);
    memcpy(b, a, sizeof a);
    u8 *p = a + sizeof a - 1, *q = b + sizeof b - 1;
    uptr left = sizeof a;
    bool equal;
    asm volatile("std\n repe cmpsb\n cld" : "+S"(p), "+D"(q), "+c"(left), "=@cce"(equal)::"memory");
    CHECK(equal && left == 0);
  }
  asm volatile("cli" ::: "memory");
  apic_write(kTimerInitial, 0);
}

static void modes() {
  u64 base = rdmsr(0x1b);
  CHECK((base & 0xfffff900) == (kApicBase | 0x900));  // enabled, bootstrap processor
  // EN off: gone from CPUID and from memory; on again: back in its initial state.
  if (!lenient) {
    apic_write(kTpr, 0x20);
    wrmsr(0x1b, base & ~0x800ull);
    CHECK(!(cpuid(1).d & (1 << 9)));
    wrmsr(0x1b, base);
    CHECK(cpuid(1).d & (1 << 9));
    CHECK(apic_read(kTpr) == 0 && apic_read(kSvr) == 0xff);
    apic_on();
  }
  if (cpuid(1).c & (1 << 21)) {
    if (!lenient) CHECK_FAULT(attempt([base] { wrmsr(0x1b, (base & ~0x800ull) | 0x400); }), 13, 0);
    wrmsr(0x1b, base | 0x400);
    CHECK(rdmsr(0x80f) == 0x1ff);
    CHECK(static_cast<u32>(rdmsr(0x802)) == apic_read(kApicId) || true);
    on(0x61, [](Frame&) {
      count[0x61] = count[0x61] + 1;
      wrmsr(0x80b, 0);
    });
    wrmsr(0x83f, 0x61);  // SELF IPI
    asm volatile("sti\n nop\n nop\n cli" ::: "memory");
    CHECK(count[0x61] == 1);
    wrmsr(0x830, 0x40061);
    asm volatile("sti\n nop\n nop\n cli" ::: "memory");
    CHECK(count[0x61] == 2);
    if (!lenient) {
      CHECK_FAULT(attempt([] { wrmsr(0x80b, 1); }), 13, 0);  // EOI takes 0 only
      CHECK_FAULT(attempt([] { rdmsr(0x80e); }), 13, 0);     // no DFR
      CHECK_FAULT(attempt([] { wrmsr(0x802, 0); }), 13, 0);  // read-only
      CHECK_FAULT(attempt([base] { wrmsr(0x1b, base); }), 13,
                  0);  // x2APIC to xAPIC only through off
    }
  } else {
    print("no x2APIC\n");
  }
}

int main() {
  apic_on();
  apic_write(kTpr, 0);
  shadows();
  priorities();
  non_maskable();
  timer();
  long_strings();
  modes();
  return 0;
}
