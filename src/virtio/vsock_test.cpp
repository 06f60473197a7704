#include "virtio/vsock.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "net/unix_ports.hpp"
#include "virtio/fake_driver.hpp"
#include "virtio/fake_streams.hpp"

namespace skerry::virtio {
namespace {

constexpr u32 kCid = 7, kGuestPort = 1000, kHostPort = 5;
constexpr u64 kAll = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;

std::string receive(int fd) {
  std::string text(256 * KiB, '\0');
  ssize_t n = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}
bool at_end(int fd) {
  char c;
  return ::recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}
void send_all(int fd, const std::string& text) {
  ASSERT_EQ(::send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
}

class VsockTest : public testing::Test {
 protected:
  struct Packet {
    Vsock::Header h{};
    std::string data;
  };

  VsockTest() {
    auto owned = std::make_unique<FakeStreams>();
    host = owned.get();
    auto device = std::make_unique<Vsock>("vsock0", rig.environment(), kCid, std::move(owned));
    vsock = device.get();
    transport = &rig.plug(std::move(device));
    driver.emplace(rig, 1);
    EXPECT_TRUE(driver->start(kAll));
    offer(32);
  }

  /// Receive buffers for the device.
  void offer(unsigned count, u32 size = 4096) {
    for (unsigned i = 0; i < count; ++i) {
      Gpa at = driver->allocate(size);
      buffers[driver->put(0, {{at, size, true}})] = at;
    }
    driver->kick(0);
    rig.run();
  }
  void send(u16 op, const std::string& data = {}, std::function<void(Vsock::Header&)> change = {}) {
    Vsock::Header h{kCid,           2,  kGuestPort, kHostPort, static_cast<u32>(data.size()),
                    Vsock::kStream, op, 0,          room,      taken};
    if (change) change(h);
    std::string bytes(reinterpret_cast<const char*>(&h), Vsock::kHeader);
    Gpa at = driver->place(bytes + data);
    driver->put(1, {{at, static_cast<u32>(bytes.size() + data.size()), false}});
    driver->kick(1);
    rig.run();
    while (driver->used(1)) {
    }
  }
  std::optional<Packet> next() {
    rig.run();
    auto used = driver->used(0);
    if (!used) return std::nullopt;
    Packet p;
    EXPECT_GE(used->length, Vsock::kHeader);
    Gpa at = buffers[static_cast<u16>(used->id)];
    EXPECT_TRUE(rig.memory->read(at, {reinterpret_cast<u8*>(&p.h), Vsock::kHeader}));
    EXPECT_EQ(p.h.length, used->length - Vsock::kHeader);
    p.data = driver->text(at + Vsock::kHeader, p.h.length);
    EXPECT_EQ(p.h.source_cid, 2u);
    EXPECT_EQ(p.h.destination_cid, kCid);
    return p;
  }
  void expect_op(u16 op, u32 flags = 0) {
    auto p = next();
    ASSERT_TRUE(p) << "no packet, op " << op << " expected";
    EXPECT_EQ(p->h.op, op);
    EXPECT_EQ(p->h.flags, flags);
    EXPECT_EQ(p->h.source_port, kHostPort);
    EXPECT_EQ(p->h.destination_port, kGuestPort);
  }
  /// The guest connects to kHostPort; the host's end.
  int connect() {
    send(Vsock::request);
    expect_op(Vsock::response);
    return host->accepted.at(kHostPort).get();
  }

  Rig rig;
  FakeStreams* host;
  Vsock* vsock;
  TransportPci* transport;
  std::optional<FakeDriver> driver;
  std::map<u16, Gpa> buffers;
  u32 room = 64 * KiB, taken = 0;  ///< what the guest says of itself
};

TEST_F(VsockTest, GuestConnectsAndBothTalk) {
  EXPECT_EQ(driver->read_config(0, 8), kCid);
  int fd = connect();
  send(Vsock::rw, "hello");
  EXPECT_EQ(receive(fd), "hello");
  send_all(fd, "good day");
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::rw);
  EXPECT_EQ(p->data, "good day");
  EXPECT_EQ(p->h.forwarded, 5u);
  EXPECT_EQ(p->h.buffer, Vsock::kBuffer);
  EXPECT_FALSE(next());
}

TEST_F(VsockTest, NobodyListens) {
  send(Vsock::request, "", [](auto& h) { h.destination_port = FakeStreams::kRefused; });
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::rst);
  EXPECT_EQ(p->h.source_port, FakeStreams::kRefused);
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, HostConnects) {
  auto [mine, theirs] = FakeStreams::pair();
  vsock->host().incoming(std::move(theirs), 22);
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::request);
  EXPECT_EQ(p->h.destination_port, 22u);
  u32 port = p->h.source_port;
  EXPECT_EQ(port, Vsock::kFirstHostPort);
  EXPECT_EQ(receive(mine.get()), "");
  auto to = [&](auto& h) { h.source_port = 22, h.destination_port = port; };
  send(Vsock::response, "", to);
  EXPECT_EQ(receive(mine.get()), fmt::format("OK {}\n", port));
  send_all(mine.get(), "x");
  p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->data, "x");
  send(Vsock::rst, "", to);
  EXPECT_TRUE(at_end(mine.get()));
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, HostGivesUpBeforeTheAnswer) {
  auto [mine, theirs] = FakeStreams::pair();
  vsock->host().incoming(std::move(theirs), 22);
  ASSERT_TRUE(next());
  mine = Fd();
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::rst);
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, HostIsRefusedWithoutADriver) {
  driver->set(FakeDriver::device_status, 1, 0);
  auto [mine, theirs] = FakeStreams::pair();
  vsock->host().incoming(std::move(theirs), 22);
  EXPECT_TRUE(at_end(mine.get()));
}

TEST_F(VsockTest, GuestEnds) {
  int fd = connect();
  send(Vsock::rw, "last words");
  send(Vsock::shutdown, "", [](auto& h) { h.flags = Vsock::kNoSend; });
  EXPECT_EQ(receive(fd), "last words");
  EXPECT_TRUE(at_end(fd));
  send_all(fd, "still heard");
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->data, "still heard");
  send(Vsock::shutdown, "", [](auto& h) { h.flags = Vsock::kBoth; });
  expect_op(Vsock::rst);
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, GuestEndsWhileTheHostIsSlow) {
  int fd = connect();
  // Until the socket is full and the rest waits in the device.
  std::string block(32 * KiB, 'a');
  u32 sent = 0, told = 0;
  while (sent < 4 * MiB && sent - told <= 32 * KiB) {
    send(Vsock::rw, block);
    sent += static_cast<u32>(block.size());
    send(Vsock::credit_request);
    while (auto p = next()) told = p->h.forwarded;
  }
  ASSERT_LT(sent, 4 * MiB);
  send(Vsock::shutdown, "", [](auto& h) { h.flags = Vsock::kBoth; });
  EXPECT_FALSE(next());
  u32 got = 0;
  for (int i = 0; i < 1000 && got < sent; ++i) {
    got += static_cast<u32>(receive(fd).size());
    rig.run();
  }
  EXPECT_EQ(got, sent);
  expect_op(Vsock::rst);
  EXPECT_TRUE(at_end(fd));
}

TEST_F(VsockTest, HostEndsOneDirectionThenBoth) {
  int fd = connect();
  send_all(fd, "bye");
  ::shutdown(fd, SHUT_WR);
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->data, "bye");
  expect_op(Vsock::shutdown, Vsock::kNoSend);
  send(Vsock::rw, "answer");
  EXPECT_EQ(receive(fd), "answer");
  host->accepted.clear();
  expect_op(Vsock::shutdown, Vsock::kBoth);
  send(Vsock::rst);
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, GuestWritesToAHostThatHasGone) {
  connect();
  host->accepted.clear();
  expect_op(Vsock::shutdown, Vsock::kBoth);
  send(Vsock::rw, "into the void");
  EXPECT_FALSE(next());
  send(Vsock::shutdown, "", [](auto& h) { h.flags = Vsock::kBoth; });
  expect_op(Vsock::rst);
}

TEST_F(VsockTest, TheGuestsRoomIsKept) {
  room = 10;
  int fd = connect();
  send_all(fd, "0123456789abcdef");
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->data, "0123456789");
  expect_op(Vsock::credit_request);
  EXPECT_FALSE(next());
  taken = 4;
  send(Vsock::credit_update);
  p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->data, "abcd");
  // A guest that claims to have taken what it was never sent gets nothing.
  taken = 1000;
  send(Vsock::credit_update);
  p = next();
  EXPECT_TRUE(!p || p->data.empty());
}

TEST_F(VsockTest, TooMuchIsAReset) {
  int fd = connect();
  std::string block(32 * KiB, 'a');
  // Never reads the credit updates: the device takes what the socket takes and kBuffer more.
  bool refused = false;
  for (u32 sent = 0; sent < 4 * MiB && !refused; sent += static_cast<u32>(block.size())) {
    send(Vsock::rw, block);
    while (auto p = next()) refused |= p->h.op == Vsock::rst;
  }
  EXPECT_TRUE(refused);
  EXPECT_EQ(vsock->connections(), 0u);
  receive(fd);
}

TEST_F(VsockTest, CreditIsToldOnRequest) {
  connect();
  send(Vsock::rw, "12345");
  send(Vsock::credit_request);
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::credit_update);
  EXPECT_EQ(p->h.forwarded, 5u);
}

TEST_F(VsockTest, WhatBelongsNowhereIsReset) {
  for (u16 op : {u16{0}, u16{2}, u16{4}, u16{5}, u16{6}, u16{7}, u16{77}}) {
    send(op);
    expect_op(Vsock::rst);
  }
  send(Vsock::rst);
  EXPECT_FALSE(next());
  send(Vsock::request, "", [](auto& h) { h.type = 2; });
  auto p = next();
  ASSERT_TRUE(p);
  EXPECT_EQ(p->h.op, Vsock::rst);
  EXPECT_EQ(p->h.type, 2u);
  // Not the guest's address, or not ours: nobody to answer.
  send(Vsock::request, "", [](auto& h) { h.source_cid = 9; });
  send(Vsock::request, "", [](auto& h) { h.destination_cid = 9; });
  EXPECT_FALSE(next());
  // A second request for a connection, and a length beyond the packet.
  connect();
  send(Vsock::request);
  expect_op(Vsock::rst);
  connect();
  send(Vsock::rw, "abc", [](auto& h) { h.length = 4; });
  expect_op(Vsock::rst);
  EXPECT_EQ(vsock->connections(), 0u);
}

TEST_F(VsockTest, ConnectionsAndRefusalsAreBounded) {
  for (u32 i = 0; i < Vsock::kMaxConnections + 50; ++i)
    send(Vsock::request, "", [&](auto& h) { h.source_port = i; });
  EXPECT_EQ(vsock->connections(), Vsock::kMaxConnections);
  // No buffers for the answers: the device stops to take packets, and goes on later.
  for (u32 i = 0; i < 3 * Vsock::kMaxResets; ++i) {
    Vsock::Header h{kCid, 2, 5000 + i, 1, 0, Vsock::kStream, Vsock::rw, 0, 0, 0};
    Gpa at = driver->place({reinterpret_cast<const char*>(&h), Vsock::kHeader});
    driver->put(1, {{at, Vsock::kHeader, false}});
    if (i % 100 == 99) {
      driver->kick(1);
      rig.run();
      if (i > 600) break;
    }
  }
  unsigned answers = 0;
  for (int i = 0; i < 100; ++i) {
    while (next()) ++answers;
    offer(16);
  }
  EXPECT_GE(answers, Vsock::kMaxConnections + 500);
}

TEST_F(VsockTest, ALoadEndsConnectionsAndTellsTheGuest) {
  int fd = connect();
  Gpa event = driver->allocate(16);
  (void)rig.memory->write_value<u32>(event, 0x1234);
  driver->put(2, {{event, 4, true}});
  driver->kick(2);
  rig.run();
  EXPECT_FALSE(driver->used(2));
  state::Image image;
  {
    std::lock_guard guard(rig.lock);
    transport->quiesce();
    transport->save(image);
    ASSERT_TRUE(transport->load(image));
    transport->resume();
  }
  auto used = driver->wait_used(2);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 4u);
  EXPECT_EQ(*rig.memory->read_value<u32>(event), 0u);
  EXPECT_EQ(vsock->connections(), 0u);
  EXPECT_TRUE(at_end(fd));
  send(Vsock::rw, "late");
  expect_op(Vsock::rst);
  EXPECT_FALSE(driver->used(2));
}

TEST_F(VsockTest, ASmallOfferIsPassedOver) {
  while (next()) {
  }
  rig.run();
  offer(1, 16);
  connect();
}

// ---- the host's side

TEST(UnixPorts, ConnectLine) {
  EXPECT_EQ(net::UnixPorts::parse_connect("CONNECT 22"), 22u);
  EXPECT_EQ(net::UnixPorts::parse_connect("CONNECT 22\r"), 22u);
  EXPECT_EQ(net::UnixPorts::parse_connect("CONNECT 4294967294"), 0xffff'fffeu);
  for (const char* bad : {"", "CONNECT", "CONNECT ", "CONNECT x", "CONNECT -1", "CONNECT 1 2",
                          "connect 1", "CONNECT 4294967295", "CONNECT 99999999999", "CONNECT +1"})
    EXPECT_FALSE(net::UnixPorts::parse_connect(bad)) << bad;
}

TEST(UnixPorts, BothWays) {
  namespace fs = std::filesystem;
  std::string path = fs::temp_directory_path() / fmt::format("skerry-vsock-{}", ::getpid());
  ManualClock clock;
  auto loop = EventLoop::create(clock).value();
  auto ports = net::UnixPorts::create(*loop, path);
  ASSERT_TRUE(ports) << ports.error().message();
  std::vector<std::pair<Fd, u32>> got;
  (*ports)->incoming = [&](Fd fd, u32 port) { got.emplace_back(std::move(fd), port); };
  auto run = [&] {
    for (int i = 0; i < 8; ++i) loop->run_once(0);
  };
  auto client = net::connect_unix(path);
  ASSERT_TRUE(client);
  send_all(client->get(), "CONN");
  run();
  EXPECT_TRUE(got.empty());
  send_all(client->get(), "ECT 17\nmore");
  run();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].second, 17u);
  EXPECT_EQ(receive(got[0].first.get()), "more");

  auto bad = net::connect_unix(path);
  send_all(bad->get(), "GET / HTTP/1.0\r\n");
  run();
  EXPECT_EQ(got.size(), 1u);
  EXPECT_TRUE(at_end(bad->get()));
  // Silent clients go when there are too many.
  std::vector<Fd> silent;
  for (size_t i = 0; i < net::UnixPorts::kMaxWaiting + 1; ++i) {
    silent.push_back(net::connect_unix(path).value());
    run();
  }
  EXPECT_TRUE(at_end(silent.front().get()));
  EXPECT_FALSE(at_end(silent[1].get()));

  EXPECT_FALSE((*ports)->connect(5));
  ports->reset();
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace skerry::virtio
