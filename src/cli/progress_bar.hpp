// A line on the terminal that says how far long work is.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "storage/copy.hpp"

namespace skerry::cli {

/// Shows itself only where stderr is a terminal; its line is gone when it ends.
class ProgressBar {
 public:
  explicit ProgressBar(bool wanted) : shown_(wanted && ::isatty(STDERR_FILENO)) {}
  ~ProgressBar() {
    if (drawn_) std::fputs("\r\033[K", stderr);
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  storage::Progress callback() {
    if (!shown_) return nullptr;
    return [this](u64 done, u64 total) { draw(done, total); };
  }

 private:
  void draw(u64 done, u64 total) {
    auto now = std::chrono::steady_clock::now();
    if (drawn_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    drawn_ = true;
    constexpr unsigned width = 40;
    double part = total ? static_cast<double>(done) / static_cast<double>(total) : 1;
    auto filled = static_cast<unsigned>(part * width);
    std::fprintf(stderr, "\r[%.*s%*s] %3u%%", static_cast<int>(filled),
                 "########################################", static_cast<int>(width - filled), "",
                 static_cast<unsigned>(part * 100));
  }
  bool shown_, drawn_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace skerry::cli
