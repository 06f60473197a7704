// Input: a fuzzer's bytes, taken apart from the front. Past the end everything is zero.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "base/types.hpp"

namespace skerry::fuzz {

class Input {
 public:
  Input(const u8* data, size_t size) : rest_(data, size) {}

  bool empty() const { return rest_.empty(); }
  size_t size() const { return rest_.size(); }
  template <class T>
  T take() {
    T value{};
    size_t n = std::min(sizeof value, rest_.size());
    std::memcpy(&value, rest_.data(), n);
    rest_ = rest_.subspan(n);
    return value;
  }
  std::span<const u8> bytes(size_t most) {
    auto head = rest_.first(std::min(most, rest_.size()));
    rest_ = rest_.subspan(head.size());
    return head;
  }
  std::span<const u8> rest() { return bytes(rest_.size()); }

 private:
  std::span<const u8> rest_;
};

/// What must hold whatever the input is; ends the process, which libFuzzer reports.
inline void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: broken: %s\n", what);
  std::abort();
}

}  // namespace skerry::fuzz
