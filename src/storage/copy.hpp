// Whole images at once: copies between formats, and what moves data along a backing chain.
#pragma once

#include <functional>

#include "storage/image.hpp"
#include "storage/qcow2_check.hpp"

namespace skerry::storage {

/// Called now and then with how far the work is, in bytes of the disk.
using Progress = std::function<void(u64 done, u64 total)>;

struct CreateOptions {
  Format format = Format::raw;
  NewQcow2 qcow2;  ///< with the size for either format
  bool replace = false;
};
/// A new file. With a backing file and no size the disk is as large as that one's.
Result<> create_image(const std::string& path, CreateOptions options);

/// What `from` holds into `to`, which is new, reads as zeros and is at least as large. Zeros are
/// not stored.
Result<> copy_disk(Disk& from, Disk& to, bool compress, const Progress& progress);

/// Makes `to` from `from`; a half-made file is removed.
struct ConvertOptions {
  std::optional<Format> from_format;
  CreateOptions to;  ///< its size is the source's
  bool compress = false;
};
Result<> convert_image(const std::string& from, const std::string& to, ConvertOptions options,
                       const Progress& progress);

/// Moves what an image holds into its backing file, and empties it.
Result<> commit_image(const std::string& path, std::optional<Format> format,
                      const Progress& progress);

struct RebaseOptions {
  std::optional<Format> format;
  std::string backing;         ///< empty: none
  std::string backing_format;  ///< empty: by its name
  /// The new backing file is known to hold the same: only the name changes.
  bool unsafe = false;
};
/// Gives an image another backing file; its contents stay the same.
Result<> rebase_image(const std::string& path, const RebaseOptions& options,
                      const Progress& progress);

/// `shrink`: allows a smaller size, which cuts data off.
Result<> resize_image(const std::string& path, std::optional<Format> format, u64 size, bool shrink);

struct MapEntry {
  u64 start = 0;
  Disk::Extent extent;
};
/// All of a disk, neighbours of one kind joined, in order. `each` may end it with an Error.
Result<> map_disk(Disk& disk, const std::function<Result<>(const MapEntry&)>& each);

}  // namespace skerry::storage
