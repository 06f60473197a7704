// The arguments of `skerry image VERB`, taken apart.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/copy.hpp"

namespace skerry::cli {

struct ImageOption {
  std::string_view name;   ///< "--format"
  std::string_view brief;  ///< "-f", or empty
  std::string_view value;  ///< what stands for its value in help; empty: a flag
  std::string_view doc;
};

struct ImageVerb {
  std::string_view name, words, doc;
  size_t least, most;  ///< words beside the options
  std::vector<std::string_view> options;
};

/// All verbs, in the order of help; and the options that they draw on.
std::span<const ImageVerb> image_verbs();
const ImageOption& image_option(std::string_view name);

class ImageArguments {
 public:
  /// `args` without the verb.
  static Result<ImageArguments> parse(const ImageVerb& verb, std::span<const std::string> args);

  bool has(std::string_view option) const { return value(option).has_value(); }
  /// The last one given.
  std::optional<std::string> value(std::string_view option) const;
  const std::vector<std::string>& words() const { return words_; }

  Result<std::optional<storage::Format>> format(std::string_view option) const;
  /// What -O and -o say of a new image at `path`.
  Result<storage::CreateOptions> creation(std::string_view format_option,
                                          const std::string& path) const;

 private:
  std::vector<std::pair<std::string_view, std::string>> given_;
  std::vector<std::string> words_;
};

}  // namespace skerry::cli
