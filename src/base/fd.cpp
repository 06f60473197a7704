#include "base/fd.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

namespace skerry {

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Fd> Fd::open(const std::string& path, int flags, unsigned mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd >= 0) return Fd(fd);
  int code = errno;
  Error error{fmt::format("cannot open {}: {}", path, std::strerror(code)), {}, code};
  if (code == EACCES || code == EPERM)
    error.hint = fmt::format("check who may use it with: ls -l {}", path);
  if (code == ENOENT)
    error.hint = "check the path; a relative path starts at the current directory";
  return std::unexpected(std::move(error));
}

Result<Fd> Fd::event() {
  int fd = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) return fail_errno("cannot create an eventfd");
  return Fd(fd);
}

void signal_event(int fd) {
  u64 one = 1;
  // A full counter (EAGAIN) is already a pending wake-up.
  [[maybe_unused]] ssize_t n = ::write(fd, &one, sizeof one);
}

bool drain_event(int fd) {
  u64 count = 0;
  return ::read(fd, &count, sizeof count) == sizeof count;
}

Result<> write_all(int fd, std::span<const u8> data) {
  while (!data.empty()) {
    ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot write");
    data = data.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<std::string> read_file(const std::string& path, u64 limit) {
  Fd fd = TRY(Fd::open(path, O_RDONLY));
  struct stat info {};
  if (::fstat(fd.get(), &info) < 0) return fail_errno(fmt::format("cannot stat {}", path));
  if (S_ISDIR(info.st_mode)) return fail("{} is a directory, not a file", path);
  std::string content;
  // Files of /proc and /sys say size 0, so read until the end instead of trusting st_size.
  content.reserve(static_cast<size_t>(info.st_size > 0 ? info.st_size : 4096));
  char buffer[64 * KiB];
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("cannot read {}", path));
    if (n == 0) return content;
    content.append(buffer, static_cast<size_t>(n));
    if (content.size() > limit) return fail("{} is larger than {} bytes", path, limit);
  }
}

}  // namespace skerry
