// What a TLB miss of translated code tries first: the larger tables behind the TLB. Compiled to use
// general registers only (extra.cmake), and so are the doors to everything else: the guest's vector
// registers stay in the host's, and are saved only when other C++ is about to run.
#include "engine/soft/jit.hpp"
#include "engine/soft/thunk_code.hpp"

namespace skerry::soft {

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

// The instruction reads a copy in the Cpu, which lies in its line as the original does: the host
// treats misaligned operands alike.
u8* Jit::load_across(const Site& s) {
  const u64 at = cpu_.scratch, next = (at | 0xfff) + 1;
  const Instance& i = *cpu_.tlb.current;
  const TlbEntry &low = i.entry[Instance::index(at)], &high = i.entry[Instance::index(next)];
  if (!s.checked || low.read != (at & ~u64{0xfff}) || high.read != next) return nullptr;
  u8* to = &cpu_.across[at & 63];
  auto copy = [&to](u64 from, u64 bytes) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
  };
  cpu_.resume_t0 = reinterpret_cast<u64>(to);
  cpu_.resume_t1 = 0;
  copy(at + low.bias, next - at);
  copy(high.host, s.size - (next - at));
  ++counters.loads_across;
  return run_at(s.checked);
}

u8* Jit::refill(u32 n) {
  const Site& s = sites_[n];
  const u64 at = cpu_.scratch, page = at & ~u64{0xfff};
  if ((at & 0xfff) + s.size > 4096) return s.other ? run_at(s.other) : load_across(s);
  Instance& i = *cpu_.tlb.current;
  const Instance::Second* found = &i.second[Instance::second_index(at)];
  u64 inside = 0;
  if (found->page != page || !i.current(*found)) {
    found = &i.large[Instance::large_index(at)];
    inside = at & 0x1ff000;
    if (found->page != (at & ~u64{0x1fffff}) || !i.current(*found)) return nullptr;
  }
  bool writable = false;
  if (s.write && !found->writable) return nullptr;
  if (found->writable) {
    memory::DirtyMap& dirty = core_.memory.dirty();
    const u64 offset = found->offset + inside;
    const bool code = dirty.code(offset).granules.load(std::memory_order_seq_cst) != 0;
    if (s.write) {
      if (code) return nullptr;
      dirty.mark_page(offset);
      writable = true;
    } else {
      writable = !code && dirty.test(offset);
    }
  }
  i.fill(at, found->host + inside, found->is_global, writable);
  ++counters.tlb_refills;
  return run_at(s.retry);
}

u8* Jit::gate_dispatch(Cpu* cpu, u64 target) {
  Jit& jit = *cpu->core->jit;
  Instance& i = *cpu->tlb.current;
  const Instance::SecondJump& known = i.second_jump[Instance::second_jump_index(target)];
  if (known.linear == target && known.generation == i.jump_generation && !jit.exact_ &&
      cpu->attention.go_.load(std::memory_order_relaxed)) {
    i.set_jump(target, reinterpret_cast<u64>(jit.run_at(known.entry)));
    ++jit.counters.jump_refills;
    cpu->code_page = target & ~u64{0xfff};
    return jit.run_at(known.code);
  }
  jit.leave_vectors();
  return jit.enter_vectors(jit.dispatch(target));
}

u8* Jit::gate_slow(Cpu* cpu, u64 n) {
  Jit& jit = *cpu->core->jit;
  if (u8* to = jit.refill(static_cast<u32>(n))) return to;
  return gate<&Jit::slow>(cpu, n);
}

}  // namespace skerry::soft
