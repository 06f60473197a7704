// Self-modifying code: the next instruction, within one instruction's loop, through another
// mapping, across pages, by string instructions.
#include "kit/kit.hpp"

extern "C" u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
alignas(4096) static u8 page[3][4096];

static u32 call(const void* at) {
  u32 v;
  asm volatile("call *%1" : "=a"(v) : "r"(at) : "memory");
  return v;
}
/// mov eax, value; ret
static void put(u8* at, u32 value) {
  at[0] = 0xb8;
  memcpy(at + 1, &value, 4);
  at[5] = 0xc3;
}

static void next_instruction() {
  u32 v;
  // The immediate of the very next instruction.
  asm volatile(
      "lea 1f+1(%%rip), %%rdx\n"
      "movl $0x1111, (%%rdx)\n"
      "1: mov $0, %%eax\n"
      : "=a"(v)::"rdx", "memory");
  CHECK(v == 0x1111);
  // And again in a loop, where the block was decoded before.
  u32 sum = 0;
  asm volatile(
      "mov $100, %%ecx\n"
      "xor %%ebx, %%ebx\n"
      "2: lea 1f+2(%%rip), %%rdx\n"
      "mov %%ecx, (%%rdx)\n"
      "1: add $0x7fffffff, %%ebx\n"
      "dec %%ecx\n"
      "jnz 2b\n"
      "mov %%ebx, %0"
      : "=m"(sum)::"rbx", "rcx", "rdx", "memory");
  CHECK(sum == 5050);
}

static void patched_often() {
  u8* p = page[0];
  for (u32 i = 0; i < 5000; ++i) {
    put(p, i);
    if (call(p) != i) {
      CHECK(!"fresh code runs");
      break;
    }
  }
  // Data beside the code changes without harm.
  put(p, 7);
  for (u32 i = 0; i < 1000; ++i) {
    write<u32>(reinterpret_cast<uptr>(p) + 2048, i);
    CHECK(call(p) == 7);
  }
}

static void aliases() {
  // Written through one address, run at another.
  alignas(4096) static u64 pdpt[512], pd[512], pt[512];
  boot_pml4[3] = reinterpret_cast<u64>(pdpt) | 7;
  pdpt[0] = reinterpret_cast<u64>(pd) | 7;
  pd[0] = reinterpret_cast<u64>(pt) | 7;
  pt[0] = reinterpret_cast<u64>(page[0]) | 7;
  pt[1] = reinterpret_cast<u64>(page[1]) | 7;
  uptr alias = 3ul << 39;
  put(page[0], 1);
  CHECK(call(reinterpret_cast<void*>(alias)) == 1);
  put(page[0], 2);
  CHECK(call(reinterpret_cast<void*>(alias)) == 2);
  put(reinterpret_cast<u8*>(alias), 3);
  CHECK(call(page[0]) == 3);
  // The same address, another page.
  put(page[1], 4);
  pt[0] = reinterpret_cast<u64>(page[1]) | 7;
  invlpg(reinterpret_cast<void*>(alias));
  CHECK(call(reinterpret_cast<void*>(alias)) == 4);
  pt[0] = reinterpret_cast<u64>(page[0]) | 7;
  invlpg(reinterpret_cast<void*>(alias));
  CHECK(call(reinterpret_cast<void*>(alias)) == 3);
}

static void across_pages() {
  u8* p = page[0] + 4096 - 3;
  for (u32 i = 0; i < 100; ++i) {
    put(p, i * 0x01010101);
    CHECK(call(p) == i * 0x01010101);
    page[1][1] = 0x77;  // the last byte of the immediate is at page[1][1]
    CHECK(call(p) == ((i * 0x01010101 & 0xffffff) | 0x77000000));
  }
}

static void strings() {
  static u8 source[16];
  u8* p = page[2];
  for (u32 i = 1; i < 50; ++i) {
    put(source, i);
    memcpy(p, source, 6);
    CHECK(call(p) == i);
    // A store that spans the code of the running block's successor.
    u64 bytes = 0xb8 | u64{i + 1000} << 8 | 0xc3ull << 40;
    asm volatile("mov %0, (%1)" ::"r"(bytes), "r"(p) : "memory");
    CHECK(call(p) == i + 1000);
    asm volatile("lock addb $1, 1(%0)" ::"r"(p) : "memory");
    CHECK((call(p) & 0xff) == ((i + 1001) & 0xff));
  }
  // REP STOS over its own following instruction: NOPs instead of UD2.
  u8 program[] = {0xb0, 0x90,                                // mov al, 90
                  0x48, 0x8d, 0x3d, 0x07, 0x00, 0x00, 0x00,  // lea rdi, [rip + 7]
                  0xb9, 0x02, 0x00, 0x00, 0x00,              // mov ecx, 2
                  0xf3, 0xaa,                                // rep stosb
                  0x0f, 0x0b,                                // ud2
                  0xc3};
  memcpy(p, program, sizeof program);
  CHECK_FINE(attempt([p] { asm volatile("call *%0" ::"r"(p) : "rax", "rcx", "rdi", "memory"); }));
}

int main() {
  next_instruction();
  patched_often();
  aliases();
  across_pages();
  strings();
  return 0;
}
