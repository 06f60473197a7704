// The memory map, SMBIOS and MP tables as a guest reads them.
#include <gtest/gtest.h>

#include "board/e820.hpp"
#include "board/mptable.hpp"
#include "board/smbios.hpp"

namespace skerry::board {
namespace {

u8 sum(std::span<const u8> bytes) {
  u8 s = 0;
  for (u8 b : bytes) s = static_cast<u8>(s + b);
  return s;
}

u64 ram_in(const E820Map& map) {
  u64 total = 0;
  for (const E820Entry& e : map)
    if (e.type == E820Type::ram) total += e.size;
  return total;
}

TEST(E820, IsSortedWithoutOverlapsAndAccountsForAllRam) {
  for (u64 size : {2 * MiB, 512 * MiB, memory::kHoleStart + 0, 8 * GiB}) {
    auto memory = memory::GuestMemory::create(size).value();
    E820Map map = build_e820(*memory);
    for (size_t i = 1; i < map.size(); ++i) EXPECT_LE(map[i - 1].end(), map[i].start);
    EXPECT_EQ(ram_in(map), size - (kOneMiB - kEbda));
    for (const E820Entry& e : map)
      if (e.type == E820Type::ram) {
        EXPECT_TRUE(memory->host(e.start, e.size));
      }
  }
}

TEST(E820, RamAboveTheHole) {
  auto memory = memory::GuestMemory::create(8 * GiB).value();
  E820Map map = build_e820(*memory);
  EXPECT_EQ(map.back(), (E820Entry{4 * GiB, 8 * GiB - memory::kHoleStart, E820Type::ram}));
}

TEST(HighWindow, IsAboveRamAndBelowTheAddressLimit) {
  for (u64 ram : {1 * GiB, 8 * GiB, 512 * GiB})
    for (unsigned bits : {36u, 40u, 46u}) {
      Window w = high_window(ram, bits);
      if (!w.size) continue;
      EXPECT_GE(w.start, ram + 4 * GiB - memory::kHoleStart);
      EXPECT_LE(w.end(), u64{1} << bits);
    }
  EXPECT_EQ(high_window(512 * GiB, 36).size, 0u);
  EXPECT_GT(high_window(1 * GiB, 36).size, 0u);
}

TEST(Smbios, StructuresCanBeWalkedToTheEnd) {
  auto memory = memory::GuestMemory::create(8 * GiB).value();
  SmbiosConfig config;
  config.name = "machine one";
  config.cpus = 3;
  config.memory = 8 * GiB;
  ASSERT_TRUE(build_smbios(config).install(*memory));
  std::array<u8, 24> anchor;
  ASSERT_TRUE(memory->read(kSmbiosArea.start, anchor));
  EXPECT_EQ(std::string(anchor.begin(), anchor.begin() + 5), "_SM3_");
  EXPECT_EQ(sum(anchor), 0);
  std::array<u8, 31> old;
  ASSERT_TRUE(memory->read(kSmbiosArea.start + 0x20, old));
  EXPECT_EQ(std::string(old.begin(), old.begin() + 4), "_SM_");
  EXPECT_EQ(sum(old), 0);
  EXPECT_EQ(sum(std::span(old).subspan(16)), 0);

  std::vector<u8> t(load<u32>(&anchor[12]));
  ASSERT_TRUE(memory->read(load<u64>(&anchor[16]), t));
  std::vector<int> types;
  u64 memory_mib = 0;
  for (size_t at = 0; at < t.size();) {
    ASSERT_LE(at + 4, t.size());
    u8 type = t[at], length = t[at + 1];
    ASSERT_GE(length, 4);
    types.push_back(type);
    if (type == 17) memory_mib += load<u16>(&t[at + 0x0c]);
    size_t end = at + length;
    while (end + 1 < t.size() && (t[end] || t[end + 1])) ++end;
    std::string strings(t.begin() + static_cast<i64>(at) + length,
                        t.begin() + static_cast<i64>(end));
    if (type == 1) {
      EXPECT_NE(strings.find("machine one"), strings.npos);
    }
    at = end + 2;
  }
  EXPECT_EQ(types, (std::vector<int>{0, 1, 3, 4, 16, 17, 19, 19, 32, 127}));
  EXPECT_EQ(load<u16>(&old[28]), types.size());
  EXPECT_EQ(memory_mib, 8192u);
}

TEST(Smbios, AnyMemorySizeFits) {
  auto memory = memory::GuestMemory::create(2 * MiB).value();
  for (u64 size : {2 * MiB, 40 * GiB, 1024 * GiB}) {
    SmbiosConfig config;
    config.name = std::string(500, 'x');
    config.cpus = 255;
    config.memory = size;
    EXPECT_TRUE(build_smbios(config).install(*memory)) << size;
  }
}

TEST(MpTable, EntriesAddUp) {
  auto bytes = build_mptable({4, 0, 0x806f8, 0x1fff}, 0xf8000);
  EXPECT_EQ(std::string(bytes.begin(), bytes.begin() + 4), "_MP_");
  EXPECT_EQ(sum(std::span(bytes).first(16)), 0);
  EXPECT_EQ(load<u32>(&bytes[4]), 0xf8010u);
  std::span<const u8> table(&bytes[16], load<u16>(&bytes[20]));
  ASSERT_EQ(table.size(), bytes.size() - 16);
  EXPECT_EQ(sum(table), 0);
  unsigned count = 0, cpus = 0;
  for (size_t at = 44; at < table.size(); ++count) {
    ASSERT_LE(table[at], 4);
    cpus += table[at] == 0;
    at += table[at] == 0 ? 20 : 8;
    ASSERT_LE(at, table.size());
  }
  EXPECT_EQ(count, load<u16>(&table[34]));
  EXPECT_EQ(cpus, 4u);
}

TEST(MpTable, FitsWithTheMostProcessors) {
  auto memory = memory::GuestMemory::create(2 * MiB).value();
  EXPECT_TRUE(install_mptable(*memory, {255, 0, 0, 0}));
}

}  // namespace
}  // namespace skerry::board
