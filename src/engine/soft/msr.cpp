// Model-specific registers (SDM 4; KVM's own: Documentation/virt/kvm/x86/msr.rst). Those not listed
// raise #GP, which is what Linux expects of processors without them.
#include "engine/soft/system.hpp"

namespace skerry::soft::system {
namespace {

enum Msr : u32 {
  kTsc = 0x10,
  kPlatformId = 0x17,
  kApicBase = 0x1b,
  kFeatureControl = 0x3a,
  kTscAdjust = 0x3b,
  kSpecCtrl = 0x48,
  kPredCmd = 0x49,
  kMicrocode = 0x8b,
  kPlatformInfo = 0xce,
  kMtrrCap = 0xfe,
  kArchCapabilities = 0x10a,
  kFlushCmd = 0x10b,
  kSysenterCs = 0x174,
  kSysenterEsp = 0x175,
  kSysenterEip = 0x176,
  kMcgCap = 0x179,
  kMcgStatus = 0x17a,
  kMiscEnable = 0x1a0,
  kDebugCtl = 0x1d9,
  kMtrrVariable = 0x200,
  kMtrrFixed64k = 0x250,
  kMtrrFixed16k = 0x258,
  kMtrrFixed4k = 0x268,
  kPat = 0x277,
  kMtrrDefType = 0x2ff,
  kTscDeadline = 0x6e0,
  kX2apic = 0x800,
  kXss = 0xda0,
  kKvmWallOld = 0x11,
  kKvmSystemOld = 0x12,
  kKvmWall = 0x4b564d00,
  kKvmSystem = 0x4b564d01,
  kKvmStealTime = 0x4b564d03,
  kKvmPvEoi = 0x4b564d04,
  kEfer = 0xc0000080,
  kStar = 0xc0000081,
  kLstar = 0xc0000082,
  kCstar = 0xc0000083,
  kSfmask = 0xc0000084,
  kFsBase = 0xc0000100,
  kGsBase = 0xc0000101,
  kKernelGsBase = 0xc0000102,
  kTscAux = 0xc0000103,
  kAmdSyscfg = 0xc0010010,
  kAmdHwcr = 0xc0010015,
  kAmdNbCfg = 0xc001001f,
  kAmdPatchLevel = 0x8b,
  kAmdOsvwLength = 0xc0010140,
  kAmdOsvwStatus = 0xc0010141,
  kAmdLsCfg = 0xc0011020,
  kAmdDcCfg = 0xc0011022,
  kAmdDeCfg = 0xc0011029,
  kAmdBuCfg2 = 0xc001102a,
};

using isa::CpuidReg;

bool is_amd(const Cpu& cpu) {
  return machine::cpuid_lookup(cpu.core->shared.setup.cpuid, 0, 0).ebx == 0x68747541;
}
bool has_spec_ctrl(const Cpu& cpu) {
  return guest_has(cpu, 7, 0, CpuidReg::edx, 26) || guest_has(cpu, 7, 0, CpuidReg::edx, 27) ||
         guest_has(cpu, 7, 0, CpuidReg::edx, 31) ||
         guest_has(cpu, 0x80000008, 0, CpuidReg::ebx, 14) ||
         guest_has(cpu, 0x80000008, 0, CpuidReg::ebx, 24);
}
/// IBRS, STIBP, SSBD; BHI_DIS_S. They do nothing: there is no predictor of ours to steer.
u64 spec_ctrl_bits(const Cpu& cpu) {
  return 7 | (guest_has(cpu, 7, 2, CpuidReg::edx, 4) ? u64{1} << 10 : 0);
}
bool has_pred_cmd(const Cpu& cpu) {
  return guest_has(cpu, 7, 0, CpuidReg::edx, 26) ||
         guest_has(cpu, 0x80000008, 0, CpuidReg::ebx, 12);
}

bool memory_type(u64 type) {
  return type <= 6 && type != 2 && type != 3;
}

/// The fixed-range MTRR of an index, as a position in CpuState::mtrr_fixed; -1: none.
int fixed_mtrr(u32 index) {
  if (index == kMtrrFixed64k) return 0;
  if (index == kMtrrFixed16k || index == kMtrrFixed16k + 1)
    return static_cast<int>(1 + index - kMtrrFixed16k);
  if (index >= kMtrrFixed4k && index < kMtrrFixed4k + 8)
    return static_cast<int>(3 + index - kMtrrFixed4k);
  return -1;
}

bool write_efer(Cpu& cpu, u64 value) {
  machine::CpuState& s = cpu.s;
  u64 allowed = 0;
  if (guest_has(cpu, 0x80000001, 0, CpuidReg::edx, 11)) allowed |= kEferSce;
  if (guest_has(cpu, 0x80000001, 0, CpuidReg::edx, 29)) allowed |= kEferLme;
  if (guest_has(cpu, 0x80000001, 0, CpuidReg::edx, 20)) allowed |= kEferNxe;
  if (guest_has(cpu, 0x80000021, 0, CpuidReg::eax, 8)) allowed |= kEferAutoIbrs;
  value &= ~kEferLma;  // ignored
  if (value & ~allowed) return false;
  if (((value ^ s.efer) & kEferLme) && (s.cr0 & kCr0Pg)) return false;
  u64 changed = value ^ s.efer;
  s.efer = value | (s.efer & kEferLma);
  if (changed & kEferNxe) cpu.tlb.flush_all();
  cpu.update_mode();
  return true;
}

}  // namespace

bool read_msr(Cpu& cpu, u32 index, u64& value) {
  const machine::CpuState& s = cpu.s;
  if (index == kApicBase || index == kTscDeadline ||
      (index >= kX2apic && index < kX2apic + 0x100)) {
    machine::LocalApic* lapic = cpu.core->lapic;
    if (!lapic) return false;
    auto v = lapic->read_msr(index);
    if (v) value = *v;
    return v.has_value();
  }
  if (index >= kMtrrVariable && index < kMtrrVariable + 16) {
    value = s.mtrr_variable[index - kMtrrVariable];
    return true;
  }
  if (int i = fixed_mtrr(index); i >= 0) {
    value = s.mtrr_fixed[static_cast<unsigned>(i)];
    return true;
  }
  switch (index) {
    case kTsc: value = cpu.core->guest_tsc(); return true;
    case kTscAdjust: value = s.tsc_adjust; return guest_has(cpu, 7, 0, CpuidReg::ebx, 1);
    case kPlatformId: value = 0; return true;
    case kFeatureControl: value = 1; return !is_amd(cpu);  // locked, nothing enabled
    case kSpecCtrl: value = s.spec_ctrl; return has_spec_ctrl(cpu);
    case kMicrocode: value = is_amd(cpu) ? 0x1000065 : u64{0x100000000}; return true;
    case kPlatformInfo: value = 0; return true;
    case kMtrrCap: value = 0x508; return true;  // 8 variable ranges, fixed ranges, WC
    case kArchCapabilities:
      value = machine::arch_capabilities(cpu.core->shared.setup.cpuid);
      return guest_has(cpu, 7, 0, CpuidReg::edx, 29);
    case kSysenterCs: value = s.sysenter_cs; return true;
    case kSysenterEsp: value = s.sysenter_esp; return true;
    case kSysenterEip: value = s.sysenter_eip; return true;
    case kMcgCap:
    case kMcgStatus: value = 0; return true;
    case kMiscEnable: value = s.misc_enable; return true;
    case kDebugCtl: value = 0; return true;
    case kPat: value = s.pat; return true;
    case kMtrrDefType: value = s.mtrr_def_type; return true;
    case kXss: value = s.xss; return guest_has(cpu, 0xd, 1, CpuidReg::eax, 3);
    case kKvmWallOld: value = s.kvmclock_wall; return kvm_has(cpu, 0);
    case kKvmSystemOld: value = s.kvmclock_system; return kvm_has(cpu, 0);
    case kKvmWall: value = s.kvmclock_wall; return kvm_has(cpu, 3);
    case kKvmSystem: value = s.kvmclock_system; return kvm_has(cpu, 3);
    case kKvmStealTime: value = s.kvm_steal_time; return kvm_has(cpu, 5);
    case kKvmPvEoi: value = s.kvm_pv_eoi; return kvm_has(cpu, 6);
    case kEfer: value = s.efer; return true;
    case kStar: value = s.star; return true;
    case kLstar: value = s.lstar; return true;
    case kCstar: value = s.cstar; return true;
    case kSfmask: value = s.sfmask; return true;
    case kFsBase: value = cpu.seg[machine::fs].base; return true;
    case kGsBase: value = cpu.seg[machine::gs].base; return true;
    case kKernelGsBase: value = s.kernel_gs_base; return true;
    case kTscAux: value = s.tsc_aux; return true;
    case kAmdSyscfg:
    case kAmdNbCfg:
    case kAmdOsvwLength:
    case kAmdOsvwStatus:
    case kAmdLsCfg:
    case kAmdDcCfg:
    case kAmdBuCfg2: value = 0; return is_amd(cpu);
    case kAmdHwcr: value = 1 << 24; return is_amd(cpu);  // TscFreqSel
    case kAmdDeCfg: value = 2; return is_amd(cpu);       // LFENCE is serialising
    default: return false;
  }
}

bool write_msr(Cpu& cpu, u32 index, u64 value) {
  machine::CpuState& s = cpu.s;
  Cpu::Core& core = *cpu.core;
  if (index == kApicBase || index == kTscDeadline ||
      (index >= kX2apic && index < kX2apic + 0x100)) {
    if (!core.lapic || !core.lapic->write_msr(index, value)) return false;
    core.timer_changed();
    core.budget = 1;  // the timer may be due at once
    cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);
    return true;
  }
  if (index >= kMtrrVariable && index < kMtrrVariable + 16) {
    u64 reserved = ~core.shared.physical_mask;
    reserved |= index & 1 ? 0x7ff : 0xf00;
    if (value & reserved) return false;
    if (!(index & 1) && !memory_type(value & 0xff)) return false;
    s.mtrr_variable[index - kMtrrVariable] = value;
    return true;
  }
  if (int i = fixed_mtrr(index); i >= 0) {
    for (unsigned b = 0; b < 8; ++b)
      if (!memory_type((value >> (8 * b)) & 0xff)) return false;
    s.mtrr_fixed[static_cast<unsigned>(i)] = value;
    return true;
  }
  auto canonical_into = [&](u64& to) {
    if (!canonical(value)) return false;
    to = value;
    return true;
  };
  switch (index) {
    case kTsc: {
      u64 offset = value - core.ticks();
      s.tsc_adjust += offset - core.tsc_offset;
      core.tsc_offset = offset;
      return true;
    }
    case kTscAdjust:
      if (!guest_has(cpu, 7, 0, CpuidReg::ebx, 1)) return false;
      core.tsc_offset += value - s.tsc_adjust;
      s.tsc_adjust = value;
      return true;
    case kSpecCtrl:
      if (!has_spec_ctrl(cpu) || (value & ~spec_ctrl_bits(cpu))) return false;
      s.spec_ctrl = value;
      return true;
    case kPredCmd: return has_pred_cmd(cpu) && !(value & ~u64{1});
    case kFlushCmd: return guest_has(cpu, 7, 0, CpuidReg::edx, 28) && !(value & ~u64{1});
    case 0x79: return true;  // microcode update: accepted and forgotten
    case kMicrocode: return value == 0 || is_amd(cpu);
    case kSysenterCs: s.sysenter_cs = static_cast<u32>(value); return true;
    case kSysenterEsp: return canonical_into(s.sysenter_esp);
    case kSysenterEip: return canonical_into(s.sysenter_eip);
    case kMcgStatus: return value == 0;
    case kMiscEnable: s.misc_enable = value; return true;
    case kDebugCtl: return (value & ~u64{0x3}) == 0;
    case kPat:
      for (unsigned b = 0; b < 8; ++b) {
        u64 type = (value >> (8 * b)) & 0xff;
        if (!memory_type(type) && type != 7) return false;
      }
      s.pat = value;
      return true;
    case kMtrrDefType:
      if ((value & ~u64{0xcff}) || !memory_type(value & 0xff)) return false;
      s.mtrr_def_type = value;
      return true;
    case kXss:
      if (!guest_has(cpu, 0xd, 1, CpuidReg::eax, 3) || value != 0) return false;
      s.xss = value;
      return true;
    case kKvmWallOld:
    case kKvmWall:
      if (!kvm_has(cpu, index == kKvmWall ? 3 : 0)) return false;
      write_kvmclock_wall(cpu, value);
      return true;
    case kKvmSystemOld:
    case kKvmSystem:
      if (!kvm_has(cpu, index == kKvmSystem ? 3 : 0)) return false;
      write_kvmclock_system(cpu, value);
      return true;
    case kKvmStealTime: return kvm_has(cpu, 5) && core.pv.write_steal_time(value);
    case kKvmPvEoi: return kvm_has(cpu, 6) && core.pv.write_eoi(value);
    case kEfer: return write_efer(cpu, value);
    case kStar: s.star = value; return true;
    case kLstar: return canonical_into(s.lstar);
    case kCstar: return canonical_into(s.cstar);
    case kSfmask: s.sfmask = static_cast<u32>(value); return true;
    case kFsBase:
    case kGsBase: {
      if (!canonical(value)) return false;
      u8 n = index == kFsBase ? machine::fs : machine::gs;
      cpu.seg[n].base = value;
      cpu.update_segment(n);
      return true;
    }
    case kKernelGsBase: return canonical_into(s.kernel_gs_base);
    case kTscAux:
      if (value >> 32) return false;
      s.tsc_aux = value;
      return true;
    case kAmdSyscfg:
    case kAmdHwcr:
    case kAmdNbCfg:
    case kAmdLsCfg:
    case kAmdDcCfg:
    case kAmdDeCfg:
    case kAmdBuCfg2: return is_amd(cpu);
    default: return false;
  }
}

}  // namespace skerry::soft::system
