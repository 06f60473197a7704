// A disk as a guest leaves it for --boot-from-disk: changes to a well-formed small filesystem, on
// the whole disk or in a partition, or the input as it is.
#include <algorithm>

#include "base/bits.hpp"
#include "bootdisk/boot_files.hpp"
#include "bootdisk/ext4.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {
namespace {

constexpr u32 kBlock = 1024, kBlocks = 96, kInodes = 32, kTable = 5;
constexpr u64 kPartition = 4096;

class Memory final : public bootdisk::Source {
 public:
  explicit Memory(std::vector<u8> bytes) : bytes_(std::move(bytes)) {}
  u64 size() const override { return bytes_.size(); }
  Result<> read(u64 offset, std::span<u8> to) const override {
    expect(offset <= bytes_.size() && to.size() <= bytes_.size() - offset,
           "nothing is read outside the disk");
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), to.size(), to.begin());
    work += to.size() + 64;
    return {};
  }
  mutable u64 work = 0;

 private:
  std::vector<u8> bytes_;
};

struct Maker {
  std::vector<u8> image = std::vector<u8>(kBlocks * kBlock);
  u8* block(u32 n) { return &image[n * kBlock]; }

  void inode(u32 number, u16 mode, u32 size, bool tree, std::initializer_list<u32> blocks) {
    u8* raw = block(kTable) + (number - 1) * 128;
    store<u16>(raw, mode);
    store<u32>(raw + 4, size);
    store<u32>(raw + 0x20, tree ? 0x80000 : 0);
    u8* map = raw + 0x28;
    if (!tree) {
      for (u32 b : blocks) store<u32>(map, b), map += 4;
      return;
    }
    store<u16>(map, 0xf30a);
    store<u16>(map + 2, static_cast<u16>(blocks.size()));
    store<u16>(map + 4, 4);
    u32 logical = 0;
    for (u32 b : blocks) {
      map += 12;
      store<u32>(map, logical++);
      store<u16>(map + 4, 1);
      store<u32>(map + 8, b);
    }
  }
  u8* entry(u8* at, u32 number, std::string_view name, u16 length) {
    store<u32>(at, number);
    store<u16>(at + 4, length);
    at[6] = static_cast<u8>(name.size());
    std::memcpy(at + 8, name.data(), name.size());
    return at + length;
  }
};

std::vector<u8> well_formed() {
  Maker m;
  u8* super = m.block(1);
  store<u32>(super, kInodes);
  store<u32>(super + 4, kBlocks);
  store<u32>(super + 0x14, 1);
  store<u32>(super + 0x20, 8192);
  store<u32>(super + 0x28, kInodes);
  store<u16>(super + 0x38, 0xef53);
  store<u32>(super + 0x4c, 1);
  store<u16>(super + 0x58, 128);
  store<u32>(super + 0x60, 0x42);
  store<u32>(m.block(2) + 8, kTable);
  m.inode(2, 0x41ed, kBlock, true, {10});    // the root directory
  m.inode(11, 0x41ed, kBlock, false, {11});  // /boot
  m.inode(12, 0x81a4, 3000, true, {20, 21, 22});
  m.inode(13, 0x81a4, 14 * kBlock, false,  // through an indirect block
          {30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42});
  m.inode(14, 0xa1ff, 5, false, {});  // a link to boot
  std::memcpy(m.block(kTable) + 13 * 128 + 0x28, "/boot", 5);
  store<u32>(m.block(42), 43);
  store<u32>(m.block(42) + 4, 44);
  u8* at = m.entry(m.block(10), 2, ".", 12);
  at = m.entry(at, 2, "..", 12);
  at = m.entry(at, 11, "boot", 12);
  at = m.entry(at, 14, "etc", 12);
  m.entry(at, 12, "init", static_cast<u16>(kBlock - 48));
  at = m.entry(m.block(11), 11, ".", 12);
  at = m.entry(at, 2, "..", 12);
  at = m.entry(at, 12, "vmlinuz-6.1", 20);
  at = m.entry(at, 13, "initrd.img-6.1", 24);
  m.entry(at, 12, "fstab", static_cast<u16>(kBlock - 68));
  return m.image;
}

void one(Input& input) {
  u8 kind = input.take<u8>();
  std::vector<u8> bytes = well_formed();
  if (kind & 1) {  // in a partition
    bytes.insert(bytes.begin(), kPartition, 0);
    store<u16>(&bytes[510], 0xaa55);
    bytes[446 + 4] = 0x83;
    store<u32>(&bytes[446 + 8], kPartition / 512);
    store<u32>(&bytes[446 + 12], kBlocks * kBlock / 512);
  }
  if (kind & 2) {
    auto raw = input.rest();
    bytes.assign(raw.begin(), raw.end());
  }
  while (!input.empty() && !bytes.empty()) {
    u32 at = input.take<u32>() % bytes.size();
    auto change = input.bytes(std::min<size_t>(input.take<u8>() % 16, bytes.size() - at));
    std::copy(change.begin(), change.end(), bytes.begin() + at);
  }
  Memory disk(std::move(bytes));
  constexpr u64 limit = 1 * MiB;
  auto files = bootdisk::read_boot_files(disk, limit);
  if (files) {
    expect(files->kernel.size() <= limit && files->initrd.size() <= limit, "files are bounded");
    expect(!files->kernel_name.empty(), "a kernel has a name");
  } else {
    expect(!files.error().what.empty(), "an error says what");
  }
  expect(disk.work < 2 * GiB, "work is bounded");
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const skerry::u8* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}
