// The little that a bare-metal test needs: descriptors, exceptions that can be caught, text on the
// debug console and COM1, and the exit code. One test is one image: tests/baremetal/NAME.cpp with a
// main() that CHECKs; it runs on the bare machine in 64-bit mode (32-bit protected mode if its name
// ends in 32), ring 0, interrupts off.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using uptr = unsigned long;
#ifdef __x86_64__
constexpr bool k64 = true;
#else
constexpr bool k64 = false;
#endif

// ---- selectors
enum Selector : u16 {
  kCode = 0x08,
  kData = 0x10,
  kCode32 = 0x18,      ///< 64-bit kit: compatibility mode, ring 0
  kUserCode32 = 0x23,  ///< SYSRET wants 32-bit code, data, 64-bit code in this order
  kUserData = 0x2b,
  kUserCode64 = 0x33,
  kTss = 0x38,    ///< two entries in the 64-bit kit
  kSpare = 0x48,  ///< the test's own from here
};
constexpr u16 kUserCode = k64 ? kUserCode64 : kUserCode32;
extern "C" u64 gdt[32];
/// A descriptor; `access` is type, S, DPL, P; `flags` the upper nibble G, D/B, L, AVL.
constexpr u64 descriptor(u32 base, u32 limit, u8 access, u8 flags) {
  return (u64{limit & 0xffff}) | (u64{base & 0xffffff} << 16) | (u64{access} << 40) |
         (u64{(limit >> 16) & 15} << 48) | (u64{flags} << 52) | (u64{base >> 24} << 56);
}

struct [[gnu::packed]] Gate {
  u16 low, selector;
  u8 ist, type;
  u16 high;
#ifdef __x86_64__
  u32 upper, reserved;
#endif
};
extern Gate idt[256];
void set_gate(u8 vector, const void* entry, u8 type = 0x8e, u16 selector = kCode, u8 ist = 0);
extern "C" u8 entries[256][16];  ///< the kit's entry for each vector

struct [[gnu::packed]] Tss64 {
  u32 reserved;
  u64 rsp[3], reserved2, ist[7];
  u64 reserved3;
  u16 reserved4, iomap;
  u8 bitmap[8193];
};
struct Tss32 {
  u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
      edi;
  u32 es, cs, ss, ds, fs, gs, ldt;
  u16 trap, iomap;
  u8 bitmap[8193];
};
#ifdef __x86_64__
extern Tss64 tss;
#else
extern Tss32 tss;
#endif

// ---- exceptions
struct Frame {
#ifdef __x86_64__
  u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
#else
  u32 gs, fs, es, ds, rdi, rsi, rbp, unused, rbx, rdx, rcx, rax;
#endif
  uptr vector, error, rip, cs, rflags, rsp, ss;  ///< 32 bits: the last two only from another ring
};
/// Handles `vector` instead of what is below; returns to where it came from.
using Hook = void (*)(Frame&);
void on(u8 vector, Hook hook);

/// What stopped an attempt. vector -1: nothing.
struct Fault {
  int vector = -1;
  uptr error = 0, address = 0, rip = 0, rflags = 0, cs = 0, rsp = 0;
  bool is(int v) const { return vector == v; }
  bool is(int v, uptr e) const { return vector == v && error == e; }
};
extern Fault caught;
extern "C" void attempt_raw(void (*f)(void*), void* context);
#ifdef __x86_64__
extern "C" void attempt_user_raw(void (*f)(void*), void* context, uptr stack, u32 cs, uptr flags);
#else
extern "C" void attempt_user_raw(void (*f)(void*), void* context, uptr stack, u32 cs, uptr flags);
#endif
extern "C" void attempt_v86_raw(const u32 frame[9]);
extern u8 user_stack[16384];

/// Runs f(); an exception ends it.
template <class F>
Fault attempt(F f) {
  caught = Fault{};
  attempt_raw([](void* p) { (*static_cast<F*>(p))(); }, &f);
  return caught;
}
/// The same in ring 3.
template <class F>
Fault attempt_user(F f, uptr flags = 2) {
  caught = Fault{};
  attempt_user_raw([](void* p) { (*static_cast<F*>(p))(); }, &f,
                   reinterpret_cast<uptr>(user_stack + sizeof user_stack - 16), kUserCode, flags);
  return caught;
}

// ---- verdict
/// The word "lenient" is on the kernel command line: where the processor underneath is an emulator
/// with known mistakes (QEMU's TCG, also as the host of the KVM lab), what it gets wrong is left
/// out.
extern bool lenient;
void print(const char* text);
void print_hex(u64 value);
[[noreturn]] void finish(u32 code);
void check_failed(const char* file, int line, const char* what);
void show(const Fault& f);
#define CHECK(condition) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition))
/// CHECK of a Fault, shown if it is another one.
#define CHECK_FAULT(attempted, ...)                                     \
  do {                                                                  \
    Fault fault_ = (attempted);                                         \
    if (!fault_.is(__VA_ARGS__)) {                                      \
      check_failed(__FILE__, __LINE__, #attempted " is " #__VA_ARGS__); \
      show(fault_);                                                     \
    }                                                                   \
  } while (0)
/// CHECK that nothing is raised.
#define CHECK_FINE(attempted) CHECK_FAULT(attempted, -1)

// ---- instructions
#define BARRIER() asm volatile("" ::: "memory")
inline void out8(u16 port, u8 v) {
  asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
inline void out16(u16 port, u16 v) {
  asm volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
inline void out32(u16 port, u32 v) {
  asm volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
inline u8 in8(u16 port) {
  u8 v;
  asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
inline u32 in32(u16 port) {
  u32 v;
  asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
inline u64 rdmsr(u32 n) {
  u32 a, d;
  asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
  return (u64{d} << 32) | a;
}
inline void wrmsr(u32 n, u64 v) {
  asm volatile("wrmsr" ::"a"(static_cast<u32>(v)), "d"(static_cast<u32>(v >> 32)), "c"(n)
               : "memory");
}
inline u64 rdtsc() {
  u32 a, d;
  asm volatile("rdtsc" : "=a"(a), "=d"(d)::"memory");
  return (u64{d} << 32) | a;
}
struct Cpuid {
  u32 a, b, c, d;
};
inline Cpuid cpuid(u32 leaf, u32 sub = 0) {
  Cpuid r;
  asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
  return r;
}
#define CONTROL_REGISTER(name)                               \
  inline uptr read_##name() {                                \
    uptr v;                                                  \
    asm volatile("mov %%" #name ", %0" : "=r"(v)::"memory"); \
    return v;                                                \
  }                                                          \
  inline void write_##name(uptr v) {                         \
    asm volatile("mov %0, %%" #name ::"r"(v) : "memory");    \
  }
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(dr0)
CONTROL_REGISTER(dr1)
CONTROL_REGISTER(dr2)
CONTROL_REGISTER(dr3)
CONTROL_REGISTER(dr6)
CONTROL_REGISTER(dr7)
inline void invlpg(const volatile void* p) {
  asm volatile("invlpg (%0)" ::"r"(p) : "memory");
}
inline void sti() {
  asm volatile("sti" ::: "memory");
}
inline void cli() {
  asm volatile("cli" ::: "memory");
}
inline uptr flags() {
  uptr v;
  asm volatile("pushf\n pop %0" : "=r"(v)::"memory");
  return v;
}
inline void load_tr(u16 s) {
  asm volatile("ltr %0" ::"r"(s) : "memory");
}

template <class T>
T read(uptr at) {
  return *reinterpret_cast<volatile T*>(at);
}
template <class T>
void write(uptr at, T v) {
  *reinterpret_cast<volatile T*>(at) = v;
}

extern "C" void* memcpy(void* to, const void* from, uptr n);
extern "C" void* memset(void* to, int v, uptr n);

int main();
