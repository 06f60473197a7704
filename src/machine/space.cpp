#include "machine/space.hpp"

#include <algorithm>

namespace skerry::machine {

Space::Space(std::mutex& lock) : lock_(lock), table_(std::make_shared<const Table>()) {}
Space::~Space() = default;

void Space::map(u64 start, u64 size, Registers& registers, std::string name) {
  SKERRY_CHECK(size != 0 && start + size - 1 >= start);
  std::lock_guard guard(change_);
  Table table = *table_.load();
  table.push_back({start, size, &registers, std::move(name)});
  publish(std::move(table));
}

void Space::unmap(u64 start, Registers& registers) {
  std::lock_guard guard(change_);
  Table table = *table_.load();
  std::erase_if(table,
                [&](const Entry& e) { return e.start == start && e.registers == &registers; });
  publish(std::move(table));
}

void Space::publish(Table table) {
  table_.store(std::make_shared<const Table>(std::move(table)));
}

// The last one that fits wins. Tables have some twenty rows, so a scan beats anything clever.
const Space::Entry* Space::find(const Table& table, u64 at) const {
  for (auto e = table.rbegin(); e != table.rend(); ++e)
    if (at - e->start < e->size) return &*e;
  return nullptr;
}

u64 Space::read(u64 at, unsigned size) {
  if (!is_power_of_two(size)) {
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= read(at + i, 1) << (8 * i);
    return value;
  }
  std::shared_ptr<const Table> table = table_.load();
  const Entry* e = find(*table, at);
  u64 value = ~u64{0};
  if (e) {
    std::lock_guard guard(lock_);
    value = e->registers->read(at - e->start, size);
  }
  value &= byte_mask(size);
  trace(Trace::io, "read  {:#x} size {} = {:#x} ({})", at, size, value, e ? e->name : "nothing");
  return value;
}

void Space::write(u64 at, unsigned size, u64 value) {
  if (!is_power_of_two(size)) {
    for (unsigned i = 0; i < size; ++i) write(at + i, 1, (value >> (8 * i)) & 0xff);
    return;
  }
  std::shared_ptr<const Table> table = table_.load();
  const Entry* e = find(*table, at);
  trace(Trace::io, "write {:#x} size {} = {:#x} ({})", at, size, value, e ? e->name : "nothing");
  if (!e) return;
  std::lock_guard guard(lock_);
  e->registers->write(at - e->start, size, value & byte_mask(size));
}

std::string Space::dump() const {
  Table table = *table_.load();
  std::ranges::sort(table, {}, &Entry::start);
  std::string text;
  for (const Entry& e : table)
    text += fmt::format("{:#012x}-{:#012x} {}\n", e.start, e.start + e.size - 1, e.name);
  return text;
}

}  // namespace skerry::machine
