// The inline half of guest memory access: segmentation, TLB lookup, and the access itself. Whatever
// is not a plain hit goes to mmu.cpp. Included by every file with handlers.
//
// Atomicity: aligned loads and stores are single host accesses. Locked operations within a page are
// host LOCK operations; those that cross a page (or touch a device) hold one process-wide mutex, so
// they are atomic towards each other but not towards plain stores of other vCPUs in the middle of
// them.
#pragma once

#include <cstring>

#include "engine/soft/cpu.hpp"

namespace skerry::soft {

/// A memory operand after translation: at most two pages.
struct Cpu::Access {
  struct Piece {
    u64 gpa = 0;
    u8* host = nullptr;  ///< null: a device (or ROM, for a store)
    u64 offset = 0;      ///< in the memfd, if host; kPlain: nothing to do after a store
    u32 size = 0;
    static constexpr u64 kPlain = ~u64{0};
  };
  Piece piece[2];
  u8 pieces = 0;
  bool write = false;
};

/// Linear address of segment:offset if [offset, offset + size) may be accessed; else false (the
/// slow path raises the fault).
template <u32 kSize, bool kWrite>
[[gnu::always_inline]] inline bool linearize(const Cpu& cpu, u8 segment, u64 offset, u64& linear) {
  if (__builtin_expect(cpu.flat, 1)) {
    linear = cpu.seg_base[segment] + offset;
    return true;
  }
  const Reach& r = cpu.reach[segment];
  u64 end = kWrite ? r.write_end : r.read_end;
  linear = static_cast<u32>(cpu.seg_base[segment] + offset);
  return offset >= r.lo && offset + kSize <= end;
}

/// The host address of a TLB hit, or null.
template <u32 kSize, bool kWrite>
[[gnu::always_inline]] inline u8* fast(const Cpu& cpu, u8 segment, u64 offset) {
  u64 linear;
  if (__builtin_expect(!linearize<kSize, kWrite>(cpu, segment, offset, linear), 0)) return nullptr;
  const TlbEntry& e = cpu.tlb.current->entry[Instance::index(linear)];
  if (__builtin_expect(linear - (kWrite ? e.write : e.read) > 4096 - kSize, 0)) return nullptr;
  return reinterpret_cast<u8*>(linear + e.bias);
}

template <class T>
[[gnu::always_inline]] inline bool Cpu::read(u8 segment, u64 offset, T& value) {
  if (const u8* p = fast<sizeof(T), false>(*this, segment, offset)) [[likely]] {
    std::memcpy(&value, p, sizeof(T));
    return true;
  }
  return read_slow(segment, offset, &value, sizeof(T));
}

template <class T>
[[gnu::always_inline]] inline bool Cpu::write(u8 segment, u64 offset, T value) {
  if (u8* p = fast<sizeof(T), true>(*this, segment, offset)) [[likely]] {
    std::memcpy(p, &value, sizeof(T));
    return true;
  }
  return write_slow(segment, offset, &value, sizeof(T));
}

namespace detail {

/// Compare-and-exchange on the host's memory at any alignment (split locks are the host's
/// business). `expected` becomes what was found.
template <class T>
[[gnu::always_inline]] inline bool host_cas(u8* p, T& expected, T desired) {
  bool done;
  if constexpr (sizeof(T) == 16) {
    u64 low = static_cast<u64>(expected), high = static_cast<u64>(expected >> 64);
    // CMPXCHG16B faults on misaligned operands; the guest's own instruction does so too, earlier.
    asm volatile("lock cmpxchg16b %[m]"
                 : [m] "+m"(*reinterpret_cast<u128*>(p)), "+a"(low), "+d"(high), "=@ccz"(done)
                 : "b"(static_cast<u64>(desired)), "c"(static_cast<u64>(desired >> 64))
                 : "memory");
    expected = (static_cast<u128>(high) << 64) | low;
  } else {
    typedef T Unaligned __attribute__((aligned(1), may_alias));
    asm volatile("lock cmpxchg %[n], %[m]"
                 : [m] "+m"(*reinterpret_cast<Unaligned*>(p)), "+a"(expected), "=@ccz"(done)
                 : [n] "r"(desired)
                 : "memory");
  }
  return done;
}

template <class T, class F>
[[gnu::always_inline]] inline void host_modify(u8* p, bool locked, F& f) {
  T old;
  std::memcpy(&old, p, sizeof(T));
  if (!locked) {
    T value = f(old);
    std::memcpy(p, &value, sizeof(T));
    return;
  }
  while (!host_cas<T>(p, old, f(old))) {
  }
}

template <class T, class F>
[[gnu::noinline]] bool modify_slow(Cpu& cpu, u8 segment, u64 offset, bool locked, F& f) {
  Cpu::Access a;
  if (!cpu.prepare(a, segment, offset, sizeof(T), true)) return false;
  bool aligned = sizeof(T) < 16 || a.piece[0].gpa % 16 == 0;
  if (a.pieces == 1 && a.piece[0].host && aligned) {
    host_modify<T>(a.piece[0].host, locked, f);
    cpu.stored(a);
    return true;
  }
  if (locked) Cpu::split_lock(true);
  T value;
  bool ok = cpu.load_from(a, &value);
  if (ok) {
    value = f(value);
    ok = cpu.store_to(a, &value);
  }
  if (locked) Cpu::split_lock(false);
  return ok;
}

}  // namespace detail

template <class T, class F>
[[gnu::always_inline]] inline bool Cpu::modify(u8 segment, u64 offset, bool locked, F f) {
  u8* p = fast<sizeof(T), true>(*this, segment, offset);
  if (sizeof(T) == 16 && (reinterpret_cast<u64>(p) & 15)) p = nullptr;
  if (p) [[likely]] {
    detail::host_modify<T>(p, locked, f);
    return true;
  }
  return detail::modify_slow<T>(*this, segment, offset, locked, f);
}

template <class T>
inline bool Cpu::system_read(u64 linear, T& value) {
  Access a;
  return prepare_linear(a, linear, sizeof(T), false, true) && load_from(a, &value);
}
template <class T>
inline bool Cpu::system_write(u64 linear, T value) {
  Access a;
  return prepare_linear(a, linear, sizeof(T), true, true) && store_to(a, &value);
}

inline u64 stack_mask(const Cpu& cpu) {
  return cpu.stack_size == 8 ? ~u64{0} : cpu.stack_size == 4 ? 0xffffffff : 0xffff;
}

inline void Cpu::set_sp(u64 value) {
  u64& sp = gpr[machine::rsp];
  if (stack_size == 8) [[likely]]
    sp = value;
  else if (stack_size == 4)
    sp = static_cast<u32>(value);
  else
    sp = (sp & ~u64{0xffff}) | (value & 0xffff);
}

inline bool Cpu::push(u64 value, u8 size) {
  u64 sp = (gpr[machine::rsp] - size) & stack_mask(*this);
  bool ok = size == 8   ? write<u64>(machine::ss, sp, value)
            : size == 4 ? write<u32>(machine::ss, sp, static_cast<u32>(value))
                        : write<u16>(machine::ss, sp, static_cast<u16>(value));
  if (ok) [[likely]]
    set_sp(sp);
  return ok;
}

inline bool Cpu::pop(u64& value, u8 size) {
  u64 sp = gpr[machine::rsp] & stack_mask(*this);
  bool ok;
  if (size == 8) {
    ok = read<u64>(machine::ss, sp, value);
  } else if (size == 4) {
    u32 v = 0;
    ok = read<u32>(machine::ss, sp, v);
    if (ok) value = v;
  } else {
    u16 v = 0;
    ok = read<u16>(machine::ss, sp, v);
    if (ok) value = v;
  }
  if (ok) [[likely]]
    set_sp(sp + size);
  return ok;
}

}  // namespace skerry::soft
