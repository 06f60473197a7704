#include "engine/soft/deterministic.hpp"

#include "engine/soft/core.hpp"

namespace skerry::soft {

void Cpu::Core::run_to_stop(Block* block) {
  const u64 left = stop_at - position();  // not 0: at_stop() was false
  if (block->count > left) {
    // Its first instructions alone. What follows is decoded anew when the vCPU goes on.
    const u32 whole = std::exchange(block->count, static_cast<u32>(left));
    budget = 1;
    run_blocks(block);
    block->count = whole;
    return;
  }
  // As many blocks as cannot reach beyond; a block is at most BlockCache::kMaxOps instructions.
  budget = single_block ? 1
                        : static_cast<u32>(std::min<u64>(
                              1 + (left - block->count) / BlockCache::kMaxOps, 1 << 16));
  run_blocks(block);
}

}  // namespace skerry::soft
