#include "net/switch.hpp"

#include <gtest/gtest.h>

#include "net/frames.hpp"

namespace skerry::net {
namespace {

constexpr Mac mac(u8 n) {
  return {2, 0, 0, 0, 0, n};
}

struct SwitchTest : testing::Test {
  Switch::PortId add(u8 n, u16 vlan = 0, bool isolated = false, u64 rate = 0) {
    return *sw.add({.owner = fmt::format("vm{}", n),
                    .mac = mac(n),
                    .vlan = vlan,
                    .isolated = isolated,
                    .uplink = false,
                    .rate = rate},
                   now);
  }
  Switch::PortId uplink(u16 vlan = 0) {
    return *sw.add({.owner = "uplink", .vlan = vlan, .uplink = true}, now);
  }
  /// Where a frame goes.
  std::vector<Switch::PortId> send(Switch::PortId from, const Mac& to, const Mac& source,
                                   u16 type = 0x0800, size_t length = 60) {
    std::vector<u8> header(to.begin(), to.end());
    header.insert(header.end(), source.begin(), source.end());
    header.push_back(static_cast<u8>(type >> 8));
    header.push_back(static_cast<u8>(type));
    header.resize(18);
    std::vector<Switch::PortId> reached;
    sw.forward(from, header, length, now, [&](Switch::PortId port) {
      reached.push_back(port);
      return room;
    });
    return reached;
  }
  using Ids = std::vector<Switch::PortId>;
  static constexpr Mac kAll{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  Switch sw;
  Nanos now = 0;
  bool room = true;
};

TEST_F(SwitchTest, KnowsWhoIsWhere) {
  auto a = add(1), b = add(2), c = add(3);
  EXPECT_EQ(send(a, mac(2), mac(1)), Ids{b});
  EXPECT_EQ(send(a, kAll, mac(1)), (Ids{b, c}));
  EXPECT_EQ(send(a, {1, 0, 0x5e, 0, 0, 1}, mac(1)), (Ids{b, c}));
  EXPECT_EQ(send(a, mac(9), mac(1)), Ids{});  // nobody's, and no uplink
  EXPECT_EQ(send(a, mac(1), mac(1)), Ids{});
  EXPECT_EQ(sw.find(a)->counters.in_frames, 3u);
  EXPECT_EQ(sw.find(a)->counters.unreachable, 2u);
  EXPECT_EQ(sw.find(b)->counters.out_frames, 3u);
  EXPECT_EQ(sw.find(b)->counters.out_bytes, 180u);
  sw.remove(b);
  EXPECT_EQ(send(a, mac(2), mac(1)), Ids{});
}

TEST_F(SwitchTest, VlansAreApart) {
  auto a = add(1, 10), b = add(2, 10), c = add(3, 20), d = add(4), up = uplink(20);
  EXPECT_EQ(send(a, kAll, mac(1)), Ids{b});
  EXPECT_EQ(send(a, mac(3), mac(1)), Ids{});
  EXPECT_EQ(send(c, mac(1), mac(3)), Ids{up});
  EXPECT_EQ(send(d, kAll, mac(4)), Ids{});
}

TEST_F(SwitchTest, TaggedFramesAreDropped) {
  auto a = add(1);
  add(2);
  EXPECT_EQ(send(a, mac(2), mac(1), 0x8100), Ids{});
  EXPECT_EQ(send(a, mac(2), mac(1), 0x88a8), Ids{});
  EXPECT_EQ(sw.find(a)->counters.tagged, 2u);
  // Nor is anything learned from one: it is not of the uplink's VLAN.
  auto up = uplink(), other = uplink();
  EXPECT_EQ(send(up, mac(1), mac(7), 0x8100), Ids{});
  EXPECT_EQ(sw.find(up)->counters.tagged, 1u);
  EXPECT_EQ(send(a, mac(7), mac(1)), (Ids{up, other}));
}

TEST_F(SwitchTest, IsolatedPortsReachOnlyOthers) {
  auto a = add(1, 0, true), b = add(2, 0, true), c = add(3), up = uplink();
  EXPECT_EQ(send(a, mac(2), mac(1)), Ids{});
  EXPECT_EQ(send(a, kAll, mac(1)), (Ids{c, up}));
  EXPECT_EQ(send(c, kAll, mac(3)), (Ids{a, b, up}));
  EXPECT_EQ(send(c, mac(1), mac(3)), Ids{a});
}

TEST_F(SwitchTest, SpoofedFramesAreDropped) {
  auto a = add(1), b = add(2), up = uplink();
  EXPECT_EQ(send(a, mac(2), mac(7)), Ids{});
  EXPECT_EQ(send(a, mac(2), mac(2)), Ids{});
  EXPECT_EQ(sw.find(a)->counters.spoofed, 2u);
  EXPECT_EQ(send(up, mac(2), mac(7)), Ids{b});
  EXPECT_EQ(send(up, mac(2), kAll), Ids{});
  // An uplink does not take a machine's address over, nor speak for it.
  EXPECT_EQ(send(up, mac(1), mac(2)), Ids{});
  EXPECT_EQ(sw.find(up)->counters.spoofed, 1u);
  EXPECT_EQ(send(a, mac(2), mac(1)), Ids{b});
}

TEST_F(SwitchTest, LearnsAndForgetsWhatIsBehindUplinks) {
  auto a = add(1), up = uplink(), other = uplink();
  EXPECT_EQ(send(a, mac(7), mac(1)), (Ids{up, other}));
  EXPECT_EQ(send(up, mac(1), mac(7)), Ids{a});
  EXPECT_EQ(send(a, mac(7), mac(1)), Ids{up});
  now += Switch::kAge + 1;
  EXPECT_EQ(send(a, mac(7), mac(1)), (Ids{up, other}));
  EXPECT_EQ(send(other, mac(1), mac(7)), Ids{a});
  EXPECT_EQ(send(a, mac(7), mac(1)), Ids{other});
  for (unsigned i = 0; i < 3 * Switch::kMaxLearned; ++i)
    send(up, mac(1), {2, 1, 0, 0, static_cast<u8>(i >> 8), static_cast<u8>(i)});
  EXPECT_LE(sw.table().size(), Switch::kMaxLearned + 2);
  sw.remove(up);
  sw.remove(other);
  EXPECT_EQ(sw.table().size(), 1u);
}

TEST_F(SwitchTest, ADuplicateAddressIsRefused) {
  add(1, 10);
  auto again = sw.add({.owner = "late", .mac = mac(1), .vlan = 20}, now);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().what, "the address 02:00:00:00:00:01 is in use by vm1");
  EXPECT_FALSE(sw.add({.owner = "x", .mac = kAll}, now));
  EXPECT_EQ(sw.ports().size(), 1u);
}

TEST_F(SwitchTest, MalformedFramesAndFullPorts) {
  auto a = add(1), b = add(2);
  EXPECT_EQ(send(a, mac(2), mac(1), 0x0800, 13), Ids{});
  EXPECT_EQ(send(a, mac(2), mac(1), 0x0800, kMaxFrame + 1), Ids{});
  sw.forward(a, {}, 0, now, [](Switch::PortId) { return true; });
  EXPECT_EQ(sw.find(a)->counters.errors, 3u);
  room = false;
  send(a, mac(2), mac(1));
  EXPECT_EQ(sw.find(b)->counters.out_dropped, 1u);
  EXPECT_EQ(sw.find(b)->counters.out_frames, 0u);
}

TEST_F(SwitchTest, RatesHold) {
  for (u64 rate : {1'000'000ull, 100'000'000ull, 3'333'333'333ull})
    for (size_t length : {60u, 1514u, 60000u}) {
      Switch fresh;
      std::swap(sw, fresh);
      auto a = add(1, 0, false, rate);
      add(2);
      u64 bytes = 0;
      const Nanos start = now, seconds = rate < 10'000'000 ? 100 : 5;
      while (now < start + seconds * 1'000'000'000) {
        if (Nanos at = sw.may_send(a, now)) {
          EXPECT_GT(at, now);
          now = at;
          continue;
        }
        send(a, mac(2), mac(1), 0x0800, length);
        bytes += length;
        now += 5000;
      }
      double got = 8.0 * static_cast<double>(bytes) / static_cast<double>(seconds);
      double most = std::min(static_cast<double>(rate), 8.0 * static_cast<double>(length) / 5e-6);
      EXPECT_NEAR(got / most, 1, 0.02) << rate << " " << length;
      // What it might have sent beyond that is known, however slow it was.
      sw.settle(now);
      double unused = 8.0 * static_cast<double>(sw.find(a)->counters.rate_unused) /
                      static_cast<double>(seconds);
      EXPECT_NEAR((got + unused) / static_cast<double>(rate), 1, 0.02) << rate << " " << length;
    }
}

}  // namespace
}  // namespace skerry::net
