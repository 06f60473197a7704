#include "machine/machine.hpp"

#include <gtest/gtest.h>

#include <deque>

namespace skerry::machine {
namespace {

/// A vCPU that returns a script of exits and then runs "forever" until it is kicked.
class ScriptedVcpu final : public Vcpu {
 public:
  std::deque<Exit> script;
  std::vector<u64> answers;
  CpuState state;
  std::atomic<int> nmis{0}, runs{0}, notified{0};

  Exit run() override {
    ++runs;
    std::unique_lock guard(mutex_);
    if (!script.empty() && !kicked_) {
      Exit exit = script.front();
      script.pop_front();
      return exit;
    }
    changed_.wait(guard, [&] { return kicked_; });
    kicked_ = false;
    return Interrupted{};
  }
  void answer(u64 value) override { answers.push_back(value); }
  void kick() override {
    std::lock_guard guard(mutex_);
    kicked_ = true;
    changed_.notify_all();
  }
  void notify_interrupt() override { ++notified; }
  bool mid_instruction() const override { return false; }
  Result<> load(const CpuState& s) override {
    state = s;
    return {};
  }
  Result<> save(CpuState& s) override {
    s = state;
    return {};
  }
  void inject_nmi() override { ++nmis; }
  Result<> set_debug(const DebugRequest&) override { return {}; }
  std::optional<memory::Gpa> translate(u64) override { return std::nullopt; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool kicked_ = false;
};

class ScriptedEngine final : public Engine {
 public:
  std::string_view name() const override { return "scripted"; }
  CpuidTable supported_cpuid() const override { return {}; }
  Result<> configure(const EngineSetup&) override { return {}; }
  bool owns_lapic() const override { return false; }
  Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned, LocalApic*) override {
    return std::make_unique<ScriptedVcpu>();
  }
};

class FakeLapic final : public LocalApic {
 public:
  std::atomic<bool> pending{false};
  std::vector<std::pair<u32, u32>> writes;
  u64 base = 0;
  bool deliverable() override { return pending; }
  std::optional<u8> acknowledge() override { return 0x40; }
  u64 cr8() const override { return 0; }
  void set_cr8(u64) override {}
  std::optional<u64> read_msr(u32) override { return std::nullopt; }
  bool write_msr(u32, u64) override { return false; }
  u64 apic_base() const override { return base; }
  u32 mmio_read(u32 offset) override { return 0x11223344 + offset; }
  void mmio_write(u32 offset, u32 value) override { writes.emplace_back(offset, value); }
  std::optional<Nanos> timer_deadline() override { return std::nullopt; }
  void run_timer() override {}
  void init_reset() override {}
  LapicState save() const override { return {}; }
  void load(const LapicState&, u64 b) override { base = b; }
};

struct Echo final : Device, Registers {
  u64 value = 0;
  std::string name() const override { return "echo"; }
  void reset() override { value = 0; }
  struct State {
    u64 value = 0;
    static void describe(auto& s, auto& v) { v.field("value", s.value); }
  };
  void save(state::Image& image) const override { image.put(name(), State{value}); }
  Result<> load(const state::Image& image) override {
    State s;
    TRY_VOID(image.get(name(), s));
    value = s.value;
    return {};
  }
  u64 read(u64 offset, unsigned) override { return value + offset; }
  void write(u64, unsigned, u64 v) override { value = v; }
};

class MachineTest : public testing::Test {
 protected:
  void build(unsigned cpus) {
    machine_ = std::move(Machine::create(std::move(memory::GuestMemory::create(1 * MiB)).value(),
                                         std::make_unique<ScriptedEngine>(), cpus))
                   .value();
    for (unsigned i = 0; i < cpus; ++i) {
      lapics_.push_back(std::make_unique<FakeLapic>());
      auto vcpu = std::make_unique<ScriptedVcpu>();
      vcpus_.push_back(vcpu.get());
      machine_->cpu(i).attach(std::move(vcpu), lapics_[i].get());
    }
    echo_ = &machine_->add(std::make_unique<Echo>());
    machine_->ports().map(0x10, 4, *echo_, "echo");
    machine_->memory_space().map(0xd0000000, 16, *echo_, "echo");
    ASSERT_TRUE(machine_->power_on());
  }
  template <class Condition>
  bool soon(Condition condition) {
    for (int i = 0; i < 2000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  }

  std::vector<std::unique_ptr<FakeLapic>> lapics_;
  std::vector<ScriptedVcpu*> vcpus_;
  std::unique_ptr<Machine> machine_;
  Echo* echo_ = nullptr;
};

TEST_F(MachineTest, exits_reach_devices_and_the_apic_page) {
  build(1);
  vcpus_[0]->script = {PortIo{0x10, 1, true, 0x5a},
                       PortIo{0x12, 1, false, 0},
                       Mmio{0xd0000004, 4, false, 0},
                       Mmio{0xfee00020, 4, false, 0},
                       Mmio{0xfee000b0, 4, true, 7},
                       PortIo{0x99, 2, false, 0},
                       Shutdown{}};
  machine_->resume();
  auto outcome = machine_->wait_request(10000);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->what, Request::crash);
  machine_->pause();
  EXPECT_EQ(vcpus_[0]->answers, (std::vector<u64>{0x5c, 0x5e, 0x11223364, 0xffff}));
  EXPECT_EQ(lapics_[0]->writes.at(0), (std::pair<u32, u32>{0xb0, 7}));
}

TEST_F(MachineTest, a_halted_cpu_sleeps_until_an_interrupt_it_may_take) {
  build(1);
  vcpus_[0]->script = {Halt{true}};
  machine_->resume();
  ASSERT_TRUE(soon([&] { return vcpus_[0]->runs == 1; }));
  machine_->cpu(0).notify_interrupt();  // nothing deliverable: goes back to sleep
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(vcpus_[0]->runs, 1);
  lapics_[0]->pending = true;
  machine_->cpu(0).notify_interrupt();
  EXPECT_TRUE(soon([&] { return vcpus_[0]->runs == 2; }));
}

TEST_F(MachineTest, an_nmi_wakes_a_cpu_that_halted_with_interrupts_off) {
  build(1);
  vcpus_[0]->script = {Halt{false}};
  machine_->resume();
  ASSERT_TRUE(soon([&] { return vcpus_[0]->runs == 1; }));
  lapics_[0]->pending = true;
  machine_->cpu(0).notify_interrupt();
  machine_->cpu(0).nmi();
  EXPECT_TRUE(soon([&] { return vcpus_[0]->nmis == 1 && vcpus_[0]->runs >= 2; }));
}

TEST_F(MachineTest, a_kick_ends_a_halt_with_interrupts_off_or_the_next_one) {
  build(1);
  vcpus_[0]->script = {Halt{false}};
  machine_->resume();
  ASSERT_TRUE(soon([&] { return vcpus_[0]->runs == 1; }));
  machine_->cpu(0).unhalt();
  ASSERT_TRUE(soon([&] { return vcpus_[0]->runs == 2; }));
  // It runs; a kick now is kept, also in its saved state.
  machine_->cpu(0).unhalt();
  machine_->pause();
  CpuState state;
  ASSERT_TRUE(machine_->cpu(0).save(state));
  EXPECT_TRUE(state.unhalted);
  vcpus_[0]->script = {Halt{false}, Halt{false}};
  const int before = vcpus_[0]->runs;
  machine_->resume();
  ASSERT_TRUE(soon([&] { return vcpus_[0]->runs == before + 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(vcpus_[0]->runs, before + 2);  // the second HLT waits
}

TEST_F(MachineTest, a_second_cpu_starts_by_init_and_sipi_only) {
  build(2);
  machine_->resume();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(vcpus_[1]->runs, 0);
  machine_->cpu(1).init();
  machine_->cpu(1).sipi(0x9a);
  ASSERT_TRUE(soon([&] { return vcpus_[1]->runs > 0; }));
  machine_->pause();
  CpuState state;
  ASSERT_TRUE(machine_->cpu(1).save(state));
  EXPECT_EQ(state.seg[cs].selector, 0x9a00);
  EXPECT_EQ(state.seg[cs].base, 0x9a000u);
  EXPECT_EQ(state.rip, 0u);
  EXPECT_EQ(state.run, RunState::running);
}

TEST_F(MachineTest, state_goes_into_an_image_and_comes_back) {
  build(2);
  echo_->value = 42;
  vcpus_[0]->state.gpr[rbx] = 7;
  ASSERT_TRUE(machine_->memory().write_value<u32>(0x5000, 0xabcd));
  auto image = machine_->save();
  ASSERT_TRUE(image);
  auto parsed = state::Image::parse(image->serialize());
  ASSERT_TRUE(parsed);
  echo_->value = 0;
  vcpus_[0]->state.gpr[rbx] = 0;
  ASSERT_TRUE(machine_->memory().write_value<u32>(0x5000, 0));
  ASSERT_TRUE(machine_->memory().write_value<u32>(0x9000, 1));
  ASSERT_TRUE(machine_->load(*parsed));
  EXPECT_EQ(echo_->value, 42u);
  EXPECT_EQ(vcpus_[0]->state.gpr[rbx], 7u);
  EXPECT_EQ(machine_->memory().read_value<u32>(0x5000), 0xabcdu);
  EXPECT_EQ(machine_->memory().read_value<u32>(0x9000), 0u);
}

TEST_F(MachineTest, timers_fire_with_the_board_lock_and_not_while_paused) {
  build(1);
  std::atomic<int> fired{0};
  auto timer = machine_->make_timer([&] {
    EXPECT_FALSE(machine_->lock().try_lock());
    ++fired;
  });
  {
    std::lock_guard guard(machine_->lock());
    timer->arm(machine_->clock().now() + 1'000'000);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(fired, 0);  // not resumed yet: the clock stands still
  machine_->resume();
  EXPECT_TRUE(soon([&] { return fired == 1; }));
}

TEST(Space, later_mappings_win_and_gaps_read_ones) {
  std::mutex lock;
  Space space(lock);
  Echo a, b;
  a.value = 0x100, b.value = 0x200;
  space.map(0x10, 0x10, a, "a");
  space.map(0x18, 4, b, "b");
  EXPECT_EQ(space.read(0x11, 4), 0x101u);
  EXPECT_EQ(space.read(0x19, 4), 0x201u);
  EXPECT_EQ(space.read(0x40, 2), 0xffffu);
  space.write(0x40, 2, 1);
  space.unmap(0x18, b);
  EXPECT_EQ(space.read(0x19, 4), 0x109u);
}

TEST(AfterInit, keeps_what_init_keeps) {
  CpuState before;
  before.lstar = 5;
  before.cr0 = 0xe0000031;
  before.gpr[rax] = 1;
  CpuState after = after_init(before);
  EXPECT_EQ(after.lstar, 5u);
  EXPECT_EQ(after.cr0, 0x60000010u);
  EXPECT_EQ(after.gpr[rax], 0u);
  EXPECT_EQ(after.rip, 0xfff0u);
}

}  // namespace
}  // namespace skerry::machine
