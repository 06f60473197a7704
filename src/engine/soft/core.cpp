#include "engine/soft/core.hpp"

#include <algorithm>

#include "engine/soft/jit.hpp"

namespace skerry::soft {

Cpu::Core::Core(Cpu& c, Shared& shared_, unsigned index_, machine::LocalApic* lapic_)
    : cpu(c),
      shared(shared_),
      index(index_),
      lapic(lapic_),
      memory(*shared_.setup.memory),
      blocks(*this) {
  cpu.core = this;
  io_log.reserve(16);
  std::lock_guard lock(shared.mutex);
  shared.cores.push_back(this);
}

Cpu::Core::~Core() {
  delete_host_timer();
  std::lock_guard lock(shared.mutex);
  std::erase(shared.cores, this);
}

void Cpu::Core::post_code(u64 page) {
  {
    std::lock_guard lock(code_mutex);
    code_pages.push_back(page);
    code_posted.store(true, std::memory_order_release);
  }
  cpu.attention.fetch_or(kCode, std::memory_order_seq_cst);
}

void Cpu::Core::serve_posted_code() {
  cpu.attention.fetch_and(~u32{kCode}, std::memory_order_seq_cst);
  std::vector<u64> pages;
  {
    std::lock_guard lock(code_mutex);
    pages.swap(code_pages);
    code_posted.store(false, std::memory_order_release);
  }
  if (jit)
    for (u64 page : pages) jit->page_written(page);
}

bool Cpu::Core::careful() const {
  return (cpu.rflags & TF) || (cpu.s.dr7 & 0xff) || debug.any() || cpu.s.interrupt_shadow ||
         trap_bits || !io_log.empty();
}

void Cpu::Core::update_careful() {
  if (careful())
    cpu.attention.fetch_or(kCareful, std::memory_order_relaxed);
  else
    cpu.attention.fetch_and(~u32{kCareful}, std::memory_order_relaxed);
}

bool Cpu::Core::watched(u64 page) const {
  if (cpu.s.dr7 & 0xff)
    for (u64 at : cpu.s.dr)
      if ((at & ~u64{0xfff}) == page) return true;
  for (const auto& w : debug.watches)
    if (w.address < page + 4096 && page < w.address + w.length) return true;
  return false;
}

void Cpu::Core::check_watches(u64 linear, u32 size, bool write) {
  if (cpu.s.dr7 & 0xff) [[unlikely]] {
    // SDM 3B 18.2.4: data breakpoints match on any byte of the range; enabled locally or globally.
    for (unsigned i = 0; i < 4; ++i) {
      unsigned control = (cpu.s.dr7 >> (16 + 4 * i)) & 15;
      if (!((cpu.s.dr7 >> (2 * i)) & 3)) continue;
      if ((control & 3) != 3 && !((control & 3) == 1 && write)) continue;
      u64 length = "\x01\x02\x08\x04"[control >> 2];
      u64 at = cpu.s.dr[i] & ~(length - 1);
      if (linear < at + length && at < linear + size) trap_bits |= u64{1} << i;
    }
  }
  for (const auto& w : debug.watches)
    if ((write ? w.on_write : w.on_read) && linear < w.address + w.length &&
        w.address < linear + size) {
      debug_hit = w.address;
      debug_stop = true;
    }
}

}  // namespace skerry::soft
