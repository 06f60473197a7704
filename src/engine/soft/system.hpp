// System instructions: what the parts of select_system share.
#pragma once

#include "engine/soft/core.hpp"
#include "engine/soft/segments.hpp"
#include "isa/row.hpp"

namespace skerry::soft::system {

using isa::Insn;
using isa::OperandKind;
using isa::Sem;
using machine::cs;
using machine::rax;
using machine::rbx;
using machine::rcx;
using machine::rdx;
using machine::rsp;
using machine::ss;

constexpr u64 kCr0Pe = 1, kCr0Mp = 2, kCr0Em = 4, kCr0Ts = 8, kCr0Et = 16, kCr0Wp = 1 << 16,
              kCr0Am = 1 << 18, kCr0Nw = 1 << 29, kCr0Cd = 1 << 30, kCr0Pg = u64{1} << 31;
constexpr u64 kCr4Vme = 1, kCr4Pvi = 2, kCr4Tsd = 4, kCr4De = 8, kCr4Pse = 1 << 4, kCr4Pae = 1 << 5,
              kCr4Mce = 1 << 6, kCr4Pge = 1 << 7, kCr4Pce = 1 << 8, kCr4Osfxsr = 1 << 9,
              kCr4Osxmmexcpt = 1 << 10, kCr4Umip = 1 << 11, kCr4Fsgsbase = 1 << 16,
              kCr4Pcide = 1 << 17, kCr4Osxsave = 1 << 18, kCr4Smep = 1 << 20, kCr4Smap = 1 << 21;
constexpr u64 kEferSce = 1, kEferLme = 1 << 8, kEferLma = 1 << 10, kEferNxe = 1 << 11,
              kEferAutoIbrs = 1 << 21;

// Parts of select_system: null if `insn` is not theirs.
Handler select_control_registers(const Insn& insn);  ///< control_registers.cpp
Handler select_descriptors(const Insn& insn);        ///< descriptors.cpp
Handler select_far(const Insn& insn);                ///< transfers.cpp
Handler select_flags(const Insn& insn);              ///< privileged_flags.cpp
Handler select_misc(const Insn& insn);               ///< system.cpp

/// `H` behind a check of the privilege level.
template <Handler H>
Flow cpl0(Cpu& cpu, const Op& op) {
  if (cpu.cpl != 0) return cpu.raise(GP, 0);
  return H(cpu, op);
}

/// Writes a general register by number with the rules of its size.
inline void set_gpr(Cpu& cpu, u8 number, u64 value, unsigned size) {
  u64& r = cpu.gpr[number];
  if (size == 8)
    r = value;
  else if (size == 4)
    r = static_cast<u32>(value);
  else
    r = (r & ~byte_mask(size)) | (value & byte_mask(size));
}

/// Operand `n`, a 16-bit selector in a register or in memory.
inline bool read_selector(Cpu& cpu, const Op& op, unsigned n, u16& value) {
  const isa::Operand& o = op.insn->op[n];
  if (o.kind == OperandKind::memory) return cpu.read<u16>(op.segment, cpu.ea(op), value);
  value = static_cast<u16>(cpu.gpr[o.reg]);
  return true;
}

// msr.cpp; false: #GP(0)
bool read_msr(Cpu& cpu, u32 index, u64& value);
bool write_msr(Cpu& cpu, u32 index, u64 value);
// cpuid.cpp
void cpuid(Cpu& cpu, u32 leaf, u32 subleaf, machine::CpuidLeaf& out);
bool guest_has(const Cpu& cpu, u32 leaf, u32 subleaf, isa::CpuidReg reg, unsigned bit);
/// A feature of KVM's leaf 0x40000001.
bool kvm_has(const Cpu& cpu, unsigned bit);
// kvmclock.cpp
void write_kvmclock_system(Cpu& cpu, u64 value);
void write_kvmclock_wall(Cpu& cpu, u64 value);

}  // namespace skerry::soft::system
