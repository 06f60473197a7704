#include "board/places.hpp"

#include <algorithm>

namespace skerry::board {

Places::Places(memory::GuestMemory& memory, const E820Map& map) : memory_(memory) {
  for (const E820Entry& e : map)
    if (e.type == E820Type::ram && e.size) usable_.push_back({e.start, e.size});
}

const Places::Range* Places::in_the_way(Gpa start, Gpa end) const {
  for (const Range& r : taken_)
    if (start < r.end && r.start < end) return &r;
  return nullptr;
}

bool Places::free(Gpa start, u64 size) const {
  if (size > ~start) return false;
  for (const Window& w : usable_)
    if (start >= w.start && start + size <= w.end())
      return !in_the_way(start, start + size) && memory_.host(start, size);
  return false;
}

Result<> Places::take(Gpa start, u64 size, const std::string& what) {
  if (size == 0) return {};
  if (size > ~start) return fail("{} does not fit into the address space", what);
  if (const Range* other = in_the_way(start, start + size))
    return fail("{} at {:#x}-{:#x} overlaps {}", what, start, start + size - 1, other->what);
  if (!free(start, size)) {
    if (start >= kOneMiB && start + size <= memory::kHoleStart && start + size > low_ram_end())
      return too_small(what, start + size);
    return fail("{} wants to be at {:#x}-{:#x}, where the guest has no usable memory", what, start,
                start + size - 1);
  }
  taken_.push_back({start, start + size, what});
  return {};
}

std::optional<Gpa> Places::lowest(u64 size, u64 alignment, Gpa from, Gpa to) {
  for (const Window& w : usable_) {
    u64 at = std::max(from, w.start);
    u64 end = std::min(to, w.end());
    while (at < end) {
      if (at > ~u64{0} - alignment) break;
      at = align_up(at, alignment);
      if (at >= end || size > end - at) break;
      const Range* other = in_the_way(at, at + size);
      if (!other) {
        taken_.push_back({at, at + size, "a boot structure"});
        return at;
      }
      at = other->end;
    }
  }
  return std::nullopt;
}

std::optional<Gpa> Places::highest(u64 size, u64 alignment, Gpa from, Gpa to) {
  for (size_t i = usable_.size(); i-- > 0;) {
    u64 start = std::max(from, usable_[i].start);
    u64 end = std::min(to, usable_[i].end());
    while (end > start && size <= end - start) {
      u64 at = align_down(end - size, alignment);
      if (at < start) break;
      const Range* other = in_the_way(at, at + size);
      if (!other) {
        taken_.push_back({at, at + size, "a boot structure"});
        return at;
      }
      end = other->start;
    }
  }
  return std::nullopt;
}

Result<Gpa> Places::put(std::span<const u8> bytes, const std::string& what, u64 alignment) {
  auto at = highest(std::max<u64>(bytes.size(), 1), alignment, kLowStart, kLowLimit);
  if (!at || !memory_.write(*at, bytes))
    return fail("no room for {} ({} bytes) in the guest's memory below {} KiB", what, bytes.size(),
                kLowLimit / KiB);
  return *at;
}

Result<Gpa> Places::put_string(const std::string& text, const std::string& what) {
  return put({reinterpret_cast<const u8*>(text.c_str()), text.size() + 1}, what, 1);
}

Result<Gpa> Places::put_zeros(u64 size, const std::string& what, u64 alignment) {
  return put(std::vector<u8>(size), what, alignment);
}

Gpa Places::low_ram_end() const {
  for (const Window& w : usable_)
    if (w.start == kOneMiB) return w.end();
  return kOneMiB;
}

std::unexpected<Error> Places::too_small(const std::string& what, u64 end) const {
  u64 have = memory_.size();
  u64 need = align_up(std::max(end, have + 1), MiB) / MiB;
  if (need * MiB > memory::kHoleStart && have >= memory::kHoleStart)
    return fail("{} does not fit below 3 GiB of guest memory", what);
  return fail_hint(fmt::format("use --memory {}M", need),
                   "{} does not fit: the guest has {} MiB of memory and needs at least {} MiB",
                   what, have / MiB, need);
}

}  // namespace skerry::board
