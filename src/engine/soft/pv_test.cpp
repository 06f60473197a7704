#include "engine/soft/pv.hpp"

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::rax, machine::rbx, machine::rcx, machine::rdx, machine::rsi;

struct FakeLapic final : machine::LocalApic {
  bool deliverable() override { return false; }
  std::optional<u8> acknowledge() override { return std::nullopt; }
  u64 cr8() const override { return 0; }
  void set_cr8(u64) override {}
  std::optional<u64> read_msr(u32) override { return std::nullopt; }
  bool write_msr(u32, u64) override { return false; }
  u64 apic_base() const override { return 0xfee00900; }
  u32 mmio_read(u32) override { return 0; }
  void mmio_write(u32, u32) override {}
  std::optional<Nanos> timer_deadline() override { return std::nullopt; }
  void run_timer() override {}
  void init_reset() override {}
  machine::LapicState save() const override { return {}; }
  void load(const machine::LapicState&, u64) override {}

  void set_eoi_flag(machine::EoiFlag* f) override { flag = f; }
  std::optional<unsigned> send_ipis(u32 first, u64 low, u64 high, u32 icr) override {
    sent = {first, low, high, icr};
    if (icr == 0x500) return std::nullopt;
    return 2;
  }
  void unhalt(u32 id) override { unhalted = id; }

  machine::EoiFlag* flag = nullptr;
  std::array<u64, 4> sent{};
  u32 unhalted = 0;
};

struct Paravirtual : SoftTest {
  Paravirtual() {
    vcpus.clear();
    vcpus.push_back(std::move(engine->create_vcpu(0, &lapic)).value());
    long_mode();
  }
  ~Paravirtual() override { vcpus.clear(); }
  void wrmsr(u32 index, u64 value) {
    state.gpr[rcx] = index;
    state.gpr[rax] = static_cast<u32>(value), state.gpr[rdx] = value >> 32;
    code(kCodeAt, {0x0f, 0x30, 0xf4});
    start();
  }
  u64 hypercall(u64 number) {
    state.gpr[rax] = number;
    code(kCodeAt, {0x0f, 0x01, 0xc1, 0xf4});
    start();
    EXPECT_EQ(run_to_halt(), kCodeAt + 3);
    return reg(rax);
  }
  FakeLapic lapic;
};

TEST_F(Paravirtual, the_eoi_flag_is_a_bit_of_a_word_in_memory) {
  put<u32>(0x300004, 0xa0);
  wrmsr(0x4b564d04, 0x300005);
  EXPECT_EQ(run_to_halt(), kCodeAt + 2);
  ASSERT_TRUE(lapic.flag);
  EXPECT_TRUE(lapic.flag->raise());
  EXPECT_EQ(get<u32>(0x300004), 0xa1u);
  EXPECT_TRUE(lapic.flag->raised());
  EXPECT_TRUE(lapic.flag->lower());
  EXPECT_EQ(get<u32>(0x300004), 0xa0u);
  EXPECT_FALSE(lapic.flag->lower());
  machine::CpuState saved;
  ASSERT_TRUE(vcpu().save(saved));
  EXPECT_EQ(saved.kvm_pv_eoi, 0x300005u);
  // The flag follows a loaded state.
  state.kvm_pv_eoi = 0;
  wrmsr(0x4b564d04, 0);
  EXPECT_EQ(run_to_halt(), kCodeAt + 2);
  EXPECT_FALSE(lapic.flag);
}

TEST_F(Paravirtual, no_flag_where_there_is_no_memory) {
  wrmsr(0x4b564d04, 0xffff'ffff'f000'0001);
  EXPECT_EQ(run_to_halt(), kCodeAt + 2);
  ASSERT_TRUE(lapic.flag);
  EXPECT_FALSE(lapic.flag->raise());
  EXPECT_FALSE(lapic.flag->raised());
}

TEST_F(Paravirtual, reserved_bits_fault) {
  wrmsr(0x4b564d04, 0x300003);
  run_to(GP);
  wrmsr(0x4b564d03, 0x300021);
  run_to(GP);
}

// Another vCPU found this one preempted and left it the flush.
TEST_F(Paravirtual, a_preempted_vcpu_flushes_before_it_runs_on) {
  constexpr u64 kLinear = u64{1} << 30, kRecord = 0x300000;
  put<u64>(0x400000, 1);
  put<u64>(0x401000, 2);
  u64 entry = map_page(kLinear, 0x400000, 3);
  state.kvm_steal_time = kRecord | 1;
  state.gpr[rsi] = kLinear;
  // mov rax, [rsi]; hlt; mov rbx, [rsi]; hlt; mov rcx, [rsi]; hlt
  code(kCodeAt, {0x48, 0x8b, 0x06, 0xf4, 0x48, 0x8b, 0x1e, 0xf4, 0x48, 0x8b, 0x0e, 0xf4});
  start();
  run_to_halt();
  put<u64>(entry, 0x401000 | 3);
  auto resume = [&] {
    vcpu().kick();
    EXPECT_TRUE(std::holds_alternative<machine::Interrupted>(vcpu().run()));
    run_to_halt();
  };
  put<u8>(kRecord + 16, 1);  // preempted, no flush asked for
  resume();
  EXPECT_EQ(get<u8>(kRecord + 16), 0);
  put<u8>(kRecord + 16, 3);
  resume();
  EXPECT_EQ(get<u8>(kRecord + 16), 0);
  EXPECT_EQ(reg(rax), 1u);
  EXPECT_EQ(reg(rbx), 1u) << "there was no reason to look again";
  EXPECT_EQ(reg(rcx), 2u);
}

TEST_F(Paravirtual, a_yield_is_a_preemption_but_not_for_nothing) {
  state.kvm_steal_time = 0x300001;
  start();
  EXPECT_FALSE(cpu().core->pv.yield());
  EXPECT_EQ(get<u8>(0x300010), 0);
}

TEST_F(Paravirtual, hypercalls_reach_the_apic) {
  state.gpr[rcx] = 7;
  EXPECT_EQ(hypercall(5), 0u);
  EXPECT_EQ(lapic.unhalted, 7u);
  state.gpr[rbx] = 3, state.gpr[rcx] = 4, state.gpr[rdx] = 5, state.gpr[rsi] = 0xfd;
  EXPECT_EQ(hypercall(10), 2u);
  EXPECT_EQ(lapic.sent, (std::array<u64, 4>{5, 3, 4, 0xfd}));
  state.gpr[rsi] = 0x500;
  EXPECT_EQ(hypercall(10), static_cast<u64>(-22));
  EXPECT_EQ(hypercall(11), 0u);
}

}  // namespace
}  // namespace skerry::soft
