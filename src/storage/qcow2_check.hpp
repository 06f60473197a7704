// Checking and mending qcow2 images, and making new ones.
#pragma once

#include "storage/file.hpp"
#include "storage/qcow2_header.hpp"

namespace skerry::storage {

enum class Repair : u8 {
  none,
  leaks,  ///< gives back what is counted and not used
  all,    ///< refcounts and the flags that depend on them are made anew
};

struct CheckReport {
  u64 corruptions = 0;  ///< what may lose data
  u64 leaks = 0;        ///< clusters that only take space
  u64 corruptions_fixed = 0, leaks_fixed = 0;
  u64 total_clusters = 0;  ///< of the disk
  u64 allocated_clusters = 0, compressed_clusters = 0;
  u64 image_end = 0;  ///< where the last used cluster ends, in the file
  bool dirty = false, marked_corrupt = false;
  std::vector<std::string> messages;  ///< the first ones
};

/// The file is not open elsewhere. An Error if it cannot be read or its header makes no sense;
/// everything else is in the report, with what remains after the repair in `corruptions` and
/// `leaks`.
Result<CheckReport> check_qcow2(File& file, Repair repair);

/// Makes an image consistent again that was left with its dirty bit set.
Result<> mend_dirty(File& file);

struct NewQcow2 {
  u64 size = 0;
  unsigned cluster_bits = 16;
  u32 version = 3;
  bool lazy_refcounts = false;
  unsigned refcount_order = 4;
  qcow2::Compression compression = qcow2::Compression::zlib;
  std::string backing_file{}, backing_format{};
};
/// Into an empty file, which is flushed.
Result<> create_qcow2(File& file, const NewQcow2& wanted);

}  // namespace skerry::storage
