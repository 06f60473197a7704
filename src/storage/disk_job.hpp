// DiskJob: one request to a disk, as the virtio device hands it to a DiskWorker.
#pragma once

#include <vector>

#include "storage/disk.hpp"

namespace skerry::storage {

struct DiskJob {
  enum class Op : u8 { read, write, flush, discard, zero };
  struct Range {
    u64 offset = 0, length = 0;
    bool unmap = false;  ///< of zero: the space may go back to the host
  };

  u64 token = 0;  ///< the submitter's
  Op op = Op::flush;
  u64 offset = 0;             ///< of read and write
  std::vector<iovec> memory;  ///< of read and write
  bool durable = false;       ///< a change that is flushed before it is done
  std::vector<Range> ranges;  ///< of discard and zero
  u64 number = 0;             ///< the worker's own: counts submissions
};

}  // namespace skerry::storage
