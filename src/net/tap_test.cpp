#include "net/tap.hpp"

#include <gtest/gtest.h>
#include <linux/if_ether.h>

#include "net/frames.hpp"
#include "net/own_network.hpp"
#include "net/tap_queues.hpp"

namespace skerry::net {
namespace {

/// A guest at 10.9.0.2 that keeps what comes and answers ARP.
struct Guest {
  static constexpr u8 kMac[6] = {2, 0, 0, 0, 0, 2};
  explicit Guest(const TapSetup& setup) {
    loop = *EventLoop::create(clock);
    auto made = TapPort::create(*loop, setup);
    EXPECT_TRUE(made) << made.error().message();
    if (!made) ::_exit(1);
    port = std::move(*made);
    port->attach({.receive =
                      [this](const Offload& o, std::span<const u8> frame, unsigned queue) {
                        if (full) {
                          ++refused;
                          return false;
                        }
                        take(o, frame);
                        last_queue = queue;
                        return true;
                      },
                  .writable = {},
                  .carrier = {}});
  }
  void take(const Offload& o, std::span<const u8> frame) {
    u16 type = static_cast<u16>(frame[12] << 8 | frame[13]);
    if (type == ETH_P_ARP && frame[21] == 1 && frame[41] == 2) {
      std::vector<u8> answer(frame.begin(), frame.end());
      std::copy_n(&frame[6], 6, &answer[0]);
      std::copy_n(kMac, 6, &answer[6]);
      answer[21] = 2;
      std::copy_n(&frame[22], 10, &answer[32]);
      std::copy_n(kMac, 6, &answer[22]);
      std::copy_n(&frame[38], 4, &answer[28]);
      host = {frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]};
      EXPECT_TRUE(port->send({}, answer, 0));
    } else if (type == ETH_P_IP && frame[23] != 2) {
      frames.emplace_back(o, std::vector<u8>(frame.begin(), frame.end()));
    }
  }
  void run_until(const std::function<bool()>& done) {
    for (int turn = 0; turn < 500 && !done(); ++turn) loop->run_once(10);
    EXPECT_TRUE(done());
  }
  HostClock clock;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<TapPort> port;
  std::vector<std::pair<Offload, std::vector<u8>>> frames;
  Mac host{};
  bool full = false;
  unsigned refused = 0, last_queue = 0;
};

TEST(Tap, DatagramsBothWaysWithChecksumsLeftOpen) {
  in_own_network([] {
    Guest guest({.ifname = "sk-tap", .bridge = ""});
    EXPECT_EQ(guest.port->describe(), "tap sk-tap");
    give_address("sk-tap");
    Fd socket = udp_socket();
    send_to_guest(socket, "hello");
    guest.run_until([&] { return !guest.frames.empty(); });
    auto& [offload, frame] = guest.frames.at(0);
    EXPECT_TRUE(offload.needs_checksum());  // nobody computed it for nothing
    EXPECT_EQ(std::string(frame.end() - 5, frame.end()), "hello");

    // The answer: addresses and ports the other way round, the checksum to be finished.
    std::vector<u8> answer = frame;
    std::copy_n(guest.host.begin(), 6, answer.begin());
    std::copy_n(Guest::kMac, 6, answer.begin() + 6);
    std::swap_ranges(answer.begin() + 26, answer.begin() + 30, answer.begin() + 30);
    std::swap_ranges(answer.begin() + 34, answer.begin() + 36, answer.begin() + 36);
    answer.back() = '!';
    EXPECT_TRUE(guest.port->send(offload, answer, 0));
    char got[16];
    guest.run_until([&] { return ::recv(socket.get(), got, sizeof got, MSG_PEEK) == 5; });
    EXPECT_EQ(std::string(got, 5), "hell!");

    // What is refused is offered again, and nothing is lost or turned round meanwhile.
    guest.frames.clear();
    guest.full = true;
    for (const char* text : {"one", "two", "three"}) send_to_guest(socket, text);
    guest.run_until([&] { return guest.refused > 0; });
    for (int turn = 0; turn < 3; ++turn) guest.loop->run_once(5);
    EXPECT_EQ(guest.refused, 1u);
    guest.full = false;
    guest.port->resume();
    guest.run_until([&] { return guest.frames.size() == 3; });
    EXPECT_EQ(std::string(guest.frames[0].second.end() - 3, guest.frames[0].second.end()), "one");
    EXPECT_EQ(std::string(guest.frames[2].second.end() - 5, guest.frames[2].second.end()), "three");
  });
}

TEST(Tap, LargeSegmentsGoThroughWhole) {
  in_own_network([] {
    Guest guest({.ifname = "sk-tap", .bridge = ""});
    give_address("sk-tap");
    Fd server(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    (void)server;
    // The kernel takes a segment of 20 KB and a header hint that is beyond the frame.
    TcpFrame large(false, 20'000);
    Offload offload = large.large(1400);
    offload.header_length = 0xffff;
    EXPECT_TRUE(guest.port->send(offload, large.bytes, 0));
    // And says itself how many frames it took.
    EXPECT_GE(received_bytes("sk-tap"), 20'000u);
  });
}

TEST(Tap, FlowsStayOnTheQueuesOnWhichTheyAreSent) {
  in_own_network([] {
    Guest guest({.ifname = "sk-tap", .bridge = "", .queues = 3});
    EXPECT_EQ(guest.port->queues(), 3u);
    EXPECT_EQ(tap_queues("sk-tap"), 3u);  // one of them attached
    give_address("sk-tap");
    Fd socket = udp_socket();
    auto ask = [&] {
      guest.frames.clear();
      send_to_guest(socket, "ask");
      guest.run_until([&] { return !guest.frames.empty(); });
      return guest.last_queue;
    };
    EXPECT_EQ(ask(), 0u);
    std::vector<u8> answer = guest.frames.at(0).second;
    std::copy_n(guest.host.begin(), 6, answer.begin());
    std::copy_n(Guest::kMac, 6, answer.begin() + 6);
    std::swap_ranges(answer.begin() + 26, answer.begin() + 30, answer.begin() + 30);
    std::swap_ranges(answer.begin() + 34, answer.begin() + 36, answer.begin() + 36);
    auto answer_on = [&](unsigned queue) {
      EXPECT_TRUE(guest.port->send(guest.frames.at(0).first, answer, queue));
      char text[16];
      bool got = false;
      guest.run_until([&] {
        got = got || ::recv(socket.get(), text, sizeof text, 0) == 3;
        return got;
      });
    };
    guest.port->use_queues(3);
    for (unsigned queue : {2u, 1u, 0u, 2u}) {
      answer_on(queue);
      EXPECT_EQ(ask(), queue);
    }
    // Without queue 2 its flows come on the others.
    guest.port->use_queues(2);
    EXPECT_LT(ask(), 2u);
    answer_on(2);  // on any
    answer_on(1);
    EXPECT_EQ(ask(), 1u);
    guest.port->use_queues(1);
    EXPECT_EQ(ask(), 0u);
    guest.port->use_queues(3);
    answer_on(2);
    EXPECT_EQ(ask(), 2u);

    // What is refused on one queue does not hold up the others, and is not lost.
    guest.frames.clear();
    guest.full = true;
    send_to_guest(socket, "ask");
    guest.run_until([&] { return guest.refused == 1; });
    guest.full = false;
    guest.port->resume();
    guest.run_until([&] { return guest.frames.size() == 1; });
    EXPECT_EQ(guest.last_queue, 2u);
  });
}

TEST(Tap, DevicesWithOneAndWithSeveralQueues) {
  in_own_network([] {
    HostClock clock;
    auto loop = *EventLoop::create(clock);
    // That of one queue and that of several are made so; the latter serves a card with one, too.
    ASSERT_TRUE(make_tap("sk-one", false));
    ASSERT_TRUE(make_tap("sk-many", true));
    auto refused = TapPort::create(*loop, {.ifname = "sk-one", .bridge = "", .queues = 2});
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().hint.find("not made with multi_queue"), std::string::npos);
    auto one = TapPort::create(*loop, {.ifname = "sk-many", .bridge = ""});
    ASSERT_TRUE(one) << one.error().message();
    EXPECT_EQ((*one)->queues(), 1u);
    for (unsigned queues : {1u, 2u}) {
      auto second = TapPort::create(*loop, {.ifname = "sk-many", .bridge = "", .queues = queues});
      ASSERT_FALSE(second);
      EXPECT_NE(second.error().hint.find("another program has it open"), std::string::npos);
    }
    one->reset();
    EXPECT_TRUE(TapPort::create(*loop, {.ifname = "sk-many", .bridge = "", .queues = 2}));
    EXPECT_EQ(tap_queues("lo"), std::nullopt);
  });
}

TEST(Tap, MistakesSayHowToMendThem) {
  in_own_network([] {
    HostClock clock;
    auto loop = *EventLoop::create(clock);
    auto first = TapPort::create(*loop, {.ifname = "sk-tap", .bridge = ""});
    ASSERT_TRUE(first);
    auto again = TapPort::create(*loop, {.ifname = "sk-tap", .bridge = ""});
    ASSERT_FALSE(again);
    EXPECT_NE(again.error().hint.find("another program has it open"), std::string::npos);
    auto lost = TapPort::create(*loop, {.ifname = "", .bridge = "sk-none"});
    ASSERT_FALSE(lost);
    EXPECT_NE(lost.error().hint.find("ip link add sk-none type bridge"), std::string::npos)
        << lost.error().message();
    auto loopback = TapPort::create(*loop, {.ifname = "lo", .bridge = ""});
    ASSERT_FALSE(loopback);
    EXPECT_NE(loopback.error().hint.find("no tap device"), std::string::npos);
  });
}

}  // namespace
}  // namespace skerry::net
