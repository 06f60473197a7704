// A disk in memory, for tests and fuzzing: can fail, and can hold requests back.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "storage/disk.hpp"

namespace skerry::storage {

class MemoryDisk final : public Disk {
 public:
  explicit MemoryDisk(u64 size, bool readonly = false) : bytes(size), readonly_(readonly) {}

  u64 size() const override { return bytes.size(); }
  bool readonly() const override { return readonly_; }
  const std::string& path() const override { return path_; }
  Result<> readv(u64 offset, std::span<const iovec> to) override {
    TRY_VOID(begin());
    for (const iovec& part : to) {
      std::memcpy(part.iov_base, bytes.data() + offset, part.iov_len);
      offset += part.iov_len;
    }
    return {};
  }
  Result<> writev(u64 offset, std::span<const iovec> from) override {
    TRY_VOID(begin());
    for (const iovec& part : from) {
      std::memcpy(bytes.data() + offset, part.iov_base, part.iov_len);
      offset += part.iov_len;
    }
    dirty = true;
    return {};
  }
  Result<> flush() override {
    TRY_VOID(begin());
    dirty = false;
    ++flushes;
    return {};
  }

  Result<> discard(u64 offset, u64 length) override {
    TRY_VOID(begin());
    std::memset(bytes.data() + offset, 0, length);
    dirty = true;
    ++discards;
    return {};
  }
  Result<> resize(u64 size) override {
    bytes.resize(size);
    return {};
  }

  /// Requests wait between hold() and let_go().
  void hold() {
    std::lock_guard guard(mutex_);
    held_ = true;
  }
  void let_go() {
    {
      std::lock_guard guard(mutex_);
      held_ = false;
    }
    changed_.notify_all();
  }
  /// Waits until a request is being held.
  void wait_held() {
    std::unique_lock guard(mutex_);
    changed_.wait(guard, [&] { return waiting_ > 0; });
  }

  std::vector<u8> bytes;
  std::atomic<bool> failing{false}, dirty{false};
  std::atomic<int> code{0};  ///< errno of the failure
  std::atomic<unsigned> flushes{0}, discards{0};

 private:
  Result<> begin() {
    std::unique_lock guard(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(guard, [&] { return !held_; });
    --waiting_;
    if (failing) return std::unexpected(Error{"the disk is on fire", {}, code});
    return {};
  }
  bool readonly_;
  std::string path_ = "memory";
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  int waiting_ = 0;
};

}  // namespace skerry::storage
