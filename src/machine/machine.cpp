#include "machine/machine.hpp"

#include <pthread.h>

#include "base/log.hpp"

namespace skerry::machine {
namespace {

// A timer on the machine's loop. The loop may be about to run an expiry that was meanwhile re-armed
// or cancelled; the generation, read under the board lock, tells.
class LoopTimer final : public Timer {
 public:
  LoopTimer(EventLoop& loop, std::mutex& lock, std::function<void()> expired)
      : loop_(loop), shared_(std::make_shared<Shared>(lock, std::move(expired))) {}
  ~LoopTimer() override { disarm(); }

  void arm(Nanos deadline) override {
    disarm();
    u64 generation = shared_->generation;
    id_ = loop_.call_at(deadline, [shared = shared_, generation] {
      std::lock_guard guard(shared->lock);
      if (shared->generation == generation) shared->expired();
    });
  }
  void disarm() override {
    ++shared_->generation;
    if (id_) loop_.cancel(std::exchange(id_, 0));
  }

 private:
  struct Shared {
    Shared(std::mutex& l, std::function<void()> e) : lock(l), expired(std::move(e)) {}
    std::mutex& lock;
    std::function<void()> expired;
    std::atomic<u64> generation{0};
  };
  EventLoop& loop_;
  std::shared_ptr<Shared> shared_;
  EventLoop::TimerId id_ = 0;
};

std::string cpu_section(unsigned i) {
  return fmt::format("cpu{}", i);
}
std::string lapic_section(unsigned i) {
  return fmt::format("lapic{}", i);
}

struct TimeState {
  Nanos now = 0;
  u64 tsc_hz = 0;
  static void describe(auto& s, auto& v) {
    v.field("now", s.now);
    v.field("tsc_hz", s.tsc_hz);
  }
};

/// A guest has measured its TSC and never looks again. The measurement of ours is far better than
/// this.
bool same_rate(u64 a, u64 b) {
  u64 apart = a > b ? a - b : b - a;
  return apart <= b / 1000;
}

}  // namespace

Machine::Machine() : ports_(lock_), memory_space_(lock_) {}

Result<std::unique_ptr<Machine>> Machine::create(std::unique_ptr<memory::GuestMemory> memory,
                                                 std::unique_ptr<Engine> engine, unsigned cpus) {
  std::unique_ptr<Machine> machine(new Machine);
  machine->memory_ = std::move(memory);
  machine->engine_ = std::move(engine);
  machine->loop_ = TRY(EventLoop::create(machine->clock_));
  machine->host_.ports = &machine->ports_;
  machine->host_.memory = &machine->memory_space_;
  machine->host_.clock = &machine->clock_;
  machine->host_.control = machine.get();
  for (unsigned i = 0; i < cpus; ++i)
    machine->cpus_.push_back(std::make_unique<VcpuThread>(i, machine->host_));
  machine->clock_.stop();
  return machine;
}

Machine::~Machine() {
  shut_down();
  cpus_.clear();
  // Devices hold timers and lines of one another: later ones know earlier ones.
  while (!devices_.empty()) devices_.pop_back();
}

Result<> Machine::load_boot_state() {
  CpuState boot;
  if (boot_) boot = TRY(boot_());
  for (unsigned i = 0; i < cpus(); ++i) {
    CpuState state;
    if (i == 0) {
      state = boot;
    } else {
      // Firmware sets the memory types of all CPUs alike.
      state.pat = boot.pat;
      state.mtrr_def_type = boot.mtrr_def_type;
      state.mtrr_variable = boot.mtrr_variable;
      state.mtrr_fixed = boot.mtrr_fixed;
    }
    state.apic_base = 0xfee00800 | (i == 0 ? 0x100 : 0);
    state.run = i == 0 ? RunState::running : RunState::wait_for_sipi;
    LapicState lapic;
    lapic.id = i;
    if (i == 0 && boot_) {
      // What firmware leaves behind: virtual wire mode (MP specification 3.6.2.2), so that the 8259
      // and NMIs reach the bootstrap CPU of a directly booted kernel.
      lapic.svr = 0x1ff;
      lapic.lvt_lint0 = 0x700;
      lapic.lvt_lint1 = 0x400;
    }
    if (LocalApic* local = cpus_[i]->lapic()) {
      local->load(lapic, state.apic_base);
    }
    TRY_VOID(cpus_[i]->load(state));
    if (!cpus_[i]->lapic()) TRY_VOID(cpus_[i]->vcpu().load_lapic(lapic));
  }
  return {};
}

Result<EventLoop*> Machine::add_loop(std::string name) {
  SKERRY_CHECK(!loop_thread_.joinable());
  more_loops_.push_back({std::move(name), TRY(EventLoop::create(clock_)), {}});
  return more_loops_.back().loop.get();
}

void Machine::run_loops_once() {
  loop_->run_once(0);
  for (Loop& each : more_loops_) each.loop->run_once(0);
}

Result<> Machine::power_on() {
  TRY_VOID(load_boot_state());
  for (auto& quiesce : quiesce_) quiesce();  // paused, until resume()
  loop_thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "devices");
    loop_->run();
  });
  for (Loop& each : more_loops_)
    each.thread = std::thread([&each] {
      ::pthread_setname_np(::pthread_self(), each.name.c_str());
      each.loop->run();
    });
  for (auto& cpu : cpus_) cpu->start();
  return {};
}

void Machine::wake_locked() {
  if (!paused_) return;
  paused_ = false;
  clock_.start();
  loop_->reconsider_timers();
  for (Loop& each : more_loops_) each.loop->reconsider_timers();
  for (auto& wake : wake_) wake();
  if (on_change) on_change(false);
}

void Machine::resume() {
  std::lock_guard guard(lifecycle_);
  wake_locked();
  for (auto& cpu : cpus_) cpu->unpark();
}

void Machine::resume_only(unsigned cpu) {
  std::lock_guard guard(lifecycle_);
  wake_locked();
  cpus_[cpu]->unpark();
}

void Machine::pause() {
  std::lock_guard guard(lifecycle_);
  for (auto& cpu : cpus_) cpu->park();
  for (auto& cpu : cpus_) cpu->wait_parked();
  if (paused_) return;
  paused_ = true;
  for (auto& quiesce : quiesce_) quiesce();
  {
    std::lock_guard board(lock_);  // no device has seen a later time
    clock_.stop();
  }
  if (on_change) on_change(true);
}

Result<> Machine::reset() {
  std::lock_guard lifecycle(lifecycle_);
  {
    std::lock_guard guard(lock_);
    for (auto& device : devices_) device->reset();
  }
  {
    std::lock_guard guard(request_mutex_);
    request_.reset();
  }
  return load_boot_state();
}

void Machine::shut_down() {
  for (auto& cpu : cpus_) cpu->stop();
  auto end = [](EventLoop& loop, std::thread& thread) {
    if (!thread.joinable()) return;
    loop.stop();
    thread.join();
  };
  for (Loop& each : more_loops_) end(*each.loop, each.thread);
  end(*loop_, loop_thread_);
}

std::unique_ptr<Timer> Machine::make_timer(std::function<void()> expired) {
  return std::make_unique<LoopTimer>(*loop_, lock_, std::move(expired));
}

void Machine::request(Request what, u32 code) {
  {
    std::lock_guard guard(request_mutex_);
    if (!request_) request_ = Outcome{what, code};
  }
  request_changed_.notify_all();
  // No instruction after the one that asked: a guest that resets itself must not run on.
  for (auto& cpu : cpus_) cpu->park();
}

std::optional<Machine::Outcome> Machine::wait_request(int timeout_ms) {
  std::unique_lock guard(request_mutex_);
  auto some = [&] { return request_.has_value() || interrupted_; };
  if (timeout_ms < 0) {
    request_changed_.wait(guard, some);
  } else if (!request_changed_.wait_for(guard, std::chrono::milliseconds(timeout_ms), some)) {
    return std::nullopt;
  }
  interrupted_ = false;
  return std::exchange(request_, std::nullopt);
}

void Machine::interrupt_wait() {
  {
    std::lock_guard guard(request_mutex_);
    interrupted_ = true;
  }
  request_changed_.notify_all();
}

bool Machine::request_pending() const {
  std::lock_guard guard(request_mutex_);
  return request_.has_value();
}

Result<state::Image> Machine::save(bool ram) {
  state::Image image;
  // A timer of a device may just be expiring: under the lock, its interrupt is either still the
  // device's or already in a LAPIC.
  std::lock_guard guard(lock_);
  for (auto& device : devices_) TRY_VOID(device->can_save());
  for (unsigned i = 0; i < cpus(); ++i) {
    CpuState state;
    TRY_VOID(cpus_[i]->save(state));
    LapicState lapic;
    if (LocalApic* local = cpus_[i]->lapic()) {
      lapic = local->save();
      state.apic_base = local->apic_base();
      state.cr8 = local->cr8();
    } else {
      TRY_VOID(cpus_[i]->vcpu().save_lapic(lapic));
    }
    image.put(cpu_section(i), state, CpuState::kVersion);
    image.put(lapic_section(i), lapic);
  }
  for (auto& device : devices_) device->save(image);
  image.put("time", TimeState{clock_.now(), host_tsc_hz()});
  if (ram) save_ram(image);
  return image;
}

Result<> Machine::load(const state::Image& image) {
  // Everything is parsed before anything changes, as far as it does not need a device's own
  // knowledge.
  TimeState time;
  TRY_VOID(image.get("time", time));
  if (!same_rate(time.tsc_hz, host_tsc_hz()))
    return fail_hint("use a host whose TSC has the same frequency",
                     "the guest's time-stamp counter runs at {} kHz, this host's at {} kHz",
                     time.tsc_hz / 1000, host_tsc_hz() / 1000);
  std::vector<CpuState> states(cpus());
  std::vector<LapicState> lapics(cpus());
  if (image.find(cpu_section(cpus())))
    return fail_hint("start the machine with the number of CPUs it was saved with",
                     "the image has more than {} CPUs", cpus());
  for (unsigned i = 0; i < cpus(); ++i) {
    TRY_VOID(image.get(cpu_section(i), states[i]));
    TRY_VOID(image.get(lapic_section(i), lapics[i]));
  }
  TRY_VOID(load_ram(image));
  clock_.set(time.now);
  for (unsigned i = 0; i < cpus(); ++i) {
    if (LocalApic* local = cpus_[i]->lapic()) local->load(lapics[i], states[i].apic_base);
    TRY_VOID(cpus_[i]->load(states[i]));
    if (!cpus_[i]->lapic()) TRY_VOID(cpus_[i]->vcpu().load_lapic(lapics[i]));
  }
  // After the LAPICs: a timer that is already due interrupts while its device is loaded.
  std::lock_guard guard(lock_);
  for (auto& device : devices_) {
    auto done = device->load(image);
    if (!done) return std::unexpected(std::move(done.error()).in(device->name()));
  }
  return {};
}

// "ram": u64 size, then {u64 offset, page} for every page that is not all zeros.
void Machine::save_ram(state::Image& image) {
  std::vector<u8> body(8);
  store<u64>(body.data(), memory_->size());
  static constexpr std::array<u8, memory::kPageSize> kZero{};
  for (const memory::Slot& slot : memory_->slots()) {
    for (u64 at = 0; at < slot.size; at += memory::kPageSize) {
      const u8* page = slot.host + at;
      if (std::memcmp(page, kZero.data(), kZero.size()) == 0) continue;
      size_t end = body.size();
      body.resize(end + 8 + memory::kPageSize);
      store<u64>(body.data() + end, slot.start + at);
      std::memcpy(body.data() + end + 8, page, memory::kPageSize);
    }
  }
  image.put_bytes("ram", std::move(body));
}

Result<> Machine::load_ram(const state::Image& image) {
  const state::Section* section = image.find("ram");
  if (!section) return {};
  std::span<const u8> body(section->body);
  constexpr size_t kRecord = 8 + memory::kPageSize;
  if (body.size() < 8 || (body.size() - 8) % kRecord != 0)
    return fail("section 'ram' is malformed");
  if (skerry::load<u64>(body.data()) != memory_->size())
    return fail_hint("start the machine with the memory it was saved with",
                     "the image has {} MiB of memory, the machine {} MiB",
                     skerry::load<u64>(body.data()) / MiB, memory_->size() / MiB);
  for (const memory::Slot& slot : memory_->slots())
    if (!memory_->fill(slot.start, 0, slot.size)) return fail("cannot clear memory");
  for (body = body.subspan(8); !body.empty(); body = body.subspan(kRecord))
    if (!memory_->write(skerry::load<u64>(body.data()), body.subspan(8, memory::kPageSize)))
      return fail("section 'ram' has a page outside memory");
  return {};
}

}  // namespace skerry::machine
