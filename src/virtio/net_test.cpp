#include "virtio/net.hpp"

#include <gtest/gtest.h>

#include "net/frames.hpp"
#include "virtio/fake_driver.hpp"
#include "virtio/fake_port.hpp"

namespace skerry::virtio {
namespace {

using net::Offload;
using net::TcpFrame;

constexpr u64 kBasic = kFeatureVersion1 | kFeatureEventIdx | Net::kFeatureMac;
constexpr u64 kGuest = Net::kFeatureGuestChecksum | Net::kFeatureGuestTso4 |
                       Net::kFeatureGuestTso6 | Net::kFeatureGuestEcn;
constexpr u64 kHost = Net::kFeatureChecksum | Net::kFeatureHostTso4 | Net::kFeatureHostTso6;
constexpr u64 kControl = Net::kFeatureControl | Net::kFeatureRxMode | Net::kFeatureRxExtra |
                         Net::kFeatureSetMac | Net::kFeatureGuestOffloads;
constexpr net::Mac kMac{2, 0, 0, 0, 0, 2};

struct NetTest : testing::Test {
  void plug(unsigned pairs = 1) {
    auto owned = std::make_unique<FakePort>();
    port = owned.get();
    auto device = std::make_unique<Net>("net0", rig.environment(), std::move(owned),
                                        Net::Setup{kMac, pairs, 1400});
    net = device.get();
    transport = &rig.plug(std::move(device));
    driver.emplace(rig, 1);
    control_queue = 2 * pairs;
  }
  void start(u64 features, unsigned pairs = 1) {
    plug(pairs);
    ASSERT_TRUE(driver->start(features));
  }
  /// Sends and waits for the buffer to come back.
  void transmit(const Offload& offload, std::span<const u8> frame, unsigned queue = 1) {
    std::string header(12, '\0');
    std::memcpy(header.data(), &offload, sizeof offload);
    driver->put(queue, {{driver->place(header), 12, false},
                        {driver->place({reinterpret_cast<const char*>(frame.data()), frame.size()}),
                         static_cast<u32>(frame.size()), false}});
    driver->kick(queue);
    ASSERT_TRUE(driver->wait_used(queue));
  }
  bool receive(const Offload& offload, std::span<const u8> frame, unsigned queue = 0) {
    return port->events.receive(offload, frame, queue);
  }
  Gpa buffer(u32 length, unsigned queue = 0) {
    Gpa at = driver->allocate(length);
    driver->put(queue, {{at, length, true}});
    driver->kick(queue);
    rig.run();
    return at;
  }
  u8 control(std::initializer_list<u8> bytes) {
    std::string text(bytes.begin(), bytes.end());
    Gpa status = driver->place("\xff");
    driver->put(control_queue,
                {{driver->place(text), static_cast<u32>(text.size()), false}, {status, 1, true}});
    driver->kick(control_queue);
    EXPECT_TRUE(driver->wait_used(control_queue));
    return static_cast<u8>(driver->text(status, 1)[0]);
  }
  std::vector<u8> bytes(Gpa at, u32 length) {
    std::string text = driver->text(at, length);
    return {text.begin(), text.end()};
  }

  Rig rig;
  FakePort* port = nullptr;
  Net* net = nullptr;
  TransportPci* transport = nullptr;
  std::optional<FakeDriver> driver;
  unsigned control_queue = 2;
};

TEST_F(NetTest, Configuration) {
  start(kBasic | Net::kFeatureMtu | Net::kFeatureStatus);
  EXPECT_EQ(driver->read_config(0, 4), 0x02u);
  EXPECT_EQ(driver->read_config(4, 2), 0x0200u);
  EXPECT_EQ(driver->read_config(6, 2), 1u);
  EXPECT_EQ(driver->read_config(8, 2), 1u);
  EXPECT_EQ(driver->read_config(10, 2), 1400u);
  EXPECT_FALSE(driver->offered() & Net::kFeatureMultiqueue);
}

TEST_F(NetTest, FramesOfTheGuestReachThePort) {
  start(kBasic | kHost);
  TcpFrame small(false, 100), large(true, 60000);
  transmit({}, small.bytes);
  transmit(small.partial(), small.bytes);
  transmit(large.large(1400), large.bytes);
  ASSERT_EQ(port->sent.size(), 3u);
  EXPECT_EQ(port->sent[0].offload, Offload{});
  EXPECT_EQ(port->sent[0].frame, small.bytes);
  EXPECT_EQ(port->sent[1].offload, small.partial());
  EXPECT_EQ(port->sent[2].offload, large.large(1400));
  EXPECT_EQ(port->sent[2].frame, large.bytes);
  EXPECT_GE(port->flushes, 3u);
  EXPECT_EQ(net->traffic().sent_frames, 3u);
  EXPECT_EQ(net->traffic().sent_bytes, 2 * small.bytes.size() + large.bytes.size());
}

TEST_F(NetTest, WhatWasNotNegotiatedOrIsMalformedIsDropped) {
  start(kBasic);
  TcpFrame f(false, 3000);
  transmit(f.partial(), f.bytes);
  transmit(f.large(1000), f.bytes);
  transmit({}, std::span(f.bytes).first(13));
  transmit({}, std::vector<u8>(net::kMaxFrame + 1));
  transmit({.gso_type = 99}, f.bytes);
  EXPECT_TRUE(port->sent.empty());
  EXPECT_EQ(net->traffic().sent_errors, 5u);
  transmit({.flags = Offload::kDataValid, .checksum_start = 0xffff}, f.bytes);
  ASSERT_EQ(port->sent.size(), 1u);
  EXPECT_EQ(port->sent[0].offload, Offload{});
}

TEST_F(NetTest, AFullPortHoldsTheGuestBack) {
  start(kBasic);
  TcpFrame f(false, 10);
  port->full = true;
  std::string frame(12, '\0');
  frame.append(f.bytes.begin(), f.bytes.end());
  for (int i = 0; i < 3; ++i)
    driver->put(1, {{driver->place(frame), static_cast<u32>(frame.size()), false}});
  driver->kick(1);
  rig.run();
  EXPECT_FALSE(driver->used(1));
  port->full = false;
  port->events.writable();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(driver->used(1));
  EXPECT_EQ(port->sent.size(), 3u);
  EXPECT_EQ(port->sent[2].frame, f.bytes);
}

TEST_F(NetTest, MergesBuffers) {
  start(kBasic | kGuest | Net::kFeatureMergeable);
  TcpFrame f(false, 2000);
  EXPECT_FALSE(receive(f.large(1000), f.bytes));  // no buffers
  Gpa a = buffer(512), b = buffer(512);
  EXPECT_FALSE(receive(f.large(1000), f.bytes));  // not enough
  EXPECT_EQ(port->resumes, 1u);
  EXPECT_FALSE(driver->used(0));
  Gpa c = buffer(4096);
  EXPECT_EQ(port->resumes, 2u);
  ASSERT_TRUE(receive(f.large(1000), f.bytes));
  std::vector<u8> got = bytes(a, 512);
  Offload offload;
  std::memcpy(&offload, got.data(), sizeof offload);
  EXPECT_EQ(offload, f.large(1000));
  EXPECT_EQ(load<u16>(&got[10]), 3);
  got.erase(got.begin(), got.begin() + 12);
  for (auto [at, n] : {std::pair{b, 512u}, {c, static_cast<u32>(f.bytes.size()) - 1012}}) {
    auto more = bytes(at, n);
    got.insert(got.end(), more.begin(), more.end());
  }
  EXPECT_EQ(got, f.bytes);
  EXPECT_EQ(driver->wait_used(0)->length, 512u);
  EXPECT_EQ(driver->wait_used(0)->length, 512u);
  EXPECT_EQ(driver->wait_used(0)->length, f.bytes.size() - 1012);
  EXPECT_EQ(net->traffic().received_frames, 1u);
}

// Or a driver that looks in between finds fewer buffers than the header tells, and drops the frame.
TEST_F(NetTest, MergedBuffersAreShownAllAtOnce) {
  start((kBasic & ~kFeatureEventIdx) | kGuest | Net::kFeatureMergeable);
  driver->enable_msix();
  for (int i = 0; i < 3; ++i) buffer(1024);
  size_t before = rig.msis.sent.size();
  TcpFrame f(false, 2500);
  ASSERT_TRUE(receive(f.large(1000), f.bytes));
  EXPECT_EQ(rig.msis.sent.size(), before + 1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(driver->used(0)) << i;
  EXPECT_FALSE(driver->used(0));
}

TEST_F(NetTest, AFrameThatNoRingHoldsIsDropped) {
  plug();
  ASSERT_TRUE(driver->negotiate(kBasic | Net::kFeatureMergeable));
  for (unsigned i = 0; i < 3; ++i) driver->set_up_queue(i, 4);
  driver->driver_ok();
  for (int i = 0; i < 4; ++i) buffer(100);
  TcpFrame f(false, 1000), g(false, 10);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_EQ(net->traffic().received_dropped, 1u);
  EXPECT_TRUE(receive({}, g.bytes));
  EXPECT_TRUE(driver->used(0));
}

TEST_F(NetTest, WithoutMergingAFrameNeedsOneBuffer) {
  start(kBasic);
  buffer(100);
  TcpFrame f(false, 500);
  EXPECT_TRUE(receive({}, f.bytes));  // dropped
  EXPECT_EQ(net->traffic().received_dropped, 1u);
  TcpFrame g(false, 20);
  EXPECT_TRUE(receive(g.partial(), g.bytes));
  EXPECT_EQ(driver->wait_used(0)->length, 12 + g.bytes.size());
}

TEST_F(NetTest, CutsAndChecksumsForADriverThatCannot) {
  start(kBasic);
  std::vector<Gpa> buffers;
  for (int i = 0; i < 2; ++i) buffers.push_back(buffer(1600));
  TcpFrame f(false, 3500);
  ASSERT_TRUE(receive(f.large(1000), f.bytes));  // four segments, room for two
  EXPECT_FALSE(receive({}, f.bytes));            // the others come first
  for (int i = 0; i < 2; ++i) buffers.push_back(buffer(1600));
  EXPECT_GE(port->resumes, 1u);
  size_t payload = 0;
  for (Gpa at : buffers) {
    auto used = driver->used(0);
    ASSERT_TRUE(used);
    auto frame = bytes(at + 12, used->length - 12);
    EXPECT_TRUE(net::checksums_right(frame));
    EXPECT_EQ(bytes(at, 10), std::vector<u8>(10));
    payload += frame.size() - 54;
  }
  EXPECT_EQ(payload, 3500u);
  EXPECT_EQ(net->traffic().received_frames, 4u);
}

TEST_F(NetTest, LinkGoesDownAndUp) {
  start(kBasic | Net::kFeatureStatus);
  driver->enable_msix();
  TcpFrame f(false, 10);
  auto set = [&](bool up) {
    std::lock_guard guard(rig.lock);
    net->set_link(up);
  };
  size_t before = rig.msis.sent.size();
  set(false);
  set(false);
  EXPECT_EQ(rig.msis.sent.size(), before + 1);
  EXPECT_EQ(driver->read_config(6, 2), 0u);
  transmit({}, f.bytes);
  buffer(2000);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_FALSE(driver->used(0));
  EXPECT_TRUE(port->sent.empty());
  EXPECT_EQ(net->traffic().sent_dropped, 1u);
  EXPECT_EQ(net->traffic().received_dropped, 1u);
  port->events.carrier(false);
  set(true);
  EXPECT_EQ(driver->read_config(6, 2), 0u);  // the far end is away as well
  port->events.carrier(true);
  EXPECT_EQ(driver->read_config(6, 2), 1u);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_TRUE(driver->used(0));
}

TEST_F(NetTest, FiltersAddresses) {
  start(kBasic | kControl);
  TcpFrame mine(false, 1), other = mine, group = mine, all = mine;
  other.bytes[5] = 9;
  group.bytes[0] = 3;
  std::fill_n(all.bytes.begin(), 6, u8{0xff});
  auto passes = [&](const TcpFrame& f) {
    u64 before = net->traffic().received_frames;
    buffer(2000);
    EXPECT_TRUE(receive({}, f.bytes));
    return net->traffic().received_frames > before;
  };
  EXPECT_TRUE(passes(other));        // until the driver says otherwise
  EXPECT_EQ(control({0, 0, 0}), 0);  // not promiscuous
  EXPECT_TRUE(passes(mine) && passes(all));
  EXPECT_FALSE(passes(other) || passes(group));
  EXPECT_EQ(control({0, 1, 1}), 0);  // all multicast
  EXPECT_TRUE(passes(group));
  EXPECT_EQ(control({0, 1, 0}), 0);
  EXPECT_EQ(control({0, 5, 1}), 0);  // no broadcast
  EXPECT_FALSE(passes(all));
  EXPECT_EQ(control({1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 3, 0, 0, 0, 0, 2}), 0);
  EXPECT_TRUE(passes(other) && passes(group) && passes(mine));
  EXPECT_EQ(control({1, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0);
  EXPECT_FALSE(passes(other) || passes(group));
  EXPECT_EQ(control({1, 1, 2, 0, 0, 0, 0, 9}), 0);  // a new address
  EXPECT_TRUE(passes(other));
  EXPECT_FALSE(passes(mine));
  EXPECT_EQ(driver->read_config(4, 2), 0x0900u);
  driver->set(FakeDriver::device_status, 1, 0);
  EXPECT_EQ(driver->read_config(4, 2), 0x0200u);
}

TEST_F(NetTest, ControlCommandsThatAreWrong) {
  start(kBasic | kControl | kGuest);
  EXPECT_EQ(control({0, 0}), 1);
  EXPECT_EQ(control({0, 6, 1}), 1);
  EXPECT_EQ(control({1, 0, 2, 0, 0, 0, 1}), 1);
  EXPECT_EQ(control({1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}), 1);
  EXPECT_EQ(control({1, 1, 2, 0}), 1);
  EXPECT_EQ(control({4, 0, 1, 0}), 1);  // no MULTIQUEUE
  EXPECT_EQ(control({9, 9, 9}), 1);
  EXPECT_EQ(control({5, 0, 0x02, 0, 0, 0, 0, 0, 0, 0}), 0);
  EXPECT_EQ(control({5, 0, 0x00, 8, 0, 0, 0, 0, 0, 0}), 1);  // HOST_TSO4 is none of these
}

TEST_F(NetTest, OffloadsCanBeSwitchedOff) {
  start(kBasic | kControl | kGuest | Net::kFeatureMergeable);
  EXPECT_EQ(control({5, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0);
  for (int i = 0; i < 4; ++i) buffer(2000);
  TcpFrame f(true, 3000);
  EXPECT_TRUE(receive(f.large(1000), f.bytes));
  EXPECT_EQ(net->traffic().received_frames, 3u);
}

TEST_F(NetTest, FramesComeBackOnTheQueueOfTheirFlow) {
  start(kBasic | kControl | Net::kFeatureMultiqueue, 4);
  EXPECT_EQ(driver->read_config(8, 2), 4u);
  EXPECT_EQ(control({4, 0, 5, 0}), 1);
  EXPECT_EQ(control({4, 0, 4, 0}), 0);
  TcpFrame f(false, 10);
  buffer(2000, 0);
  buffer(2000, 6);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_TRUE(driver->used(0));
  transmit({}, f.bytes, 7);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_TRUE(driver->used(6));
  EXPECT_EQ(control({4, 0, 2, 0}), 0);
  buffer(2000, 2);
  EXPECT_TRUE(receive({}, f.bytes));  // its queue is not in use any more
  EXPECT_TRUE(driver->used(2));
}

TEST_F(NetTest, APortWithQueuesSpreadsTheFramesItself) {
  plug(4);
  port->queues_there = 4;
  ASSERT_TRUE(driver->start(kBasic | kControl | Net::kFeatureMultiqueue));
  EXPECT_EQ(control({4, 0, 3, 0}), 0);
  rig.run();
  EXPECT_EQ(port->queues_used, 3u);
  TcpFrame f(false, 10);
  transmit({}, f.bytes, 5);
  EXPECT_EQ(port->sent.back().queue, 2u);
  for (unsigned queue : {0u, 2u, 4u}) buffer(2000, queue);
  for (unsigned pair : {1u, 2u, 0u}) {
    EXPECT_TRUE(receive({}, f.bytes, pair));
    EXPECT_TRUE(driver->used(2 * pair));
  }
  buffer(2000, 0);
  EXPECT_TRUE(receive({}, f.bytes, 3));  // came before the port heard of it
  EXPECT_TRUE(driver->used(0));
  driver->set(FakeDriver::device_status, 1, 0);
  rig.run();
  EXPECT_EQ(port->queues_used, 1u);
}

TEST_F(NetTest, WithoutMultiqueueTheControlQueueIsTheThird) {
  start(kBasic | kControl, 4);
  control_queue = 2;
  EXPECT_EQ(control({0, 0, 0}), 0);
}

TEST_F(NetTest, NothingArrivesWhilePaused) {
  start(kBasic);
  buffer(2000);
  {
    std::lock_guard guard(rig.lock);
    transport->quiesce();
  }
  TcpFrame f(false, 10);
  EXPECT_FALSE(receive({}, f.bytes));
  EXPECT_FALSE(driver->used(0));
  {
    std::lock_guard guard(rig.lock);
    transport->resume();
  }
  rig.run();
  EXPECT_EQ(port->resumes, 1u);
  EXPECT_TRUE(receive({}, f.bytes));
  EXPECT_TRUE(driver->used(0));
}

}  // namespace
}  // namespace skerry::virtio
