// Ext4: reads files of an ext2, ext3 or ext4 filesystem (Linux, Documentation/filesystems/ext4).
//
// Read-only and by itself: no mount, no root, nothing of the host's kernel. Every number on the
// disk is hostile: offsets are checked, depths, counts and sizes bounded; what makes no sense is an
// Error. Own code and not libext2fs, because that trusts the filesystem it reads. Checksums are not
// verified, and a journal that was not replayed is not read: as with GRUB, what was written in the
// last seconds before a crash may not be seen yet.
#pragma once

#include <array>
#include <functional>
#include <string>

#include "bootdisk/source.hpp"

namespace skerry::bootdisk {

class Ext4 {
 public:
  struct Inode {
    u32 number = 0, flags = 0;
    u16 mode = 0;
    u64 size = 0;                ///< bytes, as the inode claims
    std::array<u8, 60> block{};  ///< i_block: the extent tree's root, or the block map
    bool is_directory() const { return (mode & 0xf000) == 0x4000; }
    bool is_file() const { return (mode & 0xf000) == 0x8000; }
    bool is_link() const { return (mode & 0xf000) == 0xa000; }
  };

  /// Whether there is a superblock of this family: cheap, and no judgement of the rest.
  static bool looks_like(const Source& source);
  /// `source` outlives it.
  static Result<Ext4> open(const Source& source);

  /// "0123abcd-...", as root=UUID= takes it.
  const std::string& uuid() const { return uuid_; }

  /// From the root directory, symbolic links followed. An Error with code ENOENT if there is none.
  Result<Inode> find(std::string_view path) const;
  /// Names in a directory, without . and .., in the directory's order.
  Result<std::vector<std::string>> list(const Inode& directory) const;
  /// All of a file; an Error if it has more than `limit` bytes.
  Result<std::vector<u8>> read(const Inode& file, u64 limit) const;

 private:
  struct Extent {
    u64 logical, physical, count;  ///< in blocks; physical 0: zeros
  };
  explicit Ext4(const Source& source) : source_(source) {}
  Result<std::vector<u8>> block(u64 number) const;
  Result<u64> group_descriptor(u64 group) const;
  Result<Inode> inode(u32 number) const;
  Result<u32> lookup(const Inode& directory, std::string_view name) const;
  Result<> walk(const Inode& directory,
                const std::function<bool(u32 inode, std::string_view name)>& take) const;
  Result<std::vector<Extent>> extents(const Inode& inode, u64 blocks) const;
  Result<> add_tree(const u8* node, size_t size, int depth, u64 blocks, size_t& nodes,
                    std::vector<Extent>& out) const;
  Result<> add_map(u64 number, int level, u64& logical, u64 blocks, std::vector<Extent>& out) const;
  Result<> add_block(u64 logical, u64 physical, std::vector<Extent>& out) const;
  Result<std::string> target_of(const Inode& link) const;

  const Source& source_;
  u32 block_size_ = 0, inode_size_ = 0, descriptor_size_ = 32;
  u32 inodes_ = 0, inodes_per_group_ = 0, blocks_per_group_ = 0;
  u32 first_block_ = 0, first_meta_group_ = 0, incompatible_ = 0;
  bool sparse_ = false;
  u64 blocks_ = 0;
  std::string uuid_;
};

}  // namespace skerry::bootdisk
