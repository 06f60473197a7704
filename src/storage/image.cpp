#include "storage/image.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "storage/qcow2_check.hpp"

namespace skerry::storage {

namespace {

struct Ending {
  std::string_view text;
  Format format;
};
// .img says nothing: distributions ship both under it.
constexpr Ending kEndings[] = {{".qcow2", Format::qcow2},
                               {".qcow", Format::qcow2},
                               {".qc2", Format::qcow2},
                               {".raw", Format::raw},
                               {".iso", Format::raw}};

Result<bool> starts_as_qcow2(File& file) {
  u8 magic[4];
  TRY_VOID(file.read(0, magic));
  return qcow2::looks_like_qcow2(magic);
}

Result<OpenImage> open_chain(const std::string& path, OpenOptions options, unsigned depth);

Result<std::unique_ptr<Disk>> open_backing_at(const std::string& image, const std::string& backing,
                                              const std::string& format, OpenOptions options,
                                              unsigned depth) {
  if (backing.empty()) return nullptr;
  if (depth + 1 >= kMaxChain)
    return fail("{}: more than {} images in a chain, or a chain that leads back to itself", image,
                kMaxChain);
  options.readonly = true;
  options.format.reset();
  if (!format.empty()) {
    constexpr auto names = enum_names(Format{});
    auto at = std::find(names.begin(), names.end(), format);
    if (at == names.end())
      return fail("{}: its backing file has the format '{}', which is not supported", image,
                  format);
    options.format = static_cast<Format>(at - names.begin());
  }
  std::string path = TRY(backing_path(image, backing));
  auto opened = open_chain(path, options, depth + 1);
  if (!opened)
    return std::unexpected(std::move(opened).error().in(fmt::format("backing file of {}", image)));
  return std::move(opened->disk);
}

Result<OpenImage> open_chain(const std::string& path, OpenOptions options, unsigned depth) {
  std::unique_ptr<HostFile> file =
      TRY(HostFile::open(path, {.readonly = options.readonly, .direct = options.direct}));
  Format format = TRY(format_of(*file, options.format));
  if (format == Format::raw)
    return OpenImage{format, TRY(RawDisk::over(std::move(file), options.readonly))};
  if (file->block_device() && !options.readonly)
    return fail_hint("copy it to a file, or use it read-only",
                     "{}: qcow2 on a block device cannot be written", path);
  std::unique_ptr<Disk> backing;
  if (!options.no_backing) {
    std::vector<u8> start(std::min(qcow2::kHeaderBytes, TRY(file->size())));
    TRY_VOID(file->read(0, start));
    qcow2::Header header = TRY(qcow2::parse_header(start, path));
    backing =
        TRY(open_backing_at(path, header.backing_file, header.backing_format, options, depth));
  }
  return OpenImage{format, TRY(Qcow2::open(std::move(file), std::move(backing),
                                           {.readonly = options.readonly}))};
}

}  // namespace

std::optional<Format> format_of_name(std::string_view path) {
  for (const Ending& e : kEndings)
    if (path.ends_with(e.text)) return e.format;
  return std::nullopt;
}

Result<Format> format_of(File& file, std::optional<Format> given) {
  const std::string& path = file.path();
  if (given) return *given;
  auto named = format_of_name(path);
  if (named == Format::raw) return Format::raw;
  bool looks = TRY(starts_as_qcow2(file));
  if (named == Format::qcow2) {
    if (looks) return Format::qcow2;
    return fail_hint("if it is a raw image, say so with the format raw",
                     "{} is not a qcow2 image, though its name says so", path);
  }
  if (!looks) return Format::raw;
  return fail_hint(
      "say which it is: format=qcow2 (or -f qcow2) if you made it so, format=raw if a guest wrote "
      "it",
      "{} looks like a qcow2 image, but neither its name nor anything else says so", path);
}

Result<std::string> backing_path(const std::string& image, const std::string& backing) {
  std::string name = backing;
  if (name.starts_with("file:")) name = name.substr(5);
  size_t colon = name.find(':'), slash = name.find('/');
  if (colon != name.npos && (slash == name.npos || colon < slash))
    return fail("{}: its backing file '{}' is not a file, which is not supported", image, backing);
  if (name.empty()) return fail("{}: its backing file has an empty name", image);
  if (name.starts_with('/')) return name;
  size_t folder = image.rfind('/');
  return folder == image.npos ? name : image.substr(0, folder + 1) + name;
}

Result<std::unique_ptr<Disk>> open_backing(const std::string& image, const std::string& backing,
                                           const std::string& format, OpenOptions options) {
  return open_backing_at(image, backing, format, options, 0);
}

Result<OpenImage> open_image(const std::string& path, OpenOptions options) {
  return open_chain(path, options, 0);
}

Result<std::unique_ptr<Disk>> open_overlay(std::unique_ptr<Disk> base) {
  const char* set = std::getenv("TMPDIR");
  std::string name = std::string(set && *set ? set : "/var/tmp") + "/skerry-overlay-XXXXXX";
  Fd made(::mkstemp(name.data()));
  if (!made) return fail_errno(fmt::format("cannot make a file for an overlay ({})", name));
  auto file = HostFile::open(name, {});
  ::unlink(name.c_str());
  if (!file) return std::unexpected(std::move(file).error());
  TRY_VOID(create_qcow2(**file, {.size = base->size(), .backing_file = "base"}));
  return TRY(Qcow2::open(std::move(*file), std::move(base), {}));
}

}  // namespace skerry::storage
