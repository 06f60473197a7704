#include "vmm/stats.hpp"

#include <gtest/gtest.h>

namespace skerry::vmm {
namespace {

TEST(Stats, TableHasEveryCounterOfEveryCpuAndTheTotal) {
  Stats stats;
  stats.engine = "soft";
  stats.guest_time = 12'034'000'000;
  stats.vcpus = {{{"instructions", 1'234'567}, {"halts", 2}}, {{"instructions", 1'000}}};
  stats.resident = 300 * MiB, stats.peak_resident = 310 * MiB + 512 * KiB;
  stats.guest_memory = 260 * MiB;
  EXPECT_EQ(stats_text(stats),
            "Statistics, engine soft, 12.034 s of guest time\n"
            "                                                cpu0                cpu1"
            "               total\n"
            "instructions                               1,234,567               1,000"
            "           1,235,567\n"
            "halts                                              2                   0"
            "                   2\n"
            "resident memory, peak                      310.5 MiB\n"
            "resident memory now                        300.0 MiB\n"
            "  the guest's RAM                          260.0 MiB\n"
            "  all else                                  40.0 MiB\n");
}

TEST(Stats, OneCpuOrManyShowTheTotalAlone) {
  for (size_t cpus : {1, 64}) {
    Stats stats;
    stats.vcpus.assign(cpus, {{"halts", 3}});
    std::string text = stats_text(stats);
    EXPECT_EQ(text.find("cpu0"), std::string::npos);
    EXPECT_NE(text.find(fmt::format("{:>20}\n", 3 * cpus)), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace skerry::vmm
