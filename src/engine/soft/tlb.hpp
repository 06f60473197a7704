// Software TLBs: linear page -> host memory, shared by the interpreter and by translated code.
//
// An entry grants what needs no further look: RAM, permission granted, accessed (and, for writes,
// dirty) bits set, dirty-log bit set, no decoded code in the page (writes), no data breakpoint in
// it. So presence is permission and the fast path is one subtraction and one comparison, which also
// catches accesses that leave the page. Everything else goes to mmu.cpp.
//
// There is one *instance* per address space (PCID) and privilege, so that changing either flushes
// nothing; what supervisors see, mostly global pages, is shared by all address spaces. Each
// instance lies in memory directly behind a view of the same Cpu (room.hpp): translated code
// reaches registers and TLB from one base register, and changing the instance is changing it.
//
// Invalidation: by page (INVLPG), all but global pages (CR3), all. Large guest pages are held as 4
// KiB entries; two small sets remember which large regions were ever filled. Owned by one vCPU
// thread.
#pragma once

#include <array>

#include "base/types.hpp"

namespace skerry::soft {

/// Translated code knows the offsets.
struct TlbEntry {
  u64 read, write;  ///< linear address of the page if it may be; else of an impossible index
  u64 host;         ///< host address of the page
  u64 bias;         ///< host - page
};

/// Where instruction bytes come from: linear page -> guest-physical page.
struct FetchTlb {
  static constexpr u32 kEntries = 1024;
  struct Entry {
    u64 page;        ///< linear
    u64 gpa;         ///< of the page
    u32 generation;  ///< an entry counts if it is the current one
    bool global;
  };
  [[gnu::always_inline]] const Entry* find(u64 linear) const {
    const Entry& e = entry[index(linear)];
    const u32 now = e.global ? global_generation : generation;
    return e.page == (linear & ~u64{0xfff}) && e.generation == now ? &e : nullptr;
  }
  void set(u64 linear, u64 gpa, bool global) {
    entry[index(linear)] = {linear & ~u64{0xfff}, gpa & ~u64{0xfff},
                            global ? global_generation : generation, global};
  }
  void clear() {
    flush_nonglobal();
    if (++global_generation == 0) wipe();
  }
  void flush_nonglobal() {
    if (++generation == 0) wipe();
  }
  void wipe() {
    entry.fill({});
    generation = global_generation = 1;
  }
  static u32 index(u64 linear) { return (linear >> 12) & (kEntries - 1); }
  std::array<Entry, kEntries> entry{};
  u32 generation = 1, global_generation = 1;
};

/// A set of pages or regions; false positives only cost time.
template <unsigned kBits>
struct RegionFilter {
  std::array<u64, (1u << kBits) / 64> words{};
  static u32 hash(u64 region) {
    return static_cast<u32>((region * 0x9e3779b97f4a7c15) >> (64 - kBits));
  }
  void add(u64 region) { words[hash(region) / 64] |= u64{1} << (hash(region) % 64); }
  bool maybe(u64 region) const { return (words[hash(region) / 64] >> (hash(region) % 64)) & 1; }
};

/// Translations of one address space under one privilege.
struct Instance {
  static constexpr u32 kEntries = 4096;
  static constexpr u32 kJumps = 65536;

  std::array<TlbEntry, kEntries> entry;
  /// Where translated code goes on for an address (Jit::key_of, Jit::entry_for), by its low bits.
  /// Their last says little: functions and many labels are aligned.
  std::array<u64, kJumps> jump;
  static constexpr unsigned kJumpShift = 1;
  static u32 jump_index(u64 key) { return (key >> kJumpShift) & (kJumps - 1); }

  /// A larger table behind `entry`, and one of large pages: what refill.cpp looks at before anybody
  /// walks page tables. An element counts if its generation is the current one.
  struct Second {
    u64 page;    ///< linear
    u64 host;    ///< of the page
    u64 offset;  ///< in the memfd
    u32 generation;
    bool is_global, writable;  ///< writable: permission granted and the dirty bit set
  };
  static constexpr u32 kSecond = 16384, kLarge = 128;
  std::array<Second, kSecond> second;
  std::array<Second, kLarge> large;  ///< 2 MiB regions inside large pages
  u32 generation = 1, global_generation = 1;
  static u32 second_index(u64 linear) { return (linear >> 12) & (kSecond - 1); }
  static u32 large_index(u64 linear) { return (linear >> 21) & (kLarge - 1); }
  bool current(const Second& s) const {
    return s.generation == (s.is_global ? global_generation : generation);
  }
  void remember(Second& s, u64 page, u64 host, u64 offset, bool is_global, bool writable) {
    s = {page, host, offset, is_global ? global_generation : generation, is_global, writable};
  }

  bool ready = false;  ///< false: never used, contents meaningless
  bool jumps_used = false;
  bool jumps_nonglobal = false;  ///< some lead to pages that are not global
  u8 id = 0;
  u32 mode = ~u32{0};    ///< of the blocks in `jump`
  u64 jump_default = 0;  ///< what an empty `jump` holds
  FetchTlb fetch;
  std::array<bool, kEntries> global;
  /// Of entry[].host: what is looked through when a page must not be written any more.
  std::array<u32, kEntries> host_tag;
  static u32 host_tag_of(u64 host_page) { return static_cast<u32>(host_page >> 12); }
  /// Indices filled since the last flush, so that a flush costs what was used; used > kEntries:
  /// all.
  std::array<u16, kEntries> filled;
  u32 used = 0;
  RegionFilter<15> jump_pages;  ///< pages that `jump` leads to
  /// As `filled` for `jump`; more than there is room for: all.
  static constexpr u32 kMostJumpsFilled = 8192;
  std::array<u32, kMostJumpsFilled> jumps_filled;
  u32 jumps_filled_count = kMostJumpsFilled + 1;
  [[gnu::always_inline]] void set_jump(u64 key, u64 to) {
    const u32 at = jump_index(key);
    jump[at] = to;
    jumps_used = true;
    if (jumps_filled_count < kMostJumpsFilled)
      jumps_filled[jumps_filled_count++] = at;
    else
      jumps_filled_count = kMostJumpsFilled + 1;
  }
  /// A larger table behind `jump`. Its elements outlive translations: one counts if its page is
  /// still where it was (known_jump()), so that after a flush pages are walked anew, not jumps.
  struct SecondJump {
    u64 key;
    u64 gpa;          ///< of its page
    u32 entry, code;  ///< offsets in the code cache: what `jump` holds, the block
    u32 generation;
  };
  static constexpr u32 kSecondJumps = 16384;
  std::array<SecondJump, kSecondJumps> second_jump;
  u32 jump_generation = 1;
  static u32 second_jump_index(u64 key) {
    return static_cast<u32>(key ^ (key >> 13) ^ (key >> 26)) & (kSecondJumps - 1);
  }

  /// The code for an address under `mode`, the instance's; null if it is not known.
  [[gnu::always_inline]] const SecondJump* known_jump(u64 key, u64 linear) const {
    const SecondJump& j = second_jump[second_jump_index(key)];
    if (j.key != key || j.generation != jump_generation) return nullptr;
    const FetchTlb::Entry* page = fetch.find(linear);
    return page && page->gpa == j.gpa ? &j : nullptr;
  }
  /// Where jumps to an address lead from now on: `to` is what `jump` holds.
  [[gnu::always_inline]] void lead_jump(u64 key, u64 linear, u64 to, bool global) {
    set_jump(key, to);
    jumps_nonglobal |= !global;
    jump_pages.add(linear >> 12);
  }

  static u32 index(u64 linear) { return (linear >> 12) & (kEntries - 1); }
  /// The page of an address whose index differs by half the table is never within a page of it.
  static u64 empty(u32 i) { return u64{i ^ (kEntries / 2)} << 12; }

  void clear();
  void clear_jumps();   ///< translations changed
  void forget_jumps();  ///< the code, or its mode, changed
  void drop(u32 i) { entry[i].read = entry[i].write = empty(i); }
  [[gnu::always_inline]] void fill(u64 linear, u64 host_page, bool is_global, bool writable) {
    const u32 i = index(linear);
    const u64 page = linear & ~u64{0xfff};
    TlbEntry& e = entry[i];
    const bool same = e.read == page && e.host == host_page;
    e = {page, writable || (same && e.write == page) ? page : empty(i), host_page,
         host_page - page};
    if (same) return;
    host_tag[i] = host_tag_of(host_page);
    global[i] = is_global;
    if (is_global || used > kEntries) return;
    if (used < kEntries) filled[used] = static_cast<u16>(i);
    ++used;
  }
  void flush_nonglobal();
  /// One page's translations; `globals_only` for address spaces that are not the current one.
  void flush_page(u64 linear, bool globals_only);
  void flush_region(u64 region);  ///< 2 MiB
  void flush_writes() {
    for (u32 i = 0; i < kEntries; ++i) entry[i].write = empty(i);
  }
  void flush_host_writes(u64 host_page);
};

struct Tlbs {
  /// What privilege sees: user; supervisor with SMAP in force; supervisor allowed to touch user
  /// pages (no SMAP, or AC = 1).
  enum Kind : u8 { user, supervisor, supervisor_ac, kKinds };
  static constexpr u32 kSpaces = 6;  ///< Linux uses six PCIDs per CPU
  /// The last is always empty: while alignment is checked every access takes the slow path.
  static constexpr u32 kInstances = kSpaces * kKinds + 1, kNone = kInstances - 1;

  std::array<Instance*, kInstances> instance{};
  u32 space = 0;  ///< the current one
  std::array<u32, kSpaces> pcid{};
  std::array<u64, kSpaces> last_use{};
  u64 uses = 0;

  /// What CPL, CR4.SMAP and EFLAGS.AC select (Cpu::select_tlb); `current` is the empty one while
  /// alignment is checked, `context` is not.
  Instance *current = nullptr, *context = nullptr;

  Instance& select(u32 n) {
    Instance& i = *instance[n];
    if (!i.ready) [[unlikely]]
      prepare(n);
    return i;
  }
  void prepare(u32 n);
  Instance& of(Kind kind) { return select(space * kKinds + kind); }

  /// Changes with every flush; with the instance it says under which translations code was found.
  u64 fetch_epoch = 0;
  u64 fetch_key() const { return fetch_epoch * 32 + context->id; }
  u64 jump_default = 0;  ///< for instances to come

  /// Which regions were mapped by large pages since flush_all.
  RegionFilter<12> large_2m, large_1g;
  void note_large(u64 linear, unsigned shift) {
    if (shift >= 30)
      large_1g.add(linear >> 30);
    else
      large_2m.add(linear >> 21);
    if (shift == 22) large_2m.add((linear >> 21) ^ 1);
  }
  /// The instances of supervisors are the same memory in every address space (room.hpp).
  static constexpr bool shared(u32 n) { return n < kNone && n % kKinds != user; }
  template <class F>
  void each(F f) {
    for (u32 n = 0; n < kInstances; ++n)
      if (instance[n] && instance[n]->ready && !(shared(n) && n >= kKinds)) f(*instance[n]);
  }
  void flush_all();
  /// Of the current address space.
  void flush_nonglobal() { flush_space(space); }
  void flush_space(u32 which);
  void flush_every_space();  ///< global pages stay
  void flush_page(u64 linear);
  void flush_writes();                    ///< dirty log taken
  void flush_host_writes(u64 host_page);  ///< the page holds code now
  void forget_jumps();                    ///< blocks went away

  /// MOV to CR3 with CR4.PCIDE: makes `id` the current address space, keeping what it has unless
  /// `flush`. The caller selects anew.
  void switch_space(u32 id, bool flush);
  /// Forgets everything; the current address space is that of `id`.
  void reset(u32 id);
  /// The address space of a PCID; kSpaces if it has none.
  u32 space_of(u32 id) const;
};

}  // namespace skerry::soft
