// Machine: one virtual machine. Owns its RAM, spaces, devices, vCPU threads and the threads that
// run its timers and backends; run, pause, reset, save, load. board/ builds it from a Spec.
//
// Threading: building and lifecycle calls come from one thread (the VM process's main thread).
// Guest requests (power off, reset...) park the vCPUs and are picked up there with wait_request().
#pragma once

#include <condition_variable>

#include "base/event_loop.hpp"
#include "machine/vcpu_thread.hpp"

namespace skerry::machine {

class Machine final : public Surroundings, public Control {
 public:
  struct Outcome {
    Request what;
    u32 code;
  };

  static Result<std::unique_ptr<Machine>> create(std::unique_ptr<memory::GuestMemory> memory,
                                                 std::unique_ptr<Engine> engine, unsigned cpus);
  ~Machine() override;

  // ---- what a board builds with
  memory::GuestMemory& memory() { return *memory_; }
  Engine& engine() { return *engine_; }
  Space& ports() { return ports_; }
  Space& memory_space() { return memory_space_; }
  std::mutex& lock() { return lock_; }  ///< the board lock
  EventLoop& loop() { return *loop_; }
  /// One more, with a thread of its own, for a backend that may block. Before power_on().
  Result<EventLoop*> add_loop(std::string name);
  /// For whoever never calls power_on(): all loops, once, in the order of adding.
  void run_loops_once();
  HostClock& host_clock() { return clock_; }
  unsigned cpus() const { return static_cast<unsigned>(cpus_.size()); }
  VcpuThread& cpu(unsigned index) { return *cpus_[index]; }
  VcpuHost& vcpu_host() { return host_; }

  /// Takes over a device; it is reset, saved and loaded with the machine, in the order of adding.
  template <class D>
  D& add(std::unique_ptr<D> device) {
    D& reference = *device;
    devices_.push_back(std::move(device));
    return reference;
  }
  /// Keeps something alive as long as the devices.
  void keep(std::shared_ptr<void> thing) { kept_.push_back(std::move(thing)); }
  /// Prepares memory and gives the bootstrap CPU's first state; called at start and at every reset.
  void set_boot(std::function<Result<CpuState>()> boot) { boot_ = std::move(boot); }
  /// Stops backends from taking new requests and waits for those in flight; called while pausing.
  void add_quiesce(std::function<void()> quiesce) { quiesce_.push_back(std::move(quiesce)); }
  /// Lets them go on; called while resuming.
  void add_wake(std::function<void()> wake) { wake_.push_back(std::move(wake)); }

  const std::vector<std::unique_ptr<Device>>& devices() const { return devices_; }

  // ---- lifecycle
  /// Starts the threads, vCPUs parked in their boot state.
  Result<> power_on();
  void resume();
  /// One vCPU runs, the others stay parked: for debuggers.
  void resume_only(unsigned cpu);
  /// All vCPUs stand between two instructions, the clock stands still, backends are quiet.
  void pause();
  /// While paused: everything back to power-on.
  Result<> reset();
  /// Ends all threads. Final.
  void shut_down();

  /// While paused. `ram`: include the contents of memory.
  Result<state::Image> save(bool ram = true);
  /// Into a machine built from the same Spec, powered on and paused. A refused image leaves a
  /// machine that can only be reset.
  Result<> load(const state::Image& image);

  /// The next request of the guest (or of request()); vCPUs are parked then. nullopt after
  /// `timeout_ms` (-1: wait for ever), or when interrupt_wait() was called since the last return.
  std::optional<Outcome> wait_request(int timeout_ms = -1);
  /// Any thread.
  void interrupt_wait();
  /// wait_request() has something to return.
  bool request_pending() const;

  /// Called after pause() and resume() had an effect, by their thread with the lifecycle locked:
  /// calls nothing of these, does not block. Set before power_on().
  std::function<void(bool paused)> on_change;
  /// Something that a device tells, for whoever watches the machine. Any thread, also with the
  /// board lock held. Set before power_on().
  std::function<void(const std::string& device, std::string_view what)> on_device_event;
  /// A device asks for a pause: it cannot go on until somebody has mended `why` and resumed the
  /// machine. `still` (board lock held): it cannot yet. Board lock held; set before power_on().
  std::function<void(const std::string& device, const std::string& why,
                     std::function<bool()> still)>
      on_trouble;

  // ---- Surroundings, Control
  const Clock& clock() const override { return clock_; }
  std::unique_ptr<Timer> make_timer(std::function<void()> expired) override;
  void request(Request what, u32 code = 0) override;

 private:
  Machine();
  Result<> load_boot_state();
  void save_ram(state::Image& image);
  Result<> load_ram(const state::Image& image);

  std::mutex lock_;
  HostClock clock_;
  std::unique_ptr<memory::GuestMemory> memory_;
  std::unique_ptr<Engine> engine_;
  Space ports_, memory_space_;
  struct Loop {
    std::string name;  ///< of the thread
    std::unique_ptr<EventLoop> loop;
    std::thread thread;
  };
  std::unique_ptr<EventLoop> loop_;
  std::thread loop_thread_;
  std::vector<Loop> more_loops_;
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::function<void()>> quiesce_, wake_;
  bool paused_ = true;
  void wake_locked();
  std::mutex lifecycle_;  ///< pause, resume, reset: a debugger's thread calls them, too
  std::function<Result<CpuState>()> boot_;
  VcpuHost host_;
  std::vector<std::unique_ptr<VcpuThread>> cpus_;

  mutable std::mutex request_mutex_;
  std::condition_variable request_changed_;
  std::optional<Outcome> request_;
  bool interrupted_ = false;  ///< wait_request() is to return
};

}  // namespace skerry::machine
