#include "storage/qcow2.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "storage/copy.hpp"
#include "storage/memory_disk.hpp"
#include "storage/qcow2_check.hpp"
#include "storage/recording_file.hpp"

namespace skerry::storage {
namespace {

std::unique_ptr<RecordingFile> new_image(const NewQcow2& wanted) {
  auto file = std::make_unique<RecordingFile>();
  EXPECT_TRUE(create_qcow2(*file, wanted));
  return file;
}

std::unique_ptr<Qcow2> open_new(const NewQcow2& wanted, std::unique_ptr<Disk> backing = nullptr) {
  return Qcow2::open(new_image(wanted), std::move(backing), {}).value();
}

std::vector<u8> bytes_of(Disk& disk, u64 offset, u64 length) {
  std::vector<u8> out(length);
  auto read = disk.read(offset, out);
  EXPECT_TRUE(read) << read.error().message();
  return out;
}

void expect_clean(File& file, bool leaks_too = true) {
  auto report = check_qcow2(file, Repair::none);
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_EQ(report->corruptions, 0u) << report->messages.front();
  if (leaks_too) {
    EXPECT_EQ(report->leaks, 0u);
  }
}

TEST(Qcow2, EveryWidthOfRefcounts) {
  for (unsigned order = 0; order <= 6; ++order) {
    SCOPED_TRACE(order);
    auto file = new_image({.size = 4 * MiB, .cluster_bits = 9, .refcount_order = order});
    std::vector<u8> data(4 * MiB, 0x5a);
    RecordingFile kept;
    {
      file->recording = false;
      auto* raw = file.get();
      auto disk = Qcow2::open(std::move(file), nullptr, {}).value();
      ASSERT_TRUE(disk->write(0, data));
      ASSERT_TRUE(disk->discard(MiB, MiB));
      ASSERT_TRUE(disk->flush());
      ASSERT_TRUE(disk->flush());  // what the first one set free
      expect_clean(*raw);
      EXPECT_EQ(bytes_of(*disk, MiB - 512, 1024)[511], 0x5a);
      EXPECT_EQ(bytes_of(*disk, MiB - 512, 1024)[512], 0);
    }
  }
}

TEST(Qcow2, SpaceThatWasFreedIsUsedAgain) {
  auto disk = open_new({.size = 16 * MiB});
  std::vector<u8> data(8 * MiB, 1);
  for (int round = 0; round < 6; ++round) {
    ASSERT_TRUE(disk->write(0, data));
    ASSERT_TRUE(disk->discard(0, 8 * MiB));
    ASSERT_TRUE(disk->flush());
  }
  EXPECT_LT(disk->file().size().value(), 9 * MiB);
}

TEST(Qcow2, ZerosHideTheBackingDisk) {
  auto base = std::make_unique<MemoryDisk>(MiB, true);
  std::fill(base->bytes.begin(), base->bytes.end(), u8{7});
  auto disk = open_new({.size = 2 * MiB, .backing_file = "base"}, std::move(base));
  EXPECT_EQ(bytes_of(*disk, MiB - 512, 1024)[511], 7);
  EXPECT_EQ(bytes_of(*disk, MiB - 512, 1024)[512], 0);
  ASSERT_TRUE(disk->write_zeroes(1000 * 512, 300 * 512, true));
  EXPECT_EQ(bytes_of(*disk, 999 * 512, 512)[0], 7);
  EXPECT_EQ(bytes_of(*disk, 1000 * 512, 300 * 512), std::vector<u8>(300 * 512));
  EXPECT_EQ(bytes_of(*disk, 1300 * 512, 512)[0], 7);
  auto e = disk->extent(0, MiB).value();
  EXPECT_EQ(e.depth, 1u);
  ASSERT_TRUE(disk->drop_all());
  EXPECT_EQ(bytes_of(*disk, 1000 * 512, 512)[0], 7);
}

TEST(Qcow2, CompressedClustersAreWrittenOver) {
  for (auto kind : {qcow2::Compression::zlib, qcow2::Compression::zstd}) {
    auto disk = open_new({.size = MiB, .compression = kind});
    std::vector<u8> text(64 * KiB);
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<u8>(i / 100);
    for (u64 at = 0; at < MiB; at += text.size()) ASSERT_TRUE(disk->write_compressed(at, text));
    EXPECT_TRUE(disk->extent(0, MiB).value().compressed);
    std::vector<u8> sector(512, 0xee);
    ASSERT_TRUE(disk->write(128 * KiB + 1024, sector));
    ASSERT_TRUE(disk->flush());
    std::vector<u8> now = text;
    std::copy(sector.begin(), sector.end(), now.begin() + 1024);
    EXPECT_EQ(bytes_of(*disk, 128 * KiB, text.size()), now);
    EXPECT_EQ(bytes_of(*disk, 192 * KiB, text.size()), text);
    expect_clean(disk->file(), false);
  }
}

TEST(Qcow2, ManyThreadsAtOnce) {
  auto disk = open_new({.size = 4 * MiB, .cluster_bits = 12});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {  // each has every fourth sector, so they share clusters
      std::mt19937 random(t);
      std::map<u64, u8> mine;
      for (int i = 0; i < 2000; ++i) {
        u64 sector = random() % (4 * MiB / 512 / 4) * 4 + t;
        std::vector<u8> data(512);
        if (mine.contains(sector)) {
          wrong += !disk->read(sector * 512, data) || data[3] != mine[sector];
        }
        auto value = static_cast<u8>(random());
        std::fill(data.begin(), data.end(), value);
        wrong += !disk->write(sector * 512, data);
        mine[sector] = value;
        if (i % 100 == 99) wrong += !disk->flush();
      }
      for (auto [sector, value] : mine) wrong += bytes_of(*disk, sector * 512, 512)[9] != value;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  ASSERT_TRUE(disk->flush());
  expect_clean(disk->file());
}

TEST(Qcow2, AFileThatTakesNoMoreIsAnErrorAndNothingElse) {
  auto file = new_image({.size = 16 * MiB});
  RecordingFile* raw = file.get();
  raw->most_bytes = MiB;
  auto disk = Qcow2::open(std::move(file), nullptr, {}).value();
  std::vector<u8> data(64 * KiB, 3);
  u64 at = 0;
  while (disk->write(at, data)) at += data.size();
  EXPECT_GT(at, 512 * KiB);
  raw->most_bytes = 64 * MiB;
  ASSERT_TRUE(disk->write(at, data));
  ASSERT_TRUE(disk->flush());
  EXPECT_EQ(bytes_of(*disk, 0, at + data.size()), std::vector<u8>(at + data.size(), 3));
  expect_clean(*raw);
}

TEST(Qcow2, Resize) {
  auto base = std::make_unique<MemoryDisk>(2 * MiB, true);
  std::fill(base->bytes.begin(), base->bytes.end(), u8{7});
  auto disk = open_new({.size = MiB, .cluster_bits = 9, .backing_file = "base"}, std::move(base));
  ASSERT_TRUE(disk->resize(3 * MiB));
  EXPECT_EQ(bytes_of(*disk, MiB - 512, 512)[0], 7);
  EXPECT_EQ(bytes_of(*disk, MiB, 2 * MiB), std::vector<u8>(2 * MiB));
  ASSERT_TRUE(disk->resize(512));
  ASSERT_TRUE(disk->resize(MiB));
  EXPECT_EQ(bytes_of(*disk, 0, 512)[0], 7);
  EXPECT_EQ(bytes_of(*disk, 512, MiB - 512), std::vector<u8>(MiB - 512));
  expect_clean(disk->file(), false);
}

struct Folder {
  Folder() {
    char name[] = "/tmp/skerry-images-XXXXXX";
    path = std::string(::mkdtemp(name)) + "/";
  }
  ~Folder() {
    for (auto& f : files) ::unlink(f.c_str());
    ::rmdir(path.c_str());
  }
  std::string operator()(const std::string& name) { return files.emplace_back(path + name); }
  std::string path;
  std::vector<std::string> files;
};

TEST(Image, AFormatIsNeverBelievedFromTheFirstBytes) {
  Folder folder;
  std::string honest = folder("disk.qcow2"), unclear = folder("disk.img"), raw = folder("disk.raw");
  CreateOptions options{.format = Format::qcow2, .qcow2 = {.size = MiB}};
  for (auto& path : {honest, unclear, raw}) ASSERT_TRUE(create_image(path, options));
  EXPECT_EQ(open_image(honest, {}).value().format, Format::qcow2);
  EXPECT_EQ(open_image(raw, {}).value().format, Format::raw);
  auto refused = open_image(unclear, {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().hint.find("format=qcow2"), std::string::npos);
  EXPECT_EQ(open_image(unclear, {.format = Format::raw}).value().format, Format::raw);
  EXPECT_EQ(open_image(unclear, {.format = Format::qcow2}).value().format, Format::qcow2);
}

TEST(Image, ChainsAreBounded) {
  Folder folder;
  std::string last = folder("0.qcow2");
  ASSERT_TRUE(create_image(last, {.format = Format::qcow2, .qcow2 = {.size = MiB}}));
  for (unsigned i = 1; i <= kMaxChain; ++i) {
    std::string next = folder(fmt::format("{}.qcow2", i));
    auto file = HostFile::open(next, {.create = true}).value();
    ASSERT_TRUE(create_qcow2(
        *file,
        {.size = MiB, .backing_file = fmt::format("{}.qcow2", i - 1), .backing_format = "qcow2"}));
    last = next;
  }
  EXPECT_TRUE(open_image(folder.path + fmt::format("{}.qcow2", kMaxChain - 1), {}));
  auto longer = open_image(last, {});
  ASSERT_FALSE(longer);
  EXPECT_NE(longer.error().what.find("in a chain"), std::string::npos);
}

TEST(Image, AnOverlayLeavesItsBaseAlone) {
  auto base = std::make_unique<MemoryDisk>(MiB, true);
  base->bytes[100] = 9;
  auto* raw = base.get();
  auto disk = open_overlay(std::move(base)).value();
  std::vector<u8> data(512, 1);
  ASSERT_TRUE(disk->write(0, data));
  ASSERT_TRUE(disk->flush());
  EXPECT_EQ(bytes_of(*disk, 0, 512), data);
  EXPECT_EQ(raw->bytes[100], 9);
  EXPECT_EQ(raw->bytes[0], 0);
}

TEST(HostFile, DirectTakesWhatIsNotAligned) {
  Folder folder;
  std::string path = folder("direct.raw");
  ASSERT_TRUE(create_image(path, {.qcow2 = {.size = 64 * KiB + 512}}));
  auto disk = RawDisk::open(path, {.direct = true});
  if (!disk) GTEST_SKIP() << disk.error().message();
  std::vector<u8> data(1536, 4), more(512, 5);
  ASSERT_TRUE((*disk)->write(512, data));
  ASSERT_TRUE((*disk)->write(64 * KiB, more));
  auto all = bytes_of(**disk, 0, 64 * KiB + 512);
  EXPECT_EQ(all[511], 0);
  EXPECT_EQ(all[512], 4);
  EXPECT_EQ(all[2047], 4);
  EXPECT_EQ(all[2048], 0);
  EXPECT_EQ(all[64 * KiB + 511], 5);
  auto file = HostFile::open(path, {.readonly = true, .unlocked = true}).value();
  EXPECT_EQ(file->size().value(), 64 * KiB + 512);
}

}  // namespace
}  // namespace skerry::storage
