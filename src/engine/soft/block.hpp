// Decoded code: blocks of Ops, kept per vCPU and keyed by guest-physical address and decode mode.
//
// A block ends at a control transfer, at an instruction after which mode, paging or interrupts may
// differ, or at the end of its page; an instruction that crosses a page is a block of its own.
// Blocks are valid while the version of the page(s) they came from (memory::PageDescriptor) is the
// one they were checked under: any store into decoded code, by whatever vCPU or device, changes it.
// A stale block whose bytes turn out unchanged is kept.
//
// Owned by the vCPU's thread; only PageDescriptor is shared.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "engine/soft/cpu.hpp"
#include "engine/soft/huge_pages.hpp"
#include "isa/feature.hpp"
#include "memory/guest_memory.hpp"

namespace skerry::soft {

struct Block {
  // What the run loop looks at comes first.
  u64 gpa = ~u64{0};  ///< of the first byte
  u32 count = 0;
  u16 bytes = 0;  ///< length of the code
  u8 mode = 0;    ///< code_bits, and bit 7: protected mode (not virtual-8086)
  Op* ops = nullptr;
  memory::PageDescriptor *code = nullptr, *code2 = nullptr;
  u32 version = 0, version2 = 0;
  Block* chain = nullptr;  ///< the next in its hash bucket
  /// Successors in the same page that were found before, by offset in the page.
  struct Link {
    u32 at = ~u32{0};
    Block* to = nullptr;
  } link[2];
  u64 gpa2 = ~u64{0};  ///< of the second page if the only instruction crosses into it
  u8* copy = nullptr;  ///< the bytes it was decoded from

  bool current() const {
    return code->version.load(std::memory_order_acquire) == version &&
           (!code2 || code2->version.load(std::memory_order_acquire) == version2);
  }
};

class BlockCache {
 public:
  static constexpr u32 kMaxOps = 128;  ///< per block

  explicit BlockCache(Cpu::Core& core);
  ~BlockCache();

  /// The block at linear address `linear` in the current mode, valid now. Null: fault recorded (#PF
  /// while fetching, #GP for a too long instruction; #UD comes as a block whose op raises it).
  Block* find(u64 linear);
  /// The same for targets found before: one comparison under unchanged translations.
  Block* find_again(u64 linear, u8 mode, u64 fetch_key) {
    const Jump& j = jumps_[jump_index(linear)];
    if (j.linear == linear && j.key == fetch_key && j.block->mode == mode && j.block->current())
      return j.block;
    return nullptr;
  }
  void remember(u64 linear, u64 fetch_key, Block& block) {
    if (!block.code2) jumps_[jump_index(linear)] = {linear, fetch_key, &block};
  }
  /// The block that runs now was overwritten by its own code: its remaining ops lead back to the
  /// run loop, which decodes anew.
  void abandon(Block& block);
  void clear();

  /// What tells whether code in this page was written, and the page's host address (0: no memory).
  memory::PageDescriptor& code_page(u64 gpa, u64& host_page);
  /// From here on every store into these bytes (of one page) changes the page's version.
  void watch(u64 gpa, u64 bytes);
  /// The same, and the version under which they are watched: a later store is sure to change it.
  u32 watch_version(u64 gpa, u64 bytes);

  Block* running = nullptr;  ///< null while no block's ops are being run
  u64 clears = 0;            ///< how often all blocks went away; find() may do that

 private:
  static constexpr u32 kBuckets = 1 << 16;
  static constexpr u64 kLimit = 96 * MiB, kChunk = 2 * MiB;

  bool decode(Block& block, u64 linear);
  void retire(Block& block);  ///< never found again; links to it fail current()
  bool revalidate(Block& block);
  /// Chunks of memory that clear() gives back. What runs and what only decoding needs are kept
  /// apart.
  struct Arena {
    std::vector<HugePages> chunks;
    u64 used = kChunk;
    void* allocate(u64 size, u64 alignment);
  };
  struct Jump {
    u64 linear = 0, key = ~u64{0};
    Block* block = nullptr;
  };
  static constexpr u32 kJumps = 2048;
  static u32 jump_index(u64 linear) { return (linear ^ (linear >> 11)) & (kJumps - 1); }

  Cpu::Core& core_;
  HugePages tables_;
  Block** buckets_;
  Jump* jumps_;
  memory::PageDescriptor unwritable_;  ///< stands for ROM and for what is not memory
  Arena hot_, cold_;
};

/// The handlers by class; null: not implemented, #UD. integer.cpp..., vector.cpp..., system.cpp.
Handler select_integer(const isa::Insn& insn);
Handler select_vector(const isa::Insn& insn);
Handler select_system(const isa::Insn& insn);
Handler handler_for(const isa::Insn& insn);

/// Decodes one instruction; the handler raises #UD or #GP if it is not one. `bytes` may be fewer
/// than 15 only if the instruction is known to end within them.
Handler decode_one(std::span<const u8> bytes, isa::DecodeMode mode, const isa::FeatureSet& features,
                   isa::Insn& insn);

/// Straight-line execution never gets past these.
bool ends_block(const isa::Insn& insn);

/// Fills in everything of `op` but `run` from `insn`.
void prepare_op(Op& op, const isa::Insn& insn);

}  // namespace skerry::soft
