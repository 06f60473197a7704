// Instructions that touch devices: every width and kind on memory-mapped registers, accesses half
// in RAM and half outside, page-table and exception traffic through them, string I/O. Needs 128 MiB
// of RAM.
#include "kit/apic.hpp"

constexpr uptr kRamEnd = 128ul << 20;
constexpr uptr kHpet = 0xfed00000;
constexpr uptr kIoapic = 0xfec00000;
extern "C" u64 boot_pml4[512];

static void memory_mapped() {
  // The local APIC's task priority as a convenient register.
  apic_write(kTpr, 0x12);
  uptr tpr = kApicBase + kTpr;
  CHECK(read<u32>(tpr) == 0x12);
  asm volatile("addl $1, (%0)" ::"r"(tpr) : "memory");
  CHECK(read<u32>(tpr) == 0x13);
  asm volatile("lock orl $0x40, (%0)" ::"r"(tpr) : "memory");
  CHECK(read<u32>(tpr) == 0x53);
  u32 v = 0x21;
  asm volatile("xchgl %0, (%1)" : "+r"(v) : "r"(tpr) : "memory");
  CHECK(v == 0x53 && read<u32>(tpr) == 0x21);
  u32 expected = 0x21;
  asm volatile("lock cmpxchgl %2, (%1)" : "+a"(expected) : "r"(tpr), "r"(0x35) : "memory");
  CHECK(read<u32>(tpr) == 0x35);
  asm volatile("btsl $7, (%0)" ::"r"(tpr) : "memory");
  CHECK(read<u32>(tpr) == 0xb5);
  asm volatile("shrl $4, (%0)" ::"r"(tpr) : "memory");
  CHECK(read<u32>(tpr) == 0xb);
  bool equal;
  asm volatile("cmpl $0xb, (%1)" : "=@ccz"(equal) : "r"(tpr));
  CHECK(equal);
  asm volatile(
      "movl $0, (%0)\n cmpl $0, (%0)\n sete %%al\n movzbl %%al, %%eax\n shll $5, %%eax\n movl "
      "%%eax, (%0)" ::"r"(tpr)
      : "rax", "memory");
  CHECK(read<u32>(tpr) == 0x20);
  // Push and pop, call through a pointer... from and to device memory.
  u64 popped;
  asm volatile("push (%1)\n pop %0" : "=r"(popped) : "r"(tpr) : "memory");
  CHECK(lenient || static_cast<u32>(popped) == 0x20);  // 8 bytes of a 4-byte register
  // Strings from a device into memory and back.
  u32 buffer[3] = {};
  const void* from = reinterpret_cast<void*>(tpr);
  void* to = buffer;
  u64 n = 1;
  asm volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(n)::"memory");
  CHECK(buffer[0] == 0x20);
  buffer[1] = 0x47;
  from = &buffer[1];
  to = reinterpret_cast<void*>(tpr);
  n = 1;
  asm volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(n)::"memory");
  CHECK(read<u32>(tpr) == 0x47);
  // Vector loads and stores.
  asm volatile("movd (%0), %%xmm0\n movd %%xmm0, %1" ::"r"(tpr), "m"(buffer[2]) : "memory");
  CHECK(buffer[2] == 0x47);
  apic_write(kTpr, 0);
  // IOAPIC: index and window.
  write<u32>(kIoapic, 1);
  u32 version = read<u32>(kIoapic + 0x10);
  CHECK((version & 0xff) >= 0x11 && (version >> 16 & 0xff) >= 23);
}

static void hpet() {
  u64 id = read<u64>(kHpet);
  if ((id & 0xffffffff) == 0xffffffff || id == 0) {
    print("no HPET\n");
    return;
  }
  CHECK(static_cast<u32>(id >> 32) <= 100000000 &&
        read<u32>(kHpet + 4) == static_cast<u32>(id >> 32));
  write<u64>(kHpet + 0x10, 1);
  u64 a = read<u64>(kHpet + 0xf0);
  CHECK(eventually([a] { return read<u64>(kHpet + 0xf0) > a; }));
  write<u64>(kHpet + 0x10, 0);
  a = read<u64>(kHpet + 0xf0);
  CHECK(read<u64>(kHpet + 0xf0) == a);
}

static void straddling() {
  // The last bytes of RAM and what is behind it, where nothing answers: reads give ones, writes
  // vanish.
  memset(reinterpret_cast<void*>(kRamEnd - 16), 0x33, 16);
  CHECK(read<u32>(kRamEnd) == 0xffffffff);
  CHECK(read<u32>(kRamEnd - 4) == 0x33333333);
  CHECK(read<u64>(kRamEnd - 4) == 0xffffffff33333333);
  CHECK(read<u16>(kRamEnd - 1) == 0xff33);
  write<u64>(kRamEnd - 4, 0x1122334455667788);
  CHECK(read<u32>(kRamEnd - 4) == 0x55667788);
  CHECK(read<u32>(kRamEnd) == 0xffffffff);
  asm volatile("addq $1, (%0)" ::"r"(kRamEnd - 2) : "memory");
  CHECK(read<u16>(kRamEnd - 2) == 0x5567);
  u64 old = 5;
  asm volatile("xchgq %0, (%1)" : "+r"(old) : "r"(kRamEnd - 3) : "memory");
  CHECK((old & 0xffffff) == 0x556777 && (old >> 24) == 0xffffffffff);
  CHECK(read<u8>(kRamEnd - 3) == 5);
  asm volatile("movdqu (%0), %%xmm1\n movdqu %%xmm1, -32(%0)" ::"r"(kRamEnd - 8) : "memory");
  CHECK(read<u64>(kRamEnd - 32) == ~0ull);
  CHECK(read<u64>(kRamEnd - 40) == read<u64>(kRamEnd - 8));
  // A copy that runs out of RAM.
  static u8 source[64];
  memset(source, 0x44, 64);
  memcpy(reinterpret_cast<void*>(kRamEnd - 10), source, 64);
  CHECK(read<u8>(kRamEnd - 1) == 0x44);
  memset(source, 0, 64);
  memcpy(source, reinterpret_cast<void*>(kRamEnd - 10), 64);
  CHECK(source[9] == 0x44 && source[10] == 0xff && source[63] == 0xff);
}

/// A stack whose next push is outside memory, page tables outside memory.
static void odd_places() {
  alignas(4096) static u64 table[512];
  boot_pml4[6] = reinterpret_cast<u64>(table) | 7;
  table[0] = kRamEnd + 4096 + 7;  // a page directory where nothing is: all ones, so reserved bits
  Fault f = attempt([] { read<u8>(6ul << 39); });
  CHECK(f.is(14));
  boot_pml4[6] = 0;
  CHECK_FINE(attempt([] {
    asm volatile(
        "mov %%rsp, %%rcx\n mov %0, %%rsp\n push %%rcx\n pop %%rdx\n mov %%rcx, %%rsp" ::"r"(
            kRamEnd + 64)
        : "rcx", "rdx", "memory");
  }));
}

static void ports() {
  // CMOS index 0x0f (shutdown code) as a register that can be written and read.
  auto cmos = [](u8 i) {
    out8(0x70, i);
    return in8(0x71);
  };
  out8(0x70, 0x0f);
  out8(0x71, 0x5c);
  CHECK(cmos(0x0f) == 0x5c);
  out8(0x70, 0x0f);
  u8 buffer[4] = {1, 2, 3, 4};
  void* to = buffer;
  u64 n = 3;
  asm volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0x71) : "memory");
  CHECK(buffer[0] == 0x5c && buffer[2] == 0x5c && buffer[3] == 4 && n == 0);
  const void* from = buffer + 3;
  n = 1;
  asm volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(0x71) : "memory");
  CHECK(cmos(0x0f) == 4);
  // Nothing there: ones.
  CHECK(in8(0x5678) == 0xff && in32(0x5678) == 0xffffffff);
  // INS to a page that faults has not read the port: the destination is checked first.
  CHECK_FAULT(attempt([] {
                void* p = reinterpret_cast<void*>(0x900000000ul);
                asm volatile("insb" : "+D"(p) : "d"(0x71) : "memory");
              }),
              14, 2);
}

int main() {
  apic_on();
  memory_mapped();
  hpet();
  straddling();
  odd_places();
  ports();
  return 0;
}
