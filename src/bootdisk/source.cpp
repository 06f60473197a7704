#include "bootdisk/source.hpp"

#include <algorithm>

#include "base/bits.hpp"

namespace skerry::bootdisk {

Result<> DiskSource::read(u64 offset, std::span<u8> to) const {
  if (offset > size() || to.size() > size() - offset)
    return fail("{} bytes at {} are past the end of the disk", to.size(), offset);
  if (to.empty()) return {};
  // Disks are read in whole sectors.
  u64 first = align_down(offset, storage::kSector);
  u64 end = align_up(offset + to.size(), storage::kSector);
  if (first == offset && end == offset + to.size()) {
    const iovec whole{to.data(), to.size()};
    return disk_.readv(offset, {&whole, 1});
  }
  std::vector<u8> sectors(end - first);
  const iovec all{sectors.data(), sectors.size()};
  TRY_VOID(disk_.readv(first, {&all, 1}));
  std::copy_n(sectors.begin() + static_cast<ptrdiff_t>(offset - first), to.size(), to.begin());
  return {};
}

Result<> PartSource::read(u64 offset, std::span<u8> to) const {
  if (offset > size_ || to.size() > size_ - offset)
    return fail("{} bytes at {} are past the end of the partition", to.size(), offset);
  return whole_.read(start_ + offset, to);
}

namespace {

constexpr u64 kSector = 512;

/// Keeps what lies within the disk.
void add(std::vector<Partition>& out, unsigned number, u64 first, u64 sectors, u64 disk) {
  u64 all = disk / kSector;
  if (sectors == 0 || first == 0 || first >= all || sectors > all - first) return;
  out.push_back({number, first * kSector, sectors * kSector});
}

/// UEFI 2.10, 5.3: the header in sector 1 and its array of entries.
Result<std::vector<Partition>> read_gpt(const Source& disk) {
  std::vector<Partition> found;
  auto header = TRY(disk.bytes(kSector, kSector));
  if (std::memcmp(header.data(), "EFI PART", 8) != 0) return found;
  u64 at = load<u64>(&header[72]);
  u32 count = load<u32>(&header[80]), size = load<u32>(&header[84]);
  if (size < 128 || size > 4096 || !is_power_of_two(size) || count > 1024 ||
      at >= disk.size() / kSector)
    return fail("its GPT partition table makes no sense");
  for (u32 i = 0; i < count; ++i) {
    auto entry = TRY(disk.bytes(at * kSector + u64{i} * size, 128));
    bool used = std::any_of(entry.begin(), entry.begin() + 16, [](u8 b) { return b != 0; });
    u64 first = load<u64>(&entry[32]), last = load<u64>(&entry[40]);
    if (used && last >= first && last != ~u64{0})
      add(found, i + 1, first, last - first + 1, disk.size());
  }
  return found;
}

}  // namespace

Result<std::vector<Partition>> read_partitions(const Source& disk) {
  std::vector<Partition> found;
  if (disk.size() < 2 * kSector) return found;
  auto mbr = TRY(disk.bytes(0, kSector));
  if (load<u16>(&mbr[510]) != 0xaa55) return found;
  for (unsigned i = 0; i < 4; ++i) {
    const u8* entry = &mbr[446 + 16 * i];
    u8 type = entry[4];
    if (type == 0xee) return read_gpt(disk);
    if (type == 0x05 || type == 0x0f || type == 0x85) continue;  // extended
    if (type != 0) add(found, i + 1, load<u32>(entry + 8), load<u32>(entry + 12), disk.size());
  }
  return found;
}

}  // namespace skerry::bootdisk
