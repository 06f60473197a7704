// Anonymous memory in 2 MiB pages where the host gives them: what the run loop touches all the time
// is large and scattered, and host TLB misses are dear, the more so when the host is itself
// virtual.
#pragma once

#include <sys/mman.h>

#include <utility>

#include "base/bits.hpp"
#include "base/result.hpp"

namespace skerry::soft {

/// Owns `size` zeroed bytes, aligned to 2 MiB. Only touched pages cost memory.
class HugePages {
 public:
  static constexpr u64 kPage = 2 * MiB;

  /// Address space of `size` bytes, whole small pages, that begins at a multiple of kPage; the
  /// caller unmaps it. Null: there is none.
  static u8* reserve(u64 size, int protection) {
    void* at = ::mmap(nullptr, size + kPage, protection,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    // Cut to alignment.
    u64 start = reinterpret_cast<u64>(at), aligned = align_up(start, kPage);
    if (aligned > start) ::munmap(at, aligned - start);
    u64 tail = start + kPage - aligned;
    if (tail) ::munmap(reinterpret_cast<void*>(aligned + size), tail);
    return reinterpret_cast<u8*>(aligned);
  }

  HugePages() = default;
  explicit HugePages(u64 size) : size_(align_up(size, kPage)) {
    base_ = reserve(size_, PROT_READ | PROT_WRITE);
    SKERRY_CHECK(base_ != nullptr, "out of memory for the software engine");
    ::madvise(base_, size_, MADV_HUGEPAGE);  // a wish; small pages serve as well
  }
  HugePages(HugePages&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(other.size_) {}
  HugePages& operator=(HugePages&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HugePages() {
    if (base_) ::munmap(base_, size_);
  }
  u8* get() const { return base_; }

 private:
  u8* base_ = nullptr;
  u64 size_ = 0;
};

}  // namespace skerry::soft
