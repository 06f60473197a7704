#include "net/closed_windows.hpp"

#include <gtest/gtest.h>

#include "net/frames.hpp"

namespace skerry::net {
namespace {

using Bytes = std::vector<u8>;

/// What answers a TcpFrame, without data: acknowledges `ack`, with a window.
Bytes answer(bool v6, u32 ack, u16 window, u8 flags = 0x10) {
  TcpFrame f(v6, 0, flags);
  Bytes b = f.bytes;
  size_t from = v6 ? 22 : 26, size = v6 ? 16 : 4;
  for (size_t i = 0; i < size; ++i) std::swap(b[from + i], b[from + size + i]);
  for (size_t i = 0; i < 2; ++i) std::swap(b[f.transport + i], b[f.transport + 2u + i]);
  for (size_t i = 0; i < 4; ++i) b[f.transport + 8u + i] = static_cast<u8>(ack >> (8 * (3 - i)));
  b[f.transport + 14u] = static_cast<u8>(window >> 8);
  b[f.transport + 15u] = static_cast<u8>(window);
  return b;
}

struct ClosedWindowsTest : testing::TestWithParam<bool> {
  std::vector<Bytes> probes() {
    std::vector<Bytes> all;
    windows.probe([&](std::span<const u8> p) { all.emplace_back(p.begin(), p.end()); });
    return all;
  }
  ClosedWindows windows;
};

TEST_P(ClosedWindowsTest, AClosedWindowIsAskedForOnce) {
  const bool v6 = GetParam();
  TcpFrame data(v6, 3000);
  const u32 ack = 0x8000'0000;
  windows.sees(answer(v6, ack, 400), data.bytes);
  ASSERT_FALSE(windows.empty());
  auto asked = probes();
  ASSERT_EQ(asked.size(), 1u);
  const Bytes& p = asked[0];
  const size_t tcp = data.transport;
  ASSERT_EQ(p.size(), tcp + 20);
  EXPECT_TRUE(checksums_right(p));
  EXPECT_EQ(flow_hash(p), flow_hash(data.bytes));
  auto part = [&](const Bytes& b, size_t at, size_t n) {
    std::span<const u8> s = std::span(b).subspan(at, n);
    return Bytes(s.begin(), s.end());
  };
  // In the guest's name, with a number that was acknowledged, and what the guest acknowledged.
  EXPECT_EQ(part(p, 6, 6), part(data.bytes, 6, 6));
  EXPECT_EQ(part(p, tcp + 4, 4), (Bytes{0x7f, 0xff, 0xff, 0xff}));
  EXPECT_EQ(part(p, tcp + 8, 4), part(data.bytes, tcp + 8, 4));
  EXPECT_EQ(part(p, tcp + 12, 4), (Bytes{0x50, 0x10, 0, 0}));
  EXPECT_TRUE(probes().empty());
  // Still closed: the next one is made of the probe that was answered.
  windows.sees(answer(v6, ack, 400), p);
  EXPECT_EQ(probes().size(), 1u);
}

TEST_P(ClosedWindowsTest, AnOpenOneIsNot) {
  const bool v6 = GetParam();
  TcpFrame data(v6, 3000);
  windows.sees(answer(v6, 1, 0xffff), data.bytes);
  EXPECT_TRUE(windows.empty());
  windows.sees(answer(v6, 1, 400), data.bytes);
  windows.sees(answer(v6, 1, 400), {});  // not an answer: the probe stays
  EXPECT_FALSE(windows.empty());
  windows.sees(answer(v6, 1, 0xffff), data.bytes);
  EXPECT_TRUE(windows.empty());
  for (u8 flags : {0x14, 0x11, 0x12, 0x00}) {  // RST, FIN, SYN, no acknowledgement
    windows.sees(answer(v6, 1, 400, flags), data.bytes);
    EXPECT_TRUE(windows.empty()) << int{flags};
  }
}

TEST_P(ClosedWindowsTest, OtherFramesDoNoHarm) {
  const bool v6 = GetParam();
  TcpFrame data(v6, 3000), other(!v6, 10);
  Bytes closed = answer(v6, 1, 0), udp = udp_frame(100);
  windows.sees(closed, other.bytes);
  windows.sees(closed, udp);
  windows.sees(closed, closed);  // its own direction
  windows.sees(udp, data.bytes);
  EXPECT_TRUE(windows.empty());
  for (size_t length = 0; length < closed.size(); ++length) {
    windows.sees(std::span(closed).first(length), data.bytes);
    EXPECT_TRUE(windows.empty()) << length;
    windows.sees(closed, std::span(data.bytes).first(length));
    (void)probes();
  }
}

TEST(ClosedWindows, AreBounded) {
  ClosedWindows windows;
  for (unsigned port = 0; port < 2000; ++port) {
    TcpFrame data(false, 100);
    Bytes closed = answer(false, 1, 0);
    data.bytes[34] = closed[36] = static_cast<u8>(port >> 8);
    data.bytes[35] = closed[37] = static_cast<u8>(port);
    windows.sees(closed, data.bytes);
  }
  size_t count = 0;
  windows.probe([&](std::span<const u8>) { ++count; });
  EXPECT_GT(count, 100u);
  EXPECT_LE(count, 256u);
}

INSTANTIATE_TEST_SUITE_P(Ip, ClosedWindowsTest, testing::Bool(),
                         [](auto& p) { return p.param ? "v6" : "v4"; });

}  // namespace
}  // namespace skerry::net
