// File: the bytes below a disk image, and HostFile, which has them from the host.
//
// Threading: every call may come from any thread and they run side by side. They block and never
// move a file position. Units: bytes.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace skerry::storage {

class File {
 public:
  virtual ~File() = default;
  virtual const std::string& path() const = 0;
  virtual Result<u64> size() = 0;

  /// Past the end of the file there are zeros.
  virtual Result<> readv(u64 offset, std::span<const iovec> to) = 0;
  /// Grows the file where it must.
  virtual Result<> writev(u64 offset, std::span<const iovec> from) = 0;
  /// Returns when everything written before is on stable storage.
  virtual Result<> flush() = 0;
  virtual Result<> truncate(u64 size) = 0;
  /// Makes a range within the file read as zeros and gives its space back, where the host can.
  /// False: it cannot, and nothing happened.
  virtual Result<bool> punch(u64 offset, u64 length) = 0;
  /// The same without giving the space back.
  virtual Result<bool> zero(u64 offset, u64 length) = 0;
  /// Where the next data at or after `offset` begins, or a hole; the file's size if none does.
  virtual Result<u64> next_data(u64 offset) = 0;
  virtual Result<u64> next_hole(u64 offset) = 0;
  /// What the file takes on the host.
  virtual Result<u64> allocated() = 0;
  Result<> read(u64 offset, std::span<u8> to);
  Result<> write(u64 offset, std::span<const u8> from);
};

class HostFile final : public File {
 public:
  struct Options {
    bool readonly = false;
    /// O_DIRECT: past the host's page cache. Requests that are not aligned go through a buffer.
    bool direct = false;
    /// Makes a new file; one that exists is an error.
    bool create = false;
    /// Looks at a file without a lock: somebody may be writing it.
    bool unlocked = false;
  };
  /// While it is open it holds an open-file-description lock (fcntl(2) F_OFD_SETLK) on all bytes,
  /// exclusive for writing and shared for reading; QEMU's locks conflict with it as they should.
  static Result<std::unique_ptr<HostFile>> open(const std::string& path, Options options);

  const std::string& path() const override { return path_; }
  Result<u64> size() override;
  Result<> readv(u64 offset, std::span<const iovec> to) override;
  Result<> writev(u64 offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> truncate(u64 size) override;
  Result<bool> punch(u64 offset, u64 length) override;
  Result<bool> zero(u64 offset, u64 length) override;
  Result<u64> next_data(u64 offset) override;
  Result<u64> next_hole(u64 offset) override;
  Result<u64> allocated() override;
  /// Where a request may go by itself: -1 if it has to be aligned first.
  int descriptor(u64 offset, std::span<const iovec> memory) const {
    return direct_ && !aligned(offset, memory) ? -1 : fd_.get();
  }

  bool direct() const { return direct_; }
  bool block_device() const { return block_device_; }
  /// As readv, but the number of bytes that were there before the end of the file.
  Result<u64> read_some(u64 offset, std::span<const iovec> to);

 private:
  HostFile() = default;
  bool aligned(u64 offset, std::span<const iovec> memory) const;
  Result<u64> transfer(bool write, u64 offset, std::span<const iovec> memory);
  Result<u64> through_buffer(bool write, u64 offset, std::span<const iovec> memory);
  Result<bool> fallocate(int mode, u64 offset, u64 length, const char* what);

  std::string path_;
  Fd fd_;
  bool readonly_ = false, direct_ = false, block_device_ = false;
  std::mutex edges_;  ///< held while part of an aligned block is changed
};

/// The total length of a list.
u64 length_of(std::span<const iovec> memory);
/// The part [offset, offset + length) of a list.
std::vector<iovec> slice(std::span<const iovec> memory, u64 offset, u64 length);
/// Fills it with zeros.
void clear(std::span<const iovec> memory);

}  // namespace skerry::storage
