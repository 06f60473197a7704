#include "engine/soft/block.hpp"

#include "engine/soft/core.hpp"

namespace skerry::soft {

BlockCache::BlockCache(Cpu::Core& core) : core_(core), slots_(kSlots) {}
BlockCache::~BlockCache() = default;

void BlockCache::abandon(Block& block) {
  (void)block;
}

}  // namespace skerry::soft
