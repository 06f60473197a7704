#include "vmm/screen.hpp"

#include <algorithm>

namespace skerry::vmm {

void Screen::write(std::span<const u8> bytes) {
  bool tell;
  {
    std::lock_guard guard(mutex_);
    if (bytes.size() > kKept) {
      written_ += bytes.size() - kKept;
      bytes = bytes.last(kKept);
    }
    if (ring_.empty()) ring_.resize(kKept);
    while (!bytes.empty()) {
      size_t at = written_ % kKept, n = std::min(bytes.size(), kKept - at);
      std::copy_n(bytes.begin(), n, ring_.begin() + static_cast<long>(at));
      written_ += n;
      bytes = bytes.subspan(n);
    }
    tell = watched_ && changed_;
    watched_ = false;
  }
  if (tell) changed_();
}

u64 Screen::written() const {
  std::lock_guard guard(mutex_);
  return written_;
}

std::string Screen::read(u64& at, size_t most) const {
  std::lock_guard guard(mutex_);
  at = std::clamp<u64>(at, written_ > kKept ? written_ - kKept : 0, written_);
  std::string text;
  for (size_t left = std::min<u64>(most, written_ - at); left > 0;) {
    size_t from = at % kKept, n = std::min(left, kKept - from);
    text.append(ring_, from, n);
    at += n;
    left -= n;
  }
  return text;
}

void Screen::set_watcher(std::function<void()> changed) {
  std::lock_guard guard(mutex_);
  changed_ = std::move(changed);
}

void Screen::watch() {
  std::lock_guard guard(mutex_);
  watched_ = true;
}

}  // namespace skerry::vmm
