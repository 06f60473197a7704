// The power is cut at every change that an image makes to its file: what was flushed must be there,
// and nothing may be corrupt.
#include <gtest/gtest.h>

#include <algorithm>

#include "storage/memory_disk.hpp"
#include "storage/qcow2.hpp"
#include "storage/qcow2_check.hpp"
#include "storage/recording_file.hpp"

namespace skerry::storage {
namespace {

/// What a sector may hold: one value for each state since the last flush, oldest first.
class Model {
 public:
  explicit Model(std::vector<u32> start) : now_(std::move(start)), since_(now_.size()) {
    for (size_t i = 0; i < now_.size(); ++i) since_[i] = {{0, now_[i]}};
  }
  void set(u64 sector, u32 value, size_t op) {
    now_[sector] = value;
    since_[sector].push_back({op, value});
  }
  /// All that was written until now is safe once the file has seen `op` changes.
  void flushed(size_t op) { flushes_.push_back({op, since_sizes()}); }
  u32 now(u64 sector) const { return now_[sector]; }

  /// True if `value` may stand there when the file has seen `ops` changes.
  bool allowed(u64 sector, u32 value, size_t ops) const {
    size_t first = 0;
    for (const auto& [op, sizes] : flushes_)
      if (op <= ops) first = sizes[sector] - 1;
    const auto& all = since_[sector];
    for (size_t i = first; i < all.size(); ++i)
      if (all[i].second == value && (i == first || all[i].first <= ops)) return true;
    return false;
  }

 private:
  std::vector<size_t> since_sizes() const {
    std::vector<size_t> sizes;
    for (const auto& s : since_) sizes.push_back(s.size());
    return sizes;
  }
  std::vector<u32> now_;
  std::vector<std::vector<std::pair<size_t, u32>>>
      since_;  ///< begin (in changes of the file), value
  std::vector<std::pair<size_t, std::vector<size_t>>> flushes_;
};

std::vector<u8> sector_of(u32 value) {
  std::vector<u8> bytes(kSector);
  for (size_t i = 0; i < kSector; i += 4) store<u32>(&bytes[i], value);
  return bytes;
}

/// The value that fills a sector, or ~0 if it is torn.
u32 value_of(std::span<const u8> sector) {
  u32 value = load<u32>(sector.data());
  for (size_t i = 0; i < kSector; i += 4)
    if (load<u32>(&sector[i]) != value) return ~u32{0};
  return value;
}

struct Setup {
  unsigned cluster_bits = 9;
  u32 version = 3;
  u64 sectors = 1024;
  bool backing = false;
  unsigned refcount_order = 4;
  unsigned steps = 60;
};

std::unique_ptr<Disk> backing_of(const Setup& s) {
  if (!s.backing) return nullptr;
  auto disk = std::make_unique<MemoryDisk>(s.sectors * kSector / 2, true);
  for (u64 i = 0; i < s.sectors / 2; ++i) {
    auto bytes = sector_of(static_cast<u32>(0x80000000 + i));
    std::copy(bytes.begin(), bytes.end(),
              disk->bytes.begin() + static_cast<ptrdiff_t>(i * kSector));
  }
  return disk;
}

void run(const Setup& setup, unsigned seed, unsigned cuts_each) {
  SCOPED_TRACE(fmt::format("cluster 2^{} version {} backing {} seed {}", setup.cluster_bits,
                           setup.version, setup.backing, seed));
  std::mt19937 random(seed);
  std::vector<u8> start;
  {
    RecordingFile file;
    NewQcow2 wanted{.size = setup.sectors * kSector,
                    .cluster_bits = setup.cluster_bits,
                    .version = setup.version,
                    .refcount_order = setup.refcount_order};
    if (setup.backing) wanted.backing_file = "base", wanted.backing_format = "raw";
    ASSERT_TRUE(create_qcow2(file, wanted));
    start = file.bytes();
  }
  auto owned = std::make_unique<RecordingFile>(start);
  RecordingFile* file = owned.get();
  std::vector<u32> first(setup.sectors);
  for (u64 i = 0; setup.backing && i < setup.sectors / 2; ++i)
    first[i] = static_cast<u32>(0x80000000 + i);
  Model model(first);
  auto opened = Qcow2::open(std::move(owned), backing_of(setup), {});
  ASSERT_TRUE(opened) << opened.error().message();
  auto& disk = *opened;
  u64 cluster_sectors = disk->cluster() / kSector;
  std::vector<RecordingFile::Op> log;
  for (unsigned step = 0; step < setup.steps; ++step) {
    u64 at = random() % setup.sectors;
    if (random() % 4) at = at / 64 * 64 + at % 8;  // often near to each other
    u64 count = 1 + random() % std::min<u64>(setup.sectors - at, random() % 3 ? 8 : 200);
    switch (random() % 8) {
      default: {
        std::vector<u8> data;
        for (u64 i = 0; i < count; ++i) {
          u32 value = step * 4096 + static_cast<u32>(i) + 1;
          auto bytes = sector_of(value);
          data.insert(data.end(), bytes.begin(), bytes.end());
          model.set(at + i, value, file->log().size());
        }
        ASSERT_TRUE(disk->write(at * kSector, data));
        break;
      }
      case 5: {
        for (u64 i = 0; i < count; ++i) model.set(at + i, 0, file->log().size());
        ASSERT_TRUE(disk->write_zeroes(at * kSector, count * kSector, random() & 1));
        break;
      }
      case 6: {
        u64 from = align_up(at, cluster_sectors);
        u64 to =
            at + count == setup.sectors ? setup.sectors : align_down(at + count, cluster_sectors);
        bool does = setup.version >= 3 || !setup.backing;
        for (u64 i = from; does && i < to; ++i) model.set(i, 0, file->log().size());
        ASSERT_TRUE(disk->discard(at * kSector, count * kSector));
        break;
      }
      case 7: ASSERT_TRUE(disk->flush()); model.flushed(file->log().size());
    }
    std::vector<u8> got(kSector);
    u64 probe = random() % setup.sectors;
    ASSERT_TRUE(disk->read(probe * kSector, got));
    ASSERT_EQ(value_of(got), model.now(probe)) << "sector " << probe;
  }
  ASSERT_TRUE(disk->flush());
  log = file->log();
  disk.reset();

  auto verify = [&](std::vector<u8> bytes, size_t ops, const char* what) {
    SCOPED_TRACE(fmt::format("{} after {} of {} changes", what, ops, log.size()));
    auto copy = std::make_unique<RecordingFile>(std::move(bytes));
    auto report = check_qcow2(*copy, Repair::none);
    ASSERT_TRUE(report) << report.error().message();
    ASSERT_EQ(report->corruptions, 0u) << report->messages.front();
    if (report->leaks && ops % 7 == 0) {
      auto mended = check_qcow2(*copy, Repair::leaks);
      ASSERT_TRUE(mended) << mended.error().message();
      ASSERT_EQ(mended->leaks, 0u);
      ASSERT_EQ(mended->corruptions, 0u);
    }
    copy->recording = false;
    auto again = Qcow2::open(std::move(copy), backing_of(setup), {.readonly = true});
    ASSERT_TRUE(again) << again.error().message();
    std::vector<u8> all(setup.sectors * kSector);
    auto read = (*again)->read(0, all);
    ASSERT_TRUE(read) << read.error().message();
    for (u64 i = 0; i < setup.sectors; ++i) {
      u32 value = value_of(std::span(all).subspan(i * kSector, kSector));
      ASSERT_TRUE(model.allowed(i, value, ops)) << "sector " << i << " holds " << value;
    }
  };
  for (size_t ops = 0; ops <= log.size(); ++ops) {
    verify(RecordingFile::after_kill(start, log, ops), ops, "kill");
    for (unsigned i = 0; i < cuts_each; ++i)
      verify(RecordingFile::after_power_cut(start, log, ops, random), ops, "power cut");
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Qcow2Crash, TinyClusters) {
  for (unsigned seed = 1; seed <= 4; ++seed) run({.sectors = 2048}, seed, 3);
}

TEST(Qcow2Crash, OverABackingDisk) {
  for (unsigned seed = 11; seed <= 14; ++seed) run({.cluster_bits = 10, .backing = true}, seed, 3);
}

TEST(Qcow2Crash, Version2) {
  run({.version = 2}, 21, 3);
  run({.version = 2, .backing = true}, 22, 3);
}

TEST(Qcow2Crash, CommonClusters) {
  run({.cluster_bits = 12, .sectors = 4096}, 31, 2);
}

// 64 bits: few refcounts in a block, so that blocks and tables are often new.
TEST(Qcow2Crash, ManyRefcountBlocks) {
  for (unsigned seed = 41; seed <= 43; ++seed)
    run({.sectors = 8192, .refcount_order = 6, .steps = 120}, seed, 1);
}

}  // namespace
}  // namespace skerry::storage
