// Hardware task switches: far JMP, CALL and IRET, task gates for interrupts and exceptions, the
// busy bit, NT, the back link, LDTR and CR3 of the new task, and the faults of a bad TSS.
#include "kit/kit.hpp"

static Tss32 other;
static u8 stack[8192];
static u32 ran, in_task_tr, in_task_flags, in_task_link, cr0_ts;
constexpr u16 kOther = kSpare, kGate = kSpare + 8;

static u16 store_tr() {
  u16 v;
  asm volatile("str %0" : "=r"(v));
  return v;
}

extern "C" void task_body() {
  ++ran;
  in_task_tr = store_tr();
  in_task_flags = flags();
  in_task_link = other.link & 0xffff;
  cr0_ts = read_cr0() & 8;
}
// A task that comes back by IRET, and goes on after it when it is entered again.
asm(R"(
    .global task_entry, task_jump_entry
task_entry:
    mov %ecx, task_ecx
    call task_body
    iret
    jmp task_entry
task_jump_entry:
    call task_body
    ljmp $0x38, $0
    jmp task_jump_entry
)");
extern "C" u8 task_entry[], task_jump_entry[];
extern "C" {
u32 task_ecx, task_error;
}

static void prepare(const u8* entry, u16 code = kCode, u16 data = kData) {
  other = {};
  other.eip = reinterpret_cast<u32>(entry);
  other.eflags = 2;
  other.ecx = 0xc0ffee;
  other.esp = reinterpret_cast<u32>(stack + sizeof stack);
  other.cs = code;
  other.ss = other.ds = other.es = other.fs = other.gs = data;
  other.iomap = 104;
  gdt[kOther / 8] = descriptor(reinterpret_cast<u32>(&other), 103, 0x89, 0);
}
static bool busy(u16 selector) {
  return gdt[selector / 8] >> 41 & 1;
}

static void call_task() {
  asm volatile("lcall %0, $0" ::"i"(kOther) : "memory", "eax", "ecx", "edx");
}
static void jump_task() {
  asm volatile("ljmp %0, $0" ::"i"(kOther) : "memory", "eax", "ecx", "edx");
}

static void switches() {
  prepare(task_entry);
  CHECK(busy(kTss) && !busy(kOther));
  ran = 0;
  asm volatile("clts");
  call_task();
  CHECK(ran == 1 && in_task_tr == kOther && task_ecx == 0xc0ffee);
  CHECK(in_task_flags & 0x4000);  // NT
  CHECK(in_task_link == kTss);
  CHECK(cr0_ts == 8);
  CHECK(store_tr() == kTss && busy(kTss) && !busy(kOther));
  CHECK(!(flags() & 0x4000));
  CHECK(!(other.eflags & 0x4000));
  asm volatile("clts");
  // Its state was saved: the second call goes on after IRET.
  CHECK(other.eip > reinterpret_cast<u32>(task_entry) &&
        other.eip < reinterpret_cast<u32>(task_jump_entry));
  call_task();
  CHECK(ran == 2);
  asm volatile("clts");

  prepare(task_jump_entry);
  jump_task();
  CHECK(ran == 3 && store_tr() == kTss && busy(kTss) && !busy(kOther));
  CHECK(!(in_task_flags & 0x4000) && in_task_link == 0);
  asm volatile("clts");

  // Through a task gate in the GDT, from ring 3.
  prepare(task_entry);
  gdt[kGate / 8] = u64{kOther} << 16 | u64{0xe5} << 40;
  auto through = [] {
    asm volatile("lcall %0, $0" ::"i"(kGate | 3) : "memory", "eax", "ecx", "edx");
  };
  CHECK_FINE(attempt_user(through));
  CHECK(ran == 4);
  CHECK_FAULT(attempt_user([] { call_task(); }), 13, kOther);  // the TSS itself has DPL 0
  gdt[kGate / 8] = u64{kOther} << 16 | u64{0x65} << 40;
  CHECK_FAULT(attempt_user(through), 11, kGate);
  asm volatile("clts");
}

static void interrupts() {
  prepare(task_entry);
  set_gate(0x44, nullptr, 0xe5, kOther);
  ran = 0;
  CHECK_FINE(attempt([] { asm volatile("int $0x44" ::: "memory"); }));
  CHECK(ran == 1 && in_task_link == kTss);
  CHECK_FINE(attempt_user([] { asm volatile("int $0x44" ::: "memory"); }));
  CHECK(ran == 2);
}

/// A handler in a task of its own, with the error code on its stack: mends what was wrong and
/// returns to the instruction that faulted.
extern "C" void mend() {
  gdt[kSpare / 8 + 2] = descriptor(0, 0xfffff, 0x93, 12);
  in_task_tr = store_tr();
}
asm(R"(
    .global task_mend_entry
task_mend_entry:
    pop task_error
    call mend
    iret
    jmp task_mend_entry
)");
extern "C" u8 task_mend_entry[];

static void exception() {
  prepare(task_mend_entry);
  constexpr u16 kLate = kSpare + 16;
  gdt[kLate / 8] = descriptor(0, 0xfffff, 0x13, 12);
  set_gate(11, nullptr, 0x85, kOther);
  task_error = 0xffff;
  asm volatile("mov %0, %%es" ::"r"(kLate) : "memory");
  CHECK(task_error == kLate && in_task_tr == kOther);
  u16 es;
  asm volatile("mov %%es, %0" : "=r"(es));
  CHECK(es == kLate);
  asm volatile("mov %0, %%es" ::"r"(kData));
  set_gate(11, entries[11]);
  asm volatile("clts");
}

static Tss32 third;
static u8 third_stack[4096];
static u32 third_link;
constexpr u16 kThird = kSpare + 24;

extern "C" void fix() {
  third_link = third.link & 0xffff;
  other.ldt = 0;
  other.cs = kCode;
  other.ss = other.ds = kData;
}
asm(R"(
task_fix_entry:
    pop task_error
    call fix
    iret
    jmp task_fix_entry
)");
extern "C" u8 task_fix_entry[];

static void bad_tasks() {
  prepare(task_entry);
  gdt[kOther / 8] = descriptor(reinterpret_cast<u32>(&other), 102, 0x89, 0);
  CHECK_FAULT(attempt([] { call_task(); }), 10, kOther);
  gdt[kOther / 8] = descriptor(reinterpret_cast<u32>(&other), 103, 0x8b, 0);
  CHECK_FAULT(attempt([] { call_task(); }), 13, kOther);  // busy
  gdt[kOther / 8] = descriptor(reinterpret_cast<u32>(&other), 103, 0x09, 0);
  CHECK_FAULT(attempt([] { call_task(); }), 11, kOther);
  CHECK(store_tr() == kTss && !busy(kOther));
  // IRET with NT set and a back link that is no busy TSS.
  tss.link = kData;
  CHECK_FAULT(attempt([] {
                asm volatile("pushf\n orl $0x4000, (%%esp)\n popf\n iret" ::: "memory");
              }),
              10, kData);
  // What is wrong inside the new TSS is found after the switch: a handler in a third task is
  // entered from the new one, mends it and returns into it.
  third = {};
  third.eip = reinterpret_cast<u32>(task_fix_entry);
  third.eflags = 2;
  third.esp = reinterpret_cast<u32>(third_stack + sizeof third_stack);
  third.cs = kCode;
  third.ss = third.ds = third.es = third.fs = third.gs = kData;
  third.iomap = 104;
  gdt[kThird / 8] = descriptor(reinterpret_cast<u32>(&third), 103, 0x89, 0);
  set_gate(10, nullptr, 0x85, kThird);
  for (int wrong = 0; wrong < 4; ++wrong) {
    prepare(task_entry);
    if (wrong == 0) other.ldt = kData;
    if (wrong == 1) other.ss = kUserData;
    if (wrong == 2) other.cs = kData;
    if (wrong == 3) other.ds = kTss;
    ran = 0;
    task_error = 0xffff;
    CHECK_FINE(attempt([] { call_task(); }));
    constexpr u32 kErrors[] = {kData, kUserData & ~3, kData, kTss};
    CHECK(task_error == kErrors[wrong]);
    CHECK(third_link == kOther && ran == 1);
    CHECK(store_tr() == kTss && !busy(kOther) && !busy(kThird));
    asm volatile("clts");
  }
  set_gate(10, entries[10]);
}

int main() {
  switches();
  interrupts();
  exception();
  bad_tasks();
  return 0;
}
