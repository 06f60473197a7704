// Software TLBs: linear page -> host memory, one table per kind of access and privilege.
//
// An entry exists only for pages that need no further look: RAM, permission granted, accessed (and,
// for writes, dirty) bits set, dirty-log bit set, no decoded code in the page (writes), no data
// breakpoint in it. So presence is permission and the fast path is one subtraction and one
// comparison, which also catches accesses that leave the page. Everything else goes to mmu.cpp.
//
// Invalidation: by page (INVLPG), all but global pages (CR3), all. Large guest pages are held as 4
// KiB entries; two small sets remember which large regions were ever filled. Owned by one vCPU
// thread.
#pragma once

#include <array>

#include "base/types.hpp"

namespace skerry::soft {

struct TlbEntry {
  u64 page;  ///< linear address of the page; of an impossible index if empty
  u64 bias;  ///< host address - linear address
};

struct Tlb {
  static constexpr u32 kEntries = 1024;
  static u32 index(u64 linear) { return (linear >> 12) & (kEntries - 1); }

  Tlb() { clear(); }
  void clear() {
    for (u32 i = 0; i < kEntries; ++i) entry[i] = {empty(i), 0};
    used = 0;
  }
  void drop(u32 i) { entry[i].page = empty(i); }
  /// The page of an address whose index differs by half the table is never within a page of it.
  static u64 empty(u32 i) { return u64{i ^ (kEntries / 2)} << 12; }

  void fill(u64 linear, u64 host_page, bool is_global) {
    u32 i = index(linear);
    u64 page = linear & ~u64{0xfff};
    entry[i] = {page, host_page - page};
    global[i] = is_global;
    if (is_global || used > kEntries) return;
    if (used < kEntries) filled[used] = static_cast<u16>(i);
    ++used;
  }
  void flush_nonglobal() {
    if (used > kEntries) {
      for (u32 i = 0; i < kEntries; ++i)
        if (!global[i]) drop(i);
    } else {
      for (u32 k = 0; k < used; ++k)
        if (!global[filled[k]]) drop(filled[k]);
    }
    used = 0;
  }
  void flush_page(u64 linear) {
    u32 i = index(linear);
    if (entry[i].page == (linear & ~u64{0xfff})) drop(i);
  }
  void flush_host_page(u64 host_page) {
    for (u32 i = 0; i < kEntries; ++i)
      if (entry[i].page + entry[i].bias == host_page && entry[i].bias != 0) drop(i);
  }

  std::array<TlbEntry, kEntries> entry;
  std::array<bool, kEntries> global{};
  /// Indices filled since the last flush, so that a flush costs what was used; used > kEntries:
  /// all.
  std::array<u16, kEntries> filled{};
  u32 used = 0;
};

/// Where instruction bytes come from: linear page -> guest-physical page.
struct FetchTlb {
  static constexpr u32 kEntries = 256;
  struct Entry {
    u64 page;  ///< linear; 1 (no page address) if empty
    u64 gpa;
    bool global;
  };
  FetchTlb() { clear(); }
  void clear() {
    for (Entry& e : entry) e = {1, 0, false};
  }
  void flush_nonglobal() {
    for (Entry& e : entry)
      if (!e.global) e.page = 1;
  }
  static u32 index(u64 linear) { return (linear >> 12) & (kEntries - 1); }
  std::array<Entry, kEntries> entry;
};

struct Tlbs {
  struct Context {
    Tlb read, write;
    FetchTlb fetch;
    u8 id = 0;
  };
  Tlbs() { supervisor.id = 1, supervisor_ac.id = 2; }
  /// User; supervisor with SMAP in force; supervisor allowed to touch user pages (no SMAP, or AC =
  /// 1).
  Context user, supervisor, supervisor_ac;
  Tlb none;  ///< always empty: while alignment is checked every access takes the slow path

  // What CPL, CR4.SMAP and EFLAGS.AC select (Cpu::select_tlb).
  Tlb* read = &supervisor_ac.read;
  Tlb* write = &supervisor_ac.write;
  Context* context = &supervisor_ac;

  /// Changes with every flush; with the context it says under which translations code was found.
  u64 fetch_epoch = 0;
  u64 fetch_key() const { return fetch_epoch * 4 + context->id; }

  /// Which regions were mapped by large pages since flush_all; false positives only cost time.
  struct RegionSet {
    std::array<u64, 64> words{};
    static u32 hash(u64 region) { return static_cast<u32>((region * 0x9e3779b97f4a7c15) >> 52); }
    void add(u64 region) { words[hash(region) / 64] |= u64{1} << (hash(region) % 64); }
    bool maybe(u64 region) const { return (words[hash(region) / 64] >> (hash(region) % 64)) & 1; }
  };
  RegionSet large_2m, large_1g;
  void note_large(u64 linear, unsigned shift) {
    if (shift >= 30)
      large_1g.add(linear >> 30);
    else
      large_2m.add(linear >> 21);
    if (shift == 22) large_2m.add((linear >> 21) ^ 1);
  }
  template <class F>
  void each(F f) {
    for (Context* c : {&user, &supervisor, &supervisor_ac}) f(*c);
  }
  void flush_all();
  void flush_nonglobal();
  void flush_page(u64 linear);
  void flush_writes();                    ///< dirty log taken
  void flush_host_writes(u64 host_page);  ///< the page holds code now
};

}  // namespace skerry::soft
