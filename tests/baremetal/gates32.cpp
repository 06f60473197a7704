// 32-bit protected mode: segmentation limits and types, call gates between rings with parameters,
// interrupt and trap gates, far returns, conforming code, the exceptions with their error codes.
#include "kit/kit.hpp"

static u8 stack1[4096];
static u32 seen[4];

template <class F>
static Fault with_ds(u16 selector, F f) {
  return attempt([&] {
    asm volatile("mov %0, %%es" ::"r"(selector));
    f();
  });
}
static u32 es_read(u32 at) {
  u32 v;
  asm volatile("mov %%es:(%1), %0" : "=r"(v) : "r"(at));
  return v;
}
static void es_write(u32 at) {
  asm volatile("movb $1, %%es:(%0)" ::"r"(at) : "memory");
}

static void limits() {
  static u8 data[256];
  u32 base = reinterpret_cast<u32>(data);
  gdt[kSpare / 8] = descriptor(base, 99, 0x93, 4);
  CHECK_FINE(with_ds(kSpare, [] { es_read(96); }));
  CHECK_FAULT(with_ds(kSpare, [] { es_read(97); }), 13, 0);
  CHECK_FAULT(with_ds(kSpare, [] { es_read(0xfffffffd); }), 13, 0);
  CHECK_FINE(with_ds(kSpare, [] { es_write(99); }));
  CHECK(data[99] == 1);
  gdt[kSpare / 8] = descriptor(base, 99, 0x90, 4);  // read-only, not accessed yet
  CHECK_FAULT(with_ds(kSpare, [] { es_write(0); }), 13, 0);
  CHECK(gdt[kSpare / 8] >> 40 & 1);                 // accessed
  gdt[kSpare / 8] = descriptor(base, 99, 0x97, 4);  // expand-down: offsets above the limit
  CHECK_FINE(with_ds(kSpare, [] { es_write(100); }));
  CHECK_FAULT(with_ds(kSpare, [] { es_write(99); }), 13, 0);
  CHECK(data[100] == 1);
  gdt[kSpare / 8] = descriptor(base, 99, 0x97, 0);  // 16-bit: up to 0xffff
  CHECK_FINE(with_ds(kSpare, [] { es_read(0xfffc); }));
  CHECK_FAULT(with_ds(kSpare, [] { es_read(0xfffd); }), 13, 0);
  gdt[kSpare / 8] = descriptor(base, 0, 0x93, 12);  // one page
  CHECK_FINE(with_ds(kSpare, [] { es_read(4092); }));
  CHECK_FAULT(with_ds(kSpare, [] { es_read(4093); }), 13, 0);
  gdt[kSpare / 8] = descriptor(base, 99, 0x9b, 4);  // readable code
  CHECK_FINE(with_ds(kSpare, [] { es_read(0); }));
  CHECK_FAULT(with_ds(kSpare, [] { es_write(0); }), 13, 0);
  gdt[kSpare / 8] = descriptor(base, 99, 0x99, 4);  // execute-only
  CHECK_FAULT(with_ds(kSpare, [] {}), 13, kSpare);
  CHECK_FAULT(with_ds(0, [] { es_read(0); }), 13, 0);  // null: loading is fine, using is not
  gdt[kSpare / 8] = descriptor(base, 99, 0x13, 4);
  CHECK_FAULT(with_ds(kSpare, [] {}), 11, kSpare);
  CHECK_FAULT(with_ds(0x1234, [] {}), 13, 0x1234);
  // The stack segment faults as #SS.
  gdt[kSpare / 8] = descriptor(0, 0xfff, 0x93, 12);  // 16 MiB
  CHECK_FAULT(
      attempt([] {
        asm volatile(
            "mov %0, %%ss\n mov $0x2000000, %%eax\n xchg %%ebp, %%eax\n mov (%%ebp), %%ecx" ::"r"(
                kSpare)
            : "eax", "ecx");
      }),
      12, 0);
}

static void selectors() {
  auto load_ss = [](u16 s) { return attempt([s] { asm volatile("mov %0, %%ss" ::"r"(s)); }); };
  CHECK_FAULT(load_ss(0), 13, 0);
  CHECK_FAULT(load_ss(kCode), 13, kCode);
  CHECK_FAULT(load_ss(kUserData), 13, kUserData & ~3);
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x91, 12);
  CHECK_FAULT(load_ss(kSpare), 13, kSpare);  // not writable
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x13, 12);
  CHECK_FAULT(load_ss(kSpare), 12, kSpare);
  CHECK_FAULT(attempt_user([] { asm volatile("mov %0, %%ds" ::"r"(kData)); }), 13, kData);
  auto far_jump = [](u16 s) {
    struct [[gnu::packed]] {
      u32 offset;
      u16 selector;
    } target = {0, s};
    return attempt([&] { asm volatile("ljmp *%0" ::"m"(target)); });
  };
  CHECK_FAULT(far_jump(0), 13, 0);
  CHECK_FAULT(far_jump(kData), 13, kData);
  CHECK_FAULT(far_jump(kUserCode32), 13, kUserCode32 & ~3);
  gdt[kSpare / 8] = descriptor(0, 0xfffff, 0x1b, 12);
  CHECK_FAULT(far_jump(kSpare), 11, kSpare);
  gdt[kSpare / 8] = descriptor(0x1000, 0xf, 0x9b, 4);
  struct [[gnu::packed]] {
    u32 offset;
    u16 selector;
  } beyond = {0x10, kSpare};
  CHECK_FAULT(attempt([&] { asm volatile("ljmp *%0" ::"m"(beyond)); }), 13, 0);
}

// The far end of a call gate: notes CS, SS, the parameters, and returns releasing them.
asm(R"(
gate_target:
    mov %cs, %eax
    mov %eax, gate_seen
    mov %ss, %eax
    mov %eax, gate_seen + 4
    mov 8(%esp), %eax
    mov %eax, gate_seen + 8
    mov 12(%esp), %eax
    mov %eax, gate_seen + 12
    lret $8
)");
extern "C" u8 gate_target[];
extern "C" {
u32 gate_seen[4];
}

static u64 call_gate(const void* at, u16 selector, u8 access, u8 parameters) {
  u32 a = reinterpret_cast<u32>(at);
  return (a & 0xffff) | u64{selector} << 16 | u64{parameters} << 32 | u64{access} << 40 |
         u64{a >> 16} << 48;
}

static void call_gates() {
  constexpr u16 kGate = kSpare + 8;
  auto enter = [] {
    asm volatile("push $0x1111\n push $0x2222\n lcall %0, $0" ::"i"(kGate | 3) : "eax", "memory");
  };
  gdt[kGate / 8] = call_gate(gate_target, kCode, 0xec, 2);
  CHECK_FINE(attempt_user(enter));
  CHECK(gate_seen[0] == kCode && gate_seen[1] == kData);
  CHECK(gate_seen[2] == 0x2222 && gate_seen[3] == 0x1111);
  CHECK_FINE(attempt([enter] { enter(); }));  // same ring: nothing copied, nothing switched
  CHECK(gate_seen[2] == 0x2222);
  gdt[kGate / 8] = call_gate(gate_target, kCode, 0x8c, 2);
  CHECK_FAULT(attempt_user(enter), 13, kGate);
  gdt[kGate / 8] = call_gate(gate_target, kCode, 0x6c, 2);
  CHECK_FAULT(attempt_user(enter), 11, kGate);
  gdt[kGate / 8] = call_gate(gate_target, 0, 0xec, 2);
  CHECK_FAULT(attempt_user(enter), 13, 0);
  gdt[kGate / 8] = call_gate(gate_target, kData, 0xec, 2);
  CHECK_FAULT(attempt_user(enter), 13, kData);
  // To ring 1, whose stack must be sound.
  gdt[kSpare / 8 + 2] = descriptor(0, 0xfffff, 0xbb, 12);
  gdt[kSpare / 8 + 3] = descriptor(0, 0xfffff, 0xb3, 12);
  constexpr u16 kCode1 = kSpare + 16 + 1, kData1 = kSpare + 24 + 1;
  gdt[kGate / 8] = call_gate(gate_target, kCode1, 0xec, 2);
  tss.esp1 = reinterpret_cast<u32>(stack1 + sizeof stack1);
  tss.ss1 = kData1;
  CHECK_FINE(attempt_user(enter));
  CHECK(gate_seen[0] == kCode1 && gate_seen[1] == kData1 && gate_seen[3] == 0x1111);
  tss.ss1 = kData;  // wrong ring
  CHECK_FAULT(attempt_user(enter), 10, kData);
  tss.ss1 = 0;
  CHECK_FAULT(attempt_user(enter), 10, 0);
  gdt[kSpare / 8 + 3] = descriptor(0, 0xfffff, 0x33, 12);
  tss.ss1 = kData1;
  CHECK_FAULT(attempt_user(enter), 12, kData1 & ~3);
  // A conforming segment keeps the caller's ring.
  gdt[kSpare / 8 + 2] = descriptor(0, 0xfffff, 0x9f, 12);
  gdt[kGate / 8] = call_gate(gate_target, kSpare + 16, 0xec, 2);
  CHECK_FINE(attempt_user(enter));
  CHECK((gate_seen[0] & 3) == 3 && gate_seen[1] == kUserData);
}

static void interrupt_gates() {
  // Interrupt gates clear IF, trap gates do not; ring 3 needs DPL 3.
  on(0x41, [](Frame&) { seen[0] = flags() & 0x200; });
  auto with_if = [] { asm volatile("sti\n int $0x41\n cli"); };
  CHECK_FINE(attempt(with_if));
  CHECK(seen[0] == 0);
  set_gate(0x41, entries[0x41], 0x8f);
  CHECK_FINE(attempt(with_if));
  CHECK(seen[0] == 0x200);
  Fault f = attempt_user([] { asm volatile("int $0x41"); });
  CHECK(f.is(13, 0x41 * 8 + 2));
  set_gate(0x41, entries[0x41], 0xee);
  CHECK_FINE(attempt_user([] { asm volatile("int $0x41"); }));
  // The stack of ring 0 was taken from the TSS: SS is data, and the frame has the user's.
  on(0x41, [](Frame& frame) {
    seen[1] = frame.cs;
    seen[2] = frame.ss;
  });
  CHECK_FINE(attempt_user([] { asm volatile("int $0x41"); }));
  CHECK(seen[1] == kUserCode32 && seen[2] == kUserData);
  on(0x41, nullptr);
  CHECK_FAULT(attempt([] {
                asm volatile("movb $0x7f, %%al\n addb $1, %%al\n into" ::: "eax");
              }),
              4);
  {
    static int bounds[2] = {-5, 5};
    CHECK_FINE(attempt([] { asm volatile("bound %0, %1" ::"r"(-5), "m"(bounds)); }));
    CHECK_FAULT(attempt([] { asm volatile("bound %0, %1" ::"r"(6), "m"(bounds)); }), 5);
  }
  // IRET to an outer ring checks what it loads.
  auto iret_to = [](u32 cs, u32 ss) {
    return attempt([=] {
      asm volatile("push %0\n push $0\n push $2\n push %1\n push $0\n iret" ::"r"(ss), "r"(cs));
    });
  };
  CHECK_FAULT(iret_to(kUserCode32, kData), 13, kData);
  CHECK_FAULT(iret_to(kUserCode32, 0), 13, 0);
  CHECK_FAULT(iret_to(kData, kData), 13, kData);
  CHECK_FAULT(iret_to(0, kData), 13, 0);
}

int main() {
  limits();
  selectors();
  call_gates();
  interrupt_gates();
  return 0;
}
