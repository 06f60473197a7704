// Space: which device answers at an address, for I/O ports and for memory.
//
// The table is immutable and published by pointer, so vCPUs look up without waiting for a change of
// it. Accesses are made with the board lock held: it serialises devices, timers and backend
// completions of one machine. An access that no device claims reads all ones and writes nothing.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "machine/device.hpp"

namespace skerry::machine {

class Space {
 public:
  /// `lock` is the board lock.
  explicit Space(std::mutex& lock);
  ~Space();

  /// Maps [start, start + size) to `registers`, whose offset 0 is at `start`. Later mappings win
  /// where they overlap (PCI lets a guest do that). May be called with the board lock held.
  void map(u64 start, u64 size, Registers& registers, std::string name);
  /// Removes the mappings of `registers` that begin at `start`.
  void unmap(u64 start, Registers& registers);

  /// vCPU threads; take the board lock. Accesses of size 1, 2, 4, 8 (Mmio also 3, 5, 6, 7: split).
  u64 read(u64 at, unsigned size);
  void write(u64 at, unsigned size, u64 value);

  /// "start-end name" lines in address order, for people.
  std::string dump() const;

 private:
  struct Entry {
    u64 start, size;
    Registers* registers;
    std::string name;
  };
  using Table = std::vector<Entry>;
  const Entry* find(const Table& table, u64 at) const;
  void publish(Table table);

  std::mutex& lock_;
  std::atomic<std::shared_ptr<const Table>> table_;
  std::mutex change_;
};

}  // namespace skerry::machine
