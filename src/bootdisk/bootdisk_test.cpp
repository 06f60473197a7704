#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/bits.hpp"
#include "base/fd.hpp"
#include "bootdisk/boot_files.hpp"
#include "bootdisk/ext4.hpp"
#include "storage/raw_disk.hpp"

namespace skerry::bootdisk {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class MemorySource final : public Source {
 public:
  explicit MemorySource(std::vector<u8> bytes) : data(std::move(bytes)) {}
  u64 size() const override { return data.size(); }
  Result<> read(u64 offset, std::span<u8> to) const override {
    if (offset > data.size() || to.size() > data.size() - offset) return fail("past the end");
    std::memcpy(to.data(), data.data() + offset, to.size());
    return {};
  }
  std::vector<u8> data;
};

std::vector<u8> bytes_of(std::string_view text) {
  return {text.begin(), text.end()};
}
/// `count` bytes that no two places share.
std::string pattern(size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::string out(count, 0);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

/// A small root filesystem with kernels, as mke2fs makes it.
class BootDisk : public testing::Test {
 protected:
  BootDisk() {
    std::string name = testing::TempDir() + "skerry-bootdisk-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    put("boot/vmlinuz-6.1.0-9-amd64", "old kernel");
    put("boot/vmlinuz-6.1.0-10-amd64", kernel_);
    put("boot/initrd.img-6.1.0-9-amd64", "old initrd");
    put("boot/initrd.img-6.1.0-10-amd64", initrd_);
    put("boot/vmlinuz-0-rescue-1234", "rescue");
    put("etc/os-release", "ID=test\n");
  }
  ~BootDisk() override { fs::remove_all(folder_); }

  void SetUp() override {
    if (std::system("PATH=$PATH:/sbin:/usr/sbin command -v mke2fs > /dev/null") != 0)
      GTEST_SKIP() << "mke2fs is missing: apt-get install e2fsprogs";
  }
  void put(const std::string& path, std::string_view content) {
    fs::path full = fs::path(folder_) / "tree" / path;
    fs::create_directories(full.parent_path());
    std::ofstream(full, std::ios::binary) << content;
  }
  std::string image_path() const { return folder_ + "/image"; }
  std::vector<u8> make(const std::string& options, const std::string& size = "16M") {
    fs::remove(image_path());
    std::string command = "PATH=$PATH:/sbin:/usr/sbin mke2fs -q " + options +
                          " -U 01234567-89ab-cdef-0123-456789abcdef -d " + folder_ + "/tree " +
                          image_path() + " " + size + " > " + folder_ + "/log 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    auto text = read_file(image_path());
    EXPECT_TRUE(text);
    return bytes_of(*text);
  }

  std::string folder_;
  const std::string kernel_ = pattern(2'000'000), initrd_ = pattern(3'000'001);
};

TEST_F(BootDisk, EveryKindOfFilesystem) {
  for (const char* options :
       {"-t ext4", "-t ext4 -b 1024", "-t ext4 -O 64bit,metadata_csum", "-t ext4 -O ^64bit",
        "-t ext4 -O meta_bg,^resize_inode -b 1024", "-t ext4 -O ^flex_bg", "-t ext4 -I 128",
        "-t ext4 -O bigalloc", "-t ext4 -O ^extents,^64bit", "-t ext3", "-t ext2 -b 1024",
        "-t ext2 -r 0 -b 4096"}) {
    MemorySource source(make(options, "24M"));
    auto files = read_boot_files(source, 16 * MiB);
    ASSERT_TRUE(files) << options << ": " << files.error().message();
    EXPECT_EQ(files->kernel_name, "/boot/vmlinuz-6.1.0-10-amd64") << options;
    EXPECT_TRUE(files->kernel == bytes_of(kernel_)) << options;
    EXPECT_TRUE(files->initrd == bytes_of(initrd_)) << options;
    EXPECT_EQ(files->root, "root=UUID=01234567-89ab-cdef-0123-456789abcdef ro") << options;
  }
}

TEST_F(BootDisk, WhatIsNotReadIsSaid) {
  auto files = read_boot_files(MemorySource(make("-t ext4 -O inline_data")), 16 * MiB);
  ASSERT_FALSE(files);
  EXPECT_THAT(files.error().what, HasSubstr("inline_data"));
}

TEST_F(BootDisk, LinksLargeDirectoriesAndHoles) {
  for (int i = 0; i < 3000; ++i) put(fmt::format("many/file-{:05}", i), fmt::format("{}", i));
  fs::path tree = folder_ + "/tree";
  fs::create_symlink("file-02999", tree / "many/relative");
  fs::create_symlink("/many/../many/relative", tree / "absolute");
  fs::create_symlink("loop", tree / "loop");
  fs::create_symlink("/" + std::string(100, '/') + "many/file-00007", tree / "long");
  { std::ofstream(tree / "holes").seekp(5'000'000).put('x'); }
  fs::resize_file(tree / "holes", 6'000'000);
  for (const char* options : {"-t ext4", "-t ext4 -b 1024", "-t ext3 -b 1024"}) {
    MemorySource source(make(options, "64M"));
    auto fs = Ext4::open(source);
    ASSERT_TRUE(fs);
    for (auto [path, content] :
         std::initializer_list<std::pair<const char*, const char*>>{{"/many/file-00000", "0"},
                                                                    {"/many/file-01234", "1234"},
                                                                    {"/many/relative", "2999"},
                                                                    {"/absolute", "2999"},
                                                                    {"long", "7"}}) {
      auto inode = fs->find(path);
      ASSERT_TRUE(inode) << options << path << inode.error().message();
      EXPECT_EQ(*fs->read(*inode, 100), bytes_of(content)) << path;
    }
    EXPECT_EQ(fs->list(*fs->find("/many"))->size(), 3001u);
    EXPECT_EQ(fs->find("/none").error().code, ENOENT);
    EXPECT_EQ(fs->find("/holes/none").error().code, ENOENT);
    EXPECT_THAT(fs->find("/loop").error().what, HasSubstr("symbolic links"));
    auto holes = fs->read(*fs->find("/holes"), 10'000'000);
    ASSERT_TRUE(holes);
    EXPECT_EQ(holes->size(), 6'000'000u);
    EXPECT_EQ(std::count(holes->begin(), holes->end(), 0), 5'999'999);
    EXPECT_EQ((*holes)[5'000'000], 'x');
    EXPECT_FALSE(fs->read(*fs->find("/holes"), 5'999'999));
  }
}

TEST_F(BootDisk, PartitionsOfBothKinds) {
  auto filesystem = make("-t ext4");
  std::vector<u8> disk(2 * MiB + filesystem.size() + 1 * MiB);
  std::copy(filesystem.begin(), filesystem.end(), disk.begin() + 2 * MiB);
  u32 first = 2 * MiB / 512, sectors = static_cast<u32>(filesystem.size() / 512);
  store<u16>(&disk[510], 0xaa55);

  auto mbr = disk;
  mbr[446 + 16 + 4] = 0x83;  // the second
  store<u32>(&mbr[446 + 16 + 8], first);
  store<u32>(&mbr[446 + 16 + 12], sectors);
  EXPECT_EQ(read_partitions(MemorySource(mbr))->at(0).number, 2u);
  EXPECT_TRUE(read_boot_files(MemorySource(mbr), 16 * MiB)->kernel == bytes_of(kernel_));

  auto gpt = disk;
  gpt[446 + 4] = 0xee;
  std::memcpy(&gpt[512], "EFI PART", 8);
  store<u64>(&gpt[512 + 72], 2);
  store<u32>(&gpt[512 + 80], 128);
  store<u32>(&gpt[512 + 84], 128);
  u8* entry = &gpt[1024 + 128 * 13];
  entry[0] = 1;
  store<u64>(entry + 32, first);
  store<u64>(entry + 40, first + sectors - 1);
  EXPECT_EQ(read_partitions(MemorySource(gpt))->at(0).number, 14u);
  EXPECT_TRUE(read_boot_files(MemorySource(gpt), 16 * MiB)->initrd == bytes_of(initrd_));

  store<u64>(entry + 40, ~u64{0} - 1);  // beyond the disk
  EXPECT_TRUE(read_partitions(MemorySource(gpt))->empty());
  store<u32>(&gpt[512 + 80], ~0u);
  EXPECT_FALSE(read_partitions(MemorySource(gpt)));
}

TEST_F(BootDisk, WhatGrubStartsByDefaultIsTaken) {
  put("boot/ucode.img", "micro");
  put("boot/grub/grubenv", "saved_entry=second\n");
  put("boot/grub/grub.cfg",
      "set default=\"${saved_entry}\"\n"
      "menuentry first { linux /boot/vmlinuz-6.1.0-10-amd64 new\n}\n"
      "menuentry x --id second {\n linux ($root)/boot/vmlinuz-6.1.0-9-amd64 root=LABEL=x ro\n"
      " initrd /boot/ucode.img /boot/initrd.img-6.1.0-9-amd64\n}\n");
  auto files = read_boot_files(MemorySource(make("-t ext4")), 16 * MiB);
  ASSERT_TRUE(files) << files.error().message();
  EXPECT_EQ(files->kernel_name, "/boot/vmlinuz-6.1.0-9-amd64");
  EXPECT_EQ(files->kernel, bytes_of("old kernel"));
  EXPECT_EQ(files->initrd, bytes_of(std::string("micro\0\0\0old initrd", 18)));
  EXPECT_EQ(files->options, "root=LABEL=x ro");
  EXPECT_FALSE(read_boot_files(MemorySource(make("-t ext4")), 16));

  put("boot/grub/grubenv", "saved_entry=0\n");
  EXPECT_EQ(read_boot_files(MemorySource(make("-t ext4")), 16 * MiB)->options, "new");
  // A kernel that was removed, and a menu that is none: the newest.
  for (const char* menu :
       {"menuentry a { linux /boot/vmlinuz-5 x\n}", "menuentry a { linux", "\xff{"}) {
    put("boot/grub/grub.cfg", menu);
    files = read_boot_files(MemorySource(make("-t ext4")), 16 * MiB);
    ASSERT_TRUE(files) << files.error().message();
    EXPECT_EQ(files->kernel_name, "/boot/vmlinuz-6.1.0-10-amd64");
    EXPECT_EQ(files->options, "");
  }
}

TEST_F(BootDisk, EntriesOfTheBootLoaderSpecification) {
  put("boot/loader/entries/a.conf", "version 6.1.0-9\nlinux /vmlinuz-6.1.0-9-amd64\noptions a\n");
  put("boot/loader/entries/b.conf",
      "version 6.1.0-10\nlinux /vmlinuz-6.1.0-10-amd64\noptions b $k\n");
  put("boot/loader/entries/c.txt", "version 9\nlinux /vmlinuz-6.1.0-9-amd64\n");
  auto options = [&] {
    auto files = read_boot_files(MemorySource(make("-t ext4")), 16 * MiB);
    return files ? files->options : files.error().message();
  };
  EXPECT_EQ(options(), "b");
  put("boot/loader/loader.conf", "timeout 3\ndefault a*\n");
  EXPECT_EQ(options(), "a");
  put("boot/grub2/grub.cfg", "set default=${saved_entry}\nset k=v\nblscfg\n");
  EXPECT_EQ(options(), "b v");
  put("boot/grub2/grubenv", "saved_entry=a\n");
  EXPECT_EQ(options(), "a");
}

TEST_F(BootDisk, WithoutAnInitrdTheRootIsADevice) {
  fs::remove(folder_ + "/tree/boot/initrd.img-6.1.0-10-amd64");
  auto files = read_boot_files(MemorySource(make("-t ext4")), 16 * MiB);
  ASSERT_TRUE(files);
  EXPECT_EQ(files->initrd_name, "");
  EXPECT_EQ(files->root, "root=/dev/vda ro");
}

TEST_F(BootDisk, MessagesSayWhatIsMissing) {
  auto said = [](const Source& source, u64 limit = 16 * MiB) {
    auto files = read_boot_files(source, limit);
    return files ? "accepted" : files.error().message();
  };
  EXPECT_THAT(said(MemorySource(std::vector<u8>(1 * MiB))), HasSubstr("no ext4 filesystem"));
  EXPECT_THAT(said(MemorySource({})), HasSubstr("no ext4 filesystem"));
  EXPECT_THAT(said(MemorySource(make("-t ext4")), 1000), HasSubstr("is more than 1000"));
  fs::remove_all(folder_ + "/tree/boot");
  EXPECT_THAT(said(MemorySource(make("-t ext4"))), HasSubstr("no kernel (vmlinuz-*)"));
  put("boot/vmlinuz", "k");
  EXPECT_EQ(said(MemorySource(make("-t ext4"))), "accepted");
}

TEST_F(BootDisk, ThroughADisk) {
  make("-t ext4");
  auto disk = storage::RawDisk::open(image_path(), {.readonly = true});
  ASSERT_TRUE(disk);
  DiskSource source(**disk);
  EXPECT_TRUE(read_boot_files(source, 16 * MiB)->kernel == bytes_of(kernel_));
  EXPECT_EQ(*source.bytes(1024 + 0x38, 2), (std::vector<u8>{0x53, 0xef}));
  EXPECT_FALSE(source.bytes(source.size() - 1, 2));
}

// What a guest writes over its own disk: an Error or other bytes, never a crash or a long wait.
TEST_F(BootDisk, DamageIsAnErrorAndNoCrash) {
  std::mt19937 random(1);
  for (const char* options : {"-t ext4", "-t ext3 -b 1024", "-t ext4 -O meta_bg,^resize_inode"}) {
    const auto good = make(options, "8M");
    // Where metadata is: every block that is not zero and not of the files' pattern.
    std::vector<size_t> places;
    for (size_t at = 0; at < good.size(); at += 1024) {
      size_t zeros =
          static_cast<size_t>(std::count(good.begin() + static_cast<ptrdiff_t>(at),
                                         good.begin() + static_cast<ptrdiff_t>(at + 1024), 0));
      if (zeros > 300 && zeros < 1024) places.push_back(at);
    }
    unsigned accepted = 0;
    MemorySource source(good);
    for (int round = 0; round < 500; ++round) {
      size_t at = places[random() % places.size()];
      auto first = source.data.begin() + static_cast<ptrdiff_t>(at);
      for (int changes = 0; changes < 8; ++changes) {
        size_t offset = random() % 1024;
        // Numbers rather than noise: small, huge, or another place's.
        u8 value = random() % 3 == 0 ? 0xff : static_cast<u8>(random() % 4);
        first[static_cast<ptrdiff_t>(offset)] = value;
      }
      accepted += read_boot_files(source, 16 * MiB).has_value();
      std::copy_n(good.begin() + static_cast<ptrdiff_t>(at), 1024, first);
    }
    EXPECT_GT(accepted, 10u);
    EXPECT_LT(accepted, 498u);
  }
}

// Index entries that all name one block, level for level, are as many blocks as an attacker likes.
TEST_F(BootDisk, AnExtentTreeThatFoldsIntoItselfEnds) {
  MemorySource source(make("-t ext4 -b 4096"));
  auto fs = Ext4::open(source);
  auto kernel = fs->find("/boot/vmlinuz-6.1.0-10-amd64");
  ASSERT_TRUE(kernel);
  auto node = [&](u8* at, u16 entries, u16 level, u32 child) {
    store<u16>(at, 0xf30a);
    store<u16>(at + 2, entries);
    store<u16>(at + 6, level);
    for (u32 i = 1; i <= entries; ++i) {
      store<u32>(at + 12 * i, i - 1);
      store<u32>(at + 12 * i + 4, child);
      store<u16>(at + 12 * i + 8, 0);
    }
  };
  Ext4::Inode inode = *kernel;
  node(inode.block.data(), 4, 5, 1004);
  for (u32 level = 5; level-- > 1;)
    node(&source.data[(1000 + level) * 4096], 340, static_cast<u16>(level), 1000 + level - 1);
  node(&source.data[1000 * 4096], 0, 0, 0);
  EXPECT_THAT(fs->read(inode, 16 * MiB).error().what, HasSubstr("too many blocks"));
  node(inode.block.data(), 1, 3, 1004);  // a level that is skipped
  EXPECT_THAT(fs->read(inode, 16 * MiB).error().what, HasSubstr("no clear depth"));
}

TEST(Versions, AreComparedByValue) {
  EXPECT_TRUE(older("6.1.0-9-amd64", "6.1.0-10-amd64"));
  EXPECT_FALSE(older("6.1.0-10-amd64", "6.1.0-9-amd64"));
  EXPECT_TRUE(older("6.1.0-10-amd64", "6.12.1-1-amd64"));
  EXPECT_TRUE(older("5.99", "6"));
  EXPECT_TRUE(older("6.1", "6.1.1"));
  EXPECT_FALSE(older("6.1", "6.1"));
  EXPECT_FALSE(older("6.01", "6.1"));
  EXPECT_TRUE(older("6.1-a", "6.1-b"));
  EXPECT_TRUE(older("", "1"));
}

}  // namespace
}  // namespace skerry::bootdisk
