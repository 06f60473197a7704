#include "storage/raw_disk.hpp"

#include <algorithm>

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::storage {

Result<std::unique_ptr<RawDisk>> RawDisk::open(const std::string& path, Options options) {
  return over(TRY(HostFile::open(path, {.readonly = options.readonly, .direct = options.direct})),
              options.readonly);
}

Result<std::unique_ptr<RawDisk>> RawDisk::over(std::unique_ptr<HostFile> file, bool readonly) {
  std::unique_ptr<RawDisk> disk(new RawDisk);
  disk->file_ = std::move(file);
  disk->readonly_ = readonly;
  u64 size = TRY(disk->file_->size());
  const std::string& path = disk->path();
  if (size < kSector)
    return fail_hint(fmt::format("make it bigger with: skerry image resize -f raw {} 1G", path),
                     "disk {} has {} bytes, less than one sector", path, size);
  disk->size_ = align_down(size, kSector);
  if (disk->size_ != size)
    log_warn(
        fmt::format("disk {}: its size is not a multiple of {}, so the guest does not see its "
                    "last {} bytes",
                    path, kSector, size - disk->size_));
  return disk;
}

Result<> RawDisk::writable(u64 offset, u64 length) const {
  if (readonly_) return fail("disk {} is read-only", path());
  return check_range(offset, length);
}

Result<> RawDisk::readv(u64 offset, std::span<const iovec> to) {
  u64 total = length_of(to);
  TRY_VOID(check_range(offset, total));
  if (TRY(file_->read_some(offset, to)) < total)
    return fail("disk {} became shorter while in use", path());
  return {};
}

Result<> RawDisk::writev(u64 offset, std::span<const iovec> from) {
  TRY_VOID(writable(offset, length_of(from)));
  return file_->writev(offset, from);
}

Result<> RawDisk::write_zeroes(u64 offset, u64 length, bool unmap) {
  TRY_VOID(writable(offset, length));
  if (unmap && TRY(file_->punch(offset, length))) return {};
  if (TRY(file_->zero(offset, length))) return {};
  return Disk::write_zeroes(offset, length, unmap);
}

Result<> RawDisk::discard(u64 offset, u64 length) {
  TRY_VOID(writable(offset, length));
  TRY(file_->punch(offset, length));  // a hint: what the host cannot give back stays
  return {};
}

Result<> RawDisk::resize(u64 size) {
  if (file_->block_device())
    return fail_hint("change the size of the device itself", "{} is a block device", path());
  if (readonly_) return fail("disk {} is read-only", path());
  if (size < kSector || size % kSector) return fail("a disk's size is a multiple of {}", kSector);
  TRY_VOID(file_->truncate(size));
  TRY_VOID(file_->flush());
  size_ = size;
  return {};
}

Result<Disk::Extent> RawDisk::extent(u64 offset, u64 length) {
  TRY_VOID(check_range(offset, length));
  u64 data = std::min(TRY(file_->next_data(offset)), offset + length);
  if (data > offset) {
    // Holes end at the filesystem's blocks, data begins at bytes.
    u64 end = data == offset + length ? data : align_down(data, kSector);
    if (end > offset) return Extent{.length = end - offset, .kind = Extent::Kind::hole};
  }
  u64 hole =
      std::min(align_up(TRY(file_->next_hole(std::max(data, offset))), kSector), offset + length);
  return Extent{.length = std::max(hole, offset + kSector) - offset, .at = offset};
}

}  // namespace skerry::storage
