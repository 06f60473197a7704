// Ownership of file descriptors, and the few calls that every owner needs.
#pragma once

#include <span>
#include <string>

#include "base/result.hpp"

namespace skerry {

/// Owns one file descriptor; closes it. Movable. -1 means none.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

  /// open(2) with O_CLOEXEC; the error names the path and says how to mend the usual causes.
  static Result<Fd> open(const std::string& path, int flags, unsigned mode = 0644);
  /// A non-blocking eventfd.
  static Result<Fd> event();

 private:
  int fd_ = -1;
};

/// Wakes whoever polls an eventfd. Never blocks.
void signal_event(int fd);
/// Clears an eventfd; true if it had been signalled.
bool drain_event(int fd);
/// Writes all of `data`, riding over EINTR and short writes.
Result<> write_all(int fd, std::span<const u8> data);
/// The whole of a regular file, at most `limit` bytes (an error beyond).
Result<std::string> read_file(const std::string& path, u64 limit = 1 * GiB);

}  // namespace skerry
