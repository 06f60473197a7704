#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "base/bits.hpp"
#include "base/log.hpp"
#include "storage/file.hpp"

namespace skerry::storage {

namespace {

constexpr u64 kDirectAlignment = 4096;  // what every device and filesystem takes
constexpr u64 kBufferBytes = 1 * MiB;

Result<Fd> open_for(const std::string& path, const HostFile::Options& options) {
  int flags = (options.readonly ? O_RDONLY : O_RDWR) | (options.direct ? O_DIRECT : 0) |
              (options.create ? O_CREAT | O_EXCL : 0);
  auto fd = Fd::open(path, flags);
  if (fd) return fd;
  Error error = std::move(fd).error();
  int code = error.code;
  if (options.create && code == EEXIST) {
    error.hint = "choose another name, or remove it first";
  } else if (code == ENOENT && !options.create) {
    error.hint = fmt::format("create an empty disk with: skerry image create {} 1G", path);
  } else if (!options.readonly && (code == EACCES || code == EPERM || code == EROFS) &&
             ::access(path.c_str(), R_OK) == 0) {
    error.hint =
        "it can be read but not written: add ,readonly to the disk, or mend its permissions";
  } else if (code == EISDIR) {
    error.hint = "a disk is a file or a block device, not a directory";
  } else if (options.direct && code == EINVAL) {
    error.hint = "its filesystem has no O_DIRECT: leave out ,direct";
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

}  // namespace

u64 length_of(std::span<const iovec> memory) {
  u64 total = 0;
  for (const iovec& part : memory) total += part.iov_len;
  return total;
}

std::vector<iovec> slice(std::span<const iovec> memory, u64 offset, u64 length) {
  std::vector<iovec> out;
  for (const iovec& part : memory) {
    if (length == 0) break;
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    u64 n = std::min<u64>(part.iov_len - offset, length);
    out.push_back({static_cast<u8*>(part.iov_base) + offset, n});
    offset = 0;
    length -= n;
  }
  return out;
}

void clear(std::span<const iovec> memory) {
  for (const iovec& part : memory)
    if (part.iov_len) std::memset(part.iov_base, 0, part.iov_len);
}

Result<> File::read(u64 offset, std::span<u8> to) {
  iovec one{to.data(), to.size()};
  return readv(offset, {&one, 1});
}

Result<> File::write(u64 offset, std::span<const u8> from) {
  iovec one{const_cast<u8*>(from.data()), from.size()};
  return writev(offset, {&one, 1});
}

Result<std::unique_ptr<HostFile>> HostFile::open(const std::string& path, Options options) {
  std::unique_ptr<HostFile> file(new HostFile);
  file->path_ = path;
  file->readonly_ = options.readonly;
  file->direct_ = options.direct;
  file->fd_ = TRY(open_for(path, options));
  struct stat info {};
  if (::fstat(file->fd_.get(), &info) < 0)
    return fail_errno(fmt::format("cannot stat disk {}", path));
  file->block_device_ = S_ISBLK(info.st_mode);
  if (!file->block_device_ && !S_ISREG(info.st_mode))
    return fail_hint("give the path of an image file or of a block device",
                     "{} is neither a file nor a block device", path);
  if (!options.unlocked) TRY_VOID(lock(file->fd_.get(), path, options.readonly));
  return file;
}

Result<u64> HostFile::size() {
  struct stat info {};
  if (::fstat(fd_.get(), &info) < 0) return fail_errno(fmt::format("cannot stat disk {}", path_));
  if (!block_device_) return static_cast<u64>(info.st_size);
  u64 bytes = 0;
  if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes) < 0)
    return fail_errno(fmt::format("cannot ask {} for its size", path_));
  return bytes;
}

bool HostFile::aligned(u64 offset, std::span<const iovec> memory) const {
  if (offset % kDirectAlignment) return false;
  for (const iovec& part : memory)
    if (part.iov_len % kDirectAlignment ||
        reinterpret_cast<uintptr_t>(part.iov_base) % kDirectAlignment)
      return false;
  return true;
}

// The number of bytes moved; less than asked for only at the end of the file.
Result<u64> HostFile::transfer(bool write, u64 offset, std::span<const iovec> memory) {
  std::vector<iovec> left(memory.begin(), memory.end());
  size_t at = 0;
  u64 moved = 0;
  while (at < left.size()) {
    if (left[at].iov_len == 0) {
      ++at;
      continue;
    }
    int count = static_cast<int>(std::min<size_t>(left.size() - at, IOV_MAX));
    ssize_t n = write ? ::pwritev(fd_.get(), &left[at], count, static_cast<off_t>(offset + moved))
                      : ::preadv(fd_.get(), &left[at], count, static_cast<off_t>(offset + moved));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("cannot {} disk {}", write ? "write" : "read", path_));
    if (n == 0) break;
    moved += static_cast<u64>(n);
    for (auto done = static_cast<size_t>(n); done > 0;) {
      size_t step = std::min(done, left[at].iov_len);
      left[at].iov_base = static_cast<u8*>(left[at].iov_base) + step;
      left[at].iov_len -= step;
      done -= step;
      if (left[at].iov_len == 0) ++at;
    }
    // O_DIRECT stops at an unaligned end of the file.
    if (direct_ && !write && static_cast<u64>(n) % kDirectAlignment) break;
  }
  return moved;
}

Result<u64> HostFile::through_buffer(bool write, u64 offset, std::span<const iovec> memory) {
  std::unique_lock guard(edges_, std::defer_lock);
  if (write) guard.lock();
  u64 total = length_of(memory), done = 0;
  std::unique_ptr<u8, decltype(&std::free)> buffer(
      static_cast<u8*>(std::aligned_alloc(kDirectAlignment, kBufferBytes)), &std::free);
  if (!buffer) return fail("no memory for a buffer of disk {}", path_);
  while (done < total) {
    u64 at = align_down(offset + done, kDirectAlignment), skip = offset + done - at;
    u64 step = std::min(total - done, kBufferBytes - skip);
    u64 span = align_up(skip + step, kDirectAlignment);
    iovec whole{buffer.get(), span};
    auto part = slice(memory, done, step);
    if (!write) {
      u64 got = TRY(transfer(false, at, {&whole, 1}));
      u64 usable = std::min(got > skip ? got - skip : 0, step), place = skip;
      for (const iovec& p : slice(part, 0, usable)) {
        std::memcpy(p.iov_base, buffer.get() + place, p.iov_len);
        place += p.iov_len;
      }
      done += usable;
      if (usable < step) break;
      continue;
    }
    u64 end = at + span, before = 0;
    if (skip || (skip + step) % kDirectAlignment) {
      before = TRY(size());
      std::memset(buffer.get(), 0, span);
      TRY(transfer(false, at, {&whole, 1}));
    }
    u64 place = skip;
    for (const iovec& p : part) {
      std::memcpy(buffer.get() + place, p.iov_base, p.iov_len);
      place += p.iov_len;
    }
    u64 wanted_end = offset + done + step;
    TRY(transfer(true, at, {&whole, 1}));
    // The aligned tail must not make the file longer than what was written.
    if (!block_device_ && wanted_end < end && before < end)
      TRY_VOID(truncate(std::max(before, wanted_end)));
    done += step;
  }
  return done;
}

Result<u64> HostFile::read_some(u64 offset, std::span<const iovec> to) {
  return direct_ && !aligned(offset, to) ? through_buffer(false, offset, to)
                                         : transfer(false, offset, to);
}

Result<> HostFile::readv(u64 offset, std::span<const iovec> to) {
  u64 total = length_of(to), got = TRY(read_some(offset, to));
  if (got < total) clear(slice(to, got, total - got));
  return {};
}

Result<> HostFile::writev(u64 offset, std::span<const iovec> from) {
  u64 done = TRY(direct_ && !aligned(offset, from) ? through_buffer(true, offset, from)
                                                   : transfer(true, offset, from));
  if (done < length_of(from)) return fail("disk {} takes no more", path_);
  return {};
}

Result<> HostFile::flush() {
  if (readonly_ || ::fdatasync(fd_.get()) == 0) return {};
  return fail_errno(fmt::format("cannot flush disk {}", path_));
}

Result<> HostFile::truncate(u64 size) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0) return {};
  return fail_errno(fmt::format("cannot change the size of {}", path_));
}

Result<bool> HostFile::fallocate(int mode, u64 offset, u64 length, const char* what) {
  if (length == 0) return true;
  while (::fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)) < 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == ENODEV) return false;
    return fail_errno(fmt::format("cannot {} disk {}", what, path_));
  }
  return true;
}

Result<bool> HostFile::punch(u64 offset, u64 length) {
  return fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, "free space of");
}

Result<bool> HostFile::zero(u64 offset, u64 length) {
  return fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length, "write zeros to");
}

Result<u64> HostFile::next_data(u64 offset) {
  if (block_device_) return offset;
  off_t at = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (at >= 0) return static_cast<u64>(at);
  if (errno == ENXIO) return size();
  return offset;  // no such knowledge here: all of it is data
}

Result<u64> HostFile::next_hole(u64 offset) {
  if (!block_device_) {
    off_t at = ::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_HOLE);
    if (at >= 0) return static_cast<u64>(at);
  }
  return size();
}

Result<u64> HostFile::allocated() {
  struct stat info {};
  if (::fstat(fd_.get(), &info) < 0) return fail_errno(fmt::format("cannot stat disk {}", path_));
  return block_device_ ? size() : Result<u64>(static_cast<u64>(info.st_blocks) * 512);
}

}  // namespace skerry::storage
