#include "net/offload.hpp"

#include <gtest/gtest.h>

#include <random>

#include "base/bits.hpp"
#include "net/frames.hpp"

namespace skerry::net {
namespace {

std::vector<std::vector<u8>> adapted(const Offload& o, std::span<const u8> frame,
                                     const Abilities& can, std::vector<Offload>* offloads = {}) {
  std::vector<std::vector<u8>> out;
  adapt(o, frame, can, [&](const Offload& left, std::span<const u8> f) {
    out.emplace_back(f.begin(), f.end());
    if (offloads) offloads->push_back(left);
  });
  return out;
}

TEST(Checksum, IsThatOfRfc1071) {
  const u8 bytes[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};  // its example
  EXPECT_EQ(checksum_end(checksum_add(bytes)), static_cast<u16>(~0xddf2));
  // Odd lengths, and the same in pieces of even length.
  std::mt19937 random(1);
  std::vector<u8> many(4001);
  for (u8& b : many) b = static_cast<u8>(random());
  u32 slow = 0;
  for (size_t i = 0; i < many.size(); ++i) slow += u32{many[i]} << (i % 2 ? 0 : 8);
  std::span<const u8> all(many);
  EXPECT_EQ(checksum_end(slow), checksum_end(checksum_add(all)));
  EXPECT_EQ(checksum_end(slow),
            checksum_end(checksum_add(all.subspan(100), checksum_add(all.first(100)))));
}

TEST(Checksum, IsFinishedForAReceiverThatCannot) {
  for (bool v6 : {false, true}) {
    TcpFrame f(v6, 333);
    ASSERT_TRUE(well_formed(f.partial(), f.bytes));
    auto out = adapted(f.partial(), f.bytes, {});
    ASSERT_EQ(out.size(), 1u);
    EXPECT_TRUE(checksums_right(out[0]));
    EXPECT_FALSE(checksums_right(f.bytes));
    EXPECT_EQ(adapted(f.partial(), f.bytes, {.checksum = true})[0], f.bytes);
  }
}

TEST(Segmentation, GivesTheSameStreamInRightPieces) {
  for (bool v6 : {false, true})
    for (size_t length : {1u, 999u, 1000u, 1001u, 20000u, 65000u}) {
      TcpFrame f(v6, length, 0x80 | 0x10 | 0x08 | 0x01);  // CWR ACK PSH FIN
      Offload o = f.large(1000);
      ASSERT_TRUE(well_formed(o, f.bytes));
      auto out = adapted(o, f.bytes, {.checksum = true});
      ASSERT_EQ(out.size(), (length + 999) / 1000);
      std::vector<u8> stream;
      for (size_t i = 0; i < out.size(); ++i) {
        EXPECT_TRUE(checksums_right(out[i])) << i;
        std::span<const u8> tcp = std::span<const u8>(out[i]).subspan(f.transport);
        u32 sequence = u32{tcp[4]} << 24 | u32{tcp[5]} << 16 | u32{tcp[6]} << 8 | tcp[7];
        EXPECT_EQ(sequence, TcpFrame::kSequence + static_cast<u32>(stream.size()));
        bool last = i + 1 == out.size();
        EXPECT_EQ(tcp[13], (i == 0 ? 0x80 : 0) | 0x10 | (last ? 0x09 : 0));
        EXPECT_LE(tcp.size(), 20u + 1000u);
        stream.insert(stream.end(), tcp.begin() + 20, tcp.end());
      }
      EXPECT_EQ(stream, std::vector<u8>(f.bytes.begin() + f.transport + 20, f.bytes.end()));
    }
}

TEST(Segmentation, IsLeftToAReceiverThatCan) {
  TcpFrame f(false, 5000), g(true, 5000);
  Abilities can4{.checksum = true, .tcp4 = true};
  EXPECT_EQ(adapted(f.large(1000), f.bytes, can4).size(), 1u);
  EXPECT_EQ(adapted(g.large(1000), g.bytes, can4).size(), 5u);
  Offload ecn = f.large(1000);
  ecn.gso_type |= Offload::kEcn;
  EXPECT_EQ(adapted(ecn, f.bytes, can4).size(), 5u);
  can4.ecn = true;
  std::vector<Offload> left;
  EXPECT_EQ(adapted(ecn, f.bytes, can4, &left).size(), 1u);
  EXPECT_EQ(left[0], ecn);
}

TEST(WellFormed, RefusesWhatDoesNotFit) {
  TcpFrame f(false, 2000);
  const Offload good = f.large(1000);
  auto refuse = [&](auto change) {
    Offload bad = good;
    change(bad);
    return !well_formed(bad, f.bytes);
  };
  EXPECT_TRUE(well_formed(good, f.bytes));
  EXPECT_TRUE(refuse([](Offload& o) { o.gso_type = Offload::kTcp6; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.gso_type = 3; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.gso_type = Offload::kEcn; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.gso_size = 1; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.flags = 0; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.flags |= 4; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.checksum_start = 0xffff; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.checksum_start = 20; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.checksum_offset = 0xfffe; }));
  EXPECT_TRUE(refuse([](Offload& o) { o.checksum_offset = 6; }));
  EXPECT_FALSE(well_formed({}, std::span(f.bytes).first(13)));
  EXPECT_FALSE(well_formed({}, std::vector<u8>(kMaxFrame + 1)));
  f.bytes[f.transport + 12] = 0xf0;  // a header of 60 bytes is there
  EXPECT_TRUE(well_formed(good, f.bytes));
  f.bytes.resize(f.transport + 40u);
  EXPECT_FALSE(well_formed(good, f.bytes));
}

// Whatever well_formed lets through, the rest survives (under the sanitizers) and bounds its
// output.
TEST(WellFormed, IsEnoughForTheRest) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    TcpFrame f(random() % 2, random() % 3000);
    Offload o = random() % 2 ? f.large(1000) : f.partial();
    if (random() % 8 == 0) f.bytes.resize(random() % (f.bytes.size() + 1));
    for (unsigned n = random() % 4; n && !f.bytes.empty(); --n)
      f.bytes[random() % std::min<size_t>(f.bytes.size(), 80)] = static_cast<u8>(random());
    for (unsigned n = random() % 3; n; --n)
      reinterpret_cast<u8*>(&o)[random() % sizeof o] = static_cast<u8>(random());
    (void)layout_of(f.bytes);
    (void)flow_hash(f.bytes);
    fragment(f.bytes, 68 + random() % 600, [](std::span<const u8>) {});
    if (!well_formed(o, f.bytes)) continue;
    EXPECT_LE(adapted(o, f.bytes, {}).size(), kMaxSegments);
  }
}

TEST(Fragments, AddUpToTheDatagram) {
  std::vector<u8> frame = udp_frame(5000);
  std::vector<u8> payload;
  size_t count = 0;
  fragment(frame, 1500, [&](std::span<const u8> part) {
    EXPECT_LE(part.size(), kEthernetHeader + 1500);
    EXPECT_EQ(checksum_end(checksum_add(part.subspan(14, 20))), 0);
    size_t place = ((part[20] & 0x1f) << 8 | part[21]) * 8;
    EXPECT_EQ(place, payload.size());
    payload.insert(payload.end(), part.begin() + 34, part.end());
    EXPECT_EQ(!(part[20] & 0x20), payload.size() == 5008);
    ++count;
  });
  EXPECT_EQ(count, 4u);
  EXPECT_EQ(payload, std::vector<u8>(frame.begin() + 34, frame.end()));
}

TEST(FlowHash, IsTheSameForBothDirections) {
  TcpFrame f(false, 10), back = f;
  for (unsigned i = 0; i < 4; ++i) std::swap(back.bytes[26 + i], back.bytes[30 + i]);
  for (unsigned i = 0; i < 2; ++i) std::swap(back.bytes[34 + i], back.bytes[36 + i]);
  EXPECT_EQ(flow_hash(f.bytes), flow_hash(back.bytes));
  back.bytes[34] ^= 1;
  EXPECT_NE(flow_hash(f.bytes), flow_hash(back.bytes));
}

TEST(Macs, AreStableAndDiffer) {
  Mac a = stable_mac("web", 0);
  EXPECT_EQ(a, stable_mac("web", 0));
  EXPECT_NE(a, stable_mac("web", 1));
  EXPECT_NE(a, stable_mac("web1", 0));
  for (unsigned i = 0; i < 50; ++i) EXPECT_EQ(stable_mac("x", i)[0] & 3, 2);
  EXPECT_EQ(to_text({0x02, 0xfc, 0, 1, 0xa, 0xff}), "02:fc:00:01:0a:ff");
}

}  // namespace
}  // namespace skerry::net
