// MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS with their repeat prefixes (SDM 2A REP).
//
// Registers are updated after every element, so that a fault or interruption leaves rCX, rSI, rDI
// where the next element starts. A repeated instruction gives way (Flow::branch without moving RIP)
// when somebody wants the vCPU's attention and after a bounded number of elements.
//
// All but INS and OUTS work on host memory a page at a time where the TLBs allow; comparisons only
// forwards. What another vCPU stores meanwhile may be seen or not, element by element, as on a
// processor.
#include <emmintrin.h>

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

/// Host memory of `size` bytes at segment:offset, all within one page; null if it is not plain.
template <bool kWrite>
u8* host_range(const Cpu& cpu, u8 segment, u64 offset, u64 size) {
  u8* first = fast<1, kWrite>(cpu, segment, offset);
  u8* last = fast<1, kWrite>(cpu, segment, offset + size - 1);
  return first && last == first + size - 1 ? first : nullptr;
}
/// The offset or the elements after it wrap around the address size.
template <class A>
bool wraps(u64 offset, u64 size) {
  return size - 1 > static_cast<u64>(static_cast<A>(~A{0})) - offset;
}

/// The elements that one step of a repeated instruction takes at once, ending or beginning at
/// rSI or rDI by the direction.
template <class T, class A>
struct Run {
  u64 count = 0;  ///< 0: none
  u64 low = 0;    ///< offset of the lowest byte
  u64 size() const { return count * sizeof(T); }

  /// At most `most` elements from `offset` on, within one page.
  Run(const Cpu& cpu, u8 segment, u64 offset, u64 most, bool forward) : low(offset) {
    const u64 in_page = (cpu.seg_base[segment] + offset) & (kPage - 1);
    if (forward) {
      count = std::min(most, (kPage - in_page) / sizeof(T));
    } else if (in_page + sizeof(T) <= kPage) {
      count = std::min({most, in_page / sizeof(T) + 1, offset / sizeof(T) + 1});
    }
    limit(offset, forward);
  }
  /// The same for fewer elements.
  void limit(u64 offset, bool forward) {
    low = forward || count == 0 ? offset : offset - (count - 1) * sizeof(T);
    if (count != 0 && wraps<A>(low, size())) count = 0;
  }
};
template <class T, class A>
void match(Run<T, A>& a, u64 a_offset, Run<T, A>& b, u64 b_offset, bool forward) {
  a.count = b.count = std::min(a.count, b.count);
  a.limit(a_offset, forward);
  b.limit(b_offset, forward);
  a.count = b.count = std::min(a.count, b.count);
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

template <class T>
void copy_backward(u8* to, const u8* from, u64 size) {
  u64 ahead = static_cast<u64>(from - to);
  if (ahead >= size) {
    std::memmove(to, from, size);
    return;
  }
  for (u64 i = size; i != 0;) {
    i -= sizeof(T);
    T v = load<T>(from + i);
    store<T>(to + i, v);
    asm volatile("" ::: "memory");
  }
}

// Each: bulk<T, A, kWhileEqual>(String, cpu, op, count, forward). kWhileEqual: what comparisons go
// on for.

template <class T, class A, bool>
u64 bulk(Movs, Cpu& cpu, const Op& op, u64 count, bool forward) {
  const u64 from = reg<A>(cpu, rsi), to = reg<A>(cpu, rdi);
  Run<T, A> s(cpu, op.segment, from, count, forward), d(cpu, es, to, count, forward);
  match(s, from, d, to, forward);
  if (d.count == 0) return 0;
  const u64 size = d.size();
  const u8* source = host_range<false>(cpu, op.segment, s.low, size);
  u8* target = host_range<true>(cpu, es, d.low, size);
  if (!source || !target) return 0;
  if (forward)
    copy_forward<T>(target, source, size);
  else
    copy_backward<T>(target, source, size);
  advance<A>(cpu, rsi, forward ? size : -size);
  advance<A>(cpu, rdi, forward ? size : -size);
  return d.count;
}
template <class T, class A, bool>
u64 bulk(Stos, Cpu& cpu, const Op&, u64 count, bool forward) {
  const u64 to = reg<A>(cpu, rdi);
  Run<T, A> d(cpu, es, to, count, forward);
  if (d.count == 0) return 0;
  const u64 size = d.size();
  u8* target = host_range<true>(cpu, es, d.low, size);
  if (!target) return 0;
  T v = reg<T>(cpu, machine::rax);
  if constexpr (sizeof(T) == 1)
    std::memset(target, v, size);
  else
    for (u64 i = 0; i < size; i += sizeof(T)) store<T>(target + i, v);
  advance<A>(cpu, rdi, forward ? size : -size);
  return d.count;
}
/// Only the last element shows.
template <class T, class A, bool>
u64 bulk(Lods, Cpu& cpu, const Op& op, u64 count, bool forward) {
  const u64 from = reg<A>(cpu, rsi);
  Run<T, A> s(cpu, op.segment, from, count, forward);
  if (s.count == 0) return 0;
  const u8* source = host_range<false>(cpu, op.segment, s.low, s.size());
  if (!source) return 0;
  set_reg<T>(cpu, machine::rax, load<T>(forward ? source + s.size() - sizeof(T) : source));
  advance<A>(cpu, rsi, forward ? s.size() : -s.size());
  return s.count;
}

template <class T>
__m128i equal(__m128i a, __m128i b) {
  if constexpr (sizeof(T) == 1) return _mm_cmpeq_epi8(a, b);
  if constexpr (sizeof(T) == 2) return _mm_cmpeq_epi16(a, b);
  __m128i e = _mm_cmpeq_epi32(a, b);
  if constexpr (sizeof(T) == 4) return e;
  return _mm_and_si128(e, _mm_shuffle_epi32(e, 0xb1));
}
/// The first of `count` elements that ends the repetition, or the last one. `kFixed`: b is one
/// vector of 16 bytes for all.
template <class T, bool kWhileEqual, bool kFixed>
u64 first_stop(const u8* a, const u8* b, u64 count) {
  auto vector = [](const u8* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  auto stops = [](__m128i equals) {  // a bit for each byte of an element that ends it
    u32 mask = static_cast<u32>(_mm_movemask_epi8(equals));
    return kWhileEqual ? mask ^ 0xffff : mask;
  };
  const u64 size = count * sizeof(T);
  u64 at = 0;
  auto compare = [&](u64 i) { return equal<T>(vector(a + i), vector(kFixed ? b : b + i)); };
  auto together = [](__m128i x, __m128i y) {
    return kWhileEqual ? _mm_and_si128(x, y) : _mm_or_si128(x, y);
  };
  for (; at + 64 <= size; at += 64)
    if (stops(together(together(compare(at), compare(at + 16)),
                       together(compare(at + 32), compare(at + 48)))))
      break;
  for (; at + 16 <= size; at += 16)
    if (u32 mask = stops(compare(at)))
      return (at + static_cast<u64>(__builtin_ctz(mask))) / sizeof(T);
  for (; at + sizeof(T) < size; at += sizeof(T))
    if ((load<T>(a + at) == load<T>(kFixed ? b : b + at)) != kWhileEqual) break;
  return std::min(at / sizeof(T), count - 1);
}
template <class T, class A, bool kWhileEqual>
u64 bulk(Cmps, Cpu& cpu, const Op& op, u64 count, bool forward) {
  if (!forward) return 0;
  const u64 first = reg<A>(cpu, rsi), second = reg<A>(cpu, rdi);
  Run<T, A> s(cpu, op.segment, first, count, true), d(cpu, es, second, count, true);
  match(s, first, d, second, true);
  if (d.count == 0) return 0;
  const u8* a = host_range<false>(cpu, op.segment, first, s.size());
  const u8* b = host_range<false>(cpu, es, second, d.size());
  if (!a || !b) return 0;
  const u64 n = first_stop<T, kWhileEqual, false>(a, b, d.count);
  const T x = load<T>(a + n * sizeof(T)), y = load<T>(b + n * sizeof(T));
  Cmp::flags<T>(cpu.flags, x, y, static_cast<T>(x - y));
  advance<A>(cpu, rsi, (n + 1) * sizeof(T));
  advance<A>(cpu, rdi, (n + 1) * sizeof(T));
  return n + 1;
}
template <class T, class A, bool kWhileEqual>
u64 bulk(Scas, Cpu& cpu, const Op&, u64 count, bool forward) {
  if (!forward) return 0;
  Run<T, A> d(cpu, es, reg<A>(cpu, rdi), count, true);
  if (d.count == 0) return 0;
  const u8* at = host_range<false>(cpu, es, d.low, d.size());
  if (!at) return 0;
  const T x = reg<T>(cpu, machine::rax);
  T wanted[16 / sizeof(T)];
  std::fill(std::begin(wanted), std::end(wanted), x);
  const u64 n = first_stop<T, kWhileEqual, true>(at, reinterpret_cast<const u8*>(wanted), d.count);
  const T y = load<T>(at + n * sizeof(T));
  Cmp::flags<T>(cpu.flags, x, y, static_cast<T>(x - y));
  advance<A>(cpu, rdi, (n + 1) * sizeof(T));
  return n + 1;
}
template <class T, class A, bool, class Other>
u64 bulk(Other, Cpu&, const Op&, u64, bool) {
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
  const bool forward = !(cpu.rflags & DF_);
  while (left != 0) {
    if (!cpu.interrupted()) {
      if (u64 n = bulk<T, A, kWhileEqual>(String{}, cpu, op, left, forward)) {
        left -= n;
        set_reg<A>(cpu, rcx, static_cast<A>(left));
        if constexpr (String::kCompares)
          if (zf(cpu.flags) != kWhileEqual) return Flow::next;
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
