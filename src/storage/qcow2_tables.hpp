// TableCache: clusters of metadata (L2 tables, refcount blocks) in memory, written when told to.
//
// A table's address stays as long as it is in the cache; get() and fresh() drop the least recently
// used clean table when there are more than `most`. Not for several threads.
#pragma once

#include <list>
#include <unordered_map>

#include "storage/file.hpp"
#include "storage/qcow2_header.hpp"

namespace skerry::storage::qcow2 {

class TableCache {
 public:
  struct Table {
    u64 offset = 0;
    std::vector<u8> bytes;
    bool dirty = false;
    bool linked = true;  ///< something on the disk leads to it
  };

  TableCache(File& file, u64 table_bytes, size_t most)
      : file_(file), bytes_(table_bytes), most_(most) {}

  /// From the cache or the file.
  Result<Table*> get(u64 offset);
  /// A new one of zeros, dirty and not linked.
  Table& fresh(u64 offset);
  void drop(u64 offset);
  void drop_all() { tables_.clear(), order_.clear(), dirty_.clear(), fresh_ = 0; }
  void mark(Table& table);

  /// True if most of the cache is dirty: time to write.
  bool crowded() const { return dirty_.size() >= most_ / 2; }
  bool dirty() const { return !dirty_.empty(); }
  bool unlinked() const { return fresh_ > 0; }
  /// Writes the dirty tables that are linked or those that are not; they are clean then.
  Result<> write(bool linked);
  /// Those that were written before are linked now.
  void link_written();

 private:
  struct Node {
    Table table;
    std::list<u64>::iterator place;
  };
  void make_room();

  File& file_;
  const u64 bytes_;
  const size_t most_;
  std::unordered_map<u64, Node> tables_;
  std::list<u64> order_;  ///< least recently used first
  std::vector<Table*> dirty_;
  size_t fresh_ = 0;  ///< tables that are not linked
};

}  // namespace skerry::storage::qcow2
