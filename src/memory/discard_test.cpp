#include "memory/discard.hpp"

#include <gtest/gtest.h>

#include <sys/stat.h>

namespace skerry::memory {
namespace {

u64 used(const GuestMemory& memory) {
  struct stat file {};
  ::fstat(memory.fd(), &file);
  return static_cast<u64>(file.st_blocks) * 512;
}

TEST(Discard, WholePagesGoBackToTheHostAndReadAsZeros) {
  auto m = std::move(GuestMemory::create(4 * MiB)).value();
  ASSERT_TRUE(m->fill(0, 0xaa, 4 * MiB));
  u64 before = used(*m);
  EXPECT_EQ(discard(*m, MiB + 100, MiB), MiB - kPageSize);
  EXPECT_EQ(used(*m), before - (MiB - kPageSize));
  EXPECT_EQ(*m->read_value<u8>(MiB + 100), 0xaa);
  EXPECT_EQ(*m->read_value<u8>(MiB + kPageSize - 1), 0xaa);
  EXPECT_EQ(*m->read_value<u8>(MiB + kPageSize), 0);
  EXPECT_EQ(*m->read_value<u8>(2 * MiB - 1), 0);
  EXPECT_EQ(*m->read_value<u8>(2 * MiB), 0xaa);
  ASSERT_TRUE(m->write_value<u8>(MiB + kPageSize, 1));  // and they come back
  EXPECT_EQ(*m->read_value<u8>(MiB + kPageSize), 1);
}

TEST(Discard, IsAWriteToWhoeverWatchesMemory) {
  auto m = std::move(GuestMemory::create(1 * MiB)).value();
  m->dirty().descriptor(5 * kPageSize).granules = 1;
  u32 version = m->dirty().descriptor(5 * kPageSize).version;
  std::vector<u64> changed;
  m->dirty().code_changed = [&](u64 page) { changed.push_back(page); };
  (void)m->dirty().take();
  EXPECT_EQ(discard(*m, 5 * kPageSize, 2 * kPageSize), 2 * kPageSize);
  EXPECT_EQ(m->dirty().take()[0], 0x60u);
  EXPECT_EQ(changed, std::vector<u64>{5});
  EXPECT_NE(m->dirty().descriptor(5 * kPageSize).version, version);
}

TEST(Discard, NothingOutsideMemory) {
  auto m = std::move(GuestMemory::create(5 * GiB)).value();
  EXPECT_EQ(discard(*m, kHoleStart - kPageSize, 2 * kPageSize), 0u);
  EXPECT_EQ(discard(*m, kHoleStart, kPageSize), 0u);
  EXPECT_EQ(discard(*m, ~u64{0} - 10, 100), 0u);
  EXPECT_EQ(discard(*m, 0, ~u64{0}), 0u);
  EXPECT_EQ(discard(*m, 10, 100), 0u);
  ASSERT_TRUE(m->write_value<u32>(kHighStart, 7));
  EXPECT_EQ(discard(*m, kHighStart, kPageSize), kPageSize);
  EXPECT_EQ(*m->read_value<u32>(kHighStart), 0u);
}

}  // namespace
}  // namespace skerry::memory
