// Disk: what a block device is to the host. No guest types: offsets are bytes, memory is iovecs.
//
// Threading: every call but resize() may come from any thread, blocks, and runs side by side with
// others; resize() beside everything but itself. Calls never move a file position. Units: bytes;
// offsets and lengths are multiples of kSector.
#pragma once

#include <sys/uio.h>

#include <span>
#include <string>

#include "base/result.hpp"

namespace skerry::storage {

constexpr u64 kSector = 512;

class Disk {
 public:
  /// A run of bytes of one kind.
  struct Extent {
    enum class Kind : u8 { data, zero, hole };  ///< hole: nothing is stored, and it reads as zeros
    u64 length = 0;
    Kind kind = Kind::data;
    /// How many images down the chain the bytes come from; 0: this one.
    unsigned depth = 0;
    bool compressed = false;
    /// Where the bytes are in the file at that depth; only for data that is not compressed.
    u64 at = 0;
    bool operator==(const Extent&) const = default;
  };

  virtual ~Disk() = default;
  virtual u64 size() const = 0;
  virtual bool readonly() const = 0;
  /// What messages call it.
  virtual const std::string& path() const = 0;

  /// All of it or an Error; `from`/`to` may have been partly filled then.
  virtual Result<> readv(u64 offset, std::span<const iovec> to) = 0;
  virtual Result<> writev(u64 offset, std::span<const iovec> from) = 0;
  /// Returns when everything written before is on stable storage.
  virtual Result<> flush() = 0;

  /// The range reads as zeros. `unmap`: its space may go back to the host.
  virtual Result<> write_zeroes(u64 offset, u64 length, bool unmap);
  /// The guest no longer needs the range; it reads as zeros or as before.
  virtual Result<> discard(u64 offset, u64 length);
  virtual Result<> resize(u64 size);
  /// What stands at `offset`: an extent of at most `length` bytes, not empty. In range.
  virtual Result<Extent> extent(u64 offset, u64 length);
  /// For io_uring: this request is one to the descriptor at the same offset; or -1. A request
  /// without memory is a flush, and so fdatasync(2).
  virtual int descriptor(u64 offset, std::span<const iovec> memory) const {
    (void)offset, (void)memory;
    return -1;
  }

  /// The descriptor's requests go through the host's page cache.
  virtual bool cached() const { return false; }

  Result<> read(u64 offset, std::span<u8> to);
  Result<> write(u64 offset, std::span<const u8> from);

 protected:
  Result<> check_range(u64 offset, u64 length) const;
};

}  // namespace skerry::storage
