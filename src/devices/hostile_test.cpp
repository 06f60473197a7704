// Random register accesses on every device while time passes: nothing may crash, hang or grow, and
// the states that come of it must survive a save and a load. The sanitizers do the checking.
#include <random>

#include "devices/acpi_pm.hpp"
#include "devices/debug_exit.hpp"
#include "devices/device_test.hpp"
#include "devices/fw_cfg.hpp"
#include "devices/hpet.hpp"
#include "devices/i8042.hpp"
#include "devices/rtc.hpp"
#include "devices/uart16550.hpp"

namespace skerry::devices {
namespace {

struct Block {
  machine::Registers* registers;
  u64 size;
};

struct Hostile : testing::Test {
  void run(machine::Device& device, machine::Device& twin, const std::vector<Block>& blocks,
           u64 rounds = 20000) {
    for (u64 i = 0; i < rounds; ++i) {
      const Block& b = blocks[random() % blocks.size()];
      unsigned size = 1u << (random() % 4);
      u64 at = random() % (b.size + 4);
      if (random() % 3 == 0)
        (void)b.registers->read(at, size);
      else
        b.registers->write(at, size, random() % 4 ? random() & 0xff : random());
      if (random() % 8 == 0) {
        static constexpr std::array<Nanos, 5> kSteps{1, 1000, 100'000, 10'000'000, 1'000'000'000};
        around.advance(static_cast<Nanos>(random() % static_cast<u64>(kSteps[random() % 5]) / 20));
      }
      if (i % 1000 == 0) {
        state::Image image;
        device.save(image);
        auto loaded = twin.load(image);
        ASSERT_TRUE(loaded) << loaded.error().what;
        // What was due when it was saved has happened by now; from here it is the same state.
        move_state(twin, device);
        ASSERT_FALSE(testing::Test::HasFailure());
      }
    }
    // Timers cannot be made to fire without bound.
    u64 fired = around.fired();
    around.advance(10'000'000);
    EXPECT_LT(around.fired() - fired, 5000u);
    device.reset();
  }

  std::mt19937_64 random{20240229};
  machine::ManualSurroundings around;
  FakeControl control;
  machine::ProbeLine line, line2, twin_line;
};

TEST_F(Hostile, Uart) {
  Uart16550 a("u", around, line, {[](auto) {}, [] {}}), b("u", around, twin_line, {});
  run(a, b, {{&a, 8}});
}
TEST_F(Hostile, Rtc) {
  Rtc a(around, line, {}), b(around, twin_line, {});
  run(a, b, {{&a.ports(), 2}});
}
TEST_F(Hostile, Hpet) {
  Hpet::Wiring w;
  w.routes = ~0u;
  w.pin = [&](unsigned) -> machine::IrqLine& { return line; };
  w.irq0 = w.irq8 = &line2;
  Hpet a(around, w), b(around, w);
  run(a, b, {{&a, 0x180}});
}
TEST_F(Hostile, AcpiPm) {
  AcpiPm a(around, control, line, {}), b(around, control, twin_line, {});
  run(a, b, {{&a.block(), AcpiPm::kBlockSize}, {&a.smi_command(), 2}});
}
TEST_F(Hostile, I8042) {
  I8042 a(control, line, line2), b(control, twin_line, twin_line);
  for (int i = 0; i < 20; ++i) {
    a.inject_key(static_cast<u16>(random()), random() & 1);
    a.inject_mouse(static_cast<int>(random()), static_cast<int>(random()),
                   static_cast<u8>(random()));
    run(a, b, {{&a.data_port(), 1}, {&a.command_port(), 1}}, 1000);
  }
}
TEST_F(Hostile, FwCfg) {
  auto memory = *memory::GuestMemory::create(1 * MiB);
  FwCfg a(*memory), b(*memory);
  ASSERT_TRUE(a.add_file("x", std::vector<u8>(100)));
  run(a, b, {{&a.ports(), 2}, {&a.dma_ports(), 8}});
}
TEST_F(Hostile, SmallPorts) {
  Port92 a(control), b(control);
  run(a, b, {{&a, 1}}, 2000);
  ResetPort c(control), d(control);
  run(c, d, {{&c, 1}}, 2000);
}

}  // namespace
}  // namespace skerry::devices
