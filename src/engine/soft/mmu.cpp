// Guest memory accesses that miss the fast path: segmentation faults, canonical and alignment
// checks, page crossings, TLB fills, stores into code, devices, data breakpoints.
#include <mutex>

#include "engine/soft/core.hpp"

namespace skerry::soft {

// ---- requests of other threads

void Shared::flush_writes(Cpu::Core* self, u64 host_page) {
  if (self) {
    if (host_page)
      self->cpu.tlb.flush_host_writes(host_page);
    else
      self->cpu.tlb.flush_writes();
  }
  std::vector<std::pair<Cpu::Core*, u64>> waits;
  {
    std::lock_guard lock(mutex);
    for (Cpu::Core* other : cores) {
      if (other == self) continue;
      waits.push_back({other, other->post_flush(host_page)});
    }
  }
  // A vCPU outside run() serves its requests before it runs guest code again.
  for (auto& [other, ticket] : waits)
    for (unsigned spins = 0; other->running.load(std::memory_order_seq_cst) &&
                             other->flush_done.load(std::memory_order_acquire) < ticket;
         ++spins) {
      if (self) self->serve_flush();  // two vCPUs may wait for each other
      if (spins < 200)
        __builtin_ia32_pause();
      else
        sched_yield();
    }
}

void Shared::post_flush_writes(u64 host_page) {
  std::lock_guard lock(mutex);
  for (Cpu::Core* core : cores) core->post_flush(host_page);
}

u64 Cpu::Core::post_flush(u64 host_page) {
  u64 ticket;
  {
    std::lock_guard lock(flush_mutex);
    flush_pages.push_back(host_page);
    ticket = ++flush_posted;
  }
  cpu.attention.fetch_or(kFlush, std::memory_order_seq_cst);
  return ticket;
}

void Shared::code_written(u64 page) {
  std::lock_guard lock(mutex);
  for (Cpu::Core* core : cores)
    if (core->jit) core->post_code(page);
}

void Cpu::Core::serve_flush() {
  if (flush_done.load(std::memory_order_relaxed) == flush_posted.load(std::memory_order_acquire))
    return;
  std::vector<u64> pages;
  u64 ticket;
  {
    std::lock_guard lock(flush_mutex);
    pages.swap(flush_pages);
    ticket = flush_posted.load(std::memory_order_relaxed);
  }
  bool all = pages.size() > 16;
  for (u64 page : pages) all |= page == 0;
  if (all) {
    cpu.tlb.flush_writes();
  } else {
    for (u64 page : pages) cpu.tlb.flush_host_writes(page);
  }
  flush_done.store(ticket, std::memory_order_release);
}

// ---- translation

bool Cpu::Core::translate(u64 linear, bool write, bool system, Access::Piece& out) {
  Instance& context =
      !system ? *cpu.tlb.context
              : cpu.tlb.of(cpu.s.cr4 & (u64{1} << 21) ? Tlbs::supervisor : Tlbs::supervisor_ac);
  const TlbEntry& hit = context.entry[Instance::index(linear)];
  if (linear - (write ? hit.write : hit.read) < 4096) {
    out.host = reinterpret_cast<u8*>(linear + hit.bias);
    out.offset = Access::Piece::kPlain;
    return true;
  }
  Walk w;
  u32 error = 0;
  bool user = cpu.cpl == 3 && !system;
  if (!walk(linear, write ? Use::write : Use::read, user, system, true, w, error)) {
    cpu.fault = {PF, true, error, linear};
    trace(Trace::mmu, "cpu{} #PF {:#x} error {:#x} rip {:#x} cr3 {:#x}", index, linear, error,
          cpu.rip, cpu.s.cr3);
    return false;
  }
  Page p = page(w.gpa);
  out.gpa = w.gpa;
  out.host = p.host && (p.writable || !write) ? p.host + (w.gpa & 0xfff) : nullptr;
  out.offset = p.offset + (w.gpa & 0xfff);
  if (!out.host) return true;

  bool keep = !watched(linear & ~u64{0xfff});
  if (w.shift > 12) cpu.tlb.note_large(linear, w.shift);
  if (keep && jit && memory.dirty().covers(p.offset)) {
    // What refill.cpp needs to know.
    const bool writable = w.writable && w.dirty && p.writable;
    const u64 page = linear & ~u64{0xfff}, region = linear & ~u64{0x1fffff};
    context.remember(context.second[Instance::second_index(linear)], page,
                     reinterpret_cast<u64>(p.host), p.offset, w.global, writable);
    const u64 in_region = page - region, gpa = w.gpa & ~u64{0xfff};
    if (w.shift >= 21 && !any_watched()) {
      const Page first = this->page(gpa - in_region), last = this->page(gpa - in_region + 0x1ff000);
      if (first.host && last.host == first.host + 0x1ff000 && first.host + in_region == p.host)
        context.remember(context.large[Instance::large_index(linear)], region,
                         reinterpret_cast<u64>(first.host), first.offset, w.global, writable);
    }
  }
  if (!write) {
    if (keep) context.fill(linear, reinterpret_cast<u64>(p.host), w.global, false);
    return true;
  }
  memory::DirtyMap& dirty = memory.dirty();
  u64 page_offset = p.offset & ~u64{0xfff};
  if (!dirty.covers(page_offset)) return true;
  dirty.mark_page(page_offset);
  if (keep && dirty.unwatched(page_offset)) {
    context.fill(linear, reinterpret_cast<u64>(p.host), w.global, true);
    out.offset = Access::Piece::kPlain;
  }
  return true;
}

bool Cpu::Core::translate_code(u64 linear, u64& gpa) {
  FetchTlb& fetch = cpu.tlb.context->fetch;
  if (const FetchTlb::Entry* e = fetch.find(linear)) {
    gpa = e->gpa | (linear & 0xfff);
    return true;
  }
  Walk w;
  u32 error = 0;
  if (!walk(linear, Use::execute, cpu.cpl == 3, false, true, w, error)) {
    cpu.fault = {PF, true, error, linear};
    trace(Trace::mmu, "cpu{} #PF fetch {:#x} error {:#x} cr3 {:#x}", index, linear, error,
          cpu.s.cr3);
    return false;
  }
  if (w.shift > 12) cpu.tlb.note_large(linear, w.shift);
  fetch.set(linear, w.gpa, w.global);
  gpa = w.gpa;
  return true;
}

bool Cpu::prepare(Access& a, u8 segment, u64 offset, u32 size, bool write) {
  u64 linear;
  if (flat) {
    linear = seg_base[segment] + offset;
    if (!canonical(linear) || !canonical(linear + size - 1) ||
        static_cast<i64>(linear) > static_cast<i64>(linear + size - 1)) {
      raise(segment == machine::ss ? SS : GP, 0);
      return false;
    }
  } else {
    const Reach& r = reach[segment];
    linear = static_cast<u32>(seg_base[segment] + offset);
    if (offset < r.lo || offset + size > (write ? r.write_end : r.read_end)) {
      raise(segment == machine::ss ? SS : GP, 0);
      return false;
    }
  }
  if (align_check && (size == 2 || size == 4 || size == 8) && (linear & (size - 1))) {
    raise(AC, 0);
    return false;
  }
  if (!prepare_linear(a, linear, size, write, false)) return false;
  core->check_watches(linear, size, write);
  return true;
}

bool Cpu::prepare_linear(Access& a, u64 linear, u32 size, bool write, bool system) {
  a.write = write;
  u64 mask = (system ? long_mode : flat) ? ~u64{0} : 0xffff'ffff;
  linear &= mask;
  if (system && long_mode && !(canonical(linear) && canonical(linear + size - 1))) {
    raise(GP, 0);
    return false;
  }
  u32 first = static_cast<u32>(4096 - (linear & 0xfff));
  a.piece[0].size = size < first ? size : first;
  a.pieces = 1;
  if (!core->translate(linear, write, system, a.piece[0])) return false;
  if (size > first) {
    a.pieces = 2;
    a.piece[1].size = size - first;
    if (!core->translate((linear + first) & mask, write, system, a.piece[1])) return false;
  }
  return true;
}

namespace {

// Aligned powers of two in one access, so that they are atomic.
void copy(void* to, const void* from, u32 size) {
  switch (size) {
    case 1: std::memcpy(to, from, 1); break;
    case 2: std::memcpy(to, from, 2); break;
    case 4: std::memcpy(to, from, 4); break;
    case 8: std::memcpy(to, from, 8); break;
    default: std::memcpy(to, from, size);
  }
}

bool device_bytes(Cpu::Core& core, const Cpu::Access::Piece& piece, u8* bytes, bool write) {
  for (u32 done = 0; done < piece.size;) {
    u32 size = std::min<u32>(piece.size - done, 8);
    u64 value = 0;
    if (write) std::memcpy(&value, bytes + done, size);
    if (!core.device_access(piece.gpa + done, static_cast<u8>(size), write, false, value))
      return false;
    if (!write) std::memcpy(bytes + done, &value, size);
    done += size;
  }
  return true;
}

}  // namespace

bool Cpu::load_from(Access& a, void* to) {
  u8* at = static_cast<u8*>(to);
  for (u8 i = 0; i < a.pieces; ++i) {
    Access::Piece& piece = a.piece[i];
    if (piece.host)
      copy(at, piece.host, piece.size);
    else if (core->page(piece.gpa).host)
      copy(at, core->page(piece.gpa).host + (piece.gpa & 0xfff), piece.size);  // ROM, for modify
    else if (!device_bytes(*core, piece, at, false))
      return false;
    at += piece.size;
  }
  return true;
}

bool Cpu::store_to(Access& a, const void* from) {
  // Devices first: if one answers later, RAM has not been touched yet.
  const u8* at = static_cast<const u8*>(from);
  for (u8 i = 0; i < a.pieces; ++i) {
    Access::Piece& piece = a.piece[i];
    if (!piece.host && !device_bytes(*core, piece, const_cast<u8*>(at), true)) return false;
    at += piece.size;
  }
  at = static_cast<const u8*>(from);
  for (u8 i = 0; i < a.pieces; ++i) {
    Access::Piece& piece = a.piece[i];
    if (piece.host) copy(piece.host, at, piece.size);
    at += piece.size;
  }
  stored(a);
  return true;
}

void Cpu::stored(Access& a) {
  bool code = false;
  for (u8 i = 0; i < a.pieces; ++i) {
    const Access::Piece& piece = a.piece[i];
    if (!piece.host || piece.offset == Access::Piece::kPlain) continue;
    core->memory.dirty().mark(piece.offset, piece.size);
    code = true;
  }
  Block* block = core->blocks.running;
  if (code && block && !block->current()) core->blocks.abandon(*block);
}

bool Cpu::read_slow(u8 segment, u64 offset, void* to, u32 size) {
  Access a;
  return prepare(a, segment, offset, size, false) && load_from(a, to);
}

bool Cpu::write_slow(u8 segment, u64 offset, const void* from, u32 size) {
  Access a;
  return prepare(a, segment, offset, size, true) && store_to(a, from);
}

bool Cpu::read_bytes(u8 segment, u64 offset, void* to, u32 size) {
  return read_slow(segment, offset, to, size);
}
bool Cpu::write_bytes(u8 segment, u64 offset, const void* from, u32 size) {
  return write_slow(segment, offset, from, size);
}
bool Cpu::probe_write(u8 segment, u64 offset, u32 size) {
  Access a;
  return prepare(a, segment, offset, size, true);
}
bool Cpu::probe_read(u8 segment, u64 offset, u32 size) {
  Access a;
  return prepare(a, segment, offset, size, false);
}

void Cpu::split_lock(bool take) {
  static std::mutex mutex;
  if (take)
    mutex.lock();
  else
    mutex.unlock();
}

}  // namespace skerry::soft
