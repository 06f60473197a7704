#include "machine/vcpu_thread.hpp"

#include <pthread.h>

#include "base/log.hpp"

namespace skerry::machine {

CpuState after_init(const CpuState& before) {
  CpuState s;
  s.gpr[rdx] = before.gpr[rdx];
  s.cr0 = 0x10 | (before.cr0 & 0x60000000);  // CD and NW stay
  s.xcr0 = before.xcr0;
  s.xsave = before.xsave;
  s.star = before.star, s.lstar = before.lstar, s.cstar = before.cstar, s.sfmask = before.sfmask;
  s.kernel_gs_base = before.kernel_gs_base;
  s.tsc_aux = before.tsc_aux;
  s.sysenter_cs = before.sysenter_cs;
  s.sysenter_esp = before.sysenter_esp;
  s.sysenter_eip = before.sysenter_eip;
  s.pat = before.pat, s.misc_enable = before.misc_enable;
  s.mtrr_def_type = before.mtrr_def_type;
  s.mtrr_variable = before.mtrr_variable;
  s.mtrr_fixed = before.mtrr_fixed;
  s.tsc = before.tsc, s.tsc_adjust = before.tsc_adjust;
  s.kvmclock_system = before.kvmclock_system, s.kvmclock_wall = before.kvmclock_wall;
  s.apic_base = before.apic_base;
  return s;
}

VcpuThread::~VcpuThread() {
  stop();
}

void VcpuThread::attach(std::unique_ptr<Vcpu> vcpu, LocalApic* lapic) {
  vcpu_ = std::move(vcpu);
  lapic_ = lapic;
}

void VcpuThread::start() {
  SKERRY_CHECK(vcpu_ && !thread_.joinable());
  want_park_ = true;
  parked_ = false;
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), fmt::format("vcpu{}", index_).c_str());
    main();
  });
  wait_parked();
}

void VcpuThread::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard guard(mutex_);
    want_stop_ = true;
  }
  changed_.notify_all();
  vcpu_->kick();
  thread_.join();
  want_stop_ = false;
}

void VcpuThread::park() {
  {
    std::lock_guard guard(mutex_);
    want_park_ = true;
  }
  changed_.notify_all();
  if (vcpu_) vcpu_->kick();
}

void VcpuThread::wait_parked() {
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [&] { return parked_ || !thread_.joinable(); });
}

void VcpuThread::unpark() {
  std::lock_guard guard(mutex_);
  want_park_ = false;
  changed_.notify_all();
}

bool VcpuThread::parked() const {
  std::lock_guard guard(mutex_);
  return parked_;
}

Result<> VcpuThread::load(const CpuState& state) {
  run_ = state.run;
  interruptible_ = state.rflags & 0x200;
  unhalted_ = state.unhalted;
  events_ = 0;
  return vcpu_->load(state);
}

Result<> VcpuThread::save(CpuState& state) {
  // An NMI, INIT or SIPI that came when the vCPU was already on its way to park is part of its
  // state.
  if (u32 events = events_.exchange(0)) take_events(events);
  TRY_VOID(vcpu_->save(state));
  if (lapic_) state.run = run_, state.unhalted = unhalted_;
  return {};
}

std::vector<Counter> VcpuThread::counters() const {
  std::vector<Counter> all = vcpu_->counters();
  auto add = [&](std::string_view name, const Exit& kind) {
    all.push_back({name, exits_[kind.index()]});
  };
  add("port accesses", PortIo{});
  add("memory-mapped accesses", Mmio{});
  add("halts", Halt{});
  add("interruptions by the machine", Interrupted{});
  return all;
}

// ---- VcpuPort: any thread

void VcpuThread::post(u32 events) {
  events_.fetch_or(events);
  if (sleeping_.load()) {
    std::lock_guard guard(mutex_);
    changed_.notify_all();
  }
}

void VcpuThread::notify_interrupt() {
  post(kWake);
  if (vcpu_) vcpu_->notify_interrupt();
}

void VcpuThread::nmi() {
  post(kNmi);
  if (vcpu_) vcpu_->kick();
}

void VcpuThread::init() {
  post(kInit);
  if (vcpu_) vcpu_->kick();
}

void VcpuThread::sipi(u8 vector) {
  sipi_vector_ = vector;
  post(kSipi);
  if (vcpu_) vcpu_->kick();
}

// ---- the vCPU's thread

void VcpuThread::main() {
  while (step()) {
  }
}

bool VcpuThread::step() {
  if (want_park_ || want_stop_) {
    settle();
    if (lapic_) lapic_->settle();
    std::unique_lock guard(mutex_);
    parked_ = true;
    changed_.notify_all();
    changed_.wait(guard, [&] { return !want_park_ || want_stop_; });
    parked_ = false;
    if (want_stop_) {
      parked_ = true;
      return false;
    }
    return true;
  }
  if (u32 events = events_.exchange(0)) take_events(events);
  if (run_ == RunState::shutdown) {  // resumed by somebody who had a look at it
    dispatch(Shutdown{});
    return true;
  }
  if (run_ != RunState::running && lapic_ && !wait_for_wake()) return true;
  dispatch(vcpu_->run());
  return true;
}

void VcpuThread::take_events(u32 events) {
  if (events & kNmi) {
    if (run_ == RunState::halted) run_ = RunState::running;
    vcpu_->inject_nmi();
  }
  if (events & kInit) {
    settle();
    CpuState state;
    auto done = vcpu_->save(state);
    lapic_->init_reset();
    bool bootstrap = lapic_->apic_base() & 0x100;
    state = after_init(state);
    unhalted_ = false;
    state.apic_base = lapic_->apic_base();
    if (done) done = vcpu_->reload(state);
    run_ = bootstrap ? RunState::running : RunState::wait_for_sipi;
    trace(Trace::cpu, "cpu{} INIT", index_);
    if (!done) dispatch(Fatal{done.error().what});
  }
  if (events & kUnhalt) {
    if (run_ == RunState::halted)
      run_ = RunState::running;
    else
      unhalted_ = run_ == RunState::running;
  }
  if (events & kSipi && run_ == RunState::wait_for_sipi) {
    CpuState state;
    auto done = vcpu_->save(state);
    u8 vector = sipi_vector_;
    state.seg[cs].selector = static_cast<u16>(vector << 8);
    state.seg[cs].base = u64{vector} << 12;
    state.rip = 0;
    if (done) done = vcpu_->reload(state);
    run_ = RunState::running;
    trace(Trace::cpu, "cpu{} SIPI, starts at {:#x}", index_, state.seg[cs].base);
    if (!done) dispatch(Fatal{done.error().what});
  }
}

bool VcpuThread::wait_for_wake() {
  if (run_ == RunState::halted) {
    lapic_->run_timer();
    if (interruptible_ && lapic_->deliverable()) {
      run_ = RunState::running;
      return true;
    }
  }
  std::optional<Nanos> deadline;
  if (run_ == RunState::halted && interruptible_) deadline = lapic_->timer_deadline();
  Nanos began = HostClock::monotonic();
  if (poll_for_wake(began)) return false;
  std::unique_lock guard(mutex_);
  sleeping_ = true;
  auto awake = [&] { return events_.load() || want_park_ || want_stop_; };
  if (deadline) {
    Nanos wait = *deadline - host_.clock->now();
    if (wait > 0) changed_.wait_for(guard, std::chrono::nanoseconds(wait), awake);
  } else {
    changed_.wait(guard, awake);
  }
  sleeping_ = false;
  bool soon = HostClock::monotonic() - began < kLongestPoll;
  poll_ = soon ? std::clamp(2 * poll_, kLongestPoll / 4, kLongestPoll) : 0;
  return false;
}

// To fall asleep and be woken takes longer than a disk or a network needs to answer. So who was
// woken soon the last time looks for a while first; who slept long does not.
bool VcpuThread::poll_for_wake(Nanos began) const {
  static const bool alone = std::thread::hardware_concurrency() < 2;
  if (poll_ == 0 || alone) return false;
  do {
    if (events_.load(std::memory_order_relaxed)) return true;
    __builtin_ia32_pause();
  } while (HostClock::monotonic() - began < poll_);
  return false;
}

void VcpuThread::access(const Mmio& mmio) {
  if (lapic_ && lapic_->claims(mmio.at)) {
    // Registers are 32 bits wide on 16-byte boundaries; narrower reads see their part, other writes
    // are undefined (SDM 3A 11.4.1) and ignored here.
    u32 offset = static_cast<u32>(mmio.at & 0xfff);
    if (!mmio.write) {
      vcpu_->answer((u64{lapic_->mmio_read(offset & ~3u)} >> (8 * (offset & 3))) &
                    byte_mask(mmio.size));
    } else if (mmio.size == 4 && offset % 4 == 0) {
      lapic_->mmio_write(offset, static_cast<u32>(mmio.value));
    }
  } else if (mmio.write) {
    host_.memory->write(mmio.at, mmio.size, mmio.value);
  } else {
    vcpu_->answer(host_.memory->read(mmio.at, mmio.size));
  }
}

void VcpuThread::dispatch(Exit exit) {
  ++exits_[exit.index()];
  if (auto* port = std::get_if<PortIo>(&exit)) {
    if (port->write) {
      host_.ports->write(port->port, port->size, port->value);
    } else {
      vcpu_->answer(host_.ports->read(port->port, port->size));
    }
  } else if (auto* mmio = std::get_if<Mmio>(&exit)) {
    access(*mmio);
  } else if (auto* halt = std::get_if<Halt>(&exit)) {
    if (lapic_ && !std::exchange(unhalted_, false)) run_ = RunState::halted;
    interruptible_ = halt->interrupts_enabled;
  } else if (auto* eoi = std::get_if<IoapicEoi>(&exit)) {
    if (host_.ioapic_eoi) host_.ioapic_eoi(eoi->vector);
  } else if (auto* debug = std::get_if<Debug>(&exit)) {
    park();
    if (host_.debug_hit) host_.debug_hit(index_, *debug);
  } else if (std::get_if<Shutdown>(&exit)) {
    run_ = RunState::shutdown;
    trace(Trace::exit, "cpu{} triple fault", index_);
    park();
    host_.control->request(Request::crash, index_);
  } else if (auto* fatal = std::get_if<Fatal>(&exit)) {
    log_warn(fmt::format("CPU {} cannot go on: {}", index_, fatal->text));
    park();
    host_.control->request(Request::fatal, index_);
  }
}

// Bounded: one instruction makes a bounded number of device accesses.
void VcpuThread::settle() {
  for (int i = 0; vcpu_->mid_instruction() && i < 100000; ++i) {
    vcpu_->kick();
    dispatch(vcpu_->run());
  }
}

}  // namespace skerry::machine
