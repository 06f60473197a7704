// A switch and the ports of several machines, each on its own event loop, in one process: all but
// the start of the program.
#include "net/switch_server.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "net/frames.hpp"
#include "net/own_network.hpp"
#include "net/switch_port.hpp"
#include "net/switch_report.hpp"

namespace skerry::net {
namespace {

struct Machine {
  Machine(EventLoop& l, std::unique_ptr<SwitchPort> p) : loop(l), port(std::move(p)) {
    port->attach({.receive =
                      [this](const Offload& o, std::span<const u8> frame, unsigned) {
                        if (full) return false;
                        offloads.push_back(o);
                        got.emplace_back(frame.begin(), frame.end());
                        return true;
                      },
                  .writable = [this] { ++writable; },
                  .carrier = [this](bool up) { carrier = up; }});
  }
  bool send(std::span<const u8> frame, const Offload& o = {}) {
    bool done = port->send(o, frame, 0);
    port->flush();
    return done;
  }
  template <class Done>
  bool wait(const Done& done) {
    for (int i = 0; i < 300; ++i) {
      if (done()) return true;
      loop.run_once(10);
    }
    return false;
  }
  EventLoop& loop;
  std::unique_ptr<SwitchPort> port;
  std::vector<Offload> offloads;
  std::vector<std::vector<u8>> got;
  bool full = false, carrier = true;
  unsigned writable = 0;
};

struct SwitchServerTest : testing::Test {
  SwitchServerTest() {
    directory = std::filesystem::temp_directory_path() / fmt::format("skerry-sw-{}", ::getpid());
    std::filesystem::create_directory(directory);
    ::setenv("XDG_RUNTIME_DIR", directory.c_str(), 1);
    start();
  }
  ~SwitchServerTest() override {
    stop();
    std::filesystem::remove_all(directory);
  }
  void start() {
    std::string path = runtime_directory().value() + "/lan.sock";
    ::unlink(path.c_str());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener.get(), 8), 0);
    server_loop = std::move(EventLoop::create(clock).value());
    server =
        std::move(SwitchServer::create(*server_loop, clock, "lan", std::move(listener), [this] {
                    ++emptied;
                  }).value());
    thread = std::thread([this] { server_loop->run(); });
  }
  void stop() {
    if (!thread.joinable()) return;
    server_loop->stop();
    thread.join();
    server.reset();
  }
  Result<std::unique_ptr<SwitchPort>> join(u8 n, u16 vlan = 0, u64 rate = 0,
                                           const TapSetup& uplink = {}) {
    SwitchPortSetup setup{.name = "lan", .program = "/nonexistent/skerry-switch", .request = {}};
    setup.request.mac = {2, 0, 0, 0, 0, n};
    setup.request.vlan = vlan;
    setup.request.rate = rate;
    if (uplink != TapSetup{}) setup.request.uplink = SwitchRequest::Uplink::tap;
    put_text(setup.request.ifname, uplink.ifname);
    put_text(setup.request.bridge, uplink.bridge);
    std::snprintf(setup.request.owner, sizeof setup.request.owner, "vm%u/net0", n);
    return SwitchPort::create(*loop, setup);
  }
  std::unique_ptr<Machine> machine(u8 n, u16 vlan = 0, u64 rate = 0, const TapSetup& uplink = {}) {
    auto port = join(n, vlan, rate, uplink);
    EXPECT_TRUE(port) << port.error().message();
    return std::make_unique<Machine>(*loop, std::move(*port));
  }
  static std::vector<u8> frame(u8 from, u8 to, size_t length = 100) {
    std::vector<u8> f(length);
    const u8 head[] = {2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5};
    std::memcpy(f.data(), head, sizeof head);
    for (size_t i = sizeof head; i < length; ++i) f[i] = static_cast<u8>(i * 3);
    return f;
  }
  nlohmann::json report() { return nlohmann::json::parse(fetch_report("lan").value()); }

  std::filesystem::path directory;
  HostClock clock;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create(clock).value()), server_loop;
  std::unique_ptr<SwitchServer> server;
  std::thread thread;
  std::atomic<int> emptied = 0;
};

TEST_F(SwitchServerTest, CarriesFrames) {
  auto a = machine(1), b = machine(2), c = machine(3, 10);
  TcpFrame large(false, 60000);
  std::memcpy(large.bytes.data(), frame(1, 2).data(), 12);
  EXPECT_TRUE(a->send(frame(1, 2)));
  EXPECT_TRUE(a->send(large.bytes, large.large(1400)));
  EXPECT_TRUE(a->send(frame(1, 3)));  // another VLAN
  EXPECT_TRUE(a->send(frame(9, 2)));  // not its address
  EXPECT_TRUE(a->send(frame(1, 2, 14)));
  ASSERT_TRUE(b->wait([&] { return b->got.size() == 3; }));
  EXPECT_EQ(b->got[0], frame(1, 2));
  EXPECT_EQ(b->got[1], large.bytes);
  EXPECT_EQ(b->offloads[1], large.large(1400));
  EXPECT_EQ(b->got[2].size(), 14u);
  EXPECT_TRUE(c->got.empty());
  auto r = report();
  EXPECT_EQ(r["ports"].size(), 3u);
  EXPECT_EQ(r["ports"][0]["owner"], "vm1/net0");
  EXPECT_EQ(r["ports"][0]["dropped"]["spoofed"], 1);
  EXPECT_EQ(r["ports"][0]["dropped"]["unreachable"], 1);
  EXPECT_EQ(r["ports"][1]["out"]["frames"], 3);
  EXPECT_NE(show_text(fetch_report("lan").value()).find("vm3/net0"), std::string::npos);
  EXPECT_EQ(list_switches().value(), std::vector<std::string>{"lan"});
}

TEST_F(SwitchServerTest, AFrameWhoseOffloadDoesNotFitIsDroppedByTheReceiver) {
  auto a = machine(1), b = machine(2);
  a->send(frame(1, 2), {.flags = 1, .checksum_start = 5000});
  a->send(frame(1, 2));
  ASSERT_TRUE(b->wait([&] { return !b->got.empty(); }));
  EXPECT_EQ(b->offloads[0], Offload{});
}

TEST_F(SwitchServerTest, ADuplicateAddressIsRefusedUntilItsOwnerLeaves) {
  auto a = machine(1);
  auto late = join(1);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().what, "switch lan: the address 02:00:00:00:00:01 is in use by vm1/net0");
  EXPECT_FALSE(late.error().hint.empty());
  a.reset();
  for (int i = 0; i < 100 && !(late = join(1)); ++i) ::usleep(10000);
  EXPECT_TRUE(late);
}

TEST_F(SwitchServerTest, AMachineThatTakesNothingLosesOnlyItsOwnFrames) {
  auto a = machine(1), b = machine(2), c = machine(3);
  b->full = true;
  auto big = frame(1, 2, 60000);
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(a->wait([&] { return a->send(big); }));
  a->send(frame(1, 3));
  ASSERT_TRUE(c->wait([&] { return c->got.size() == 1; }));
  EXPECT_GT(report()["ports"][1]["dropped"]["no_room"], 50);
  b->full = false;
  b->port->resume();
  EXPECT_TRUE(b->wait([&] { return b->got.size() > 60; }));
}

TEST_F(SwitchServerTest, AMachineThatBreaksItsRingIsDetachedAlone) {
  auto a = machine(1), b = machine(2);
  // A machine that speaks the protocol and then writes nonsense.
  Fd socket = start_switch("lan", "/nonexistent").value();
  SwitchRequest request;
  request.mac = {2, 0, 0, 0, 0, 3};
  ASSERT_TRUE(send_packet(socket.get(), {reinterpret_cast<u8*>(&request), sizeof request}));
  SwitchReply reply;
  std::vector<Fd> fds;
  ASSERT_TRUE(
      receive_packet(socket.get(), {reinterpret_cast<u8*>(&reply), sizeof reply}, fds, 5000));
  ASSERT_EQ(fds.size(), 3u);
  auto rings = SharedRings::adopt(std::move(fds[0])).value();
  EXPECT_EQ(report()["ports"].size(), 3u);
  reinterpret_cast<RingControl*>(rings.to_switch())->head = 12345;
  signal_event(fds[1].get());
  for (int i = 0; i < 200 && report()["ports"].size() == 3; ++i) ::usleep(10000);
  EXPECT_EQ(report()["ports"].size(), 2u);
  a->send(frame(1, 2));
  EXPECT_TRUE(b->wait([&] { return b->got.size() == 1; }));
}

TEST_F(SwitchServerTest, NonsenseOnTheSocket) {
  for (size_t length :
       {size_t{0}, size_t{1}, sizeof(SwitchRequest) - 1, sizeof(SwitchRequest), size_t{5000}}) {
    Fd socket = start_switch("lan", "/nonexistent").value();
    std::vector<u8> bytes(length, 0x5a);
    ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    std::vector<Fd> none;
    u8 answer[2000];
    auto got = receive_packet(socket.get(), answer, none, 5000);
    EXPECT_TRUE(!got || *got == 0) << length;
  }
  SwitchRequest request;
  request.vlan = 5000;
  Fd socket = start_switch("lan", "/nonexistent").value();
  ASSERT_TRUE(send_packet(socket.get(), {reinterpret_cast<u8*>(&request), sizeof request}));
  SwitchReply reply;
  std::vector<Fd> none;
  ASSERT_TRUE(
      receive_packet(socket.get(), {reinterpret_cast<u8*>(&reply), sizeof reply}, none, 5000));
  EXPECT_STREQ(reply.what, "there is no VLAN 5000");
  // Of another release: what all have in common, and not the rest.
  request.version = 1;
  socket = start_switch("lan", "/nonexistent").value();
  ASSERT_TRUE(send_packet(socket.get(), {reinterpret_cast<u8*>(&request), 120}));
  ASSERT_TRUE(
      receive_packet(socket.get(), {reinterpret_cast<u8*>(&reply), sizeof reply}, none, 5000));
  EXPECT_STREQ(reply.what, "another release of Skerry");
  EXPECT_TRUE(machine(1));
}

TEST_F(SwitchServerTest, TheRateHoldsTheSenderBackWithoutLoss) {
  constexpr u64 kRate = 200'000'000;
  auto a = machine(1, 0, kRate), b = machine(2);
  auto f = frame(1, 2, 1514);
  u64 sent = 0;
  auto passed = [&] { return report()["ports"][0]["in"]["bytes"].get<double>() * 8 / kRate; };
  auto send_for = [&](Nanos span) {  // what part of its rate it got
    double before = passed();
    Nanos start = clock.now();
    while (clock.now() - start < span) {
      if (a->port->send({}, f, 0)) {
        ++sent;
        if (sent % 16 == 0) a->port->flush();
      } else {
        a->port->flush();
        loop->run_once(5);
      }
      if (sent % 64 == 0) loop->run_once(0);
    }
    a->port->flush();
    double after = passed();
    return (after - before) / (static_cast<double>(clock.now() - start) / 1e9);
  };
  send_for(200'000'000);  // uses up what may be sent at once
  double best = 0, sum = 0;
  for (int i = 0; i < 4; ++i) {
    double part = send_for(1'000'000'000);
    best = std::max(best, part);
    sum += part;
  }
  EXPECT_LT(sum / 4, 1.05);
  EXPECT_GT(best, 0.5);  // a busy host lets nobody send more; SwitchTest has the exact figures
  EXPECT_EQ(report()["ports"][1]["dropped"]["no_room"], 0);
}

TEST_F(SwitchServerTest, ASwitchThatDiesIsFoundAgain) {
  auto a = machine(1), b = machine(2);
  stop();
  EXPECT_TRUE(a->wait([&] { return !a->carrier && !b->carrier; }));
  EXPECT_TRUE(a->send(frame(1, 2)));  // into the void
  start();
  EXPECT_TRUE(a->wait([&] { return a->carrier && b->carrier; }));
  a->send(frame(1, 2));
  EXPECT_TRUE(b->wait([&] { return b->got.size() == 1; }));
}

/// A switch in a child with a network of its own; the child forks before there are threads.
struct Lan : SwitchServerTest {
  void TestBody() override {}
  /// What `skerry switch show` tells of a port, null if there is none.
  nlohmann::json port(std::string_view owner) {
    auto all = report();
    for (auto& p : all["ports"])
      if (p["owner"] == owner) return p;
    return {};
  }
  std::string refused(const Result<std::unique_ptr<SwitchPort>>& port) {
    return port ? "" : port.error().message();
  }
};

TEST(SwitchUplink, ATapCarriesWhatIsUnfinishedBothWays) {
  in_own_network([] {
    Lan lan;
    auto a = lan.machine(1, 0, 0, {.ifname = "sk-up", .bridge = ""});
    auto b = lan.machine(2);
    RawSocket host("sk-up");
    // A segment of 20 KB whole, to whoever there is: its destination is on no port.
    TcpFrame large(false, 20'000);
    std::memcpy(large.bytes.data(), SwitchServerTest::frame(1, 9).data(), 12);
    EXPECT_TRUE(a->send(large.bytes, large.large(1400)));
    EXPECT_TRUE(a->wait([] { return received_bytes("sk-up") >= 20'000; }));

    // The host's own datagram comes with its checksum left open.
    give_address("sk-up");
    host.send(SwitchServerTest::frame(0x51, 1));
    EXPECT_TRUE(a->wait([&] { return a->got.size() == 1; }));
    add_neighbour("sk-up", "10.9.0.2", {2, 0, 0, 0, 0, 1});
    Fd socket = udp_socket();
    send_to_guest(socket, "hello");
    auto is_datagram = [](const std::vector<u8>& f) {
      return f[12] == 8 && f[13] == 0 && f[23] == 17;
    };
    EXPECT_TRUE(a->wait([&] { return std::ranges::any_of(a->got, is_datagram); }));
    for (size_t i = 0; i < a->got.size(); ++i)
      EXPECT_TRUE(!is_datagram(a->got[i]) || a->offloads[i].needs_checksum());
    EXPECT_TRUE(b->got.empty() || !std::ranges::any_of(b->got, is_datagram));
  });
}

TEST(SwitchUplink, ATapSpeaksForManyButNotForMachinesNorOtherVlans) {
  in_own_network([] {
    Lan lan;
    auto a = lan.machine(1, 0, 0, {.ifname = "sk-up", .bridge = ""}), b = lan.machine(2);
    RawSocket host("sk-up");
    for (u8 n : {0x51, 0x52, 0x53}) host.send(SwitchServerTest::frame(n, 1));
    EXPECT_TRUE(a->wait([&] { return a->got.size() >= 3; }));
    EXPECT_EQ(a->got[2], SwitchServerTest::frame(0x53, 1));
    auto learned = [&](u8 n) {
      auto all = lan.report();
      for (auto& row : all["mac_table"])
        if (row["mac"] == to_text({2, 0, 0, 0, 0, n})) return row["learned"].get<bool>();
      return false;
    };
    EXPECT_TRUE(learned(0x51) && learned(0x52) && learned(0x53));

    // b's address from outside, and a frame of VLAN 7.
    host.send(SwitchServerTest::frame(2, 1));
    auto tagged = SwitchServerTest::frame(0x54, 1);
    tagged[12] = 0x81, tagged[13] = 0, tagged[14] = 0, tagged[15] = 7;
    host.send(tagged);
    host.send(SwitchServerTest::frame(0x55, 1));
    EXPECT_TRUE(a->wait([&] { return a->got.size() >= 4; }));
    EXPECT_EQ(a->got[3], SwitchServerTest::frame(0x55, 1));
    EXPECT_FALSE(learned(2) || learned(0x54));
    auto dropped = lan.port("uplink tap sk-up")["dropped"];
    EXPECT_EQ(dropped["spoofed"], 1);
    EXPECT_EQ(dropped["tagged"], 1);
    EXPECT_EQ(lan.port("uplink tap sk-up")["in"]["frames"], 4);

    // The device is deleted: the switch goes on without.
    delete_device("sk-up");
    EXPECT_TRUE(a->wait([&] { return lan.port("uplink tap sk-up").is_null(); }));
    EXPECT_TRUE(a->send(SwitchServerTest::frame(1, 2)));
    EXPECT_TRUE(
        b->wait([&] { return std::ranges::count(b->got, SwitchServerTest::frame(1, 2)) == 1; }));
  });
}

TEST(SwitchUplink, MistakesWithATapSayHowToMendThem) {
  in_own_network([] {
    Lan lan;
    auto a = lan.machine(1, 10, 0, {.ifname = "sk-up", .bridge = ""});
    auto same = lan.join(2, 10, 0, {.ifname = "sk-up", .bridge = ""});
    EXPECT_TRUE(same) << lan.refused(same);
    std::string said = lan.refused(lan.join(3, 10, 0, {.ifname = "sk-two", .bridge = ""}));
    EXPECT_NE(said.find("VLAN 10 has another uplink already: tap sk-up"), said.npos) << said;
    said = lan.refused(lan.join(3, 20, 0, {.ifname = "sk-up", .bridge = ""}));
    EXPECT_NE(said.find("sk-up is the uplink of VLAN 10 already"), said.npos) << said;
    said = lan.refused(lan.join(3, 0, 0, {.ifname = "", .bridge = "sk-none"}));
    EXPECT_NE(said.find("ip link add sk-none type bridge"), said.npos) << said;
    said = lan.refused(lan.join(3, 0, 0, {.ifname = "lo", .bridge = ""}));
    EXPECT_NE(said.find("no tap device"), said.npos) << said;
    HostClock clock;
    auto loop = *EventLoop::create(clock);
    auto other = TapPort::create(*loop, {.ifname = "sk-card", .bridge = ""});
    said = lan.refused(lan.join(3, 0, 0, {.ifname = "sk-card", .bridge = ""}));
    EXPECT_NE(said.find("another program has it open"), said.npos) << said;
    // Nobody who was refused is left behind, and the last in the VLAN takes its uplink along.
    EXPECT_EQ(lan.report()["ports"].size(), 3u);
    a.reset();
    same->reset();
    EXPECT_TRUE(lan.machine(4)->wait([&] { return lan.report()["ports"].size() == 1; }));
  });
}

TEST_F(SwitchServerTest, SaysWhenItIsEmpty) {
  auto a = machine(1);
  EXPECT_EQ(emptied, 0);
  a.reset();
  for (int i = 0; i < 300 && emptied == 0; ++i) ::usleep(10000);
  EXPECT_EQ(emptied, 1);
}

}  // namespace
}  // namespace skerry::net
