// The remaining system instructions: ports, time, MSRs, CPUID, HLT, fences, hypercalls; and the
// choice of handlers for all of them.
#include "engine/soft/system.hpp"

namespace skerry::soft {
namespace system {
namespace {

constexpr u64 kKvmEnosys = 1000, kKvmEperm = 1, kKvmEinval = 22;

u16 port_of(const Cpu& cpu, const Op& op, unsigned operand) {
  const isa::Operand& o = op.insn->op[operand];
  return static_cast<u16>(o.kind == OperandKind::immediate ? op.imm & 0xff : cpu.gpr[rdx]);
}

Flow in(Cpu& cpu, const Op& op) {
  u8 size = static_cast<u8>(op.insn->op[0].size);
  u32 value;
  if (!cpu.port_in(port_of(cpu, op, 1), size, value)) return cpu.failed();
  set_gpr(cpu, rax, value, size);
  return Flow::next;
}

Flow out(Cpu& cpu, const Op& op) {
  u8 size = static_cast<u8>(op.insn->op[1].size);
  u32 value = static_cast<u32>(cpu.gpr[rax] & byte_mask(size));
  if (!cpu.port_out(port_of(cpu, op, 0), size, value)) return cpu.failed();
  return Flow::next;
}

void set_edx_eax(Cpu& cpu, u64 value) {
  cpu.gpr[rax] = static_cast<u32>(value);
  cpu.gpr[rdx] = value >> 32;
}

bool tsc_disabled(const Cpu& cpu) {
  return (cpu.s.cr4 & kCr4Tsd) && cpu.protected_mode && cpu.cpl > 0;
}

Flow rdtsc(Cpu& cpu, const Op&) {
  if (tsc_disabled(cpu)) return cpu.raise(GP, 0);
  set_edx_eax(cpu, cpu.core->guest_tsc());
  return Flow::next;
}
Flow rdtscp(Cpu& cpu, const Op&) {
  if (tsc_disabled(cpu)) return cpu.raise(GP, 0);
  set_edx_eax(cpu, cpu.core->guest_tsc());
  cpu.gpr[rcx] = static_cast<u32>(cpu.s.tsc_aux);
  return Flow::next;
}
Flow rdpid(Cpu& cpu, const Op& op) {
  set_gpr(cpu, op.insn->op[0].reg, static_cast<u32>(cpu.s.tsc_aux), cpu.flat ? 8 : 4);
  return Flow::next;
}
Flow rdpmc(Cpu& cpu, const Op&) {
  return cpu.raise(GP, 0);
}  // there are no counters

Flow rdmsr(Cpu& cpu, const Op&) {
  u32 index = static_cast<u32>(cpu.gpr[rcx]);
  u64 value = 0;
  if (!read_msr(cpu, index, value)) {
    trace(Trace::msr, "cpu{} RDMSR {:#x}: #GP", cpu.core->index, index);
    return cpu.raise(GP, 0);
  }
  trace(Trace::msr, "cpu{} RDMSR {:#x} = {:#x}", cpu.core->index, index, value);
  set_edx_eax(cpu, value);
  return Flow::next;
}

Flow wrmsr(Cpu& cpu, const Op&) {
  u32 index = static_cast<u32>(cpu.gpr[rcx]);
  u64 value = (cpu.gpr[rdx] << 32) | static_cast<u32>(cpu.gpr[rax]);
  bool ok = write_msr(cpu, index, value);
  trace(Trace::msr, "cpu{} WRMSR {:#x} = {:#x}{}", cpu.core->index, index, value,
        ok ? "" : ": #GP");
  if (!ok) return cpu.raise(GP, 0);
  return Flow::end;
}

Flow run_cpuid(Cpu& cpu, const Op&) {
  machine::CpuidLeaf leaf;
  cpuid(cpu, static_cast<u32>(cpu.gpr[rax]), static_cast<u32>(cpu.gpr[rcx]), leaf);
  cpu.gpr[rax] = leaf.eax;
  cpu.gpr[rbx] = leaf.ebx;
  cpu.gpr[rcx] = leaf.ecx;
  cpu.gpr[rdx] = leaf.edx;
  return Flow::next;
}

Flow hlt(Cpu& cpu, const Op&) {
  if (cpu.cpl != 0) return cpu.raise(GP, 0);
  cpu.rip = cpu.gpr[17] & cpu.rip_mask;
  cpu.exit = machine::Halt{(cpu.rflags & IF) != 0};
  cpu.pending_exit = true;
  return Flow::exit;
}

// A vCPU that spins for another one's sake should let it run: there may be fewer host CPUs.
Flow pause(Cpu& cpu, const Op&) {
  __builtin_ia32_pause();
  if (cpu.core->shared.setup.cpus > 1 && ++cpu.core->pauses % 32 == 0 && cpu.core->pv.yield())
    return Flow::end;
  return Flow::next;
}

Flow fence(Cpu&, const Op&) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return Flow::next;
}
Flow nothing(Cpu&, const Op&) {
  return Flow::next;
}
Flow end_block(Cpu&, const Op&) {
  return Flow::end;
}

Flow clzero(Cpu& cpu, const Op& op) {
  static constexpr u8 kZeros[64] = {};
  u64 at = cpu.gpr[rax] & byte_mask(op.addrsize) & ~u64{63};
  if (!cpu.write_bytes(op.segment, at, kZeros, 64)) return cpu.failed();
  return Flow::next;
}

u64 run_hypercall(Cpu& cpu, u64 number, const std::array<u64, 4>& a) {
  enum : u64 { kVapicPollIrq = 1, kKickCpu = 5, kSendIpi = 10, kSchedYield = 11 };
  machine::LocalApic* lapic = cpu.core->lapic;
  switch (number) {
    case kVapicPollIrq: return 0;
    case kKickCpu:
      if (!kvm_has(cpu, 7) || !lapic) break;
      lapic->unhalt(static_cast<u32>(a[1]));
      return 0;
    case kSendIpi: {
      if (!kvm_has(cpu, 11) || !lapic) break;
      // The mask has as many bits as two registers.
      const u64 low = cpu.flat ? a[0] : a[0] | a[1] << 32, high = cpu.flat ? a[1] : 0;
      auto sent = lapic->send_ipis(static_cast<u32>(a[2]), low, high, static_cast<u32>(a[3]));
      return sent ? *sent : ~u64{0} - kKvmEinval + 1;
    }
    case kSchedYield:
      if (!kvm_has(cpu, 13)) break;
      cpu.core->pv.yield();
      return 0;
    default: break;
  }
  return ~u64{0} - kKvmEnosys + 1;
}

// KVM's hypercall convention (Documentation/virt/kvm/x86/hypercalls.rst): number in RAX, arguments
// in RBX, RCX, RDX, RSI, answer in RAX.
Flow hypercall(Cpu& cpu, const Op&) {
  if (!guest_has(cpu, 1, 0, isa::CpuidReg::ecx, 31)) return cpu.raise(UD);
  if (cpu.cpl != 0) {
    cpu.gpr[rax] = ~u64{0} - kKvmEperm + 1;
    return Flow::next;
  }
  const u64 mask = byte_mask(cpu.flat ? 8 : 4);
  cpu.gpr[rax] = run_hypercall(cpu, cpu.gpr[rax] & mask,
                               {cpu.gpr[rbx] & mask, cpu.gpr[rcx] & mask, cpu.gpr[rdx] & mask,
                                cpu.gpr[machine::rsi] & mask});
  if (!cpu.flat) cpu.gpr[rax] = static_cast<u32>(cpu.gpr[rax]);
  return Flow::end;
}

Flow mwait(Cpu& cpu, const Op&) {
  return cpu.cpl == 0 ? Flow::next : cpu.raise(UD);
}

}  // namespace

Handler select_misc(const Insn& insn) {
  switch (insn.sem) {
    case Sem::in: return in;
    case Sem::out: return out;
    case Sem::rdtsc: return rdtsc;
    case Sem::rdtscp: return rdtscp;
    case Sem::rdpid: return rdpid;
    case Sem::rdpmc: return rdpmc;
    case Sem::rdmsr: return cpl0<rdmsr>;
    case Sem::wrmsr: return cpl0<wrmsr>;
    case Sem::cpuid: return run_cpuid;
    case Sem::hlt: return hlt;
    case Sem::pause: return pause;
    case Sem::lfence:
    case Sem::sfence: return nothing;
    case Sem::mfence: return fence;
    case Sem::serialize: return end_block;
    case Sem::invd:
    case Sem::wbinvd:
    case Sem::wbnoinvd: return cpl0<nothing>;
    case Sem::clzero: return clzero;
    case Sem::vmcall:
    case Sem::vmmcall: return hypercall;
    case Sem::monitor:
    case Sem::mwait: return mwait;
    default: return nullptr;
  }
}

}  // namespace system

Handler select_system(const isa::Insn& insn) {
  if (Handler h = system::select_far(insn)) return h;
  if (Handler h = system::select_flags(insn)) return h;
  if (Handler h = system::select_control_registers(insn)) return h;
  if (Handler h = system::select_descriptors(insn)) return h;
  return system::select_misc(insn);
}

}  // namespace skerry::soft
