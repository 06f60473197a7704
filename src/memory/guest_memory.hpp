// Guest RAM: the only door to it.
//
// RAM is one memfd, so it can be shared, snapshotted copy-on-write and handed over. It appears to
// the guest as ranges ("slots") of guest-physical addresses: low memory up to the 32-bit hole, the
// rest from 4 GiB, and ROMs. Every copy is bounds-checked and marks the DirtyMap in the same call.
// Engines map slots themselves and mark what their guest code writes.
//
// Threading: slots are fixed before vCPUs start; afterwards all calls are thread-safe in the sense
// of memory itself: concurrent accesses may interleave byte by byte, aligned loads and stores up to
// 8 bytes are atomic.
#pragma once

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bits.hpp"
#include "base/fd.hpp"

namespace skerry::memory {

/// A guest-physical address.
using Gpa = u64;

constexpr u64 kPageSize = 4096;
/// RAM below 4 GiB ends at most here; the rest of the first 4 GiB is the hole for devices (Q35:
/// ECAM at 0xb000'0000, PCI windows, IOAPIC, HPET, LAPIC, firmware).
constexpr Gpa kHoleStart = 0xb000'0000;
constexpr Gpa kHighStart = 0x1'0000'0000;

/// What engines know of a page of RAM.
struct PageDescriptor {
  // Which parts of it instructions have been decoded from.
  std::atomic<u64> granules{0};  ///< one bit per 64 bytes that holds decoded code
  std::atomic<u32> version{0};   ///< changes after any store into such a granule
  /// Not 0: a page walk has used it as a page table (it is *traced*), and engines let no store pass
  /// unseen. What is left of kTableStores: so many stores without a walk in between, and it is
  /// taken for a table no longer (it was freed, or is filled as a whole).
  std::atomic<u32> table{0};
};
constexpr u32 kTableStores = 64;

/// One bit per 4 KiB page of RAM, by offset in the memfd. Thread-safe. Also tells an engine that
/// keeps decoded instructions when memory that they came from has been written, and sees the stores
/// into page tables.
class DirtyMap {
 public:
  explicit DirtyMap(u64 bytes);
  /// [offset, offset + length) has just been written. Offsets beyond RAM (ROMs) are ignored.
  void mark(u64 offset, u64 length) {
    if (length == 0) return;
    // The store comes before the look at `granules`; a decoder sets a granule before it reads the
    // bytes.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const u64 last = offset + length - 1;
    for (u64 page = offset / kPageSize; page <= last / kPageSize && page < pages_; ++page) {
      u64 mask = u64{1} << (page % 64);
      auto& word = words_[page / 64];
      if (!(word.load(std::memory_order_relaxed) & mask))
        word.fetch_or(mask, std::memory_order_relaxed);
      if (descriptors_[page].granules.load(std::memory_order_relaxed)) [[unlikely]]
        code_written(page, offset, last);
      if (descriptors_[page].table.load(std::memory_order_relaxed)) [[unlikely]]
        table_store(page * kPageSize);
    }
  }
  /// Only the bit of one page, before a store.
  void mark_page(u64 offset) {
    u64 page = offset / kPageSize, mask = u64{1} << (page % 64);
    auto& word = words_[page / 64];
    if (!(word.load(std::memory_order_relaxed) & mask))
      word.fetch_or(mask, std::memory_order_relaxed);
  }
  u64 pages() const { return pages_; }
  /// Whether `offset` is in RAM; beyond it there are ROMs.
  bool covers(u64 offset) const { return offset < pages_ * kPageSize; }
  /// `offset` is below the size given at construction.
  PageDescriptor& descriptor(u64 offset) { return descriptors_[offset / kPageSize]; }
  /// Nobody asks to see the stores into this page.
  bool unwatched(u64 offset) {
    const PageDescriptor& d = descriptor(offset);
    return d.granules.load(std::memory_order_seq_cst) == 0 &&
           d.table.load(std::memory_order_seq_cst) == 0;
  }

  /// A walk used the page as a page table. True: it was not traced until now, and the caller makes
  /// every vCPU ask before it writes there.
  bool table_walked(u64 offset) {
    std::atomic<u32>& table = descriptor(offset).table;
    if (table.load(std::memory_order_relaxed) == kTableStores) [[likely]]
      return false;
    if (table.exchange(kTableStores, std::memory_order_seq_cst)) return false;
    tables_traced.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  /// A store into a traced page, before or after it is made. True: it is traced still.
  bool table_store(u64 offset) {
    std::atomic<u32>& table = descriptor(offset).table;
    u32 left = table.load(std::memory_order_relaxed);
    while (left && !table.compare_exchange_weak(left, left - 1, std::memory_order_seq_cst)) {
    }
    if (!left) return false;
    table_stores.fetch_add(1, std::memory_order_relaxed);
    if (left == 1) tables_released.fetch_add(1, std::memory_order_relaxed);
    return left > 1;
  }
  /// Totals: pages that became traced, that were so no longer, and stores seen meanwhile.
  std::atomic<u64> tables_traced{0}, tables_released{0}, table_stores{0};

  /// Called by take() once the bits are cleared, before it returns: engines whose guest code writes
  /// to pages already marked dirty without asking again make it ask. Waits for running vCPUs, so
  /// take() must not be called with the board lock held. Set before vCPUs start.
  std::function<void()> taken;
  /// Called after the version of a page (its number) changed, by the thread that wrote. Set before
  /// vCPUs start.
  std::function<void(u64 page)> code_changed;
  bool test(u64 offset) const {
    u64 page = offset / kPageSize;
    return (words_[page / 64].load(std::memory_order_relaxed) >> (page % 64)) & 1;
  }
  /// The set bits, which are cleared.
  std::vector<u64> take();

 private:
  void code_written(u64 page, u64 first, u64 last);
  struct Free {
    void operator()(PageDescriptor* p) const { std::free(p); }
  };
  u64 pages_;
  std::vector<std::atomic<u64>> words_;
  std::unique_ptr<PageDescriptor[], Free>
      descriptors_;  ///< calloc'ed: untouched pages cost nothing
};

struct Slot {
  Gpa start = 0;
  u64 size = 0;  ///< bytes, a multiple of the page size
  u8* host = nullptr;
  u64 offset = 0;  ///< of the slot's first byte in the memfd
  bool writable = true;
  Gpa end() const { return start + size; }
};

class GuestMemory {
 public:
  /// `bytes` of RAM, rounded up to pages, laid out around the 32-bit hole. At most 1 TiB.
  static Result<std::unique_ptr<GuestMemory>> create(u64 bytes);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  u64 size() const { return ram_size_; }
  const std::vector<Slot>& slots() const { return slots_; }
  int fd() const { return fd_.get(); }
  DirtyMap& dirty() { return *dirty_; }

  /// Host address of [at, at + length) if all of it is inside one slot, else nullptr. The caller
  /// marks what it writes with mark_dirty.
  u8* host(Gpa at, u64 length) const {
    for (const Slot& s : slots_)
      if (at >= s.start && length <= s.size && at - s.start <= s.size - length)
        return s.host + (at - s.start);
    return nullptr;
  }
  const Slot* slot_of(Gpa at) const;
  void mark_dirty(Gpa at, u64 length);

  /// Copies; false (and nothing copied) if any byte is outside RAM or, for write, read-only.
  [[nodiscard]] bool read(Gpa at, std::span<u8> to) const;
  [[nodiscard]] bool write(Gpa at, std::span<const u8> from);
  [[nodiscard]] bool fill(Gpa at, u8 value, u64 length);

  template <class T>
  [[nodiscard]] std::optional<T> read_value(Gpa at) const {
    T v;
    if (!read(at, {reinterpret_cast<u8*>(&v), sizeof v})) return std::nullopt;
    return v;
  }
  template <class T>
  [[nodiscard]] bool write_value(Gpa at, T v) {
    return write(at, {reinterpret_cast<const u8*>(&v), sizeof v});
  }

 private:
  GuestMemory() = default;
  Fd fd_;
  u8* base_ = nullptr;
  u64 ram_size_ = 0;
  std::vector<Slot> slots_;
  std::unique_ptr<DirtyMap> dirty_;
};

}  // namespace skerry::memory
