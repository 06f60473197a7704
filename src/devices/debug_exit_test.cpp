#include "devices/debug_exit.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

TEST(SmallPorts, DebugExit) {
  FakeControl control;
  DebugExit port(control);
  port.write(0, 4, 0x12);
  ASSERT_TRUE(control.asked(machine::Request::debug_exit));
  EXPECT_EQ(control.requests[0].second, 0x12u);
}

TEST(SmallPorts, DebugConsole) {
  std::string text;
  DebugConsole port([&](u8 c) { text += static_cast<char>(c); });
  EXPECT_EQ(port.read(0, 1), 0xe9u);
  port.write(0, 1, 'h');
  port.write(0, 1, 'i');
  EXPECT_EQ(text, "hi");
}

TEST(SmallPorts, PostCode) {
  PostPort port, other;
  port.write(0, 1, 0x5a);
  EXPECT_EQ(port.read(0, 1), 0x5au);
  move_state(port, other);
  EXPECT_EQ(other.read(0, 1), 0x5au);
}

TEST(SmallPorts, Port92) {
  FakeControl control;
  Port92 port(control), other(control);
  port.write(0, 1, 0);
  EXPECT_EQ(port.read(0, 1), 2u) << "A20 stays on";
  EXPECT_TRUE(control.requests.empty());
  port.write(0, 1, 1);
  EXPECT_TRUE(control.asked(machine::Request::reset));
  port.write(0, 1, 1);
  EXPECT_EQ(control.requests.size(), 1u) << "on the rising edge";
  move_state(port, other);
}

TEST(SmallPorts, ResetControl) {
  FakeControl control;
  ResetPort port(control), other(control);
  port.write(0, 1, 2);
  EXPECT_TRUE(control.requests.empty());
  port.write(0, 1, 6);
  EXPECT_TRUE(control.asked(machine::Request::reset));
  move_state(port, other);
  other.write(0, 1, 6);
  EXPECT_EQ(control.requests.size(), 1u);
}

}  // namespace
}  // namespace skerry::devices
