#include "virtio/ports.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "virtio/fake_driver.hpp"
#include "virtio/fake_streams.hpp"

namespace skerry::virtio {
namespace {

constexpr u64 kAll =
    kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx | Ports::kFeatureMultiport;

std::string receive(const Fd& fd) {
  std::string text(256 * KiB, '\0');
  ssize_t n = ::recv(fd.get(), text.data(), text.size(), MSG_DONTWAIT);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}
ssize_t send(const Fd& fd, const std::string& text) {
  return ::send(fd.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

class PortsTest : public testing::Test {
 protected:
  struct Message {
    u32 id;
    u16 event, value;
    std::string text;
    bool operator==(const Message&) const = default;
  };

  PortsTest() {
    std::vector<Ports::Setup> setup;
    for (const char* name : {"org.a", "org.b"}) {
      auto owned = std::make_unique<FakeClients>();
      clients.push_back(owned.get());
      setup.push_back({name, std::move(owned)});
    }
    auto device = std::make_unique<Ports>("channels", rig.environment(), std::move(setup));
    ports = device.get();
    transport = &rig.plug(std::move(device));
    driver.emplace(rig, 1);
  }
  void offer(unsigned queue, unsigned count, u32 size = 256) {
    for (unsigned i = 0; i < count; ++i) {
      Gpa at = driver->allocate(size);
      buffers[{queue, driver->put(queue, {{at, size, true}})}] = at;
    }
    driver->kick(queue);
    rig.run();
  }
  std::optional<std::string> got(unsigned queue) {
    rig.run();
    auto used = driver->used(queue);
    if (!used) return std::nullopt;
    return driver->text(buffers[{queue, static_cast<u16>(used->id)}], used->length);
  }
  std::optional<Message> message() {
    auto bytes = got(2);
    if (!bytes) return std::nullopt;
    Ports::Control m;
    EXPECT_GE(bytes->size(), sizeof m);
    std::memcpy(&m, bytes->data(), sizeof m);
    return Message{m.id, m.event, m.value, bytes->substr(sizeof m)};
  }
  void put(unsigned queue, const std::string& text) {
    driver->put(queue, {{driver->place(text), static_cast<u32>(text.size()), false}});
    driver->kick(queue);
    rig.run();
  }
  void control(u32 id, u16 event, u16 value) {
    Ports::Control m{id, event, value};
    put(3, std::string(reinterpret_cast<const char*>(&m), sizeof m));
  }
  /// As Linux does it, up to open ports.
  void start() {
    ASSERT_TRUE(driver->start(kAll));
    offer(2, 16);
    control(~u32{0}, Ports::device_ready, 1);
    EXPECT_EQ(message(), (Message{1, Ports::port_add, 1, ""}));
    EXPECT_EQ(message(), (Message{2, Ports::port_add, 1, ""}));
    for (u32 id : {1u, 2u}) {
      control(id, Ports::port_ready, 1);
      EXPECT_EQ(message(), (Message{id, Ports::port_name, 1, id == 1 ? "org.a" : "org.b"}));
    }
  }

  Rig rig;
  std::vector<FakeClients*> clients;
  Ports* ports;
  TransportPci* transport;
  std::optional<FakeDriver> driver;
  std::map<std::pair<unsigned, u16>, Gpa> buffers;
};

TEST_F(PortsTest, AProgramComesTalksAndGoes) {
  EXPECT_EQ(driver->read_config(4, 4), 3u);
  start();
  EXPECT_FALSE(message());
  Fd program = clients[1]->connect();
  EXPECT_EQ(message(), (Message{2, Ports::port_open, 1, ""}));
  offer(Ports::to_guest(2), 4);
  send(program, "hello");
  EXPECT_FALSE(got(Ports::to_guest(2)));  // nobody in the guest has opened it
  control(2, Ports::port_open, 1);
  EXPECT_EQ(got(Ports::to_guest(2)), "hello");
  put(Ports::from_guest(2), "good day");
  EXPECT_EQ(receive(program), "good day");
  EXPECT_FALSE(clients[1]->ready);
  program = Fd();
  EXPECT_EQ(message(), (Message{2, Ports::port_open, 0, ""}));
  EXPECT_TRUE(clients[1]->ready);
  EXPECT_FALSE(message());
}

TEST_F(PortsTest, AProgramThatWasThereFirst) {
  Fd program = clients[0]->connect();
  ASSERT_TRUE(driver->start(kAll));
  offer(2, 16);
  control(0, Ports::device_ready, 1);
  EXPECT_TRUE(message() && message());
  EXPECT_FALSE(message());
  control(1, Ports::port_ready, 1);
  EXPECT_EQ(message(), (Message{1, Ports::port_name, 1, "org.a"}));
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 1, ""}));
  EXPECT_FALSE(message());
}

TEST_F(PortsTest, BytesBeforeTheEnd) {
  start();
  control(1, Ports::port_open, 1);
  Fd program = clients[0]->connect();
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 1, ""}));
  send(program, "last words");
  program = Fd();
  EXPECT_FALSE(message());  // no buffer yet
  offer(Ports::to_guest(1), 4, 6);
  EXPECT_EQ(got(Ports::to_guest(1)), "last w");
  EXPECT_EQ(got(Ports::to_guest(1)), "ords");
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 0, ""}));
}

TEST_F(PortsTest, AnEndOfInputAloneIsNoGoodbye) {
  start();
  control(1, Ports::port_open, 1);
  offer(Ports::to_guest(1), 4);
  Fd program = clients[0]->connect();
  EXPECT_TRUE(message());
  send(program, "question");
  ::shutdown(program.get(), SHUT_WR);
  EXPECT_EQ(got(Ports::to_guest(1)), "question");
  EXPECT_FALSE(message());
  put(Ports::from_guest(1), "answer");
  EXPECT_EQ(receive(program), "answer");
  program = Fd();
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 0, ""}));
}

TEST_F(PortsTest, ASlowReaderHoldsItsPortUp) {
  start();
  Fd program = clients[0]->connect();
  EXPECT_TRUE(message());
  std::string block(32 * KiB, 'a');
  Gpa at = driver->place(block);
  unsigned put_in = 0, done = 0;
  for (; put_in < 60; ++put_in) {
    driver->put(Ports::from_guest(1), {{at, static_cast<u32>(block.size()), false}});
    driver->kick(Ports::from_guest(1));
    rig.run();
    while (driver->used(Ports::from_guest(1))) ++done;
    if (done <= put_in) break;
  }
  ASSERT_LT(put_in, 60u) << "the device takes everything";
  // The other port is not concerned.
  Fd other = clients[1]->connect();
  EXPECT_TRUE(message());
  put(Ports::from_guest(2), "quick");
  EXPECT_EQ(receive(other), "quick");
  size_t total = 0;
  for (int i = 0; i < 200; ++i) {
    total += receive(program).size();
    rig.run();
  }
  EXPECT_EQ(total, (put_in + 1) * block.size());
  while (driver->used(Ports::from_guest(1))) ++done;
  EXPECT_EQ(done, put_in + 1);
}

TEST_F(PortsTest, ASecondProgramIsAnotherOne) {
  start();
  control(1, Ports::port_open, 1);
  Fd first = clients[0]->connect();
  EXPECT_TRUE(message());
  // No control buffers are left before the change: the guest still hears of both.
  for (int i = 0; i < 10; ++i) control(2, Ports::port_ready, 1);
  while (message()) {
  }
  first = Fd();
  rig.run();
  Fd second = clients[0]->connect();
  put(Ports::from_guest(1), "for whom?");
  offer(2, 4);
  std::vector<Message> all;
  while (auto m = message()) all.push_back(*m);
  EXPECT_EQ(all,
            (std::vector<Message>{{1, Ports::port_open, 0, ""}, {1, Ports::port_open, 1, ""}}));
  put(Ports::from_guest(1), "for the second");
  EXPECT_TRUE(receive(second).ends_with("for the second"));
}

TEST_F(PortsTest, OddMessages) {
  start();
  for (u32 id : {0u, 3u, 99u, ~0u})
    for (u16 event = 0; event < 10; ++event) {
      if (event == Ports::device_ready) continue;
      control(id, event, 1);
    }
  put(3, "short");
  EXPECT_FALSE(message());
  // A buffer too small for a name is passed over.
  while (driver->used(2)) {
  }
  ASSERT_TRUE(driver->start(kAll));
  offer(2, 1, 9);
  offer(2, 3);
  control(0, Ports::device_ready, 1);
  EXPECT_TRUE(message());
  control(1, Ports::port_ready, 1);
}

TEST_F(PortsTest, WithoutMultiportItSwallows) {
  ASSERT_TRUE(driver->start(kFeatureVersion1));
  put(1, "to nobody");
  EXPECT_TRUE(driver->used(1));
  put(Ports::from_guest(1), "x");
  EXPECT_FALSE(driver->used(Ports::from_guest(1)));
}

TEST_F(PortsTest, WhatIsSaved) {
  start();
  control(1, Ports::port_open, 1);
  Fd program = clients[0]->connect();
  EXPECT_TRUE(message());
  state::Image image;
  {
    std::lock_guard guard(rig.lock);
    transport->quiesce();
    transport->save(image);
    ASSERT_TRUE(transport->load(image));
    transport->resume();
  }
  // The guest believed in a program; here it is another one.
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 0, ""}));
  EXPECT_EQ(message(), (Message{1, Ports::port_open, 1, ""}));
  offer(Ports::to_guest(1), 1);
  send(program, "again");
  EXPECT_EQ(got(Ports::to_guest(1)), "again");
}

}  // namespace
}  // namespace skerry::virtio
