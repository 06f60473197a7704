// For tests: one or more software vCPUs over 16 MiB of memory, with descriptor tables, page tables
// and an IDT whose handlers are HLTs at known places. No devices: port and MMIO accesses are
// answered by hooks. $SKERRY_TEST_ENGINE=soft,interpreter: on the interpreter;
// $SKERRY_TEST_CODE_CACHE=BYTES: with a code cache of that size.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <string_view>

#include "engine/soft/engine.hpp"
#include "engine/soft/segments.hpp"
#include "engine/soft/testing_cache.hpp"
#include "engine/soft/vcpu.hpp"

namespace skerry::soft {

/// Memory layout of the fixture.
constexpr u64 kGdtAt = 0x1000, kIdtAt = 0x2000, kTssAt = 0x4000, kPagesAt = 0x10000;
constexpr u64 kHandlersAt = 0x8000;  ///< vector v halts at kHandlersAt + 16 * v
constexpr u64 kCodeAt = 0x20000, kStackAt = 0x30000, kInnerStackAt = 0x38000, kIstAt = 0x3c000;
constexpr u64 kMmioAt = 0xd000'0000;

// Selectors of the fixture's GDT.
constexpr u16 kCode64 = 0x08, kData = 0x10, kCode32 = 0x18, kCode16 = 0x20, kUserCode64 = 0x2b,
              kUserData = 0x33, kUserCode32 = 0x3b, kTss = 0x40, kTss2 = 0x50, kGate = 0x60,
              kConforming = 0x70, kTaskGate = 0x78;

class SoftTest : public testing::Test {
 protected:
  explicit SoftTest(unsigned cpus = 1, u64 code_cache = test_code_cache(),
                    bool trace_tables = false) {
    memory = std::move(memory::GuestMemory::create(16 * MiB)).value();
    engine = std::move(create_engine()).value();
    machine::EngineSetup setup;
    setup.memory = memory.get();
    setup.clock = &clock;
    setup.cpuid = engine->supported_cpuid();
    setup.cpus = cpus;
    setup.tsc_hz = 1'000'000'000;
    const char* chosen = std::getenv("SKERRY_TEST_ENGINE");
    setup.interpreter = chosen && std::string_view(chosen) == "soft,interpreter";
    setup.code_cache = code_cache;
    setup.trace_tables = trace_tables;
    EXPECT_TRUE(engine->configure(setup));
    for (unsigned i = 0; i < cpus; ++i)
      vcpus.push_back(std::move(engine->create_vcpu(i, nullptr)).value());
    state.rflags = 2;
    for (unsigned v = 0; v < 256; ++v) put<u8>(kHandlersAt + 16 * v, 0xf4);
  }

  SoftVcpu& vcpu(unsigned i = 0) { return static_cast<SoftVcpu&>(*vcpus[i]); }
  Cpu& cpu(unsigned i = 0) { return vcpu(i).cpu(); }

  template <class T>
  void put(u64 at, T value) {
    ASSERT_TRUE(memory->write_value(at, value));
  }
  template <class T>
  T get(u64 at) {
    auto v = memory->read_value<T>(at);
    EXPECT_TRUE(v);
    return v.value_or(T{});
  }
  void code(u64 at, std::initializer_list<u8> bytes) {
    std::vector<u8> copy(bytes);
    ASSERT_TRUE(memory->write(at, copy));
  }

  // ---- descriptors
  static u64 descriptor(u32 base, u32 limit, u32 attributes) {
    return (u64{limit} & 0xffff) | (u64{base} & 0xffffff) << 16 | u64{attributes & 0xff} << 40 |
           (u64{limit} & 0xf0000) << 32 | u64{attributes & 0xf000} << 40 |
           (u64{base} & 0xff000000) << 32;
  }
  void gdt(u16 selector, u64 value) { put<u64>(kGdtAt + (selector & 0xfff8), value); }
  void make_gdt(bool wide) {
    gdt(kCode64, descriptor(0, 0xfffff, 0xa09b));
    gdt(kData, descriptor(0, 0xfffff, 0xc093));
    gdt(kCode32, descriptor(0, 0xfffff, 0xc09b));
    gdt(kCode16, descriptor(0, 0xffff, 0x009b));
    gdt(kUserCode64, descriptor(0, 0xfffff, 0xa0fb));
    gdt(kUserData, descriptor(0, 0xfffff, 0xc0f3));
    gdt(kUserCode32, descriptor(0, 0xfffff, 0xc0fb));
    gdt(kTss, descriptor(kTssAt, 0x67, 0x0089));
    gdt(kTss + 8, 0);
    gdt(kConforming, descriptor(0, 0xfffff, wide ? 0xa09f : 0xc09f));
  }
  static u64 gate(u32 offset, u16 selector, u8 type, u8 dpl, u8 low = 0) {
    return (offset & 0xffff) | u64{selector} << 16 | u64{low} << 32 |
           u64{static_cast<u8>(0x80 | dpl << 5 | type)} << 40 | (u64{offset} & 0xffff0000) << 32;
  }
  void idt(u8 vector, u64 low) {
    if (long_idt) {
      put<u64>(kIdtAt + vector * 16u, low);
      put<u64>(kIdtAt + vector * 16u + 8, 0);
    } else {
      put<u64>(kIdtAt + vector * 8u, low);
    }
  }
  void make_idt(bool wide) {
    long_idt = wide;
    for (unsigned v = 0; v < 256; ++v)
      idt(static_cast<u8>(v),
          gate(static_cast<u32>(kHandlersAt + 16 * v), wide ? kCode64 : kCode32, 14, 0));
    state.idtr = {kIdtAt, static_cast<u16>(wide ? 4095 : 2047)};
    state.gdtr = {kGdtAt, 0xfff};
  }
  machine::Segment loaded(u16 selector) {
    Descriptor d;
    d.raw = get<u64>(kGdtAt + (selector & 0xfff8));
    return d.segment(selector);
  }
  void segments(u16 code_selector, u16 data_selector) {
    state.seg[machine::cs] = loaded(code_selector);
    for (u8 n : {machine::es, machine::ss, machine::ds, machine::fs, machine::gs})
      state.seg[n] = loaded(data_selector);
  }

  // ---- modes. Each leaves `state` ready; start() loads it.
  void real_mode() {
    for (auto& s : state.seg) s = {0, 0, 0xffff, 0x93};
    state.cr0 = 0x10;
    state.idtr = {0, 0x3ff};
    for (u32 v = 0; v < 256; ++v) put<u32>(v * 4, static_cast<u32>(kHandlersAt + 16 * v));
    state.rip = 0x7000;
    state.gpr[machine::rsp] = 0x6000;
  }
  void protected_mode() {
    make_gdt(false);
    make_idt(false);
    state.cr0 = 0x11;
    segments(kCode32, kData);
    state.tr = loaded(kTss);
    state.tr.attributes |= 2;
    put<u32>(kTssAt + 4, static_cast<u32>(kInnerStackAt));
    put<u32>(kTssAt + 8, kData);
    state.rip = kCodeAt;
    state.gpr[machine::rsp] = kStackAt;
  }
  /// Identity map of the first GiB, 2 MiB pages, user accessible; and the MMIO page.
  void long_mode() {
    make_gdt(true);
    make_idt(true);
    put<u64>(kPagesAt, (kPagesAt + 0x1000) | 7);
    put<u64>(kPagesAt + 0x1000, (kPagesAt + 0x2000) | 7);
    put<u64>(kPagesAt + 0x1000 + 8 * 3, (kPagesAt + 0x3000) | 7);
    for (u64 i = 0; i < 512; ++i) {
      put<u64>(kPagesAt + 0x2000 + 8 * i, i << 21 | 0x87);
      put<u64>(kPagesAt + 0x3000 + 8 * i, ((u64{3} << 30) + (i << 21)) | 0x87);
    }
    state.cr3 = kPagesAt;
    state.cr4 = 0x620;  // PAE, OSFXSR, OSXMMEXCPT
    state.efer = 0xd01;
    state.cr0 = 0x80010011 | 0x20;
    segments(kCode64, kData);
    state.tr = loaded(kTss);
    state.tr.attributes |= 2;
    put<u64>(kTssAt + 4, kInnerStackAt);
    put<u64>(kTssAt + 36, kIstAt);
    state.rip = kCodeAt;
    state.gpr[machine::rsp] = kStackAt;
  }
  /// A 4 KiB mapping of `linear` (below 512 GiB, outside the first and fourth GiB) to `physical`.
  u64 map_page(u64 linear, u64 physical, u64 flags) {
    u64 pdpt = kPagesAt + 0x1000, pd = kPagesAt + 0x4000, pt = kPagesAt + 0x5000;
    put<u64>(pdpt + 8 * ((linear >> 30) & 511), pd | 7);
    put<u64>(pd + 8 * ((linear >> 21) & 511), pt | 7);
    u64 entry = pt + 8 * ((linear >> 12) & 511);
    put<u64>(entry, physical | flags);
    return entry;
  }
  void user() { segments(kUserCode64, kUserData); }

  void start(unsigned i = 0) {
    auto done = vcpu(i).load(state);
    ASSERT_TRUE(done) << (done ? "" : done.error().what);
  }
  /// Runs until something other than port and MMIO accesses, which the hooks answer.
  machine::Exit run(unsigned i = 0, unsigned limit = 10000) {
    for (unsigned n = 0; n < limit; ++n) {
      machine::Exit exit = vcpu(i).run();
      if (auto* port = std::get_if<machine::PortIo>(&exit)) {
        u64 value = on_port ? on_port(*port) : 0;
        if (!port->write) vcpu(i).answer(value);
      } else if (auto* mmio = std::get_if<machine::Mmio>(&exit)) {
        u64 value = on_mmio ? on_mmio(*mmio) : 0;
        if (!mmio->write) vcpu(i).answer(value);
      } else {
        return exit;
      }
    }
    ADD_FAILURE() << "too many exits";
    return machine::Interrupted{};
  }
  /// Runs to a HLT; the address of that HLT.
  u64 run_to_halt(unsigned i = 0) {
    machine::Exit exit = run(i);
    EXPECT_TRUE(std::holds_alternative<machine::Halt>(exit)) << "exit " << exit.index();
    return cpu(i).rip - 1;
  }
  /// Runs, and expects to end in the handler of `vector`.
  void run_to(u8 vector) {
    u64 at = run_to_halt();
    EXPECT_EQ(at, kHandlersAt + 16u * vector) << "vector " << (at - kHandlersAt) / 16;
  }
  u64 reg(u8 n) { return cpu().gpr[n]; }
  template <class T = u64>
  T stack(unsigned n) {
    return get<T>(cpu().gpr[machine::rsp] + n * sizeof(T));
  }

  std::unique_ptr<memory::GuestMemory> memory;
  ManualClock clock;
  std::unique_ptr<machine::Engine> engine;
  std::vector<std::unique_ptr<machine::Vcpu>> vcpus;
  machine::CpuState state;
  bool long_idt = false;
  std::function<u64(const machine::PortIo&)> on_port;
  std::function<u64(const machine::Mmio&)> on_mmio;
};

}  // namespace skerry::soft
