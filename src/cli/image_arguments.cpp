#include "cli/image_arguments.hpp"

#include <algorithm>
#include <bit>

#include "schema/key_value.hpp"

namespace skerry::cli {

namespace {

using storage::Format;

constexpr ImageOption kOptions[] = {
    {"--format", "-f", "raw|qcow2", "the image's format, where its name does not say it"},
    {"--output", "-O", "raw|qcow2", "the new image's format (default: by its name)"},
    {"--options", "-o", "KEY=VALUE,...",
     "for qcow2: cluster_size=SIZE, compat=0.10|1.1, compression_type=zlib|zstd, "
     "lazy_refcounts=on|off, refcount_bits=N"},
    {"--backing", "-b", "FILE", "the backing file; a relative name is from the image's folder"},
    {"--backing-format", "-F", "raw|qcow2", "the backing file's format"},
    {"--compress", "-c", "", "compress every cluster (qcow2)"},
    {"--force", "", "", "replace a file that exists"},
    {"--shrink", "", "", "allow a smaller size, which cuts data off"},
    {"--unsafe", "-u", "", "change the name only: the new backing file holds the same"},
    {"--repair", "-r", "leaks|all", "mend what is found: leaks alone, or everything possible"},
    {"--backing-chain", "", "", "go on with the backing files"},
    {"--list", "-l", "", "list them (what it does anyway)"},
    {"--json", "", "", "print JSON, for programs"},
    {"--quiet", "-q", "", "no progress bar"},
};

const std::vector<ImageVerb>& verbs() {
  static const std::vector<ImageVerb> all = {
      {"create",
       "FILE [SIZE]",
       "make an empty disk, or one over a backing file",
       1,
       2,
       {"--format", "--options", "--backing", "--backing-format", "--force"}},
      {"info",
       "FILE",
       "what an image is: format, sizes, backing file, snapshots",
       1,
       1,
       {"--format", "--backing-chain", "--json"}},
      {"convert",
       "SOURCE TARGET",
       "copy an image into a new one of any format",
       2,
       2,
       {"--format", "--output", "--compress", "--options", "--force", "--quiet"}},
      {"check",
       "FILE",
       "look for damage in a qcow2 image, and mend it",
       1,
       1,
       {"--format", "--repair", "--json"}},
      {"resize", "FILE [+|-]SIZE", "change a disk's size", 2, 2, {"--format", "--shrink"}},
      {"commit",
       "FILE",
       "move an image's changes into its backing file",
       1,
       1,
       {"--format", "--quiet"}},
      {"rebase",
       "FILE",
       "give an image another backing file (-b '': none)",
       1,
       1,
       {"--format", "--backing", "--backing-format", "--unsafe", "--quiet"}},
      {"map", "FILE", "which parts of a disk are stored where", 1, 1, {"--format", "--json"}},
      {"snapshot",
       "FILE",
       "list the internal snapshots of a qcow2 image",
       1,
       1,
       {"--format", "--list", "--json"}},
  };
  return all;
}

/// What -o takes.
struct FormatOptions {
  schema::Bytes cluster_size{64 * KiB};
  std::string compat = "1.1", compression_type = "zlib", lazy_refcounts = "off";
  u32 refcount_bits = 16;

  static void describe(auto& s, auto& v) {
    v.field({.name = "cluster_size", .doc = "", .min = 512, .max = 2 * MiB}, s.cluster_size);
    v.field({.name = "compat", .doc = ""}, s.compat);
    v.field({.name = "compression_type", .doc = ""}, s.compression_type);
    v.field({.name = "lazy_refcounts", .doc = ""}, s.lazy_refcounts);
    v.field({.name = "refcount_bits", .doc = "", .min = 1, .max = 64}, s.refcount_bits);
  }
};

Result<size_t> choose(std::string_view name, const std::string& given,
                      std::span<const std::string_view> choices) {
  auto at = std::find(choices.begin(), choices.end(), given);
  if (at == choices.end()) return std::unexpected(schema::unknown_word(name, given, choices));
  return static_cast<size_t>(at - choices.begin());
}

Result<> apply(const FormatOptions& o, storage::NewQcow2& to) {
  if (!is_power_of_two(o.cluster_size.count))
    return fail("cluster_size: {} is not a power of two", schema::to_text(o.cluster_size));
  if (!is_power_of_two(o.refcount_bits))
    return fail("refcount_bits: {} is not a power of two", o.refcount_bits);
  to.cluster_bits = static_cast<unsigned>(std::countr_zero(o.cluster_size.count));
  to.refcount_order = static_cast<unsigned>(std::countr_zero(o.refcount_bits));
  constexpr std::string_view compats[] = {"0.10", "v2", "1.1", "v3"};
  to.version = TRY(choose("compat", o.compat, compats)) < 2 ? 2 : 3;
  constexpr std::string_view kinds[] = {"zlib", "zstd"};
  to.compression = static_cast<storage::qcow2::Compression>(
      TRY(choose("compression_type", o.compression_type, kinds)));
  constexpr std::string_view switches[] = {"off", "on"};
  to.lazy_refcounts = TRY(choose("lazy_refcounts", o.lazy_refcounts, switches)) == 1;
  return {};
}

}  // namespace

std::span<const ImageVerb> image_verbs() {
  return verbs();
}

const ImageOption& image_option(std::string_view name) {
  auto at = std::find_if(std::begin(kOptions), std::end(kOptions),
                         [&](const ImageOption& o) { return o.name == name; });
  SKERRY_CHECK(at != std::end(kOptions));
  return *at;
}

Result<ImageArguments> ImageArguments::parse(const ImageVerb& verb,
                                             std::span<const std::string> args) {
  ImageArguments out;
  std::string see = fmt::format("see: skerry help image {}", verb.name);
  bool only_words = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--" && !only_words) {
      only_words = true;
      continue;
    }
    if (only_words || word.size() < 2 || word[0] != '-') {
      out.words_.push_back(word);
      continue;
    }
    // A size that is taken away: "-1G".
    if (verb.name == "resize" && word[1] >= '0' && word[1] <= '9') {
      out.words_.push_back(word);
      continue;
    }
    size_t equals = word.starts_with("--") ? word.find('=') : word.npos;
    std::string name = word.substr(0, equals);
    const ImageOption* option = nullptr;
    for (std::string_view known : verb.options) {
      const ImageOption& o = image_option(known);
      if (o.name == name || (!o.brief.empty() && o.brief == name)) option = &o;
    }
    if (!option) {
      Error error{fmt::format("unknown option '{}'", name), see, 0};
      std::vector<std::string_view> known(verb.options.begin(), verb.options.end());
      if (auto meant = schema::nearest(name, known); !meant.empty())
        error.what += fmt::format("; did you mean {}?", meant);
      return std::unexpected(std::move(error));
    }
    if (option->value.empty()) {
      if (equals != word.npos) return fail_hint(see, "{} takes no value", name);
      out.given_.emplace_back(option->name, "");
    } else if (equals != word.npos) {
      out.given_.emplace_back(option->name, word.substr(equals + 1));
    } else {
      if (i + 1 == args.size()) return fail_hint(see, "{} needs a value", name);
      out.given_.emplace_back(option->name, args[++i]);
    }
  }
  if (out.words_.size() < verb.least || out.words_.size() > verb.most)
    return fail_hint(see, "write: skerry image {} {}", verb.name, verb.words);
  return out;
}

std::optional<std::string> ImageArguments::value(std::string_view option) const {
  for (auto at = given_.rbegin(); at != given_.rend(); ++at)
    if (at->first == option) return at->second;
  return std::nullopt;
}

Result<std::optional<Format>> ImageArguments::format(std::string_view option) const {
  auto given = value(option);
  if (!given) return std::nullopt;
  constexpr auto names = enum_names(Format{});
  return static_cast<Format>(TRY(choose("format", *given, names)));
}

Result<storage::CreateOptions> ImageArguments::creation(std::string_view format_option,
                                                        const std::string& path) const {
  storage::CreateOptions options;
  auto format = TRY(this->format(format_option));
  auto named = storage::format_of_name(path);
  // Where neither says it, a new image gets the format that can do more.
  options.format = format                                          ? *format
                   : named                                         ? *named
                   : path.ends_with(".img") || !value("--backing") ? Format::raw
                                                                   : Format::qcow2;
  options.replace = has("--force");
  FormatOptions o;
  if (auto text = value("--options")) {
    if (options.format != Format::qcow2)
      return fail_hint("choose it, or leave -o out", "-o is for the format qcow2");
    auto parsed = schema::from_text<FormatOptions>(*text);
    if (!parsed) return std::unexpected(std::move(parsed).error().in("-o"));
    o = *parsed;
  }
  TRY_VOID(apply(o, options.qcow2));
  if (auto backing = value("--backing")) options.qcow2.backing_file = *backing;
  if (auto base = TRY(this->format("--backing-format")))
    options.qcow2.backing_format = storage::name_of(*base);
  return options;
}

}  // namespace skerry::cli
