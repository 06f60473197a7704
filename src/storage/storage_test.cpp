#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "storage/disk_worker.hpp"
#include "storage/raw_disk.hpp"

namespace skerry::storage {
namespace {

struct TempFile {
  explicit TempFile(u64 size) {
    char name[] = "/tmp/skerry-disk-XXXXXX";
    Fd fd(::mkstemp(name));
    path = name;
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  }
  ~TempFile() { ::unlink(path.c_str()); }
  std::string path;
};

iovec part(std::string& s) {
  return {s.data(), s.size()};
}

TEST(RawDisk, ScattersAndGathers) {
  TempFile file(4096);
  auto disk = RawDisk::open(file.path, {}).value();
  EXPECT_EQ(disk->size(), 4096u);
  std::string a(512, 'a'), b(1024, 'b'), c(512, 0), d(1024, 0);
  iovec out[] = {part(a), part(b)};
  ASSERT_TRUE(disk->writev(512, out));
  ASSERT_TRUE(disk->flush());
  iovec in[] = {part(d), part(c)};
  ASSERT_TRUE(disk->readv(512, in));
  EXPECT_EQ(d, std::string(512, 'a') + std::string(512, 'b'));
  EXPECT_EQ(c, std::string(512, 'b'));
}

TEST(RawDisk, RefusesWhatIsOutside) {
  TempFile file(1024);
  auto disk = RawDisk::open(file.path, {}).value();
  std::string sector(512, 'x');
  iovec one[] = {part(sector)}, three[] = {part(sector), part(sector), part(sector)};
  EXPECT_FALSE(disk->writev(1024, one));
  EXPECT_FALSE(disk->writev(~u64{0} - 511, one));
  EXPECT_FALSE(disk->readv(0, three));
  EXPECT_TRUE(disk->writev(512, one));
}

TEST(RawDisk, MoreSegmentsThanOneCallTakes) {
  TempFile file(2 * MiB);
  auto disk = RawDisk::open(file.path, {}).value();
  std::string data(3000 * 512, 0);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i / 512);
  std::vector<iovec> parts;
  for (size_t i = 0; i < 3000; ++i) parts.push_back({data.data() + 512 * i, 512});
  ASSERT_TRUE(disk->writev(0, parts));
  std::string back(data.size(), 1);
  iovec all[] = {part(back)};
  ASSERT_TRUE(disk->readv(0, all));
  EXPECT_EQ(back, data);
}

TEST(RawDisk, ErrorsSayHowToMend) {
  auto missing = RawDisk::open("/nonexistent/disk.img", {});
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("/nonexistent/disk.img"), std::string::npos);
  EXPECT_NE(missing.error().hint.find("skerry image create"), std::string::npos);

  EXPECT_FALSE(RawDisk::open("/tmp", {.readonly = true}));
  EXPECT_FALSE(RawDisk::open("/dev/null", {}));
  TempFile tiny(100);
  auto small = RawDisk::open(tiny.path, {});
  ASSERT_FALSE(small);
  EXPECT_NE(small.error().what.find("100 bytes"), std::string::npos);
}

TEST(RawDisk, ReadOnlyFileSaysAddReadonly) {
  TempFile file(1024);
  ::chmod(file.path.c_str(), 0444);
  pid_t child = ::fork();
  if (child == 0) {  // root may write every file, so become somebody else
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) < 0) ::_exit(3);
    auto disk = RawDisk::open(file.path, {});
    bool good = !disk && disk.error().hint.find(",readonly") != std::string::npos &&
                RawDisk::open(file.path, {.readonly = true});
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(RawDisk, SizeIsRoundedDown) {
  TempFile file(1024 + 17);
  EXPECT_EQ(RawDisk::open(file.path, {}).value()->size(), 1024u);
}

TEST(RawDisk, OneWriterOrManyReaders) {
  TempFile file(1024);
  {
    auto writer = RawDisk::open(file.path, {}).value();
    auto second = RawDisk::open(file.path, {});
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().what.find("another machine"), std::string::npos);
    EXPECT_FALSE(RawDisk::open(file.path, {.readonly = true}));
  }
  auto reader = RawDisk::open(file.path, {.readonly = true}).value();
  EXPECT_TRUE(RawDisk::open(file.path, {.readonly = true}));
  EXPECT_FALSE(RawDisk::open(file.path, {}));
  std::string sector(512, 'x');
  iovec one[] = {part(sector)};
  EXPECT_FALSE(reader->writev(0, one));
}

TEST(RawDisk, AFileThatShrankIsAnError) {
  TempFile file(4096);
  auto disk = RawDisk::open(file.path, {}).value();
  ASSERT_EQ(::truncate(file.path.c_str(), 1024), 0);
  std::string sector(512, 0);
  iovec one[] = {part(sector)};
  EXPECT_TRUE(disk->readv(512, one));
  EXPECT_FALSE(disk->readv(2048, one));
}

TEST(DiskWorker, DoesJobsAndTells) {
  TempFile file(4096);
  auto disk = RawDisk::open(file.path, {}).value();
  std::atomic<int> told = 0;
  std::string a(512, 'a'), b(512, 0);
  DiskWorker worker(*disk, [&] { ++told; });
  worker.submit({1, DiskWorker::Op::write, 0, {part(a)}, true, {}});
  worker.wait_idle();
  worker.submit({2, DiskWorker::Op::read, 0, {part(b)}, false, {}});
  worker.submit({3, DiskWorker::Op::read, 8192, {part(b)}, false, {}});
  worker.submit({4, DiskWorker::Op::flush, 0, {}, false, {}});
  worker.wait_idle();
  EXPECT_EQ(told, 1);  // once until somebody takes
  auto done = worker.take();
  ASSERT_EQ(done.size(), 4u);
  for (auto& d : done) EXPECT_EQ(d.result.has_value(), d.job.token != 3);
  EXPECT_EQ(b, a);
  worker.submit({5, DiskWorker::Op::zero, 0, {}, false, {{0, 1024, true}}});
  worker.wait_idle();
  EXPECT_EQ(told, 2);
  worker.submit({6, DiskWorker::Op::read, 0, {part(b)}, false, {}});
  worker.wait_idle();
  EXPECT_EQ(b, std::string(512, 0));
}

TEST(DiskWorker, with_one_thread_jobs_end_in_order) {
  TempFile file(4 * MiB);
  auto disk = RawDisk::open(file.path, {}).value();
  std::string large(4 * MiB, 'a'), small(512, 'b');
  DiskWorker worker(*disk, [] {});
  worker.set_threads(1);
  std::vector<u64> ended;
  for (u64 round = 0; round < 20; ++round) {
    for (u64 i = 0; i < 4; ++i)
      worker.submit({4 * round + i, DiskWorker::Op::read, 0, {part(i ? small : large)}, false, {}});
    while (ended.size() < 4 * (round + 1))
      for (const auto& done : worker.take()) ended.push_back(done.job.token);
  }
  EXPECT_TRUE(std::is_sorted(ended.begin(), ended.end()));
}

struct DiskRings : testing::TestWithParam<bool> {
  void SetUp() override {
    auto made = DiskRing::create();
    if (!made) GTEST_SKIP() << made.error().message();
    ring = std::move(*made);
  }
  std::unique_ptr<DiskRing> ring;
};

// More at once than the ring has entries, so that some go to threads; O_DIRECT or through the
// cache.
TEST_P(DiskRings, ManyAtOnce) {
  constexpr u64 kBlock = 4096, kBlocks = 1200;
  TempFile file(kBlock * kBlocks);
  auto opened = RawDisk::open(file.path, {.direct = GetParam()});
  if (!opened) GTEST_SKIP() << opened.error().message();
  std::atomic<int> told = 0;
  DiskWorker worker(
      **opened, [&] { ++told; }, std::move(ring));
  EXPECT_GE(worker.event(), 0);
  std::unique_ptr<u8, decltype(&std::free)> memory(
      static_cast<u8*>(std::aligned_alloc(kBlock, kBlock * kBlocks)), &std::free);
  auto job = [&](DiskWorker::Op op, u64 i, bool durable) {
    // Every tenth is not aligned, which O_DIRECT does not take as it is.
    u64 skip = i % 10 ? 0 : 512;
    u8* at = memory.get() + i * kBlock + skip;
    return DiskWorker::Job{i, op, i * kBlock + skip, {{at, 512}, {at + 512, 512}}, durable, {}};
  };
  for (u64 i = 0; i < kBlocks; ++i)
    std::memset(memory.get() + i * kBlock, static_cast<int>(i % 251 + 1), kBlock);
  for (u64 i = 0; i < kBlocks; ++i) worker.submit(job(DiskWorker::Op::write, i, i % 97 == 0));
  worker.submit({kBlocks, DiskWorker::Op::flush, 0, {}, false, {}});
  std::vector<DiskWorker::Done> done;
  auto take = [&] {
    for (auto& d : worker.take()) done.push_back(std::move(d));
  };
  for (int i = 0; done.size() <= kBlocks && i < 20'000; ++i) {
    worker.begin();
    take();
    if (done.size() <= kBlocks) ::usleep(500);
  }
  ASSERT_EQ(done.size(), kBlocks + 1);
  for (auto& d : done) EXPECT_TRUE(d.result) << d.result.error().what;
  std::memset(memory.get(), 0, kBlock * kBlocks);
  for (u64 i = 0; i < kBlocks; ++i) worker.submit(job(DiskWorker::Op::read, i, false));
  worker.wait_idle();
  EXPECT_EQ(worker.take().size(), kBlocks);
  for (u64 i = 0; i < kBlocks; ++i) {
    u64 skip = i % 10 ? 0 : 512;
    for (u64 k = 0; k < 1024; ++k)
      ASSERT_EQ(memory.get()[i * kBlock + skip + k], i % 251 + 1) << i << ' ' << k;
  }
}

// The ring hands back what fails; the threads say what it is.
TEST_P(DiskRings, FailuresAreNamed) {
  TempFile file(64 * KiB);
  auto opened = RawDisk::open(file.path, {.direct = GetParam()});
  if (!opened) GTEST_SKIP() << opened.error().message();
  DiskWorker worker(
      **opened, [] {}, std::move(ring));
  std::unique_ptr<u8, decltype(&std::free)> memory(static_cast<u8*>(std::aligned_alloc(4096, 8192)),
                                                   &std::free);
  ASSERT_EQ(::truncate(file.path.c_str(), 4096), 0);
  worker.submit({1, DiskWorker::Op::read, 0, {{memory.get(), 4096}}, false, {}});
  worker.submit({2, DiskWorker::Op::read, 0, {{memory.get(), 8192}}, false, {}});  // the half of it
  worker.submit({3, DiskWorker::Op::read, 8192, {{memory.get(), 4096}}, false, {}});
  worker.submit({4, DiskWorker::Op::read, 0, {{nullptr, 4096}}, false, {}});  // EFAULT
  worker.submit({5, DiskWorker::Op::flush, 0, {}, false, {}});
  worker.wait_idle();
  auto done = worker.take();
  ASSERT_EQ(done.size(), 5u);
  for (auto& d : done)
    EXPECT_EQ(d.result.has_value(), d.job.token == 1 || d.job.token == 5) << d.job.token;
  EXPECT_NE(done[1].result.error().what.find("became shorter"), std::string::npos);
  EXPECT_EQ(done[3].result.error().code, EFAULT);
}

INSTANTIATE_TEST_SUITE_P(CachedAndDirect, DiskRings, testing::Bool());

}  // namespace
}  // namespace skerry::storage
