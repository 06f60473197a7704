// Screen: the last output of a serial port or console, for the control socket.
//
// Written by vCPUs and the machine's loop, read by the control socket's thread. Writing never waits
// for a reader: each keeps its own place, counted in bytes since the start.
#pragma once

#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "base/types.hpp"

namespace skerry::vmm {

class Screen {
 public:
  static constexpr size_t kKept = 64 * KiB;

  void write(std::span<const u8> bytes);
  u64 written() const;
  /// Up to `most` kept bytes from `at` on, which is moved to the oldest that are kept if those were
  /// overwritten, and then behind what is returned.
  std::string read(u64& at, size_t most) const;

  /// Called once for the next write after each call of watch(), by the writer's thread.
  void set_watcher(std::function<void()> changed);
  void watch();

 private:
  mutable std::mutex mutex_;
  std::string ring_;
  u64 written_ = 0;
  bool watched_ = false;
  std::function<void()> changed_;
};

}  // namespace skerry::vmm
