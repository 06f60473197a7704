#include "storage/qcow2_tables.hpp"

#include <algorithm>

namespace skerry::storage::qcow2 {

void TableCache::make_room() {
  for (auto at = order_.begin(); tables_.size() >= most_ && at != order_.end();) {
    auto found = tables_.find(*at);
    if (found->second.table.dirty || !found->second.table.linked) {
      ++at;
      continue;
    }
    at = order_.erase(at);
    tables_.erase(found);
  }
}

Result<TableCache::Table*> TableCache::get(u64 offset) {
  auto found = tables_.find(offset);
  if (found != tables_.end()) {
    order_.splice(order_.end(), order_, found->second.place);
    return &found->second.table;
  }
  make_room();
  std::vector<u8> bytes(bytes_);
  TRY_VOID(file_.read(offset, bytes));
  order_.push_back(offset);
  Node& node = tables_[offset];
  node.place = std::prev(order_.end());
  node.table.offset = offset;
  node.table.bytes = std::move(bytes);
  return &node.table;
}

TableCache::Table& TableCache::fresh(u64 offset) {
  drop(offset);
  make_room();
  order_.push_back(offset);
  Node& node = tables_[offset];
  node.place = std::prev(order_.end());
  node.table.offset = offset;
  node.table.bytes.assign(bytes_, 0);
  node.table.linked = false;
  ++fresh_;
  mark(node.table);
  return node.table;
}

void TableCache::drop(u64 offset) {
  auto found = tables_.find(offset);
  if (found == tables_.end()) return;
  std::erase(dirty_, &found->second.table);
  fresh_ -= !found->second.table.linked;
  order_.erase(found->second.place);
  tables_.erase(found);
}

void TableCache::mark(Table& table) {
  if (table.dirty) return;
  table.dirty = true;
  dirty_.push_back(&table);
}

Result<> TableCache::write(bool linked) {
  std::sort(dirty_.begin(), dirty_.end(),
            [](const Table* a, const Table* b) { return a->offset < b->offset; });
  for (size_t i = 0; i < dirty_.size();) {
    Table& table = *dirty_[i];
    if (table.linked != linked) {
      ++i;
      continue;
    }
    TRY_VOID(file_.write(table.offset, table.bytes));
    table.dirty = false;
    dirty_.erase(dirty_.begin() + static_cast<ptrdiff_t>(i));
  }
  return {};
}

void TableCache::link_written() {
  if (fresh_ == 0) return;
  for (auto& [offset, node] : tables_) {
    if (node.table.linked || node.table.dirty) continue;
    node.table.linked = true;
    --fresh_;
  }
}

}  // namespace skerry::storage::qcow2
