// Loading kernels: Linux and what all formats share.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/fd.hpp"
#include "board/loader.hpp"
#include "board/synthetic_kernels.hpp"

namespace skerry::board {
namespace {

using machine::CpuState;
using synthetic::Image;

struct Guest {
  std::unique_ptr<memory::GuestMemory> memory;
  BootFiles files;
  BootContext context;

  explicit Guest(u64 size = 64 * MiB) : memory(memory::GuestMemory::create(size).value()) {
    context.e820 = build_e820(*memory);
    context.rsdp = 0xe0000;
    context.physical_bits = 40;
    files.kernel.name = "kernel";
  }
  Result<CpuState> boot(const Image& image) {
    files.kernel.bytes = image;
    return load_kernel_bytes(*memory, files, context);
  }
  void initrd(const Image& bytes) {
    files.modules.insert(files.modules.begin(), {"initrd", bytes, ""});
    files.has_initrd = true;
  }
  template <class T>
  T at(Gpa where) {
    return memory->read_value<T>(where).value();
  }
  std::string string(Gpa where) {
    std::string s;
    while (char c = at<char>(where++)) s += c;
    return s;
  }
};

// The boot GDT's descriptor must say what the hidden part of the segment register says.
void expect_segments_match_gdt(Guest& g, const CpuState& s) {
  for (const machine::Segment& seg : s.seg) {
    ASSERT_LE(seg.selector + 7u, s.gdtr.limit);
    u64 d = g.at<u64>(s.gdtr.base + seg.selector);
    EXPECT_EQ((d >> 40) & 0xf0ff, seg.attributes & 0xf0ff);
    EXPECT_EQ(((d >> 32) & 0xf0000) | (d & 0xffff), seg.limit >> 12);
    EXPECT_EQ(seg.base, 0u);
  }
}

// Walks the guest's page tables.
std::optional<u64> translate(Guest& g, const CpuState& s, u64 address) {
  u64 table = s.cr3;
  for (unsigned shift = 39;; shift -= 9) {
    u64 entry = g.at<u64>(table + 8 * ((address >> shift) & 511));
    if (!(entry & 1)) return std::nullopt;
    u64 base = entry & 0xffffffffff000;
    if (shift == 12 || (entry & 0x80))
      return (base & ~((u64{1} << shift) - 1)) | (address & ((u64{1} << shift) - 1));
    table = base;
  }
}

TEST(Linux, StartsIn64BitModeWhereTheHeaderPrefers) {
  Guest g;
  g.files.kernel.args = "console=ttyS0 quiet";
  Image image = synthetic::bz_image();
  auto s = g.boot(image);
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_EQ(s->rip, 0x1000200u);
  EXPECT_EQ(s->efer, 0x500u);
  EXPECT_EQ(s->cr0 & 0x80000001, 0x80000001u);
  EXPECT_EQ(s->cr4, 0x20u);
  EXPECT_EQ(s->rflags, 2u);
  EXPECT_TRUE(s->seg[machine::cs].is_long());
  expect_segments_match_gdt(g, *s);
  for (u64 address : {u64{0}, u64{0x1000200}, u64{0xfee00123}, u64{0xffffffff}})
    EXPECT_EQ(translate(g, *s, address), address);
  for (u64 i = 0; i < 1024; ++i) ASSERT_EQ(g.at<u8>(0x1000000 + i), image[1024 + i]);

  Gpa params = s->gpr[machine::rsi];
  EXPECT_EQ(g.at<u32>(params + 0x202), 0x53726448u);
  EXPECT_EQ(g.at<u8>(params + 0x210), 0xff);
  EXPECT_EQ(g.at<u32>(params + 0x214), 0x1000000u);
  EXPECT_EQ(g.at<u64>(params + 0x70), 0xe0000u);
  EXPECT_EQ(g.string(g.at<u32>(params + 0x228)), "console=ttyS0 quiet");
  EXPECT_EQ(g.at<u32>(params + 0x218), 0u);
  ASSERT_EQ(g.at<u8>(params + 0x1e8), g.context.e820.size());
  for (size_t i = 0; i < g.context.e820.size(); ++i) {
    EXPECT_EQ(g.at<u64>(params + 0x2d0 + 20 * i), g.context.e820[i].start);
    EXPECT_EQ(g.at<u64>(params + 0x2d0 + 20 * i + 8), g.context.e820[i].size);
    EXPECT_EQ(g.at<u32>(params + 0x2d0 + 20 * i + 16), u32(g.context.e820[i].type));
  }
}

TEST(Linux, BootStructuresStayClearOfTheDecompressorsTrampoline) {
  Guest g;
  auto s = g.boot(synthetic::bz_image()).value();
  for (Gpa at : {s.cr3, s.gpr[machine::rsi], s.gdtr.base}) {
    EXPECT_GE(at, 0x1000u);
    EXPECT_LT(at, 0x90000u);
  }
}

TEST(Linux, A32BitKernelStartsInProtectedMode) {
  Guest g;
  auto s = g.boot(synthetic::bz_image({.is_64 = false})).value();
  EXPECT_EQ(s.rip, 0x1000000u);
  EXPECT_EQ(s.cr0, 0x11u);
  EXPECT_EQ(s.efer, 0u);
  EXPECT_EQ(s.seg[machine::cs].selector, 0x10);
  EXPECT_EQ(s.seg[machine::ds].selector, 0x18);
  expect_segments_match_gdt(g, s);
  for (auto r : {machine::rbx, machine::rbp, machine::rdi}) EXPECT_EQ(s.gpr[r], 0u);
  EXPECT_EQ(g.at<u32>(s.gpr[machine::rsi] + 0x202), 0x53726448u);
}

TEST(Linux, MovesWhereItFitsIfThePreferredPlaceIsBeyondMemory) {
  Guest g(8 * MiB);
  auto s = g.boot(synthetic::bz_image()).value();
  EXPECT_EQ(s.rip, 0x200200u) << "the lowest multiple of 2 MiB from 1 MiB on";
  EXPECT_EQ(g.at<u32>(s.gpr[machine::rsi] + 0x214), 0x200000u);
}

TEST(Linux, SaysHowMuchMemoryItNeeds) {
  Guest g(4 * MiB);
  auto s = g.boot(synthetic::bz_image());
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().message().find("--memory 5M"), std::string::npos) << s.error().message();
  EXPECT_TRUE(Guest(5 * MiB).boot(synthetic::bz_image()));

  auto fixed = g.boot(synthetic::bz_image({.relocatable = false}));
  ASSERT_FALSE(fixed);
  EXPECT_NE(fixed.error().message().find("--memory 19M"), std::string::npos);
  EXPECT_TRUE(Guest(19 * MiB).boot(synthetic::bz_image({.relocatable = false})));
}

TEST(Linux, InitrdIsHighButBelowTheKernelsLimit) {
  Guest g;
  Image initrd(10000, 0x5a);
  g.initrd(initrd);
  auto s = g.boot(synthetic::bz_image()).value();
  Gpa params = s.gpr[machine::rsi];
  EXPECT_EQ(g.at<u32>(params + 0x218), 64 * MiB - 12288);
  EXPECT_EQ(g.at<u32>(params + 0x21c), 10000u);
  EXPECT_EQ(g.at<u8>(64 * MiB - 12288 + 9999), 0x5a);

  s = g.boot(synthetic::bz_image({.is_64 = false, .initrd_max = 0x2ffffff})).value();
  EXPECT_EQ(g.at<u32>(s.gpr[machine::rsi] + 0x218), 48 * MiB - 12288);
}

TEST(Linux, InitrdNeverOverlapsTheKernel) {
  Guest g(8 * MiB);
  Image initrd(3 * MiB - 4096, 1);
  g.initrd(initrd);
  auto s = g.boot(synthetic::bz_image()).value();
  EXPECT_GE(g.at<u32>(s.gpr[machine::rsi] + 0x218), 0x500000u);
  Image more(4 * MiB, 1);
  g.files.modules[0].bytes = more;
  auto refused = g.boot(synthetic::bz_image());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("--memory"), std::string::npos);
}

TEST(Linux, CommandLineOfTheLargestSizeAndOneMore) {
  Guest g;
  g.files.kernel.args = std::string(2047, 'a');
  auto s = g.boot(synthetic::bz_image());
  ASSERT_TRUE(s);
  EXPECT_EQ(g.string(g.at<u32>(s->gpr[machine::rsi] + 0x228)).size(), 2047u);
  g.files.kernel.args += 'b';
  s = g.boot(synthetic::bz_image());
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().message().find("--append"), std::string::npos);
}

TEST(Linux, OldProtocolsAreRefusedByName) {
  Guest g;
  auto s = g.boot(synthetic::bz_image({.version = 0x204}));
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("2.04"), std::string::npos) << s.error().what;
}

TEST(Linux, HostileHeaderFields) {
  Guest g;
  EXPECT_FALSE(g.boot(synthetic::bz_image({.alignment = 0})));
  EXPECT_FALSE(g.boot(synthetic::bz_image({.alignment = 3})));
  EXPECT_FALSE(g.boot(synthetic::bz_image({.init_size = 0xffffffff})));
  EXPECT_FALSE(g.boot(synthetic::bz_image({.relocatable = false, .pref_address = ~u64{0} - 100})));
  EXPECT_FALSE(g.boot(synthetic::bz_image({.relocatable = false, .pref_address = 0x1000})));
  EXPECT_TRUE(g.boot(synthetic::bz_image({.pref_address = ~u64{0} - 100}))) << "it can move";
  EXPECT_TRUE(g.boot(synthetic::bz_image({.init_size = 0})));
  Image image = synthetic::bz_image();
  synthetic::put(image, 0x1f4, u32{0xffffffff});
  EXPECT_FALSE(g.boot(image));
}

TEST(Linux, ModulesAreRefused) {
  Guest g;
  Image module(10);
  g.files.modules.push_back({"m", module, ""});
  EXPECT_FALSE(g.boot(synthetic::bz_image()));
}

TEST(Loader, MemoryTypesAreOnAsFirmwareLeavesThem) {
  Guest g;
  auto s = g.boot(synthetic::bz_image()).value();
  EXPECT_EQ(s.mtrr_def_type, 0x806u);
  EXPECT_EQ(s.mtrr_variable[0], 0xb0000000u);
  EXPECT_EQ(s.mtrr_variable[1], 0xfff0000800u);
  EXPECT_EQ(s.mtrr_variable[2], 0xc0000000u);
  EXPECT_EQ(s.mtrr_variable[3], 0xffc0000800u);
}

TEST(Loader, EveryPrefixIsRefused) {
  Guest g;
  for (const Image& whole : {synthetic::bz_image(), synthetic::pvh(true), synthetic::pvh(false),
                             synthetic::multiboot_elf(false), synthetic::multiboot_elf(true),
                             synthetic::multiboot_flat(0x100200)}) {
    ASSERT_TRUE(g.boot(whole)) << g.boot(whole).error().message();
    // The last segment of an image may end before its padding.
    for (size_t size = 0; size < whole.size(); ++size) {
      Image prefix(whole.begin(), whole.begin() + static_cast<i64>(size));
      auto s = g.boot(prefix);
      ASSERT_FALSE(s) << size << " of " << whole.size();
      ASSERT_FALSE(s.error().what.empty());
    }
  }
}

TEST(Loader, AnyByteMayBeWrong) {
  Guest g(16 * MiB);
  unsigned loaded = 0;
  for (const Image& whole : {synthetic::bz_image(), synthetic::pvh(),
                             synthetic::multiboot_elf(true), synthetic::multiboot_flat()})
    for (size_t at = 0; at < std::min<size_t>(whole.size(), 0x270); ++at)
      for (u8 value : {0x00, 0x7f, 0x80, 0xff}) {
        Image image = whole;
        image[at] = value;
        if (auto s = g.boot(image)) {
          ++loaded;
          EXPECT_TRUE(g.memory->host(s->gdtr.base, s->gdtr.limit + 1));
        }
      }
  EXPECT_GT(loaded, 100u);
}

TEST(Loader, OtherFilesAreNamed) {
  Guest g;
  auto message = [&](std::string_view bytes) {
    return g.boot(Image(bytes.begin(), bytes.end())).error().message();
  };
  EXPECT_NE(message("").find("empty"), std::string::npos);
  EXPECT_NE(message("\x1f\x8b\x08 data").find("gunzip"), std::string::npos);
  EXPECT_NE(message("hello world").find("bzImage"), std::string::npos);
}

TEST(Loader, MissingAndOversizedFiles) {
  Guest g(2 * MiB);
  auto s = load_kernel(*g.memory, {"/nonexistent/kernel", "", "", {}}, g.context);
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("/nonexistent/kernel"), std::string::npos);
}

// Real kernels that an earlier test run or the user has put somewhere usual.
TEST(Loader, DebianKernelsLoad) {
  unsigned found = 0;
  std::vector<std::filesystem::path> places{"/boot", "/var/tmp"};
  if (const char* home = ::getenv("HOME"))
    places.push_back(std::filesystem::path(home) / ".cache/skerry/guests");
  for (const auto& place : places) {
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator i(
             place, std::filesystem::directory_options::skip_permission_denied, error);
         !error && i != std::filesystem::recursive_directory_iterator(); i.increment(error)) {
      if (i.depth() > 2) i.disable_recursion_pending();
      if (!i->path().filename().string().starts_with("vmlinuz")) continue;
      auto bytes = read_file(i->path());
      if (!bytes) continue;
      ++found;
      Guest g(256 * MiB);
      auto s = g.boot(Image(bytes->begin(), bytes->end()));
      EXPECT_TRUE(s) << i->path() << ": " << s.error().message();
      Image half(bytes->begin(), bytes->begin() + static_cast<i64>(bytes->size() / 2));
      EXPECT_FALSE(g.boot(half));
    }
  }
  if (!found) GTEST_SKIP() << "no vmlinuz in /boot, /var/tmp or ~/.cache/skerry/guests";
}

}  // namespace
}  // namespace skerry::board
