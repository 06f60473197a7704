// XSAVE and its kin: enabling, XCR0, what is saved and restored, initial states, compaction,
// faults.
#include "kit/kit.hpp"

alignas(64) static u8 area[4096], other[4096];

static u64 xgetbv(u32 n) {
  u32 a, d;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(n));
  return u64{d} << 32 | a;
}
static void xsetbv(u32 n, u64 v) {
  asm volatile("xsetbv" ::"a"(static_cast<u32>(v)), "d"(static_cast<u32>(v >> 32)), "c"(n)
               : "memory");
}
static void xsave(void* p, u64 mask) {
  asm volatile("xsave64 (%0)" ::"r"(p), "a"(static_cast<u32>(mask)),
               "d"(static_cast<u32>(mask >> 32))
               : "memory");
}
static void xsavec(void* p, u64 mask) {
  asm volatile("xsavec64 (%0)" ::"r"(p), "a"(static_cast<u32>(mask)),
               "d"(static_cast<u32>(mask >> 32))
               : "memory");
}
static void xrstor(const void* p, u64 mask) {
  asm volatile("xrstor64 (%0)" ::"r"(p), "a"(static_cast<u32>(mask)),
               "d"(static_cast<u32>(mask >> 32))
               : "memory");
}
static u64 header(const u8* p, u32 at = 0) {
  return read<u64>(reinterpret_cast<uptr>(p) + 512 + at);
}
static void set_header(u8* p, u32 at, u64 v) {
  write<u64>(reinterpret_cast<uptr>(p) + 512 + at, v);
}
static u64 xmm(const u8* p, u32 n) {
  return read<u64>(reinterpret_cast<uptr>(p) + 160 + 16 * n);
}

int main() {
  if (!(cpuid(1).c & (1 << 26))) {
    print("no XSAVE\n");
    return 0;
  }
  CHECK(!(cpuid(1).c & (1 << 27)));
  CHECK_FAULT(attempt([] { xgetbv(0); }), 6);
  CHECK_FAULT(attempt([] { xsave(area, 3); }), 6);
  write_cr4(read_cr4() | (1ul << 18));
  CHECK(cpuid(1).c & (1 << 27));
  CHECK(xgetbv(0) == 1);
  u64 all = cpuid(0xd).a | u64{cpuid(0xd).d} << 32;
  CHECK((all & 3) == 3);
  CHECK_FAULT(attempt([] { xsetbv(0, 0); }), 13, 0);  // x87 is always there
  CHECK_FAULT(attempt([] { xsetbv(0, 5); }), 13, 0);  // AVX without SSE
  CHECK_FAULT(attempt([] { xsetbv(0, ~u64{0}); }), 13, 0);
  CHECK_FAULT(attempt([] { xsetbv(1, 3); }), 13, 0);
  CHECK_FAULT(attempt_user([] { xsetbv(0, 3); }), 13, 0);
  CHECK_FINE(attempt_user([] { xgetbv(0); }));
  xsetbv(0, 3);
  CHECK(xgetbv(0) == 3);
  CHECK(cpuid(0xd).b == 576);

  // Saved, changed, restored.
  asm volatile("mov $0x1122334455667788, %%rax\n movq %%rax, %%xmm3\n fninit\n fld1" ::: "rax");
  memset(area, 0, sizeof area);
  xsave(area, 3);
  CHECK((header(area) & 3) == 3 && header(area, 8) == 0);
  CHECK(xmm(area, 3) == 0x1122334455667788);
  asm volatile("pxor %xmm3, %xmm3\n fninit");
  xrstor(area, 3);
  u64 v;
  asm volatile("movq %%xmm3, %0" : "=r"(v));
  CHECK(v == 0x1122334455667788);
  u16 status;
  asm volatile("fnstsw %0" : "=a"(status));
  CHECK((status >> 11 & 7) == 7);
  // Only what the mask says: SSE alone leaves the x87 part of the area.
  memset(other, 0xee, 512);
  memset(other + 512, 0, 64);
  xsave(other, 2);
  CHECK((header(other) & 1) == 0 && other[32] == 0xee && xmm(other, 3) == v);
  // A component that is not in XSTATE_BV is brought to its initial state.
  set_header(area, 0, 1);
  xrstor(area, 3);
  asm volatile("movq %%xmm3, %0" : "=r"(v));
  CHECK(v == 0);
  // Header faults.
  set_header(area, 0, 8);
  CHECK_FAULT(attempt([] { xrstor(area, 3); }), 13, 0);  // not enabled in XCR0
  set_header(area, 0, 3);
  set_header(area, 16, 1);
  if (!lenient) CHECK_FAULT(attempt([] { xrstor(area, 3); }), 13, 0);
  set_header(area, 16, 0);
  set_header(area, 8, 1);
  CHECK_FAULT(attempt([] { xrstor(area, 3); }), 13, 0);  // XCOMP_BV without bit 63
  set_header(area, 8, 0);
  CHECK_FAULT(attempt([] { xrstor(area + 8, 3); }), 13, 0);  // 64-byte alignment
  CHECK_FAULT(attempt([] { xsave(area + 16, 3); }), 13, 0);
  area[24] = area[25] = area[26] = 0xff;  // MXCSR's reserved bits
  if (!lenient) CHECK_FAULT(attempt([] { xrstor(area, 2); }), 13, 0);
  write_cr0(read_cr0() | 8);
  if (!lenient) CHECK_FAULT(attempt([] { xsave(area, 3); }), 7);
  asm volatile("clts");

  if (cpuid(0xd, 1).a & 2) {  // compaction
    asm volatile("pxor %xmm0, %xmm0\n mov $-1, %rax\n movq %rax, %xmm1\n fninit");
    memset(other, 0, sizeof other);
    xsavec(other, 3);
    CHECK(header(other, 8) == (1ull << 63 | 3));
    CHECK(header(other) & 2);
    asm volatile("pxor %xmm1, %xmm1");
    xrstor(other, 3);
    asm volatile("movq %%xmm1, %0" : "=r"(v));
    CHECK(v == ~u64{0});
  } else {
    print("no XSAVEC\n");
  }
  if ((all & 4) && (cpuid(1).c & (1 << 28))) {  // AVX
    CHECK_FAULT(attempt([] { asm volatile("vzeroall"); }), 6);
    xsetbv(0, 7);
    CHECK_FINE(attempt([] { asm volatile("vzeroall"); }));
    u32 at = cpuid(0xd, 2).b;
    asm volatile(
        "mov $0xabcdef, %%eax\n movd %%eax, %%xmm5\n vinsertf128 $1, %%xmm5, %%ymm5, %%ymm5" ::
            : "rax");
    memset(area, 0, sizeof area);
    xsave(area, 7);
    CHECK((header(area) & 6) == 6);
    CHECK(read<u32>(reinterpret_cast<uptr>(area) + at + 5 * 16) == 0xabcdef);
    asm volatile("vzeroall");
    xrstor(area, 7);
    u32 low, high;
    asm volatile("vmovd %%xmm5, %0\n vextractf128 $1, %%ymm5, %%xmm6\n vmovd %%xmm6, %1"
                 : "=r"(low), "=r"(high));
    CHECK(low == 0xabcdef && high == 0xabcdef);
    // A legacy instruction keeps the upper half, a VEX one clears it.
    asm volatile("pxor %%xmm5, %%xmm5\n vextractf128 $1, %%ymm5, %%xmm6\n vmovd %%xmm6, %0"
                 : "=r"(high));
    CHECK(high == 0xabcdef);
    asm volatile("vpxor %%xmm5, %%xmm5, %%xmm5\n vextractf128 $1, %%ymm5, %%xmm6\n vmovd %%xmm6, %0"
                 : "=r"(high));
    CHECK(high == 0);
  } else {
    print("no AVX\n");
  }
  if (cpuid(7).b & (1 << 16) && (all & 0xe0) == 0xe0) {  // AVX-512
    CHECK_FAULT(attempt([] { xsetbv(0, 0x27); }), 13, 0);
    xsetbv(0, 0xe7);
    asm volatile("mov $0x1234567, %%eax\n vpbroadcastd %%eax, %%zmm17\n kmovw %%eax, %%k2" ::
                     : "rax");
    memset(area, 0, sizeof area);
    xsave(area, 0xe7);
    CHECK((header(area) & 0xa0) == 0xa0);
    asm volatile("vpxord %zmm17, %zmm17, %zmm17\n kxorw %k2, %k2, %k2");
    xrstor(area, 0xe7);
    u32 k, z;
    asm volatile("vextracti32x4 $3, %%zmm17, %%xmm6\n vmovd %%xmm6, %0\n kmovw %%k2, %1"
                 : "=r"(z), "=r"(k));
    CHECK(z == 0x1234567 && k == 0x4567);
  }
  return 0;
}
