// RawDisk: a disk whose bytes are those of a file or of a block device.
//
// While it is open it holds an open-file-description lock (fcntl(2) F_OFD_SETLK): exclusive for
// writing, shared for reading, so that two machines cannot write one disk. Does not grow files,
// cache or use O_DIRECT: the host's page cache is the cache and flush() is fdatasync(2).
#pragma once

#include <memory>

#include "base/fd.hpp"
#include "storage/disk.hpp"

namespace skerry::storage {

class RawDisk final : public Disk {
 public:
  struct Options {
    bool readonly = false;
  };
  /// A size that is not a multiple of kSector is rounded down with a message to the operator.
  static Result<std::unique_ptr<RawDisk>> open(const std::string& path, Options options);

  u64 size() const override { return size_; }
  bool readonly() const override { return readonly_; }
  const std::string& path() const override { return path_; }
  Result<> readv(u64 offset, std::span<const iovec> to) override;
  Result<> writev(u64 offset, std::span<const iovec> from) override;
  Result<> flush() override;

 private:
  RawDisk() = default;
  Result<> check_range(u64 offset, std::span<const iovec> memory) const;
  Result<> transfer(bool write, u64 offset, std::span<const iovec> memory);

  std::string path_;
  Fd fd_;
  u64 size_ = 0;
  bool readonly_ = false;
};

}  // namespace skerry::storage
