#include "storage/copy.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace skerry::storage {

namespace {

constexpr u64 kChunk = 2 * MiB;
constexpr u64 kZeroBlock = 4096;  ///< holes of a raw file are not smaller

bool all_zero(std::span<const u8> bytes) {
  return bytes.empty() ||
         (bytes[0] == 0 && std::memcmp(&bytes[0], &bytes[1], bytes.size() - 1) == 0);
}

/// Writes `data` without its zeros.
Result<> write_sparse(Disk& to, u64 offset, std::span<const u8> data, u64 block) {
  for (u64 at = 0; at < data.size();) {
    // Blocks are those of the disk, so that clusters are whole.
    auto block_at = [&](u64 from) {
      u64 end = align_down(offset + from, block) + block - offset;
      return data.subspan(from, std::min<u64>(end, data.size()) - from);
    };
    u64 end = at;
    bool zero = all_zero(block_at(at));
    while (end < data.size() && all_zero(block_at(end)) == zero) end += block_at(end).size();
    if (!zero) TRY_VOID(to.write(offset + at, data.subspan(at, end - at)));
    at = end;
  }
  return {};
}

Result<> remove_on_failure(const std::string& path, Result<> result) {
  if (!result) ::unlink(path.c_str());
  return result;
}

Result<bool> same_file(const std::string& a, const std::string& b) {
  struct stat one {
  }, two{};
  if (::stat(a.c_str(), &one) < 0) return fail_errno(a);
  if (::stat(b.c_str(), &two) < 0) return fail_errno(b);
  return one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

/// What shows through a chain that ends at `disk` (null: zeros), also past its end.
Result<> read_through(Disk* disk, u64 offset, std::span<u8> to) {
  u64 there = disk && offset < disk->size() ? std::min<u64>(to.size(), disk->size() - offset) : 0;
  std::fill(to.begin() + static_cast<ptrdiff_t>(there), to.end(), u8{0});
  return there ? disk->read(offset, to.first(there)) : Result<>{};
}

}  // namespace

Result<> create_image(const std::string& path, CreateOptions options) {
  NewQcow2& wanted = options.qcow2;
  if (!wanted.backing_file.empty()) {
    if (options.format != Format::qcow2)
      return fail_hint("make it in the format qcow2", "a raw image cannot have a backing file");
    if (wanted.backing_format.empty()) {
      // Recorded, so that nobody ever has to guess.
      std::string where = TRY(backing_path(path, wanted.backing_file));
      auto file = TRY(HostFile::open(where, {.readonly = true, .unlocked = true}));
      wanted.backing_format = name_of(TRY(format_of(*file, std::nullopt)));
    }
    auto base = TRY(open_backing(path, wanted.backing_file, wanted.backing_format, {}));
    if (wanted.size == 0) wanted.size = base->size();
  }
  if (wanted.size == 0)
    return fail_hint("give it after the file: FILE 10G", "no size for {}", path);
  if (wanted.size < kSector || wanted.size % kSector || wanted.size >> 62)
    return fail("a disk of {} bytes cannot be made: sizes are multiples of {}", wanted.size,
                kSector);
  if (options.replace) ::unlink(path.c_str());
  auto file = TRY(HostFile::open(path, {.create = true}));
  if (options.format == Format::raw) {
    auto made = file->truncate(wanted.size);
    if (made) made = file->flush();
    return remove_on_failure(path, std::move(made));
  }
  return remove_on_failure(path, create_qcow2(*file, wanted));
}

Result<> copy_disk(Disk& from, Disk& to, bool compress, const Progress& progress) {
  auto* qcow2 = dynamic_cast<Qcow2*>(&to);
  u64 block = qcow2 ? qcow2->cluster() : kZeroBlock, size = from.size();
  SKERRY_CHECK(!compress || qcow2);
  std::vector<u8> buffer(std::max(kChunk, block));
  for (u64 at = 0; at < size;) {
    Disk::Extent e = TRY(from.extent(at, size - at));
    if (e.kind != Disk::Extent::Kind::data) {
      // Clusters that are zero in part only are read.
      u64 end = at + e.length == size ? size : align_down(at + e.length, block);
      if (end > at && at % block == 0) {
        at = end;
        if (progress) progress(at, size);
        continue;
      }
    }
    u64 end = std::min(size, align_down(at, block) + std::max(kChunk, block));
    // No further than the data, rounded up to whole clusters.
    end = std::min(end, align_up(at + e.length, block));
    auto data = std::span(buffer).first(end - at);
    TRY_VOID(from.read(at, data));
    if (compress) {
      for (u64 i = 0; i < data.size(); i += block) {
        auto cluster = data.subspan(i, std::min<u64>(block, data.size() - i));
        if (!all_zero(cluster)) TRY_VOID(qcow2->write_compressed(at + i, cluster));
      }
    } else {
      TRY_VOID(write_sparse(to, at, data, block));
    }
    at = end;
    if (progress) progress(at, size);
  }
  return to.flush();
}

Result<> convert_image(const std::string& from, const std::string& to, ConvertOptions options,
                       const Progress& progress) {
  if (options.compress && options.to.format != Format::qcow2)
    return fail_hint("use -O qcow2", "only qcow2 images can be compressed");
  auto source = TRY(open_image(from, {.format = options.from_format, .readonly = true}));
  if (::access(to.c_str(), F_OK) == 0) {
    // It would be replaced before it is read.
    if (TRY(same_file(from, to))) return fail("{} and {} are the same file", from, to);
    if (!options.to.replace)
      return fail_hint("choose another name, or replace it with --force", "{} exists", to);
  }
  options.to.qcow2.size = source.disk->size();
  TRY_VOID(create_image(to, options.to));
  auto copy = [&]() -> Result<> {
    auto target = TRY(open_image(to, {.format = options.to.format, .no_backing = true}));
    return copy_disk(*source.disk, *target.disk, options.compress, progress);
  };
  return remove_on_failure(to, copy());
}

Result<> commit_image(const std::string& path, std::optional<Format> format,
                      const Progress& progress) {
  auto image = TRY(open_image(path, {.format = format, .no_backing = true}));
  Qcow2* top = image.qcow2();
  if (!top || top->header().backing_file.empty())
    return fail("{} has no backing file to commit to", path);
  if (top->header().snapshots)
    return fail_hint("remove them first", "{} has internal snapshots", path);
  std::optional<Format> base_format;
  for (Format f : {Format::raw, Format::qcow2})
    if (top->header().backing_format == name_of(f)) base_format = f;
  auto base =
      TRY(open_image(TRY(backing_path(path, top->header().backing_file)), {.format = base_format}));
  u64 size = top->size();
  if (base.disk->size() < size) TRY_VOID(base.disk->resize(size));
  std::vector<u8> buffer(kChunk);
  for (u64 at = 0; at < size;) {
    u64 length = std::min(size - at, kChunk);
    if (TRY(top->has_own(at, length))) {
      auto e = TRY(top->extent(at, length));
      length = std::min(length, e.length);
      if (e.kind == Disk::Extent::Kind::data) {
        auto data = std::span(buffer).first(length);
        TRY_VOID(top->read(at, data));
        TRY_VOID(base.disk->write(at, data));
      } else {
        TRY_VOID(base.disk->write_zeroes(at, length, true));
      }
    }
    at += length;
    if (progress) progress(at, size);
  }
  TRY_VOID(base.disk->flush());  // before the only other copy goes
  return top->drop_all();
}

Result<> rebase_image(const std::string& path, const RebaseOptions& options,
                      const Progress& progress) {
  auto image = TRY(open_image(path, {.format = options.format, .no_backing = options.unsafe}));
  Qcow2* top = image.qcow2();
  if (!top) return fail("{} is a raw image: it has no backing file", path);
  std::string format = options.backing_format;
  std::unique_ptr<Disk> base;
  if (!options.backing.empty()) {
    if (format.empty()) {
      auto file = TRY(HostFile::open(TRY(backing_path(path, options.backing)),
                                     {.readonly = true, .unlocked = true}));
      format = name_of(TRY(format_of(*file, std::nullopt)));
    }
    base = TRY(open_backing(path, options.backing, format, {}));
  }
  if (!options.unsafe) {
    // Where the old and the new backing file differ, the image gets what it showed until now.
    std::vector<u8> old(kChunk), now(kChunk);
    u64 size = top->size(), cluster = top->cluster();
    for (u64 at = 0; at < size;) {
      u64 length = std::min(size - at, kChunk);
      if (!TRY(top->has_own(at, length))) {
        auto was = std::span(old).first(length), is = std::span(now).first(length);
        TRY_VOID(top->read(at, was));
        TRY_VOID(read_through(base.get(), at, is));
        for (u64 i = 0; i < length;) {
          u64 n = std::min(length - i, cluster - (at + i) % cluster);
          if (std::memcmp(&was[i], &is[i], n) != 0) {
            if (all_zero(was.subspan(i, n)) && top->header().version >= 3) {
              TRY_VOID(top->hide(at + i));
            } else {
              TRY_VOID(top->write(at + i, was.subspan(i, n)));
            }
          }
          i += n;
        }
      }
      at += length;
      if (progress) progress(at, size);
    }
    TRY_VOID(top->flush());
  }
  return top->set_backing(options.backing, format);
}

Result<> resize_image(const std::string& path, std::optional<Format> format, u64 size,
                      bool shrink) {
  auto image = TRY(open_image(path, {.format = format}));
  if (size < image.disk->size() && !shrink)
    return fail_hint("add --shrink if the guest has made its filesystems smaller before",
                     "{} has {} bytes: making it smaller cuts data off", path, image.disk->size());
  return image.disk->resize(size);
}

Result<> map_disk(Disk& disk, const std::function<Result<>(const MapEntry&)>& each) {
  MapEntry run;
  for (u64 at = 0; at < disk.size();) {
    Disk::Extent e = TRY(disk.extent(at, disk.size() - at));
    Disk::Extent& r = run.extent;
    bool joins = r.length && e.kind == r.kind && e.depth == r.depth &&
                 e.compressed == r.compressed &&
                 (e.kind != Disk::Extent::Kind::data || e.compressed || e.at == r.at + r.length);
    if (joins) {
      r.length += e.length;
    } else {
      if (r.length) TRY_VOID(each(run));
      run = {at, e};
    }
    at += e.length;
  }
  return run.extent.length ? each(run) : Result<>{};
}

}  // namespace skerry::storage
