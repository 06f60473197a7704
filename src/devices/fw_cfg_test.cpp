#include "devices/fw_cfg.hpp"

#include "base/bits.hpp"
#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct FwCfgTest : testing::Test {
  std::string read(u16 key, size_t n) {
    fw.ports().write(0, 2, key);
    std::string text;
    for (size_t i = 0; i < n; ++i) text += static_cast<char>(fw.ports().read(1, 1));
    return text;
  }
  /// Runs one DMA command; the control word afterwards.
  u32 dma(u32 control, u32 length, u64 address) {
    EXPECT_TRUE(memory->write_value(0x1000, __builtin_bswap32(control)));
    EXPECT_TRUE(memory->write_value(0x1004, __builtin_bswap32(length)));
    EXPECT_TRUE(memory->write_value(0x1008, __builtin_bswap64(address)));
    fw.dma_ports().write(0, 4, 0);
    fw.dma_ports().write(4, 4, __builtin_bswap32(0x1000));
    return __builtin_bswap32(*memory->read_value<u32>(0x1000));
  }
  std::string ram(u64 at, size_t n) {
    std::string text(n, 0);
    EXPECT_TRUE(memory->read(at, {reinterpret_cast<u8*>(text.data()), n}));
    return text;
  }

  std::unique_ptr<memory::GuestMemory> memory = *memory::GuestMemory::create(1 * MiB);
  FwCfg fw{*memory};
};

TEST_F(FwCfgTest, SignatureAndFeatures) {
  EXPECT_EQ(read(0, 5), std::string("QEMU\0", 5));
  EXPECT_EQ(read(1, 4), std::string("\3\0\0\0", 4));
  EXPECT_EQ(__builtin_bswap64(fw.dma_ports().read(0, 8)), 0x51454d5520434647u);
  EXPECT_EQ(fw.dma_ports().read(0, 4), 0x554d4551u) << "QEMU";
  EXPECT_EQ(fw.dma_ports().read(4, 4), 0x47464320u) << " CFG";
}

TEST_F(FwCfgTest, KeysAndFiles) {
  fw.set_u64(FwCfg::ram_size, 0x12345678);
  EXPECT_EQ(read(3, 4), "\x78\x56\x34\x12");
  fw.set_string(FwCfg::kernel_cmdline, "quiet");
  EXPECT_EQ(read(9, 6), std::string("quiet\0", 6));
  ASSERT_TRUE(fw.add_file("etc/b", {1, 2, 3}));
  ASSERT_TRUE(fw.add_file("etc/a", {9}));
  ASSERT_TRUE(fw.add_file("etc/a", {7, 7}));
  auto directory = read(0x19, 4 + 2 * 64);
  EXPECT_EQ(directory.substr(0, 4), std::string("\0\0\0\2", 4));
  EXPECT_EQ(directory.substr(4, 14), std::string("\0\0\0\2\0\x21\0\0etc/a\0", 14));
  EXPECT_EQ(directory.substr(68, 14), std::string("\0\0\0\3\0\x20\0\0etc/b\0", 14));
  EXPECT_EQ(read(0x20, 3), "\1\2\3");
  EXPECT_EQ(read(0x21, 2), "\7\7");
  EXPECT_FALSE(fw.add_file("", {}));
  EXPECT_FALSE(fw.add_file(std::string(56, 'x'), {}));
  for (int i = 0; i < 300; ++i) (void)fw.add_file(fmt::format("f{}", i), {});
  EXPECT_FALSE(fw.add_file("one too many", {}));
  EXPECT_EQ(read(0x7777, 3), std::string(3, 0)) << "unknown keys are empty";
}

TEST_F(FwCfgTest, Dma) {
  ASSERT_TRUE(fw.add_file("x", {'a', 'b', 'c', 'd', 'e', 'f'}));
  EXPECT_EQ(dma(0x20'0000 | 8 | 2, 3, 0x2000), 0u);
  EXPECT_EQ(ram(0x2000, 4), std::string("abc\0", 4));
  EXPECT_EQ(dma(4, 1, 0), 0u) << "skip";
  EXPECT_EQ(dma(2, 4, 0x2000), 0u);
  EXPECT_EQ(ram(0x2000, 4), std::string("ef\0\0", 4)) << "zeros after the end";
  EXPECT_TRUE(memory->dirty().test(0x2000));
  EXPECT_EQ(dma(0x20'0000 | 8, 0, 0), 0u) << "select alone";
  EXPECT_EQ(fw.ports().read(1, 1), u64{'a'});
}

TEST_F(FwCfgTest, HostileDma) {
  ASSERT_TRUE(fw.add_file("x", {1, 2, 3}));
  EXPECT_EQ(dma(0x20'0000 | 8 | 16, 3, 0x2000), 1u) << "write is refused";
  EXPECT_EQ(dma(0x20'0000 | 8 | 2, 3, 1 * MiB - 1), 1u) << "outside RAM";
  EXPECT_EQ(dma(0x20'0000 | 8 | 2, 3, ~u64{0} - 1), 1u);
  EXPECT_EQ(dma(0x20'0000 | 8 | 2, 0xffffffff, 0x2000), 1u) << "4 GiB of zeros";
  EXPECT_EQ(dma(4, 0xffffffff, 0), 0u);
  EXPECT_EQ(dma(4, 0xffffffff, 0), 0u);
  EXPECT_EQ(fw.ports().read(1, 1), 0u);
  fw.dma_ports().write(0, 4, 0xffffffff);
  fw.dma_ports().write(4, 4, 0xffffffff);  // a command that is nowhere
  fw.dma_ports().write(3, 2, 1);
  fw.ports().write(1, 1, 0);
}

TEST_F(FwCfgTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<FwCfg::State>().empty());
  fw.ports().write(0, 2, 0);
  fw.ports().read(1, 1);
  fw.dma_ports().write(0, 4, 0x01000000);
  FwCfg other(*memory);
  move_state(fw, other);
  EXPECT_EQ(other.ports().read(1, 1), u64{'E'});
}

}  // namespace
}  // namespace skerry::devices
