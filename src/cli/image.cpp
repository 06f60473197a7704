#include "cli/image.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <ctime>

#include "cli/image_arguments.hpp"
#include "cli/progress_bar.hpp"
#include "schema/exit_status.hpp"
#include "schema/text.hpp"

namespace skerry::cli {

namespace {

using namespace storage;
using Json = nlohmann::ordered_json;

constexpr int kCorruptStatus = 2, kLeaksStatus = 3;

Result<u64> size_of(std::string_view text) {
  auto bytes = schema::parse_bytes(text);
  if (!bytes)
    return fail_hint("write it as 10G, 512M or a number of bytes", "'{}' is no size", text);
  return align_up(bytes->count, kSector);
}

/// Bytes that may not be UTF-8 come out as U+FFFD.
std::string text_of(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Names in an image are hostile: nothing in them must command the terminal.
std::string printable(std::string_view text) {
  std::string out;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string time_text(u64 seconds) {
  auto at = static_cast<std::time_t>(seconds);
  std::tm parts{};
  char text[32] = "?";
  if (::gmtime_r(&at, &parts)) std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text;
}

std::string amount(u64 bytes) {
  return schema::to_text(schema::Bytes{bytes});
}

Result<int> create(const ImageArguments& args) {
  const std::string& path = args.words()[0];
  auto options = TRY(args.creation("--format", path));
  if (args.words().size() > 1) options.qcow2.size = TRY(size_of(args.words()[1]));
  TRY_VOID(create_image(path, options));
  return 0;
}

struct Info {
  std::string path;
  Format format = Format::raw;
  u64 size = 0, taken = 0;
  std::optional<qcow2::Header> header;
  std::vector<Qcow2::Snapshot> snapshots;
};

Result<Info> read_info(const std::string& path, std::optional<Format> format) {
  auto file = TRY(HostFile::open(path, {.readonly = true, .unlocked = true}));
  Info info;
  info.path = path;
  info.format = TRY(format_of(*file, format));
  info.taken = TRY(file->allocated());
  info.size = TRY(file->size());
  if (info.format == Format::raw) return info;
  std::vector<u8> start(std::min(qcow2::kHeaderBytes, info.size));
  TRY_VOID(file->read(0, start));
  info.header = TRY(qcow2::parse_header(start, path));
  info.size = info.header->size;
  info.snapshots = TRY(read_snapshots(*file, *info.header));
  return info;
}

Json snapshots_json(const std::vector<Qcow2::Snapshot>& all) {
  Json list = Json::array();
  for (const auto& s : all)
    list.push_back({{"id", s.id},
                    {"name", s.name},
                    {"disk_size", s.disk_size},
                    {"vm_state_size", s.vm_state_bytes},
                    {"date", s.seconds}});
  return list;
}

std::string snapshots_text(const std::vector<Qcow2::Snapshot>& all) {
  std::string text =
      fmt::format("{:<8} {:<24} {:>10} {:>10}  {}\n", "ID", "NAME", "DISK", "MEMORY", "MADE");
  for (const auto& s : all)
    text += fmt::format("{:<8} {:<24} {:>10} {:>10}  {}\n", printable(s.id), printable(s.name),
                        amount(s.disk_size), amount(s.vm_state_bytes), time_text(s.seconds));
  return text;
}

Json info_json(const Info& info) {
  Json j{{"file", info.path},
         {"format", name_of(info.format)},
         {"virtual_size", info.size},
         {"actual_size", info.taken}};
  if (!info.header) return j;
  const auto& h = *info.header;
  j["cluster_size"] = h.cluster();
  j["compat"] = h.version == 2 ? "0.10" : "1.1";
  j["compression_type"] = h.compression == qcow2::Compression::zstd ? "zstd" : "zlib";
  j["refcount_bits"] = 1u << h.refcount_order;
  j["lazy_refcounts"] = bit(h.compatible, qcow2::kLazyRefcounts);
  j["dirty"] = bit(h.incompatible, qcow2::kDirty);
  j["corrupt"] = bit(h.incompatible, qcow2::kCorrupt);
  if (!h.backing_file.empty()) {
    j["backing_file"] = h.backing_file;
    if (!h.backing_format.empty()) j["backing_format"] = h.backing_format;
  }
  j["snapshots"] = snapshots_json(info.snapshots);
  return j;
}

std::string info_text(const Info& info) {
  std::string text;
  auto line = [&](std::string_view name, std::string_view value) {
    text += fmt::format("{:<16}{}\n", name, value);
  };
  line("file", printable(info.path));
  line("format", name_of(info.format));
  line("virtual size", fmt::format("{} ({} bytes)", amount(info.size), info.size));
  line("takes", fmt::format("{} KiB on the host", info.taken / KiB));
  if (!info.header) return text;
  const auto& h = *info.header;
  line("cluster size", amount(h.cluster()));
  if (!h.backing_file.empty())
    line("backing file", fmt::format("{} ({})", printable(h.backing_file),
                                     h.backing_format.empty() ? "format not recorded"
                                                              : printable(h.backing_format)));
  line("version", h.version == 2 ? "2 (compat 0.10)" : "3 (compat 1.1)");
  line("compression", h.compression == qcow2::Compression::zstd ? "zstd" : "zlib");
  line("refcounts", fmt::format("{} bits{}", 1u << h.refcount_order,
                                bit(h.compatible, qcow2::kLazyRefcounts) ? ", lazy" : ""));
  if (bit(h.incompatible, qcow2::kDirty)) line("state", "not closed properly");
  if (bit(h.incompatible, qcow2::kCorrupt)) line("state", "marked as corrupt");
  if (!info.snapshots.empty()) text += "\n" + snapshots_text(info.snapshots);
  return text;
}

Result<int> info(const ImageArguments& args) {
  std::vector<Info> chain;
  chain.push_back(TRY(read_info(args.words()[0], TRY(args.format("--format")))));
  while (args.has("--backing-chain") && chain.back().header &&
         !chain.back().header->backing_file.empty()) {
    if (chain.size() >= kMaxChain) return fail("more than {} images in a chain", kMaxChain);
    const auto& h = *chain.back().header;
    std::optional<Format> format;
    for (Format f : {Format::raw, Format::qcow2})
      if (h.backing_format == name_of(f)) format = f;
    chain.push_back(TRY(read_info(TRY(backing_path(chain.back().path, h.backing_file)), format)));
  }
  std::string text;
  if (args.has("--json")) {
    Json list = Json::array();
    for (const Info& i : chain) list.push_back(info_json(i));
    text = text_of(args.has("--backing-chain") ? list : list[0]);
  } else {
    for (const Info& i : chain) text += (text.empty() ? "" : "\n") + info_text(i);
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

Result<int> convert(const ImageArguments& args) {
  const std::string &from = args.words()[0], &to = args.words()[1];
  ConvertOptions options;
  options.from_format = TRY(args.format("--format"));
  options.to = TRY(args.creation("--output", to));
  options.compress = args.has("--compress");
  ProgressBar bar(!args.has("--quiet"));
  TRY_VOID(convert_image(from, to, options, bar.callback()));
  return 0;
}

Result<int> check(const ImageArguments& args) {
  const std::string& path = args.words()[0];
  Repair repair = Repair::none;
  if (auto wanted = args.value("--repair")) {
    if (*wanted != "leaks" && *wanted != "all")
      return fail_hint("write leaks or all", "--repair: '{}' is neither", *wanted);
    repair = *wanted == "leaks" ? Repair::leaks : Repair::all;
  }
  auto file = TRY(HostFile::open(path, {.readonly = repair == Repair::none}));
  if (TRY(format_of(*file, TRY(args.format("--format")))) == Format::raw)
    return fail("{} is a raw image: there is nothing to check", path);
  CheckReport r = TRY(check_qcow2(*file, repair));
  if (args.has("--json")) {
    std::fputs(text_of({{"file", path},
                        {"corruptions", r.corruptions},
                        {"leaks", r.leaks},
                        {"corruptions_fixed", r.corruptions_fixed},
                        {"leaks_fixed", r.leaks_fixed},
                        {"total_clusters", r.total_clusters},
                        {"allocated_clusters", r.allocated_clusters},
                        {"compressed_clusters", r.compressed_clusters},
                        {"image_end", r.image_end},
                        {"dirty", r.dirty},
                        {"marked_corrupt", r.marked_corrupt},
                        {"messages", r.messages}})
                   .c_str(),
               stdout);
  } else {
    for (const auto& message : r.messages) std::printf("%s\n", printable(message).c_str());
    if (r.corruptions_fixed || r.leaks_fixed)
      std::printf("mended: %llu corruptions, %llu leaked clusters\n",
                  static_cast<unsigned long long>(r.corruptions_fixed),
                  static_cast<unsigned long long>(r.leaks_fixed));
    if (r.dirty && r.corruptions == 0 && repair == Repair::none)
      std::puts("the image was not closed properly; it is mended when it is next written");
    if (r.corruptions || r.leaks) {
      std::printf("%llu corruptions, %llu leaked clusters\n",
                  static_cast<unsigned long long>(r.corruptions),
                  static_cast<unsigned long long>(r.leaks));
    } else {
      std::printf("no errors; %llu of %llu clusters are allocated, %llu of them compressed\n",
                  static_cast<unsigned long long>(r.allocated_clusters),
                  static_cast<unsigned long long>(r.total_clusters),
                  static_cast<unsigned long long>(r.compressed_clusters));
    }
  }
  return r.corruptions ? kCorruptStatus : r.leaks ? kLeaksStatus : 0;
}

Result<int> resize(const ImageArguments& args) {
  const std::string& path = args.words()[0];
  std::string_view text = args.words()[1];
  auto format = TRY(args.format("--format"));
  char sign = text.starts_with('+') || text.starts_with('-') ? text[0] : ' ';
  u64 size = TRY(size_of(sign == ' ' ? text : text.substr(1)));
  if (sign != ' ') {
    u64 now = TRY(read_info(path, format)).size;
    if (sign == '-' && size >= now) return fail("{} has only {} bytes", path, now);
    size = sign == '+' ? now + size : now - size;
  }
  TRY_VOID(resize_image(path, format, size, args.has("--shrink")));
  return 0;
}

Result<int> commit(const ImageArguments& args) {
  ProgressBar bar(!args.has("--quiet"));
  TRY_VOID(commit_image(args.words()[0], TRY(args.format("--format")), bar.callback()));
  return 0;
}

Result<int> rebase(const ImageArguments& args) {
  RebaseOptions options;
  options.format = TRY(args.format("--format"));
  auto backing = args.value("--backing");
  if (!backing) return fail_hint("give it with -b FILE; -b '' takes it away", "no backing file");
  options.backing = *backing;
  if (auto format = TRY(args.format("--backing-format"))) options.backing_format = name_of(*format);
  options.unsafe = args.has("--unsafe");
  ProgressBar bar(!args.has("--quiet"));
  TRY_VOID(rebase_image(args.words()[0], options, bar.callback()));
  return 0;
}

Result<int> map(const ImageArguments& args) {
  auto image =
      TRY(open_image(args.words()[0], {.format = TRY(args.format("--format")), .readonly = true}));
  bool json = args.has("--json"), first = true;
  constexpr std::string_view kinds[] = {"data", "zero", "hole"};
  if (json) std::fputs("[", stdout);
  if (!json)
    std::fputs(fmt::format("{:>16} {:>16} {:>16}  {:<6} {}\n", "START", "LENGTH", "IN FILE AT",
                           "KIND", "DEPTH")
                   .c_str(),
               stdout);
  TRY_VOID(map_disk(*image.disk, [&](const MapEntry& e) -> Result<> {
    bool data = e.extent.kind == Disk::Extent::Kind::data;
    std::string_view kind = e.extent.compressed ? "packed" : kinds[static_cast<u8>(e.extent.kind)];
    if (json) {
      Json j{{"start", e.start},        {"length", e.extent.length},
             {"depth", e.extent.depth}, {"data", data},
             {"zero", !data},           {"compressed", e.extent.compressed}};
      if (data && !e.extent.compressed) j["offset"] = e.extent.at;
      std::fputs(((first ? "" : ",\n ") + j.dump()).c_str(), stdout);
    } else {
      std::string at = data && !e.extent.compressed ? fmt::format("{:#x}", e.extent.at) : "-";
      std::fputs(fmt::format("{:#16x} {:#16x} {:>16}  {:<6} {}\n", e.start, e.extent.length, at,
                             kind, e.extent.depth)
                     .c_str(),
                 stdout);
    }
    first = false;
    return {};
  }));
  if (json) std::fputs("]\n", stdout);
  return 0;
}

Result<int> snapshot(const ImageArguments& args) {
  Info i = TRY(read_info(args.words()[0], TRY(args.format("--format"))));
  if (i.format == Format::raw) return fail("{} is a raw image: it has no snapshots", i.path);
  std::fputs(args.has("--json") ? text_of(snapshots_json(i.snapshots)).c_str()
                                : snapshots_text(i.snapshots).c_str(),
             stdout);
  return 0;
}

constexpr std::pair<std::string_view, Result<int> (*)(const ImageArguments&)> kActions[] = {
    {"create", create}, {"info", info},     {"convert", convert},
    {"check", check},   {"resize", resize}, {"commit", commit},
    {"rebase", rebase}, {"map", map},       {"snapshot", snapshot}};

int complain(const Error& error, int status) {
  std::fprintf(stderr, "skerry: %s\n", error.message().c_str());
  return status;
}

}  // namespace

std::string image_help(std::string_view verb) {
  static constexpr size_t column = 34;
  auto wrapped = [](std::string_view left, std::string_view right) {
    if (left.size() + 4 > column) return fmt::format("  {}\n{:{}}{}\n", left, "", column, right);
    return fmt::format("  {:<{}}{}\n", left, column - 2, right);
  };
  for (const ImageVerb& v : image_verbs()) {
    if (v.name != verb) continue;
    std::string text =
        fmt::format("Usage: skerry image {} [OPTIONS] {}\n\n{}.\n\n", v.name, v.words, v.doc);
    text[text.find("\n\n") + 2] =
        static_cast<char>(std::toupper(static_cast<unsigned char>(v.doc[0])));
    for (std::string_view name : v.options) {
      const ImageOption& o = image_option(name);
      text += wrapped(fmt::format("{}{}{}{}{}", o.brief, o.brief.empty() ? "" : ", ", o.name,
                                  o.value.empty() ? "" : " ", o.value),
                      o.doc);
    }
    if (v.name == "check")
      text += "\nExit status: 0 no errors, 2 corrupt, 3 leaked clusters only.\n";
    return text;
  }
  std::string text =
      "Usage: skerry image VERB [OPTIONS] FILE...\n\nDisk images, raw and qcow2.\n\n";
  for (const ImageVerb& v : image_verbs())
    text += wrapped(fmt::format("{} {}", v.name, v.words), v.doc);
  text += wrapped("build debian-12", "make the disk of a whole Debian system");
  text += "\nskerry help image VERB: its options.\n";
  return text;
}

int run_image(const std::vector<std::string>& args) {
  auto wants_help = [](const std::string& s) { return s == "--help" || s == "-h"; };
  if (args.empty())
    return complain({"no verb given", "see: skerry help image", 0}, schema::exit_usage);
  if (std::any_of(args.begin(), args.end(), wants_help)) {
    std::fputs(image_help(args[0]).c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : schema::exit_host;
  }
  std::vector<std::string_view> names;
  for (const ImageVerb& v : image_verbs()) {
    names.push_back(v.name);
    if (v.name != args[0]) continue;
    auto parsed = ImageArguments::parse(v, std::span(args).subspan(1));
    if (!parsed) return complain(parsed.error(), schema::exit_usage);
    for (auto [name, action] : kActions) {
      if (name != v.name) continue;
      auto done = action(*parsed);
      if (!done) return complain(done.error(), schema::exit_host);
      // A full disk or a closed pipe must not look like success.
      if (std::fflush(stdout) != 0 || std::ferror(stdout)) return schema::exit_host;
      return *done;
    }
  }
  names.push_back("build");  // cli/image_build.hpp
  Error error = schema::unknown_word("verb", args[0], names);
  error.hint = "see: skerry help image";
  return complain(error, schema::exit_usage);
}

}  // namespace skerry::cli
