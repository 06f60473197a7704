#include "storage/raw_disk.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::storage {

namespace {

Result<Fd> open_for(const std::string& path, bool readonly) {
  auto fd = Fd::open(path, readonly ? O_RDONLY : O_RDWR);
  if (fd) return fd;
  Error error = std::move(fd).error();
  int code = error.code;
  if (code == ENOENT) {
    error.hint = fmt::format("create an empty disk with: truncate -s 1G {}", path);
  } else if (!readonly && (code == EACCES || code == EPERM || code == EROFS) &&
             ::access(path.c_str(), R_OK) == 0) {
    error.hint =
        "it can be read but not written: add ,readonly to the disk, or mend its permissions";
  } else if (code == EISDIR) {
    error.hint = "a disk is a file or a block device, not a directory";
  }
  return std::unexpected(std::move(error).in("disk"));
}

Result<> lock(int fd, const std::string& path, bool readonly) {
  struct flock lock {};
  lock.l_type = readonly ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  int code = errno;
  if (code == EAGAIN || code == EACCES)
    return fail_hint(readonly ? "stop the machine that writes it, or give this one a copy"
                              : "stop the other machine, give this one a copy, or use the disk "
                                "with ,readonly in both",
                     "disk {} is in use by another machine", path);
  // Some network and FUSE filesystems have no locks; refusing to run there would help nobody.
  log_warn(fmt::format("disk {} cannot be locked ({}): make sure that no other machine uses it",
                       path, std::strerror(code)));
  return {};
}

Result<u64> size_of(int fd, const std::string& path) {
  struct stat info {};
  if (::fstat(fd, &info) < 0) return fail_errno(fmt::format("cannot stat disk {}", path));
  if (S_ISREG(info.st_mode)) return static_cast<u64>(info.st_size);
  if (S_ISBLK(info.st_mode)) {
    u64 bytes = 0;
    if (::ioctl(fd, BLKGETSIZE64, &bytes) < 0)
      return fail_errno(fmt::format("cannot ask {} for its size", path));
    return bytes;
  }
  return fail_hint("give the path of an image file or of a block device",
                   "{} is neither a file nor a block device", path);
}

}  // namespace

Result<std::unique_ptr<RawDisk>> RawDisk::open(const std::string& path, Options options) {
  std::unique_ptr<RawDisk> disk(new RawDisk);
  disk->path_ = path;
  disk->readonly_ = options.readonly;
  disk->fd_ = TRY(open_for(path, options.readonly));
  u64 size = TRY(size_of(disk->fd_.get(), path));
  if (size < kSector)
    return fail_hint(fmt::format("make it bigger with: truncate -s 1G {}", path),
                     "disk {} has {} bytes, less than one sector", path, size);
  TRY_VOID(lock(disk->fd_.get(), path, options.readonly));
  disk->size_ = align_down(size, kSector);
  if (disk->size_ != size)
    log_warn(
        fmt::format("disk {}: its size is not a multiple of {}, so the guest does not see its "
                    "last {} bytes",
                    path, kSector, size - disk->size_));
  return disk;
}

Result<> RawDisk::check_range(u64 offset, std::span<const iovec> memory) const {
  u64 total = 0;
  for (const iovec& part : memory) {
    if (part.iov_len > size_ - total) return fail("access past the end of disk {}", path_);
    total += part.iov_len;
  }
  if (offset > size_ - total) return fail("access past the end of disk {}", path_);
  return {};
}

Result<> RawDisk::transfer(bool write, u64 offset, std::span<const iovec> memory) {
  TRY_VOID(check_range(offset, memory));
  std::vector<iovec> left(memory.begin(), memory.end());
  size_t at = 0;
  while (at < left.size()) {
    if (left[at].iov_len == 0) {
      ++at;
      continue;
    }
    int count = static_cast<int>(std::min<size_t>(left.size() - at, IOV_MAX));
    ssize_t n = write ? ::pwritev(fd_.get(), &left[at], count, static_cast<off_t>(offset))
                      : ::preadv(fd_.get(), &left[at], count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("cannot {} disk {}", write ? "write" : "read", path_));
    if (n == 0) return fail("disk {} became shorter while in use", path_);
    offset += static_cast<u64>(n);
    for (auto done = static_cast<size_t>(n); done > 0;) {
      size_t step = std::min(done, left[at].iov_len);
      left[at].iov_base = static_cast<u8*>(left[at].iov_base) + step;
      left[at].iov_len -= step;
      done -= step;
      if (left[at].iov_len == 0) ++at;
    }
  }
  return {};
}

Result<> RawDisk::readv(u64 offset, std::span<const iovec> to) {
  return transfer(false, offset, to);
}

Result<> RawDisk::writev(u64 offset, std::span<const iovec> from) {
  if (readonly_) return fail("disk {} is read-only", path_);
  return transfer(true, offset, from);
}

Result<> RawDisk::flush() {
  if (readonly_ || ::fdatasync(fd_.get()) == 0) return {};
  return fail_errno(fmt::format("cannot flush disk {}", path_));
}

}  // namespace skerry::storage
