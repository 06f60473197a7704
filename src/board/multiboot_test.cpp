// Multiboot 1 and PVH: what the kernel finds when it starts.
#include <gtest/gtest.h>

#include "board/loader.hpp"
#include "board/synthetic_kernels.hpp"

namespace skerry::board {
namespace {

using machine::CpuState;
using synthetic::Image;

class Kernel : public testing::Test {
 protected:
  Kernel() : memory(memory::GuestMemory::create(64 * MiB).value()) {
    context.e820 = build_e820(*memory);
    context.rsdp = 0xe0000;
    files.kernel.name = "dir/kernel.elf";
    files.kernel.args = "one two";
  }
  Result<CpuState> boot(const Image& image) {
    files.kernel.bytes = image;
    return load_kernel_bytes(*memory, files, context);
  }
  u32 at(Gpa where) { return memory->read_value<u32>(where).value(); }
  u64 long_at(Gpa where) { return memory->read_value<u64>(where).value(); }
  u8 byte_at(Gpa where) { return memory->read_value<u8>(where).value(); }
  std::string string(Gpa where) {
    std::string s;
    while (u8 c = byte_at(where++)) s += static_cast<char>(c);
    return s;
  }
  std::unique_ptr<memory::GuestMemory> memory;
  BootFiles files;
  BootContext context;
};

class Multiboot : public Kernel {};
class Pvh : public Kernel {};

TEST_F(Multiboot, CpuStateAndInformation) {
  Image module1(5000, 0x11), module2(3, 0x22);
  files.modules = {{"mod/a", module1, "x=1 y"}, {"b", module2, ""}};
  for (bool is_64 : {false, true}) {
    auto s = boot(synthetic::multiboot_elf(is_64)).value();
    EXPECT_EQ(s.gpr[machine::rax], 0x2badb002u);
    EXPECT_EQ(s.rip, 0x200020u);
    EXPECT_EQ(s.cr0 & 0x80000001, 1u);
    EXPECT_EQ(s.rflags & 0x20200, 0u);
    EXPECT_EQ(s.seg[machine::cs].attributes, 0xc09bu);
    EXPECT_EQ(s.seg[machine::ss].limit, 0xffffffffu);

    Gpa info = s.gpr[machine::rbx];
    u32 flags = at(info);
    EXPECT_EQ(flags & 0x24d, 0x24du) << "memory, command line, modules, map, loader name";
    EXPECT_EQ(flags & 0x1810, 0u) << "no a.out symbols, no video";
    EXPECT_EQ(at(info + 4), 639u);
    EXPECT_EQ(at(info + 8), 63 * 1024u);
    EXPECT_EQ(string(at(info + 16)), "dir/kernel.elf one two");
    EXPECT_EQ(string(at(info + 64)), "Skerry");

    ASSERT_EQ(at(info + 20), 2u);
    Gpa list = at(info + 24);
    EXPECT_EQ(at(list) % 4096, 0u);
    EXPECT_GE(at(list), 0x202000u) << "above the kernel";
    EXPECT_EQ(at(list + 4) - at(list), 5000u);
    EXPECT_EQ(byte_at(at(list) + 4999), 0x11);
    EXPECT_EQ(string(at(list + 8)), "mod/a x=1 y");
    EXPECT_EQ(at(list + 16) % 4096, 0u);
    EXPECT_GE(at(list + 16), at(list + 4));
    EXPECT_EQ(at(list + 20) - at(list + 16), 3u);
    EXPECT_EQ(string(at(list + 24)), "b");

    Gpa map = at(info + 48), end = map + at(info + 44);
    u64 ram = 0;
    unsigned entries = 0;
    for (; map < end; map += at(map) + 4, ++entries)
      if (at(map + 20) == 1) ram += long_at(map + 12);
    EXPECT_EQ(map, end);
    EXPECT_EQ(entries, context.e820.size());
    EXPECT_EQ(ram, 64 * MiB - 0x60400);
  }
}

TEST_F(Multiboot, ElfIsLoadedAndItsBssCleared) {
  ASSERT_TRUE(memory->fill(0x200000, 0xee, 0x3000));
  ASSERT_TRUE(boot(synthetic::multiboot_elf()));
  EXPECT_EQ(at(0x200000), 0x1badb002u);
  EXPECT_EQ(byte_at(0x2000c7), 0x90);
  for (Gpa a = 0x2000c8; a < 0x202000; ++a) ASSERT_EQ(byte_at(a), 0);
  EXPECT_EQ(byte_at(0x202000), 0xee);
}

TEST_F(Multiboot, AHigherHalfEntryBecomesPhysical) {
  Image code = synthetic::multiboot_header(0);
  code.resize(100);
  auto s = boot(synthetic::elf(false, 0xc0200030, {{1, 0x200000, 0xc0200000, code, 0}}));
  ASSERT_TRUE(s);
  EXPECT_EQ(s->rip, 0x200030u);
}

TEST_F(Multiboot, AddressFields) {
  ASSERT_TRUE(memory->fill(0x100000, 0xee, 0x3000));
  Image image = synthetic::multiboot_flat();
  auto s = boot(image);
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_EQ(s->rip, 0x100080u);
  for (size_t i = 0; i < image.size(); ++i) ASSERT_EQ(byte_at(0x100000 + i), image[i]);
  for (Gpa a = 0x100200; a < 0x102000; ++a) ASSERT_EQ(byte_at(a), 0);
  EXPECT_EQ(byte_at(0x102000), 0xee);
}

TEST_F(Multiboot, AddressFieldsWinOverElf) {
  Image code = synthetic::multiboot_header(0x10000);
  for (u32 field : {0x300000u, 0x300000u, 0u, 0u, 0x300004u})
    synthetic::put(code, code.size(), field);
  auto s = boot(synthetic::elf(false, 0x200000, {{1, 0x200000, 0x200000, code, 0}}));
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_EQ(s->rip, 0x300004u);
  EXPECT_EQ(at(0x300000), 0x1badb002u);
}

TEST_F(Multiboot, ContradictoryAddressFields) {
  EXPECT_FALSE(boot(synthetic::multiboot_flat(0x100800))) << "more than the file has";
  EXPECT_FALSE(boot(synthetic::multiboot_flat(0xfffff))) << "end below the start";
  EXPECT_FALSE(boot(synthetic::multiboot_flat(0x100200, 0x100100))) << "bss end inside the data";
  EXPECT_FALSE(boot(synthetic::multiboot_flat(0, 0xfffffff0))) << "beyond memory";
  Image image = synthetic::multiboot_flat();
  synthetic::put(image, 64 + 12, u32{0x200000});
  EXPECT_FALSE(boot(image)) << "the load address would be before the file";
}

TEST_F(Multiboot, HeaderIsFoundOnlyAlignedAndInTheFirst8KiB) {
  Image header = synthetic::multiboot_header(0);
  auto with_header_at = [&](size_t offset) {
    Image code(offset, 0);
    code.insert(code.end(), header.begin(), header.end());
    code.resize(9000);
    return synthetic::elf(false, 0x200000, {{1, 0x200000, 0x200000, code, 0}});
  };
  size_t before = synthetic::elf(false, 0, {{}}).size();  // of the segment's contents in the file
  before = align_up(before, 16);
  EXPECT_TRUE(boot(with_header_at(8192 - 12 - before)));
  EXPECT_FALSE(boot(with_header_at(8192 - 8 - before)));
  EXPECT_FALSE(boot(with_header_at(102)));
  header[8] ^= 1;
  EXPECT_FALSE(boot(with_header_at(100))) << "wrong checksum";
}

TEST_F(Multiboot, RequiredFeaturesThatAreNotThere) {
  auto s = boot(synthetic::multiboot_elf(false, 0x8));
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("0x8"), std::string::npos);
  // mode_type is the word at header + 32: 0 in this image's padding would be 0x90909090.
  EXPECT_FALSE(boot(synthetic::multiboot_elf(false, 4))) << "graphics";
  Image text = synthetic::multiboot_elf(false, 4);
  for (size_t i = 0; i + 4 < text.size(); ++i)
    if (load<u32>(&text[i]) == 0x1badb002) synthetic::put(text, i + 32, u32{1});
  EXPECT_TRUE(boot(text)) << "text mode";
  EXPECT_TRUE(boot(synthetic::multiboot_elf(false, 0x20000))) << "optional features are ignored";
}

TEST_F(Multiboot, InitrdIsTheFirstModule) {
  Image initrd(10, 7);
  files.modules = {{"initrd.img", initrd, ""}};
  files.has_initrd = true;
  auto s = boot(synthetic::multiboot_elf()).value();
  Gpa info = s.gpr[machine::rbx];
  EXPECT_EQ(at(info + 20), 1u);
  EXPECT_EQ(string(at(at(info + 24) + 8)), "initrd.img");
}

TEST_F(Multiboot, ElfSectionsAreHandedOver) {
  // Two sections: null and 24 bytes of symbols that no segment loads.
  Image image = synthetic::multiboot_elf();
  size_t symbols = image.size();
  for (int i = 0; i < 24; ++i) image.push_back(static_cast<u8>(0x40 + i));
  size_t table = align_up(image.size(), 4);
  image.resize(table + 80);
  synthetic::put(image, table + 40 + 4, u32{2});  // SHT_SYMTAB
  synthetic::put(image, table + 40 + 16, static_cast<u32>(symbols));
  synthetic::put(image, table + 40 + 20, u32{24});
  synthetic::put(image, 0x20, static_cast<u32>(table));
  synthetic::put(image, 0x2e, u16{40});
  synthetic::put(image, 0x30, u16{2});
  synthetic::put(image, 0x32, u16{1});
  auto s = boot(image).value();
  Gpa info = s.gpr[machine::rbx];
  EXPECT_TRUE(at(info) & 32);
  EXPECT_EQ(at(info + 28), 2u);
  EXPECT_EQ(at(info + 32), 40u);
  EXPECT_EQ(at(info + 40), 1u);
  Gpa section = at(info + 36) + 40;
  EXPECT_GE(at(section + 12), 0x202000u);
  EXPECT_EQ(byte_at(at(section + 12) + 23), 0x40 + 23);
}

TEST_F(Multiboot, TooManySectionsAreLeftOut) {
  for (u16 count : {u16{4096}, u16{65535}}) {
    Image image = synthetic::multiboot_elf();
    size_t table = image.size();
    image.resize(table + 40 * size_t{count});
    for (size_t i = 0; i < count; ++i) {
      synthetic::put(image, table + 40 * i + 4, u32{2});
      synthetic::put(image, table + 40 * i + 20, u32{1});
    }
    synthetic::put(image, 0x20, static_cast<u32>(table));
    synthetic::put(image, 0x2e, u16{40});
    synthetic::put(image, 0x30, count);
    auto s = boot(image);
    ASSERT_TRUE(s) << s.error().message();
    EXPECT_EQ(bool(at(s->gpr[machine::rbx]) & 32), count == 4096);
  }
}

TEST_F(Multiboot, ModuleThatDoesNotFit) {
  Image big(63 * MiB);
  files.modules = {{"big", big, ""}};
  auto s = boot(synthetic::multiboot_elf());
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().message().find("--memory 66M"), std::string::npos) << s.error().message();
}

TEST_F(Multiboot, SegmentsInBadPlaces) {
  Image code = synthetic::multiboot_header(0);
  code.resize(100);
  auto with = [&](std::vector<synthetic::Segment> segments) {
    return boot(synthetic::elf(false, 0x200000, segments));
  };
  EXPECT_FALSE(with({{1, 0xa0000, 0xa0000, code, 0}})) << "video memory";
  EXPECT_FALSE(with({{1, 0xfffffff0, 0, code, 0}})) << "wraps";
  EXPECT_FALSE(with({{1, 0x200000, 0, code, 0}, {1, 0x200010, 0, code, 0}})) << "overlap";
  EXPECT_FALSE(with({{1, 0x200000, 0, code, 0xffffffff}})) << "4 GiB of bss";
  EXPECT_TRUE(with({{1, 0x200000, 0, code, 0}, {1, 0x8000, 0, code, 0}})) << "low memory is RAM";
}

TEST_F(Pvh, StartInformation) {
  Image initrd(5000, 0x33), module(10, 0x44);
  files.modules = {{"initrd", initrd, ""}, {"m", module, "args"}};
  files.has_initrd = true;
  for (bool is_64 : {true, false}) {
    auto s = boot(synthetic::pvh(is_64));
    ASSERT_TRUE(s) << s.error().message();
    EXPECT_EQ(s->rip, 0x200010u);
    EXPECT_EQ(s->cr0, 0x11u);
    EXPECT_EQ(s->cr4, 0u);
    EXPECT_EQ(s->efer, 0u);
    EXPECT_EQ(s->tr.limit, 0x67u);
    EXPECT_EQ(s->tr.attributes, 0x8bu);
    Gpa info = s->gpr[machine::rbx];
    EXPECT_EQ(at(info), 0x336ec578u);
    EXPECT_EQ(at(info + 4), 1u);
    EXPECT_EQ(at(info + 12), 2u);
    EXPECT_EQ(string(long_at(info + 24)), "one two");
    EXPECT_EQ(long_at(info + 32), 0xe0000u);
    Gpa list = long_at(info + 16);
    EXPECT_EQ(long_at(list + 8), 5000u);
    EXPECT_EQ(byte_at(long_at(list) + 4999), 0x33);
    EXPECT_EQ(long_at(list + 16), 0u);
    EXPECT_EQ(string(long_at(list + 32 + 16)), "args");
    ASSERT_EQ(at(info + 48), context.e820.size());
    Gpa map = long_at(info + 40);
    for (size_t i = 0; i < context.e820.size(); ++i) {
      EXPECT_EQ(long_at(map + 24 * i), context.e820[i].start);
      EXPECT_EQ(long_at(map + 24 * i + 8), context.e820[i].size);
      EXPECT_EQ(at(map + 24 * i + 16), u32(context.e820[i].type));
    }
  }
}

TEST_F(Pvh, ElfWithoutANoteSaysWhatIsMissing) {
  auto s = boot(synthetic::elf(true, 0x200000, {{1, 0x200000, 0x200000, Image(10), 0}}));
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().message().find("PVH"), std::string::npos);
  EXPECT_NE(s.error().message().find("bzImage"), std::string::npos);
}

}  // namespace
}  // namespace skerry::board
