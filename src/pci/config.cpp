#include "pci/config.hpp"

#include <algorithm>

#include "base/result.hpp"

namespace skerry::pci {

u32 Config::read(unsigned offset, unsigned size) const {
  u32 value = 0;
  for (unsigned i = 0; i < size; ++i)
    value |= u32{offset + i < kSize ? bytes_[offset + i] : u8{0xff}} << (8 * i);
  return value;
}

void Config::write(unsigned offset, unsigned size, u32 value) {
  for (unsigned i = 0; i < size && offset + i < kSize; ++i) {
    u8 mask = mask_[offset + i];
    u8& byte = bytes_[offset + i];
    byte = static_cast<u8>((byte & ~mask) | ((value >> (8 * i)) & mask));
  }
}

unsigned Config::add_capability(u8 id, std::span<const u8> body) {
  unsigned at = next_capability_;
  SKERRY_CHECK(at + 2 + body.size() <= kSize, "too many PCI capabilities");
  bytes_[at] = id;
  std::copy(body.begin(), body.end(), bytes_.begin() + at + 2);
  bytes_[last_capability_ ? last_capability_ + 1 : reg::capabilities] = static_cast<u8>(at);
  last_capability_ = at;
  // Capabilities are dword-aligned (PCI 3.0 6.7).
  next_capability_ = static_cast<unsigned>(align_up(at + 2 + body.size(), 4));
  bytes_[reg::status] |= kStatusCapabilities;
  return at;
}

unsigned Config::find_capability(u8 id) const {
  unsigned at = bytes_[reg::capabilities];
  for (unsigned left = kSize / 4; at && left; --left, at = bytes_[at + 1])
    if (bytes_[at] == id) return at;
  return 0;
}

void Config::adopt(const std::array<u8, kSize>& saved) {
  for (unsigned i = 0; i < kSize; ++i)
    bytes_[i] = static_cast<u8>((bytes_[i] & ~mask_[i]) | (saved[i] & mask_[i]));
}

}  // namespace skerry::pci
