// Random register accesses on the interrupt controllers while time passes; see
// devices/hostile_test.cpp.
#include <gtest/gtest.h>

#include <random>

#include "irq/apic_bus.hpp"
#include "irq/ioapic.hpp"
#include "irq/lapic.hpp"
#include "irq/pic.hpp"
#include "irq/pit.hpp"
#include "machine/manual_surroundings.hpp"

namespace skerry::irq {
namespace {

struct Hostile : testing::Test {
  void access(machine::Registers& r, u64 size) {
    unsigned width = 1u << (random() % 4);
    u64 at = random() % (size + 4);
    if (random() % 3 == 0)
      (void)r.read(at, width);
    else
      r.write(at, width, random());
  }
  /// Moves the state there and back. What was due when it was saved has happened after the first
  /// load.
  void same(machine::Device& from, machine::Device& to) {
    state::Image image, again, back;
    from.save(image);
    auto loaded = to.load(image);
    ASSERT_TRUE(loaded) << loaded.error().what;
    to.save(again);
    ASSERT_TRUE(from.load(again));
    from.save(back);
    ASSERT_EQ(again.serialize(), back.serialize());
  }
  std::mt19937_64 random{8259};
  machine::ManualSurroundings around;
  std::mutex lock;
};

TEST_F(Hostile, Pit) {
  machine::ProbeLine line, line2;
  Pit a(around, line), b(around, line2);
  for (int i = 0; i < 30000; ++i) {
    access(random() % 4 ? a.ports() : a.control_port(), 4);
    if (random() % 4 == 0) around.advance(static_cast<Nanos>(random() % 3'000'000));
    if (i % 500 == 0) {
      ASSERT_NO_FATAL_FAILURE(same(a, b));
    }
  }
}

TEST_F(Hostile, Pic) {
  Pic a(lock), b(lock);
  for (int i = 0; i < 100000; ++i) {
    machine::Registers* blocks[] = {&a.master_ports(), &a.slave_ports(), &a.elcr_ports()};
    access(*blocks[random() % 3], 2);
    a.line(random() % 16).set(random() & 1);
    if (random() % 3 == 0) a.acknowledge();
    if (i % 1000 == 0) {
      ASSERT_NO_FATAL_FAILURE(same(a, b));
    }
  }
}

TEST_F(Hostile, Apics) {
  ManualClock& clock = around.manual_clock();
  ApicBus bus;
  Ioapic io(bus), twin(bus);
  bus.set_eoi_callback([&](u8 vector) { io.eoi(vector); });
  std::vector<std::unique_ptr<Lapic>> lapics;
  for (u32 id : {0u, 1u, 2u, 255u, 300u}) {
    LapicSetup setup;
    setup.id = id;
    lapics.push_back(std::make_unique<Lapic>(setup, clock, bus));
  }
  for (int i = 0; i < 200000; ++i) {
    Lapic& l = *lapics[random() % lapics.size()];
    switch (random() % 8) {
      case 0: l.mmio_write(static_cast<u32>(random() & 0xff0), static_cast<u32>(random())); break;
      case 1: l.mmio_read(static_cast<u32>(random() & 0xfff)); break;
      case 2: l.write_msr(0x800 + random() % 256, random() & 0xffff); break;
      case 3: l.write_msr(random() % 4 ? 0x6e0 : 0x1b, random() % 4 ? 0xfee00800 : random()); break;
      case 4: access(io, 0x50); break;
      case 5: io.pin(random() % 24).set(random() & 1); break;
      case 6: bus.send({0xfee00000 | (random() & 0xfffff), static_cast<u32>(random())}); break;
      case 7:
        clock.advance(static_cast<Nanos>(random() % 1'000'000));
        l.run_timer();
        (void)l.timer_deadline();
        if (l.deliverable()) l.acknowledge();
        break;
    }
    if (random() % 16 == 0) l.set_lint(random() & 1, random() & 1);
    if (i % 2000 == 0) {
      auto saved = l.save();
      l.load(saved, l.apic_base());
      ASSERT_EQ(state::dump(l.save()), state::dump(saved));
      ASSERT_NO_FATAL_FAILURE(same(io, twin));
      for (auto& x : lapics)
        if (!x->enabled()) x->reset();
      for (auto& x : lapics) x->mmio_write(0xf0, 0x1ff);
    }
  }
}

}  // namespace
}  // namespace skerry::irq
