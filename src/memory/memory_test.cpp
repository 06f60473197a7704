#include <gtest/gtest.h>

#include "memory/guest_memory.hpp"

namespace skerry::memory {
namespace {

TEST(GuestMemory, leaves_the_hole_below_4_gib) {
  auto m = std::move(GuestMemory::create(5 * GiB)).value();
  ASSERT_EQ(m->slots().size(), 2u);
  EXPECT_EQ(m->slots()[0].end(), kHoleStart);
  EXPECT_EQ(m->slots()[1].start, kHighStart);
  EXPECT_EQ(m->slots()[0].size + m->slots()[1].size, 5 * GiB);
  EXPECT_TRUE(m->write_value<u32>(kHighStart + 16, 0x12345678));
  EXPECT_EQ(m->read_value<u32>(kHighStart + 16), 0x12345678u);
  EXPECT_FALSE(m->read_value<u8>(kHoleStart));
}

TEST(GuestMemory, refuses_what_reaches_outside_and_does_not_wrap) {
  auto m = std::move(GuestMemory::create(64 * KiB)).value();
  EXPECT_FALSE(m->write_value<u32>(64 * KiB - 2, 1));
  EXPECT_TRUE(m->write_value<u16>(64 * KiB - 2, 1));
  EXPECT_EQ(m->host(~u64{0} - 3, 8), nullptr);
  EXPECT_EQ(m->host(16, ~u64{0}), nullptr);
  EXPECT_FALSE(GuestMemory::create(0));
  EXPECT_FALSE(GuestMemory::create(u64{1} << 60));
}

TEST(GuestMemory, an_empty_span_is_no_access) {
  auto m = std::move(GuestMemory::create(64 * KiB)).value();
  EXPECT_TRUE(m->write(16, {}));
  EXPECT_TRUE(m->read(16, {}));
  EXPECT_FALSE(m->write(128 * KiB, {}));
  EXPECT_EQ(m->dirty().take()[0], 0u);
}

TEST(GuestMemory, marks_dirty_pages) {
  auto m = std::move(GuestMemory::create(1 * MiB)).value();
  EXPECT_TRUE(m->write_value<u64>(3 * kPageSize - 4, 1));  // crosses pages 2 and 3
  EXPECT_TRUE(m->dirty().test(2 * kPageSize));
  EXPECT_TRUE(m->dirty().test(3 * kPageSize));
  EXPECT_FALSE(m->dirty().test(4 * kPageSize));
  EXPECT_EQ(m->dirty().take()[0], 0b1100u);
  EXPECT_FALSE(m->dirty().test(2 * kPageSize));
}

TEST(DirtyMap, sees_stores_into_tables_until_there_are_too_many) {
  auto m = std::move(GuestMemory::create(64 * KiB)).value();
  DirtyMap& map = m->dirty();
  const u64 table = 3 * kPageSize;
  EXPECT_TRUE(m->write_value<u64>(table, 1));
  EXPECT_EQ(map.table_stores, 0u);
  EXPECT_TRUE(map.unwatched(table));
  EXPECT_TRUE(map.table_walked(table));
  EXPECT_FALSE(map.table_walked(table));
  EXPECT_FALSE(map.unwatched(table));
  for (u32 i = 1; i < kTableStores; ++i) EXPECT_TRUE(m->write_value<u64>(table + 8 * i, i));
  EXPECT_FALSE(map.table_walked(table));  // as many again
  for (u32 i = 1; i < kTableStores; ++i) EXPECT_TRUE(map.table_store(table));
  EXPECT_EQ(map.table_stores, 2 * (kTableStores - 1));
  EXPECT_EQ(map.tables_released, 0u);
  EXPECT_FALSE(map.table_store(table));
  EXPECT_FALSE(map.table_store(table));
  EXPECT_TRUE(map.unwatched(table));
  EXPECT_EQ(map.table_stores, 2 * (kTableStores - 1) + 1);
  EXPECT_EQ(map.tables_traced, 1u);
  EXPECT_EQ(map.tables_released, 1u);
  EXPECT_TRUE(map.table_walked(table));
}

}  // namespace
}  // namespace skerry::memory
