// Repeated string instructions that fault half-way, wrap, overlap, run backwards, and the registers
// they leave.
#include "kit/kit.hpp"

extern "C" u64 boot_pml4[512];
alignas(4096) static u64 pdpt[512], pd[512], pt[512];
alignas(4096) static u8 page[4][4096];
constexpr uptr kBase = 1ul << 39;

static uptr di, si, cx;
static Frame last;  ///< registers at the last page fault
static uptr last_address;

static void map(int n, u64 rights) {
  pt[n] = reinterpret_cast<u64>(page[n]) | rights;
  write_cr3(read_cr3());
}

#define REPEATED(name, code)                                                            \
  static void name() {                                                                  \
    asm volatile(code ::"D"(di), "S"(si), "c"(cx), "a"(0x5a5a5a5a5a5a5a5a) : "memory"); \
  }
REPEATED(rep_movsb, "rep movsb")
REPEATED(rep_movsq, "rep movsq")
REPEATED(rep_stosb, "rep stosb")
REPEATED(rep_stosq, "rep stosq")
REPEATED(rep_lodsb, "rep lodsb")
REPEATED(repe_cmpsb, "repe cmpsb")
REPEATED(repne_scasb, "repne scasb")
REPEATED(back_movsb, "std\n rep movsb")
REPEATED(back_stosq, "std\n rep stosq")

/// Notes the registers and ends the attempt.
static void on_page_fault(Frame& f) {
  last = f;
  last_address = read_cr2();
  f.rip = reinterpret_cast<uptr>(+[] { asm volatile("int $0x80"); });
  f.rflags &= ~0x400ul;
}
/// Runs f and tells how it faulted: address and error code, RDI, RSI and RCX then.
static bool faults(void (*f)(), uptr to, uptr from, uptr count, uptr address, uptr error,
                   uptr di_then, uptr si_then, uptr cx_then) {
  di = to;
  si = from;
  cx = count;
  last.vector = 0;
  attempt([f] { f(); });
  bool ok = last.vector == 14 && last_address == address && last.error == error &&
            last.rdi == di_then && last.rsi == si_then && last.rcx == cx_then;
  if (!ok) {
    const u64 values[] = {last.vector, last_address, last.error, last.rdi, last.rsi, last.rcx};
    for (u64 v : values) {
      print_hex(v);
      print(" ");
    }
    print("\n");
  }
  return ok;
}

int main() {
  boot_pml4[1] = reinterpret_cast<u64>(pdpt) | 7;
  pdpt[0] = reinterpret_cast<u64>(pd) | 7;
  pd[0] = reinterpret_cast<u64>(pt) | 7;
  map(0, 7);
  map(1, 7);
  map(2, 0);
  map(3, 7);
  on(14, on_page_fault);
  for (u32 i = 0; i < 4096; ++i) page[0][i] = static_cast<u8>(i * 13 + 5);
  constexpr uptr A = kBase, B = kBase + 4096, C = kBase + 8192, D = kBase + 12288;

  // The destination ends at a page that is not there.
  CHECK(faults(rep_movsb, C - 100, A, 300, C, 2, C, A + 100, 200));
  for (u32 i = 0; i < 100; ++i) CHECK(page[1][3996 + i] == page[0][i]);
  CHECK(faults(rep_stosb, B, 7, 5000, C, 2, C, 7, 5000 - 4096));
  CHECK(faults(rep_stosq, C - 20, 7, 5, C, 2, C - 4, 7,
               3));  // the element that straddles: nothing of it
  CHECK(page[1][4095] == 0x5a && page[1][4092] == 0x5a);
  memset(page[1], 0, 4096);
  CHECK(faults(rep_stosq, C - 20, 7, 5, C, 2, C - 4, 7, 3));
  CHECK(page[1][4091] == 0x5a && page[1][4092] == 0);
  // The source ends there.
  CHECK(faults(rep_movsq, A, C - 24, 10, C, 0, A + 24, C, 7));
  CHECK(faults(rep_movsq, A, C - 20, 10, C, 0, A + 16, C - 4, 8));
  CHECK(faults(rep_lodsb, 1, C - 3, 10, C, 0, 1, C, 7));
  CHECK(faults(repe_cmpsb, A, A, 9000, C, 0, C, C, 9000 - 8192));
  memset(page[1], 1, 4096);
  CHECK(faults(repne_scasb, B, 3, ~0ul, C, 0, C, 3, ~0ul - 4096));
  // A read-only page; the error code says it is there.
  map(2, 1);
  CHECK(faults(rep_movsb, C - 1, A, 10, C, 3, C, A + 1, 9));
  map(2, 0);
  // Backwards.
  CHECK(faults(back_movsb, D + 9, A + 500, 100, C + 4095, 2, C + 4095, A + 490, 90));
  CHECK(faults(back_stosq, D + 16, 7, 100, C + 4088, 2, D - 8, 7, 97));
  // After the page is brought in the instruction goes on: here in the handler.
  on(14, [](Frame&) { pt[2] |= 7; });
  pt[2] = reinterpret_cast<u64>(page[2]);
  write_cr3(read_cr3());
  memset(page[1], 0x11, 4096);
  di = B;
  cx = 3 * 4096;
  rep_stosb();
  CHECK(page[1][0] == 0x5a && page[2][0] == 0x5a && page[2][4095] == 0x5a && page[3][4095] == 0x5a);
  on(14, on_page_fault);

  // A count of 0 touches nothing; 32-bit addresses clear the upper halves, if anything is done.
  map(2, 0);
  di = C;
  si = C;
  cx = 0;
  last.vector = 0;
  CHECK_FINE(attempt([] { rep_movsb(); }));
  CHECK(last.vector == 0);
  u64 d = 0xffffffff00000000 | static_cast<u32>(reinterpret_cast<uptr>(page[3]));
  u64 c = 0xabcdef0100000003;
  asm volatile("addr32 rep stosb" : "+D"(d), "+c"(c) : "a"(0x77) : "memory");
  CHECK(d == static_cast<u32>(reinterpret_cast<uptr>(page[3])) + 3 && c == 0);
  CHECK(page[3][2] == 0x77 && page[3][3] == 0x5a);
  // Overlap: each element sees what the one before has written.
  memcpy(page[0], "abc", 3);
  u8 *to = page[0] + 3, *from = page[0];
  u64 n = 3000;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
  for (u32 i = 0; i < 3003; ++i)
    if (page[0][i] != "abc"[i % 3]) {
      CHECK(!"a pattern");
      break;
    }
  // The same through two addresses of one page.
  pt[1] = reinterpret_cast<u64>(page[0]) | 7;
  write_cr3(read_cr3());
  memcpy(page[0], "xy", 2);
  to = reinterpret_cast<u8*>(B) + 2;
  from = reinterpret_cast<u8*>(A);
  n = 1000;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
  CHECK(page[0][1001] == 'y' && page[0][1000] == 'x');
  // Segment override of the source.
  wrmsr(0xc0000100, reinterpret_cast<u64>(page[3]));
  to = page[0];
  from = nullptr;
  n = 3;
  asm volatile("rep movsb %%fs:(%%rsi), (%%rdi)" : "+D"(to), "+S"(from), "+c"(n)::"memory");
  CHECK(page[0][0] == 0x77 && page[0][2] == 0x77);
  return 0;
}
