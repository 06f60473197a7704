#include "net/ring.hpp"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <random>
#include <thread>

namespace skerry::net {
namespace {

struct RingTest : testing::Test {
  SharedRings rings = std::move(SharedRings::make().value());
  u8* ring = rings.to_switch();
  RingControl& control() { return *reinterpret_cast<RingControl*>(ring); }
  RingWriter writer{ring};
  RingReader reader{ring};
};

std::vector<u8> frame_of(u32 seed, size_t length) {
  std::vector<u8> f(length);
  for (size_t i = 0; i < length; ++i) f[i] = static_cast<u8>(seed * 31 + i * 7 + i / 255);
  return f;
}

TEST_F(RingTest, CarriesFramesOfEveryLengthAround) {
  std::mt19937 random(3);
  u32 sent = 0, got = 0;
  std::vector<size_t> lengths;
  while (got < 3000) {
    while (sent < 3000) {
      size_t length = random() % 3 ? random() % 2000 : random() % (kMaxFrame + 1);
      auto f = frame_of(sent, length);
      size_t cut = std::min<size_t>(length, 18);
      Offload o{.gso_size = static_cast<u16>(sent)};
      if (!writer.write(o, std::span(f).first(cut), std::span(f).subspan(cut))) break;
      lengths.push_back(length);
      ++sent;
    }
    unsigned take = 1 + random() % 40;
    while (take--) {
      auto r = reader.peek();
      if (!r) break;
      ASSERT_EQ(r->offload.gso_size, static_cast<u16>(got));
      ASSERT_TRUE(std::ranges::equal(r->frame, frame_of(got, lengths[got])));
      reader.pop();
      ++got;
    }
  }
  EXPECT_FALSE(writer.broken() || reader.broken());
}

TEST_F(RingTest, WakesAReaderThatSleeps) {
  auto f = frame_of(1, 100);
  EXPECT_TRUE(writer.write({}, f));
  EXPECT_FALSE(writer.reader_idle());
  ASSERT_TRUE(reader.peek());
  reader.pop();
  EXPECT_FALSE(reader.peek());
  EXPECT_TRUE(writer.write({}, f));
  EXPECT_TRUE(writer.reader_idle());
  EXPECT_FALSE(writer.reader_idle());
}

TEST_F(RingTest, WakesAWriterThatWaits) {
  auto f = frame_of(1, 60000);
  while (writer.write({}, f)) {
  }
  EXPECT_FALSE(writer.broken());
  unsigned taken = 0;
  bool told = false;
  while (!told && reader.peek()) {
    reader.pop();
    ++taken;
    told = reader.writer_waits();
  }
  EXPECT_TRUE(told);
  EXPECT_GT(taken, 20u);
  EXPECT_TRUE(writer.write({}, f));
  EXPECT_FALSE(reader.writer_waits());
}

TEST_F(RingTest, AWriterThatLiesBreaksOnlyItsRing) {
  auto f = frame_of(1, 100);
  auto lie = [&](auto how) {
    RingReader fresh{ring};
    new (&control()) RingControl;
    RingWriter w{ring};
    EXPECT_TRUE(w.write({}, f));
    how(*reinterpret_cast<RecordHeader*>(ring + 4096));
    EXPECT_FALSE(fresh.peek());
    return fresh.broken();
  };
  EXPECT_TRUE(lie([&](RecordHeader&) { control().head = kRingBytes + 16; }));
  EXPECT_TRUE(lie([&](RecordHeader&) { control().head = 0u - 16; }));
  EXPECT_TRUE(lie([&](RecordHeader&) { control().head = 8; }));
  EXPECT_TRUE(lie([&](RecordHeader& h) { h.length = kMaxFrame + 1; }));
  EXPECT_TRUE(lie([&](RecordHeader& h) { h.length = 5000; }));  // more than was written
  EXPECT_TRUE(lie([&](RecordHeader& h) { h.length = RecordHeader::kSkip; }));
}

TEST_F(RingTest, AReaderThatLiesBreaksOnlyItsRing) {
  auto f = frame_of(1, 100);
  EXPECT_TRUE(writer.write({}, f));
  control().tail = 4096;  // more than was written
  EXPECT_FALSE(writer.write({}, f));
  EXPECT_TRUE(writer.broken());
}

TEST_F(RingTest, TwoThreads) {
  constexpr u32 kFrames = 20000;
  std::thread other([&] {
    for (u32 i = 0; i < kFrames;) {
      auto f = frame_of(i, 14 + i % 1500);
      if (writer.write({}, f))
        ++i;
      else
        std::this_thread::yield();
    }
  });
  for (u32 i = 0; i < kFrames;) {
    auto r = reader.peek();
    if (!r) {
      std::this_thread::yield();
      continue;
    }
    EXPECT_TRUE(std::ranges::equal(r->frame, frame_of(i, 14 + i % 1500))) << i;
    reader.pop();
    ++i;
  }
  other.join();
  EXPECT_FALSE(writer.broken() || reader.broken());
}

TEST_F(RingTest, WhatCanShrinkIsRefused) {
  Fd plain(::memfd_create("x", 0));
  ASSERT_EQ(::ftruncate(plain.get(), 2 * kRingSize), 0);
  EXPECT_FALSE(SharedRings::adopt(std::move(plain)));
  Fd same(::dup(rings.fd()));
  EXPECT_TRUE(SharedRings::adopt(std::move(same)));
  EXPECT_LT(::ftruncate(rings.fd(), 0), 0);
}

}  // namespace
}  // namespace skerry::net
