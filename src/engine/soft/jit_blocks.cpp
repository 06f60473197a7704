// Jit: the blocks of translated code: found, made, checked again, forgotten.
#include <fmt/os.h>

#include <cstring>

#include "engine/soft/jit.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {

JitBlock* Jit::find(u64 rip, u32 variant) {
  const u64 linear = linear_of(rip);
  u64 gpa;
  if (!core_.translate_code(linear, gpa)) return nullptr;
  u32 mode = mode_word() | variant;
  if (mode & kModeSegmented) window(rip, mode);
  for (u32 n = bucket_of(gpa, mode); n != kNoBlock; n = blocks_[n].chain) {
    JitBlock& b = blocks_[n];
    if (b.gpa != gpa || b.mode != mode) continue;
    if (b.gpa2 != ~u64{0}) {
      if (crosses_well(b, linear)) {
        ++counters.found_blocks;
        return &b;
      }
      if (b.stale || b.gpa2 == ~u64{0}) break;
      continue;  // another address space, another second page
    }
    if ((b.page->version.load(std::memory_order_acquire) == b.version && !b.stale) ||
        revalidate(b)) {
      ++counters.found_blocks;
      return &b;
    }
    retire(b);
    break;
  }
  return translate(gpa, rip, mode);
}

bool Jit::revalidate(JitBlock& b) {
  const u32 here = std::min<u32>(b.bytes, 4096u - b.page_offset);
  const u32 version = core_.blocks.watch_version(b.gpa, here);
  const Cpu::Core::Page p = core_.page(b.gpa);
  if (!p.host || std::memcmp(p.host + b.page_offset, &bytes_[b.guest], here)) return false;
  b.version = version;
  ++counters.revalidated;
  if (b.stale) {
    std::memcpy(write_at(b.code), b.head, sizeof b.head);
    if (b.vectors) std::memcpy(write_at(b.code + b.entry), b.vector_head, sizeof b.vector_head);
    if (!b.wants_flags) std::memcpy(write_at(b.table), kNop5, sizeof kNop5);
    b.stale = false;
  }
  return true;
}

std::optional<u64> Jit::second_page(u64 linear) {
  u64 gpa;
  if (!core_.translate_code((linear & ~u64{0xfff}) + 4096, gpa)) return std::nullopt;
  return gpa;
}

bool Jit::crosses_well(JitBlock& b, u64 linear) {
  if (second_page(linear) != b.gpa2) return false;
  if (b.stale || b.page->version.load(std::memory_order_acquire) != b.version ||
      b.page2->version.load(std::memory_order_acquire) != b.version2) {
    const u32 first = 4096u - b.page_offset;
    const u32 version2 = core_.blocks.watch_version(b.gpa2, b.bytes - first);
    const Cpu::Core::Page p = core_.page(b.gpa2);
    if (!p.host || std::memcmp(p.host, &bytes_[b.guest + first], b.bytes - first) ||
        !revalidate(b)) {
      retire(b);
      return false;
    }
    b.version2 = version2;
  }
  const u32 epoch = -static_cast<u32>(cpu_.tlb.fetch_epoch);
  std::memcpy(write_at(b.epoch), &epoch, 4);
  return true;
}

void Jit::page_written(u64 page) {
  ++cpu_.tlb.fetch_epoch;
  auto found = pages_.find(page);
  if (found == pages_.end()) return;
  // Those that were retired meanwhile are left out from now on.
  u32* from = &found->second.first;
  for (u32 n = *from; n != kNoBlock; n = blocks_[n].peer) {
    JitBlock& b = blocks_[n];
    if (b.gpa == ~u64{0}) {
      b.in_page = kNone;
      *from = b.peer;
      continue;
    }
    from = &b.peer;
    if (!b.stale) make_stale(b);
  }
}

void Jit::make_stale(JitBlock& b) {
  b.stale = true;
  ++counters.stale_blocks;
  auto lead = [&](u32 from, u32 to) {
    *write_at(from) = 0xe9;
    patch_jump(from + 1, to);
  };
  std::memcpy(b.head, run_at(b.code), sizeof b.head);
  if (b.vectors) std::memcpy(b.vector_head, run_at(b.code + b.entry), sizeof b.vector_head);
  lead(b.code, b.stale_stub);
  if (b.vectors) lead(b.code + b.entry, b.stale_stub);
  if (!b.wants_flags) lead(b.table, b.stale_table_stub);
}

JitBlock* Jit::translate(u64 gpa, u64 rip, u32 mode) {
  const u64 began = host_tsc(), linear = linear_of(rip), key = key_of(rip);
  const u32 offset = static_cast<u32>(gpa & 0xfff);
  JitBlock b;
  b.gpa = gpa;
  b.mode = mode;
  u64 host_page;
  b.page = &core_.blocks.code_page(gpa, host_page);
  b.page_offset = static_cast<u16>(offset);
  u8 copy[4096 + 16];
  u32 watched = 0;
  const u32 available = 4096 - offset;
  auto fetch = [&](u32 need) {
    need = std::min(need, available);
    if (need <= watched) return;
    const u32 step = std::min(available, std::max(need, watched + 64));
    if (watched == 0)
      b.version = core_.blocks.watch_version(gpa, step);
    else
      core_.blocks.watch(gpa + watched, step - watched);
    if (host_page)
      std::memcpy(copy + watched, reinterpret_cast<const u8*>(host_page) + offset + watched,
                  step - watched);
    else
      std::memset(copy + watched, 0xff, step - watched);  // nobody answers
    watched = step;
  };
  const Assembler &hot = translator_->hot(), &cold = translator_->cold();
  lead_.clear();
  if (key == entered_at_) emit_entry(lead_, key, b, used_);
  // What does not fit is translated again for the next region.
  for (bool again = false;; again = true) {
    const u32 number = blocks_.size(), site = sites_.size(), link = links_.size(),
              fault = faults_.size();
    const u32 place = used_ + lead_.size();
    if (!translator_->translate({copy, available}, offset, mode, number, place, b, fetch)) {
      // The first instruction goes on in the next page.
      const std::optional<u64> gpa2 = second_page(linear);
      if (!gpa2) return nullptr;
      u64 host2;
      b.gpa2 = *gpa2;
      b.page2 = &core_.blocks.code_page(*gpa2, host2);
      b.version2 = core_.blocks.watch_version(*gpa2, 15);
      if (host2)
        std::memcpy(copy + available, reinterpret_cast<const u8*>(host2), 15);
      else
        std::memset(copy + available, 0xff, 15);
      translator_->translate_crossing({copy, available + 15}, offset, mode, number, place, b,
                                      static_cast<u32>(cpu_.tlb.fetch_epoch));
    }
    b.guest = bytes_.size();
    bytes_.append(copy, b.bytes);
    if (place + hot.size() + cold.size() + 32 + kEntryRoom <= region_end() && !blocks_.full() &&
        !sites_.full() && !links_.full() && !faults_.full() && !bytes_.full() && !entries_.full())
      break;
    SKERRY_CHECK(!again, "a block fits into an empty region");
    sites_.rewind(site);
    links_.rewind(link);
    faults_.rewind(fault);
    bytes_.rewind(b.guest);
    next_region();
  }
  const u32 number = blocks_.size();
  if (lead_.size()) {
    lead_.clear();
    emit_entry(lead_, key, b, used_);
    b.entries = entries_.size();
    entries_.push_back({key, number, used_, kNone, true});
  }
  for (const Assembler* part : {&std::as_const(lead_), &hot, &cold}) {
    std::memcpy(write_at(used_), part->code.get(), part->size());
    used_ += part->size();
  }
  // Entries that begin in the same 32 bytes confuse predictors of indirect jumps (bench:
  // int/dispatch).
  used_ = align_up(used_, 32u);
  u32& head = bucket_of(gpa, mode);
  b.chain = head;
  head = number;
  const Cpu::Core::Page p = core_.page(gpa);
  if (p.host && b.bytes) {
    b.in_page = static_cast<u32>(p.offset / 4096);
    PageBlocks& page = pages_[b.in_page];
    b.peer = page.first;
    page.first = number;
  }
  blocks_.push_back(b);
  if (perf_map_)
    fmt::print(perf_map_, "{:x} {:x} guest:{:x}{}\n", reinterpret_cast<u64>(run_at(b.table)),
               b.code_bytes, linear, b.mode & kModeUser ? "" : " kernel");
  ++counters.translated_blocks;
  counters.translated_instructions += b.count;
  counters.code_bytes += b.code_bytes;
  counters.translation_ticks += host_tsc() - began;
  return &blocks_[number];
}

}  // namespace skerry::soft
