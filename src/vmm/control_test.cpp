// The control socket's connections: what clients may do and not do to each other and to the
// machine.
#include <gtest/gtest.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <filesystem>
#include <fstream>

#include "vmm/control_server.hpp"

namespace skerry::vmm {
namespace {

class Peer {
 public:
  explicit Peer(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connected = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  void send(std::string_view text) {
    while (!text.empty()) {
      ssize_t n = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  /// The next line; "EOF" at the end, "TIMEOUT" after ten seconds.
  std::string line() {
    for (;;) {
      if (size_t end = buffer_.find('\n'); end != buffer_.npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      if (!more()) return buffer_.empty() ? end_ : std::exchange(buffer_, {});
    }
  }
  /// Exactly `n` bytes, or fewer at the end.
  std::string bytes(size_t n) {
    while (buffer_.size() < n && more()) {
    }
    std::string text = buffer_.substr(0, n);
    buffer_.erase(0, text.size());
    return text;
  }
  bool connected = false;

 private:
  bool more() {
    pollfd p{fd_.get(), POLLIN, 0};
    if (::poll(&p, 1, 10'000) <= 0) {
      end_ = "TIMEOUT";
      return false;
    }
    char chunk[65536];
    ssize_t n = ::read(fd_.get(), chunk, sizeof chunk);
    if (n <= 0) return false;
    buffer_.append(chunk, static_cast<size_t>(n));
    return true;
  }
  Fd fd_;
  std::string buffer_, end_ = "EOF";
};

/// "now X" is answered at once, "console" becomes one, "events N" subscribes; the rest waits.
class Sockets : public testing::Test {
 protected:
  Sockets()
      : path_(std::filesystem::temp_directory_path() / fmt::format("skerry-ctl-{}", ::getpid())) {
    std::filesystem::remove(path_);
  }
  ~Sockets() override { std::filesystem::remove(path_); }
  void SetUp() override { start(); }
  void start() {
    ControlServer::Host host;
    host.request = [this](ControlServer::ClientId client, std::string line) {
      if (line.starts_with("now ")) {
        server_->answer(client, line.substr(4));
      } else if (line.starts_with("events ")) {
        server_->subscribe(client, "subscribed", std::stoull(line.substr(7)));
      } else if (line == "console") {
        server_->become_console(client, "console", 0, screen_, 5);
      } else {
        std::lock_guard guard(mutex_);
        waiting_.emplace_back(client, line);
      }
    };
    host.too_long = [] { return std::string("too long"); };
    host.type = [this](ControlServer::ClientId client, size_t, std::string bytes) {
      std::lock_guard guard(mutex_);
      size_t n = std::min(bytes.size(), room_);
      room_ -= n;
      typed_ += bytes.substr(0, n);
      server_->typed(client, n);
    };
    auto server = ControlServer::listen(path_, "hello", std::move(host));
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
    server_->start();
  }
  template <class F>
  bool eventually(F condition) {
    for (int i = 0; i < 1000; ++i) {
      {
        std::lock_guard guard(mutex_);
        if (condition()) return true;
      }
      ::usleep(10'000);
    }
    return false;
  }

  std::string path_;
  std::mutex mutex_;
  std::vector<std::pair<ControlServer::ClientId, std::string>> waiting_;
  std::string typed_;
  size_t room_ = 1000;
  Screen screen_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(Sockets, SeveralClientsAreAnsweredEachInItsPlace) {
  Peer a(path_), b(path_);
  EXPECT_EQ(a.line(), "hello");
  EXPECT_EQ(b.line(), "hello");
  a.send("slow\n");
  a.send("now 1\r\n\n  \nnow 2\n");
  b.send("no");
  EXPECT_EQ(a.line(), "1\r");
  EXPECT_EQ(a.line(), "2");
  b.send("w 3\n");
  EXPECT_EQ(b.line(), "3");
  ASSERT_TRUE(eventually([&] { return waiting_.size() == 1; }));
  server_->answer(waiting_[0].first, "at last");
  EXPECT_EQ(a.line(), "at last");
}

TEST_F(Sockets, TheSocketIsTheUsersAlone) {
  struct stat file {};
  ASSERT_EQ(::stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(Sockets, ALivingSocketAndAFileStayWhatTheyAre) {
  auto second = ControlServer::listen(path_, "hello", {});
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message().find("another program"), std::string::npos);
  Peer peer(path_);
  EXPECT_EQ(peer.line(), "hello");
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
  std::ofstream(path_) << "precious";
  auto onto_file = ControlServer::listen(path_, "hello", {});
  ASSERT_FALSE(onto_file);
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(Sockets, ASocketThatNobodyListensOnIsReplaced) {
  server_.reset();
  {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(path_));
  start();
  Peer peer(path_);
  EXPECT_EQ(peer.line(), "hello");
}

TEST_F(Sockets, ALineIsBounded) {
  Peer peer(path_);
  EXPECT_EQ(peer.line(), "hello");
  peer.send(std::string(ControlServer::kLongestLine + 5000, 'x'));
  EXPECT_EQ(peer.line(), "too long");
  EXPECT_EQ(peer.line(), "EOF");
}

TEST_F(Sockets, UnansweredRequestsAreBounded) {
  Peer peer(path_);
  std::string all;
  for (int i = 0; i < 1000; ++i) all += fmt::format("r{}\n", i);
  peer.send(all);
  for (size_t answered = 0; answered < 1000; ++answered) {
    ASSERT_TRUE(eventually([&] { return waiting_.size() > answered; }));
    std::lock_guard guard(mutex_);
    EXPECT_LE(waiting_.size(), answered + ControlServer::kUnanswered);
    server_->answer(waiting_[answered].first, waiting_[answered].second);
  }
  EXPECT_EQ(peer.line(), "hello");
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(peer.line(), fmt::format("r{}", i));
}

TEST_F(Sockets, ATooGreatNumberOfClientsIsRefused) {
  std::vector<std::unique_ptr<Peer>> peers;
  for (size_t i = 0; i < ControlServer::kClients; ++i) {
    peers.push_back(std::make_unique<Peer>(path_));
    ASSERT_EQ(peers.back()->line(), "hello");
  }
  EXPECT_EQ(Peer(path_).line(), "EOF");
  peers.pop_back();
  bool again = false;
  for (int i = 0; i < 100 && !again; ++i) {
    again = Peer(path_).line() == "hello";
    if (!again) ::usleep(10'000);
  }
  EXPECT_TRUE(again);
}

TEST_F(Sockets, EventsAreNumberedAndASlowReaderSeesAGapInsteadOfHoldingAnyoneUp) {
  Peer slow(path_), quick(path_);
  EXPECT_EQ(slow.line(), "hello");
  EXPECT_EQ(quick.line(), "hello");
  slow.send("events 0\n");
  EXPECT_EQ(slow.line(), "subscribed");
  const std::string filler(2000, 'x');
  for (int i = 0; i < 5000; ++i)
    server_->tell([&](u64 number) { return fmt::format("{} {}", number, filler); });
  quick.send("now fine\n");
  EXPECT_EQ(quick.line(), "fine");
  EXPECT_EQ(server_->last_event(), 5000u);
  u64 last = 0, seen = 0;
  while (last < 5000) {
    std::string line = slow.line();
    u64 number = std::strtoull(line.c_str(), nullptr, 10);
    ASSERT_GT(number, last) << line;
    last = number;
    ++seen;
  }
  EXPECT_GE(seen, ControlServer::kEvents);
  EXPECT_LT(seen, 5000u);
  // A new one gets the kept ones after the number it knows.
  quick.send("events 4998\n");
  EXPECT_EQ(quick.line(), "subscribed");
  EXPECT_EQ(quick.line().substr(0, 5), "4999 ");
  EXPECT_EQ(quick.line().substr(0, 5), "5000 ");
}

TEST_F(Sockets, AConnectionBecomesAConsole) {
  auto write = [&](std::string_view text) {
    screen_.write({reinterpret_cast<const u8*>(text.data()), text.size()});
  };
  write("before it");
  Peer peer(path_);
  EXPECT_EQ(peer.line(), "hello");
  peer.send("console\nls\n");  // what follows is typed already
  EXPECT_EQ(peer.line(), "console");
  EXPECT_EQ(peer.bytes(5), "re it");
  EXPECT_TRUE(eventually([&] { return typed_ == "ls\n"; }));
  write(" and after");
  EXPECT_EQ(peer.bytes(10), " and after");
  write("!");
  EXPECT_EQ(peer.bytes(1), "!");
}

TEST_F(Sockets, WhatTheGuestDoesNotTakeIsTypedOnceThereIsRoom) {
  {
    std::lock_guard guard(mutex_);
    room_ = 3;
  }
  Peer peer(path_);
  peer.send("console\n");
  std::string text(20'000, 'y');
  std::thread sender([&] { peer.send("abc" + text); });
  for (size_t taken = 3; taken < 20'003; taken += 500) {
    ASSERT_TRUE(eventually([&] { return typed_.size() >= taken; }));
    {
      std::lock_guard guard(mutex_);
      room_ += 500;
    }
    server_->room();
  }
  sender.join();
  EXPECT_TRUE(eventually([&] { return typed_ == "abc" + text; }));
}

TEST_F(Sockets, AConsoleThatIsNotReadLosesTheOldestOutputOnly) {
  Peer peer(path_);
  peer.send("console\n");
  EXPECT_EQ(peer.line(), "hello");
  EXPECT_EQ(peer.line(), "console");
  std::string chunk(1000, 'z');
  for (int i = 0; i < 5000; ++i)
    screen_.write({reinterpret_cast<const u8*>(chunk.data()), chunk.size()});
  std::string end = "THE END\n";
  screen_.write({reinterpret_cast<const u8*>(end.data()), end.size()});
  std::string seen = peer.line();
  EXPECT_TRUE(seen.ends_with("zTHE END"));
  EXPECT_LT(seen.size(), 5'000'000u);
}

TEST_F(Sockets, TheLastWordsReachAClientBeforeTheEnd) {
  Peer peer(path_);
  EXPECT_EQ(peer.line(), "hello");
  peer.send("events 0\n");
  EXPECT_EQ(peer.line(), "subscribed");
  server_->tell([](u64) { return std::string("ended"); });
  server_.reset();
  EXPECT_EQ(peer.line(), "ended");
  EXPECT_EQ(peer.line(), "EOF");
}

TEST(Screen, KeepsTheLastBytesAndEveryReadersPlace) {
  Screen screen;
  u64 at = 0;
  EXPECT_EQ(screen.read(at, 100), "");
  auto write = [&](const std::string& text) {
    screen.write({reinterpret_cast<const u8*>(text.data()), text.size()});
  };
  write("hello");
  EXPECT_EQ(screen.read(at, 3), "hel");
  EXPECT_EQ(screen.read(at, 3), "lo");
  EXPECT_EQ(screen.read(at, 3), "");
  write(std::string(Screen::kKept - 1, 'a') + "b");
  EXPECT_EQ(screen.written(), Screen::kKept + 5);
  u64 old = 0;
  std::string all = screen.read(old, ~size_t{0});
  EXPECT_EQ(all.size(), Screen::kKept);
  EXPECT_TRUE(all.ends_with("ab"));
  EXPECT_EQ(old, screen.written());
  write(std::string(3 * Screen::kKept, 'c') + "d");
  EXPECT_EQ(screen.read(old, ~size_t{0}).size(), Screen::kKept);
  EXPECT_EQ(screen.written(), 4 * Screen::kKept + 6);
}

}  // namespace
}  // namespace skerry::vmm
