#include "engine/kvm/vcpu.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <csignal>

#include "base/log.hpp"
#include "engine/kvm/convert.hpp"

namespace skerry::kvm {

using machine::CpuState;
using machine::Exit;

namespace {

// Interrupts KVM_RUN of another thread. The handler does nothing: EINTR is all that is wanted, and
// immediate_exit catches a signal that comes just before KVM_RUN.
int kick_signal() {
  static const int number = [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGRTMIN, &action, nullptr);
    return SIGRTMIN;
  }();
  return number;
}

}  // namespace

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(Fd fd, int system_fd, unsigned index,
                                                 const machine::EngineSetup& setup,
                                                 const std::set<u32>& msrs) {
  kick_signal();
  std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(std::move(fd), index, setup, msrs));
  vcpu->run_size_ = static_cast<size_t>(
      TRY(call(system_fd, KVM_GET_VCPU_MMAP_SIZE, 0, "the size of the run structure")));
  void* map =
      ::mmap(nullptr, vcpu->run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd_.get(), 0);
  if (map == MAP_FAILED) return fail_errno("cannot map KVM's run structure");
  vcpu->run_ = static_cast<kvm_run*>(map);
  int sync = ::ioctl(system_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
  if (sync > 0) vcpu->run_->kvm_valid_regs = static_cast<u64>(sync) & KVM_SYNC_X86_REGS;
  TRY_VOID(vcpu->set_cpuid(system_fd));
  return vcpu;
}

KvmVcpu::~KvmVcpu() {
  if (run_) ::munmap(run_, run_size_);
}

Result<> KvmVcpu::set_cpuid(int system_fd) {
  auto block = std::make_unique<CpuidBlock>();
  for (const machine::CpuidLeaf& leaf : setup_.cpuid) {
    if (block->count == std::size(block->entries))
      return fail("the CPUID table has too many leaves");
    kvm_cpuid_entry2& e = block->entries[block->count++];
    e = {};
    e.function = leaf.leaf;
    e.index = leaf.subleaf;
    e.flags = leaf.indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    e.eax = leaf.eax, e.ebx = leaf.ebx, e.ecx = leaf.ecx, e.edx = leaf.edx;
    if (leaf.leaf == 1) e.ebx = (e.ebx & 0xffffff) | index_ << 24;
    if (leaf.leaf == 0xb || leaf.leaf == 0x1f) e.edx = index_;
  }
  TRY(call(fd_.get(), number::kSetCpuid2, block.get(), "the CPU model"));
  // What the model says of CPU bugs, as far as this KVM agrees.
  MsrBlock msr{};
  msr.count = 1;
  msr.entries[0].index = 0x10a;
  u64 wanted = machine::arch_capabilities(setup_.cpuid);
  if (wanted && ::ioctl(system_fd, number::kGetMsrs, &msr) == 1) {
    msr.entries[0].data &= wanted;
    ::ioctl(fd_.get(), number::kSetMsrs, &msr);
  }
  return {};
}

// ---- running

// The 8259's interrupts enter through CPU 0 (virtual wire mode); KVM takes them when the guest can.
void KvmVcpu::offer_extint() {
  run_->request_interrupt_window = 0;
  if (index_ != 0 || !setup_.extint || !setup_.extint->pending()) return;
  if (run_->ready_for_interrupt_injection) {
    kvm_interrupt interrupt{setup_.extint->acknowledge()};
    ::ioctl(fd_.get(), KVM_INTERRUPT, &interrupt);
  } else {
    run_->request_interrupt_window = 1;
  }
}

Exit KvmVcpu::run() {
  if (auto exit = next_port_element()) return *exit;
  thread_.store(::pthread_self());
  for (;;) {
    if (!io_open_) offer_extint();
    in_run_.store(true);
    int r = ::ioctl(fd_.get(), KVM_RUN, 0);
    int error = errno;
    in_run_.store(false);
    io_open_ = false;
    clock_lag_ = clock_lag();
    ++exits_;
    if (r < 0 && (error == EINTR || error == EAGAIN)) {
      run_->immediate_exit = 0;
      ++interrupted_;
      return machine::Interrupted{};
    }
    if (r < 0) {
      errno = error;
      return fatal(fail_errno("KVM_RUN").error().what);
    }
    if (auto exit = exit_of_run()) return *exit;
  }
}

std::optional<Exit> KvmVcpu::exit_of_run() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      io_open_ = true;
      port_element_ = ~u32{0};
      return next_port_element();
    case KVM_EXIT_MMIO: {
      io_open_ = true;
      u64 value = 0;
      u32 size = std::min<u32>(run_->mmio.len, 8);
      std::memcpy(&value, run_->mmio.data, size);
      return machine::Mmio{run_->mmio.phys_addr, static_cast<u8>(size), run_->mmio.is_write != 0,
                           run_->mmio.is_write ? value : 0};
    }
    case KVM_EXIT_HLT: return machine::Halt{run_->if_flag != 0};
    case KVM_EXIT_SHUTDOWN: return machine::Shutdown{};
    case KVM_EXIT_IOAPIC_EOI: return machine::IoapicEoi{run_->eoi.vector};
    case KVM_EXIT_DEBUG: {
      machine::Debug debug;
      debug.rip = run_->debug.arch.pc;
      for (unsigned i = 0; i < 4; ++i)
        if (bit(run_->debug.arch.dr6, i) && bits(run_->debug.arch.dr7, 16 + 4 * i, 2) != 0)
          debug.watch_address = run_->debug.arch.pc;
      return debug;
    }
    case KVM_EXIT_INTR: return machine::Interrupted{};
    case KVM_EXIT_IRQ_WINDOW_OPEN: ++windows_; return std::nullopt;  // offer_extint() uses it
    case KVM_EXIT_FAIL_ENTRY:
      return fatal(fmt::format("the processor refuses to enter the guest, reason {:#x}",
                               run_->fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR: {
      std::string text = fmt::format("KVM internal error {}", run_->internal.suberror);
      if (run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        text += " (an instruction that this KVM cannot emulate)";
      return fatal(text);
    }
    default: return fatal(fmt::format("unknown KVM exit {}", run_->exit_reason));
  }
}

std::optional<Exit> KvmVcpu::next_port_element() {
  if (!io_open_ || run_->exit_reason != KVM_EXIT_IO || port_element_ + 1 >= run_->io.count)
    return std::nullopt;
  ++port_element_;
  const u8* data =
      reinterpret_cast<u8*>(run_) + run_->io.data_offset + port_element_ * run_->io.size;
  u32 value = 0;
  bool write = run_->io.direction == KVM_EXIT_IO_OUT;
  if (write) std::memcpy(&value, data, run_->io.size);
  return machine::PortIo{run_->io.port, run_->io.size, write, value};
}

void KvmVcpu::answer(u64 value) {
  if (!io_open_) return;
  if (run_->exit_reason == KVM_EXIT_IO) {
    u8* data = reinterpret_cast<u8*>(run_) + run_->io.data_offset + port_element_ * run_->io.size;
    std::memcpy(data, &value, run_->io.size);
  } else {
    std::memcpy(run_->mmio.data, &value, sizeof run_->mmio.data);
  }
}

Exit KvmVcpu::fatal(std::string_view what) const {
  // KVM_RUN has just left the registers in the run structure, where it can.
  kvm_regs regs = run_->s.regs.regs;
  if (!(run_->kvm_valid_regs & KVM_SYNC_X86_REGS)) ::ioctl(fd_.get(), KVM_GET_REGS, &regs);
  return machine::Fatal{fmt::format("{} at RIP {:#x}", what, regs.rip)};
}

void KvmVcpu::kick() {
  run_->immediate_exit = 1;
  if (in_run_.load()) ::pthread_kill(thread_.load(), kick_signal());
}

// The kernel's LAPIC needs no help, but an 8259 interrupt has to be offered by run().
void KvmVcpu::notify_interrupt() {
  kick();
}

void KvmVcpu::inject_nmi() {
  ::ioctl(fd_.get(), KVM_NMI, 0);
}

// ---- state

Result<> KvmVcpu::load(const CpuState& state) {
  int fd = fd_.get();
  io_open_ = false;
  kvm_mp_state mp{to_kvm_mp_state(state.run)};
  TRY(call(fd, KVM_SET_MP_STATE, &mp, "the run state"));
  kvm_sregs sregs = to_kvm_sregs(state);
  TRY(call(fd, KVM_SET_SREGS, &sregs, "the segment and control registers"));
  kvm_regs regs = to_kvm_regs(state);
  TRY(call(fd, KVM_SET_REGS, &regs, "the general registers"));
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = state.xcr0;
  if (::ioctl(fd, KVM_SET_XCRS, &xcrs) < 0 && state.xcr0 != 1)
    return fail_errno("KVM refuses XCR0");
  kvm_xsave xsave{};
  xsave_to_host(state, {reinterpret_cast<u8*>(xsave.region), sizeof xsave.region});
  TRY(call(fd, number::kSetXsave, &xsave, "the floating-point and vector registers"));
  kvm_debugregs debug = to_kvm_debugregs(state);
  TRY(call(fd, KVM_SET_DEBUGREGS, &debug, "the debug registers"));
  TRY_VOID(load_msrs(state));
  kvm_vcpu_events events = to_kvm_events(state);
  TRY(call(fd, KVM_SET_VCPU_EVENTS, &events, "the pending events"));
  return {};
}

Result<> KvmVcpu::save(CpuState& state) {
  int fd = fd_.get();
  kvm_regs regs{};
  TRY(call(fd, KVM_GET_REGS, &regs, "to read the general registers"));
  from_kvm(regs, state);
  kvm_sregs sregs{};
  TRY(call(fd, KVM_GET_SREGS, &sregs, "to read the segment and control registers"));
  from_kvm(sregs, state);
  kvm_xcrs xcrs{};
  if (::ioctl(fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs > 0) state.xcr0 = xcrs.xcrs[0].value;
  kvm_xsave xsave{};
  TRY(call(fd, number::kGetXsave, &xsave, "to read the vector registers"));
  xsave_from_host({reinterpret_cast<u8*>(xsave.region), sizeof xsave.region}, state);
  kvm_debugregs debug{};
  TRY(call(fd, KVM_GET_DEBUGREGS, &debug, "to read the debug registers"));
  from_kvm(debug, state);
  TRY_VOID(save_msrs(state));
  kvm_vcpu_events events{};
  TRY(call(fd, KVM_GET_VCPU_EVENTS, &events, "to read the pending events"));
  from_kvm(events, state);
  kvm_mp_state mp{};
  TRY(call(fd, KVM_GET_MP_STATE, &mp, "to read the run state"));
  state.run = from_kvm_mp_state(mp.mp_state);
  return {};
}

// How far the host's counter is ahead of the machine's clock: grows while the machine is paused.
u64 KvmVcpu::clock_lag() const {
  return host_tsc() - setup_.clock->ticks();
}

// One at a time, so that a refusal can name its MSR. A value of 0 that this KVM does not know is
// what the guest would find anyway.
Result<> KvmVcpu::load_msrs(const CpuState& state) {
  for (const MsrValue& msr : msrs_of(state)) {
    if (!msrs_.contains(msr.index) && msr.value == 0) continue;
    MsrBlock block{};
    block.count = 1;
    block.entries[0] = {msr.index, 0, msr.value};
    int done = ::ioctl(fd_.get(), number::kSetMsrs, &block);
    if (done != 1 && msr.value != 0 && msrs_.contains(msr.index))
      return fail("KVM refuses {:#x} in MSR {:#x}", msr.value, msr.index);
  }
  return {};
}

Result<> KvmVcpu::save_msrs(CpuState& state) {
  for (const MsrValue& msr : msrs_of(state)) {
    MsrBlock block{};
    block.count = 1;
    block.entries[0].index = msr.index;
    if (::ioctl(fd_.get(), number::kGetMsrs, &block) == 1)
      *msr_field(msr.index, state) = block.entries[0].data;
  }
  // KVM's counter runs on while the machine is paused; the state is as of the moment the clock
  // stopped.
  if (clock_lag_) state.tsc -= clock_lag() - clock_lag_;
  return {};
}

Result<bool> KvmVcpu::x2apic() {
  kvm_sregs sregs{};
  TRY(call(fd_.get(), KVM_GET_SREGS, &sregs, "to read IA32_APIC_BASE"));
  return bit(sregs.apic_base, 10);
}

Result<> KvmVcpu::load_lapic(const machine::LapicState& state) {
  kvm_lapic_state regs = to_kvm_lapic(state, TRY(x2apic()), setup_.clock->now());
  TRY(call(fd_.get(), KVM_SET_LAPIC, &regs, "the local APIC"));
  if (state.tsc_deadline) {
    MsrBlock block{};
    block.count = 1;
    block.entries[0] = {0x6e0, 0, state.tsc_deadline};
    if (::ioctl(fd_.get(), number::kSetMsrs, &block) != 1)
      return fail("KVM refuses IA32_TSC_DEADLINE");
  }
  return {};
}

Result<> KvmVcpu::save_lapic(machine::LapicState& state) {
  kvm_lapic_state regs{};
  TRY(call(fd_.get(), KVM_GET_LAPIC, &regs, "to read the local APIC"));
  state = from_kvm_lapic(regs, TRY(x2apic()), setup_.clock->now());
  MsrBlock block{};
  block.count = 1;
  block.entries[0].index = 0x6e0;
  if (::ioctl(fd_.get(), number::kGetMsrs, &block) == 1) state.tsc_deadline = block.entries[0].data;
  return {};
}

std::vector<machine::Counter> KvmVcpu::counters() const {
  return {{"KVM exits", exits_},
          {"KVM exits for a signal", interrupted_},
          {"KVM exits for an interrupt window", windows_}};
}

// ---- debugging

Result<> KvmVcpu::set_debug(const machine::DebugRequest& request) {
  kvm_guest_debug debug{};
  unsigned used = 0;
  auto add = [&](u64 address, u64 type, u64 length) {
    debug.arch.debugreg[used] = address;
    debug.arch.debugreg[7] |= 2ull << (2 * used) | (type | length << 2) << (16 + 4 * used);
    ++used;
  };
  if (request.breakpoints.size() + request.watches.size() > 4)
    return fail_hint("delete some, or run with --engine soft, which has no such limit",
                     "KVM has room for 4 breakpoints and watchpoints");
  for (u64 address : request.breakpoints) add(address, 0, 0);
  for (const auto& w : request.watches) {
    u64 length = w.length >= 8 ? 2 : w.length >= 4 ? 3 : w.length >= 2 ? 1 : 0;
    add(w.address, w.on_read ? 3 : 1, length);
  }
  if (request.any()) debug.control = KVM_GUESTDBG_ENABLE;
  if (used) debug.control |= KVM_GUESTDBG_USE_HW_BP;
  if (request.single_step) debug.control |= KVM_GUESTDBG_SINGLESTEP;
  TRY(call(fd_.get(), KVM_SET_GUEST_DEBUG, &debug, "the debugger's breakpoints"));
  return {};
}

std::optional<memory::Gpa> KvmVcpu::translate(u64 virtual_address) {
  kvm_translation t{};
  t.linear_address = virtual_address;
  if (::ioctl(fd_.get(), KVM_TRANSLATE, &t) < 0 || !t.valid) return std::nullopt;
  return t.physical_address;
}

}  // namespace skerry::kvm
