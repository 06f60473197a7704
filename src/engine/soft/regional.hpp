// Regional<T>: a table that belongs to a code cache of several regions (jit.hpp): each region has
// its own part of it, which is forgotten with the region.
//
// An element's number says which region it is in and stays the same until then. The parts lie in
// one reservation of address space, so that a number is an index; only what was used costs memory.
// One thread.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "base/bits.hpp"
#include "base/result.hpp"

namespace skerry::soft {

constexpr u32 kMostRegions = 8;

template <class T>
class Regional {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  Regional() = default;
  /// `most` elements in each region, and room for `slack` more, so that whoever adds a few may look
  /// afterwards whether there are too many.
  Regional(u32 regions, u32 most, u32 slack) : most_(most), stride_(most + slack) {
    size_ = align_up(u64{regions} * stride_ * sizeof(T), 4096u);
    void* at = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SKERRY_CHECK(at != MAP_FAILED, "out of address space for the software engine");
    // It grows slowly and in several places: huge pages would mostly be empty.
    ::madvise(at, size_, MADV_NOHUGEPAGE);
    at_ = static_cast<T*>(at);
    for (u32 r = 0; r < regions; ++r) next_[r] = r * stride_;
  }
  Regional(Regional&& other) noexcept { *this = std::move(other); }
  Regional& operator=(Regional&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(size_, other.size_);
    std::swap(most_, other.most_);
    std::swap(stride_, other.stride_);
    std::swap(next_, other.next_);
    std::swap(region_, other.region_);
    return *this;
  }
  ~Regional() {
    if (at_) ::munmap(at_, size_);
  }

  T& operator[](u32 number) { return at_[number]; }
  const T& operator[](u32 number) const { return at_[number]; }
  u32 number_of(const T& element) const { return static_cast<u32>(&element - at_); }
  u32 region_of(u32 number) const { return number / stride_; }

  /// Adds to the region that is being filled.
  void push_back(const T& element) { at_[next_[region_]++] = element; }
  void append(const T* from, u32 count) {
    std::copy_n(from, count, at_ + next_[region_]);
    next_[region_] += count;
  }
  /// The number that push_back() will give.
  u32 size() const { return next_[region_]; }
  /// The last `size() - number` were not meant.
  void rewind(u32 number) { next_[region_] = number; }
  /// Whether the region being filled has more than it should.
  bool full() const { return next_[region_] > region_ * stride_ + most_; }

  /// Numbers of one region: [begin(r), end(r)).
  u32 begin(u32 region) const { return region * stride_; }
  u32 end(u32 region) const { return next_[region]; }
  /// Adds to any region; false: it has enough.
  bool add_to(u32 region, const T& element) {
    if (end(region) >= begin(region) + most_) return false;
    at_[next_[region]++] = element;
    return true;
  }
  /// Forgets a region.
  void clear(u32 region) { next_[region] = begin(region); }
  /// From now on push_back() adds to this one.
  void open(u32 region) { region_ = region; }

  /// Bytes in use.
  u64 bytes(u32 regions) const {
    u64 all = 0;
    for (u32 r = 0; r < regions; ++r) all += (end(r) - begin(r)) * sizeof(T);
    return all;
  }

 private:
  T* at_ = nullptr;
  u64 size_ = 0;
  u32 most_ = 0, stride_ = 1;
  std::array<u32, kMostRegions> next_{};
  u32 region_ = 0;
};

}  // namespace skerry::soft
