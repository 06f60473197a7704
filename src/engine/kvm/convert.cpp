#include "engine/kvm/convert.hpp"

#include <cpuid.h>
#include <algorithm>

namespace skerry::kvm {

using machine::CpuState;
using machine::LapicState;
using machine::RunState;
using machine::Segment;

kvm_regs to_kvm_regs(const CpuState& s) {
  using namespace machine;
  kvm_regs r{};
  r.rax = s.gpr[rax], r.rbx = s.gpr[rbx], r.rcx = s.gpr[rcx], r.rdx = s.gpr[rdx];
  r.rsi = s.gpr[rsi], r.rdi = s.gpr[rdi], r.rsp = s.gpr[rsp], r.rbp = s.gpr[rbp];
  r.r8 = s.gpr[r8], r.r9 = s.gpr[r9], r.r10 = s.gpr[r10], r.r11 = s.gpr[r11];
  r.r12 = s.gpr[r12], r.r13 = s.gpr[r13], r.r14 = s.gpr[r14], r.r15 = s.gpr[r15];
  r.rip = s.rip;
  r.rflags = s.rflags;
  return r;
}

void from_kvm(const kvm_regs& r, CpuState& s) {
  s.gpr = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
           r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  s.rip = r.rip;
  s.rflags = r.rflags;
}

namespace {

kvm_segment to_kvm(const Segment& s) {
  kvm_segment k{};
  k.base = s.base, k.limit = s.limit, k.selector = s.selector;
  u32 a = s.attributes;
  k.type = a & 15, k.s = (a >> 4) & 1, k.dpl = (a >> 5) & 3, k.present = (a >> 7) & 1;
  k.avl = (a >> 12) & 1, k.l = (a >> 13) & 1, k.db = (a >> 14) & 1, k.g = (a >> 15) & 1;
  k.unusable = s.unusable();
  return k;
}

Segment from_kvm_segment(const kvm_segment& k) {
  Segment s;
  s.base = k.base, s.limit = k.limit, s.selector = k.selector;
  s.attributes = k.type | u32{k.s} << 4 | u32{k.dpl} << 5 | u32{k.present} << 7 | u32{k.avl} << 12 |
                 u32{k.l} << 13 | u32{k.db} << 14 | u32{k.g} << 15 |
                 (k.unusable ? Segment::kUnusable : 0);
  return s;
}

}  // namespace

kvm_sregs to_kvm_sregs(const CpuState& s) {
  kvm_sregs k{};
  k.es = to_kvm(s.seg[machine::es]), k.cs = to_kvm(s.seg[machine::cs]);
  k.ss = to_kvm(s.seg[machine::ss]), k.ds = to_kvm(s.seg[machine::ds]);
  k.fs = to_kvm(s.seg[machine::fs]), k.gs = to_kvm(s.seg[machine::gs]);
  k.tr = to_kvm(s.tr), k.ldt = to_kvm(s.ldtr);
  k.gdt.base = s.gdtr.base, k.gdt.limit = s.gdtr.limit;
  k.idt.base = s.idtr.base, k.idt.limit = s.idtr.limit;
  k.cr0 = s.cr0, k.cr2 = s.cr2, k.cr3 = s.cr3, k.cr4 = s.cr4, k.cr8 = s.cr8;
  k.efer = s.efer;
  k.apic_base = s.apic_base;
  if (s.event_pending && s.event_type == 0)
    k.interrupt_bitmap[s.event_vector / 64] |= u64{1} << (s.event_vector % 64);
  return k;
}

void from_kvm(const kvm_sregs& k, CpuState& s) {
  s.seg = {from_kvm_segment(k.es), from_kvm_segment(k.cs), from_kvm_segment(k.ss),
           from_kvm_segment(k.ds), from_kvm_segment(k.fs), from_kvm_segment(k.gs)};
  s.tr = from_kvm_segment(k.tr), s.ldtr = from_kvm_segment(k.ldt);
  s.gdtr = {k.gdt.base, k.gdt.limit};
  s.idtr = {k.idt.base, k.idt.limit};
  s.cr0 = k.cr0, s.cr2 = k.cr2, s.cr3 = k.cr3, s.cr4 = k.cr4, s.cr8 = k.cr8;
  s.efer = k.efer;
  s.apic_base = k.apic_base;
}

kvm_vcpu_events to_kvm_events(const CpuState& s) {
  kvm_vcpu_events e{};
  e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  e.interrupt.shadow = s.interrupt_shadow == 1   ? KVM_X86_SHADOW_INT_STI
                       : s.interrupt_shadow == 2 ? KVM_X86_SHADOW_INT_MOV_SS
                                                 : 0;
  e.nmi.masked = s.nmi_blocked;
  e.nmi.pending = s.nmi_pending;
  if (s.event_pending) {
    if (s.event_type == 3) {
      e.exception.injected = 1;
      e.exception.nr = s.event_vector;
      e.exception.has_error_code = s.event_has_error;
      e.exception.error_code = s.event_error;
    } else if (s.event_type == 2) {
      e.nmi.injected = 1;
    } else {
      e.interrupt.injected = 1;
      e.interrupt.nr = s.event_vector;
      e.interrupt.soft = s.event_type == 4;
    }
  }
  return e;
}

void from_kvm(const kvm_vcpu_events& e, CpuState& s) {
  s.interrupt_shadow = e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2
                       : e.interrupt.shadow & KVM_X86_SHADOW_INT_STI  ? 1
                                                                      : 0;
  s.nmi_blocked = e.nmi.masked;
  s.nmi_pending = e.nmi.pending;
  s.event_pending = e.exception.injected || e.interrupt.injected || e.nmi.injected;
  s.event_vector = 0, s.event_type = 0, s.event_has_error = false, s.event_error = 0;
  if (e.exception.injected) {
    s.event_type = 3;
    s.event_vector = e.exception.nr;
    s.event_has_error = e.exception.has_error_code;
    s.event_error = e.exception.error_code;
  } else if (e.nmi.injected) {
    s.event_type = 2;
    s.event_vector = 2;
  } else if (e.interrupt.injected) {
    s.event_type = e.interrupt.soft ? 4 : 0;
    s.event_vector = e.interrupt.nr;
  }
}

kvm_debugregs to_kvm_debugregs(const CpuState& s) {
  kvm_debugregs d{};
  std::ranges::copy(s.dr, d.db);
  d.dr6 = s.dr6, d.dr7 = s.dr7;
  return d;
}

void from_kvm(const kvm_debugregs& d, CpuState& s) {
  std::copy(std::begin(d.db), std::end(d.db), s.dr.begin());
  s.dr6 = d.dr6, s.dr7 = d.dr7;
}

namespace {

struct Component {
  unsigned bit, ours, size;
};
// SDM 1 table 13-1 sizes; offsets as in CpuState.
constexpr Component kComponents[] = {{2, 576, 256}, {5, 1088, 64}, {6, 1152, 512}, {7, 1664, 1024}};

unsigned host_offset(unsigned component) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __cpuid_count(0xd, component, a, b, c, d);
  return a ? b : 0;
}

template <class From, class To>
void copy_components(From from, bool from_is_ours, To to) {
  std::copy_n(from.begin(), 576, to.begin());  // legacy region and header
  for (const Component& c : kComponents) {
    unsigned host = host_offset(c.bit);
    if (host == 0) continue;
    unsigned source = from_is_ours ? c.ours : host, target = from_is_ours ? host : c.ours;
    if (source + c.size > from.size() || target + c.size > to.size()) continue;
    std::copy_n(from.begin() + source, c.size, to.begin() + target);
  }
}

}  // namespace

void xsave_to_host(const CpuState& s, std::span<u8> host) {
  copy_components(std::span<const u8>(s.xsave), true, host);
}

void xsave_from_host(std::span<const u8> host, CpuState& s) {
  copy_components(host, false, std::span<u8>(s.xsave));
}

namespace {

struct MsrRow {
  u32 index;
  u64 CpuState::*field;
};
constexpr MsrRow kMsrs[] = {
    {0xc0000081, &CpuState::star},
    {0xc0000082, &CpuState::lstar},
    {0xc0000083, &CpuState::cstar},
    {0xc0000084, &CpuState::sfmask},
    {0xc0000102, &CpuState::kernel_gs_base},
    {0xc0000103, &CpuState::tsc_aux},
    {0x174, &CpuState::sysenter_cs},
    {0x175, &CpuState::sysenter_esp},
    {0x176, &CpuState::sysenter_eip},
    {0x277, &CpuState::pat},
    {0x1a0, &CpuState::misc_enable},
    {0x48, &CpuState::spec_ctrl},
    {0xda0, &CpuState::xss},
    {0x2ff, &CpuState::mtrr_def_type},
    {0x3b, &CpuState::tsc_adjust},
    {0x10, &CpuState::tsc},
    {0x4b564d00, &CpuState::kvmclock_wall},
    {0x4b564d01, &CpuState::kvmclock_system},
    {0x4b564d03, &CpuState::kvm_steal_time},
    {0x4b564d04, &CpuState::kvm_pv_eoi},
};
constexpr u32 kMtrrFixed[11] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

}  // namespace

u64* msr_field(u32 index, CpuState& s) {
  for (const MsrRow& row : kMsrs)
    if (row.index == index) return &(s.*row.field);
  for (unsigned i = 0; i < 11; ++i)
    if (kMtrrFixed[i] == index) return &s.mtrr_fixed[i];
  if (index >= 0x200 && index < 0x210) return &s.mtrr_variable[index - 0x200];
  return nullptr;
}

std::vector<MsrValue> msrs_of(const CpuState& s) {
  std::vector<MsrValue> list;
  for (unsigned i = 0; i < 11; ++i) list.push_back({kMtrrFixed[i], s.mtrr_fixed[i]});
  for (unsigned i = 0; i < 16; ++i) list.push_back({0x200 + i, s.mtrr_variable[i]});
  for (const MsrRow& row : kMsrs) list.push_back({row.index, s.*row.field});
  return list;
}

namespace {

// Offsets of the xAPIC page (SDM 3A table 11-1).
constexpr Nanos kBusTick = 1;  ///< 1 GHz, as irq::Lapic and CPUID leaf 0x40000010 say
u32 divider(u32 dcr) {
  u32 v = (dcr & 3) | ((dcr >> 1) & 4);
  return v == 7 ? 1 : 2u << v;
}

}  // namespace

kvm_lapic_state to_kvm_lapic(const LapicState& s, bool x2apic, Nanos now) {
  kvm_lapic_state k{};
  auto put = [&](unsigned offset, u32 value) { std::memcpy(k.regs + offset, &value, 4); };
  put(0x20, x2apic ? s.id : s.id << 24);
  put(0x30, 0x50014);
  put(0x80, s.tpr);
  put(0xd0, x2apic ? ((s.id >> 4) << 16 | 1u << (s.id & 15)) : s.ldr);
  put(0xe0, s.dfr);
  put(0xf0, s.svr);
  for (unsigned i = 0; i < 8; ++i) {
    put(0x100 + 16 * i, s.isr[i]);
    put(0x180 + 16 * i, s.tmr[i]);
    put(0x200 + 16 * i, s.irr[i]);
  }
  put(0x280, s.esr);
  put(0x2f0, s.lvt_cmci);
  put(0x300, s.icr_low);
  put(0x310, s.icr_high);
  put(0x320, s.lvt_timer);
  put(0x330, s.lvt_thermal);
  put(0x340, s.lvt_perf);
  put(0x350, s.lvt_lint0);
  put(0x360, s.lvt_lint1);
  put(0x370, s.lvt_error);
  put(0x380, s.timer_initial);
  u64 left = s.timer_expires > now ? static_cast<u64>(s.timer_expires - now) : 0;
  put(0x390, static_cast<u32>(left / kBusTick / divider(s.timer_divide)));
  put(0x3e0, s.timer_divide);
  return k;
}

LapicState from_kvm_lapic(const kvm_lapic_state& k, bool x2apic, Nanos now) {
  LapicState s;
  auto get = [&](unsigned offset) {
    u32 value;
    std::memcpy(&value, k.regs + offset, 4);
    return value;
  };
  s.id = x2apic ? get(0x20) : get(0x20) >> 24;
  s.tpr = static_cast<u8>(get(0x80));
  s.ldr = x2apic ? 0 : get(0xd0);
  s.dfr = get(0xe0);
  s.svr = get(0xf0);
  for (unsigned i = 0; i < 8; ++i) {
    s.isr[i] = get(0x100 + 16 * i);
    s.tmr[i] = get(0x180 + 16 * i);
    s.irr[i] = get(0x200 + 16 * i);
  }
  s.esr = get(0x280);
  s.lvt_cmci = get(0x2f0);
  s.icr_low = get(0x300);
  s.icr_high = get(0x310);
  s.lvt_timer = get(0x320);
  s.lvt_thermal = get(0x330);
  s.lvt_perf = get(0x340);
  s.lvt_lint0 = get(0x350);
  s.lvt_lint1 = get(0x360);
  s.lvt_error = get(0x370);
  s.timer_initial = get(0x380);
  s.timer_divide = get(0x3e0);
  if (u32 count = get(0x390))
    s.timer_expires = now + static_cast<Nanos>(u64{count} * divider(s.timer_divide) * kBusTick);
  return s;
}

u32 to_kvm_mp_state(RunState run) {
  switch (run) {
    case RunState::running: return KVM_MP_STATE_RUNNABLE;
    case RunState::halted: return KVM_MP_STATE_HALTED;
    case RunState::wait_for_sipi: return KVM_MP_STATE_INIT_RECEIVED;
    case RunState::shutdown: return KVM_MP_STATE_RUNNABLE;
  }
  return KVM_MP_STATE_RUNNABLE;
}

RunState from_kvm_mp_state(u32 mp_state) {
  switch (mp_state) {
    case KVM_MP_STATE_HALTED: return RunState::halted;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED: return RunState::wait_for_sipi;
    default: return RunState::running;
  }
}

}  // namespace skerry::kvm
