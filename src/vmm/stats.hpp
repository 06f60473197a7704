// What `skerry run --stats` prints at the end of a run: every vCPU's counters, and the process's
// memory. Reading them needs a paused machine.
#pragma once

#include <string>
#include <vector>

#include "machine/machine.hpp"

namespace skerry::vmm {

struct Stats {
  std::string engine;
  Nanos guest_time = 0;                              ///< the machine's clock: pauses do not count
  std::vector<std::vector<machine::Counter>> vcpus;  ///< of each vCPU
  u64 resident = 0, peak_resident = 0;               ///< bytes, of the whole process
  u64 guest_memory = 0;                              ///< bytes of RAM that the guest has touched
  struct Device {
    std::string name;
    std::vector<machine::Counter> counters;
  };
  std::vector<Device> devices;  ///< those that count something
};
/// `since`: the machine's clock when it began to run.
Stats read_stats(machine::Machine& machine, Nanos since);

/// A table with a column for each vCPU (the total alone where there are many), then the memory.
std::string stats_text(const Stats& stats);

}  // namespace skerry::vmm
