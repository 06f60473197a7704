// What translated RDTSC adds to the host's counter. The machine's clock only tells sums, so the
// difference is known from below: what is read between two readings of the host's counter lies
// between them. The bound only rises while the clock runs, so the guest's counter never goes back,
// and after a few entries it is some ten cycles from the truth. When the clock was stopped
// meanwhile the old bound is too high, which shows.
#include "engine/soft/jit.hpp"

namespace skerry::soft {

void Jit::measure_ticks() {
  constexpr u64 kUndisturbed = 1000;  // cycles
  for (int tries = 0; tries < 16; ++tries) {
    const u64 before = host_tsc(), ticks = core_.ticks(), after = host_tsc();
    if (plain_ticks_ && static_cast<i64>(ticks - before - tick_offset_) >= 0) {
      if (static_cast<i64>(ticks - after - tick_offset_) > 0) tick_offset_ = ticks - after;
      return;
    }
    plain_ticks_ = false;
    if (after - before > kUndisturbed) continue;
    tick_offset_ = ticks - after;
    plain_ticks_ = core_.ticks() != ticks;  // else it stands still
    return;
  }
}

}  // namespace skerry::soft
