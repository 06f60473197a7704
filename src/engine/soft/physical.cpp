// Guest-physical memory as a vCPU sees it: RAM and ROM pages, devices behind the I/O log, its own
// xAPIC page. Device accesses leave through Exit; see cpu.hpp for the replay rule.
#include "engine/soft/core.hpp"

namespace skerry::soft {
namespace {
constexpr size_t kMaxLog = 1024;  // an XSAVE into a device has 336 accesses
}

Cpu::Core::Page Cpu::Core::page(u64 gpa) const {
  for (const memory::Slot& s : shared.slots)
    if (gpa - s.start < s.size) {
      u64 at = (gpa - s.start) & ~u64{0xfff};
      return {s.host + at, s.offset + at, s.writable};
    }
  return {};
}

bool Cpu::Core::device_access(u64 at, u8 size, bool write, bool port, u64& value) {
  if (!port && lapic && lapic->claims(at)) {
    // Registers are 32 bits at multiples of 16; other widths are undefined (SDM 3A 11.4.1) and give
    // the bytes of the register.
    u32 offset = at & 0xffc, shift = (at & 3) * 8;
    if (write) {
      if (shift == 0 && size >= 4) {
        lapic->mmio_write(offset, static_cast<u32>(value));
        timer_changed();
        // EOI or a lower TPR may let through what was looked at before and held back.
        cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);
        // It is looked at after this instruction, whatever else its block has.
        if (deterministic() && blocks.running) blocks.abandon(*blocks.running);
      }
    } else {
      value = (lapic->mmio_read(offset) >> shift) & byte_mask(size);
    }
    return true;
  }
  if (write && !port && shared.ring(at, size)) return true;
  if (io_next < io_log.size()) {
    const IoEntry& e = io_log[io_next];
    if (e.at == at && e.size == size && e.write == write && e.port == port) {
      ++io_next;
      if (!write) value = e.value;
      return true;
    }
    io_log.resize(io_next);  // memory changed under the instruction: go on from here
  }
  if (delivering || io_log.size() >= kMaxLog) {
    // While an event is delivered nothing can be replayed: a stack or a table in a device's
    // registers reads all ones.
    value = ~u64{0};
    return true;
  }
  if (port)
    cpu.exit = machine::PortIo{static_cast<u16>(at), size, write, static_cast<u32>(value)};
  else
    cpu.exit = machine::Mmio{at, size, write, value & byte_mask(size)};
  cpu.pending_exit = true;
  return false;
}

bool Shared::ring(memory::Gpa at, u32 size) {
  if (!any_doorbell.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(doorbell_mutex);
  for (const Doorbell& d : doorbells)
    if (d.at == at && d.size == size) {
      signal_event(d.eventfd);
      return true;
    }
  return false;
}

u64 Cpu::Core::read_physical(u64 gpa, u32 size) const {
  Page p = page(gpa);
  if (!p.host) return ~u64{0};
  const u8* from = p.host + (gpa & 0xfff);
  return size == 8 ? __atomic_load_n(reinterpret_cast<const u64*>(from), __ATOMIC_ACQUIRE)
                   : __atomic_load_n(reinterpret_cast<const u32*>(from), __ATOMIC_ACQUIRE);
}

bool Cpu::Core::write_physical(u64 gpa, const void* from, u32 size) {
  return memory.write(gpa, {static_cast<const u8*>(from), size});
}

void Cpu::forget_io() {
  core->io_log.clear();
  core->io_next = 0;
  io_used = false;
}

}  // namespace skerry::soft
