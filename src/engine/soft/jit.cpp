#include "engine/soft/jit.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cpuid.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fmt/os.h>

#include "base/fd.hpp"
#include "engine/soft/arith.hpp"
#include "engine/soft/huge_pages.hpp"
#include "engine/soft/room.hpp"
#include "engine/soft/thunk.hpp"
#include "engine/soft/translator.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {
namespace {

/// A stack for signal handlers: translated code has none.
void give_signal_stack() {
  struct Stack {
    Stack() {
      size = 64 * 1024;
      at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      stack_t now{};
      if (::sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return;
      stack_t mine{};
      mine.ss_sp = at;
      mine.ss_size = size;
      ::sigaltstack(&mine, nullptr);
      set = true;
    }
    ~Stack() {
      stack_t none{};
      none.ss_flags = SS_DISABLE;
      if (set) ::sigaltstack(&none, nullptr);
      ::munmap(at, size);
    }
    void* at;
    size_t size;
    bool set = false;
  };
  thread_local Stack stack;
  (void)stack;
}

}  // namespace

// x87, SSE and AVX lie at the same offsets in every standard-format XSAVE area; where the AVX-512
// components are is the host's business (AMD has no gap for MPX), so they go through an area of its
// layout.
struct Jit::HighVectors {
  struct Part {
    u32 component, ours, size, host;
  };
  HighVectors() {
    for (Part& p : parts) {
      u32 a, b, c, d;
      __cpuid_count(0xd, p.component, a, b, c, d);
      p.host = b;
    }
  }
  std::array<Part, 3> parts{
      {{5, area::kOpmask, 64, 0}, {6, area::kZmmHigh, 512, 0}, {7, area::kHi16, 1024, 0}}};
  u64 in_ours = 0;  ///< components that are not all zero in Cpu::s.xsave
  alignas(64) std::array<u8, 4096> area{};
};

Jit::Jit(Cpu::Core& core)
    : interpreted_by_sem(2048),
      core_(core),
      cpu_(core.cpu),
      high_(std::make_unique<HighVectors>()),
      high_area_(high_->area.data()),
      vector_components_(supported_vector_features().xcr0) {}

std::unique_ptr<Jit> Jit::create(Cpu::Core& core) {
  auto jit = std::unique_ptr<Jit>(new Jit(core));
  const u64 wanted = core.shared.setup.code_cache;
  jit->set_size(wanted ? std::clamp(wanted, kLeastCache, kMostCache) : kDefaultCache);
  if (!jit->map()) return nullptr;
  jit->make_gates();
  jit->open_perf_map();
  jit->translator_ = std::make_unique<Translator>(*jit);
  jit->cpu_.tlb.jump_default = reinterpret_cast<u64>(jit->run_at(jit->gate_.dispatch));
  jit->cpu_.tlb.each([&](Instance& i) {
    i.jump_default = jit->cpu_.tlb.jump_default;
    i.jumps_used = true;
    i.jumps_filled_count = Instance::kMostJumpsFilled + 1;
    i.forget_jumps();
  });
  register_translated_code(reinterpret_cast<u64>(jit->run_), jit->size_,
                           reinterpret_cast<u64>(jit->run_at(jit->gate_.native_fault)));
  return jit;
}

// perf resolves addresses in generated code by /tmp/perf-PID.map (perf-report(1)): one line per
// block, with its guest address when it was translated.
void Jit::open_perf_map() {
  if (!std::getenv("SKERRY_PERF_MAP")) return;
  const std::string path = fmt::format("/tmp/perf-{}.map", ::getpid());
  perf_map_ = std::fopen(path.c_str(), "ae");
  if (!perf_map_) return log_warn(fmt::format("{}: {}", path, std::strerror(errno)));
  std::setvbuf(perf_map_, nullptr, _IOLBF, 0);
  fmt::print(perf_map_, "{:x} {:x} skerry:gates\n", reinterpret_cast<u64>(run_), first_block_at_);
}

Jit::~Jit() {
  if (perf_map_) std::fclose(perf_map_);
  if (run_) {
    unregister_translated_code(reinterpret_cast<u64>(run_));
    ::munmap(run_, size_);
  }
  if (write_) ::munmap(write_, size_);
}

// Of shared anonymous memory mremap() with an old size of 0 makes a second mapping (mremap(2)).
// perf looks at its maps for anonymous memory only, which a memfd is not.
//
// Where the host allows it (transparent_hugepage/shmem_enabled), both begin at multiples of 2 MiB
// and have huge pages: a guest's hot code is spread over more small ones than the host's TLB holds.
bool Jit::map() {
  if (u8* write = HugePages::reserve(size_, PROT_NONE)) {
    write_ = write;
    if (::mmap(write, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) != MAP_FAILED) {
      ::madvise(write, size_, MADV_HUGEPAGE);
      u8* run = HugePages::reserve(size_, PROT_NONE);
      if (run && ::mremap(write, 0, size_, MREMAP_MAYMOVE | MREMAP_FIXED, run) != MAP_FAILED)
        run_ = run;
      else if (run)
        ::munmap(run, size_);
    }
  }
  if (run_ && ::mprotect(run_, size_, PROT_READ | PROT_EXEC) == 0) return true;
  log_warn(fmt::format(
      "no executable memory for translated code ({}); the guest runs on the interpreter, slowly",
      std::strerror(errno)));
  return false;
}

void Jit::report(std::vector<machine::Counter>& all) const {
  const Counters& c = counters;
  const u64 ns = c.translation_ticks * 1'000'000 / std::max<u64>(1, host_tsc_hz() / 1000);
  all.insert(all.end(), {{"blocks translated", c.translated_blocks},
                         {"instructions translated", c.translated_instructions},
                         {"ns per instruction translated",
                          c.translated_instructions ? ns / c.translated_instructions : 0},
                         {"bytes of code made", c.code_bytes},
                         {"blocks found", c.found_blocks},
                         {"code cache, bytes used", cache_bytes()},
                         {"code cache, bytes of tables", table_bytes()},
                         {"code cache flushes", c.flushes},
                         {"code cache regions evicted", c.evictions},
                         {"blocks evicted", c.evicted_blocks},
                         {"jumps unlinked", c.unlinks},
                         {"blocks whose page was written", c.stale_blocks},
                         {"blocks found unchanged", c.revalidated},
                         {"jumps linked", c.links},
                         {"jump table refills", c.jump_refills},
                         {"jump table misses", c.dispatches},
                         {"entries from the run loop", c.entries},
                         {"TLB refills", c.tlb_refills},
                         {"TLB fills by page walks", c.tlb_fills},
                         {"loads from two pages", c.loads_across},
                         {"accesses by the interpreter", c.slow_accesses},
                         {"groups of accesses split", c.unmerged},
                         {"vector registers loaded", c.vector_loads},
                         {"vector registers saved", c.vector_saves},
                         {"faults in translated code", c.faults}});
  // The instructions that would gain most from being translated.
  std::vector<u32> order(interpreted_by_sem.size());
  for (u32 i = 0; i < order.size(); ++i) order[i] = i;
  std::partial_sort(order.begin(), order.begin() + 12, order.end(),
                    [&](u32 a, u32 b) { return interpreted_by_sem[a] > interpreted_by_sem[b]; });
  interpreted_names_.clear();
  for (u32 i = 0; i < 12 && interpreted_by_sem[order[i]]; ++i)
    interpreted_names_.push_back(
        fmt::format("  interpreted: {}", sem_name(static_cast<isa::Sem>(order[i]))));
  for (u32 i = 0; i < interpreted_names_.size(); ++i)
    all.push_back({interpreted_names_[i], interpreted_by_sem[order[i]]});
}

// ---- modes

u32 Jit::mode_word() const {
  const machine::CpuState& s = cpu_.s;
  u32 mode = kModeSet | (cpu_.cpl == 3 ? u32{kModeUser} : 0);
  if (s.cr4 & (1 << 21)) mode |= kModeSmap;
  if (!cpu_.flat) mode |= narrow_mode();
  if ((s.cr0 & (kCr0Em | kCr0Ts)) == 0) {
    mode |= kModeX87;
    if (s.cr4 & kCr4OsFxsr) mode |= kModeSse;
    if (s.cr4 & kCr4OsXsave) {
      if ((s.xcr0 & 6) == 6) mode |= kModeAvx;
      if ((s.xcr0 & 0xe6) == 0xe6) mode |= kModeAvx512;
    }
  }
  return mode;
}

// All but what lies in the last page, where linear addresses wrap, or too near to the end of its
// code segment.
bool Jit::suits() const {
  if (cpu_.tlb.current != cpu_.tlb.context || (cpu_.cpl != 0 && cpu_.cpl != 3)) return false;
  if (cpu_.flat) [[likely]]
    return true;
  u32 mode = 0;
  return linear_of(cpu_.rip) < 0xffff'f000 && (!segmented() || window(cpu_.rip, mode));
}

// ---- flags

void Jit::flags_to_cpu() {
  arith::from_eflags(cpu_.flags, eflags_of_saved(cpu_.saved_flags));
}
void Jit::flags_from_cpu() {
  cpu_.saved_flags = saved_of_eflags(arith::to_eflags(cpu_.flags));
}

// ---- vector registers

// The registers are in s.xsave and in the high area (refill.cpp).
void Jit::vectors_saved() {
  ++counters.vector_saves;
  u8* low = cpu_.s.xsave.data();
  if (load<u64>(low + area::kFip) != fip_) {
    // x87 instructions ran: these are addresses of ours. As the interpreter in deterministic runs,
    // translated code leaves no pointers.
    std::memset(low + area::kFop, 0, 2);
    std::memset(low + area::kFip, 0, 16);
  }
  if (vector_components_ & kHigh) {
    const u64 used = load<u64>(high_->area.data() + area::kHeader);
    for (const HighVectors::Part& p : high_->parts)
      if (used >> p.component & 1)
        std::memcpy(low + p.ours, &high_->area[p.host], p.size);
      else if (high_->in_ours >> p.component & 1)
        std::memset(low + p.ours, 0, p.size);
    high_->in_ours = used & kHigh;
  }
  vectors_unknown_ = false;
}

void Jit::want_vectors() {
  if (cpu_.vector_live) return;
  vectors_wanted_ = true;
  ++counters.vector_loads;
  u8* low = cpu_.s.xsave.data();
  if (vectors_unknown_) {
    u8* high = high_->area.data();
    const u64 used = components_in_use(cpu_.s) & vector_components_;
    store<u64>(low + area::kHeader, used & kLow);
    store<u64>(low + area::kHeader + 8, 0);
    high_->in_ours = used & kHigh;
    store<u64>(high + area::kHeader, used & kHigh);
    for (const HighVectors::Part& p : high_->parts)
      if (used >> p.component & 1) std::memcpy(&high_->area[p.host], low + p.ours, p.size);
  }
  fip_ = load<u64>(low + area::kFip);
}

// ---- running

void Jit::run() {
  give_signal_stack();
  ++counters.entries;
  if (exact_ != core_.deterministic()) {
    flush();
    exact_ = core_.deterministic();
  }
  if (!exact_) measure_ticks();
  start_ = core_.position();
  vectors_unknown_ |= std::exchange(core_.vectors_touched, false);
  flags_from_cpu();
  u8* to = resume();
  if (!to) return;
  using Enter = void (*)(Cpu*, u8*);
  reinterpret_cast<Enter>(run_at(gate_.enter))(&cpu_, to);
}

// A number for each place that a code segment had, so that jump tables need not be cleared when it
// changes: real-mode programs have many. What was filled in for one that is forgotten gives way to
// others.
void Jit::choose_code_key() {
  if (!segmented()) return;
  const u64 place = cpu_.seg_base[machine::cs] << 32 | cpu_.seg[machine::cs].limit;
  if (last_place_ == place && cpu_.code_key) return;
  if (place_keys_.size() >= kMostPlaces) place_keys_.clear();
  if (next_key_ >> 32) {  // no number is used twice
    place_keys_.clear();
    flush();
    next_key_ = 1;
  }
  u64& key = place_keys_[place];
  if (!key) key = next_key_++ << 32;
  last_place_ = place;
  cpu_.code_key = key;
}

// RIP, registers and saved_flags are right.
u8* Jit::resume(u32 variant) {
  for (;;) {
    core_.serve_code();
    counted_ = 0;
    const bool stop = exact_ && core_.position() != start_;
    if (!stop && !cpu_.pending_exit && !core_.shutdown && suits() && cpu_.attention.arm() &&
        canonical(cpu_.rip)) [[likely]] {
      choose_code_key();
      if (JitBlock* b = find(cpu_.rip, variant)) {
        enter_page(cpu_.rip);
        Instance& i = *cpu_.tlb.current;
        if (const u32 mode = b->mode & ~u32{kModeWindow}; i.mode != mode) [[unlikely]] {
          i.forget_jumps();
          i.mode = mode;
        }
        cpu_.jit_base = base_of(i);
        found_ = blocks_.number_of(*b);
        return run_at(b->code);
      }
      flags_to_cpu();
      if (!core_.deliver_fault()) core_.shutdown = true;
      flags_from_cpu();
      continue;
    }
    flags_to_cpu();
    return nullptr;
  }
}

/// What the handler of a site's instruction wants to know; `number` keeps it.
const Op* Jit::decode(const Site& s, u32& number) {
  if (number != kNone) return &decoded_[number].op;
  const u32 region = blocks_.region_of(s.block);
  Decoded* d = &spare_decoded_;
  if (decoded_.add_to(region, Decoded{})) {
    number = decoded_.end(region) - 1;
    d = &decoded_[number];
  }
  const JitBlock& b = blocks_[s.block];
  const u32 from = b.guest + (s.at - u32{b.page_offset});
  const u32 size = std::min<u32>(15, b.guest + b.bytes - from);
  Handler handler = decode_one({&bytes_[from], size}, Translator::decode_mode(b.mode),
                               core_.shared.features, d->insn);
  prepare_op(d->op, d->insn);
  d->op.run = handler;
  return &d->op;
}

u8* Jit::run_one(Site s, u32& decoded) {
  Cpu& cpu = cpu_;
  flags_to_cpu();
  const u32 block = s.block;
  account(s.count);
  cpu.rip = rip_at(s.at);
  const Op* op = decode(s, decoded);
  ++interpreted_by_sem[static_cast<u32>(op->insn->sem) % interpreted_by_sem.size()];
  const bool vector = touches_vectors(*op->insn);
  const bool low = vector && !vectors_unknown_ && touches_low_vectors(*op->insn);
  if (vector && !low) vectors_unknown_ = true;
  cpu.gpr[17] = cpu.rip + op->length;
  core_.blocks.running = nullptr;
  const Flow flow = op->run(cpu, *op);
  if (low)
    store<u64>(&cpu.s.xsave[area::kHeader], vector_components_ & kLow);
  else if (vector)
    vectors_unknown_ = true;
  if (flow != Flow::fault && flow != Flow::exit) {
    ++core_.instructions;
    ++counted_;
  }
  switch (flow) {
    case Flow::next:
      core_.mid_repeat = false;  // if it was one that gave way before
      cpu.rip = cpu.gpr[17];
      flags_from_cpu();
      // A group's check has to pass before its other members run: masked vector instructions do
      // without the access.
      if (s.after && !s.group) {
        core_.serve_code();
        const JitBlock& b = blocks_[block];
        // An exact run attends where every engine does: after the instruction (physical.cpp).
        bool go_on = !exact_ || !cpu.attention.load(std::memory_order_relaxed);
        // Segments may have been loaded.
        if (!cpu.flat) go_on &= mode_word() == (b.mode & ~u32{kModeUnmerged | kModeWindow});
        if (!b.stale && !cpu.pending_exit && go_on) {
          if (b.vectors) want_vectors();
          cpu.jit_base = base_of(*cpu.tlb.current);  // CLAC and STAC change the instance
          return run_at(s.after);
        }
      }
      break;
    case Flow::end: cpu.rip = cpu.gpr[17]; break;
    case Flow::fault:
      if (!core_.deliver_fault()) core_.shutdown = true;
      break;
    default: break;
  }
  flags_from_cpu();
  return resume();
}

// ---- gates

u8* Jit::slow(u32 n) {
  const Site s = sites_[n];
  const u64 at = cpu_.scratch;
  if ((at & 0xfff) + s.size <= 4096 && canonical(at)) {
    Cpu::Access::Piece piece;
    if (core_.translate(at, s.write, false, piece)) {
      const TlbEntry& e = cpu_.tlb.current->entry[Instance::index(at)];
      if ((s.write ? e.write : e.read) == (at & ~u64{0xfff})) {
        ++counters.tlb_fills;
        if (blocks_[s.block].vectors) want_vectors();
        return run_at(s.retry);
      }
      if (s.group) return unmerged(n);
    }
  } else if (s.group) {
    return unmerged(n);
  }
  ++counters.slow_accesses;
  return run_one(n);
}

// Goes on before the site's instruction, in a translation that checks every access.
u8* Jit::unmerged(u32 n) {
  const Site s = sites_[n];
  ++counters.unmerged;
  account(s.count);
  cpu_.rip = rip_at(s.at);
  const Held held = hold(sites_.region_of(n));
  JitBlock* b = find(cpu_.rip, kModeUnmerged);
  if (!b) return resume();
  counted_ = 0;
  if (still(held) && !exact_) sites_[n].other = blocks_.number_of(*b);
  return run_at(b->code);
}

u8* Jit::interpret(u32 n) {
  ++counters.interpreted;
  return run_one(n);
}

u8* Jit::stop(u32 n) {
  account(sites_[n].count);
  cpu_.rip = rip_at(sites_[n].at);
  return resume();
}

u8* Jit::link(u32 n) {
  const Link l = links_[n];
  const Held held = hold(links_.region_of(n));
  account(l.count);
  cpu_.rip = rip_at(l.target);
  u8* to = resume();
  if (exact_) return to;
  // Only if that is what was found (not a fault's handler), and the jump is still there.
  if (to && still(held) && cpu_.rip == rip_at(l.target)) link_to(n, found_);
  return to;
}

u8* Jit::dispatch(u64 key) {
  ++counters.dispatches;
  if (cpu_.flat && !canonical(key)) [[unlikely]]
    return bad_target();
  const u64 target = rip_of(key);
  if (exact_) account(sites_[cpu_.exit_site].count + 1u);
  cpu_.rip = target;
  // translate() leaves as much.
  if (!entry_fits()) next_region();
  if (!exact_) entered_at_ = key;
  u8* to = resume();
  entered_at_ = kNowhere;
  if (exact_ || !to || cpu_.rip != target) return to;
  Instance& i = *cpu_.tlb.current;
  JitBlock* b = &blocks_[found_];
  const u64 linear = linear_of(target);
  const FetchTlb::Entry* page = i.fetch.find(linear);
  if (!page) return to;  // it gave way to the page in which an instruction goes on
  u8* entry = entry_for(key, *b);
  i.lead_jump(key, linear, reinterpret_cast<u64>(entry), page->global);
  i.second_jump[Instance::second_jump_index(key)] = {key, page->gpa, offset_of(entry), b->code,
                                                     i.jump_generation};
  return to;
}

// Of 64-bit code. The jump itself is what faults (SDM 2A JMP, CALL; 2B RET): it is undone, and the
// interpreter's.
u8* Jit::bad_target() {
  const Site s = sites_[cpu_.exit_site];
  const JitBlock& b = blocks_[s.block];
  const u32 from = b.guest + (s.at - u32{b.page_offset});
  isa::Insn insn{};
  (void)decode_one({&bytes_[from], s.length}, {64, true}, core_.shared.features, insn);
  if (insn.sem == isa::Sem::call)
    cpu_.gpr[machine::rsp] += 8;
  else if (insn.sem == isa::Sem::ret)
    cpu_.gpr[machine::rsp] -=
        8 + (insn.op[0].kind == isa::OperandKind::immediate ? insn.imm & 0xffff : 0);
  return run_one(cpu_.exit_site);
}

u8* Jit::stale(u32 n) {
  const u32 code = blocks_[n].code;
  cpu_.rip = rip_at(blocks_[n].page_offset);
  const u64 key = key_of(cpu_.rip);
  u8* to = resume(blocks_[n].mode & kModeUnmerged);
  // Nothing but the second jump table may still lead to a block that was retired.
  Instance::SecondJump& known = cpu_.tlb.current->second_jump[Instance::second_jump_index(key)];
  if (known.key == key && known.code == code && (!to || offset_of(to) != code))
    known.generation = 0;
  return to;
}

u8* Jit::load_vectors(u32 n) {
  want_vectors();
  return run_at(blocks_[n].code + blocks_[n].entry);
}

u8* Jit::native_fault(u32) {
  const u32 host = offset_of(reinterpret_cast<const u8*>(cpu_.scratch));
  const u32 region = (host - first_block_at_) / region_size_;
  NativeFault* const end = &faults_[faults_.end(region)];
  NativeFault* f = std::lower_bound(&faults_[faults_.begin(region)], end, host,
                                    [](const NativeFault& a, u32 b) { return a.host < b; });
  SKERRY_CHECK(f != end && f->host == host, "a signal in translated code");
  ++counters.faults;
  if (f->flags_live) cpu_.saved_flags = saved_of_eflags(cpu_.fault_flags);
  // The interpreter runs into the same and says what it is.
  const Site site{f->block, 0, 0, f->at, 0, f->length, false, f->count, false};
  return run_one(site, f->decoded);
}

void Jit::patch_jump(u32 at, u32 target) {
  const u32 rel = target - (at + 4);
  std::memcpy(write_at(at), &rel, 4);
}

}  // namespace skerry::soft
