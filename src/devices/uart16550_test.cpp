#include "devices/uart16550.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct UartTest : testing::Test {
  u8 in(u64 reg) { return static_cast<u8>(uart.read(reg, 1)); }
  void out(u64 reg, u8 value) { uart.write(reg, 1, value); }
  size_t type(std::string_view text) {
    return uart.receive({reinterpret_cast<const u8*>(text.data()), text.size()});
  }
  std::string drain() {
    std::string text;
    while (in(5) & 1) text += static_cast<char>(in(0));
    return text;
  }

  machine::ManualSurroundings around;
  machine::ProbeLine irq;
  std::string sent;
  int rooms = 0;
  Uart16550::Host host{[this](std::span<const u8> b) { sent.append(b.begin(), b.end()); },
                       [this] { ++rooms; }};
  Uart16550 uart{"uart0", around, irq, host};
};

TEST_F(UartTest, Transmits) {
  for (char c : std::string_view("hello")) {
    EXPECT_TRUE(in(5) & 0x20);
    out(0, static_cast<u8>(c));
  }
  EXPECT_EQ(sent, "hello");
  EXPECT_FALSE(irq.level);
}

TEST_F(UartTest, ThreInterrupt) {
  out(1, 2);
  EXPECT_TRUE(irq.level) << "empty when enabled";
  EXPECT_EQ(in(2), 0x02);
  EXPECT_FALSE(irq.level) << "reading IIR clears it";
  EXPECT_EQ(in(2), 0x01);
  out(0, 'x');
  EXPECT_TRUE(irq.level);
  out(1, 0);
  EXPECT_FALSE(irq.level);
}

TEST_F(UartTest, ReceivesWithoutFifo) {
  out(1, 1);
  EXPECT_EQ(type("ab"), 1u);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(2), 0x04);
  EXPECT_EQ(rooms, 0);
  EXPECT_EQ(in(0), 'a');
  EXPECT_EQ(rooms, 1);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(in(0), 0);
}

TEST_F(UartTest, FifoTriggerAndTimeout) {
  out(2, 0x81);  // trigger at 8
  out(1, 1);
  EXPECT_EQ(type("1234567"), 7u);
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(type("8"), 1u);
  EXPECT_TRUE(irq.level);
  EXPECT_EQ(in(2), 0xc4);
  EXPECT_EQ(in(0), '1');
  EXPECT_FALSE(irq.level);
  around.advance(20'000'000);
  EXPECT_TRUE(irq.level) << "character timeout";
  EXPECT_EQ(in(2), 0xcc);
  EXPECT_EQ(in(0), '2');
  EXPECT_FALSE(irq.level);
  EXPECT_EQ(type("abcdefghijklmnop"), 10u);
  EXPECT_EQ(drain(), "345678abcdefghij");
  EXPECT_EQ(rooms, 1);
  around.advance(100'000'000);
  EXPECT_FALSE(irq.level) << "no timeout for an empty FIFO";
}

TEST_F(UartTest, InterruptPriorityAndLineStatus) {
  out(2, 1);
  out(1, 0x0f);
  type("q");
  uart.send_break();
  // The break is not at the top yet, so its line status comes after the character before it.
  EXPECT_EQ(in(2), 0xc4);
  EXPECT_TRUE(in(5) & 0x80);
  in(0);
  EXPECT_EQ(in(2), 0xc6);
  EXPECT_TRUE(in(5) & 0x10);
  EXPECT_EQ(in(2), 0xc4);
  in(0);
  EXPECT_EQ(in(5), 0x60);
  EXPECT_EQ(in(2), 0xc2);
  EXPECT_EQ(in(2), 0xc1);
}

TEST_F(UartTest, DivisorLatchAndScratch) {
  out(3, 0x83);
  out(0, 0x34);
  out(1, 0x12);
  EXPECT_EQ(in(0), 0x34);
  EXPECT_EQ(in(1), 0x12);
  out(3, 0x03);
  EXPECT_EQ(in(1), 0);
  EXPECT_TRUE(sent.empty());
  out(7, 0xa5);
  EXPECT_EQ(in(7), 0xa5);
  EXPECT_EQ(uart.read(8, 1), 0xffu);
}

// Linux's autoconfig: loopback, MSR from MCR; and what finds a 16550A.
TEST_F(UartTest, LinuxRecognisesIt) {
  out(1, 0x0f);
  EXPECT_EQ(in(1), 0x0f);
  out(1, 0);
  out(4, 0x1a);
  EXPECT_EQ(in(6) & 0xf0, 0x90);
  out(4, 0);
  EXPECT_EQ(in(6) & 0xf0, 0xb0);
  out(2, 1);
  EXPECT_EQ(in(2) >> 6, 3);
  out(2, 0);
  EXPECT_EQ(in(2) >> 6, 0);
}

TEST_F(UartTest, LoopbackAndModemInterrupt) {
  out(1, 8);
  out(4, 0x10);
  EXPECT_TRUE(irq.level) << "the modem lines fell";
  EXPECT_EQ(in(2), 0x00);
  EXPECT_EQ(in(6), 0x0b);
  EXPECT_FALSE(irq.level);
  out(0, 'L');
  EXPECT_EQ(in(0), 'L');
  EXPECT_TRUE(sent.empty());
  EXPECT_EQ(type("no"), 0u) << "disconnected";
  out(0, '1'), out(0, '2');
  EXPECT_EQ(in(5) & 3, 3) << "overrun";
  EXPECT_EQ(in(5) & 3, 1) << "shown once";
  out(4, 0);
  EXPECT_EQ(rooms, 0) << "the buffer is full";
  in(0);
  EXPECT_EQ(rooms, 1);
}

TEST_F(UartTest, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Uart16550::State>().empty());
  out(2, 0xc1);
  out(1, 0x0d);
  type("state");
  in(0);
  machine::ProbeLine irq2;
  Uart16550 other("uart0", around, irq2, {});
  move_state(uart, other);
  around.advance(20'000'000);
  EXPECT_TRUE(irq2.level) << "the timeout goes on";
  for (char c : std::string_view("tate")) EXPECT_EQ(other.read(0, 1), static_cast<u8>(c));
  Uart16550::State bad;
  bad.count = 17;
  EXPECT_FALSE(accepts(other, bad));
  other.reset();
  EXPECT_FALSE(irq2.level);
  EXPECT_EQ(other.read(5, 1), 0x60u);
}

}  // namespace
}  // namespace skerry::devices
