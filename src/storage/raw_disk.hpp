// RawDisk: a disk whose bytes are those of a file or of a block device.
//
// It holds its file's lock while it is open (storage/file.hpp). The host's page cache is the cache
// unless `direct`, and flush() is fdatasync(2). Space that the guest discards goes back to the
// host.
#pragma once

#include <atomic>
#include <memory>

#include "storage/disk.hpp"
#include "storage/file.hpp"

namespace skerry::storage {

class RawDisk final : public Disk {
 public:
  struct Options {
    bool readonly = false;
    bool direct = false;  ///< O_DIRECT
  };
  /// A size that is not a multiple of kSector is rounded down with a message to the operator.
  static Result<std::unique_ptr<RawDisk>> open(const std::string& path, Options options);
  /// Over a file that is open already.
  static Result<std::unique_ptr<RawDisk>> over(std::unique_ptr<HostFile> file, bool readonly);

  u64 size() const override { return size_; }
  bool readonly() const override { return readonly_; }
  const std::string& path() const override { return file_->path(); }
  Result<> readv(u64 offset, std::span<const iovec> to) override;
  Result<> writev(u64 offset, std::span<const iovec> from) override;
  Result<> flush() override { return file_->flush(); }
  Result<> write_zeroes(u64 offset, u64 length, bool unmap) override;
  Result<> discard(u64 offset, u64 length) override;
  /// Not of a block device.
  Result<> resize(u64 size) override;
  Result<Extent> extent(u64 offset, u64 length) override;
  int descriptor(u64 offset, std::span<const iovec> memory) const override {
    return readonly_ && memory.empty() ? -1 : file_->descriptor(offset, memory);
  }
  bool cached() const override { return !file_->direct(); }

 private:
  RawDisk() = default;
  Result<> writable(u64 offset, u64 length) const;

  std::unique_ptr<HostFile> file_;
  std::atomic<u64> size_{0};
  bool readonly_ = false;
};

}  // namespace skerry::storage
