// Refcounts: which clusters of an image are in use, and by how many.
//
// The specification, "Host cluster management". Changes stay in memory until write(); a cluster
// that was given up may be handed out again only when the caller has called give_up(), that is when
// nothing on the disk leads to it any more. Not for several threads.
#pragma once

#include <set>

#include "storage/qcow2_tables.hpp"

namespace skerry::storage::qcow2 {

class Refcounts {
 public:
  /// `header` is kept up to date when the table moves, and outlives this, as `file` does.
  Refcounts(File& file, Header& header);
  Result<> load();

  /// Of cluster `index` of the file.
  Result<u64> get(u64 index);
  struct Run {
    u64 offset = 0;
    u64 count = 0;       ///< of clusters
    bool fresh = false;  ///< beyond all that the file ever had: it reads as zeros
  };
  /// At least one and at most `most` clusters side by side, with refcount 1.
  Result<Run> allocate(u64 most);
  /// The offset of exactly `count`, at the end of the file.
  Result<u64> allocate_at_end(u64 count);
  /// One more user of a cluster.
  Result<> take(u64 index);
  /// One user less. True: nobody uses it any more.
  Result<bool> give_up(u64 index);
  Result<> set(u64 index, u64 value);

  /// True when write() is due before much more is changed.
  bool crowded() const { return blocks_.crowded(); }
  bool dirty() const { return blocks_.dirty() || !table_dirty_.empty(); }
  /// Issues everything; what is not on the disk before its time is flushed in between. The caller
  /// flushes before anything leads to what was allocated.
  Result<> write();

  /// True if the cluster holds the refcount table or a block of it.
  bool owns(u64 index) const { return own_.contains(index); }
  u64 max_value() const { return ~u64{0} >> (64 - (1u << header_.refcount_order)); }
  /// Clusters from here on were never used.
  u64 end() const { return end_; }
  const std::vector<u64>& table() const { return table_; }
  u64 per_block() const { return header_.cluster() * 8 >> header_.refcount_order; }

  static u64 entry(std::span<const u8> block, u64 at, unsigned order);
  static void set_entry(std::span<u8> block, u64 at, unsigned order, u64 value);

 private:
  Result<TableCache::Table*> block_for(u64 index);
  Result<> add_block(u64 block);
  Result<> grow_table(u64 blocks);
  Result<> write_table();
  Result<u64> first_free(u64 from);

  File& file_;
  Header& header_;
  TableCache blocks_;
  std::vector<u64> table_;  ///< offsets of blocks, 0: none
  std::set<u64> table_dirty_;
  std::set<u64> own_;
  u64 hint_ = 0;  ///< no free cluster below
  u64 end_ = 0;
  std::vector<std::pair<u64, u64>>
      old_tables_;  ///< index and count of clusters, given up in write()
};

}  // namespace skerry::storage::qcow2
