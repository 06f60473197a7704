// 32-bit and PAE paging: 4 KiB, 4 MiB (PSE, PSE-36) and 2 MiB pages, rights, A/D bits, PDPTEs.
#include "kit/kit.hpp"

enum : u32 { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
enum : uptr { kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16 };

alignas(4096) static u32 directory[1024], table[1024];
alignas(4096) static u64 pdpt[4], directories[4][512], table64[512];
alignas(4096) static u8 page[2][4096];
constexpr uptr kBase = 0xc0000000;

static u32 physical(const void* p) {
  return reinterpret_cast<u32>(p);
}
static void flush() {
  write_cr3(read_cr3());
}
static Fault get(uptr at = kBase) {
  return attempt([at] { read<u8>(at); });
}
static Fault put(uptr at = kBase) {
  return attempt([at] { write<u8>(at, 0xc3); });
}
static Fault user_get() {
  return attempt_user([] { read<u8>(kBase); });
}
static Fault user_put() {
  return attempt_user([] { write<u8>(kBase, 0xc3); });
}

template <class Entry>
static void rights(Entry& pte, Entry& pde) {
  auto map = [&](u32 r) {
    pte = physical(page[0]) | r;
    invlpg(reinterpret_cast<void*>(kBase));
  };
  map(0);
  CHECK_FAULT(get(), 14, 0);
  CHECK(caught.address == kBase);
  CHECK_FAULT(put(), 14, kWrite);
  CHECK_FAULT(user_get(), 14, kUser);
  map(P | W);
  CHECK_FINE(put());
  CHECK((pte & (A | D)) == (A | D));
  CHECK_FAULT(user_put(), 14, kUser | kWrite | kPresent);
  map(P | U);
  CHECK_FINE(user_get());
  CHECK((pte & (A | D)) == A);
  CHECK_FAULT(user_put(), 14, kUser | kWrite | kPresent);
  CHECK_FINE(put());  // WP is off
  write_cr0(read_cr0() | (1 << 16));
  pte &= ~Entry{D};
  flush();
  CHECK_FAULT(put(), 14, kWrite | kPresent);
  write_cr0(read_cr0() & ~(1ul << 16));
  map(P | W | U);
  CHECK_FINE(user_put());
  pde &= ~Entry{U};
  flush();
  CHECK_FAULT(user_get(), 14, kUser | kPresent);
  pde |= U;
  flush();
  CHECK_FINE(user_get());
}

static void two_levels() {
  for (u32 i = 0; i < 64; ++i) directory[i] = i << 22 | P | W | U | PS;
  directory[kBase >> 22] = physical(table) | P | W | U;
  write_cr4(read_cr4() | 0x10);
  write_cr3(physical(directory));
  write_cr0(read_cr0() | 0x80000000);
  rights(table[0], directory[kBase >> 22]);

  // A 4 MiB page; bits 13-20 are bits 32-39 of its address.
  directory[kBase >> 22] = P | W | PS;
  flush();
  write<u32>(physical(page[1]), 0x11223344);
  CHECK(read<u32>(kBase + physical(page[1])) == 0x11223344);
  CHECK((directory[kBase >> 22] & (A | D)) == A);
  CHECK_FINE(put(kBase + physical(page[1])));
  CHECK(directory[kBase >> 22] & D);
  directory[kBase >> 22] = P | W | PS | (1 << 21);
  flush();
  if (!lenient) CHECK_FAULT(get(), 14, kReserved | kPresent);
  // Without PSE the bit means nothing: a page table at physical 0.
  directory[kBase >> 22] = physical(table) | P | W | PS;
  write_cr0(read_cr0() & ~0x80000000ul);
  write_cr4(read_cr4() & ~0x10ul);
  for (u32 i = 0; i < 1024; ++i) table[i] = i << 12 | P | W | U;
  directory[0] = physical(table) | P | W | U;
  for (u32 i = 1; i < 64; ++i) directory[i] = 0;
  directory[kBase >> 22] = physical(table) | P | W | U | PS;
  write_cr0(read_cr0() | 0x80000000);
  CHECK(read<u32>(kBase + physical(page[1])) == read<u32>(physical(page[1])));
  // The recursive mapping that old kernels use.
  directory[1023] = physical(directory) | P | W;
  flush();
  CHECK(read<u32>(0xfffff000 + 4 * 1023) == directory[1023]);
  write_cr0(read_cr0() & ~0x80000000ul);
}

static void pae() {
  for (u32 d = 0; d < 4; ++d) {
    pdpt[d] = physical(directories[d]) | P;
    for (u32 i = 0; i < 512; ++i) directories[d][i] = 0;
  }
  for (u32 i = 0; i < 128; ++i) directories[0][i] = u64{i} << 21 | P | W | U | PS;
  directories[3][0] = physical(table64) | P | W | U;
  write_cr4(read_cr4() | 0x20);
  write_cr3(physical(pdpt));
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
  write_cr0(read_cr0() | 0x80000000);
  rights(table64[0], directories[3][0]);
  table64[0] = physical(page[0]) | P | W | U | 1ull << 63;
  page[0][0] = 0xc3;
  flush();
  CHECK_FINE(get());
  CHECK_FAULT(attempt([] { asm volatile("call *%0" ::"r"(kBase)); }), 14, kFetch | kPresent);
  // A 2 MiB page.
  u64 saved = directories[3][0];
  directories[3][0] = P | W | PS;
  flush();
  write<u32>(physical(page[1]), 0x55667788);
  CHECK(read<u32>(kBase + physical(page[1])) == 0x55667788);
  directories[3][0] = saved;
  // The processor keeps the PDPTEs: a change shows when CR3 is loaded.
  table64[0] = physical(page[0]) | P | W | U;
  flush();
  CHECK_FINE(get());
  pdpt[3] = 0;
  if (!lenient) {
    invlpg(reinterpret_cast<void*>(kBase));
    CHECK_FINE(get());
  }
  flush();
  CHECK_FAULT(get(), 14, 0);
  pdpt[3] = physical(directories[3]) | P;
  flush();
  CHECK_FINE(get());
  if (lenient) return;
  // Reserved bits in a PDPTE are found when it is loaded.
  pdpt[3] |= W;
  CHECK_FAULT(attempt([] { flush(); }), 13, 0);
  pdpt[3] = 2;  // not present: may say anything
  CHECK_FINE(attempt([] { flush(); }));
  table64[0] |= 1ull << 51;
  pdpt[3] = physical(directories[3]) | P;
  flush();
  CHECK_FAULT(get(), 14, kReserved | kPresent);
}

int main() {
  page[0][0] = 0xc3;
  two_levels();
  pae();
  return 0;
}
