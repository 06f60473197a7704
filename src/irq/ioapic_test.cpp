#include "irq/ioapic.hpp"

#include <gtest/gtest.h>

#include "irq/apic_bus.hpp"
#include "irq/lapic.hpp"

namespace skerry::irq {
namespace {

struct Recorder : machine::MsiSink {
  void send(machine::MsiMessage m) override { sent.push_back(m); }
  void set_pin_route(unsigned pin, std::optional<machine::MsiMessage> r) override {
    routes[pin] = r;
  }
  std::vector<machine::MsiMessage> sent;
  std::array<std::optional<machine::MsiMessage>, 24> routes;
};

u32 get(Ioapic& io, u8 reg) {
  io.write(0, 4, reg);
  return static_cast<u32>(io.read(0x10, 4));
}
void put(Ioapic& io, u8 reg, u32 value) {
  io.write(0, 4, reg);
  io.write(0x10, 4, value);
}
void redirect(Ioapic& io, unsigned pin, u64 entry) {
  put(io, static_cast<u8>(0x11 + 2 * pin), static_cast<u32>(entry >> 32));
  put(io, static_cast<u8>(0x10 + 2 * pin), static_cast<u32>(entry));
}
constexpr u64 kLevel = 0x8000, kMasked = 0x10000, kRemoteIrr = 0x4000;

TEST(Ioapic, Identity) {
  Recorder sink;
  Ioapic io(sink);
  EXPECT_EQ(get(io, 1), 0x00170020u);
  put(io, 0, 0x05000000);
  EXPECT_EQ(get(io, 0), 0x05000000u);
  EXPECT_EQ(get(io, 2), 0x05000000u);
  for (u8 pin = 0; pin < 24; ++pin) EXPECT_EQ(get(io, 0x10 + 2 * pin), 0x10000u);
  EXPECT_EQ(get(io, 0x40), 0xffffffffu) << "past the last pin";
  put(io, 0x40, 0);
  io.write(0x20, 4, 7);
  EXPECT_EQ(io.read(0x30, 4), 0u);
}

TEST(Ioapic, EdgeSendsOnceAndIsLostWhileMasked) {
  Recorder sink;
  Ioapic io(sink);
  redirect(io, 4, 0x03000000'00000831);
  io.pin(4).set(true);
  io.pin(4).set(true);
  ASSERT_EQ(sink.sent.size(), 1u);
  EXPECT_EQ(sink.sent[0], (machine::MsiMessage{0xfee03004, 0x31}));
  io.pin(4).pulse();  // falls and rises? it was high: no new edge
  EXPECT_EQ(sink.sent.size(), 1u);
  io.pin(4).pulse();
  EXPECT_EQ(sink.sent.size(), 2u);
  redirect(io, 4, 0x03000000'00000831 | kMasked);
  io.pin(4).set(true);
  redirect(io, 4, 0x03000000'00000831);
  EXPECT_EQ(sink.sent.size(), 2u);
}

TEST(Ioapic, LevelHoldsRemoteIrrUntilEoi) {
  Recorder sink;
  Ioapic io(sink);
  redirect(io, 10, 0x31 | kLevel);
  io.pin(10).set(true);
  ASSERT_EQ(sink.sent.size(), 1u);
  EXPECT_EQ(sink.sent[0].data, 0xc031u);
  EXPECT_TRUE(get(io, 0x24) & kRemoteIrr);
  io.pin(10).set(false);
  io.pin(10).set(true);
  EXPECT_EQ(sink.sent.size(), 1u) << "still in service";
  io.eoi(0x32);
  EXPECT_EQ(sink.sent.size(), 1u) << "another vector";
  io.eoi(0x31);
  EXPECT_EQ(sink.sent.size(), 2u) << "still asserted: again";
  io.pin(10).set(false);
  io.write(0x40, 4, 0x31);  // directed EOI
  EXPECT_FALSE(get(io, 0x24) & kRemoteIrr);
  EXPECT_EQ(sink.sent.size(), 2u);
}

TEST(Ioapic, LevelAssertedWhileMaskedIsDeliveredOnUnmask) {
  Recorder sink;
  Ioapic io(sink);
  redirect(io, 16, 0x51 | kLevel | kMasked);
  io.pin(16).set(true);
  EXPECT_TRUE(sink.sent.empty());
  redirect(io, 16, 0x51 | kLevel);
  EXPECT_EQ(sink.sent.size(), 1u);
  // Linux's way out of a stuck Remote IRR: mask, edge, level.
  redirect(io, 16, 0x51 | kMasked);
  EXPECT_FALSE(get(io, 0x30) & kRemoteIrr);
  redirect(io, 16, 0x51 | kLevel);
  EXPECT_EQ(sink.sent.size(), 2u);
}

TEST(Ioapic, AnnouncesRoutes) {
  Recorder sink;
  Ioapic io(sink);
  redirect(io, 9, 0x02000000'00000041 | kLevel);
  ASSERT_TRUE(sink.routes[9]);
  EXPECT_EQ(*sink.routes[9], (machine::MsiMessage{0xfee02000, 0xc041}));
  redirect(io, 9, 0x41 | kMasked);
  EXPECT_FALSE(sink.routes[9]);
  redirect(io, 9, 0x42);
  io.reset();
  EXPECT_FALSE(sink.routes[9]);
}

TEST(Ioapic, LevelThroughALapicIsDeliveredAgain) {
  ManualClock clock;
  ApicBus bus;
  Lapic lapic({.id = 0, .bsp = true}, clock, bus);
  Ioapic io(bus);
  bus.set_eoi_callback([&](u8 vector) { io.eoi(vector); });
  lapic.mmio_write(0xf0, 0x1ff);
  redirect(io, 11, 0x61 | kLevel);
  io.pin(11).set(true);
  EXPECT_EQ(lapic.acknowledge(), 0x61);
  EXPECT_FALSE(lapic.deliverable());
  lapic.mmio_write(0xb0, 0);
  EXPECT_EQ(lapic.acknowledge(), 0x61) << "the line is still up";
  io.pin(11).set(false);
  lapic.mmio_write(0xb0, 0);
  EXPECT_FALSE(lapic.deliverable());
}

TEST(Ioapic, SavedStateGoesOn) {
  EXPECT_TRUE(state::uncovered<Ioapic::State>().empty());
  Recorder sink, sink2;
  Ioapic io(sink), other(sink2);
  redirect(io, 10, 0x31 | kLevel);
  redirect(io, 3, 0x33);
  io.pin(10).set(true);
  io.pin(3).set(true);
  put(io, 0, 0x0f000000);
  state::Image image;
  io.save(image);
  ASSERT_TRUE(other.load(image));
  state::Image again;
  other.save(again);
  EXPECT_EQ(image.serialize(), again.serialize());
  EXPECT_TRUE(sink2.sent.empty()) << "nothing is sent twice";
  EXPECT_TRUE(sink2.routes[10]);
  EXPECT_FALSE(sink2.routes[0]);
  other.pin(3).set(true);
  EXPECT_TRUE(sink2.sent.empty());
  other.eoi(0x31);
  EXPECT_EQ(sink2.sent.size(), 1u);
}

}  // namespace
}  // namespace skerry::irq
