// CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC; NOPs and hints; BOUND, XLAT; RDRAND, RDSEED; CLFLUSH
// and kin; UD0, UD1, UD2.
#include <sys/random.h>

#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

Flow clc(Cpu& cpu, const Op&) {
  set_cf(cpu.flags, false);
  return Flow::next;
}
Flow stc(Cpu& cpu, const Op&) {
  set_cf(cpu.flags, true);
  return Flow::next;
}
Flow cmc(Cpu& cpu, const Op&) {
  set_cf(cpu.flags, !cf(cpu.flags));
  return Flow::next;
}
Flow cld(Cpu& cpu, const Op&) {
  cpu.rflags &= ~u64{DF_};
  return Flow::next;
}
Flow std_(Cpu& cpu, const Op&) {
  cpu.rflags |= DF_;
  return Flow::next;
}

constexpr u64 kAhFlags = SF | ZF | AF | PF_ | CF;
constexpr u8 kAh = 1;

Flow lahf(Cpu& cpu, const Op&) {
  put<u8>(cpu, kAh, static_cast<u8>((to_eflags(cpu.flags) & kAhFlags) | 2));
  return Flow::next;
}
Flow sahf(Cpu& cpu, const Op&) {
  from_eflags(cpu.flags, (to_eflags(cpu.flags) & OF_) | (get<u8>(cpu, kAh) & kAhFlags));
  return Flow::next;
}
Flow salc(Cpu& cpu, const Op&) {
  put<u8>(cpu, 0, cf(cpu.flags) ? 0xff : 0);
  return Flow::next;
}

Flow nop(Cpu&, const Op&) {
  return Flow::next;
}
Flow pause(Cpu&, const Op&) {
  __builtin_ia32_pause();
  return Flow::next;
}

/// BOUND r, m&m: lower and upper limit, both signed, both inclusive.
template <class T>
Flow bound(Cpu& cpu, const Op& op) {
  T low, high;
  u64 at = cpu.ea(op);
  if (!cpu.read<T>(op.segment, at, low) ||
      !cpu.read<T>(op.segment, (at + sizeof(T)) & address_mask(op.addrsize), high))
    return cpu.failed();
  auto index = static_cast<Signed<T>>(get<T>(cpu, op.dst));
  if (index < static_cast<Signed<T>>(low) || index > static_cast<Signed<T>>(high))
    return cpu.raise(BR);
  return Flow::next;
}

Flow xlat(Cpu& cpu, const Op& op) {
  u64 at = (cpu.gpr[machine::rbx] + get<u8>(cpu, 0)) & address_mask(op.addrsize);
  u8 v;
  if (!cpu.read<u8>(op.segment, at, v)) return cpu.failed();
  put<u8>(cpu, 0, v);
  return Flow::next;
}

/// CF says that there was a random number; the other flags are cleared.
template <class T>
Flow random(Cpu& cpu, const Op& op) {
  T v = 0;
  bool ok = getrandom(&v, sizeof v, GRND_NONBLOCK) == static_cast<ssize_t>(sizeof v);
  if (!ok) v = 0;
  put<T>(cpu, op.dst, v);
  from_eflags(cpu.flags, ok ? u64{CF} : 0);
  return Flow::next;
}

/// Cache line instructions: memory is coherent anyway; they fault as a load of one byte does.
Flow touch(Cpu& cpu, const Op& op) {
  return cpu.probe_read(op.segment, cpu.ea(op), 1) ? Flow::next : cpu.failed();
}

Flow undefined(Cpu& cpu, const Op&) {
  return cpu.raise(UD);
}

}  // namespace

Handler select_flags(const Insn& i) {
  switch (i.sem) {
    case Sem::clc: return clc;
    case Sem::stc: return stc;
    case Sem::cmc: return cmc;
    case Sem::cld: return cld;
    case Sem::std: return std_;
    case Sem::lahf: return lahf;
    case Sem::sahf: return sahf;
    case Sem::salc: return salc;
    case Sem::nop:
    case Sem::rdssp:  // no shadow stacks: a NOP
    case Sem::cldemote:
    case Sem::endbr32:
    case Sem::endbr64: return nop;
    case Sem::pause: return pause;
    case Sem::bound: return i.opsize == 2 ? bound<u16> : bound<u32>;
    case Sem::xlat: return xlat;
    case Sem::rdrand:
    case Sem::rdseed: return by_word_size(i.opsize, []<class T>() -> Handler { return random<T>; });
    case Sem::clflush:
    case Sem::clflushopt:
    case Sem::clwb: return touch;
    case Sem::ud0:
    case Sem::ud1:
    case Sem::ud2: return undefined;
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer
