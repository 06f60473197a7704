// KVM's paravirtual clock (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and
// MSR_KVM_WALL_CLOCK_NEW): guest time as a function of the TSC, in a page that the guest names.
//
// The TSC is the host's plus a constant and never changes its rate, so the page is written once,
// when the guest asks, and marked as stable over all vCPUs.
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

struct TimeInfo {
  u32 version;
  u32 pad0;
  u64 tsc_timestamp;
  u64 system_time;
  u32 tsc_to_system_mul;
  i8 tsc_shift;
  u8 flags;
  u8 pad[2];
};
static_assert(sizeof(TimeInfo) == 32);
constexpr u8 kTscStable = 1;

struct WallClock {
  u32 version, seconds, nanoseconds;
};

/// ns = (tsc << shift) * mul >> 32, with the largest multiplier below 2^32.
void scale(u64 hz, u32& mul, i8& shift) {
  constexpr u64 kSecond = 1'000'000'000;
  if (hz == 0) hz = kSecond;
  i8 s = 0;
  u64 rate = hz;
  while (rate > 2 * kSecond) {
    rate >>= 1;
    --s;
  }
  while (rate <= kSecond && s < 31) {
    rate <<= 1;
    ++s;
  }
  // mul = 10^9 * 2^32 / (hz * 2^s), with what the shifts lost put back.
  u128 numerator = static_cast<u128>(kSecond) << 32;
  u128 denominator = s >= 0 ? static_cast<u128>(hz) << s : static_cast<u128>(hz);
  if (s < 0) numerator <<= -s;
  mul = static_cast<u32>(numerator / denominator);
  shift = s;
}

/// The moment that the pages are written for, moved if the Clock has left the line.
void align_line(Shared& shared) {
  const Nanos now = shared.setup.clock->now();
  const u64 tsc = shared.setup.clock->ticks();
  if (shared.kvmclock_now >= 0) {
    i128 expected = shared.kvmclock_now + static_cast<i128>(tsc - shared.kvmclock_tsc) *
                                              1'000'000'000 /
                                              static_cast<i128>(shared.setup.tsc_hz);
    i128 error = expected - now;
    if (error < 1'000'000 && error > -1'000'000) return;
  }
  shared.kvmclock_tsc = tsc;
  shared.kvmclock_now = now;
  ++shared.kvmclock_line;
}

void fill_page(Cpu& cpu) {
  Cpu::Core& core = *cpu.core;
  Shared& shared = core.shared;
  if (!shared.setup.clock || !(cpu.s.kvmclock_system & 1)) return;
  const u64 at = cpu.s.kvmclock_system & ~u64{1};
  auto old = core.memory.read_value<u32>(at);
  if (!old) return;
  TimeInfo info{};
  {
    std::lock_guard lock(shared.kvmclock_mutex);
    align_line(shared);
    core.kvmclock_line = shared.kvmclock_line;
    info.tsc_timestamp = shared.kvmclock_tsc + core.tsc_offset;
    info.system_time = static_cast<u64>(shared.kvmclock_now);
  }
  scale(shared.setup.tsc_hz, info.tsc_to_system_mul, info.tsc_shift);
  info.flags = kTscStable;
  // An odd version while it changes, then an even one.
  info.version = *old | 1;
  const u32 version = info.version + 1;
  if (!core.memory.write_value(at, info.version) || !core.memory.write_value(at, info)) return;
  std::atomic_thread_fence(std::memory_order_release);
  (void)core.memory.write_value(at, version);
}

}  // namespace

void write_kvmclock_system(Cpu& cpu, u64 value) {
  cpu.s.kvmclock_system = value;
  fill_page(cpu);
}

void write_kvmclock_wall(Cpu& cpu, u64 value) {
  cpu.s.kvmclock_wall = value;
  Cpu::Core& core = *cpu.core;
  const Clock* clock = core.shared.setup.clock;
  if (!clock) return;
  // The wall clock at the moment when the system time was 0.
  u64 boot = static_cast<u64>(clock->wall() - clock->now());
  auto old = core.memory.read_value<u32>(value & ~u64{1});
  if (!old) return;
  WallClock wall{(*old | 1) + 1, static_cast<u32>(boot / 1'000'000'000),
                 static_cast<u32>(boot % 1'000'000'000)};
  (void)core.memory.write_value(value & ~u64{1}, wall);
}

}  // namespace skerry::soft::system

namespace skerry::soft {

void Cpu::Core::check_clock() {
  clock_check = false;
  pv.resume();
  if (!(cpu.s.kvmclock_system & 1) || !shared.setup.clock) return;
  bool moved;
  {
    std::lock_guard lock(shared.kvmclock_mutex);
    system::align_line(shared);
    moved = shared.kvmclock_line != kvmclock_line;
  }
  if (moved) system::fill_page(cpu);
}

}  // namespace skerry::soft
