#include "engine/soft/vcpu.hpp"

#include "engine/soft/jit.hpp"
#include "engine/soft/segments.hpp"
#include "engine/soft/thunk.hpp"

namespace skerry::soft {
namespace {

constexpr u64 kPe = 1, kPg = u64{1} << 31, kPae = 1 << 5, kLme = 1 << 8, kLma = 1 << 10,
              kPcide = 1 << 17;

// States that no processor can be in. Everything else, however odd, only confuses the guest.
Result<> check(const machine::CpuState& s) {
  if ((s.cr0 & kPg) && !(s.cr0 & kPe)) return fail("CR0 has paging without protection");
  if (s.cr0 >> 32) return fail("CR0 has upper bits set");
  const bool lma = s.efer & kLma;
  if (lma != ((s.efer & kLme) && (s.cr0 & kPg)))
    return fail("EFER.LMA {} does not fit EFER.LME and CR0.PG", lma ? 1 : 0);
  if (lma && !(s.cr4 & kPae)) return fail("CR4.PAE is 0 in long mode");
  if (lma && (s.rflags & VM)) return fail("RFLAGS.VM is set in long mode");
  return {};
}

}  // namespace

SoftVcpu::SoftVcpu(std::shared_ptr<Shared> shared, unsigned index, machine::LocalApic* lapic)
    : shared_(std::move(shared)), cpu_(&room_.cpu()), core_(*cpu_, *shared_, index, lapic) {
  if (lapic) lapic->set_tsc([this] { return core_.guest_tsc(); }, shared_->setup.tsc_hz);
  if (!shared_->setup.interpreter) core_.jit = Jit::create(core_);
  (void)load(machine::CpuState{});
}

SoftVcpu::~SoftVcpu() {
  if (core_.lapic) core_.lapic->set_tsc({}, shared_->setup.tsc_hz);
}

std::vector<machine::Counter> SoftVcpu::counters() const {
  // Translated code does not count what it executes.
  std::vector<machine::Counter> all{
      {core_.jit ? "instructions by the interpreter" : "instructions", core_.instructions}};
  if (core_.jit) core_.jit->report(all);
  if (core_.index == 0 && shared_->setup.trace_tables) {  // of all vCPUs, and of devices
    const memory::DirtyMap& pages = core_.memory.dirty();
    all.insert(all.end(), {{"page tables traced", pages.tables_traced},
                           {"page tables released", pages.tables_released},
                           {"stores into page tables", pages.table_stores}});
  }
  return all;
}

void SoftVcpu::answer(u64 value) {
  if (!core_.mid_instruction || core_.answered) return;
  core_.log_access(value);
  core_.answered = true;
}

Result<> SoftVcpu::load(const machine::CpuState& state) {
  TRY_VOID(check(state));
  Cpu& cpu = *cpu_;
  cpu.s = state;
  for (unsigned i = 0; i < 16; ++i) cpu.gpr[i] = state.gpr[i];
  cpu.gpr[16] = 0;
  cpu.rip = state.rip;
  cpu.set_eflags((state.rflags & 0x3f7fd7) | 2);
  cpu.seg = state.seg;
  cpu.s.cr0 |= 0x10;
  // CPL is SS.DPL (SDM 3A 5.5 has it in CS's RPL, which differs for conforming code only).
  cpu.cpl = (state.cr0 & kPe) ? ((cpu.rflags & VM) ? u8{3} : state.seg[machine::ss].dpl()) : u8{0};
  vector_state_loaded(cpu.s);
  core_.vectors_touched = true;
  core_.tsc_offset = state.tsc - core_.ticks();
  cpu.tlb.reset(state.cr4 & kPcide ? state.cr3 & 0xfff : 0);
  core_.pdptr = {};
  if ((state.cr0 & kPg) && (state.cr4 & kPae) && !(state.efer & kLma) &&
      !core_.load_pdptrs(state.cr3))
    return fail("CR3 {:#x} names page-directory pointers with reserved bits set", state.cr3);
  core_.io_log.clear();
  core_.io_next = 0;
  cpu.io_used = false;
  cpu.pending_exit = false;
  core_.mid_instruction = core_.answered = false;
  core_.shutdown = state.run == machine::RunState::shutdown;
  core_.trap_bits = 0;
  core_.interrupt_waiting = false;
  core_.clock_check = true;
  core_.kvmclock_line = 0;
  core_.resume_rip = ~u64{0};
  core_.nmi_line = state.nmi_pending;
  cpu.attention.fetch_or(kInterrupt | (state.nmi_pending ? u32{kNmi} : 0));
  cpu.update_mode();
  if (state.event_pending) {
    using Kind = Cpu::Core::Kind;
    Kind kind = state.event_type == 0   ? Kind::external
                : state.event_type == 2 ? Kind::nmi
                : state.event_type == 4 ? Kind::software
                                        : Kind::fault;
    cpu.s.event_pending = false;
    if (!core_.deliver(state.event_vector, kind, state.event_has_error, state.event_error, cpu.rip))
      core_.shutdown = true;
  }
  return {};
}

Result<> SoftVcpu::reload(const machine::CpuState& state) {
  const u64 offset = core_.tsc_offset;
  TRY_VOID(load(state));
  core_.tsc_offset = offset;
  return {};
}

Result<> SoftVcpu::save(machine::CpuState& state) {
  const Cpu& cpu = *cpu_;
  state = cpu.s;
  for (unsigned i = 0; i < 16; ++i) state.gpr[i] = cpu.gpr[i];
  state.rip = cpu.rip;
  state.rflags = cpu.eflags();
  state.seg = cpu.seg;
  vector_state_saving(state);
  state.tsc = core_.guest_tsc();
  state.nmi_pending = core_.nmi_line.load();
  if (core_.lapic) {
    state.apic_base = core_.lapic->apic_base();
    state.cr8 = core_.lapic->cr8();
  }
  if (core_.shutdown) state.run = machine::RunState::shutdown;
  return {};
}

void SoftVcpu::inject_nmi() {
  core_.nmi_line = true;
  cpu_->attention.fetch_or(kNmi, std::memory_order_seq_cst);
}

Result<> SoftVcpu::set_debug(const machine::DebugRequest& request) {
  core_.debug = request;
  cpu_->tlb.flush_all();
  core_.update_careful();
  return {};
}

std::optional<memory::Gpa> SoftVcpu::translate(u64 at) {
  Cpu& cpu = *cpu_;
  if (cpu.long_mode ? !canonical(at) : at >> 32) return std::nullopt;
  // Without SMAP: a debugger may look at user pages.
  const u64 cr4 = std::exchange(cpu.s.cr4, cpu.s.cr4 & ~(u64{1} << 21));
  Walk walk;
  u32 error;
  bool ok = core_.walk(at, Cpu::Core::Use::read, false, false, false, walk, error);
  cpu.s.cr4 = cr4;
  if (!ok) return std::nullopt;
  return walk.gpa;
}

}  // namespace skerry::soft
