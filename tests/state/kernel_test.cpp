// A Debian kernel and its user space are saved and loaded in the middle, many times over, and end
// as if nothing had happened. Needs the guests of tests/guests/make. $SKERRY_STATE_SEED chooses
// other moments.
#include <gtest/gtest.h>

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>

#include "guest_run.hpp"

namespace skerry::state_test {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

fs::path guests() {
  if (const char* at = ::getenv("SKERRY_GUESTS")) return at;
  const char *cache = ::getenv("XDG_CACHE_HOME"), *home = ::getenv("HOME");
  return (cache && *cache ? fs::path(cache) : fs::path(home ? home : "/") / ".cache") /
         "skerry/guests";
}

constexpr std::string_view kChecks[] = {
    "uname", "cpus", "memory", "clocksource", "date",      "sleep",      "float",
    "fork",  "pipe", "hwrng",  "disk_read",   "disk_hash", "disk_write", "kernel"};

class Kernel : public testing::TestWithParam<unsigned> {};

TEST_P(Kernel, ends_as_if_it_had_not_been_moved) {
  const unsigned cpus = GetParam();
  fs::path kernel = guests() / "cloud-6.1";
  if (!fs::exists(kernel / "initrd") || !fs::exists(guests() / "disk.img"))
    GTEST_SKIP() << "no guest image " << kernel << "; make it with: tests/guests/make";
  fs::path disk = fs::temp_directory_path() / fmt::format("skerry-state-{}.img", ::getpid());
  fs::copy_file(guests() / "disk.img", disk, fs::copy_options::overwrite_existing);

  schema::MachineSpec spec;
  spec.memory.count = 192 * MiB;
  spec.cpus = cpus;
  spec.kernel = kernel / "vmlinuz";
  spec.initrd = kernel / "initrd";
  spec.append =
      fmt::format("console=ttyS0 panic=-1 skerry.check skerry.cpus={} skerry.epoch={}", cpus,
                  std::chrono::system_clock::to_time_t(std::chrono::system_clock::now()));
  spec.disks.push_back({disk.string(), schema::DiskFormat::raw, false});

  const char* chosen = ::getenv("SKERRY_STATE_SEED");
  u32 seed = chosen ? static_cast<u32>(std::atoi(chosen)) : 7 + cpus;
  std::mt19937 random(seed);
  const char* scale = ::getenv("SKERRY_TEST_SCALE");
  double stretch = scale ? std::atof(scale) : 1;

  Transcript transcript;
  auto built = build(spec, transcript);
  ASSERT_TRUE(built) << built.error().message();
  std::unique_ptr<board::Board> board = std::move(*built);
  // A round trip after some time, and after some of the guest's checks, so that all phases have
  // some however fast the host is.
  auto begin = steady_clock::now();
  auto pause_at = [&] {
    return steady_clock::now() +
           std::chrono::milliseconds(static_cast<int>(stretch * (200 + random() % 4000)));
  };
  // The first while the kernel boots, which takes less than a second on translated code.
  auto next = begin + std::chrono::milliseconds(100 + random() % 200);
  size_t next_check = 1 + random() % 2;
  unsigned trips_in_boot = 0, trips_in_user_space = 0;
  std::optional<machine::Machine::Outcome> outcome;
  board->machine().resume();
  while (steady_clock::now() - begin < std::chrono::seconds(static_cast<int>(900 * stretch))) {
    outcome = board->machine().wait_request(10);
    if (outcome) break;
    size_t checks = transcript.count("SKERRY-CHECK:");
    if (steady_clock::now() < next && checks < next_check) continue;
    board->machine().pause();
    ++(transcript.count("SKERRY-INIT") ? trips_in_user_space : trips_in_boot);
    auto tripped = round_trip(spec, transcript, board);
    ASSERT_TRUE(tripped) << tripped.error().message();
    board->machine().resume();
    next = pause_at();
    next_check = checks + 1 + random() % 3;
  }
  board->machine().pause();
  std::string said = transcript.text();
  RecordProperty("trips", static_cast<int>(trips_in_boot + trips_in_user_space));
  EXPECT_TRUE(outcome && outcome->what == machine::Request::power_off);
  EXPECT_GE(trips_in_boot, 1u);
  EXPECT_GE(trips_in_user_space, 4u);
  EXPECT_EQ(said.find("FAILED"), std::string::npos);
  for (std::string_view check : kChecks)
    EXPECT_NE(said.find(fmt::format("SKERRY-CHECK: {} ok", check)), std::string::npos) << check;
  EXPECT_EQ(transcript.count("SKERRY-CHECK: done"), 1u);
  std::printf("%u round trips while booting, %u in user space, seed %u\n", trips_in_boot,
              trips_in_user_space, seed);
  if (HasFailure()) std::printf("%s\n", said.c_str());
  board.reset();
  fs::remove(disk);
}

INSTANTIATE_TEST_SUITE_P(Cpus, Kernel, testing::Values(1u, 2u));

}  // namespace
}  // namespace skerry::state_test
