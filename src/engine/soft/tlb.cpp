#include "engine/soft/tlb.hpp"

#include <algorithm>
#include <cwchar>
#include <new>

namespace skerry::soft {

void Instance::clear() {
  for (u32 i = 0; i < kEntries; ++i) entry[i] = {empty(i), empty(i), 0, 0};
  used = 0;
  fetch.clear();
  clear_jumps();
  ++generation;
  ++global_generation;
}

void Instance::clear_jumps() {
  if (!jumps_used) return;
  if (jumps_filled_count > kMostJumpsFilled)
    jump.fill(jump_default);
  else
    for (u32 k = 0; k < jumps_filled_count; ++k) jump[jumps_filled[k]] = jump_default;
  jumps_filled_count = 0;
  jump_pages = {};
  jumps_used = jumps_nonglobal = false;
}

void Instance::forget_jumps() {
  clear_jumps();
  ++jump_generation;
}

void Instance::flush_nonglobal() {
  if (used > kEntries) {
    for (u32 i = 0; i < kEntries; ++i)
      if (!global[i]) drop(i);
  } else {
    for (u32 k = 0; k < used; ++k)
      if (!global[filled[k]]) drop(filled[k]);
  }
  used = 0;
  ++generation;
  fetch.flush_nonglobal();
  if (jumps_nonglobal) clear_jumps();
}

void Instance::flush_page(u64 linear, bool globals_only) {
  const u32 i = index(linear);
  const u64 page = linear & ~u64{0xfff};
  if ((entry[i].read == page || entry[i].write == page) && (global[i] || !globals_only)) drop(i);
  Second& s = second[second_index(linear)];
  if (s.page == page && (s.is_global || !globals_only)) s.generation = 0;
  FetchTlb::Entry& e = fetch.entry[FetchTlb::index(linear)];
  if (e.page == page && (e.global || !globals_only)) e.generation = 0;
  if (jumps_used && jump_pages.maybe(page >> 12)) clear_jumps();
}

void Instance::flush_host_writes(u64 host_page) {
  // Many pages are looked for and few found: wmemchr() compares 16 entries at a time.
  static_assert(sizeof(wchar_t) == sizeof host_tag[0]);
  const auto* const tags = reinterpret_cast<const wchar_t*>(host_tag.data());
  const auto tag = static_cast<wchar_t>(host_tag_of(host_page));
  for (const wchar_t* at = tags; (at = std::wmemchr(at, tag, kEntries - (at - tags))); ++at) {
    const u32 i = static_cast<u32>(at - tags);
    if (entry[i].host == host_page) entry[i].write = empty(i);
  }
}

void Instance::flush_region(u64 region) {
  static_assert(kEntries >= 512 && kSecond >= 512);
  for (u64 page = region, n = 0; n < 512; ++n, page += 4096) {
    const u32 i = index(page);
    if (entry[i].read == page || entry[i].write == page) drop(i);
    Second& s = second[second_index(page)];
    if (s.page == page) s.generation = 0;
  }
  for (FetchTlb::Entry& e : fetch.entry)
    if (e.page >> 21 == region >> 21) e.generation = 0;
  Second& l = large[large_index(region)];
  if (l.page == region) l.generation = 0;
  clear_jumps();
}

void Tlbs::prepare(u32 n) {
  Instance& i = *instance[n];
  i.id = static_cast<u8>(shared(n) ? n % kKinds : n);
  i.jump_generation = 1;
  i.jump_default = jump_default;
  i.jumps_used = jump_default != 0;
  i.jumps_filled_count = Instance::kMostJumpsFilled + 1;
  i.generation = i.global_generation = 1;
  new (&i.fetch) FetchTlb;
  i.clear();
  i.ready = true;
}

void Tlbs::flush_all() {
  ++fetch_epoch;
  each([](Instance& i) { i.clear(); });
  large_2m = large_1g = {};
}

void Tlbs::flush_space(u32 which) {
  ++fetch_epoch;
  for (u32 n : {which * kKinds + user, u32{supervisor}, u32{supervisor_ac}})
    if (instance[n]->ready) instance[n]->flush_nonglobal();
}

void Tlbs::flush_every_space() {
  for (u32 s = 0; s < kSpaces; ++s) flush_space(s);
}

void Tlbs::flush_page(u64 linear) {
  ++fetch_epoch;
  if (large_1g.maybe(linear >> 30)) return flush_all();
  // 4 MiB pages of 32-bit paging are two such regions.
  for (u64 region : {linear >> 21, (linear >> 21) ^ 1})
    if (large_2m.maybe(region)) each([&](Instance& i) { i.flush_region(region << 21); });
  each([&](Instance& i) { i.flush_page(linear, !shared(i.id) && i.id != space * kKinds + user); });
}

void Tlbs::flush_writes() {
  each([](Instance& i) { i.flush_writes(); });
}

void Tlbs::flush_host_writes(u64 host_page) {
  each([&](Instance& i) { i.flush_host_writes(host_page); });
}

void Tlbs::forget_jumps() {
  each([](Instance& i) { i.forget_jumps(); });
}

void Tlbs::reset(u32 id) {
  flush_all();
  last_use = {};
  last_use[0] = ++uses;
  pcid[0] = id;
  space = 0;
}

u32 Tlbs::space_of(u32 id) const {
  for (u32 s = 0; s < kSpaces; ++s)
    if (last_use[s] && pcid[s] == id) return s;
  return kSpaces;
}

void Tlbs::switch_space(u32 id, bool flush) {
  u32 s = space_of(id);
  if (s == kSpaces) {
    s = static_cast<u32>(std::min_element(last_use.begin(), last_use.end()) - last_use.begin());
    pcid[s] = id;
    flush = true;
  }
  last_use[s] = ++uses;
  ++fetch_epoch;
  space = s;
  if (flush) return flush_space(s);
  // What supervisors saw of the other address space.
  for (u32 n : {u32{supervisor}, u32{supervisor_ac}})
    if (instance[n]->ready) instance[n]->flush_nonglobal();
}

}  // namespace skerry::soft
