// 4-level paging: page sizes, rights, accessed and dirty bits, NX, WP, SMEP, SMAP, reserved bits,
// error codes, the TLB, and accesses that cross pages.
#include "kit/kit.hpp"

enum : u64 { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100, NX = 1ull << 63 };
/// #PF error code.
enum : uptr { kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16 };

extern "C" u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
alignas(4096) static u64 pdpt[512], pd[512], pt[512];
alignas(4096) static u8 page[3][4096];

/// Where the tests map: entries of PML4 slot 1.
constexpr uptr kBase = 1ul << 39;
static u64 physical(const void* p) {
  return reinterpret_cast<u64>(p);
}
static void flush() {
  write_cr3(read_cr3());
}

/// kBase maps to page[0] with these rights in the last level (all in the others).
static void map(u64 rights) {
  pt[0] = physical(page[0]) | rights;
  invlpg(reinterpret_cast<void*>(kBase));
}
static Fault get() {
  return attempt([] { read<u8>(kBase); });
}
static Fault put() {
  return attempt([] { write<u8>(kBase, 0xc3); });
}
static Fault call() {
  return attempt([] { asm volatile("call *%0" ::"r"(kBase)); });
}
static Fault user_get() {
  return attempt_user([] { read<u8>(kBase); });
}
static Fault user_put() {
  return attempt_user([] { write<u8>(kBase, 0xc3); });
}
static Fault user_call() {
  return attempt_user([] { asm volatile("call *%0" ::"r"(kBase)); });
}

static void rights() {
  map(0);
  CHECK_FAULT(get(), 14, 0);
  CHECK(caught.address == kBase);
  CHECK_FAULT(put(), 14, kWrite);
  CHECK_FAULT(call(), 14, kFetch);
  CHECK(caught.rip == kBase);
  CHECK_FAULT(user_get(), 14, kUser);
  CHECK_FAULT(user_put(), 14, kUser | kWrite);
  CHECK_FAULT(user_call(), 14, kUser | kFetch);
  map(P | W | U);
  const Fault all[] = {get(), put(), call(), user_get(), user_put(), user_call()};
  for (const Fault& f : all) CHECK(f.is(-1));
  map(P | W);
  CHECK_FINE(put());
  CHECK_FAULT(user_get(), 14, kUser | kPresent);
  CHECK_FAULT(user_put(), 14, kUser | kPresent | kWrite);
  map(P | U);
  CHECK_FAULT(put(), 14, kPresent | kWrite);
  CHECK_FAULT(user_put(), 14, kUser | kPresent | kWrite);
  CHECK_FINE(user_get());
  write_cr0(read_cr0() & ~(1ul << 16));  // WP off: ring 0 may, ring 3 not
  CHECK_FINE(put());
  CHECK_FAULT(user_put(), 14, kUser | kPresent | kWrite);
  write_cr0(read_cr0() | (1ul << 16));
  CHECK_FAULT(put(), 14, kPresent | kWrite);
  map(P | W | U | NX);
  CHECK_FINE(put());
  CHECK_FAULT(call(), 14, kPresent | kFetch);
  CHECK_FAULT(user_call(), 14, kUser | kPresent | kFetch);
  // Rights are the intersection of all levels; NX the union.
  map(P | W | U);
  u64* levels[] = {&boot_pml4[1], &pdpt[0], &pd[0]};
  for (u64* entry : levels) {
    *entry &= ~u64{W};
    flush();
    CHECK_FAULT(put(), 14, kPresent | kWrite);
    *entry = (*entry | W) & ~u64{U};
    flush();
    CHECK_FAULT(user_get(), 14, kUser | kPresent);
    *entry |= U | NX;
    flush();
    CHECK_FAULT(call(), 14, kPresent | kFetch);
    *entry &= ~NX & ~u64{P};
    flush();
    CHECK_FAULT(get(), 14, 0);
    *entry |= P;
    flush();
    CHECK_FINE(call());
  }
}

static void reserved_bits() {
  map(P | W | U | (1ull << 51));
  CHECK_FAULT(get(), 14, kReserved | kPresent);
  CHECK_FAULT(user_put(), 14, kReserved | kPresent | kUser | kWrite);
  map(P | W | U);
  pdpt[0] |= 1ull << 51;
  flush();
  CHECK_FAULT(get(), 14, kReserved | kPresent);
  pdpt[0] &= ~(1ull << 51);
  boot_pml4[1] |= PS;  // no 512 GiB pages
  flush();
  CHECK_FAULT(get(), 14, kReserved | kPresent);
  boot_pml4[1] &= ~u64{PS};
  u64 saved = pd[0];
  pd[0] = P | W | U | PS | (1 << 13);  // below the frame of a 2 MiB page
  flush();
  CHECK_FAULT(get(), 14, kReserved | kPresent);
  pd[0] = saved;
  flush();
  // NX is reserved while EFER.NXE is 0.
  map(P | W | U | NX);
  wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
  flush();
  CHECK_FAULT(get(), 14, kReserved | kPresent);
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
  flush();
  CHECK_FINE(get());
}

static void accessed_and_dirty() {
  boot_pml4[1] &= ~u64{A};
  pdpt[0] &= ~u64{A};
  pd[0] &= ~u64{A};
  map(P | W | U);
  flush();
  CHECK_FINE(get());
  CHECK((pt[0] & (A | D)) == A);
  CHECK((boot_pml4[1] & pdpt[0] & pd[0] & A) != 0);
  CHECK_FINE(put());
  CHECK((pt[0] & (A | D)) == (A | D));
  CHECK(((boot_pml4[1] | pdpt[0] | pd[0]) & D) == 0);
  // A refused write leaves D alone.
  map(P | U);
  flush();
  CHECK_FAULT(put(), 14, kPresent | kWrite);
  CHECK((pt[0] & D) == 0);
  // The TLB may not keep a page writable without D once the page was invalidated.
  map(P | W | U);
  CHECK_FINE(put());
  pt[0] &= ~u64{D};
  invlpg(reinterpret_cast<void*>(kBase));
  CHECK_FINE(put());
  CHECK(pt[0] & D);
}

static void large_pages() {
  u64 saved = pd[0];
  pd[0] = P | W | U | PS;  // linear kBase + x -> physical x
  flush();
  write<u32>(reinterpret_cast<uptr>(page[1]), 0x12345678);
  CHECK(read<u32>(kBase + physical(page[1])) == 0x12345678);
  CHECK((pd[0] & (A | D)) == A);
  write<u32>(kBase + physical(page[1]), 42);
  CHECK((pd[0] & D) != 0);
  CHECK(read<u32>(reinterpret_cast<uptr>(page[1])) == 42);
  pd[0] &= ~u64{W};
  invlpg(reinterpret_cast<void*>(kBase + physical(page[1])));
  CHECK_FAULT(put(), 14, kPresent | kWrite);
  pd[0] = saved;
  if (cpuid(0x80000001).d & (1 << 26)) {
    u64 entry = pdpt[0];
    pdpt[0] = P | W | U | PS;
    flush();
    CHECK(read<u32>(kBase + physical(page[1])) == 42);
    write<u32>(kBase + physical(page[1]), 43);
    CHECK((pdpt[0] & (A | D)) == (A | D));
    pdpt[0] = P | W | U | PS | (1 << 13);
    flush();
    if (!lenient) CHECK_FAULT(get(), 14, kReserved | kPresent);
    pdpt[0] = entry;
  }
  flush();
  map(P | W | U);
  CHECK_FINE(put());
}

static void supervisor_protection() {
  Cpuid c = cpuid(7);
  if (c.b & (1 << 7)) {  // SMEP. The kit's own code is in user pages: make them supervisor's
    boot_pml4[0] &= ~u64{U};
    flush();
    map(P | W | U);
    write_cr4(read_cr4() | (1ul << 20));
    CHECK_FAULT(call(), 14, kPresent | kFetch);
    CHECK_FINE(get());
    map(P | W);
    CHECK_FINE(call());
    write_cr4(read_cr4() & ~(1ul << 20));
    map(P | W | U);
    CHECK_FINE(call());
  } else {
    print("no SMEP\n");
  }
  if (c.b & (1 << 20)) {  // SMAP
    boot_pml4[0] &= ~u64{U};
    flush();
    map(P | W | U);
    write_cr4(read_cr4() | (1ul << 21));
    CHECK_FAULT(get(), 14, kPresent);
    CHECK_FAULT(put(), 14, kPresent | kWrite);
    CHECK_FINE(attempt([] {
      asm volatile("stac");
      read<u8>(kBase);
      asm volatile("clac");
    }));
    CHECK_FAULT(attempt([] {
                  asm volatile("stac\n clac");
                  read<u8>(kBase);
                }),
                14, kPresent);
    map(P | W);
    CHECK_FINE(get());
    // A page that became the user's after the TLB knew it.
    map(P | W | U);
    CHECK_FAULT(get(), 14, kPresent);
    write_cr4(read_cr4() & ~(1ul << 21));
  } else {
    print("no SMAP\n");
  }
  boot_pml4[0] |= U;
  flush();
}

static void tlb() {
  map(P | W | U);
  page[0][0] = 0xc3;
  page[1][0] = 0x55;
  CHECK(read<u8>(kBase) == 0xc3);
  pt[0] = physical(page[1]) | P | W | U;
  invlpg(reinterpret_cast<void*>(kBase));
  CHECK(read<u8>(kBase) == 0x55);
  pt[0] = physical(page[0]) | P | W | U;
  flush();
  CHECK(read<u8>(kBase) == 0xc3);
  // Global pages survive a reload of CR3, not a change of CR4.PGE.
  write_cr4(read_cr4() | 0x80);
  pt[0] = physical(page[0]) | P | W | U | G;
  invlpg(reinterpret_cast<void*>(kBase));
  CHECK(read<u8>(kBase) == 0xc3);
  pt[0] = physical(page[1]) | P | W | U | G;
  write_cr4(read_cr4() & ~0x80ul);
  CHECK(read<u8>(kBase) == 0x55);
  // A page made present needs no invalidation.
  pt[0] = 0;
  flush();
  CHECK_FAULT(get(), 14, 0);
  pt[0] = physical(page[0]) | P | W | U;
  CHECK_FINE(get());
  // So does one that gains rights: the fault's walk sees them.
  pt[0] = physical(page[0]) | P | U;
  flush();
  CHECK_FAULT(put(), 14, kPresent | kWrite);
  pt[0] = physical(page[0]) | P | W | U;
  CHECK_FINE(put());
  // Two addresses of one page.
  pt[1] = physical(page[0]) | P | W | U;
  write<u32>(kBase + 4096 + 8, 0xabcd);
  CHECK(read<u32>(kBase + 8) == 0xabcd);
}

static void crossing() {
  map(P | W | U);
  pt[1] = physical(page[2]) | P | W | U;
  pt[2] = 0;
  flush();
  memset(page[0], 0, 4096);
  memset(page[2], 0, 4096);
  write<u64>(kBase + 4093, 0x1122334455667788);
  CHECK(page[0][4093] == 0x88 && page[0][4095] == 0x66 && page[2][0] == 0x55 && page[2][4] == 0x11);
  CHECK(read<u64>(kBase + 4093) == 0x1122334455667788);
  asm volatile("lock addq $1, (%0)" ::"r"(kBase + 4093) : "memory");
  CHECK(read<u64>(kBase + 4093) == 0x1122334455667789);
  // Nothing is written if the second page is missing; CR2 is its first byte.
  Fault f = attempt([] { write<u64>(kBase + 8189, ~0ull); });
  CHECK_FAULT(f, 14, kWrite);
  CHECK(f.address == kBase + 8192);
  CHECK(page[2][4093] == 0 && page[2][4095] == 0);
  f = attempt([] { asm volatile("addq $1, (%0)" ::"r"(kBase + 8189) : "memory"); });
  CHECK(f.is(14) && (lenient || f.error == kWrite));
  f = attempt([] { read<u32>(kBase + 8190); });
  CHECK_FAULT(f, 14, 0);
  CHECK(f.address == kBase + 8192);
  // An instruction across pages: the fault is on the second one.
  page[2][4095] = 0xb8;  // mov eax, imm32
  f = attempt([] { asm volatile("call *%0" ::"r"(kBase + 8191) : "rax"); });
  CHECK_FAULT(f, 14, kFetch);
  CHECK(f.address == kBase + 8192 && f.rip == kBase + 8191);
  pt[2] = physical(page[1]) | P;
  const u8 rest[] = {0x78, 0x56, 0x34, 0x12, 0xc3};
  memcpy(page[1], rest, 5);
  u32 v = 0;
  CHECK_FINE(attempt([&] { asm volatile("call *%1" : "=a"(v) : "r"(kBase + 8191)); }));
  CHECK(v == 0x12345678);
  page[1][1] = 0x57;  // changed in its second half
  CHECK_FINE(attempt([&] { asm volatile("call *%1" : "=a"(v) : "r"(kBase + 8191)); }));
  CHECK(v == 0x12345778);
}

/// Exception delivery through a page that faults is a double fault; CR2 is the second address.
static void double_fault() {
  static u8 stack[4096];
  tss.ist[0] = reinterpret_cast<uptr>(stack + sizeof stack);
  set_gate(8, entries[8], 0x8e, kCode, 1);
  map(0);
  tss.ist[1] = kBase + 4096;  // not there
  set_gate(14, entries[14], 0x8e, kCode, 2);
  pt[0] = pt[1] = 0;
  flush();
  CHECK_FAULT(get(), 8, 0);
  CHECK(read_cr2() >= kBase && read_cr2() < kBase + 4096);
  set_gate(14, entries[14]);
}

int main() {
  boot_pml4[1] = physical(pdpt) | P | W | U;
  pdpt[0] = physical(pd) | P | W | U;
  pd[0] = physical(pt) | P | W | U;
  page[0][0] = 0xc3;
  rights();
  if (!lenient) reserved_bits();
  accessed_and_dirty();
  large_pages();
  supervisor_protection();
  tlb();
  crossing();
  double_fault();
  return 0;
}
