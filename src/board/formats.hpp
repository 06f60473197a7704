// The image formats behind load_kernel(): one pair of recognise and load for each.
#pragma once

#include "board/boot_state.hpp"
#include "board/loader.hpp"

namespace skerry::board {

using Bytes = std::span<const u8>;

/// The bytes of a table of plain structs, as they go to guest memory.
template <class T>
Bytes bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const u8*>(v.data()), v.size() * sizeof(T)};
}

/// A little-endian value at `offset` of an image; nullopt if it is not all there.
template <class T>
std::optional<T> value_at(Bytes image, u64 offset) {
  if (offset > image.size() || sizeof(T) > image.size() - offset) return std::nullopt;
  return load<T>(image.data() + offset);
}
/// True if [offset, offset + size) is inside the image.
inline bool within(Bytes image, u64 offset, u64 size) {
  return offset <= image.size() && size <= image.size() - offset;
}

/// What a format's loader works on.
struct Boot {
  Places& places;
  const BootFiles& files;
  const BootContext& context;
  Bytes image() const { return files.kernel.bytes; }
};

bool is_linux(Bytes image);
Result<machine::CpuState> load_linux(Boot& boot);

/// Where the Multiboot header is, if there is one.
std::optional<u32> find_multiboot(Bytes image);
Result<machine::CpuState> load_multiboot(Boot& boot, u32 header);

Result<machine::CpuState> load_pvh(Boot& boot, u32 entry);

}  // namespace skerry::board
