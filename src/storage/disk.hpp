// Disk: what a block device is to the host. No guest types: offsets are bytes, memory is iovecs.
//
// Threading: readv, writev and flush block, may be called from any thread and run side by side.
// They never move a file position. Units: bytes; offsets and lengths are multiples of kSector.
#pragma once

#include <sys/uio.h>

#include <span>
#include <string>

#include "base/result.hpp"

namespace skerry::storage {

constexpr u64 kSector = 512;

class Disk {
 public:
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
};

}  // namespace skerry::storage
