#include "vmm/stats.hpp"

#include <sys/stat.h>

#include <algorithm>

#include "base/fd.hpp"

namespace skerry::vmm {
namespace {

constexpr size_t kMostColumns = 8;

/// "VmHWM:    1234 kB" of /proc/self/status, in bytes.
u64 status_line(const std::string& status, const char* name) {
  size_t at = status.find(name);
  if (at == std::string::npos) return 0;
  return std::strtoull(status.c_str() + at + std::strlen(name), nullptr, 10) * KiB;
}

std::string grouped(u64 value) {
  std::string digits = fmt::format("{}", value);
  for (size_t at = digits.size(); at > 3;)
    digits.insert(digits.begin() + static_cast<long>(at -= 3), ',');
  return digits;
}

std::string in_mib(u64 bytes) {
  return fmt::format("{}.{} MiB", bytes / MiB, bytes % MiB * 10 / MiB);
}

}  // namespace

Stats read_stats(machine::Machine& machine, Nanos since) {
  Stats stats;
  stats.engine = machine.engine().name();
  stats.guest_time = machine.clock().now() - since;
  for (unsigned i = 0; i < machine.cpus(); ++i) stats.vcpus.push_back(machine.cpu(i).counters());
  {
    std::lock_guard guard(machine.lock());
    for (const auto& device : machine.devices())
      if (auto counters = device->counters(); !counters.empty())
        stats.devices.push_back({device->name(), std::move(counters)});
  }
  if (auto status = read_file("/proc/self/status")) {
    stats.resident = status_line(*status, "VmRSS:");
    stats.peak_resident = status_line(*status, "VmHWM:");
  }
  struct stat file {};
  if (::fstat(machine.memory().fd(), &file) == 0)
    stats.guest_memory = static_cast<u64>(file.st_blocks) * 512;
  return stats;
}

std::string stats_text(const Stats& stats) {
  // In the order of first appearance; a vCPU may lack some.
  std::vector<std::string_view> names;
  for (const auto& counters : stats.vcpus)
    for (const machine::Counter& c : counters)
      if (std::ranges::find(names, c.name) == names.end()) names.push_back(c.name);

  const size_t columns = stats.vcpus.size() > kMostColumns ? 0 : stats.vcpus.size();
  std::string text =
      fmt::format("Statistics, engine {}, {}.{:03} s of guest time\n{:<32}", stats.engine,
                  stats.guest_time / 1'000'000'000, stats.guest_time / 1'000'000 % 1000, "");
  if (columns != 1)
    for (size_t i = 0; i < columns; ++i) text += fmt::format("{:>20}", fmt::format("cpu{}", i));
  text += fmt::format("{:>20}\n", "total");
  for (std::string_view name : names) {
    u64 total = 0;
    text += fmt::format("{:<32}", name);
    for (size_t i = 0; i < stats.vcpus.size(); ++i) {
      u64 sum = 0;
      for (const machine::Counter& c : stats.vcpus[i])
        if (c.name == name) sum += c.value;
      total += sum;
      if (i < columns && columns != 1) text += fmt::format("{:>20}", grouped(sum));
    }
    text += fmt::format("{:>20}\n", grouped(total));
  }
  text += fmt::format("{:<32}{:>20}\n", "resident memory, peak", in_mib(stats.peak_resident));
  text += fmt::format("{:<32}{:>20}\n", "resident memory now", in_mib(stats.resident));
  text += fmt::format("{:<32}{:>20}\n", "  the guest's RAM", in_mib(stats.guest_memory));
  text += fmt::format("{:<32}{:>20}\n", "  all else",
                      in_mib(stats.resident - std::min(stats.resident, stats.guest_memory)));
  return text;
}

}  // namespace skerry::vmm
