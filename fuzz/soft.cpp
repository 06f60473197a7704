// Any bytes as code at CPL 0 in real, 32-bit and 64-bit mode, over memory whose tables lead
// everywhere. The interpreter must come back within a bounded number of instructions, and be able
// to go on from the state it saves.
#include <array>

#include "engine/soft/engine.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {
namespace {

constexpr u64 kRam = 4 * MiB;
constexpr u64 kGdt = 0x1000, kIdt = 0x2000, kTss = 0x4000, kPages = 0x10000, kHandlers = 0x8000,
              kCode = 0x20000, kStack = 0x30000;

/// Is asked for its timer every thousand blocks: the kick that ends a run comes from there.
class Apic final : public machine::LocalApic {
 public:
  machine::Vcpu* vcpu = nullptr;
  bool interrupting = false;

  bool deliverable() override { return interrupting; }
  std::optional<u8> acknowledge() override {
    interrupting = false;
    return 0x40;
  }
  u64 cr8() const override { return cr8_; }
  void set_cr8(u64 value) override { cr8_ = value; }
  std::optional<u64> read_msr(u32) override { return 0; }
  bool write_msr(u32, u64) override { return true; }
  u64 apic_base() const override { return 0xfee00900; }
  u32 mmio_read(u32 offset) override { return offset; }
  void mmio_write(u32, u32) override {}
  std::optional<Nanos> timer_deadline() override { return 0; }
  void run_timer() override { vcpu->kick(); }
  void init_reset() override {}
  machine::LapicState save() const override { return {}; }
  void load(const machine::LapicState&, u64) override {}

 private:
  u64 cr8_ = 0;
};

struct Guest {
  Guest() {
    memory = std::move(memory::GuestMemory::create(kRam).value());
    engine = std::move(soft::create_engine().value());
    machine::EngineSetup setup;
    setup.memory = memory.get();
    setup.clock = &clock;
    setup.cpuid = engine->supported_cpuid();
    setup.tsc_hz = 1'000'000'000;
    expect(engine->configure(setup).has_value(), "the engine can be configured");
    vcpu = std::move(engine->create_vcpu(0, &apic).value());
    apic.vcpu = vcpu.get();
    original.resize(kRam);
    fill();
    (void)memory->read(0, original);
    (void)memory->dirty().take();
  }
  template <class T>
  void put(u64 at, T value) {
    (void)memory->write_value(at, value);
  }
  static u64 descriptor(u32 attributes) {
    return 0xffff | u64{attributes & 0xff} << 40 | u64{0xf} << 48 | u64{attributes & 0xf000} << 40;
  }

  /// Tables for all modes; real mode's IVT is at 0.
  void fill() {
    // Wherever else code leads it halts: short runs are many runs.
    (void)memory->fill(0, 0xf4, kRam);
    u16 n = 8;
    // 64-bit code, data, 32-bit code, 16-bit code, user code 64, user data, user code 32
    for (u32 a : {0xa09bu, 0xc093u, 0xc09bu, 0x009bu, 0xa0fbu, 0xc0f3u, 0xc0fbu}) {
      put<u64>(kGdt + n, descriptor(a));
      n = static_cast<u16>(n + 8);
    }
    put<u64>(kGdt + 0x40, 0x67 | kTss << 16 | u64{0x89} << 40);
    put<u64>(kGdt + 0x50, 0x18ull << 16 | u64{0xec} << 40);  // a call gate
    for (u32 v = 0; v < 256; ++v) {
      u64 to = kHandlers + 16 * v;
      put<u32>(v * 4, static_cast<u32>(to >> 4 << 16));
      put<u8>(to, 0xcf);  // iret
      put<u64>(kIdt + 16 * v, (to & 0xffff) | 0x8ull << 16 | u64{0x8e00} << 32);
      put<u64>(kIdt + 0x1000 + 8 * v, (to & 0xffff) | 0x18ull << 16 | u64{0x8e00} << 32);
    }
    put<u64>(kTss + 4, kStack);
    // Long mode: RAM, then the same from 1 GiB on as a mixture of odd entries.
    put<u64>(kPages, (kPages + 0x1000) | 7);
    put<u64>(kPages + 8, kPages | 7);  // the tables themselves
    put<u64>(kPages + 0x1000, (kPages + 0x2000) | 7);
    put<u64>(kPages + 0x1008, (kPages + 0x3000) | 7);
    put<u64>(kPages + 0x1010, 0xc000'0087);
    for (u64 i = 0; i < 512; ++i) {
      put<u64>(kPages + 0x2000 + 8 * i, i << 21 | 0x87);
      put<u64>(kPages + 0x3000 + 8 * i, (kPages + 0x4000) | 7);
      put<u64>(kPages + 0x4000 + 8 * i,
               ((i * 4096) % (kRam + 0x8000)) | (i & 7) | (i & 16 ? u64{1} << 63 : 0));
    }
  }
  /// Memory as it was, at the price of the pages that were written.
  void restore() {
    auto words = memory->dirty().take();
    for (size_t w = 0; w < words.size(); ++w)
      for (u64 bits = words[w]; bits; bits &= bits - 1) {
        u64 at = (w * 64 + static_cast<u64>(std::countr_zero(bits))) * 4096;
        if (at < kRam) (void)memory->write(at, std::span(original).subspan(at, 4096));
      }
    (void)memory->dirty().take();
  }

  std::unique_ptr<memory::GuestMemory> memory;
  ManualClock clock;
  std::unique_ptr<machine::Engine> engine;
  Apic apic;
  std::unique_ptr<machine::Vcpu> vcpu;
  std::vector<u8> original;
};

machine::CpuState start_state(unsigned mode) {
  machine::CpuState s;
  s.rflags = 2;
  s.gpr[machine::rsp] = mode == 0 ? 0x6000 : kStack;
  s.rip = mode == 0 ? 0 : kCode;
  auto seg = [](u16 selector, u32 attributes) {
    return machine::Segment{selector, 0, 0xffffffff, attributes};
  };
  switch (mode) {
    case 0:  // real
      for (auto& x : s.seg) x = {0, 0, 0xffff, 0x93};
      s.seg[machine::cs] = {kCode >> 4, kCode, 0xffff, 0x9b};
      s.cr0 = 0x10;
      s.idtr = {0, 0x3ff};
      break;
    case 1:  // 32-bit protected
      for (auto& x : s.seg) x = seg(0x10, 0xc093);
      s.seg[machine::cs] = seg(0x18, 0xc09b);
      s.cr0 = 0x11;
      s.idtr = {kIdt + 0x1000, 2047};
      break;
    default:  // 64-bit
      for (auto& x : s.seg) x = seg(0x10, 0xc093);
      s.seg[machine::cs] = seg(0x08, 0xa09b);
      s.cr3 = kPages;
      s.efer = 0xd01;
      s.cr0 = 0x80010031;
      s.idtr = {kIdt, 4095};
  }
  s.gdtr = {kGdt, 0xfff};
  s.tr = {0x40, kTss, 0x67, 0x8b};
  s.cr4 = mode == 2 ? 0x40620 : 0x40600;  // OSXSAVE, OSFXSR, OSXMMEXCPT
  s.xcr0 = 7;
  return s;
}

void one(Input& input) {
  static Guest guest;
  guest.restore();
  auto mode = input.take<u8>();
  machine::CpuState state = start_state(mode % 3);
  if (mode & 0x40) state.cr4 |= input.take<u32>() & 0x3306ff;  // SMEP, SMAP, UMIP, PCID...
  if (mode & 0x40 && mode % 3 == 1) state.cr4 &= ~u64{0x20};
  if (mode & 0x20)
    for (auto& g : state.gpr) g = input.take<u64>();
  else
    for (unsigned i = 0; i < 16; ++i)
      if (i != machine::rsp) state.gpr[i] = kCode + 0x100 * i;
  if (mode & 0x10) state.rflags |= input.take<u16>() & 0x7fd5;
  if (mode & 8) {  // debug registers
    for (auto& d : state.dr) d = kCode + (input.take<u16>() & 0xfff);
    state.dr7 |= input.take<u32>() & 0xffff03ff;
  }
  (void)guest.memory->write(kCode, input.rest());
  guest.apic.interrupting = mode & 4;
  if (!guest.vcpu->load(state)) return;

  machine::DebugRequest debug;
  debug.single_step = mode & 0x80;
  (void)guest.vcpu->set_debug(debug);
  for (int n = 0; n < 40; ++n) {
    machine::Exit exit = guest.vcpu->run();
    u64 answer = 0x5a5a5a5a5a5a5a5a * static_cast<u64>(n + 1);
    if (auto* port = std::get_if<machine::PortIo>(&exit)) {
      expect(port->size == 1 || port->size == 2 || port->size == 4, "ports are 1, 2 or 4 bytes");
      if (!port->write) guest.vcpu->answer(answer);
    } else if (auto* mmio = std::get_if<machine::Mmio>(&exit)) {
      expect(mmio->size >= 1 && mmio->size <= 8, "a device access has at most 8 bytes");
      if (!mmio->write) guest.vcpu->answer(answer);
    } else if (std::holds_alternative<machine::Shutdown>(exit)) {
      break;
    } else if (std::holds_alternative<machine::Halt>(exit)) {
      guest.apic.interrupting = true;
    } else if (auto* fatal = std::get_if<machine::Fatal>(&exit)) {
      std::fprintf(stderr, "fuzz: %s\n", fatal->text.c_str());
      expect(false, "no guest code is beyond the engine");
    } else if (std::holds_alternative<machine::Interrupted>(exit) && n > 0) {
      break;
    }
    if (n == 3 && !guest.vcpu->mid_instruction()) {
      machine::CpuState now;
      expect(guest.vcpu->save(now).has_value(), "a state can be saved");
      expect(guest.vcpu->load(now).has_value(), "what was saved can be loaded");
    }
  }
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}
