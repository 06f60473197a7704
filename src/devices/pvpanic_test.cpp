#include "devices/pvpanic.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

TEST(PvPanic, TellsEachEventOnce) {
  FakeControl control;
  PvPanic port(control), other(control);
  EXPECT_EQ(port.read(0, 1), 3u);
  port.write(0, 1, 0xfc);
  port.write(1, 1, 1);
  EXPECT_TRUE(control.requests.empty());
  port.write(0, 1, PvPanic::kPanicked);
  ASSERT_TRUE(control.asked(machine::Request::panic));
  EXPECT_EQ(control.requests[0].second, 1u);
  for (int i = 0; i < 100; ++i) port.write(0, 1, PvPanic::kPanicked);
  EXPECT_EQ(control.requests.size(), 1u);
  move_state(port, other);
  other.write(0, 1, 3);
  ASSERT_EQ(control.requests.size(), 2u);
  EXPECT_EQ(control.requests[1].second, 2u);
  port.reset();
  port.write(0, 1, 1);
  EXPECT_EQ(control.requests.size(), 3u);
  EXPECT_TRUE(state::uncovered<PvPanic::State>().empty());
}

}  // namespace
}  // namespace skerry::devices
