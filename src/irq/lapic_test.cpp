#include "irq/lapic_fixture.hpp"

namespace skerry::irq {
namespace {

TEST_F(LapicTest, TakesByPriorityAndNests) {
  Lapic& l = add(0);
  EXPECT_FALSE(l.deliverable());
  l.deliver(0x41, false);
  EXPECT_EQ(ports[0]->notified, 1);
  ASSERT_TRUE(l.deliverable());
  EXPECT_EQ(l.acknowledge(), 0x41);
  EXPECT_EQ(l.mmio_read(kIsr + 0x20), 1u << 1);
  EXPECT_EQ(l.mmio_read(kPpr), 0x40u);
  l.deliver(0x4f, false);  // the same class waits
  EXPECT_FALSE(l.deliverable());
  l.deliver(0x52, false);  // a higher one nests
  EXPECT_EQ(l.acknowledge(), 0x52);
  EXPECT_EQ(l.mmio_read(kPpr), 0x50u);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.mmio_read(kPpr), 0x40u);
  EXPECT_FALSE(l.deliverable());
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.acknowledge(), 0x4f);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.mmio_read(kPpr), 0u);
}

struct FakeFlag final : machine::EoiFlag {
  bool raise() override { return up = works; }
  bool raised() override { return up; }
  bool lower() override { return std::exchange(up, false); }
  bool up = false, works = true;
};

TEST_F(LapicTest, AnInterruptAloneIsEndedByTheFlag) {
  Lapic& l = add(0);
  FakeFlag flag;
  l.set_eoi_flag(&flag);
  l.deliver(0x51, false);
  EXPECT_EQ(l.acknowledge(), 0x51);
  ASSERT_TRUE(flag.up);
  EXPECT_FALSE(l.deliverable());
  EXPECT_TRUE(flag.up) << "nothing waits";
  EXPECT_EQ(l.mmio_read(kPpr), 0x50u);
  flag.up = false;  // the guest's EOI
  EXPECT_EQ(l.save().isr[2], 0u);
  l.deliver(0x31, false);
  EXPECT_EQ(l.acknowledge(), 0x31);
  EXPECT_TRUE(flag.up);
  flag.up = false;
  EXPECT_EQ(l.mmio_read(kPpr), 0u);
  EXPECT_EQ(l.mmio_read(kIsr + 0x10), 0u);
}

TEST_F(LapicTest, TheFlagIsLoweredWhenSomethingWaitsForTheEoi) {
  Lapic& l = add(0);
  FakeFlag flag;
  l.set_eoi_flag(&flag);
  l.deliver(0x51, false);
  l.deliver(0x31, false);
  EXPECT_EQ(l.acknowledge(), 0x51);
  EXPECT_FALSE(flag.up);  // 0x31 waits
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.acknowledge(), 0x31);
  ASSERT_TRUE(flag.up);
  l.deliver(0x32, false);
  EXPECT_FALSE(l.deliverable());
  EXPECT_FALSE(flag.up);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.acknowledge(), 0x32);
  // Nested: the inner one has no flag, for whose EOI would it be?
  EXPECT_TRUE(flag.up);
  l.deliver(0x61, false);
  EXPECT_EQ(l.acknowledge(), 0x61);
  EXPECT_FALSE(flag.up);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(l.mmio_read(kPpr), 0x30u);
}

TEST_F(LapicTest, LevelTriggeredInterruptsNeedTheRegister) {
  Lapic& l = add(0);
  std::vector<int> ended;
  bus.set_eoi_callback([&](u8 vector) { ended.push_back(vector); });
  FakeFlag flag;
  l.set_eoi_flag(&flag);
  l.deliver(0x51, true);
  EXPECT_EQ(l.acknowledge(), 0x51);
  EXPECT_FALSE(flag.up);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(ended, Vectors{0x51});
}

TEST_F(LapicTest, ARegisterWriteEndsTheInterruptAndLowersTheFlag) {
  Lapic& l = add(0);
  FakeFlag flag;
  l.set_eoi_flag(&flag);
  l.deliver(0x51, false);
  EXPECT_EQ(l.acknowledge(), 0x51);
  l.mmio_write(kEoi, 0);
  EXPECT_FALSE(flag.up);
  EXPECT_EQ(l.mmio_read(kPpr), 0u);
  l.deliver(0x52, false);
  EXPECT_EQ(l.acknowledge(), 0x52);
  l.settle();
  EXPECT_FALSE(flag.up);
  EXPECT_EQ(l.mmio_read(kPpr), 0x50u) << "still in service";
  l.mmio_write(kEoi, 0);
  flag.works = false;  // its memory is gone
  l.deliver(0x53, false);
  EXPECT_EQ(l.acknowledge(), 0x53);
  EXPECT_EQ(l.mmio_read(kPpr), 0x50u);
}

TEST_F(LapicTest, HypercallIpisAndKicks) {
  add(0), add(3), add(70);
  Lapic& l = *lapics[0];
  EXPECT_EQ(l.send_ipis(0, 1 << 3, u64{1} << 6, 0x45), 2u);
  EXPECT_EQ(lapics[1]->acknowledge(), 0x45);
  EXPECT_EQ(lapics[2]->acknowledge(), 0x45);
  EXPECT_FALSE(l.deliverable());
  EXPECT_EQ(l.send_ipis(3, 1, 0, 0x400), 1u);
  EXPECT_EQ(ports[1]->nmis, 1);
  EXPECT_EQ(l.send_ipis(0xffffffff, ~u64{0}, ~u64{0}, 0x45), 0u);
  EXPECT_FALSE(l.send_ipis(0, 1, 0, 0x545));    // INIT
  EXPECT_FALSE(l.send_ipis(0, 1, 0, 0x80045));  // a shorthand
  EXPECT_EQ(l.send_ipis(0, 1, 0, 0x05), 0u);    // an illegal vector
  EXPECT_FALSE(l.deliverable());
  l.unhalt(3);
  l.unhalt(4);
  EXPECT_EQ(ports[1]->unhalts, 1);
}

TEST_F(LapicTest, TprHoldsBackItsClassAndBelow) {
  Lapic& l = add(0);
  l.set_cr8(5);
  EXPECT_EQ(l.mmio_read(kTpr), 0x50u);
  l.deliver(0x5f, false);
  EXPECT_FALSE(l.deliverable());
  EXPECT_EQ(l.acknowledge(), std::nullopt);
  l.mmio_write(kTpr, 0x4f);
  EXPECT_EQ(l.cr8(), 4u);
  EXPECT_EQ(l.mmio_read(kPpr), 0x4fu);
  EXPECT_EQ(l.acknowledge(), 0x5f);
  EXPECT_EQ(l.mmio_read(kPpr), 0x50u);
}

TEST_F(LapicTest, BroadcastsEoiOfLevelVectorsOnly) {
  Lapic& l = add(0);
  Vectors eois;
  bus.set_eoi_callback([&](u8 v) { eois.push_back(v); });
  l.deliver(0x61, true);
  EXPECT_EQ(l.acknowledge(), 0x61);
  EXPECT_EQ(l.mmio_read(kTmr + 0x30), 2u);
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(eois, Vectors{0x61});
  l.deliver(0x61, false);
  EXPECT_EQ(l.acknowledge(), 0x61);
  EXPECT_EQ(l.mmio_read(kTmr + 0x30), 0u);
  l.mmio_write(kEoi, 0);
  l.mmio_write(kEoi, 0);  // nothing in service
  EXPECT_EQ(eois, Vectors{0x61});
}

TEST_F(LapicTest, SuppressesTheEoiBroadcastIfOffered) {
  LapicSetup setup;
  setup.id = 3;
  setup.directed_eoi = true;
  Lapic l(setup, clock, bus);
  int eois = 0;
  bus.set_eoi_callback([&](u8) { ++eois; });
  EXPECT_TRUE(l.mmio_read(0x30) & (1 << 24));
  l.mmio_write(kSvr, 0x11ff);
  l.deliver(0x61, true);
  l.acknowledge();
  l.mmio_write(kEoi, 0);
  EXPECT_EQ(eois, 0);
  Lapic& plain = add(0);
  plain.mmio_write(kSvr, 0x11ff);
  EXPECT_EQ(plain.mmio_read(kSvr), 0x1ffu);
}

TEST_F(LapicTest, SoftwareDisableMasksLvtAndDropsInterrupts) {
  Lapic& l = add(0);
  l.mmio_write(kLvtError, 0x30);
  l.deliver(0x33, false);
  l.mmio_write(kSvr, 0xff);
  EXPECT_EQ(l.mmio_read(kLvtError), 0x10030u);
  l.mmio_write(kLvtError, 0x30);
  EXPECT_EQ(l.mmio_read(kLvtError), 0x10030u) << "the mask stays while disabled";
  l.deliver(0x44, false);
  l.mmio_write(kSvr, 0x1ff);
  EXPECT_EQ(take_all(l), Vectors{0x33}) << "held while disabled, the new one was not accepted";
}

TEST_F(LapicTest, ReportsErrors) {
  Lapic& l = add(0);
  l.mmio_write(kLvtError, 0xe0);
  l.mmio_write(kIcrLow, 0x40000 | 5);  // self, illegal vector
  EXPECT_EQ(l.mmio_read(kEsr), 0u) << "not before a write";
  EXPECT_EQ(l.acknowledge(), 0xe0);
  l.mmio_write(kEoi, 0);
  l.mmio_write(kEsr, 0);
  EXPECT_EQ(l.mmio_read(kEsr), 0x20u);
  l.deliver(3, false);
  EXPECT_EQ(l.acknowledge(), 0xe0);
  l.mmio_write(kEoi, 0);
  l.mmio_write(kEsr, 0);
  EXPECT_EQ(l.mmio_read(kEsr), 0x40u);
  l.mmio_read(0x40);  // reserved register
  l.mmio_write(kEsr, 0);
  EXPECT_EQ(l.mmio_read(kEsr), 0x80u);
  l.mmio_write(kEsr, 0);
  EXPECT_EQ(l.mmio_read(kEsr), 0u);
}

TEST_F(LapicTest, XapicIpis) {
  for (u32 id = 0; id < 4; ++id) add(id);
  auto send = [&](u32 low, u32 dest) {
    lapics[0]->mmio_write(kIcrHigh, dest << 24);
    lapics[0]->mmio_write(kIcrLow, low);
  };
  auto taken = [&] {
    std::string who;
    for (auto& l : lapics)
      while (auto v = l->acknowledge()) {
        who += fmt::format("{}:{:x} ", l->id(), *v);
        l->mmio_write(kEoi, 0);
      }
    return who;
  };
  send(0x4040, 2);
  EXPECT_EQ(taken(), "2:40 ");
  EXPECT_EQ(lapics[0]->mmio_read(kIcrLow), 0x4040u);
  EXPECT_EQ(lapics[0]->mmio_read(kIcrHigh), 0x02000000u);
  send(0x4041, 0xff);
  EXPECT_EQ(taken(), "0:41 1:41 2:41 3:41 ");
  send(0x44042, 3);
  EXPECT_EQ(taken(), "0:42 ");
  send(0x84043, 3);
  EXPECT_EQ(taken(), "0:43 1:43 2:43 3:43 ");
  send(0xc4044, 0);
  EXPECT_EQ(taken(), "1:44 2:44 3:44 ");

  for (u32 id = 0; id < 4; ++id) lapics[id]->mmio_write(kLdr, 0x01000000u << id);
  send(0x4845, 0x0a);  // logical flat
  EXPECT_EQ(taken(), "1:45 3:45 ");
  for (u32 id = 0; id < 4; ++id) {
    lapics[id]->mmio_write(kDfr, 0);
    lapics[id]->mmio_write(kLdr, (id / 2) << 28 | 0x01000000u << (id % 2));
  }
  send(0x4846, 0x13);  // cluster 1, both
  EXPECT_EQ(taken(), "2:46 3:46 ");
  send(0x4847, 0x01);
  EXPECT_EQ(taken(), "0:47 ");
  // Lowest priority among the cluster: the one that is less busy.
  lapics[2]->set_cr8(3);
  send(0x4948, 0x13);
  EXPECT_EQ(taken(), "3:48 ");

  send(0x4400, 1);  // NMI
  EXPECT_EQ(ports[1]->nmis, 1);
  send(0xc500, 1);  // INIT assert, level
  send(0x8500, 1);  // and de-assert, which does nothing
  EXPECT_EQ(ports[1]->inits, 1);
  send(0xc4612, 0);  // SIPI to the others
  EXPECT_EQ(ports[0]->sipis.size(), 0u);
  EXPECT_EQ(ports[3]->sipis, std::vector<u8>{0x12});
}

TEST_F(LapicTest, X2apicTransitions) {
  Lapic& l = add(1);
  u64 xapic = 0xfee00800, x2 = 0xfee00c00, off = 0xfee00000;
  EXPECT_EQ(l.apic_base(), xapic);
  EXPECT_FALSE(l.write_msr(0x1b, 0xfee00400)) << "EXTD without EN";
  EXPECT_FALSE(l.write_msr(0x1b, xapic | 0x200)) << "reserved bit";
  EXPECT_FALSE(l.write_msr(0x1b, xapic | u64{1} << 46)) << "beyond the physical address";
  EXPECT_EQ(l.read_msr(0x802), std::nullopt) << "not in x2APIC mode";
  EXPECT_TRUE(l.claims(0xfee00030));
  EXPECT_TRUE(l.write_msr(0x1b, x2));
  EXPECT_FALSE(l.claims(0xfee00030));
  EXPECT_EQ(l.read_msr(0x802), 1u);
  EXPECT_FALSE(l.write_msr(0x1b, xapic)) << "x2APIC to xAPIC";
  EXPECT_TRUE(l.write_msr(0x1b, off));
  EXPECT_EQ(l.read_msr(0x802), std::nullopt);
  EXPECT_FALSE(l.write_msr(0x1b, x2)) << "disabled to x2APIC";
  EXPECT_TRUE(l.write_msr(0x1b, xapic));
  EXPECT_EQ(l.mmio_read(kSvr), 0xffu);
}

TEST_F(LapicTest, EnableBitResets) {
  Lapic& l = add(2);
  l.mmio_write(kTpr, 0x20);
  l.mmio_write(kLvtTimer, 0x20055);
  l.mmio_write(kInitial, 100);
  l.deliver(0x70, false);
  ASSERT_TRUE(l.write_msr(0x1b, 0xfee00000));
  EXPECT_FALSE(l.deliverable());
  l.deliver(0x71, false);
  EXPECT_FALSE(l.deliverable());
  EXPECT_FALSE(l.timer_deadline());
  ASSERT_TRUE(l.write_msr(0x1b, 0xfee00800));
  EXPECT_EQ(l.mmio_read(kId), 0x02000000u);
  EXPECT_EQ(l.mmio_read(kSvr), 0xffu);
  EXPECT_EQ(l.mmio_read(kTpr), 0u);
  EXPECT_EQ(l.mmio_read(kLvtTimer), 0x10000u);
  EXPECT_EQ(l.mmio_read(kIrr + 0x30), 0u);
  EXPECT_EQ(l.mmio_read(kDfr), 0xffffffffu);
  l.mmio_write(kSvr, 0x1ff);
  l.deliver(0x72, false);
  EXPECT_EQ(l.acknowledge(), 0x72) << "it works again";
}

TEST_F(LapicTest, X2apicRegistersAndIcr) {
  for (u32 id : {0u, 1u, 17u, 300u}) to_x2(add(id));
  Lapic& l = *lapics[0];
  EXPECT_EQ(lapics[2]->read_msr(0x80d), 0x00010002u);
  EXPECT_EQ(lapics[3]->read_msr(0x80d), 0x00121000u);
  for (u32 msr : {0x800u, 0x80bu, 0x80eu, 0x82fu, 0x831u, 0x83fu, 0x840u, 0x8ffu, 0x809u, 0x80cu})
    EXPECT_EQ(l.read_msr(msr), std::nullopt) << std::hex << msr;
  for (u32 msr : {0x802u, 0x803u, 0x80au, 0x80du, 0x80eu, 0x810u, 0x820u, 0x831u, 0x839u})
    EXPECT_FALSE(l.write_msr(msr, 0)) << std::hex << msr;
  EXPECT_FALSE(l.write_msr(0x80b, 1)) << "EOI takes 0 only";
  EXPECT_FALSE(l.write_msr(0x828, 1)) << "ESR takes 0 only";
  EXPECT_FALSE(l.write_msr(0x808, 0x100));
  EXPECT_FALSE(l.write_msr(0x80f, u64{1} << 32));
  EXPECT_FALSE(l.write_msr(0x832, 0x80000)) << "reserved LVT bit";
  EXPECT_FALSE(l.write_msr(0x830, 0x100000));

  EXPECT_TRUE(l.write_msr(0x830, u64{300} << 32 | 0x4055));
  EXPECT_EQ(l.read_msr(0x830), u64{300} << 32 | 0x4055);
  EXPECT_EQ(take_all(*lapics[3]), Vectors{0x55});
  EXPECT_TRUE(l.write_msr(0x830, u64{0x00010002} << 32 | 0x4856));  // logical: cluster 1, bit 1
  EXPECT_EQ(take_all(*lapics[2]), Vectors{0x56});
  EXPECT_TRUE(l.write_msr(0x830, u64{0x00000003} << 32 | 0x4857));  // cluster 0, both
  EXPECT_EQ(take_all(*lapics[0]), Vectors{0x57});
  EXPECT_EQ(take_all(*lapics[1]), Vectors{0x57});
  EXPECT_TRUE(l.write_msr(0x830, u64{0xff} << 32 | 0x4068)) << "0xff is nobody here";
  EXPECT_TRUE(l.write_msr(0x830, u64{0xffffffff} << 32 | 0x4069));
  for (auto& lapic : lapics) EXPECT_EQ(take_all(*lapic), Vectors{0x69});
  EXPECT_TRUE(l.write_msr(0x83f, 0x7a));
  EXPECT_EQ(take_all(l), Vectors{0x7a});
}

TEST_F(LapicTest, MsiRouting) {
  add(0), add(1);
  bus.send({0xfee01000, 0x31});
  EXPECT_EQ(take_all(*lapics[1]), Vectors{0x31});
  EXPECT_TRUE(take_all(*lapics[0]).empty());
  bus.send({0xfeeff000, 0x8042});  // everybody, level
  EXPECT_EQ(take_all(*lapics[0]), Vectors{0x42});
  EXPECT_EQ(lapics[0]->mmio_read(kTmr + 0x20), 4u);
  EXPECT_EQ(take_all(*lapics[1]), Vectors{0x42});
  lapics[0]->mmio_write(kLdr, 0x01000000);
  lapics[1]->mmio_write(kLdr, 0x02000000);
  bus.send({0xfee0300c, 0x53});  // logical, redirection hint: one of both, and always the same
  bus.send({0xfee0300c, 0x53});
  EXPECT_EQ(take_all(*lapics[0]).size() + take_all(*lapics[1]).size(), 1u);
  bus.send({0xfee01000, 0x400});
  EXPECT_EQ(ports[1]->nmis, 1);
  bus.send({0xfed00000, 0x44});  // no MSI address
  bus.send({0x1fee00000, 0x44});
  EXPECT_FALSE(lapics[0]->deliverable());
}

TEST_F(LapicTest, VirtualWire) {
  Lapic& l = add(0);
  FakePic pic;
  l.set_extint(&pic);
  pic.level = true;
  EXPECT_FALSE(l.deliverable()) << "LINT0 is masked after RESET";
  l.mmio_write(kLint0, 0x700);
  l.mmio_write(kTpr, 0xf0);
  ASSERT_TRUE(l.deliverable()) << "ExtINT knows no priority";
  EXPECT_EQ(l.acknowledge(), 0x38);
  EXPECT_EQ(l.mmio_read(kIsr + 0x10), 0u) << "and no ISR";
  EXPECT_FALSE(l.deliverable());
  l.mmio_write(kLint0, 0x10700);
  pic.level = true;
  EXPECT_FALSE(l.deliverable());
  // Disabled altogether, LINT0 is the INTR pin.
  ASSERT_TRUE(l.write_msr(0x1b, 0xfee00100));
  EXPECT_TRUE(l.deliverable());
  EXPECT_EQ(l.acknowledge(), 0x38);
}

TEST_F(LapicTest, LintPins) {
  Lapic& l = add(0);
  l.mmio_write(kLint1, 0x400);
  l.set_lint(1, true);
  l.set_lint(1, true);
  EXPECT_EQ(ports[0]->nmis, 1);
  l.mmio_write(kLint0, 0x39);  // fixed: how Linux tries the timer through the 8259 last
  l.set_lint(0, true);
  EXPECT_EQ(take_all(l), Vectors{0x39});
}

TEST_F(LapicTest, ExtintMessage) {
  Lapic& l = add(0);
  FakePic pic;
  l.set_extint(&pic);
  pic.level = true;
  bus.send({0xfee00000, 0x700});
  EXPECT_EQ(l.acknowledge(), 0x38);
  pic.level = true;
  EXPECT_FALSE(l.deliverable()) << "one message, one INTA cycle";
}

TEST_F(LapicTest, InitKeepsIdAndMode) {
  Lapic& l = add(5);
  to_x2(l);
  l.write_msr(0x808, 0x30);
  l.deliver(0x40, false);
  l.init_reset();
  EXPECT_EQ(l.read_msr(0x802), 5u);
  EXPECT_EQ(l.read_msr(0x808), 0u);
  EXPECT_EQ(l.read_msr(0x80f), 0xffu);
  EXPECT_FALSE(l.deliverable());
  l.reset();
  EXPECT_EQ(l.apic_base(), 0xfee00800u);
}

TEST_F(LapicTest, SavedStateGoesOn) {
  Lapic& l = add(0);
  l.mmio_write(kLvtTimer, 0x20041);
  l.mmio_write(kDivide, 0xb);
  l.mmio_write(kInitial, 1000);
  l.deliver(0x51, true);
  l.acknowledge();
  l.deliver(0x62, true);  // still posted, not merged
  l.deliver(4, false);    // an error not yet seen either
  machine::LapicState saved = l.save();
  Lapic& other = add(0);
  other.load(saved, l.apic_base());
  EXPECT_EQ(state::dump(other.save()), state::dump(l.save()));
  for (Lapic* x : {&l, &other}) {
    EXPECT_EQ(x->timer_deadline(), 1000);
    EXPECT_EQ(x->acknowledge(), 0x62);
    EXPECT_EQ(x->mmio_read(kTmr + 0x30), 4u);
    x->mmio_write(kEsr, 0);
    EXPECT_EQ(x->mmio_read(kEsr), 0x40u);
  }
}

// The whole point of posting: no interrupt is lost between threads.
TEST_F(LapicTest, ConcurrentDeliveryLosesNothing) {
  Lapic& l = add(0);
  constexpr int kRounds = 2000;
  std::vector<std::thread> senders;
  std::array<std::atomic<int>, 4> taken{};
  for (int t = 0; t < 4; ++t)
    senders.emplace_back([&, t] {
      // Each sender waits until its vector was taken before it sends it again.
      for (int i = 0; i < kRounds; ++i) {
        l.deliver(static_cast<u8>(0x40 + 0x30 * t), t & 1);
        while (taken[t].load() <= i) std::this_thread::yield();
      }
    });
  for (int n = 0; n < 4 * kRounds;) {
    if (!l.deliverable()) {
      std::this_thread::yield();
      continue;
    }
    auto vector = l.acknowledge();
    ASSERT_TRUE(vector);
    l.mmio_write(kEoi, 0);
    taken[(*vector - 0x40) / 0x30]++;
    ++n;
  }
  for (auto& s : senders) s.join();
  EXPECT_FALSE(l.deliverable());
}

}  // namespace
}  // namespace skerry::irq
