#include "devices/debug_exit.hpp"

#include "base/bits.hpp"

namespace skerry::devices {

void DebugExit::write(u64 offset, unsigned size, u64 value) {
  if (offset != 0) return;
  control_.request(machine::Request::debug_exit, static_cast<u32>(value & byte_mask(size)));
}

void Port92::write8(u64 offset, u8 value) {
  if (offset != 0) return;
  bool reset = (value & 1) && !(s_.value & 1);
  s_.value = (value & 0xfd) | 2;
  if (reset) control_.request(machine::Request::reset);
}

void ResetPort::write8(u64 offset, u8 value) {
  if (offset != 0) return;
  bool reset = (value & 4) && !(s_.value & 4);
  s_.value = value & 0x0e;
  if (reset) control_.request(machine::Request::reset);
}

}  // namespace skerry::devices
