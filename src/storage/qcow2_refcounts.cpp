#include "storage/qcow2_refcounts.hpp"

#include <algorithm>

namespace skerry::storage::qcow2 {

namespace {

constexpr u64 kCacheBytes = 8 * MiB;
constexpr u64 kTableSector = 512 / 8;  ///< entries that one sector of the table holds

size_t cache_tables(u64 cluster) {
  return std::max<size_t>(16, kCacheBytes / cluster);
}

}  // namespace

Refcounts::Refcounts(File& file, Header& header)
    : file_(file),
      header_(header),
      blocks_(file, header.cluster(), cache_tables(header.cluster())) {}

u64 Refcounts::entry(std::span<const u8> block, u64 at, unsigned order) {
  switch (order) {
    case 3: return block[at];
    case 4: return load_be<u16>(&block[2 * at]);
    case 5: return load_be<u32>(&block[4 * at]);
    case 6: return load_be<u64>(&block[8 * at]);
    default: break;  // several in a byte, the first in the lowest bits
  }
  unsigned width = 1u << order, per_byte = 8 / width;
  return bits(block[at / per_byte], static_cast<unsigned>(at % per_byte) * width, width);
}

void Refcounts::set_entry(std::span<u8> block, u64 at, unsigned order, u64 value) {
  switch (order) {
    case 3: block[at] = static_cast<u8>(value); return;
    case 4: store_be<u16>(&block[2 * at], static_cast<u16>(value)); return;
    case 5: store_be<u32>(&block[4 * at], static_cast<u32>(value)); return;
    case 6: store_be<u64>(&block[8 * at], value); return;
    default: break;
  }
  unsigned width = 1u << order, per_byte = 8 / width;
  unsigned shift = static_cast<unsigned>(at % per_byte) * width;
  u8& byte = block[at / per_byte];
  unsigned mask = ((1u << width) - 1) << shift;
  byte = static_cast<u8>((byte & ~mask) | (static_cast<unsigned>(value) << shift & mask));
}

// The table has at least a cluster, so that it always ends with a sector.
Result<> Refcounts::load() {
  u64 entries = u64{header_.refcount_table_clusters} * header_.cluster() / 8;
  std::vector<u8> raw(entries * 8);
  TRY_VOID(file_.read(header_.refcount_table_offset, raw));
  table_.assign(entries, 0);
  own_.clear();
  for (u64 i = 0; i < entries; ++i) {
    table_[i] = load_be<u64>(&raw[8 * i]);
    if (table_[i]) own_.insert(table_[i] >> header_.cluster_bits);
  }
  for (u64 i = 0; i < header_.refcount_table_clusters; ++i)
    own_.insert((header_.refcount_table_offset >> header_.cluster_bits) + i);
  end_ = header_.clusters(TRY(file_.size()));
  hint_ = 0;
  table_dirty_.clear();
  old_tables_.clear();
  blocks_.drop_all();
  return {};
}

// The block that counts cluster `index`, or null if there is none.
Result<TableCache::Table*> Refcounts::block_for(u64 index) {
  u64 block = index / per_block();
  if (block >= table_.size() || table_[block] == 0) return nullptr;
  u64 offset = table_[block];
  if (offset & (header_.cluster() - 1) || offset >> 56)
    return fail_hint(fmt::format("mend it with: skerry image check --repair all {}", file_.path()),
                     "{} is corrupt: entry {} of its refcount table is out of place", file_.path(),
                     block);
  return blocks_.get(offset);
}

Result<u64> Refcounts::get(u64 index) {
  TableCache::Table* block = TRY(block_for(index));
  return block ? entry(block->bytes, index % per_block(), header_.refcount_order) : 0;
}

Result<> Refcounts::set(u64 index, u64 value) {
  TableCache::Table* block = TRY(block_for(index));
  if (!block) {
    if (value == 0) return {};
    TRY_VOID(add_block(index / per_block()));
    block = TRY(block_for(index));
  }
  set_entry(block->bytes, index % per_block(), header_.refcount_order, value);
  blocks_.mark(*block);
  if (value == 0) hint_ = std::min(hint_, index);
  return {};
}

Result<> Refcounts::take(u64 index) {
  u64 value = TRY(get(index));
  if (value == max_value()) return fail("{}: a refcount would overflow", file_.path());
  return set(index, value + 1);
}

Result<bool> Refcounts::give_up(u64 index) {
  u64 value = TRY(get(index));
  if (value == 0) return false;  // a damaged image: check says so
  TRY_VOID(set(index, value - 1));
  return value == 1;
}

// A block lies at the end of the file. Where that is in its own range it counts itself.
Result<> Refcounts::add_block(u64 block) {
  if (block >= table_.size()) TRY_VOID(grow_table(block + 1));
  if (table_[block]) return {};  // growing made it
  u64 at = std::max(end_, block * per_block());
  if (at >= (block + 1) * per_block()) at = end_;
  end_ = at + 1;
  blocks_.fresh(at << header_.cluster_bits);
  table_[block] = at << header_.cluster_bits;
  table_dirty_.insert(block / kTableSector);
  own_.insert(at);
  return set(at, 1);
}

Result<> Refcounts::grow_table(u64 blocks) {
  u64 per_cluster = header_.cluster() / 8;
  u64 wanted = std::max(blocks, u64{table_.size()} + table_.size() / 2);
  wanted = std::min(align_up(wanted, per_cluster), kMaxRefcountTableBytes / 8);
  u64 count = wanted / per_cluster;
  if (wanted < blocks) return fail("{} has become too large for its cluster size", file_.path());
  old_tables_.emplace_back(header_.refcount_table_offset >> header_.cluster_bits,
                           header_.refcount_table_clusters);
  u64 start = end_;
  end_ = start + count;
  table_.resize(wanted, 0);
  header_.refcount_table_offset = start << header_.cluster_bits;
  header_.refcount_table_clusters = static_cast<u32>(count);
  for (u64 i = 0; i < count; ++i) own_.insert(start + i);
  for (u64 i = 0; i < count; ++i) TRY_VOID(set(start + i, 1));
  return {};
}

Result<u64> Refcounts::first_free(u64 from) {
  // Beyond the end of the file only what a crash left behind is in use.
  for (u64 index = from; index <= end_ + 4 * per_block() + 4096;) {
    TableCache::Table* block = TRY(block_for(index));
    if (!block) return index;
    for (u64 stop = align_down(index, per_block()) + per_block(); index < stop; ++index)
      if (entry(block->bytes, index % per_block(), header_.refcount_order) == 0) return index;
  }
  return fail_hint(fmt::format("mend it with: skerry image check --repair all {}", file_.path()),
                   "{} is corrupt: its refcounts leave no cluster free", file_.path());
}

Result<Refcounts::Run> Refcounts::allocate(u64 most) {
  u64 start = TRY(first_free(hint_));
  hint_ = start;
  Run run{start << header_.cluster_bits, 1, start >= end_};
  while (run.count < most) {
    u64 next = start + run.count;
    if ((next >= end_) != run.fresh || next % per_block() == 0 || TRY(get(next)) != 0) break;
    ++run.count;
  }
  // Before a block is made at the end of the file, what is handed out there must count as used.
  end_ = std::max(end_, start + run.count);
  for (u64 i = 0; i < run.count; ++i) TRY_VOID(set(start + i, 1));
  hint_ = start + run.count;
  return run;
}

Result<u64> Refcounts::allocate_at_end(u64 count) {
  u64 start = end_;
  for (u64 i = 0; i < count;) {
    if (TRY(get(start + i)) == 0) {
      ++i;
      continue;
    }
    start = TRY(first_free(start + i));
    i = 0;
  }
  end_ = std::max(end_, start + count);
  for (u64 i = 0; i < count; ++i) TRY_VOID(set(start + i, 1));
  return start << header_.cluster_bits;
}

Result<> Refcounts::write_table() {
  u64 entries = table_.size();
  if (!old_tables_.empty()) {
    std::vector<u8> raw(entries * 8);
    for (u64 i = 0; i < entries; ++i) store_be<u64>(&raw[8 * i], table_[i]);
    TRY_VOID(file_.write(header_.refcount_table_offset, raw));
    TRY_VOID(file_.flush());
    u8 fields[12];  // within one sector, so both change or neither does
    store_be<u64>(fields, header_.refcount_table_offset);
    store_be<u32>(fields + 8, header_.refcount_table_clusters);
    TRY_VOID(file_.write(48, fields));
    TRY_VOID(file_.flush());
    for (auto [first, count] : std::exchange(old_tables_, {}))
      for (u64 i = 0; i < count; ++i) {
        own_.erase(first + i);
        TRY_VOID(set(first + i, 0));
      }
  } else {
    for (u64 sector : table_dirty_) {
      u8 raw[512];
      for (u64 i = 0; i < kTableSector; ++i)
        store_be<u64>(raw + 8 * i, table_[sector * kTableSector + i]);
      TRY_VOID(file_.write(header_.refcount_table_offset + 512 * sector, raw));
    }
  }
  table_dirty_.clear();
  return {};
}

Result<> Refcounts::write() {
  if (blocks_.unlinked()) {
    TRY_VOID(blocks_.write(false));
    TRY_VOID(blocks_.write(true));
    TRY_VOID(file_.flush());
  }
  if (!table_dirty_.empty() || !old_tables_.empty()) TRY_VOID(write_table());
  blocks_.link_written();
  return blocks_.write(true);
}

}  // namespace skerry::storage::qcow2
