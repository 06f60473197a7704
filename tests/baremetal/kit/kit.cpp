// See kit.hpp.
#include "kit.hpp"

extern "C" char boot_stack[];
Gate idt[256];
u8 user_stack[16384];
static u8 ring0_stack[16384];
Fault caught;
extern "C" int attempt_armed;
static Hook hooks[256];
static u32 failures;
bool lenient;
extern "C" u32 multiboot_info;

constexpr u8 kFlat = k64 ? 0xa : 0xc;
extern "C" {
u64 gdt[32] = {
    0,
    descriptor(0, 0xfffff, 0x9b, kFlat),
    descriptor(0, 0xfffff, 0x93, 0xc),
    descriptor(0, 0xfffff, 0x9b, 0xc),
    descriptor(0, 0xfffff, 0xfb, 0xc),
    descriptor(0, 0xfffff, 0xf3, 0xc),
    descriptor(0, 0xfffff, 0xfb, 0xa),
};
}
#ifdef __x86_64__
Tss64 tss;
#else
Tss32 tss;
#endif

void* memcpy(void* to, const void* from, uptr n) {
  void* r = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
  return r;
}
void* memset(void* to, int v, uptr n) {
  void* r = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
  return r;
}

void print(const char* text) {
  for (; *text; ++text) {
    out8(0x402, static_cast<u8>(*text));
    out8(0x3f8, static_cast<u8>(*text));
  }
}
void print_hex(u64 value) {
  char text[19] = "0x";
  char* p = text + 2;
  bool begun = false;
  for (int i = 60; i >= 0; i -= 4) {
    unsigned digit = static_cast<unsigned>(value >> i) & 15;
    begun |= digit != 0 || i == 0;
    if (begun) *p++ = "0123456789abcdef"[digit];
  }
  *p = 0;
  print(text);
}
void finish(u32 code) {
  out32(0xf4, code);
  for (;;) asm volatile("cli\n hlt");
}
void check_failed(const char* file, int line, const char* what) {
  const char* name = file;
  for (const char* p = file; *p; ++p)
    if (*p == '/') name = p + 1;
  print(name);
  print(":");
  char digits[12];
  int n = 11;
  digits[n] = 0;
  do digits[--n] = static_cast<char>('0' + line % 10);
  while (line /= 10);
  print(digits + n);
  print(": failed: ");
  print(what);
  print("\n");
  ++failures;
}
void show(const Fault& f) {
  print("  vector ");
  print_hex(static_cast<u32>(f.vector));
  print(" error ");
  print_hex(f.error);
  print(" rip ");
  print_hex(f.rip);
  print(" cr2 ");
  print_hex(f.address);
  print(" rsp ");
  print_hex(f.rsp);
  print("\n");
}

void set_gate(u8 vector, const void* entry, u8 type, u16 selector, u8 ist) {
  uptr at = reinterpret_cast<uptr>(entry);
  Gate& g = idt[vector];
  g = {};
  g.low = static_cast<u16>(at);
  g.high = static_cast<u16>(at >> 16);
#ifdef __x86_64__
  g.upper = static_cast<u32>(at >> 32);
#endif
  g.selector = selector;
  g.type = type;
  g.ist = ist;
}
void on(u8 vector, Hook hook) {
  hooks[vector] = hook;
}

/// Non-zero: the attempt is over.
extern "C" int kit_dispatch(Frame* f) {
  u8 vector = static_cast<u8>(f->vector);
  if (hooks[vector]) {
    hooks[vector](*f);
    return 0;
  }
  caught = {vector,
            f->error,
            vector == 14 ? read_cr2() : 0,
            f->rip,
            f->rflags,
            f->cs,
            k64 || (f->cs & 3) || (f->rflags & 0x20000) ? f->rsp : 0};
  if (attempt_armed) {
    if (vector == 0x80) caught.vector = -1;
    return 1;
  }
  print("unexpected exception\n");
  show(caught);
  finish(2);
}

extern "C" void kit_main() {
  out8(0x21, 0xff);
  out8(0xa1, 0xff);
  for (int v = 0; v < 256; ++v) set_gate(static_cast<u8>(v), entries[v], v == 0x80 ? 0xee : 0x8e);
  struct [[gnu::packed]] {
    u16 limit;
    uptr base;
  } idtr = {sizeof idt - 1, reinterpret_cast<uptr>(idt)};
  asm volatile("lidt %0" ::"m"(idtr));
  uptr at = reinterpret_cast<uptr>(&tss);
  uptr stack = reinterpret_cast<uptr>(ring0_stack + sizeof ring0_stack);
  u32 limit = sizeof tss - 1;
#ifdef __x86_64__
  tss.rsp[0] = stack;
  tss.iomap = 104;
  gdt[kTss / 8 + 1] = 0;
#else
  tss.esp0 = stack;
  tss.ss0 = kData;
  tss.iomap = 104;
#endif
  memset(tss.bitmap, 0xff, sizeof tss.bitmap);
  gdt[kTss / 8] = descriptor(static_cast<u32>(at), limit, 0x89, 0);
  load_tr(kTss);
  auto* info = reinterpret_cast<const u32*>(uptr{multiboot_info});
  if (info[0] & 4)
    for (auto* p = reinterpret_cast<const char*>(uptr{info[4]}); *p; ++p) {
      const char* word = "lenient";
      int n = 0;
      while (word[n] && p[n] == word[n]) ++n;
      if (!word[n]) lenient = true;
    }
  extern void (*init_begin[])(), (*init_end[])();
  for (auto f = init_begin; f != init_end; ++f) (*f)();
  int result = main();
  if (failures == 0 && result == 0) print("ok\n");
  finish(failures == 0 && result == 0 ? 0 : 1);
}
