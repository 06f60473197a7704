// Giving guest memory back to the host.
#pragma once

#include "memory/guest_memory.hpp"

namespace skerry::memory {

/// The whole pages inside [at, at + length) hold zeros from now on and cost the host nothing until
/// they are touched again. Marked dirty, and code in them is forgotten. Returns the bytes given
/// back: 0 if the range is not in writable RAM or the host refuses. Any thread; what vCPUs write
/// there meanwhile may be lost or not.
u64 discard(GuestMemory& memory, Gpa at, u64 length);

}  // namespace skerry::memory
