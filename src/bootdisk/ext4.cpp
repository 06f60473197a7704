#include "bootdisk/ext4.hpp"

#include <algorithm>
#include <cerrno>

#include "base/bits.hpp"

namespace skerry::bootdisk {

namespace {

constexpr u64 kSuperblock = 1024;
constexpr u16 kMagic = 0xef53, kExtentMagic = 0xf30a;
constexpr u32 kRootInode = 2;
// s_feature_incompat
constexpr u32 kMetaGroups = 0x10, k64Bit = 0x80;
// All that change nothing for a reader, or that are read here: filetype, recover, meta_bg, extents,
// 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold. The last
// three matter only in the inodes that use them.
constexpr u32 kKnown = 0x2 | 0x4 | kMetaGroups | 0x40 | k64Bit | 0x100 | 0x200 | 0x400 | 0x2000 |
                       0x4000 | 0x8000 | 0x10000 | 0x20000;
// i_flags
constexpr u32 kEncrypted = 0x800, kExtents = 0x80000, kInlineData = 0x10000000;

constexpr u64 kMaxDirectory = 16 * MiB;
constexpr size_t kMaxExtents = 1 << 18, kMaxNodes = 1 << 14;
constexpr u64 kMaxFile = 4 * GiB;
constexpr int kMaxDepth = 5;  // of an extent tree
constexpr int kMaxLinks = 16, kMaxSteps = 64;
constexpr size_t kMaxPath = 4096;

auto damaged(std::string_view what) {
  return fail_hint("check it with: e2fsck -f", "its filesystem is damaged: {}", what);
}

/// ext4, "Sparse super": which groups begin with a copy of the superblock.
bool has_superblock(u64 group) {
  if (group <= 1) return true;
  for (u64 base : {3, 5, 7}) {
    u64 power = base;
    while (power < group) power *= base;
    if (power == group) return true;
  }
  return false;
}

}  // namespace

bool Ext4::looks_like(const Source& source) {
  auto magic = source.bytes(kSuperblock + 0x38, 2);
  return magic && load<u16>(magic->data()) == kMagic;
}

Result<Ext4> Ext4::open(const Source& source) {
  auto super = TRY(source.bytes(kSuperblock, 1024));
  auto u16_at = [&](size_t at) { return load<u16>(&super[at]); };
  auto u32_at = [&](size_t at) { return load<u32>(&super[at]); };
  if (u16_at(0x38) != kMagic) return fail("it holds no ext4 filesystem");
  Ext4 fs(source);
  u32 log_size = u32_at(0x18);
  if (log_size > 6) return damaged("its block size makes no sense");
  fs.block_size_ = 1024u << log_size;
  bool old = u32_at(0x4c) == 0;  // revision 0 has no feature words
  fs.incompatible_ = old ? 0 : u32_at(0x60);
  if (u32 unknown = fs.incompatible_ & ~kKnown)
    return fail("its filesystem has features that are not known here (incompat {:#x})", unknown);
  fs.sparse_ = !old && (u32_at(0x64) & 1) != 0;
  fs.inode_size_ = old ? 128 : u16_at(0x58);
  fs.inodes_ = u32_at(0);
  fs.blocks_ = u32_at(4);
  fs.first_block_ = u32_at(0x14);
  fs.blocks_per_group_ = u32_at(0x20);
  fs.inodes_per_group_ = u32_at(0x28);
  fs.first_meta_group_ = u32_at(0x104);
  if (fs.incompatible_ & k64Bit) {
    fs.blocks_ |= u64{u32_at(0x150)} << 32;
    fs.descriptor_size_ = u16_at(0xfe);
  }
  if (fs.inode_size_ < 128 || fs.inode_size_ > fs.block_size_ || !is_power_of_two(fs.inode_size_))
    return damaged("its inode size makes no sense");
  if (fs.descriptor_size_ < 32 || fs.descriptor_size_ > 1024 ||
      !is_power_of_two(fs.descriptor_size_))
    return damaged("its descriptor size makes no sense");
  if (fs.inodes_per_group_ == 0 || fs.blocks_per_group_ == 0 || fs.first_block_ > 1)
    return damaged("its groups make no sense");
  const u8* id = &super[0x68];
  for (size_t i = 0; i < 16; ++i)
    fs.uuid_ += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
  return fs;
}

Result<std::vector<u8>> Ext4::block(u64 number) const {
  // blocks_ is below 2^64 / 2^16 only where the source bounds it.
  if (number == 0 || number >= blocks_ || number >= source_.size() / block_size_)
    return damaged(fmt::format("block {} is outside", number));
  return source_.bytes(number * block_size_, block_size_);
}

/// Where the group's descriptor is, in bytes.
Result<u64> Ext4::group_descriptor(u64 group) const {
  u64 per_block = block_size_ / descriptor_size_;
  u64 index = group / per_block;
  // Behind the superblock's block, which with bigalloc is not first_block_.
  u64 at = kSuperblock / block_size_ + 1 + index;
  if ((incompatible_ & kMetaGroups) && index >= first_meta_group_) {
    // The descriptors of a meta group lie in its first group, behind a superblock if it has one.
    u64 first = index * per_block;
    at = first_block_ + first * blocks_per_group_ + (!sparse_ || has_superblock(first) ? 1 : 0);
  }
  if (at >= blocks_ || at >= source_.size() / block_size_)
    return damaged("a group descriptor is outside");
  return at * block_size_ + group % per_block * descriptor_size_;
}

Result<Ext4::Inode> Ext4::inode(u32 number) const {
  if (number == 0 || number > inodes_) return damaged(fmt::format("inode {} is outside", number));
  u64 at = TRY(group_descriptor((number - 1) / inodes_per_group_));
  auto descriptor = TRY(source_.bytes(at, descriptor_size_));
  u64 table = load<u32>(&descriptor[8]);
  if (descriptor_size_ >= 64) table |= u64{load<u32>(&descriptor[0x28])} << 32;
  u64 offset = u64{(number - 1) % inodes_per_group_} * inode_size_;
  auto in_block = TRY(block(table + offset / block_size_));
  const u8* raw = &in_block[offset % block_size_];
  Inode inode;
  inode.number = number;
  inode.mode = load<u16>(raw);
  inode.size = load<u32>(raw + 4) | u64{load<u32>(raw + 0x6c)} << 32;
  inode.flags = load<u32>(raw + 0x20);
  std::copy_n(raw + 0x28, inode.block.size(), inode.block.begin());
  return inode;
}

Result<> Ext4::add_block(u64 logical, u64 physical, std::vector<Extent>& out) const {
  if (physical >= blocks_) return damaged("a file's block is outside");
  if (!out.empty()) {
    Extent& last = out.back();
    if (last.logical + last.count == logical && last.physical + last.count == physical) {
      ++last.count;
      return {};
    }
  }
  if (out.size() >= kMaxExtents) return damaged("a file has too many extents");
  out.push_back({logical, physical, 1});
  return {};
}

/// "Extent tree": a header of 12 bytes, then entries of 12 bytes.
Result<> Ext4::add_tree(const u8* node, size_t size, int depth, u64 blocks, size_t& nodes,
                        std::vector<Extent>& out) const {
  u16 entries = load<u16>(node + 2), level = load<u16>(node + 6);
  if (load<u16>(node) != kExtentMagic || entries > size / 12 - 1)
    return damaged("an extent tree makes no sense");
  // Each level down is one less, so that no loop can be built.
  if (depth < 0 ? level > kMaxDepth : level != depth)
    return damaged("an extent tree has no clear depth");
  for (unsigned i = 1; i <= entries; ++i) {
    const u8* entry = node + 12 * i;
    u64 logical = load<u32>(entry);
    if (level > 0) {
      u64 child = load<u32>(entry + 4) | u64{load<u16>(entry + 8)} << 32;
      // Many entries may name one block, level for level: what is visited is counted, too.
      if (++nodes > kMaxNodes) return damaged("an extent tree has too many blocks");
      auto below = TRY(block(child));
      TRY_VOID(add_tree(below.data(), below.size(), level - 1, blocks, nodes, out));
      continue;
    }
    u64 count = load<u16>(entry + 4);
    u64 physical = load<u32>(entry + 8) | u64{load<u16>(entry + 6)} << 32;
    bool unwritten = count > 32768;
    if (unwritten) count -= 32768;
    if (physical >= blocks_ || count > blocks_ - physical)
      return damaged("a file's block is outside");
    // In order and apart: a file is then read at most once over.
    u64 free_from = out.empty() ? 0 : out.back().logical + out.back().count;
    if (logical < free_from) return damaged("extents overlap");
    if (logical >= blocks) break;
    if (out.size() >= kMaxExtents) return damaged("a file has too many extents");
    out.push_back({logical, unwritten ? 0 : physical, std::min(count, blocks - logical)});
  }
  return {};
}

/// "Direct/indirect block addressing": `number` is a block of addresses, `level` steps above data.
Result<> Ext4::add_map(u64 number, int level, u64& logical, u64 blocks,
                       std::vector<Extent>& out) const {
  if (logical >= blocks) return {};
  if (number == 0) {  // a hole as wide as what would hang below
    u64 span = 1;
    for (int i = 0; i < level; ++i) span *= block_size_ / 4;
    logical += span;
    return {};
  }
  if (level == 0) return add_block(logical++, number, out);
  auto addresses = TRY(block(number));
  for (size_t i = 0; i < addresses.size() && logical < blocks; i += 4)
    TRY_VOID(add_map(load<u32>(&addresses[i]), level - 1, logical, blocks, out));
  return {};
}

Result<std::vector<Ext4::Extent>> Ext4::extents(const Inode& inode, u64 blocks) const {
  std::vector<Extent> out;
  if (inode.flags & kEncrypted) return fail("a file is encrypted");
  if (inode.flags & kInlineData) return fail("a file is stored in its inode (inline_data)");
  if (inode.flags & kExtents) {
    size_t nodes = 0;
    TRY_VOID(add_tree(inode.block.data(), inode.block.size(), -1, blocks, nodes, out));
    return out;
  }
  u64 logical = 0;
  for (unsigned i = 0; i < 15; ++i)
    TRY_VOID(add_map(load<u32>(&inode.block[4 * i]), i < 12 ? 0 : static_cast<int>(i - 11), logical,
                     blocks, out));
  return out;
}

Result<std::vector<u8>> Ext4::read(const Inode& file, u64 limit) const {
  if (file.size > std::min(limit, kMaxFile))
    return fail("a file of {} bytes is more than {}", file.size, std::min(limit, kMaxFile));
  // Before anything of that size is made: a file is no larger than its filesystem and not sparse
  // here.
  if (file.size > source_.size()) return damaged("a file is larger than the disk");
  u64 blocks = (file.size + block_size_ - 1) / block_size_;
  auto parts = TRY(extents(file, blocks));
  std::vector<u8> out(file.size);
  for (const Extent& e : parts) {
    if (e.physical == 0) continue;
    u64 at = e.logical * block_size_;
    u64 count = std::min<u64>(e.count * block_size_, out.size() - at);
    TRY_VOID(source_.read(e.physical * block_size_, {out.data() + at, count}));
  }
  return out;
}

/// "Directory entries": a linear list in each block. A hash tree's inner blocks look like one empty
/// entry each.
Result<> Ext4::walk(const Inode& directory,
                    const std::function<bool(u32, std::string_view)>& take) const {
  if (!directory.is_directory()) return damaged("a directory is none");
  auto data = read(directory, kMaxDirectory);
  if (!data) return std::unexpected(std::move(data.error()).in("directory"));
  for (u64 start = 0; start + block_size_ <= data->size(); start += block_size_) {
    for (u64 at = start; at + 8 <= start + block_size_;) {
      const u8* entry = data->data() + at;
      u32 number = load<u32>(entry), length = load<u16>(entry + 4);
      u8 name_length = entry[6];
      if (length == 0xffff || length == 0) length = block_size_;  // with blocks of 64 KiB
      if (length < 8 || length % 4 != 0 || length > start + block_size_ - at ||
          name_length > length - 8)
        return damaged("a directory entry makes no sense");
      std::string_view name(reinterpret_cast<const char*>(entry + 8), name_length);
      if (number != 0 && !name.empty() && !take(number, name)) return {};
      at += length;
    }
  }
  return {};
}

Result<std::vector<std::string>> Ext4::list(const Inode& directory) const {
  std::vector<std::string> names;
  TRY_VOID(walk(directory, [&](u32, std::string_view name) {
    if (name != "." && name != "..") names.emplace_back(name);
    return true;
  }));
  return names;
}

Result<u32> Ext4::lookup(const Inode& directory, std::string_view name) const {
  u32 found = 0;
  TRY_VOID(walk(directory, [&](u32 number, std::string_view other) {
    if (other == name) found = number;
    return found == 0;
  }));
  if (found != 0) return found;
  return std::unexpected(Error{fmt::format("there is no '{}'", name), {}, ENOENT});
}

Result<std::string> Ext4::target_of(const Inode& link) const {
  if (link.size == 0 || link.size > kMaxPath) return damaged("a symbolic link makes no sense");
  if (link.size < link.block.size() && !(link.flags & (kExtents | kInlineData)))
    return std::string(reinterpret_cast<const char*>(link.block.data()), link.size);
  auto bytes = TRY(read(link, kMaxPath));
  return std::string(bytes.begin(), bytes.end());
}

Result<Ext4::Inode> Ext4::find(std::string_view path) const {
  std::string left(path);
  std::vector<Inode> trail{TRY(inode(kRootInode))};  // from the root to where we are
  int links = 0, steps = 0;
  while (!left.empty()) {
    size_t slash = left.find('/');
    std::string name = left.substr(0, slash);
    left = slash == left.npos ? "" : left.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      if (trail.size() > 1) trail.pop_back();
      continue;
    }
    if (++steps > kMaxSteps) return fail("'{}': too many steps", path);
    if (!trail.back().is_directory())
      return std::unexpected(Error{fmt::format("'{}' is in no directory", name), {}, ENOENT});
    Inode next = TRY(inode(TRY(lookup(trail.back(), name))));
    if (!next.is_link()) {
      trail.push_back(next);
      continue;
    }
    std::string target = TRY(target_of(next));
    if (++links > kMaxLinks || target.size() + left.size() > kMaxPath)
      return fail("'{}': too many symbolic links", path);
    if (target[0] == '/') trail.resize(1);
    left = target + "/" + left;
  }
  return trail.back();
}

}  // namespace skerry::bootdisk
