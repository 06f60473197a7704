// Speed of the software engine on small loops, in millions of guest instructions per second, beside
// the same loops on the host CPU: 32-bit code and the same bytes as 16-bit code, each translated
// and interpreted. Medians of five runs; a ratio within one run is what counts.
//
//   build/release/bin/bench_soft
#include <sys/mman.h>
#include <algorithm>
#include <cstdio>
#include <vector>

#include "engine/soft/engine.hpp"

namespace {

using namespace skerry;

struct Loop {
  const char* name;
  unsigned instructions;  ///< per round
  std::vector<u8>
      body;  ///< means much the same in all modes; leaves ECX and the stack pointer alone
};

// EBX points to 4 KiB of data.
const Loop kLoops[] = {
    {"integer",
     8,
     {0x01, 0xd0, 0x31, 0xc2, 0xc1, 0xc0, 0x05, 0x83, 0xc2, 0x07, 0x39, 0xd0, 0x89, 0xc6}},
    {"loads and stores", 6, {0x8b, 0x03, 0x03, 0x43, 0x08, 0x89, 0x43, 0x10, 0x89, 0x53, 0x18}},
    {"multiply, shift", 5, {0x0f, 0xaf, 0xc2, 0xc1, 0xe8, 0x03, 0x8d, 0x47, 0x01}},
};
constexpr u64 kCode = 0x1000, kData = 0x20'0000;

double seconds(Nanos ns) {
  return static_cast<double>(ns) / 1e9;
}

/// body; dec ecx; jnz body; out 1, al
std::vector<u8> program(const Loop& loop, bool native, bool bits16 = false) {
  std::vector<u8> code = loop.body;
  if (bits16) code.push_back(0x66);
  code.insert(code.end(), {0xff, 0xc9, 0x0f, 0x85});
  const int size = bits16 ? 2 : 4;
  i32 back = -static_cast<i32>(code.size()) - size;
  for (int i = 0; i < size; ++i) code.push_back(static_cast<u8>(back >> (8 * i)));
  if (native) {
    code.push_back(0xc3);
  } else {
    code.insert(code.end(), {0xe6, 0x01});
  }
  return code;
}

machine::CpuState flat(u64 rounds, bool bits16) {
  machine::CpuState s;
  s.cr0 = 0x11;
  for (auto& seg : s.seg) seg = {0x10, 0, 0xffffffff, 0xc093};
  s.seg[machine::cs] = {8, 0, 0xffffffff, bits16 ? 0x809bu : 0xc09bu};
  s.gpr[machine::rbp] = 0x3000;  // what EBX is, to 16-bit code
  s.rip = kCode;
  s.gpr[machine::rsp] = 0x8000;
  s.gpr[machine::rcx] = rounds;
  s.gpr[machine::rbx] = kData;
  s.gpr[machine::rdx] = 12345;
  return s;
}

Nanos run_soft(const Loop& loop, u32 rounds, bool interpreter, bool bits16) {
  static HostClock clock;
  auto engine = std::move(soft::create_engine()).value();
  auto memory = std::move(memory::GuestMemory::create(4 * MiB)).value();
  machine::EngineSetup setup;
  setup.memory = memory.get();
  setup.clock = &clock;
  setup.cpuid = engine->supported_cpuid();
  setup.tsc_hz = host_tsc_hz();
  setup.interpreter = interpreter;
  SKERRY_CHECK(engine->configure(setup).has_value());
  auto vcpu = std::move(engine->create_vcpu(0, nullptr)).value();
  SKERRY_CHECK(memory->write(kCode, program(loop, false, bits16)));
  SKERRY_CHECK(vcpu->load(flat(rounds, bits16)).has_value());
  Nanos began = HostClock::monotonic();
  while (!std::holds_alternative<machine::PortIo>(vcpu->run())) {
  }
  return HostClock::monotonic() - began;
}

Nanos run_native(const Loop& loop, u32 rounds) {
  static u8 data[4096];
  std::vector<u8> code = program(loop, true);
  void* at =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SKERRY_CHECK(at != MAP_FAILED);
  std::copy(code.begin(), code.end(), static_cast<u8*>(at));
  u8* base = data;
  Nanos began = HostClock::monotonic();
  // In 64-bit mode [ebx] would need an address-size prefix; [rbx] is the same encoding.
  asm volatile("call *%2"
               : "+c"(rounds)
               : "b"(base), "r"(at)
               : "rax", "rdx", "rsi", "memory", "cc");
  Nanos took = HostClock::monotonic() - began;
  ::munmap(at, 4096);
  return took;
}

template <class F>
Nanos median(F f) {
  std::vector<Nanos> runs;
  for (int i = 0; i < 5; ++i) runs.push_back(f());
  std::ranges::sort(runs);
  return runs[2];
}

}  // namespace

int main() {
  std::printf("%-20s %8s %12s %12s %12s %12s\n", "loop, million/s", "host", "32: JIT",
              "interpreter", "16: JIT", "interpreter");
  for (const Loop& loop : kLoops) {
    constexpr u32 kRounds = 5'000'000;
    const double total = static_cast<double>(loop.instructions) * kRounds / 1e6;
    auto soft = [&](bool interpreter, bool bits16) {
      return total / seconds(median([&] { return run_soft(loop, kRounds, interpreter, bits16); }));
    };
    const double host = total / seconds(median([&] { return run_native(loop, kRounds); }));
    std::printf("%-20s %8.0f %12.0f %12.0f %12.0f %12.0f\n", loop.name, host, soft(false, false),
                soft(true, false), soft(false, true), soft(true, true));
  }
}
