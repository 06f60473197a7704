// The whole architectural state of one vCPU as plain data: what both engines load and save, and
// what a saved machine contains. Nothing in it depends on an engine. Initialisers are the state
// after RESET (SDM 3A table 10-1, "Processor state following power-up, reset or INIT").
#pragma once

#include <array>
#include <vector>

#include "base/types.hpp"
#include "state/describe.hpp"

namespace skerry::machine {

enum Gpr : u8 { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 };
enum Seg : u8 { es, cs, ss, ds, fs, gs };

/// A segment register with its hidden part. `attributes` is bits 8-23 of the descriptor's high
/// dword (type 0-3, S 4, DPL 5-6, P 7, limit 19:16 cleared, AVL 12, L 13, D/B 14, G 15), as in VMCS
/// access rights, plus bit 16 "unusable" (a null selector was loaded).
struct Segment {
  u16 selector = 0;
  u64 base = 0;
  u32 limit = 0xffff;  ///< in bytes, granularity applied
  u32 attributes = 0x93;

  static constexpr u32 kUnusable = 1u << 16;
  u8 type() const { return attributes & 15; }
  bool is_code_or_data() const { return attributes & 0x10; }
  u8 dpl() const { return (attributes >> 5) & 3; }
  bool present() const { return attributes & 0x80; }
  bool is_long() const { return attributes & 0x2000; }
  bool is_big() const { return attributes & 0x4000; }  ///< D/B
  bool unusable() const { return attributes & kUnusable; }

  static void describe(auto& s, auto& v) {
    v.field("selector", s.selector);
    v.field("base", s.base);
    v.field("limit", s.limit);
    v.field("attributes", s.attributes);
  }
};

struct TableRegister {
  u64 base = 0;
  u16 limit = 0xffff;
  static void describe(auto& s, auto& v) {
    v.field("base", s.base);
    v.field("limit", s.limit);
  }
};

/// Size of the XSAVE area in standard format that holds x87, SSE, AVX, opmask and AVX-512 state.
constexpr unsigned kXsaveSize = 2688;

/// What a vCPU does when it is let run.
enum class RunState : u8 {
  running = 0,
  halted = 1,         ///< HLT: waits for an interrupt
  wait_for_sipi = 2,  ///< after INIT on an application processor
  shutdown = 3,       ///< triple fault
};

struct CpuState {
  static constexpr u32 kVersion = 2;  ///< of the description below

  std::array<u64, 16> gpr{0, 0, 0x600, 0};  // EDX: family/model/stepping
  u64 rip = 0xfff0;
  u64 rflags = 2;
  std::array<Segment, 6> seg{Segment{}, Segment{0xf000, 0xffff0000, 0xffff, 0x9b},
                             Segment{}, Segment{},
                             Segment{}, Segment{}};
  Segment ldtr{0, 0, 0xffff, 0x82};
  Segment tr{0, 0, 0xffff, 0x8b};
  TableRegister gdtr, idtr;

  u64 cr0 = 0x60000010;
  u64 cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
  std::array<u64, 4> dr{};  ///< DR0-DR3
  u64 dr6 = 0xffff0ff0, dr7 = 0x400;
  u64 xcr0 = 1;

  u64 efer = 0;
  u64 star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0, tsc_aux = 0;
  u64 sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  u64 pat = 0x0007040600070406;
  u64 misc_enable = 1;
  u64 spec_ctrl = 0, xss = 0;
  u64 mtrr_def_type = 0;
  std::array<u64, 16> mtrr_variable{};  ///< base, mask pairs of 8 variable ranges
  std::array<u64, 11> mtrr_fixed{};
  /// The guest's time-stamp counter, at the moment the machine's Clock stopped.
  u64 tsc = 0;
  u64 tsc_adjust = 0;
  u64 kvmclock_system = 0, kvmclock_wall = 0;  ///< the KVM paravirtual clock's MSRs
  u64 kvm_steal_time = 0, kvm_pv_eoi = 0;      ///< KVM's MSRs 0x4b564d03 and 0x4b564d04
  u64 apic_base = 0xfee00000;                  ///< IA32_APIC_BASE

  /// XSAVE area, standard (not compacted) format; XSTATE_BV says what is not in its initial state.
  /// FCW (offset 0) and MXCSR (offset 24) are always valid. Aligned as FXSAVE and XSAVE want it.
  alignas(64) std::array<u8, kXsaveSize> xsave = [] {
    std::array<u8, kXsaveSize> area{};
    area[0] = 0x40;  // FCW = 0x0040 after RESET
    area[24] = 0x80, area[25] = 0x1f;
    return area;
  }();

  RunState run = RunState::running;
  bool unhalted = false;  ///< KVM's paravirtual kick came early: the next HLT does not wait
  u8 interrupt_shadow =
      0;  ///< 1: after STI, 2: after MOV SS / POP SS; until the next instruction ends
  bool nmi_blocked = false;  ///< between an NMI and IRET
  bool nmi_pending = false;
  // An exception or interrupt that was taken but whose delivery has not completed.
  bool event_pending = false;
  u8 event_vector = 0;
  u8 event_type = 0;  ///< as VMX: 0 external interrupt, 2 NMI, 3 exception, 4 software interrupt
  bool event_has_error = false;
  u32 event_error = 0;

  static void describe(auto& s, auto& v) {
    v.field("gpr", s.gpr);
    v.field("rip", s.rip);
    v.field("rflags", s.rflags);
    v.field("seg", s.seg);
    v.field("ldtr", s.ldtr);
    v.field("tr", s.tr);
    v.field("gdtr", s.gdtr);
    v.field("idtr", s.idtr);
    v.field("cr0", s.cr0);
    v.field("cr2", s.cr2);
    v.field("cr3", s.cr3);
    v.field("cr4", s.cr4);
    v.field("cr8", s.cr8);
    v.field("dr", s.dr);
    v.field("dr6", s.dr6);
    v.field("dr7", s.dr7);
    v.field("xcr0", s.xcr0);
    v.field("efer", s.efer);
    v.field("star", s.star);
    v.field("lstar", s.lstar);
    v.field("cstar", s.cstar);
    v.field("sfmask", s.sfmask);
    v.field("kernel_gs_base", s.kernel_gs_base);
    v.field("tsc_aux", s.tsc_aux);
    v.field("sysenter_cs", s.sysenter_cs);
    v.field("sysenter_esp", s.sysenter_esp);
    v.field("sysenter_eip", s.sysenter_eip);
    v.field("pat", s.pat);
    v.field("misc_enable", s.misc_enable);
    v.field("spec_ctrl", s.spec_ctrl);
    v.field("xss", s.xss);
    v.field("mtrr_def_type", s.mtrr_def_type);
    v.field("mtrr_variable", s.mtrr_variable);
    v.field("mtrr_fixed", s.mtrr_fixed);
    v.field("tsc", s.tsc);
    v.field("tsc_adjust", s.tsc_adjust);
    v.field("kvmclock_system", s.kvmclock_system);
    v.field("kvmclock_wall", s.kvmclock_wall);
    v.field("apic_base", s.apic_base);
    v.field("xsave", s.xsave);
    v.field("run", s.run);
    v.field("interrupt_shadow", s.interrupt_shadow);
    v.field("nmi_blocked", s.nmi_blocked);
    v.field("nmi_pending", s.nmi_pending);
    v.field("event_pending", s.event_pending);
    v.field("event_vector", s.event_vector);
    v.field("event_type", s.event_type);
    v.field("event_has_error", s.event_has_error);
    v.field("event_error", s.event_error);
    v.field("kvm_steal_time", s.kvm_steal_time, state::since(2));
    v.field("kvm_pv_eoi", s.kvm_pv_eoi, state::since(2));
    v.field("unhalted", s.unhalted, state::since(2));
  }
};

/// The registers of one local APIC (SDM 3A table 11-1). Timer deadlines are relative to the
/// machine's Clock and TSC. irq::Lapic runs on it; the KVM engine converts it to and from the
/// kernel's.
struct LapicState {
  u32 id = 0;  ///< x2APIC id; the xAPIC id is its low byte
  u8 tpr = 0;
  u32 ldr = 0, dfr = 0xffffffff;  ///< xAPIC mode
  u32 svr = 0xff;
  std::array<u32, 8> isr{}, tmr{}, irr{};
  u32 esr = 0;          ///< as the guest reads it
  u32 esr_pending = 0;  ///< errors since, which the next write to ESR makes visible
  u32 icr_low = 0, icr_high = 0;
  u32 lvt_cmci = 0x10000, lvt_timer = 0x10000, lvt_thermal = 0x10000, lvt_perf = 0x10000;
  u32 lvt_lint0 = 0x10000, lvt_lint1 = 0x10000, lvt_error = 0x10000;
  u32 timer_initial = 0, timer_divide = 0;
  Nanos timer_expires =
      0;  ///< Clock time at which a one-shot or periodic count reaches 0; 0: not armed
  u64 tsc_deadline = 0;  ///< guest TSC value; 0: not armed
  static void describe(auto& s, auto& v) {
    v.field("id", s.id);
    v.field("tpr", s.tpr);
    v.field("ldr", s.ldr);
    v.field("dfr", s.dfr);
    v.field("svr", s.svr);
    v.field("isr", s.isr);
    v.field("tmr", s.tmr);
    v.field("irr", s.irr);
    v.field("esr", s.esr);
    v.field("esr_pending", s.esr_pending);
    v.field("icr_low", s.icr_low);
    v.field("icr_high", s.icr_high);
    v.field("lvt_cmci", s.lvt_cmci);
    v.field("lvt_timer", s.lvt_timer);
    v.field("lvt_thermal", s.lvt_thermal);
    v.field("lvt_perf", s.lvt_perf);
    v.field("lvt_lint0", s.lvt_lint0);
    v.field("lvt_lint1", s.lvt_lint1);
    v.field("lvt_error", s.lvt_error);
    v.field("timer_initial", s.timer_initial);
    v.field("timer_divide", s.timer_divide);
    v.field("timer_expires", s.timer_expires);
    v.field("tsc_deadline", s.tsc_deadline);
  }
};

/// One CPUID leaf as the guest sees it. Bits that follow registers (OSXSAVE, APIC enabled, OSPKE,
/// the XSAVE size of leaf 0xd, APIC ids of leaves 1, 0xb, 0x1f) are completed by the engine per
/// vCPU.
struct CpuidLeaf {
  u32 leaf = 0, subleaf = 0;
  bool indexed = false;  ///< the subleaf matters
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};
using CpuidTable = std::vector<CpuidLeaf>;

/// What the CPU answers (SDM 2A CPUID): basic leaves above the maximum give the data of the highest
/// basic leaf; unlisted leaves and subleaves give zeros.
CpuidLeaf cpuid_lookup(const CpuidTable& table, u32 leaf, u32 subleaf);

/// IA32_ARCH_CAPABILITIES (MSR 0x10a, SDM 4 table 2-2) as a guest with this CPUID reads it: 0
/// unless it shows ARCH_CAPABILITIES, else "not affected" by everything the register can say that
/// of, and IBRS_ALL where SPEC_CTRL is shown, so that kernels choose enhanced IBRS over retpolines.
/// An engine that runs guest code on a CPU which is affected ANDs it with what the host's CPU says.
u64 arch_capabilities(const CpuidTable& table);

}  // namespace skerry::machine
