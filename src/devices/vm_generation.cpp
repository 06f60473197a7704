#include "devices/vm_generation.hpp"

#include <sys/random.h>

namespace skerry::devices {

VmGeneration::Id VmGeneration::random() {
  Id id;
  SKERRY_CHECK(::getrandom(id.data(), id.size(), 0) == static_cast<ssize_t>(id.size()));
  // Version 4 is in the high nibble of the third field, which is little-endian here.
  id[7] = static_cast<u8>((id[7] & 0x0f) | 0x40);
  id[8] = static_cast<u8>((id[8] & 0x3f) | 0x80);
  return id;
}

std::string VmGeneration::text(const Id& id) {
  constexpr unsigned kOrder[] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  std::string text;
  for (unsigned i = 0; i < id.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", id[kOrder[i]]);
  }
  return text;
}

void VmGeneration::renew(Id id) {
  s_.id = id;
  place();
  if (changed_) changed_();
}

Result<> VmGeneration::load(const state::Image& image) {
  State s;
  TRY_VOID(image.get(name(), s));
  s_ = s;
  place();
  return {};
}

}  // namespace skerry::devices
