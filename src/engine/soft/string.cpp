// MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS with their repeat prefixes (SDM 2A REP).
//
// Registers are updated after every element, so that a fault or interruption leaves rCX, rSI, rDI
// where the next element starts. A repeated instruction gives way (Flow::branch without moving RIP)
// when somebody wants the vCPU's attention and after a bounded number of elements.
//
// Forward MOVS and STOS work on host memory a page at a time where the TLBs allow.
#include "engine/soft/core.hpp"
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;
using machine::es;
using machine::rcx;
using machine::rdi;
using machine::rsi;

constexpr u32 kBudget = 4096;  ///< elements one by one
constexpr u32 kPages = 16;     ///< pages by the page
constexpr u32 kPage = 4096;

template <class T>
[[gnu::always_inline]] inline u64 step(const Cpu& cpu) {
  return cpu.rflags & DF_ ? -u64{sizeof(T)} : u64{sizeof(T)};
}
/// A: the address size.
template <class A>
[[gnu::always_inline]] inline void advance(Cpu& cpu, u8 number, u64 by) {
  set_reg<A>(cpu, number, static_cast<A>(cpu.gpr[number] + by));
}

// ---- one element: false if it faulted. Comparisons leave the flags in cpu.flags.

struct Movs {
  static constexpr bool kCompares = false;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op& op) {
    T v;
    if (!cpu.read<T>(op.segment, reg<A>(cpu, rsi), v) || !cpu.write<T>(es, reg<A>(cpu, rdi), v))
      return false;
    advance<A>(cpu, rsi, step<T>(cpu));
    advance<A>(cpu, rdi, step<T>(cpu));
    return true;
  }
};
struct Stos {
  static constexpr bool kCompares = false;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op&) {
    if (!cpu.write<T>(es, reg<A>(cpu, rdi), reg<T>(cpu, machine::rax))) return false;
    advance<A>(cpu, rdi, step<T>(cpu));
    return true;
  }
};
struct Lods {
  static constexpr bool kCompares = false;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op& op) {
    T v;
    if (!cpu.read<T>(op.segment, reg<A>(cpu, rsi), v)) return false;
    set_reg<T>(cpu, machine::rax, v);
    advance<A>(cpu, rsi, step<T>(cpu));
    return true;
  }
};
struct Cmps {
  static constexpr bool kCompares = true;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op& op) {
    T a, b;
    if (!cpu.read<T>(op.segment, reg<A>(cpu, rsi), a) || !cpu.read<T>(es, reg<A>(cpu, rdi), b))
      return false;
    Cmp::flags<T>(cpu.flags, a, b, static_cast<T>(a - b));
    advance<A>(cpu, rsi, step<T>(cpu));
    advance<A>(cpu, rdi, step<T>(cpu));
    return true;
  }
};
struct Scas {
  static constexpr bool kCompares = true;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op&) {
    T a = reg<T>(cpu, machine::rax), b;
    if (!cpu.read<T>(es, reg<A>(cpu, rdi), b)) return false;
    Cmp::flags<T>(cpu.flags, a, b, static_cast<T>(a - b));
    advance<A>(cpu, rdi, step<T>(cpu));
    return true;
  }
};
/// The destination must be writable before the port is read: reading may change the device.
struct Ins {
  static constexpr bool kCompares = false;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op&) {
    u32 v = 0;
    u64 at = reg<A>(cpu, rdi);
    if (!cpu.probe_write(es, at, sizeof(T)) ||
        !cpu.port_in(reg<u16>(cpu, machine::rdx), sizeof(T), v) ||
        !cpu.write<T>(es, at, static_cast<T>(v)))
      return false;
    advance<A>(cpu, rdi, step<T>(cpu));
    return true;
  }
};
struct Outs {
  static constexpr bool kCompares = false;
  template <class T, class A>
  static bool once(Cpu& cpu, const Op& op) {
    T v;
    if (!cpu.read<T>(op.segment, reg<A>(cpu, rsi), v) ||
        !cpu.port_out(reg<u16>(cpu, machine::rdx), sizeof(T), v))
      return false;
    advance<A>(cpu, rsi, step<T>(cpu));
    return true;
  }
};

// ---- by the page: how many elements could be done at once, 0 if the next one must go alone

/// Whole elements from `offset` to the end of its page, at most `count`.
template <class T>
u64 in_page(const Cpu& cpu, u8 segment, u64 offset, u64 count) {
  u64 room = kPage - ((cpu.seg_base[segment] + offset) & (kPage - 1));
  return std::min(count, room / sizeof(T));
}
/// Host memory of `size` bytes at segment:offset, all within one page; null if it is not plain.
template <bool kWrite>
u8* host_range(const Cpu& cpu, u8 segment, u64 offset, u64 size) {
  u8* first = fast<1, kWrite>(cpu, segment, offset);
  u8* last = fast<1, kWrite>(cpu, segment, offset + size - 1);
  return first && last == first + size - 1 ? first : nullptr;
}
/// Neither the offset nor the elements after it wrap around the address size.
template <class A>
bool wraps(u64 offset, u64 size) {
  return size - 1 > static_cast<u64>(static_cast<A>(~A{0})) - offset;
}

/// As the processor copies: element after element, so an overlapping destination repeats a pattern.
template <class T>
void copy_forward(u8* to, const u8* from, u64 size) {
  u64 ahead = static_cast<u64>(to - from);
  if (ahead >= size) {  // destination before, or clear of, the source
    std::memmove(to, from, size);
    return;
  }
  for (u64 i = 0; i < size; i += sizeof(T)) {
    T v = load<T>(from + i);
    store<T>(to + i, v);
    asm volatile("" ::: "memory");  // not to become one memmove
  }
}

template <class T, class A>
u64 bulk(Movs, Cpu& cpu, const Op& op, u64 count) {
  u64 from = reg<A>(cpu, rsi), to = reg<A>(cpu, rdi);
  u64 n = in_page<T>(cpu, es, to, in_page<T>(cpu, op.segment, from, count));
  u64 size = n * sizeof(T);
  if (n == 0 || wraps<A>(from, size) || wraps<A>(to, size)) return 0;
  const u8* source = host_range<false>(cpu, op.segment, from, size);
  u8* target = host_range<true>(cpu, es, to, size);
  if (!source || !target) return 0;
  copy_forward<T>(target, source, size);
  advance<A>(cpu, rsi, size);
  advance<A>(cpu, rdi, size);
  return n;
}
template <class T, class A>
u64 bulk(Stos, Cpu& cpu, const Op&, u64 count) {
  u64 to = reg<A>(cpu, rdi), n = in_page<T>(cpu, es, to, count), size = n * sizeof(T);
  if (n == 0 || wraps<A>(to, size)) return 0;
  u8* target = host_range<true>(cpu, es, to, size);
  if (!target) return 0;
  T v = reg<T>(cpu, machine::rax);
  if constexpr (sizeof(T) == 1)
    std::memset(target, v, size);
  else
    for (u64 i = 0; i < size; i += sizeof(T)) store<T>(target + i, v);
  advance<A>(cpu, rdi, size);
  return n;
}
template <class T, class A, class Other>
u64 bulk(Other, Cpu&, const Op&, u64) {
  return 0;
}

// ---- repetition

template <class String, class T, class A>
Flow single(Cpu& cpu, const Op& op) {
  return String::template once<T, A>(cpu, op) ? Flow::next : cpu.failed();
}

/// The rest comes later: only then has the instruction been executed.
Flow give_way(Cpu& cpu) {
  if (!cpu.core) return Flow::branch;  // a test of one handler
  --cpu.core->instructions;
  cpu.core->mid_repeat = true;
  return Flow::branch;
}

/// F3 and F2 mean the same unless the instruction compares.
template <class String, class T, class A, bool kWhileEqual>
Flow repeated(Cpu& cpu, const Op& op) {
  u64 left = reg<A>(cpu, rcx);
  u32 budget = kBudget, pages = kPages;
  bool forward = !(cpu.rflags & DF_);
  while (left != 0) {
    if (forward && !cpu.interrupted()) {
      if (u64 n = bulk<T, A>(String{}, cpu, op, left)) {
        left -= n;
        set_reg<A>(cpu, rcx, static_cast<A>(left));
        if (left != 0 && --pages == 0) return give_way(cpu);
        continue;
      }
    }
    if (!String::template once<T, A>(cpu, op)) return cpu.failed();
    set_reg<A>(cpu, rcx, static_cast<A>(--left));
    cpu.element_done();
    if constexpr (String::kCompares)
      if (zf(cpu.flags) != kWhileEqual) return Flow::next;
    if (left != 0 && (--budget == 0 || cpu.interrupted())) return give_way(cpu);
  }
  return Flow::next;
}

template <class String, class T, class A>
Handler by_prefix(const Insn& i) {
  if (i.repne && String::kCompares) return repeated<String, T, A, false>;
  if (i.rep || i.repne) return repeated<String, T, A, true>;
  return single<String, T, A>;
}
template <class String, class T>
Handler by_address(const Insn& i) {
  switch (i.addrsize) {
    case 2: return by_prefix<String, T, u16>(i);
    case 4: return by_prefix<String, T, u32>(i);
    default: return by_prefix<String, T, u64>(i);
  }
}
template <class String>
Handler by_element(const Insn& i) {
  return by_size(i.opsize, [&]<class T>() -> Handler { return by_address<String, T>(i); });
}
/// Ports have no 64-bit elements.
template <class String>
Handler by_port_element(const Insn& i) {
  switch (i.opsize) {
    case 1: return by_address<String, u8>(i);
    case 2: return by_address<String, u16>(i);
    default: return by_address<String, u32>(i);
  }
}

}  // namespace

Handler select_string(const Insn& i) {
  switch (i.sem) {
    case Sem::movs: return by_element<Movs>(i);
    case Sem::cmps: return by_element<Cmps>(i);
    case Sem::stos: return by_element<Stos>(i);
    case Sem::lods: return by_element<Lods>(i);
    case Sem::scas: return by_element<Scas>(i);
    case Sem::ins: return by_port_element<Ins>(i);
    case Sem::outs: return by_port_element<Outs>(i);
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
