#include "engine/soft/thunk.hpp"

#include <cpuid.h>

#include "engine/soft/access.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {

using isa::Class;
using isa::Insn;
using isa::OperandKind;
using isa::Sem;

bool load_operand(Cpu& cpu, u8 segment, u64 offset, u8* to, u32 size) {
  auto get = [&]<class T>(T value) {
    if (!cpu.read<T>(segment, offset, value)) return false;
    store(to, value);
    return true;
  };
  switch (size) {
    case 1: return get(u8{});
    case 2: return get(u16{});
    case 4: return get(u32{});
    case 8: return get(u64{});
    case 16: return get(u128{});
    case 32: return get(std::array<u8, 32>{});
    case 64: return get(std::array<u8, 64>{});
    default: return cpu.read_bytes(segment, offset, to, size);
  }
}

bool store_operand(Cpu& cpu, u8 segment, u64 offset, const u8* from, u32 size) {
  switch (size) {
    case 1: return cpu.write<u8>(segment, offset, load<u8>(from));
    case 2: return cpu.write<u16>(segment, offset, load<u16>(from));
    case 4: return cpu.write<u32>(segment, offset, load<u32>(from));
    case 8: return cpu.write<u64>(segment, offset, load<u64>(from));
    case 16: return cpu.write<u128>(segment, offset, load<u128>(from));
    case 32: return cpu.write(segment, offset, load<std::array<u8, 32>>(from));
    case 64: return cpu.write(segment, offset, load<std::array<u8, 64>>(from));
    default: return cpu.write_bytes(segment, offset, from, size);
  }
}

bool run_code(Cpu& cpu, const Thunk& t, u8* memory) {
  u64 flags = t.flags_in ? (cpu.eflags() & kArithmeticFlags) | 2 : 0;
  u64 result = t.code(cpu.gpr.data(), cpu.s.xsave.data(), memory, flags);
  if (__builtin_expect(result & (kThunkFpException | kThunkX87Exception | kThunkIllegal), 0)) {
    // SDM 2A 2.4: without CR4.OSXMMEXCPT an unmasked SIMD exception is #UD.
    cpu.raise(result & kThunkX87Exception                                ? MF
              : result & kThunkFpException && cpu.s.cr4 & kCr4OsXmmExcpt ? XM
                                                                         : UD);
    return false;
  }
  if (t.flags_out) cpu.set_eflags((cpu.eflags() & ~kArithmeticFlags) | (result & kArithmeticFlags));
  return true;
}

namespace {

/// An instruction on vector, mask and general registers.
Flow run_thunk(Cpu& cpu, const Op& op) {
  const Thunk* t = find_thunk(op);
  if (!t) return cpu.raise(UD);
  if (!pass_gate(cpu, t->gate)) return Flow::fault;
  alignas(64) u8 memory[64];
  u64 offset = 0;
  u32 old_mxcsr = 0;
  if (t->read | t->write) {
    offset = cpu.ea(op);
    if (t->align && misaligned(cpu, op.segment, offset, t->align)) return cpu.raise(GP, 0);
    if (t->read && !load_operand(cpu, op.segment, offset, memory, t->read)) return cpu.failed();
    old_mxcsr = mxcsr(cpu);
  }
  if (!run_code(cpu, *t, memory)) {
    // A page fault of the operand comes before the numeric exception (SDM 3A table 6-2).
    if (t->write) {
      Fault numeric = cpu.fault;
      u32 flags = mxcsr(cpu);
      set_mxcsr(cpu, old_mxcsr);
      if (!cpu.probe_write(op.segment, offset, t->write)) return cpu.failed();
      set_mxcsr(cpu, flags);
      cpu.fault = numeric;
    }
    return Flow::fault;
  }
  if (t->write && !store_operand(cpu, op.segment, offset, memory, t->write)) {
    set_mxcsr(cpu, old_mxcsr);  // no instruction writes memory and another register
    return cpu.failed();
  }
  return Flow::next;
}

/// VZEROUPPER, VZEROALL: 8 registers outside 64-bit mode.
Flow zero_vectors(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  for (u8 n = 0; n < (cpu.code_bits == 64 ? 16 : 8); n++) {
    u8 low[16] = {};
    if (insn.sem == Sem::vzeroupper) read_vector(cpu, n, 16, low);
    write_vector(cpu, n, 16, low);
  }
  return Flow::next;
}

/// LDMXCSR: reserved bits are #GP.
Flow ldmxcsr(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  u32 value = 0;
  if (!cpu.read<u32>(op.segment, cpu.ea(op), value)) return cpu.failed();
  if (value & ~kMxcsrMask) return cpu.raise(GP, 0);
  set_mxcsr(cpu, value);
  return Flow::next;
}

Flow stmxcsr(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  return cpu.write<u32>(op.segment, cpu.ea(op), mxcsr(cpu)) ? Flow::next : cpu.failed();
}

VectorFeatures host_features() {
  VectorFeatures f{};
  u32 a = 0, b = 0, c = 0, d = 0, max = 0, ext_max = 0;
  __cpuid(0, max, b, c, d);
  __cpuid(0x80000000, ext_max, b, c, d);
  __cpuid(1, a, b, f.leaf1_ecx, f.leaf1_edx);
  if (max >= 7) {
    __cpuid_count(7, 0, a, f.leaf7_ebx, f.leaf7_ecx, f.leaf7_edx);
    if (a >= 1) __cpuid_count(7, 1, f.leaf7_1_eax, b, c, f.leaf7_1_edx);
  }
  if (ext_max >= 0x80000001) __cpuid(0x80000001, a, b, f.ext1_ecx, f.ext1_edx);
  f.xcr0 = 3;
  if (f.leaf1_ecx & 1u << 27) {  // OSXSAVE
    u32 low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    u64 host = static_cast<u64>(high) << 32 | low;
    if ((host & 6) == 6 && f.leaf1_ecx & 1u << 28) f.xcr0 |= 4;
    if ((host & 0xe6) == 0xe6 && f.leaf7_ebx & 1u << 16) f.xcr0 |= 0xe0;
  }
  // What the host's kernel has not enabled cannot run in a thunk.
  constexpr u32 kAvx7Ebx = 1u << 5;
  constexpr u32 kAvx7Ecx = 1u << 9 | 1u << 10;  // VAES, VPCLMULQDQ
  constexpr u32 kAvx512Ebx = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 28 | 1u << 30 | 1u << 31;
  constexpr u32 kAvx512Ecx = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
  constexpr u32 kAvx512Edx = 1u << 8;  // VP2INTERSECT
  constexpr u32 kAvx1Ecx = 1u << 12 | 1u << 28 | 1u << 29;
  if (!(f.xcr0 & 4)) {
    f.leaf1_ecx &= ~kAvx1Ecx;
    f.leaf7_ebx &= ~kAvx7Ebx;
    f.leaf7_ecx &= ~kAvx7Ecx;
    f.leaf7_1_eax &= ~(1u << 4);
  }
  if (!(f.xcr0 & 0x20)) {
    f.leaf7_ebx &= ~kAvx512Ebx;
    f.leaf7_ecx &= ~kAvx512Ecx;
    f.leaf7_edx &= ~kAvx512Edx;
    f.leaf7_1_eax &= ~(1u << 5);
  }
  // Bits that are not about vectors are not our business; those below are ours whatever the host
  // has.
  constexpr u32 kVector1Ecx =
      1u << 0 | 1u << 1 | 1u << 9 | 1u << 12 | 1u << 19 | 1u << 20 | 1u << 25 | 1u << 28 | 1u << 29;
  constexpr u32 kVector1Edx = 1u << 0 | 1u << 23 | 1u << 24 | 1u << 25 | 1u << 26;
  constexpr u32 kVector7Ebx = kAvx7Ebx | kAvx512Ebx | 1u << 26 | 1u << 27 | 1u << 29;
  constexpr u32 kVector7Ecx = kAvx7Ecx | kAvx512Ecx | 1u << 8;
  f.leaf1_ecx |= ~kVector1Ecx;
  f.leaf1_edx |= ~kVector1Edx;
  f.leaf7_ebx |= ~kVector7Ebx;
  f.leaf7_ebx &= ~(1u << 26 | 1u << 27 | 1u << 6);  // PF, ER; FDP is updated by every instruction
  f.leaf7_ecx |= ~kVector7Ecx;
  // 4VNNIW, 4FMAPS, FP16 and AMX have no rows in the instruction table.
  f.leaf7_edx |= ~kAvx512Edx;
  f.leaf7_edx &= ~(1u << 2 | 1u << 3 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
  constexpr u32 kVector71 = 1u << 4 | 1u << 5;
  f.leaf7_1_eax |= ~kVector71;
  f.leaf7_1_eax &= ~(1u << 0 | 1u << 1 | 1u << 2 | 1u << 21 | 1u << 23);  // SHA512, SM3, SM4, AMX,
                                                                          // AVX-IFMA
  f.leaf7_1_edx = ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19 | 1u << 21);
  f.ext1_ecx |= ~(1u << 6);                         // SSE4A
  f.ext1_ecx &= ~(1u << 11 | 1u << 16);             // XOP, FMA4
  f.ext1_edx |= ~(1u << 22);                        // MMX extensions
  f.ext1_edx &= ~(1u << 30 | 1u << 31 | 1u << 25);  // 3DNow!, FFXSR
  f.leaf_d1_eax = 0xf;
  return f;
}

}  // namespace

const VectorFeatures& supported_vector_features() {
  static const VectorFeatures features = host_features();
  return features;
}

Handler select_vector(const Insn& insn) {
  if (Handler h = select_xsave(insn)) return h;
  switch (insn.sem) {
    case Sem::vzeroupper:
    case Sem::vzeroall: return zero_vectors;
    case Sem::ldmxcsr:
    case Sem::vldmxcsr: return ldmxcsr;
    case Sem::stmxcsr:
    case Sem::vstmxcsr: return stmxcsr;
    default: break;
  }
  switch (insn.cls) {
    case Class::x87:
    case Class::mmx: return select_x87(insn);
    case Class::sse:
    case Class::avx:
    case Class::avx512:
    case Class::mask: break;
    default: return insn.sem == Sem::wait ? select_x87(insn) : nullptr;
  }
  if (Handler h = select_special_vector(insn)) return h;
  for (const auto& o : insn.op)
    if (o.kind == OperandKind::mmx) return select_x87(insn);
  if (Handler h = select_fast_vector(insn)) return h;
  if (insn.encoding == Insn::Encoding::evex && insn.evex_aaa && insn.memory_operand())
    return run_masked;
  return run_thunk;
}

}  // namespace skerry::soft
