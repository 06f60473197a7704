#include "board/e820.hpp"

#include <algorithm>

namespace skerry::board {

E820Map build_e820(const memory::GuestMemory& memory) {
  E820Map map;
  for (const memory::Slot& slot : memory.slots()) {
    if (!slot.writable) continue;
    if (slot.start != 0) {
      map.push_back({slot.start, slot.size, E820Type::ram});
      continue;
    }
    map.push_back({0, std::min<u64>(slot.size, kEbda), E820Type::ram});
    if (slot.size > kOneMiB) map.push_back({kOneMiB, slot.size - kOneMiB, E820Type::ram});
  }
  map.push_back({kEbda, kVideoHole - kEbda, E820Type::reserved});
  map.push_back({kVideoHole, kOneMiB - kVideoHole, E820Type::reserved});
  map.push_back({kEcam.start, kEcam.size, E820Type::reserved});
  std::sort(map.begin(), map.end(),
            [](const E820Entry& a, const E820Entry& b) { return a.start < b.start; });
  return map;
}

Result<> install_bios_data(memory::GuestMemory& memory) {
  if (!memory.write_value<u16>(kBiosData + 0x0e, kEbda >> 4) ||
      !memory.write_value<u16>(kBiosData + 0x13, kEbda / KiB) ||
      !memory.write_value<u8>(kEbda, 1))  // the EBDA's first byte is its size in KiB
    return fail_hint("use --memory 2M or more", "the guest has no memory for the BIOS data area");
  return {};
}

}  // namespace skerry::board
