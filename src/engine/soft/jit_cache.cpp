// Jit: the code cache as a ring of regions (jit.hpp), and who refers to what across them.
//
// Into a region lead: the hash of blocks and the lists of blocks in a page; links of blocks in
// other regions, which each block lists; jump tables, through entries that lie in the region or
// whose block does. What goes out of a region has to be taken off the lists of others.
#include <algorithm>
#include <bit>

#include "engine/soft/jit.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {
namespace {

/// No block's code is larger.
constexpr u64 kLeastRegion = 60 * KiB;
/// What a block adds to a table at most.
constexpr u32 kSlack = 8 * Translator::kMaxInsns, kByteSlack = 4096 + 16;

}  // namespace

// The tables are as large as any real code needs for a region's host code. Should another one be
// full first, the region is full.
void Jit::set_size(u64 bytes) {
  size_ = align_up(bytes, 4096u);
  regions_ =
      static_cast<u32>(std::clamp<u64>((size_ - kGateRoom) / kLeastRegion, 2, u64{kMostRegions}));
  region_size_ = static_cast<u32>((size_ - kGateRoom) / regions_ & ~u64{63});
  auto make = [&](auto& table, u32 code_per_element, u32 slack) {
    table = std::remove_cvref_t<decltype(table)>(regions_, region_size_ / code_per_element, slack);
  };
  make(blocks_, 64, 1);
  make(sites_, 16, kSlack);
  make(links_, 24, kSlack);
  make(faults_, 8, kSlack);
  make(bytes_, 2, kByteSlack);
  make(decoded_, 256, 1);
  make(entries_, kEntryRoom, 1);
  buckets_.assign(std::bit_ceil(size_ / 512), kNoBlock);
}

u64 Jit::cache_bytes() const {
  u64 all = used_ - region_start(region_);
  for (u32 r = 0; r < regions_; ++r)
    if (r != region_) all += filled_[r];
  return all;
}

u64 Jit::table_bytes() const {
  return blocks_.bytes(regions_) + sites_.bytes(regions_) + links_.bytes(regions_) +
         faults_.bytes(regions_) + bytes_.bytes(regions_) + decoded_.bytes(regions_) +
         entries_.bytes(regions_);
}

void Jit::open(u32 region) {
  region_ = region;
  used_ = region_start(region);
  filled_[region] = 0;
  auto begin = [&](auto& table) {
    table.clear(region);
    table.open(region);
  };
  begin(blocks_);
  begin(sites_);
  begin(links_);
  begin(faults_);
  begin(bytes_);
  begin(decoded_);
  begin(entries_);
}

void Jit::flush() {
  ++counters.flushes;
  cpu_.tlb.forget_jumps();
  std::fill(buckets_.begin(), buckets_.end(), kNoBlock);
  pages_.clear();
  for (u32 r = 0; r < regions_; ++r) {
    ++generation_[r];
    open(r);
  }
  open(0);
}

void Jit::next_region() {
  filled_[region_] = used_ - region_start(region_);
  const u32 next = (region_ + 1) % regions_;
  if (blocks_.end(next) != blocks_.begin(next)) evict(next);
  open(next);
}

void Jit::evict(u32 region) {
  ++counters.evictions;
  ++generation_[region];
  ++evicting_;
  auto inside = [&](u32 block) { return blocks_.region_of(block) == region; };
  const u32 end = blocks_.end(region);
  for (u32 n = blocks_.begin(region); n < end; ++n) {
    JitBlock& b = blocks_[n];
    leave_page_list(b, region);
    if (b.gpa == ~u64{0}) continue;  // retired
    ++counters.evicted_blocks;
    retire(b);
  }
  for (u32 n = links_.begin(region); n < links_.end(region); ++n)
    if (links_[n].to != kNone && !inside(links_[n].to)) detach(n);
  for (u32 n = entries_.begin(region); n < entries_.end(region); ++n) {
    const u32 block = entries_[n].block;
    if (block == kNone || inside(block)) continue;
    u32* from = &blocks_[block].entries;
    while (*from != n) from = &entries_[*from].next;
    *from = entries_[n].next;
  }
  forget_jumps(region);
}

void Jit::retire(JitBlock& b) {
  u32* from = &bucket_of(b.gpa, b.mode);
  const u32 number = blocks_.number_of(b);
  while (*from != number) from = &blocks_[*from].chain;
  *from = b.chain;
  b.gpa = b.gpa2 = ~u64{0};
  if (!b.stale) make_stale(b);
  while (b.links != kNone) unlink(b.links);
  for (u32 n = b.entries; n != kNone; n = entries_[n].next) {
    JumpEntry& e = entries_[n];
    e.block = kNone;
    *write_at(e.code) = 0xe9;
    patch_jump(e.code + 1, gate_.dispatch);
  }
  b.entries = kNone;
}

/// All blocks of `region` leave the list that this one is in, once for each eviction.
void Jit::leave_page_list(const JitBlock& b, u32 region) {
  if (b.in_page == kNone) return;
  const auto found = pages_.find(b.in_page);
  if (found == pages_.end() || found->second.seen == evicting_) return;
  found->second.seen = evicting_;
  u32* from = &found->second.first;
  for (u32 n = *from; n != kNone; n = blocks_[n].peer)
    if (blocks_.region_of(n) == region)
      *from = blocks_[n].peer;
    else
      from = &blocks_[n].peer;
  if (found->second.first == kNone) pages_.erase(found);
}

void Jit::forget_jumps(u32 region) {
  const u32 start = region_start(region);
  auto inside = [&](u32 code) { return code - start < region_size_; };
  cpu_.tlb.each([&](Instance& i) {
    const u64 from = reinterpret_cast<u64>(run_at(start));
    auto forget = [&](u64& jump) {
      if (jump - from < region_size_) jump = i.jump_default;
    };
    const u32 filled = i.jumps_used ? i.jumps_filled_count : 0;
    if (filled > Instance::kMostJumpsFilled)
      for (u64& jump : i.jump) forget(jump);
    else
      for (u32 k = 0; k < filled; ++k) forget(i.jump[i.jumps_filled[k]]);
    for (Instance::SecondJump& j : i.second_jump)
      if (inside(j.entry) || inside(j.code)) j.generation = 0;
  });
}

void Jit::link_to(u32 number, u32 block) {
  Link& l = links_[number];
  if (l.to != kNone)
    detach(number);
  else
    l.stub = jumps_to(l);
  ++counters.links;
  JitBlock& b = blocks_[block];
  l.to = block;
  l.previous = kNone;
  l.next = b.links;
  if (b.links != kNone) links_[b.links].previous = number;
  b.links = number;
  lead_to(l, direct_entry(l, b));
}

// The jump may be among the first bytes of a block, which a stale one keeps elsewhere.
u8* Jit::byte_of(JitBlock& b, u32 at) {
  if (!b.stale) return write_at(at);
  if (at - b.code < sizeof b.head) return &b.head[at - b.code];
  const u32 entry = b.code + b.entry;
  if (b.vectors && at - entry < sizeof b.vector_head) return &b.vector_head[at - entry];
  return write_at(at);
}

u32 Jit::jumps_to(const Link& l) {
  u32 rel = 0;
  for (u32 i = 0; i < 4; ++i) rel |= u32{*byte_of(blocks_[l.block], l.jump + i)} << (8 * i);
  return l.jump + 4 + rel;
}

void Jit::lead_to(const Link& l, u32 target) {
  const u32 rel = target - (l.jump + 4);
  JitBlock& b = blocks_[l.block];
  if (!b.stale) {
    std::memcpy(write_at(l.jump), &rel, 4);
    return;
  }
  for (u32 i = 0; i < 4; ++i) *byte_of(b, l.jump + i) = static_cast<u8>(rel >> (8 * i));
}

void Jit::unlink(u32 number) {
  ++counters.unlinks;
  detach(number);
  lead_to(links_[number], links_[number].stub);
}

void Jit::detach(u32 number) {
  Link& l = links_[number];
  if (l.previous == kNone)
    blocks_[l.to].links = l.next;
  else
    links_[l.previous].next = l.next;
  if (l.next != kNone) links_[l.next].previous = l.previous;
  l.to = l.next = l.previous = kNone;
}

}  // namespace skerry::soft
