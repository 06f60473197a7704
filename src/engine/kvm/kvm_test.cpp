// Tiny real-mode guests on the host's own /dev/kvm; skipped where it cannot be used.
#include <gtest/gtest.h>

#include <thread>

#include "engine/kvm/convert.hpp"
#include "engine/kvm/engine.hpp"

namespace skerry::kvm {
namespace {

using machine::CpuState;
using machine::Exit;

class Kvm : public testing::Test {
 protected:
  void SetUp() override {
    auto engine = create_engine();
    if (!engine) GTEST_SKIP() << "needs a usable /dev/kvm: " << engine.error().message();
    engine_ = std::move(*engine);
    memory_ = std::move(memory::GuestMemory::create(2 * MiB)).value();
    setup_.memory = memory_.get();
    setup_.clock = &clock_;
    setup_.cpuid = engine_->supported_cpuid();
    auto configured = engine_->configure(setup_);
    ASSERT_TRUE(configured) << configured.error().message();
    auto vcpu = engine_->create_vcpu(0, nullptr);
    ASSERT_TRUE(vcpu) << vcpu.error().message();
    vcpu_ = std::move(*vcpu);
  }

  /// Real-mode code at 0x1000, stack below it.
  CpuState start(std::vector<u8> code) {
    EXPECT_TRUE(memory_->write(0x1000, code));
    CpuState s;
    s.seg[machine::cs] = {0, 0, 0xffff, 0x9b};
    s.rip = 0x1000;
    s.gpr[machine::rsp] = 0x1000;
    s.apic_base = 0xfee00900;
    load(s);
    return s;
  }
  void load(const CpuState& s) {
    auto done = vcpu_->load(s);
    ASSERT_TRUE(done) << done.error().message();
  }
  CpuState save() {
    CpuState s;
    auto done = vcpu_->save(s);
    EXPECT_TRUE(done) << done.error().message();
    return s;
  }
  template <class T>
  T run() {
    Exit exit = vcpu_->run();
    if (auto* fatal = std::get_if<machine::Fatal>(&exit)) ADD_FAILURE() << fatal->text;
    if (T* got = std::get_if<T>(&exit)) return *got;
    ADD_FAILURE() << "exit of kind " << exit.index();
    return T{};
  }

  HostClock clock_;
  std::unique_ptr<memory::GuestMemory> memory_;
  machine::EngineSetup setup_;
  std::unique_ptr<machine::Engine> engine_;
  std::unique_ptr<machine::Vcpu> vcpu_;
};

TEST_F(Kvm, ports_exit_with_values_both_ways) {
  start({0xb0, 0x5a,        // mov al,5a
         0xe6, 0x42,        // out 42,al
         0xe4, 0x43,        // in al,43
         0xa2, 0x00, 0x20,  // mov [2000],al
         0xe6, 0x44,        // out 44,al
         0xf4});
  auto out = run<machine::PortIo>();
  EXPECT_TRUE(out.write);
  EXPECT_EQ(out.port, 0x42);
  EXPECT_EQ(out.value, 0x5au);
  auto in = run<machine::PortIo>();
  EXPECT_FALSE(in.write);
  EXPECT_TRUE(vcpu_->mid_instruction());
  vcpu_->answer(0x77);
  EXPECT_EQ(run<machine::PortIo>().value, 0x77u);
  EXPECT_EQ(memory_->read_value<u8>(0x2000), 0x77);
}

TEST_F(Kvm, device_memory_exits_and_a_doorbell_does_not) {
  constexpr u64 kAt = 0x20'0000;                     // just above RAM; reached through FS
  CpuState s = start({0x64, 0x66, 0xa1, 0x00, 0x00,  // mov eax,fs:[0]
                      0x64, 0x66, 0xa3, 0x04, 0x00,  // mov fs:[4],eax
                      0x64, 0x66, 0xa3, 0x08, 0x00,  // mov fs:[8],eax   (doorbell)
                      0xe6, 0x10, 0xf4});
  s.seg[machine::fs].base = kAt;
  load(s);
  Fd event = std::move(Fd::event()).value();
  ASSERT_TRUE(engine_->add_doorbell(kAt + 8, 4, event.get()));
  auto read = run<machine::Mmio>();
  EXPECT_EQ(read.at, kAt);
  EXPECT_EQ(read.size, 4);
  EXPECT_FALSE(read.write);
  vcpu_->answer(0x12345678);
  auto write = run<machine::Mmio>();
  EXPECT_TRUE(write.write);
  EXPECT_EQ(write.at, kAt + 4);
  EXPECT_EQ(write.value, 0x12345678u);
  EXPECT_EQ(run<machine::PortIo>().port, 0x10);
  EXPECT_TRUE(drain_event(event.get()));
  engine_->remove_doorbell(kAt + 8, 4, event.get());
}

TEST_F(Kvm, a_kick_ends_an_endless_loop_and_an_early_kick_is_not_lost) {
  start({0xeb, 0xfe});  // jmp $
  vcpu_->kick();
  run<machine::Interrupted>();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    vcpu_->kick();
  });
  run<machine::Interrupted>();
  other.join();
  EXPECT_EQ(save().rip, 0x1000u);
}

TEST_F(Kvm, state_survives_a_round_trip) {
  CpuState s = start({0xf4});
  for (unsigned i = 0; i < 16; ++i)
    if (i != machine::rsp) s.gpr[i] = 0x1111'1111'1111'1111u * (i % 8) + i;
  s.rflags = 0x246;
  s.gdtr = {0x1234, 0x77};
  s.lstar = 0xffff'8000'1234'5678;
  s.star = 0x0023'0010'0000'0000;
  s.dr[1] = 0x4444;
  s.xsave[0] = 0x7f, s.xsave[1] = 0x03;  // FCW
  s.xsave[160] = 0xab;                   // XMM0
  store<u64>(s.xsave.data() + 512, 3);   // XSTATE_BV
  s.interrupt_shadow = 1;
  load(s);
  CpuState back = save();
  EXPECT_EQ(back.gpr, s.gpr);
  EXPECT_EQ(back.rflags, s.rflags);
  EXPECT_EQ(back.gdtr.base, s.gdtr.base);
  EXPECT_EQ(back.lstar, s.lstar);
  EXPECT_EQ(back.star, s.star);
  EXPECT_EQ(back.dr[1], s.dr[1]);
  EXPECT_EQ(back.xsave[160], 0xab);
  EXPECT_EQ(back.seg[machine::cs].attributes & 0x9a, 0x9au);
  EXPECT_EQ(back.run, machine::RunState::running);
}

TEST_F(Kvm, the_saved_counter_stands_still_with_the_clock) {
  start({0xe6, 0x10, 0xf4});
  run<machine::PortIo>();
  clock_.stop();
  u64 before = save().tsc;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  u64 after = save().tsc;
  // Only what passes between reading the one counter and the other may differ.
  EXPECT_LT(after > before ? after - before : before - after, host_tsc_hz() / 200);
}

TEST_F(Kvm, the_local_apic_survives_a_round_trip) {
  start({0xf4});
  machine::LapicState s;
  s.id = 0;
  s.svr = 0x1ff;
  s.lvt_lint0 = 0x700;
  s.tpr = 0x20;
  s.irr[2] = 0x10;
  ASSERT_TRUE(vcpu_->load_lapic(s));
  machine::LapicState back;
  ASSERT_TRUE(vcpu_->save_lapic(back));
  EXPECT_EQ(back.svr, s.svr);
  EXPECT_EQ(back.lvt_lint0, s.lvt_lint0);
  EXPECT_EQ(back.tpr, s.tpr);
  EXPECT_EQ(back.irr, s.irr);
}

TEST_F(Kvm, a_message_interrupts_the_guest_whether_signalled_or_by_irqfd) {
  CpuState s = start({0xfb,                // sti
                      0xf4, 0xeb, 0xfd});  // hlt; jmp back
  // Vector 0x40: inc byte [2000]; EOI through FS (the APIC page); out 10; iret
  ASSERT_TRUE(memory_->write(0x1100, std::vector<u8>{0xfe, 0x06, 0x00, 0x20, 0x64, 0x66, 0xc7, 0x06,
                                                     0xb0, 0x00, 0, 0, 0, 0, 0xe6, 0x10, 0xcf}));
  ASSERT_TRUE(memory_->write_value<u32>(0x40 * 4, 0x1100));
  s.seg[machine::fs].base = 0xfee00000;
  load(s);
  machine::LapicState lapic;
  lapic.svr = 0x1ff;
  ASSERT_TRUE(vcpu_->load_lapic(lapic));
  for (unsigned i = 1; i <= 40; ++i) {  // crosses from KVM_SIGNAL_MSI to an irqfd
    engine_->msi_sink()->send({0xfee00000, 0x40});
    ASSERT_EQ(run<machine::PortIo>().port, 0x10);
    ASSERT_EQ(memory_->read_value<u8>(0x2000), i);
  }
}

TEST_F(Kvm, dirty_pages_are_reported_once) {
  start({0xa2, 0x00, 0x30, 0xe6, 0x10,  // mov [3000],al; out
         0xa2, 0x00, 0x50, 0xe6, 0x10, 0xf4});
  ASSERT_TRUE(engine_->sync_dirty());
  memory_->dirty().take();
  run<machine::PortIo>();
  ASSERT_TRUE(engine_->sync_dirty());
  EXPECT_TRUE(memory_->dirty().test(0x3000));
  EXPECT_FALSE(memory_->dirty().test(0x5000));
  memory_->dirty().take();
  run<machine::PortIo>();
  ASSERT_TRUE(engine_->sync_dirty());
  EXPECT_FALSE(memory_->dirty().test(0x3000));
  EXPECT_TRUE(memory_->dirty().test(0x5000));
}

TEST(KvmConvert, registers_and_segments_round_trip) {
  CpuState s, back;
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 100 + i;
  from_kvm(to_kvm_regs(s), back);
  EXPECT_EQ(back.gpr, s.gpr);
  s.seg[machine::cs] = {8, 0, 0xffffffff, 0xa09b};
  s.seg[machine::ds].attributes |= machine::Segment::kUnusable;
  s.event_pending = true, s.event_vector = 14, s.event_type = 3, s.event_has_error = true,
  s.event_error = 2;
  from_kvm(to_kvm_sregs(s), back);
  from_kvm(to_kvm_events(s), back);
  EXPECT_EQ(back.seg[machine::cs].attributes, 0xa09bu);
  EXPECT_TRUE(back.seg[machine::ds].unusable());
  EXPECT_EQ(back.event_vector, 14);
  EXPECT_EQ(back.event_error, 2u);
}

TEST(KvmConvert, lapic_registers_round_trip_with_a_running_timer) {
  machine::LapicState s;
  s.id = 3, s.tpr = 0x30, s.ldr = 0x08000000, s.svr = 0x1ff, s.lvt_timer = 0x20040;
  s.isr[1] = 5, s.irr[7] = 0x80000000, s.timer_initial = 1000, s.timer_divide = 0xb;
  s.timer_expires = 5600;
  auto back = from_kvm_lapic(to_kvm_lapic(s, false, 5000), false, 5000);
  EXPECT_EQ(state::dump(back), state::dump(s));
}

}  // namespace
}  // namespace skerry::kvm
