#include "memory/discard.hpp"

#include <fcntl.h>

namespace skerry::memory {

u64 discard(GuestMemory& memory, Gpa at, u64 length) {
  const Slot* slot = memory.slot_of(at);
  if (!slot || !slot->writable || !memory.host(at, length)) return 0;
  Gpa start = align_up(at, kPageSize), end = align_down(at + length, kPageSize);
  if (start >= end) return 0;
  u64 offset = slot->offset + (start - slot->start);
  // All mappings of the memfd, ours and KVM's, lose the pages in this call.
  if (::fallocate(memory.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset), static_cast<off_t>(end - start)) < 0)
    return 0;
  // After the change, as after any store.
  memory.dirty().mark(offset, end - start);
  return end - start;
}

}  // namespace skerry::memory
