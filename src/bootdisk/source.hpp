// Source: bytes to be read at any offset. What the filesystem readers here stand on.
#pragma once

#include <span>
#include <vector>

#include "storage/disk.hpp"

namespace skerry::bootdisk {

class Source {
 public:
  virtual ~Source() = default;
  virtual u64 size() const = 0;
  /// All of `to` or an Error; past the end is an Error, too.
  virtual Result<> read(u64 offset, std::span<u8> to) const = 0;

  /// `count` bytes; the caller has bounded it.
  Result<std::vector<u8>> bytes(u64 offset, u64 count) const {
    std::vector<u8> out(count);
    TRY_VOID(read(offset, out));
    return out;
  }
};

/// A whole disk. `disk` outlives it.
class DiskSource final : public Source {
 public:
  explicit DiskSource(storage::Disk& disk) : disk_(disk) {}
  u64 size() const override { return disk_.size(); }
  Result<> read(u64 offset, std::span<u8> to) const override;

 private:
  storage::Disk& disk_;
};

/// A part of another source, which outlives it.
class PartSource final : public Source {
 public:
  /// start + size is within `whole`.
  PartSource(const Source& whole, u64 start, u64 size)
      : whole_(whole), start_(start), size_(size) {}
  u64 size() const override { return size_; }
  Result<> read(u64 offset, std::span<u8> to) const override;

 private:
  const Source& whole_;
  u64 start_, size_;
};

/// A partition of an MBR or GPT disk: where it lies, in bytes, and its number from 1.
struct Partition {
  unsigned number = 0;
  u64 start = 0, size = 0;
};
/// Those that lie within the disk, in the table's order; none if there is no table. Logical
/// partitions in an extended one are left out.
Result<std::vector<Partition>> read_partitions(const Source& disk);

}  // namespace skerry::bootdisk
