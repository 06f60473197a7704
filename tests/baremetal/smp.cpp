// Two processors: INIT and SIPI, IPIs both ways, NMI, locked operations that contend, ordering of
// stores, cross-modifying code, TLB shootdown.
#include "kit/apic.hpp"

extern "C" {
extern u8 trampoline[], trampoline_end[], enter_long[];
void ap_main();
extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
}
asm(R"(
    .code16
trampoline:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %cs, %ax
    mov %ax, 0x7000
    lgdtl 0x8080
    mov $0x11, %eax
    mov %eax, %cr0
    ljmpl $0x18, $trampoline32
    . = trampoline + 0x80
    .word 95
    .long gdt
trampoline_end:
    .code32
trampoline32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $ap_stack + 16384, %esp
    jmp enter_long
    .code64
)");
extern "C" {
alignas(16) u8 ap_stack[16384];
}

static volatile u32 ap_up, job, done;
static void (*volatile work)();

void ap_main() {
  struct [[gnu::packed]] {
    u16 limit;
    uptr base;
  } idtr = {sizeof idt - 1, reinterpret_cast<uptr>(idt)};
  asm volatile("lidt %0" ::"m"(idtr));
  apic_on();
  ap_up = ap_up + 1;
  u32 seen = 0;
  for (;;) {
    while (job == seen) asm volatile("pause");
    seen = job;
    work();
    BARRIER();
    done = seen;
  }
}
/// Starts f on the other processor.
static void other(void (*f)()) {
  work = f;
  BARRIER();
  job = job + 1;
}
static bool finished() {
  return eventually([] { return done == job; }, 40000000000ull);
}

static u32 ap_id;
static void start() {
  memcpy(reinterpret_cast<void*>(0x8000), trampoline,
         static_cast<uptr>(trampoline_end - trampoline));
  write<u16>(0x7000, 0);
  send_ipi(0xc4500);  // INIT to all others
  u64 until = rdtsc() + 20000000;
  while (rdtsc() < until) asm volatile("pause");
  CHECK(ap_up == 0);
  send_ipi(0xc4608);  // SIPI: 0x8000
  CHECK(eventually([] { return ap_up == 1; }, 20000000000ull));
  CHECK(read<u16>(0x7000) == 0x800);
  send_ipi(0xc4608);  // a running processor ignores it
  other([] { ap_id = apic_read(kApicId) >> 24; });
  CHECK(finished());
  CHECK(ap_up == 1 && ap_id != apic_read(kApicId) >> 24);
}

static volatile u32 pings, pongs, ap_nmis;
static void ipis() {
  on(0x70, [](Frame&) {  // on the AP
    pings = pings + 1;
    eoi();
    send_ipi(0x4071, 0);
  });
  on(0x71, [](Frame&) {
    pongs = pongs + 1;
    eoi();
  });
  other([] {
    // The last one may not come between the look and the HLT.
    while (pings < 100) asm volatile("sti; hlt; cli");
  });
  sti();
  for (u32 i = 0; i < 100; ++i) {
    send_ipi(0x4070, static_cast<u8>(ap_id));
    if (!eventually([i] { return pongs == i + 1; }, 40000000000ull)) break;
  }
  cli();
  CHECK(pings == 100 && pongs == 100);
  CHECK(finished());
  // NMI reaches it with interrupts off.
  on(2, [](Frame&) { ap_nmis = ap_nmis + 1; });
  other([] {
    while (ap_nmis == 0) asm volatile("pause");
  });
  send_ipi(0x4400, static_cast<u8>(ap_id));
  CHECK(finished());
  on(2, nullptr);
}

alignas(64) static volatile u64 counter, plain;
alignas(4096) static u8 split[8192];
static void contend() {
  for (u32 i = 0; i < 100000; ++i) {
    asm volatile("lock incq %0" : "+m"(const_cast<u64&>(counter)));
    u64 one = 1;
    asm volatile("lock xaddq %0, %1"
                 : "+r"(one), "+m"(*reinterpret_cast<u64*>(split + 4092))::"memory");
  }
  for (u32 i = 0; i < 20000; ++i) {
    u32 zero = 0, one = 1;
    do {
      zero = 0;
      asm volatile("lock cmpxchgl %2, %1"
                   : "+a"(zero), "+m"(*reinterpret_cast<u32*>(split + 64))
                   : "r"(one)
                   : "memory");
      if (zero) asm volatile("pause");
    } while (zero);
    plain = plain + 1;
    u32 v = 0;
    asm volatile("xchgl %0, %1" : "+r"(v), "+m"(*reinterpret_cast<u32*>(split + 64))::"memory");
  }
}
static void locked() {
  other(contend);
  contend();
  CHECK(finished());
  CHECK(counter == 200000);
  CHECK(read<u64>(reinterpret_cast<uptr>(split) + 4092) == 200000);
  CHECK(plain == 40000);
}

static volatile u32 data_word, flag_word, order_errors;
static void ordering() {
  // Stores become visible in program order.
  data_word = 0;
  flag_word = 0;
  other([] {
    for (u32 i = 1; i <= 100000; ++i) {
      data_word = i;
      BARRIER();
      flag_word = i;
    }
  });
  for (u32 last = 0; last < 100000;) {
    last = flag_word;
    BARRIER();
    if (data_word < last) order_errors = order_errors + 1;
  }
  CHECK(finished());
  CHECK(order_errors == 0);
}

alignas(4096) static u8 code[4096];
static volatile u32 turn, wrong;
static void cross_modifying() {
  // One processor writes code, the other runs it after a serialising instruction.
  code[0] = 0xb8;
  code[5] = 0xc3;
  other([] {
    for (u32 i = 1; i <= 2000; ++i) {
      while (turn != 2 * i - 1) asm volatile("pause");
      cpuid(0);
      u32 v;
      asm volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
      if (v != i) wrong = wrong + 1;
      turn = 2 * i;
    }
  });
  for (u32 i = 1; i <= 2000; ++i) {
    *reinterpret_cast<volatile u32*>(code + 1) = i;
    BARRIER();
    turn = 2 * i - 1;
    if (!eventually([i] { return turn == 2 * i; }, 40000000000ull)) break;
  }
  CHECK(finished());
  CHECK(wrong == 0);
}

alignas(4096) static u64 pdpt[512], pd[512], pt[512];
alignas(4096) static u8 page[4][4096];
static volatile u32 shot, stale;
static void shootdown() {
  constexpr uptr kAt = 5ul << 39;
  boot_pml4[5] = reinterpret_cast<u64>(pdpt) | 7;
  pdpt[0] = reinterpret_cast<u64>(pd) | 7;
  pd[0] = reinterpret_cast<u64>(pt) | 7;
  pt[0] = reinterpret_cast<u64>(page[0]) | 7;
  for (u8 i = 0; i < 4; ++i) page[i][0] = i;
  shot = 0;
  on(0x73, [](Frame&) {
    invlpg(reinterpret_cast<void*>(kAt));
    shot = shot + 1;
    eoi();
  });
  other([] {
    sti();
    while (shot < 200) {
      u32 before = shot;
      u8 v = read<u8>(kAt);
      // The next page may show before its IPI comes; the last one must be gone.
      bool fine = v == (before & 3) || v == ((before + 1) & 3);
      if (shot == before && !fine) stale = stale + 1;
    }
    cli();
  });
  for (u32 i = 0; i < 200; ++i) {
    pt[0] = reinterpret_cast<u64>(page[(i + 1) & 3]) | 7;
    BARRIER();
    send_ipi(0x4073, static_cast<u8>(ap_id));
    if (!eventually([i] { return shot == i + 1; }, 40000000000ull)) break;
  }
  CHECK(finished());
  CHECK(shot == 200 && stale == 0);
}

/// INIT stops it wherever it is; SIPI starts it afresh.
static void again() {
  ap_up = 0;
  job = 0;
  send_ipi(0xc4500);
  u64 until = rdtsc() + 20000000;
  while (rdtsc() < until) asm volatile("pause");
  send_ipi(0xc4608);
  CHECK(eventually([] { return ap_up == 1; }, 20000000000ull));
  static u64 cr0;
  other([] { cr0 = read_cr0(); });
  CHECK(finished());
  CHECK(cr0 & 1);
}

int main() {
  apic_on();
  start();
  ipis();
  locked();
  ordering();
  cross_modifying();
  shootdown();
  again();
  return 0;
}
