// Hostile guests under `skerry run`: what its user sees of them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "tests/hostile/guests.hpp"
#include "tests/test_engine.hpp"

extern char** environ;

namespace skerry::hostile {
namespace {

constexpr Nanos kSecond = 1'000'000'000;
constexpr Nanos kLong = 60 * kSecond;  // for what has no bound to test
constexpr Nanos kQuickly = 5 * kSecond;
#if defined(__SANITIZE_ADDRESS__)
constexpr u64 kMost = 1024 * MiB;
#else
constexpr u64 kMost = 128 * MiB;  // a guest of 16 MiB and all of ours
#endif

/// `skerry run` of a tiny guest, its output in pipes.
class Guest {
 public:
  explicit Guest(const Code& code, const std::string& serial = "stdio") {
    image_ = testing::TempDir() + "hostile-" + std::to_string(::getpid()) + ".bin";
    Code image = multiboot(code);
    std::ofstream(image_, std::ios::binary)
        .write(reinterpret_cast<const char*>(image.data()), static_cast<long>(image.size()));
    int out[2], err[2];
    EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(err, O_CLOEXEC), 0);
    out_ = Fd(out[0]), err_ = Fd(err[0]);
    Fd out_write(out[1]), err_write(err[1]);
    std::string engine(schema::name_of(test_engine()));
    std::vector<std::string> args{SKERRY_PROGRAM, "run",      "--kernel", image_,     "--engine",
                                  engine,         "--memory", "16M",      "--serial", serial};
    std::vector<char*> argv;
    for (auto& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, out_write.get(), 1);
    ::posix_spawn_file_actions_adddup2(&actions, err_write.get(), 2);
    EXPECT_EQ(::posix_spawn(&pid_, SKERRY_PROGRAM, &actions, nullptr, argv.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  ~Guest() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::unlink(image_.c_str());
  }

  /// Its exit status within the time; -1: still running; -2: killed by a signal; -3: it was over
  /// before.
  int wait(Nanos most) {
    if (pid_ <= 0) return -3;
    for (Nanos end = HostClock::monotonic() + most;;) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = 0;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
      }
      if (HostClock::monotonic() > end) return -1;
      ::usleep(5000);
    }
  }
  /// The guest's next character; 0 if there is none in time.
  char next() {
    pollfd p{out_.get(), POLLIN, 0};
    char c = 0;
    if (::poll(&p, 1, static_cast<int>(kLong / 1'000'000)) != 1 || ::read(out_.get(), &c, 1) != 1)
      return 0;
    return c;
  }
  std::string messages() {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = ::read(err_.get(), buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  void terminate() {
    if (pid_ > 0) ::kill(pid_, SIGTERM);
  }
  u64 memory() const { return resident(std::to_string(pid_)); }
  void close_output() { out_ = Fd(); }

 private:
  std::string image_;
  pid_t pid_ = 0;
  Fd out_, err_;
};

TEST(Run, TripleFaultIsReported) {
  Guest run(triple_fault());
  EXPECT_EQ(run.wait(kLong), 81);
  std::string text = run.messages();
  EXPECT_NE(text.find("RIP"), std::string::npos) << text;
  EXPECT_NE(text.find("ud2"), std::string::npos) << text;
  EXPECT_LT(text.size(), 16 * KiB);
}

TEST(Run, CodeThatNeverEndsIsEnded) {
  for (const Code& code : {spin(), halt_for_ever(), endless_string(), fault_storm()}) {
    Guest run(say('R') + code);
    ASSERT_EQ(run.next(), 'R') << run.messages();
    run.terminate();
    EXPECT_EQ(run.wait(kQuickly), 128 + SIGTERM);
  }
}

// Output waits for its reader, within bounds, and its reader never comes.
TEST(Run, OutputThatNobodyReads) {
  Guest run(say('R') + flood());
  ASSERT_EQ(run.next(), 'R') << run.messages();
  EXPECT_EQ(run.wait(3 * kSecond), -1);
  EXPECT_LT(run.memory(), kMost);
  run.terminate();
  EXPECT_EQ(run.wait(kQuickly), 128 + SIGTERM);
}

TEST(Run, OutputWhoseReaderLeft) {
  Guest run(say('R') + flood());
  ASSERT_EQ(run.next(), 'R') << run.messages();
  run.close_output();
  EXPECT_EQ(run.wait(kSecond), -1);
  EXPECT_LT(run.memory(), kMost);
  run.terminate();
  EXPECT_EQ(run.wait(kQuickly), 128 + SIGTERM);
}

TEST(Run, SocketThatNobodyReads) {
  std::string path = testing::TempDir() + "hostile-" + std::to_string(::getpid()) + ".sock";
  Guest run(flood(), "unix:" + path);
  Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof address.sun_path);
  path.copy(address.sun_path, path.size());
  bool connected = false;
  for (Nanos end = HostClock::monotonic() + kLong; !connected && HostClock::monotonic() < end;)
    connected = ::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  ASSERT_TRUE(connected) << run.messages();
  EXPECT_EQ(run.wait(2 * kSecond), -1);
  EXPECT_LT(run.memory(), kMost);
  run.terminate();
  EXPECT_EQ(run.wait(kQuickly), 128 + SIGTERM);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace skerry::hostile
