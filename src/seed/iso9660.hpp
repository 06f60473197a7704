// A small ISO 9660 image from a few files: what the seed disk of a guest is (cloud_init.hpp).
//
// ECMA-119 (4th edition), interchange level 2, one directory; names as they are in Rock Ridge (IEEE
// P1282, over SUSP 1.12) and Joliet entries, so that Linux, the BSDs and Windows all read them. Why
// ISO 9660 and not FAT: it cannot be written by mistake, and needs no cluster tables. Why our own:
// it is a page of code with nothing to choose, and the same files always make the same bytes.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace skerry::seed {

struct File {
  std::string name;  ///< 1 to 28 of a-z, 0-9, - and _
  std::string content;
  bool operator==(const File&) const = default;
};

/// `label` has at most 16 of A-Z, 0-9 and _. At most 16 files, with names that differ in more than
/// - and _; 16 MiB in all. What is beyond is an Error.
Result<std::vector<u8>> make_iso9660(std::string_view label, std::vector<File> files);

}  // namespace skerry::seed
