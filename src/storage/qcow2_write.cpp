// Changing what is stored: allocation, zeros, discard, and the order in which it reaches the disk.
#include <algorithm>

#include "storage/compress.hpp"
#include "storage/qcow2.hpp"

namespace skerry::storage {

using namespace qcow2;

namespace {

constexpr u64 kMaxRunBytes = 2 * MiB;        // written at once into new clusters
constexpr size_t kMostReleased = 16 * 1024;  // uses that ended, before they are settled

}  // namespace

// ---- to the disk

Result<> Qcow2::write_l1() {
  for (u64 sector : l1_dirty_) {
    u8 raw[512] = {};
    u64 first = sector * 64, count = std::min<u64>(64, l1_.size() - first);
    for (u64 i = 0; i < count; ++i) store_be<u64>(raw + 8 * i, l1_[first + i]);
    TRY_VOID(file_->write(header_.l1_offset + 512 * sector, {raw, count * 8}));
  }
  l1_dirty_.clear();
  return {};
}

// See the head of qcow2.hpp.
Result<> Qcow2::sync() {
  {
    std::lock_guard guard(cache_);
    TRY_VOID(refcounts_.write());
    TRY_VOID(l2_.write(false));
  }
  TRY_VOID(file_->flush());
  bool links;
  {
    std::lock_guard guard(cache_);
    links = l2_.dirty() || !l1_dirty_.empty();
    TRY_VOID(l2_.write(true));
    TRY_VOID(write_l1());
  }
  if (links) TRY_VOID(file_->flush());
  {
    std::lock_guard guard(cache_);
    l2_.link_written();
  }
  return reuse_released();
}

Result<> Qcow2::sync_if_crowded() {
  bool now;
  {
    std::lock_guard guard(cache_);
    now = l2_.crowded() || refcounts_.crowded() || released_.size() > kMostReleased;
  }
  return now ? sync() : Result<>{};
}

// Nothing on the disk leads to these clusters any more, so they may be used again.
Result<> Qcow2::reuse_released() {
  if (released_.empty()) return {};
  inside_.wait();  // for who looked them up before
  {
    std::lock_guard guard(unpacked_mutex_);
    unpacked_entry_ = 0;
  }
  packed_at_ = 0;  // its cluster may be one of them
  std::sort(released_.begin(), released_.end());
  std::vector<u64> unused;
  {
    std::lock_guard guard(cache_);
    for (u64 index : std::exchange(released_, {}))
      if (!fixed(index) && TRY(refcounts_.give_up(index))) {
        l2_.drop(index << header_.cluster_bits);
        unused.push_back(index);
      }
  }
  for (size_t i = 0; can_punch_ && i < unused.size();) {
    size_t n = 1;
    while (i + n < unused.size() && unused[i + n] == unused[i] + n) ++n;
    can_punch_ = TRY(file_->punch(unused[i] << header_.cluster_bits, n << header_.cluster_bits));
    i += n;
  }
  return {};
}

Result<> Qcow2::flush() {
  if (readonly_) return {};
  std::lock_guard guard(alloc_);
  return sync();
}

// ---- tables

void Qcow2::set_entry(TableCache::Table& table, u64 at, u64 entry) {
  store_be<u64>(&table.bytes[8 * at], entry);
  l2_.mark(table);
}

Result<> Qcow2::release(u64 entry) {
  if (entry & kCompressed) {
    auto [offset, length] = compressed_place(entry);
    for (u64 i = offset >> header_.cluster_bits; i <= (offset + length - 1) >> header_.cluster_bits;
         ++i)
      released_.push_back(i);
  } else if (u64 host = host_of(entry)) {
    if (host & (cluster() - 1)) return corrupt("a cluster is out of place");
    released_.push_back(host >> header_.cluster_bits);
  }
  return {};
}

// The L2 table for entry `l1_index`, made or copied if it must be.
Result<TableCache::Table*> Qcow2::l2_to_change(u64 l1_index) {
  TableCache::Table* old = TRY(l2_of(l1_index));
  if (old && l1_[l1_index] & kCopied) return old;
  auto run = TRY(refcounts_.allocate(1));
  if (fixed(run.offset >> header_.cluster_bits))
    TRY_VOID(corrupt("its refcounts say that used clusters are free"));
  std::vector<u8> entries;
  if (old) {
    // A snapshot has it, too, and with it everything that it leads to.
    entries = old->bytes;
    for (u64 i = 0; i < cluster() / 8; ++i)
      store_be<u64>(&entries[8 * i], load_be<u64>(&entries[8 * i]) & ~kCopied);
    released_.push_back(old->offset >> header_.cluster_bits);
  }
  TableCache::Table& table = l2_.fresh(run.offset);
  if (old) table.bytes = std::move(entries);
  l1_[l1_index] = run.offset | kCopied;
  l1_dirty_.insert(l1_index / 64);
  return &table;
}

// ---- writing

Result<> Qcow2::writev(u64 offset, std::span<const iovec> from) {
  if (readonly_) return fail("disk {} is read-only", path());
  u64 total = length_of(from);
  TRY_VOID(check_range(offset, total));
  for (u64 done = 0; done < total;) {
    {
      Gate::Inside inside(inside_);
      Mapping m;
      {
        std::lock_guard guard(cache_);
        m = TRY(look(offset + done, total - done));
        if (m.writable)
          for (u64 i = m.host >> header_.cluster_bits;
               i <= (m.host + m.length - 1) >> header_.cluster_bits; ++i)
            if (fixed(i)) TRY_VOID(corrupt("a cluster of data overlaps its tables"));
      }
      if (m.writable) {
        TRY_VOID(file_->writev(m.host, slice(from, done, m.length)));
        done += m.length;
        continue;
      }
    }
    std::lock_guard guard(alloc_);
    done += TRY(write_new(offset + done, slice(from, done, total - done)));
  }
  return {};
}

// What stands there now. `zeros`: nothing but zeros, and `to` is as it was.
Result<> Qcow2::read_old(u64 offset, std::span<u8> to, bool& zeros) {
  zeros = false;
  u64 there = offset < size_ ? std::min<u64>(to.size(), size_ - offset) : 0;
  Mapping m;
  if (there) {
    std::lock_guard guard(cache_);
    m = TRY(look(offset, there));
  }
  bool through = m.kind == Kind::unallocated && there && shows_through(offset);
  if (there == 0 || m.kind == Kind::zero || (m.kind == Kind::unallocated && !through)) {
    zeros = true;
    return {};
  }
  std::fill(to.begin() + static_cast<ptrdiff_t>(there), to.end(), u8{0});
  return read(offset, to.first(there));
}

// Puts the beginning of `from` into new clusters; returns how much of it. With alloc_ held.
Result<u64> Qcow2::write_new(u64 offset, std::span<const iovec> from) {
  TRY_VOID(sync_if_crowded());
  u64 total = length_of(from), head = offset & (cluster() - 1), first = offset - head;
  u64 index = first >> header_.cluster_bits, per_table = cluster() / 8, at = index % per_table;
  Refcounts::Run run;
  u64 length;
  {
    std::lock_guard guard(cache_);
    TableCache::Table* table = TRY(l2_of(index / per_table));
    u64 count = 0, most = std::min(header_.clusters(head + total), per_table - at);
    most = std::min(most, std::max<u64>(1, kMaxRunBytes / cluster()));
    for (; count < most; ++count) {
      u64 entry = table ? load_be<u64>(&table->bytes[8 * (at + count)]) : 0;
      bool plain = !(entry & kCompressed) && !(header_.version >= 3 && entry & kZero);
      if (plain && entry & kCopied && host_of(entry)) break;
    }
    if (count == 0) return 0;  // somebody was faster: it can be written in place
    run = TRY(refcounts_.allocate(count));
    for (u64 i = 0; i < run.count; ++i)
      if (fixed((run.offset >> header_.cluster_bits) + i))
        TRY_VOID(corrupt("its refcounts say that used clusters are free"));
    length = std::min(total, run.count * cluster() - head);
  }
  u64 tail = run.count * cluster() - head - length;
  auto fill = [&]() -> Result<> {
    std::vector<iovec> pieces = slice(from, 0, length);
    u64 begin = run.offset + head;
    std::vector<u8> before(head), after(tail);
    bool zeros = true;
    if (head) TRY_VOID(read_old(first, before, zeros));
    if (head && !(zeros && run.fresh)) {
      pieces.insert(pieces.begin(), {before.data(), head});
      begin = run.offset;
    }
    if (tail) TRY_VOID(read_old(offset + length, after, zeros));
    if (tail && !(zeros && run.fresh)) pieces.push_back({after.data(), tail});
    return file_->writev(begin, pieces);
  };
  auto done = fill();
  std::lock_guard guard(cache_);
  u64 host = run.offset;
  if (done) {
    auto table = l2_to_change(index / per_table);
    if (!table) {
      done = std::unexpected(std::move(table).error());
    } else {
      for (u64 i = 0; i < run.count; ++i, host += cluster()) {
        u64 old = load_be<u64>(&(*table)->bytes[8 * (at + i)]);
        set_entry(**table, at + i, host | kCopied);
        TRY_VOID(release(old));
      }
    }
  }
  if (!done) {  // nothing leads there yet
    for (u64 i = 0; i < run.count; ++i)
      TRY_VOID(refcounts_.set((run.offset >> header_.cluster_bits) + i, 0));
    return std::unexpected(std::move(done).error());
  }
  return length;
}

Result<> Qcow2::write_compressed(u64 offset, std::span<const u8> data) {
  if (readonly_) return fail("disk {} is read-only", path());
  TRY_VOID(check_range(offset, data.size()));
  SKERRY_CHECK(offset % cluster() == 0 && data.size() <= cluster());
  std::vector<u8> whole(data.begin(), data.end()), packed(cluster());
  whole.resize(cluster());
  size_t length = compress(header_.compression, whole, packed);
  unsigned offset_bits = 62 - (header_.cluster_bits - 8);
  if (length == 0 || length >= cluster()) return write(offset, data);

  std::lock_guard guard(alloc_);
  TRY_VOID(sync_if_crowded());
  std::lock_guard cache_guard(cache_);
  u64 place = packed_at_;
  if (place == 0 || (place & (cluster() - 1)) + length > cluster()) {
    auto run = TRY(refcounts_.allocate(1));
    if (fixed(run.offset >> header_.cluster_bits) || run.offset >> offset_bits)
      TRY_VOID(corrupt("its refcounts say that used clusters are free"));
    place = run.offset;
  } else {
    TRY_VOID(refcounts_.take(place >> header_.cluster_bits));
  }
  // A cluster of a file is padded in the end, since readers read sectors.
  u64 end = align_up(place + length, 512);
  packed.resize(end - place > packed.size() ? packed.size() : end - place);
  std::fill(packed.begin() + static_cast<ptrdiff_t>(length), packed.end(), u8{0});
  TRY_VOID(file_->write(place, packed));
  packed_at_ = (place + length) & (cluster() - 1) ? place + length : 0;
  u64 sectors = (place + length - 1) / 512 - place / 512;
  u64 index = offset >> header_.cluster_bits, per_table = cluster() / 8;
  TableCache::Table* table = TRY(l2_to_change(index / per_table));
  u64 old = load_be<u64>(&table->bytes[8 * (index % per_table)]);
  set_entry(*table, index % per_table, kCompressed | sectors << offset_bits | place);
  return release(old);
}

// ---- zeros

// Clusters [first, first + count) of the disk read as zeros. `keep`: with their space. `hide`: also
// over backing disks to come.
Result<> Qcow2::zero_clusters(u64 first, u64 count, bool keep, bool hide) {
  u64 per_table = cluster() / 8;
  while (count > 0) {
    std::lock_guard guard(alloc_);
    TRY_VOID(sync_if_crowded());
    u64 at = first % per_table, here = std::min({count, per_table - at, kMostReleased / 2});
    std::unique_lock cache_guard(cache_);
    bool through = hide || shows_through(first << header_.cluster_bits);
    TableCache::Table* table = TRY(l2_of(first / per_table));
    if (!table && !through) here = std::min(count, per_table - at);
    bool changing = false;
    for (u64 i = 0; (table || through) && i < here; ++i) {
      u64 entry = table ? load_be<u64>(&table->bytes[8 * (at + i)]) : 0;
      bool zero = header_.version >= 3 && !(entry & kCompressed) && entry & kZero;
      bool covered = hide || shows_through((first + i) << header_.cluster_bits);
      if (zero && (keep || !host_of(entry))) continue;
      if (entry == 0 && !covered) continue;
      u64 now = header_.version >= 3 && covered ? kZero : 0;
      if (keep && header_.version >= 3 && !(entry & kCompressed) && host_of(entry) &&
          entry & kCopied)
        now = entry | kZero;
      if (!changing) table = TRY(l2_to_change(first / per_table));
      changing = true;
      set_entry(*table, at + i, now);
      if (host_of(now) == 0) TRY_VOID(release(entry));
    }
    first += here;
    count -= here;
  }
  return {};
}

// Less than a cluster, within one.
Result<> Qcow2::zero_part(u64 offset, u64 length) {
  std::vector<u8> zeros(length);
  bool already = false;
  TRY_VOID(read_old(offset, zeros, already));
  if (already) {
    std::lock_guard guard(cache_);
    if (TRY(look(offset, length)).length == length) return {};
  }
  std::fill(zeros.begin(), zeros.end(), u8{0});
  return write(offset, zeros);
}

Result<> Qcow2::zero_range(u64 offset, u64 length, bool keep, bool parts) {
  if (readonly_) return fail("disk {} is read-only", path());
  TRY_VOID(check_range(offset, length));
  u64 end = offset + length, first = header_.clusters(offset);
  // The last cluster may reach over the end of the disk.
  u64 last = end == size_ ? header_.clusters(end) : end >> header_.cluster_bits;
  u64 from = first << header_.cluster_bits, to = last << header_.cluster_bits;
  if (first >= last) return parts && length ? zero_part(offset, length) : Result<>{};
  if (parts && offset < from) TRY_VOID(zero_part(offset, from - offset));
  if (parts && end > to) TRY_VOID(zero_part(to, end - to));
  return zero_clusters(first, last - first, keep);
}

Result<> Qcow2::hide(u64 offset) {
  if (readonly_) return fail("disk {} is read-only", path());
  SKERRY_CHECK(header_.version >= 3);
  TRY_VOID(check_range(offset, 1));
  return zero_clusters(offset >> header_.cluster_bits, 1, false, true);
}

Result<> Qcow2::write_zeroes(u64 offset, u64 length, bool unmap) {
  // Version 2 cannot say that a cluster hides its backing disk.
  if (header_.version < 3 && backing_) return Disk::write_zeroes(offset, length, unmap);
  return zero_range(offset, length, !unmap, true);
}

Result<> Qcow2::discard(u64 offset, u64 length) {
  if (header_.version < 3 && backing_) return check_range(offset, length);
  return zero_range(offset, length, false, false);
}

}  // namespace skerry::storage
