// For tests of the LAPIC: two of them on a bus, with ports that count.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "irq/apic_bus.hpp"
#include "irq/lapic.hpp"

namespace skerry::irq {

enum Offset : u32 {
  kId = 0x20,
  kTpr = 0x80,
  kPpr = 0xa0,
  kEoi = 0xb0,
  kLdr = 0xd0,
  kDfr = 0xe0,
  kSvr = 0xf0,
  kIsr = 0x100,
  kTmr = 0x180,
  kIrr = 0x200,
  kEsr = 0x280,
  kIcrLow = 0x300,
  kIcrHigh = 0x310,
  kLvtTimer = 0x320,
  kLint0 = 0x350,
  kLint1 = 0x360,
  kLvtError = 0x370,
  kInitial = 0x380,
  kCurrent = 0x390,
  kDivide = 0x3e0,
};

struct FakePort : machine::VcpuPort {
  void notify_interrupt() override { ++notified; }
  void nmi() override { ++nmis; }
  void init() override { ++inits; }
  void sipi(u8 vector) override { sipis.push_back(vector); }
  void unhalt() override { ++unhalts; }
  std::atomic<int> notified{0}, nmis{0}, inits{0}, unhalts{0};
  std::vector<u8> sipis;
};

struct FakePic : machine::ExtIntSource {
  bool pending() override { return level; }
  u8 acknowledge() override {
    level = false;
    return vector;
  }
  bool level = false;
  u8 vector = 0x38;
};

struct LapicTest : testing::Test {
  Lapic& add(u32 id, bool enable = true) {
    LapicSetup setup;
    setup.id = id;
    setup.bsp = id == 0;
    setup.tsc_hz = 2'000'000'000;
    lapics.push_back(std::make_unique<Lapic>(setup, clock, bus));
    ports.push_back(std::make_unique<FakePort>());
    lapics.back()->set_port(ports.back().get());
    if (enable) lapics.back()->mmio_write(kSvr, 0x1ff);
    return *lapics.back();
  }
  void to_x2(Lapic& l) { ASSERT_TRUE(l.write_msr(0x1b, l.apic_base() | 0xc00)); }
  /// The vectors a CPU takes without any EOI in between.
  static std::vector<int> take_all(Lapic& l) {
    std::vector<int> taken;
    while (auto v = l.acknowledge()) taken.push_back(*v);
    return taken;
  }

  ManualClock clock;
  ApicBus bus;
  std::vector<std::unique_ptr<Lapic>> lapics;
  std::vector<std::unique_ptr<FakePort>> ports;
};
using Vectors = std::vector<int>;

}  // namespace skerry::irq
