#include "irq/pic.hpp"

#include <gtest/gtest.h>

namespace skerry::irq {
namespace {

struct PicTest : testing::Test {
  void init(u8 icw4 = 1, u8 icw1 = 0x11) {
    for (auto* p : {&pic.master_ports(), &pic.slave_ports()}) {
      bool slave = p == &pic.slave_ports();
      p->write(0, 1, icw1);
      p->write(1, 1, slave ? 0x28 : 0x20);
      p->write(1, 1, slave ? 2 : 4);
      p->write(1, 1, icw4);
      p->write(1, 1, 0);  // all unmasked
    }
  }
  void raise(unsigned irq) { pic.line(irq).set(true); }
  void lower(unsigned irq) { pic.line(irq).set(false); }
  int take() { return pic.pending() ? pic.acknowledge() : -1; }
  void eoi(bool slave = false) {
    if (slave) pic.slave_ports().write(0, 1, 0x20);
    pic.master_ports().write(0, 1, 0x20);
  }
  u8 isr(bool slave = false) {
    auto& p = slave ? pic.slave_ports() : pic.master_ports();
    p.write(0, 1, 0x0b);
    return static_cast<u8>(p.read(0, 1));
  }
  u8 irr(bool slave = false) {
    auto& p = slave ? pic.slave_ports() : pic.master_ports();
    p.write(0, 1, 0x0a);
    return static_cast<u8>(p.read(0, 1));
  }

  std::mutex lock;
  int intr_changes = 0;
  Pic pic{lock, [this](bool) { ++intr_changes; }};
};

TEST_F(PicTest, PriorityAndNesting) {
  init();
  raise(5);
  raise(3);
  EXPECT_EQ(take(), 0x23);
  EXPECT_EQ(isr(), 0x08);
  EXPECT_EQ(take(), -1) << "5 is below 3";
  raise(1);
  EXPECT_EQ(take(), 0x21);
  eoi();
  EXPECT_EQ(isr(), 0x08);
  EXPECT_EQ(take(), -1);
  eoi();
  EXPECT_EQ(take(), 0x25);
  eoi();
  EXPECT_FALSE(pic.pending());
  EXPECT_GT(intr_changes, 0);
}

TEST_F(PicTest, Cascade) {
  init();
  raise(12);
  raise(8);
  EXPECT_EQ(take(), 0x28);
  EXPECT_EQ(isr(), 0x04);
  EXPECT_EQ(isr(true), 0x01);
  pic.slave_ports().write(0, 1, 0x20);
  EXPECT_EQ(take(), -1) << "the master still serves the slave";
  pic.master_ports().write(0, 1, 0x20);
  EXPECT_EQ(take(), 0x2c);
  raise(1);
  EXPECT_EQ(take(), 0x21) << "above the cascade";
}

TEST_F(PicTest, SpecialFullyNestedLetsTheSlaveInAgain) {
  init(0x11);
  raise(12);
  EXPECT_EQ(take(), 0x2c);
  raise(8);
  EXPECT_EQ(take(), 0x28);
}

TEST_F(PicTest, EdgesAreLatchedOnce) {
  init();
  pic.line(4).pulse();
  EXPECT_EQ(irr(), 0x10);
  raise(4);
  EXPECT_EQ(take(), 0x24);
  eoi();
  EXPECT_FALSE(pic.pending()) << "a line that stays up is no new edge";
  lower(4);
  raise(4);
  EXPECT_TRUE(pic.pending());
}

TEST_F(PicTest, MaskHoldsRequests) {
  init();
  pic.master_ports().write(1, 1, 0xff);
  raise(4);
  EXPECT_FALSE(pic.pending());
  EXPECT_EQ(irr(), 0x10);
  pic.master_ports().write(1, 1, 0xef);
  EXPECT_EQ(pic.master_ports().read(1, 1), 0xefu);
  EXPECT_EQ(take(), 0x24);
}

TEST_F(PicTest, LevelByElcr) {
  init();
  pic.elcr_ports().write(0, 2, 0xffff);
  EXPECT_EQ(pic.elcr_ports().read(0, 2), 0xdef8u) << "0, 1, 2, 8 and 13 are edge for ever";
  raise(10);
  EXPECT_EQ(take(), 0x2a);
  eoi(true);
  EXPECT_EQ(take(), 0x2a) << "still asserted";
  lower(10);
  eoi(true);
  EXPECT_FALSE(pic.pending());
}

TEST_F(PicTest, Spurious) {
  init();
  pic.elcr_ports().write(0, 2, 0x0420);
  raise(5);
  EXPECT_TRUE(pic.pending());
  lower(5);
  EXPECT_EQ(pic.acknowledge(), 0x27);
  EXPECT_EQ(isr(), 0) << "without an ISR bit";
  // A slave's request that goes away between the two INTA pulses cannot be shown here: it gives 7
  // of the master when it goes before both.
  raise(10);
  lower(10);
  EXPECT_EQ(pic.acknowledge(), 0x27);
}

TEST_F(PicTest, AutoEoiAndRotation) {
  init(3);
  raise(3);
  EXPECT_EQ(take(), 0x23);
  EXPECT_EQ(isr(), 0);
  pic.master_ports().write(0, 1, 0x80);  // rotate in automatic EOI
  lower(3), raise(3), raise(4);
  EXPECT_EQ(take(), 0x23);
  lower(3), raise(3);
  EXPECT_EQ(take(), 0x24) << "3 went to the end of the queue";
  EXPECT_EQ(take(), 0x23);
}

TEST_F(PicTest, RotationCommands) {
  init();
  pic.master_ports().write(0, 1, 0xc0 | 3);  // 3 is lowest: 4 is highest
  raise(0), raise(5);
  EXPECT_EQ(take(), 0x25);
  pic.master_ports().write(0, 1, 0xa0);  // rotate on EOI: 5 is lowest
  raise(6), lower(5), raise(5);
  EXPECT_EQ(take(), 0x26);
  pic.master_ports().write(0, 1, 0x60 | 6);  // specific EOI
  EXPECT_EQ(isr(), 0);
  EXPECT_EQ(take(), 0x20);
  pic.master_ports().write(0, 1, 0xe0 | 0);  // rotate on specific EOI
  EXPECT_EQ(take(), 0x25);
}

TEST_F(PicTest, SpecialMaskMode) {
  init();
  raise(2 + 1);
  EXPECT_EQ(take(), 0x23);
  raise(6);
  EXPECT_FALSE(pic.pending());
  pic.master_ports().write(1, 1, 0x08);
  pic.master_ports().write(0, 1, 0x68);
  EXPECT_EQ(take(), 0x26) << "masked 3 does not hold back 6";
}

TEST_F(PicTest, Poll) {
  init();
  pic.master_ports().write(0, 1, 0x0c);
  EXPECT_EQ(pic.master_ports().read(0, 1) & 0x80, 0u);
  raise(6);
  pic.master_ports().write(0, 1, 0x0c);
  EXPECT_EQ(pic.master_ports().read(0, 1), 0x86u);
  EXPECT_EQ(isr(), 0x40);
  EXPECT_FALSE(pic.pending());
}

TEST_F(PicTest, InitialisationClearsMaskAndService) {
  init();
  raise(3);
  take();
  pic.master_ports().write(1, 1, 0xff);
  pic.master_ports().write(0, 1, 0x13);  // single, ICW4: no ICW3
  pic.master_ports().write(1, 1, 0x47);
  pic.master_ports().write(1, 1, 1);
  EXPECT_EQ(pic.master_ports().read(1, 1), 0u);
  EXPECT_EQ(isr(), 0);
  EXPECT_FALSE(pic.pending()) << "the edge latch is cleared";
  lower(3), raise(3);
  EXPECT_EQ(take(), 0x43) << "the low bits of ICW2 come from the input";
}

TEST_F(PicTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Pic::State>().empty());
  init();
  pic.elcr_ports().write(0, 2, 0x0400);
  raise(3);
  take();
  raise(10);
  raise(1);
  state::Image image;
  pic.save(image);
  bool intr = false;
  Pic other(lock, [&](bool level) { intr = level; });
  ASSERT_TRUE(other.load(image));
  EXPECT_TRUE(intr);
  state::Image again;
  other.save(again);
  EXPECT_EQ(image.serialize(), again.serialize());
  EXPECT_EQ(other.acknowledge(), 0x21);
  other.master_ports().write(0, 1, 0x20);
  EXPECT_TRUE(other.pending()) << "the slave is above 3";
  EXPECT_EQ(other.acknowledge(), 0x2a);

  Pic::State bad;
  bad.chip[1].lowest = 8;
  image.put("pic", bad);
  EXPECT_FALSE(other.load(image));
}

}  // namespace
}  // namespace skerry::irq
