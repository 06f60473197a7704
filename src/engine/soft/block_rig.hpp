// For tests: runs random programs (block_program.hpp) on software vCPUs with equal memory, the
// translator against the interpreter, and compares all that a guest could see.
//
// Four vCPUs: the interpreter and the JIT as they are, from one stop to the next; the interpreter
// and the JIT in exact mode (deterministic.hpp), compared after each block. Faults lead to handlers
// that halt, but for #PF in two pages, whose handler maps them and returns. A thread ends runs that
// take too long; else single-threaded.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "base/clock.hpp"
#include "engine/soft/block_generator.hpp"
#include "engine/soft/engine.hpp"
#include "engine/soft/jit.hpp"
#include "engine/soft/testing_cache.hpp"
#include "engine/soft/thunk.hpp"
#include "engine/soft/vcpu.hpp"

namespace skerry::soft::block_fuzz {

// ---- guest-physical layout; the kernel's part is mapped from kKernel on
constexpr u64 kMemory = 2 * MiB, kKernel = 0xffff'8000'0000'0000;
constexpr u64 kGdtAt = 0x1000, kIdtAt = 0x2000, kTssAt = 0x4000, kIstPage = 0x5000,
              kHandlersAt = 0x8000, kPageFaultAt = 0x9800, kTables = 0x10000;
// Of real and virtual-8086 mode.
constexpr u64 kOldTssAt = 0x4800, kOldIdtAt = 0x3000, kVectorsAt = 0x6000, kRealHandlersAt = 0xa000,
              kOldHandlersAt = 0xb000;
constexpr u64 kOldFrom = kDataGpa - 0x2000, kOldTo = kCodeGpa + 0x14000;
constexpr u16 kOwnCode =
    0x60;  ///< descriptor of the program's code segment, and 8 behind for CPL 3
constexpr u64 kIstTop = kIstPage + 0xff0;
constexpr u8 kReturning = 0x80, kEnd = 0x81;
constexpr u64 kDeviceGpa = 0xd000'0000;

class Side {
 public:
  explicit Side(bool interpreter, u64 code_cache) {
    memory = std::move(memory::GuestMemory::create(kMemory)).value();
    engine = std::move(create_engine()).value();
    machine::EngineSetup setup;
    setup.memory = memory.get();
    setup.clock = &clock;
    setup.cpuid = engine->supported_cpuid();
    setup.tsc_hz = 1'000'000'000;
    setup.interpreter = interpreter;
    setup.code_cache = code_cache;
    SKERRY_CHECK(engine->configure(setup).has_value(), "the engine can be configured");
    made = std::move(engine->create_vcpu(0, nullptr)).value();
    fill();
  }
  SoftVcpu& vcpu() { return static_cast<SoftVcpu&>(*made); }
  Cpu& cpu() { return vcpu().cpu(); }
  Cpu::Core& core() { return *cpu().core; }

  template <class T>
  void put(u64 at, T value) {
    SKERRY_CHECK(memory->write_value(at, value), "in memory");
  }
  void write(u64 at, std::span<const u8> bytes) {
    SKERRY_CHECK(memory->write(at, bytes), "in memory");
  }

  /// The pages a program uses as they are before it.
  void prepare(const Program& p, std::span<const u8> pattern) {
    // Whatever segments of 64 KiB reach, and page tables do not guard.
    if (p.cpu_mode != Program::Mode::wide)
      SKERRY_CHECK(memory->fill(kOldFrom, 0, kOldTo - kOldFrom), "in memory");
    write(kCodeGpa, p.code);
    for (u32 n = 0; n < kDataPages; ++n) write(kDataGpa + n * kPage, pattern.subspan(0, kPage));
    write(kStackGpa, pattern.subspan(kPage, kStackPages * kPage));
    const std::vector<u8> nothing(kPage);
    write(kIstPage, nothing);
    const machine::Segment& s = p.seg[machine::cs];
    const u32 pages = s.limit >> 12;
    const u32 granular = s.limit >> 20 ? 0x8000 : 0;
    const u64 own =
        descriptor((s.attributes & 0x7fff) | granular, granular ? pages : s.limit, s.base);
    for (u16 at : {kOwnCode, u16{kOwnCode + 8}}) put<u64>(kGdtAt + at, own);
    tables();
  }

  machine::CpuState start_state(const Program& p, const machine::CpuState& from) {
    machine::CpuState s = from;
    store<u64>(&s.xsave[512], supported_vector_features().xcr0);
    s.cr0 = 0x8005'0033;
    s.cr3 = kTables;
    s.cr4 = 0x50620;  // PAE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE
    if (p.smap) s.cr4 |= 1 << 21;
    s.efer = 0xd01;
    s.xcr0 = supported_vector_features().xcr0;
    s.gdtr = {kKernel + kGdtAt, 0xff};
    s.idtr = {kKernel + kIdtAt, 4095};
    s.tr = {0x40, kKernel + kTssAt, 0x67, 0x8b};
    auto segment = [](u16 selector, u32 attributes, u64 base = 0) {
      return machine::Segment{selector, base, 0xffff'ffff, attributes};
    };
    const bool user = p.user;
    s.seg.fill(user ? segment(0x23, 0xc0f3) : segment(0x10, 0xc093));
    s.seg[machine::cs] = user ? segment(0x2b, 0xa0fb) : segment(0x08, 0xa09b);
    s.seg[machine::fs].base = kFsBase;
    s.seg[machine::gs].base = kGsBase;
    if (p.bits != 64) s.seg = p.seg;
    if (p.code_base)
      s.seg[machine::cs].selector = static_cast<u16>(user ? (kOwnCode + 8) | 3 : kOwnCode);
    s.kernel_gs_base = data_page(kSecond);
    s.star = u64{0x18} << 48 | u64{0x08} << 32;
    s.lstar = kKernel + kHandlersAt + 0x1700;
    s.sfmask = 0x47700;
    if (p.cpu_mode != Program::Mode::wide) old_state(s, p.cpu_mode);
    return s;
  }

  std::unique_ptr<memory::GuestMemory> memory;
  ManualClock clock;
  std::unique_ptr<machine::Engine> engine;
  std::unique_ptr<machine::Vcpu> made;

 private:
  /// Without paging: linear addresses are physical ones.
  static void old_state(machine::CpuState& s, Program::Mode mode) {
    const bool v86 = mode == Program::Mode::v86;
    s.cr0 = v86 ? 0x33 : 0x32;
    s.efer = 0;
    for (u8 n = 0; n < 6; ++n) {
      u64& base = s.seg[n].base;
      base = n == machine::cs   ? base - kCode + kCodeGpa
             : n == machine::ss ? base - kStack + kStackGpa
                                : base - kData + kDataGpa;
      s.seg[n].selector = static_cast<u16>(base >> 4);
    }
    s.idtr = {kVectorsAt, 0x3ff};
    if (!v86) return;
    s.rflags |= VM | IOPL;
    s.gdtr = {kGdtAt, 0xff};
    s.idtr = {kOldIdtAt, 2047};
    s.tr = {0x40, kOldTssAt, 0x67, 0x8b};
  }
  void old_tables() {
    put<u32>(kOldTssAt + 4, static_cast<u32>(kIstTop));
    put<u32>(kOldTssAt + 8, 0x10);
    for (u32 v = 0; v < 256; ++v) {
      put<u32>(kVectorsAt + 4 * v, static_cast<u32>(kRealHandlersAt >> 4 << 16 | 16 * v));
      const u64 to = kOldHandlersAt + 16 * v;
      put<u64>(kOldIdtAt + 8 * v, to | u64{0x38} << 16 | u64{0xee} << 40);
      for (u64 at : {kRealHandlersAt, kOldHandlersAt})
        put<u8>(at + 16 * v, v == kReturning ? 0xcf : 0xf4);
    }
  }
  static u64 descriptor(u32 attributes, u32 limit = 0xfffff, u64 base = 0) {
    return (limit & 0xffff) | u64{attributes & 0xff} << 40 | u64{limit & 0xf0000} << 32 |
           u64{attributes & 0xf000} << 40 | (base & 0xff'ffff) << 16 | (base >> 24 & 0xff) << 56;
  }
  void code(u64 at, std::initializer_list<int> bytes) {
    for (int b : bytes) put<u8>(at++, static_cast<u8>(b));
  }
  void fill() {
    put<u64>(kGdtAt + 0x08, descriptor(0xa09b));
    put<u64>(kGdtAt + 0x10, descriptor(0xc093));
    put<u64>(kGdtAt + 0x20, descriptor(0xc0f3));
    put<u64>(kGdtAt + 0x28, descriptor(0xa0fb));
    put<u64>(kGdtAt + 0x30, descriptor(0xc0fb));
    put<u64>(kGdtAt + 0x38, descriptor(0xc09b));
    put<u64>(kGdtAt + 0x50, descriptor(0xc0f3, data_page(kThird) >> 12));
    put<u64>(kGdtAt + 0x58, descriptor(0xc0f1));
    put<u64>(kTssAt + 4, kKernel + kIstTop);
    put<u64>(kTssAt + 36, kKernel + kIstTop);
    for (u32 v = 0; v < 256; ++v) {
      const u64 to = kKernel + kHandlersAt + 16 * v;
      put<u8>(kHandlersAt + 16 * v, 0xf4);
      const u64 dpl = v == kReturning || v == kEnd ? 3 : 0;
      put<u64>(kIdtAt + 16 * v, (to & 0xffff) | u64{8} << 16 | u64{1} << 32 |
                                    (0x8e | dpl << 5) << 40 | (to & 0xffff'0000) << 32);
      put<u64>(kIdtAt + 16 * v + 8, to >> 32);
    }
    code(kHandlersAt + 16 * kReturning, {0x48, 0xcf});  // iretq
    code(kHandlersAt + 0x1700, {0x48, 0x0f, 0x07});     // sysretq
    const u64 handler = kHandlersAt + 16 * PF;
    code(handler, {0xe9});
    put<u32>(handler + 1, static_cast<u32>(kPageFaultAt - (handler + 5)));
    // push rax; mov rax, cr2; shr rax, 12
    u64 at = kPageFaultAt;
    auto emit = [&](std::initializer_list<int> bytes) {
      code(at, bytes);
      at += bytes.size();
    };
    emit({0x50, 0x0f, 0x20, 0xd0, 0x48, 0xc1, 0xe8, 0x0c});
    for (u32 page : {kLazy, kLate}) {
      // cmp rax, page; jne over; mov rax, address of its entry; test byte [rax], 1; jnz halt;
      // or byte [rax], present; pop rax; lea rsp, [rsp + 8]; iretq
      emit({0x48, 0x3d});
      put<u32>(at, static_cast<u32>(data_page(page) >> 12));
      at += 4;
      emit({0x75, 0x1a, 0x48, 0xb8});
      put<u64>(at, kKernel + entry(data_page(page)));
      at += 8;
      emit({0xf6, 0x00, 0x01, 0x75, 0x0b, 0x80, 0x08, 0x01, 0x58, 0x48, 0x8d, 0x64, 0x24, 0x08,
            0x48, 0xcf});
    }
    emit({0x58, 0xf4});
    tables();
    old_tables();
  }
  static u64 entry(u64 linear) {
    const u64 table = linear >> 28 == kCode >> 28   ? 0x4000
                      : linear >> 28 == kData >> 28 ? 0x5000
                                                    : 0x6000;
    return kTables + table + 8 * (linear >> 12 & 511);
  }
  void tables() {
    put<u64>(kTables, (kTables + 0x1000) | 7);
    put<u64>(kTables + 8 * 256, (kTables + 0x2000) | 3);
    put<u64>(kTables + 0x2000, (kTables + 0x3000) | 3);
    put<u64>(kTables + 0x3000, 0x83);
    put<u64>(kTables + 0x1000 + 8, (kTables + 0x7000) | 7);
    for (u64 base : {kCode, kData, kStack})
      put<u64>(kTables + 0x7000 + 8 * (base >> 21 & 511), (entry(base) & ~u64{0xfff}) | 7);
    for (u64 i = 0; i < kCodePages; ++i) put<u64>(entry(kCode) + 8 * i, (kCodeGpa + i * kPage) | 7);
    // What is executed elsewhere is not what was analysed.
    constexpr u64 kNoExecute = u64{1} << 63;
    for (u64 i = 0; i < kStackPages; ++i)
      put<u64>(entry(kStack) + 8 * i, (kStackGpa + i * kPage) | kNoExecute | 7);
    for (u32 n = 0; n < kDataPages; ++n) {
      u64 to = (kDataGpa + n * kPage) | 7;
      switch (n) {
        case kReadOnly: to &= ~u64{2}; break;
        case kAbsent: to = 0; break;
        case kLazy: to &= ~u64{1}; break;
        case kLate: to &= ~u64{3}; break;
        case kSupervisor: to &= ~u64{4}; break;
        case kAlias: to = kCodeGpa | 7; break;
        case kDevice: to = kDeviceGpa | 7; break;
        default: break;
      }
      put<u64>(entry(data_page(n)), to | kNoExecute);
    }
  }
};

/// What is wrong; empty: nothing.
using Failure = std::string;

class Rig {
 public:
  explicit Rig(u64 code_cache = test_code_cache())
      : pattern_(3 * kPage),
        interpreter_(true, 0),
        jit_(false, code_cache),
        stepped_(true, 0),
        exact_(false, code_cache),
        small_(code_cache != 0) {
    Random r(1);
    for (size_t i = 0; i < pattern_.size(); i += 8)
      store<u64>(&pattern_[i], r.chance(30) ? data_page(kFirst) + r.below(0x1000) : r.next());
    watchdog_ = std::thread([this] { watch(); });
  }
  ~Rig() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    watchdog_.join();
  }

  const isa::FeatureSet& features() { return interpreter_.core().shared.features; }
  u64 runs = 0, steps = 0, discarded = 0, faults = 0, instructions = 0;

  /// For tests: what compare() says after the JIT's vCPU was meddled with.
  bool differs_after_a_change() {
    Side &a = interpreter_, &b = jit_;
    if (!compare(a, b, kArithmeticFlags, kArithmeticFlags, true).empty()) return false;
    auto seen = [&](auto change) {
      change();
      const bool differs = !compare(a, b, kArithmeticFlags, kArithmeticFlags, true).empty();
      change();  // undoes it
      return differs;
    };
    return seen([&] { b.cpu().gpr[machine::r15] ^= 1; }) &&
           seen([&] { b.cpu().s.xsave[160 + 16 * 15] ^= 1; }) &&
           seen([&] { *b.memory->host(kDataGpa + kLast * kPage + 4095, 1) ^= 1; }) &&
           seen([&] { b.cpu().rip ^= 1; });
  }

  /// Of regions of the code caches.
  u64 evictions() {
    return jit_.core().jit->counters.evictions + exact_.core().jit->counters.evictions;
  }

  /// Runs it; a program that does not end is given up (and is no failure).
  Failure test(Program& p) {
    if (!small_ && ++programs_ % 256 == 0) {
      jit_.core().jit->flush();
      exact_.core().jit->flush();
    }
    mode_ = p.cpu_mode;
    for (Side* s : {&interpreter_, &jit_, &stepped_, &exact_}) s->prepare(p, pattern_);
    for (size_t i = 0; i < p.runs.size(); ++i) {
      bool ended = true;
      Failure f = run(p, p.runs[i], ended);
      if (f.empty() && ended && p.step) f = step(p, p.runs[i]);
      if (!f.empty()) return fmt::format("run {}: {}", i, f);
      if (!ended) {
        ++discarded;
        break;
      }
    }
    return {};
  }

 private:
  static constexpr u64 kLimit = 4000;  ///< instructions

  /// Until something other than a device access happens.
  machine::Exit go(Side& s) {
    for (u32 n = 0; n < 3000; ++n) {
      machine::Exit exit = s.vcpu().run();
      if (auto* mmio = std::get_if<machine::Mmio>(&exit)) {
        if (!mmio->write) s.vcpu().answer((mmio->at + 1) * 0x0101'0305'0911'2141);
      } else {
        return exit;
      }
    }
    return machine::Fatal{"too many exits"};
  }

  Failure run(const Program& p, const machine::CpuState& from, bool& ended) {
    Side &a = interpreter_, &b = jit_;
    load(a, p, from);
    load(b, p, from);
    a.core().stop_at = a.core().position() + kLimit;
    const u64 before = a.core().instructions;
    const machine::Exit x = go(a);
    ++runs;
    instructions += a.core().instructions - before;
    ended = !std::holds_alternative<machine::Interrupted>(x) &&
            !std::holds_alternative<machine::Fatal>(x) &&
            p.only_meant_changes({a.memory->host(kCodeGpa, p.code.size()), p.code.size()});
    if (!ended) return {};
    guard(&b);
    const machine::Exit y = go(b);
    guard(nullptr);
    if (x.index() != y.index())
      return fmt::format("exit {} on the interpreter, {} on the JIT", x.index(), y.index());
    const bool fault = faulted(a);
    faults += fault;
    // Known: jumps to an address that is not canonical fault behind the jump on the JIT.
    if (fault && !canonical(frame_rip(b))) {
      ended = false;
      return {};
    }
    u64 mask = fault ? kArithmeticFlags : p.undefined_at(p.code_base + end_rip(a));
    Failure f = compare(a, b, mask, kArithmeticFlags, true);
    forget_frames(a, b);
    return f;
  }

  // Block by block.
  Failure step(const Program& p, const machine::CpuState& from) {
    Side &a = stepped_, &b = exact_;
    load(a, p, from);
    load(b, p, from);
    const u64 start_a = a.core().position(), start_b = b.core().position();
    b.core().stop_at = start_b + 20 * kLimit;
    b.core().single_block = true;
    for (u32 n = 0; n < 3 * kLimit; ++n) {
      const u64 was = b.core().position(), rip = b.cpu().rip;
      guard(&b);
      const machine::Exit y = go(b);
      guard(nullptr);
      const u64 moved = b.core().position();
      const bool on = std::holds_alternative<machine::Interrupted>(y);
      if (on && moved == was) return fmt::format("no progress in exact mode at {:x}", rip);
      // HLT counts when it is over; a stop behind what it halted at would not be reached.
      a.core().stop_at = start_a + (moved - start_b) + (on ? 0 : 10);
      ++steps;
      const machine::Exit x = go(a);
      const u64 done_a = a.core().position() - start_a, done_b = moved - start_b;
      if (x.index() != y.index() || done_a != done_b)
        return fmt::format(
            "exact mode, block at {:x}: exit {} after {} on the interpreter, {} after {} on the "
            "JIT",
            rip, x.index(), done_a, y.index(), done_b);
      if (faulted(a) && !canonical(frame_rip(b))) return {};
      const u64 mask = !on ? p.undefined_at(p.code_base + (faulted(a) ? frame_rip(a) : end_rip(a)))
                       : in_handler(a) ? kArithmeticFlags
                                       : p.undefined_at(p.code_base + a.cpu().rip);
      Failure f = compare(a, b, mask, p.undefined_in_frame(p.code_base + frame_rip(a)),
                          !on || moved % 8 == 0);
      if (!f.empty()) return fmt::format("exact mode, block at {:x}:\n{}", rip, f);
      if (!on) {
        forget_frames(a, b);
        return {};
      }
    }
    return "exact mode does not end";
  }

  static void load(Side& s, const Program& p, const machine::CpuState& from) {
    s.core().stop_at = Cpu::Core::kNoStop;
    s.core().single_block = false;
    const auto done = s.vcpu().load(s.start_state(p, from));
    SKERRY_CHECK(done.has_value(), "a state that can be loaded");
  }
  bool in_handler(Side& s) const {
    switch (mode_) {
      case Program::Mode::real: return s.cpu().seg[machine::cs].selector == kRealHandlersAt >> 4;
      case Program::Mode::v86: return !s.cpu().v86;
      default: return s.cpu().rip >= kKernel;
    }
  }
  /// Where the last exception left something; in real mode on the program's stack.
  u64 in_frame(Side& s, u64 wide, u64 v86, u64 real) const {
    if (mode_ == Program::Mode::v86) return kIstTop - v86;
    if (mode_ == Program::Mode::wide) return kIstTop - wide;
    return s.cpu().seg_base[machine::ss] + static_cast<u16>(s.cpu().gpr[machine::rsp] + real);
  }
  u64 frame_rip(Side& s) const {
    const u64 size = mode_ == Program::Mode::wide ? 8 : mode_ == Program::Mode::v86 ? 4 : 2;
    const u64 at = in_frame(s, 40, 36, 0);
    return skerry::load<u64>(s.memory->host(at, 8)) & byte_mask(size);
  }
  /// Halted in another handler than that of the end.
  bool faulted(Side& s) const {
    const u64 handlers = mode_ == Program::Mode::wide  ? kKernel + kHandlersAt
                         : mode_ == Program::Mode::v86 ? kOldHandlersAt
                                                       : 0;
    return in_handler(s) && s.cpu().rip != handlers + 16 * kEnd + 1;
  }
  u64 end_rip(Side& s) const { return in_handler(s) ? frame_rip(s) - 2 : s.cpu().rip - 1; }

  /// Dead flags in the image on a program's stack must not be there in the next run.
  void forget_frames(Side& a, Side& b) {
    if (mode_ != Program::Mode::real || !in_handler(a)) return;
    for (Side* s : {&a, &b}) s->put<u16>(in_frame(*s, 0, 0, 4), 0);
  }

  /// `flags`: not compared in RFLAGS; `frame`: nor in the last frame of an exception.
  Failure compare(Side& a, Side& b, u64 flags, u64 frame, bool memory) {
    std::string out;
    Cpu &x = a.cpu(), &y = b.cpu();
    auto differ = [&](std::string_view name, u64 u, u64 v) {
      if (u != v) out += fmt::format("    {:16} interpreter {:016x}  JIT {:016x}\n", name, u, v);
    };
    static constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                               "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                               "r12", "r13", "r14", "r15"};
    for (u32 i = 0; i < 16; ++i) differ(kNames[i], x.gpr[i], y.gpr[i]);
    differ("rip", x.rip, y.rip);
    differ("rflags", x.eflags() & ~flags, y.eflags() & ~flags);
    differ("cr2", x.s.cr2, y.s.cr2);
    differ("cpl", x.cpl, y.cpl);
    differ("shadow", x.s.interrupt_shadow, y.s.interrupt_shadow);
    differ("dr6", x.s.dr6, y.s.dr6);
    differ("kernel gs base", x.s.kernel_gs_base, y.s.kernel_gs_base);
    for (u32 i = 0; i < 6; ++i) {
      differ(fmt::format("base of {}", i), x.seg[i].base, y.seg[i].base);
      differ(fmt::format("selector of {}", i), x.seg[i].selector, y.seg[i].selector);
    }
    // Not FOP and the pointers, which processors keep as they like; XSTATE_BV may say "in use" of
    // what is in its initial state.
    differ("x87 tags", x.s.xsave[4], y.s.xsave[4]);
    static constexpr std::pair<u32, u32> kAreas[] = {
        {0, 4}, {24, 4}, {32, 128}, {160, 256}, {576, 256}, {1088, 64}, {1152, 512}, {1664, 1024}};
    for (auto [at, size] : kAreas)
      for (u32 i = at; i < at + size; i += 4)
        differ(fmt::format("xsave+{:#x}", i), skerry::load<u32>(&x.s.xsave[i]),
               skerry::load<u32>(&y.s.xsave[i]));
    if (memory) compare_memory(a, b, frame, out);
    return out;
  }

  void compare_memory(Side& a, Side& b, u64 frame, std::string& out) {
    u32 lines = 0;
    auto page = [&](u64 at, u64 ignore = 0) {
      const u8 *u = a.memory->host(at, kPage), *v = b.memory->host(at, kPage);
      if (std::memcmp(u, v, kPage) == 0) return;
      // The image of the flags.
      std::array<u8, kPage + 8> x{}, y{};
      std::memcpy(x.data(), u, kPage);
      std::memcpy(y.data(), v, kPage);
      const u64 flags = in_frame(a, 24, 28, 4);
      if ((mode_ != Program::Mode::real || in_handler(a)) && flags - at < kPage)
        for (std::array<u8, kPage + 8>* p : {&x, &y})
          store<u16>(&(*p)[flags - at],
                     static_cast<u16>(skerry::load<u16>(&(*p)[flags - at]) & ~frame));
      u = x.data(), v = y.data();
      for (u64 i = 0; i < kPage && lines < 8; i += 8) {
        u64 p = skerry::load<u64>(u + i), q = skerry::load<u64>(v + i);
        p &= ~ignore, q &= ~ignore;
        if (ignore) p |= q & 0x40;
        if (p == q) continue;
        ++lines;
        out += fmt::format("    gpa {:x}       interpreter {:016x}  JIT {:016x}\n", at + i, p, q);
      }
    };
    for (u64 n = 0; n < kCodePages; ++n) page(kCodeGpa + n * kPage);
    for (u64 n = 0; n < kDataPages; ++n) page(kDataGpa + n * kPage);
    for (u64 n = 0; n < kStackPages; ++n) page(kStackGpa + n * kPage);
    page(kIstPage);
    // "Accessed" and "dirty" may be set before a fault or not.
    for (u64 t : {0x4000, 0x5000, 0x6000}) page(kTables + t, 0x20);
  }

  // ---- the watchdog
  void guard(Side* s) {
    ++guard_number_;
    guarded_.store(s, std::memory_order_seq_cst);
  }
  void watch() {
    u64 last = 0;
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::seconds(1), [&] { return stop_; })) {
      const u64 now = guard_number_.load();
      if (Side* s = guarded_.load(); s && now == last) s->vcpu().kick();
      last = now;
    }
  }

  std::vector<u8> pattern_;
  Side interpreter_, jit_, stepped_, exact_;
  const bool small_;  ///< code caches that are full after some programs
  u64 programs_ = 0;
  Program::Mode mode_ = Program::Mode::wide;
  std::atomic<u64> guard_number_{0};
  std::atomic<Side*> guarded_{nullptr};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread watchdog_;
};

/// Leaves out whatever the failure does not need. `fails` runs a program anew.
template <class Fails>
Program minimise(Program p, Fails fails) {
  auto attempt = [&](Program q) {
    if (!q.lay_out() || !q.flags_defined() || !fails(q)) return false;
    p = std::move(q);
    return true;
  };
  for (size_t n = p.runs.size(); n-- > 0 && p.runs.size() > 1;) {
    Program q = p;
    q.runs.erase(q.runs.begin() + static_cast<i64>(n));
    attempt(std::move(q));
  }
  for (size_t chunk = std::max<size_t>(1, p.items.size() / 4);; chunk /= 2) {
    for (bool again = true; again;) {
      again = false;
      for (size_t i = 0; i < p.items.size(); i += chunk) {
        Program q = p;
        bool any = false;
        for (size_t k = i; k < std::min(i + chunk, q.items.size()); ++k)
          if (q.items[k].on && q.items[k].leads != Item::Leads::stop)
            q.items[k].on = false, any = true;
        if (any && attempt(std::move(q))) again = chunk == 1;
      }
    }
    if (chunk == 1) return p;
  }
}

/// The failure of a program, made small, for people.
inline std::string report(const Program& p) {
  Program small = minimise(p, [](Program& q) { return !Rig().test(q).empty(); });
  Rig rig;
  Failure f = rig.test(small);
  std::string out;
  if (f.empty()) {
    out = "(not when run alone)\n";
    small = p;
  }
  return out + small.whole_text() + f + "\n";
}

}  // namespace skerry::soft::block_fuzz
