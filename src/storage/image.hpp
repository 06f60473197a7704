// Images by name: which format a file has, and its whole backing chain.
//
// A raw disk's bytes are its guest's. If its first bytes were believed, a guest could write a qcow2
// header there that names any file of the host as its backing file, and read that file after the
// next start. So a format comes from the user or from where it was recorded (the backing format in
// a qcow2 header); else from the ending of the file's name; and the first bytes only ever refuse.
#pragma once

#include <array>
#include <optional>

#include "storage/qcow2.hpp"
#include "storage/raw_disk.hpp"

namespace skerry::storage {

enum class Format : u8 { raw, qcow2 };
constexpr std::array<std::string_view, 2> enum_names(Format) {
  return {"raw", "qcow2"};
}
constexpr std::string_view name_of(Format format) {
  return enum_names(format)[static_cast<size_t>(format)];
}

/// From the ending of a name (.qcow2, .raw, .img...), or nullopt if that says nothing.
std::optional<Format> format_of_name(std::string_view path);
/// Of an existing file: `given`, or by its name; an Error where the name says nothing and the file
/// looks like a qcow2 image, or where name and file disagree.
Result<Format> format_of(File& file, std::optional<Format> given);

struct OpenOptions {
  std::optional<Format> format;
  bool readonly = false;
  bool direct = false;      ///< O_DIRECT, for the whole chain
  bool no_backing = false;  ///< nothing shows through; for those who only look at the image itself
};
struct OpenImage {
  Format format = Format::raw;
  std::unique_ptr<Disk> disk;
  /// `disk`, if it is one.
  Qcow2* qcow2() const {
    return format == Format::qcow2 ? static_cast<Qcow2*>(disk.get()) : nullptr;
  }
};
/// With its backing chain, which is opened for reading only. At most kMaxChain images.
constexpr unsigned kMaxChain = 64;
Result<OpenImage> open_image(const std::string& path, OpenOptions options);

/// Where the backing file of `image` is: relative names are from the image's folder.
Result<std::string> backing_path(const std::string& image, const std::string& backing);
/// The backing disk that a header names, or null.
Result<std::unique_ptr<Disk>> open_backing(const std::string& image, const std::string& backing,
                                           const std::string& format, OpenOptions options);

/// A disk over `base` whose changes vanish with it: in an unlinked file in $TMPDIR or /var/tmp.
Result<std::unique_ptr<Disk>> open_overlay(std::unique_ptr<Disk> base);

}  // namespace skerry::storage
