#include <gtest/gtest.h>

#include "vmm/gdb_packet.hpp"
#include "vmm/gdb_registers.hpp"

namespace skerry::vmm {
namespace {

std::span<const u8> bytes_of(const std::string& s) {
  return {reinterpret_cast<const u8*>(s.data()), s.size()};
}

TEST(GdbStream, cuts_packets_out_of_any_fragmentation) {
  std::string stream = "+" + gdb_frame("qC") + "\x03" + gdb_frame("a}b#c$d*e");
  GdbStream in;
  std::vector<GdbStream::Item> items;
  for (char c : stream) {
    in.feed({reinterpret_cast<const u8*>(&c), 1});
    while (auto item = in.next()) items.push_back(*item);
  }
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[0].body, "qC");
  EXPECT_EQ(items[1].kind, GdbStream::Item::Kind::interrupt);
  EXPECT_EQ(items[2].body, "a}b#c$d*e");
}

TEST(GdbStream, reports_damage_and_bounds_what_it_keeps) {
  GdbStream in;
  in.feed(bytes_of("$qC#00"));
  EXPECT_EQ(in.next()->kind, GdbStream::Item::Kind::damaged);
  in.feed(bytes_of("$" + std::string(GdbStream::kLimit + 10, 'x')));
  EXPECT_FALSE(in.next());
  in.feed(bytes_of(gdb_frame("?")));
  EXPECT_EQ(in.next()->body, "?");
}

TEST(GdbHex, converts_both_ways_and_refuses_rubbish) {
  u8 data[] = {0x00, 0xff, 0x5a};
  EXPECT_EQ(to_hex(data), "00ff5a");
  EXPECT_EQ(*from_hex("00ff5A"), std::string("\x00\xff\x5a", 3));
  EXPECT_FALSE(from_hex("0"));
  EXPECT_FALSE(from_hex("zz"));
  std::string_view text = "1f,2";
  EXPECT_EQ(take_hex(text), 0x1fu);
  EXPECT_EQ(text, ",2");
}

TEST(GdbRegisters, every_register_of_the_description_reads_and_writes) {
  machine::CpuState state;
  std::string xml = gdb_target_description();
  size_t described = 0;
  for (size_t at = xml.find("<reg "); at != std::string::npos; at = xml.find("<reg ", at + 1))
    ++described;
  EXPECT_EQ(described, gdb_register_count());
  for (unsigned i = 0; i < gdb_register_count(); ++i) {
    std::string value = gdb_read_register(state, i);
    EXPECT_TRUE(gdb_write_register(state, i, value)) << i;
    EXPECT_FALSE(gdb_write_register(state, i, value + "x")) << i;
  }
  EXPECT_FALSE(gdb_write_register(state, gdb_register_count(), "12345678"));
}

TEST(GdbRegisters, come_in_gdbs_order) {
  machine::CpuState state;
  state.gpr[machine::rbx] = 0x1122334455667788;
  state.rip = 0xabcdef;
  EXPECT_EQ(to_hex(bytes_of(gdb_read_register(state, 1))), "8877665544332211");
  EXPECT_EQ(to_hex(bytes_of(gdb_read_register(state, 16))), "efcdab0000000000");
  EXPECT_EQ(gdb_read_register(state, 17).size(), 4u);   // eflags
  EXPECT_EQ(gdb_read_register(state, 24).size(), 10u);  // st0
}

}  // namespace
}  // namespace skerry::vmm
