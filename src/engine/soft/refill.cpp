// What a TLB miss of translated code tries first: the larger tables behind the TLB. Compiled to use
// general registers only (extra.cmake), and so are the doors to everything else: the guest's vector
// registers stay in the host's, and are saved only when other C++ is about to run.
#include "engine/soft/jit.hpp"
#include "engine/soft/thunk_code.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {
namespace {

/// memcpy() would use vector registers.
void copy_bytes(u8* to, const u8* from, u64 bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
}

}  // namespace

void Jit::leave_vectors() {
  if (!cpu_.vector_live) return;
  cpu_.vector_live = false;
  u8* low = cpu_.s.xsave.data();
  asm volatile("xsave64 (%0)" ::"r"(low), "a"(static_cast<u32>(vector_components_ & kLow)), "d"(0)
               : "memory");
  if (vector_components_ & kHigh)
    asm volatile("xsaveopt64 (%0)" ::"r"(high_area_), "a"(kHigh), "d"(0) : "memory");
  const u32 host = kHostMxcsr;
  asm volatile("ldmxcsr %0" ::"m"(host));
  if (vector_components_ & 4) asm volatile("vzeroupper" ::: "memory");
  // C++ gets an empty x87 stack with nothing pending.
  u16 control;
  __builtin_memcpy(&control, low + area::kFcw, 2);
  if (low[area::kFtw] || control != 0x37f || (low[area::kFsw] & 0x80))
    asm volatile("fninit" ::: "memory");
  vectors_saved();
}

u8* Jit::enter_vectors(u8* to) {
  if (!vectors_wanted_) return to;
  vectors_wanted_ = false;
  asm volatile("xrstor64 (%0)" ::"r"(cpu_.s.xsave.data()),
               "a"(static_cast<u32>(vector_components_ & kLow)), "d"(0)
               : "memory");
  if (vector_components_ & kHigh)
    asm volatile("xrstor64 (%0)" ::"r"(high_area_), "a"(kHigh), "d"(0) : "memory");
  cpu_.vector_live = true;
  return to;
}

template <u8* (Jit::*what)(u32)>
u8* Jit::gate(Cpu* cpu, u64 n) {
  Jit& jit = *cpu->core->jit;
  jit.leave_vectors();
  return jit.enter_vectors((jit.*what)(static_cast<u32>(n)));
}
template u8* Jit::gate<&Jit::interpret>(Cpu*, u64);
template u8* Jit::gate<&Jit::link>(Cpu*, u64);
template u8* Jit::gate<&Jit::stop>(Cpu*, u64);
template u8* Jit::gate<&Jit::stale>(Cpu*, u64);
template u8* Jit::gate<&Jit::load_vectors>(Cpu*, u64);
template u8* Jit::gate<&Jit::native_fault>(Cpu*, u64);

void Jit::resume_at(const Site& s, u64 host) {
  cpu_.resume_t0 = s.biased ? 0 : host;
  cpu_.resume_t1 = s.biased ? host - cpu_.scratch : 0;
}

// The instruction reads a copy in the Cpu, which lies in its line as the original does: the host
// treats misaligned operands alike.
u8* Jit::load_across(const Site& s) {
  const u64 at = cpu_.scratch, next = (at | 0xfff) + 1;
  const Instance& i = *cpu_.tlb.current;
  const TlbEntry &low = i.entry[Instance::index(at)], &high = i.entry[Instance::index(next)];
  if (s.write || !s.checked || low.read != (at & ~u64{0xfff}) || high.read != next) return nullptr;
  u8* const to = &cpu_.across[at & 63];
  resume_at(s, reinterpret_cast<u64>(to));
  const u64 here = next - at;
  copy_bytes(to, reinterpret_cast<const u8*>(at + low.bias), here);
  copy_bytes(to + here, reinterpret_cast<const u8*>(high.host), s.size - here);
  ++counters.loads_across;
  return run_at(s.checked);
}

u8* Jit::other_of(const Site& s) const {
  if (s.other == kNone) return nullptr;
  // It may have been evicted, and its number be another's.
  const JitBlock &own = blocks_[s.block], &other = blocks_[s.other];
  if (other.gpa != ((own.gpa & ~u64{0xfff}) | s.at) || other.mode != (own.mode | kModeUnmerged))
    return nullptr;
  return run_at(other.code);
}

// A page walk that changes nothing: 4-level paging, RAM, all permissions granted, accessed (and for
// writes dirty) bits set. What it finds is in Instance::second afterwards. Else false: walk.cpp and
// mmu.cpp know better.
bool Jit::quick_walk(u64 at, bool write) {
  constexpr u64 kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40,
                kLarge = 0x80, kGlobal = 0x100, kAddress = 0x000f'ffff'ffff'f000;
  const machine::CpuState& state = cpu_.s;
  // `current` is not `context` while every access has to be looked at.
  if (!cpu_.flat || cpu_.tlb.current != cpu_.tlb.context || !canonical(at) || core_.any_watched() ||
      !(state.cr0 & (u64{1} << 31)))
    return false;
  const u64 physical = core_.shared.physical_mask;
  const u64 reserved = (~physical & kAddress) | (state.efer & (1 << 11) ? 0 : u64{1} << 63);
  memory::DirtyMap& dirty = core_.memory.dirty();
  const memory::Slot* slot = nullptr;
  auto host_of = [&](u64 gpa) -> u8* {
    for (const memory::Slot& s : core_.shared.slots)
      if (gpa - s.start < s.size) {
        slot = &s;
        return s.host + (gpa - s.start);
      }
    return nullptr;
  };
  u64 e = state.cr3 & kAddress & physical, all = kWritable | kUser;
  u32 shift = 39;
  for (;; shift -= 9) {
    const u8* table = host_of((e & kAddress) + (at >> shift & 0x1ff) * 8);
    if (!table) return false;
    if (core_.shared.setup.trace_tables) {
      // What becomes a table by this walk is the other's.
      const u64 offset = slot->offset + ((e & kAddress) - slot->start);
      if (!dirty.covers(offset) ||
          dirty.descriptor(offset).table.load(std::memory_order_relaxed) != memory::kTableStores)
        return false;
    }
    e = __atomic_load_n(reinterpret_cast<const u64*>(table), __ATOMIC_ACQUIRE);
    if ((e & (kPresent | kAccessed)) != (kPresent | kAccessed) || (e & reserved)) return false;
    all &= e;
    if (shift == 12) break;
    if (e & kLarge) {
      if (shift > 30 || (e & ((u64{1} << shift) - 1) & ~u64{0x1fff})) return false;
      break;
    }
  }
  const bool user = cpu_.cpl == 3;
  if (user ? !(all & kUser) : (all & kUser) && (state.cr4 & (1 << 21)) && !(cpu_.rflags & AC_))
    return false;
  if (write && (!(all & kWritable) || !(e & kDirty))) return false;
  const u64 mask = (u64{1} << shift) - 1;
  const u64 gpa = ((e & kAddress & ~mask) | (at & mask & ~u64{0xfff}));
  u8* host = host_of(gpa);
  const u64 offset = host ? slot->offset + (gpa - slot->start) : 0;
  if (!host || !dirty.covers(offset)) return false;
  const bool writable = (all & kWritable) && (e & kDirty) && slot->writable,
             is_global = (e & kGlobal) && (state.cr4 & (1 << 7));
  Instance& i = *cpu_.tlb.current;
  i.remember(i.second[Instance::second_index(at)], at & ~u64{0xfff}, reinterpret_cast<u64>(host),
             offset, is_global, writable);
  ++counters.tlb_fills;
  if (shift == 12) return true;
  cpu_.tlb.note_large(at, shift);
  const u64 in_region = at & 0x1ff000, first = gpa - in_region;
  if (first - slot->start < slot->size && slot->size - (first - slot->start) >= 2 * MiB)
    i.remember(i.large[Instance::large_index(at)], at & ~u64{0x1fffff},
               reinterpret_cast<u64>(host) - in_region, offset - in_region, is_global, writable);
  return true;
}

// A store into a traced page table goes on behind its check, and so does the next one.
u8* Jit::store_to_table(const Site& s, u64 offset, u64 host_page) {
  memory::DirtyMap& dirty = core_.memory.dirty();
  const memory::PageDescriptor& page = dirty.descriptor(offset);
  if (s.group) return other_of(s);
  if (page.granules.load(std::memory_order_seq_cst) || !s.checked) return nullptr;
  dirty.table_store(offset);
  resume_at(s, host_page + (cpu_.scratch & 0xfff));
  return run_at(s.checked);
}

u8* Jit::refill(u32 n) {
  const Site& s = sites_[n];
  const u64 at = cpu_.scratch, page = at & ~u64{0xfff};
  if ((at & 0xfff) + s.size > 4096) {
    if (u8* to = other_of(s)) return to;
    return load_across(s);
  }
  Instance& i = *cpu_.tlb.current;
  const Instance::Second* found = &i.second[Instance::second_index(at)];
  u64 inside = 0;
  if (found->page != page || !i.current(*found)) {
    const Instance::Second& large = i.large[Instance::large_index(at)];
    if (large.page == (at & ~u64{0x1fffff}) && i.current(large)) {
      found = &large;
      inside = at & 0x1ff000;
    } else if (!quick_walk(at, s.write)) {
      return nullptr;
    }
  }
  bool writable = false;
  if (s.write && !found->writable) return nullptr;
  if (found->writable) {
    memory::DirtyMap& dirty = core_.memory.dirty();
    const u64 offset = found->offset + inside;
    writable = dirty.unwatched(offset);
    if (s.write) {
      dirty.mark_page(offset);
      if (!writable) return store_to_table(s, offset, found->host + inside);
    } else {
      writable = writable && dirty.test(offset);
    }
  }
  i.fill(at, found->host + inside, found->is_global, writable);
  ++counters.tlb_refills;
  return run_at(s.retry);
}

// Checks that the key in kT0 is the one this entry, at `place`, is for and that nobody wants
// attention. Falls through into the block if that lies behind it; EFLAGS mean nothing.
void Jit::emit_entry(Assembler& a, u64 key, const JitBlock& block, u32 place) {
  const bool narrow = block.mode & (kModeCode32 | kModeCode16);
  const i64 negated = static_cast<i64>(-key);
  if (negated == static_cast<i32>(negated)) {
    a.lea(kT1, {kT0, kNoReg, 0, static_cast<i32>(negated)});
  } else {
    a.mov_imm(kT1, -key);
    a.op_reg(0x03, kT1, kT0);
  }
  a.or_mem(kT1, a.base(at::kAttention));
  a.patch32(a.jcc32(cNE), gate_.dispatch - place);
  a.lea(kT0, {kT0, kNoReg, 0, -i32{block.page_offset}}, !narrow);
  a.store(a.base(at::kCodePage), kT0);
}

// There is room for one. Called with the guest's vector registers in the host's.
u8* Jit::entry_for(u64 key, JitBlock& block) {
  u32 count = 0, oldest = kNone;
  for (u32 n = block.entries; n != kNone; n = entries_[n].next) {
    if (entries_[n].key == key) return run_at(entries_[n].code);
    if (!entries_[n].leads) oldest = n;
    ++count;
  }
  u32 number = oldest;
  if (count < kMostEntries) {
    number = entries_.size();
    entries_.push_back({key, blocks_.number_of(block), used_, block.entries, false});
    block.entries = number;
    used_ += kEntryRoom;
  } else {
    // The same code at many addresses: the oldest gives way.
    JumpEntry& e = entries_[number];
    cpu_.tlb.each([&](Instance& i) {
      Instance::SecondJump& known = i.second_jump[Instance::second_jump_index(e.key)];
      if (known.key == e.key && known.entry == e.code) known.generation = 0;
    });
    e.key = key;
  }
  Assembler& a = lead_;
  a.clear();
  const u32 place = entries_[number].code;
  emit_entry(a, key, block, place);
  a.patch32(a.jmp32(), block.table - place);
  SKERRY_CHECK(a.size() <= kEntryRoom, "an entry is small");
  copy_bytes(write_at(place), a.code.get(), a.size());
  return run_at(place);
}

// The tables of jumps were cleared, or never had this one; the block is there.
u8* Jit::quick_dispatch(u64 key) {
  Instance& i = *cpu_.tlb.current;
  const u64 rip = rip_of(key), linear = linear_of(rip);
  const FetchTlb::Entry* page = i.fetch.find(linear);
  if (exact_ || !page || !canonical(rip) || &i != cpu_.tlb.context ||
      !cpu_.attention.go_.load(std::memory_order_relaxed))
    return nullptr;
  u32 mode = mode_word();
  if (i.mode != mode || ((mode & kModeSegmented) && !window(rip, mode))) return nullptr;
  const u64 gpa = page->gpa | (linear & 0xfff);
  u32 n = bucket_of(gpa, mode);
  while (n != kNone && (blocks_[n].gpa != gpa || blocks_[n].mode != mode)) n = blocks_[n].chain;
  if (n == kNone) return nullptr;
  JitBlock& b = blocks_[n];
  if (b.stale || b.gpa2 != ~u64{0} || b.page->version.load(std::memory_order_acquire) != b.version)
    return nullptr;
  if (!entry_fits()) return nullptr;
  const u32 entry = offset_of(entry_for(key, b));
  i.lead_jump(key, linear, reinterpret_cast<u64>(run_at(entry)), page->global);
  i.second_jump[Instance::second_jump_index(key)] = {key, page->gpa, entry, b.code,
                                                     i.jump_generation};
  ++counters.found_blocks;
  enter_page(rip);
  return run_at(b.code);
}

u8* Jit::gate_dispatch(Cpu* cpu, u64 key) {
  Jit& jit = *cpu->core->jit;
  Instance& i = *cpu->tlb.current;
  const u64 rip = jit.rip_of(key), linear = jit.linear_of(rip);
  if (const Instance::SecondJump* known = i.known_jump(key, linear);
      known && !jit.exact_ && cpu->attention.go_.load(std::memory_order_relaxed)) {
    i.lead_jump(key, linear, reinterpret_cast<u64>(jit.run_at(known->entry)),
                i.fetch.find(linear)->global);
    ++jit.counters.jump_refills;
    jit.enter_page(rip);
    return jit.run_at(known->code);
  }
  if (u8* to = jit.quick_dispatch(key)) return to;
  jit.leave_vectors();
  return jit.enter_vectors(jit.dispatch(key));
}

u8* Jit::gate_slow(Cpu* cpu, u64 n) {
  Jit& jit = *cpu->core->jit;
  if (u8* to = jit.refill(static_cast<u32>(n))) return to;
  return gate<&Jit::slow>(cpu, n);
}

}  // namespace skerry::soft
