// `skerry image build`: its options. The work is done by share/image-build, a script around
// mmdebstrap and mke2fs, which this process becomes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "schema/field.hpp"

namespace skerry::cli {

struct ImageBuildCommand {
  std::string release;          ///< "debian-12"
  std::string output;           ///< a path
  schema::Bytes size{4 * GiB};  ///< of the disk, not of the file: that is sparse
  std::string packages;         ///< with commas between them
  std::string mirror;           ///< a URL; "": as the host's apt
  bool autologin = true;        ///< root on the serial console
  bool operator==(const ImageBuildCommand&) const = default;
};

/// `args` after "image". Nothing if help is wanted.
Result<std::optional<ImageBuildCommand>> parse_image_build(const std::vector<std::string>& args);
std::string image_build_help();

/// What share/image-build takes; `skerry` is the path of this program.
std::vector<std::string> image_build_arguments(const ImageBuildCommand& command,
                                               const std::string& skerry);

}  // namespace skerry::cli
