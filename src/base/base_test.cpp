#include <gtest/gtest.h>

#include <thread>

#include <sys/epoll.h>

#include "base/bits.hpp"
#include "base/event_loop.hpp"
#include "base/log.hpp"

namespace skerry {
namespace {

TEST(Bits, extracts_masks_and_extends) {
  EXPECT_EQ(bits(0xabcd, 4, 8), 0xbcu);
  EXPECT_EQ(bits(~u64{0}, 0, 64), ~u64{0});
  EXPECT_EQ(byte_mask(0), 0u);
  EXPECT_EQ(byte_mask(4), 0xffffffffu);
  EXPECT_EQ(byte_mask(8), ~u64{0});
  EXPECT_EQ(sign_extend(0x80, 1), 0xffffffffffffff80u);
  EXPECT_EQ(align_up(4097, 4096), 8192u);
}

TEST(Result, carries_what_where_and_how_to_mend_it) {
  auto open = Fd::open("/nonexistent/x", 0);
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, ENOENT);
  EXPECT_NE(open.error().message().find("/nonexistent/x"), std::string::npos);
  EXPECT_FALSE(open.error().hint.empty());
  EXPECT_EQ(Error(open.error()).in("disk 0").what.rfind("disk 0: ", 0), 0u);
}

TEST(EventLoop, WhatACallbackPostsNeedsNoWaking) {
  ManualClock clock;
  auto loop = std::move(EventLoop::create(clock)).value();
  int depth = 0;
  std::function<void()> again = [&] {
    if (++depth < 3) loop->post(again);
  };
  loop->post(again);
  for (int i = 1; i <= 3; ++i) {
    loop->run_once(-1);   // would wait for ever
    EXPECT_EQ(depth, i);  // one turn each: others have theirs in between
  }
  loop->run_once(0);
  EXPECT_EQ(depth, 3);
}

TEST(EventLoop, AnEarlierTimerIsArmedAndALaterOneStillFires) {
  HostClock clock;
  auto loop = std::move(EventLoop::create(clock)).value();
  std::vector<int> fired;
  auto in = [&](Nanos milliseconds, int what) {
    return loop->call_at(clock.now() + milliseconds * 1'000'000,
                         [&fired, what] { fired.push_back(what); });
  };
  in(30, 3);
  auto gone = in(2, 1);
  EXPECT_TRUE(loop->cancel(gone));
  in(10, 2);
  for (int i = 0; i < 50 && fired.size() < 2; ++i) loop->run_once(1000);
  EXPECT_EQ(fired, (std::vector<int>{2, 3}));
}

TEST(EventLoop, RunTakesWorkOfOtherThreadsWhetherItSleepsOrNot) {
  HostClock clock;
  auto loop = std::move(EventLoop::create(clock)).value();
  std::atomic<int> done{0};
  std::thread runner([&] { loop->run(); });
  for (int i = 0; i < 2000; ++i) {
    loop->post([&] { ++done; });
    if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    while (i % 10 == 0 && done < i + 1) std::this_thread::yield();
  }
  while (done < 2000) std::this_thread::yield();
  loop->stop();
  runner.join();
  EXPECT_EQ(done, 2000);
}

TEST(EventLoop, runs_posted_work_timers_in_order_and_watches) {
  ManualClock clock;
  auto loop = std::move(EventLoop::create(clock)).value();
  std::string seen;
  loop->call_at(20, [&] { seen += "b"; });
  loop->call_at(10, [&] { seen += "a"; });
  auto cancelled = loop->call_at(15, [&] { seen += "x"; });
  EXPECT_TRUE(loop->cancel(cancelled));
  EXPECT_FALSE(loop->cancel(cancelled));
  loop->post([&] { seen += "p"; });
  loop->run_once(1000);
  EXPECT_EQ(seen, "p");
  clock.advance(30);
  loop->run_once(0);
  EXPECT_EQ(seen, "pab");

  Fd event = std::move(Fd::event()).value();
  ASSERT_TRUE(loop->watch(event.get(), EPOLLIN, [&](u32) {
    drain_event(event.get());
    seen += "w";
    loop->unwatch(event.get());
  }));
  signal_event(event.get());
  loop->run_once(1000);
  signal_event(event.get());
  loop->run_once(0);
  EXPECT_EQ(seen, "pabw");
}

TEST(HostClock, stands_still_while_stopped_and_continues_where_set) {
  HostClock clock;
  clock.stop();
  Nanos at = clock.now();
  EXPECT_EQ(clock.now(), at);
  clock.set(5'000'000'000'000);
  clock.start();
  EXPECT_GE(clock.now(), 5'000'000'000'000);
  EXPECT_LT(clock.now(), 5'060'000'000'000);
}

TEST(Trace, knows_its_categories) {
  EXPECT_TRUE(set_trace("cpu,irq"));
  EXPECT_TRUE(tracing(Trace::irq));
  EXPECT_FALSE(tracing(Trace::exec));
  auto bad = set_trace("cpu,bogus");
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().what.find("bogus"), std::string::npos);
  EXPECT_TRUE(set_trace(""));
}

}  // namespace
}  // namespace skerry
