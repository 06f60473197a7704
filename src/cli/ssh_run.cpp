// The part of `skerry ssh` that touches the host: asks the machine, waits for its server, execs.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstdio>

#include "cli/connection.hpp"
#include "cli/ssh.hpp"
#include "schema/exit_status.hpp"
#include "schema/json.hpp"

namespace skerry::cli {
namespace {

using schema::Json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kGreeting{10'000};  ///< for the server's first bytes, once connected
constexpr milliseconds kPause{300};        ///< between attempts

int milliseconds_until(Clock::time_point when) {
  auto left = std::chrono::duration_cast<milliseconds>(when - Clock::now()).count();
  return static_cast<int>(std::max<decltype(left)>(left, 0));
}

/// Says on stderr that there is something to wait for; on a terminal, how long it has been.
class Waiting {
 public:
  explicit Waiting(std::string what) : what_(std::move(what)) {}
  ~Waiting() {
    if (said_ && terminal_) std::fputs("\r\033[K", stderr);
  }
  void tick() {
    auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - began_).count();
    if (seconds < 1 || (said_ && !terminal_)) return;
    said_ = true;
    if (terminal_) {
      std::fprintf(stderr, "\r%s... %lld s", what_.c_str(), static_cast<long long>(seconds));
    } else {
      std::fprintf(stderr, "%s...\n", what_.c_str());
    }
    std::fflush(stderr);
  }

 private:
  std::string what_;
  Clock::time_point began_ = Clock::now();
  bool said_ = false, terminal_ = ::isatty(STDERR_FILENO) != 0;
};

class Waiter {
 public:
  Waiter(Connection& machine, const SshTarget& target, unsigned seconds)
      : machine_(machine),
        target_(target),
        end_(Clock::now() + std::chrono::seconds(seconds)),
        waiting_(fmt::format("skerry: waiting for the ssh server of machine '{}'", target.machine)),
        seconds_(seconds) {}

  Result<> wait() {
    for (;;) {
      if (TRY(greeted())) return {};
      if (Clock::now() >= end_)
        return fail_hint(
            "see what it prints: skerry ctl PATH screen. A guest needs an ssh server and an "
            "address by DHCP",
            "the ssh server of machine '{}' does not answer within {} s", target_.machine,
            seconds_);
      TRY(ready(-1, 0, std::min(end_, Clock::now() + kPause)));
    }
  }

 private:
  /// Whether a server speaks there. The NAT takes connections before the guest does: only bytes
  /// count.
  Result<bool> greeted() {
    sockaddr_storage storage{};
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    const std::string& host = target_.forward.host;
    bool is_v6 = host.find(':') != host.npos;
    if (is_v6) {
      v6->sin6_family = AF_INET6;
      v6->sin6_port = htons(target_.forward.host_port);
      ::inet_pton(AF_INET6, host == "::" ? "::1" : host.c_str(), &v6->sin6_addr);
    } else {
      v4->sin_family = AF_INET;
      v4->sin_port = htons(target_.forward.host_port);
      ::inet_pton(AF_INET, host.empty() || host == "0.0.0.0" ? "127.0.0.1" : host.c_str(),
                  &v4->sin_addr);
    }
    Fd socket(::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("cannot create a socket");
    socklen_t length = is_v6 ? sizeof *v6 : sizeof *v4;
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&storage), length) < 0 &&
        errno != EINPROGRESS)
      return false;
    if (!TRY(ready(socket.get(), POLLIN, std::min(end_, Clock::now() + kGreeting)))) return false;
    char byte;
    return ::recv(socket.get(), &byte, 1, 0) == 1;
  }

  /// Until `fd` has `events` (true) or `until` (false). The end of the machine is an Error.
  Result<bool> ready(int fd, short events, Clock::time_point until) {
    for (;;) {
      waiting_.tick();
      pollfd fds[2] = {{machine_.fd(), POLLIN, 0}, {fd, events, 0}};
      int left = milliseconds_until(until);
      int n = ::poll(fds, 2, std::min(left, 500));
      if (n < 0 && errno != EINTR) return fail_errno("cannot wait for the machine");
      // Nothing was asked, so that only its end makes the control socket readable.
      if (n > 0 && fds[0].revents)
        return fail("machine '{}' ended before its ssh server answered", target_.machine);
      if (n > 0 && fds[1].revents) return true;
      if (left == 0) return false;
    }
  }

  Connection& machine_;
  const SshTarget& target_;
  Clock::time_point end_;
  Waiting waiting_;
  unsigned seconds_;
};

/// As a shell takes it.
std::string quoted(const std::string& word) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,@%+";
  if (!word.empty() && word.find_first_not_of(plain) == word.npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

Result<std::vector<std::string>> prepare(const SshCommand& command) {
  Connection machine = TRY(Connection::open(command.path));
  Json answer = TRY(schema::parse_json(TRY(machine.ask("status")), "answer"));
  if (!answer.contains("result")) return fail("the machine does not tell its status");
  SshTarget target = TRY(ssh_target(answer["result"].dump()));
  if (!command.print) {
    if (target.state == "paused")
      return fail_hint(fmt::format("resume it: skerry ctl {} resume", command.path),
                       "machine '{}' is paused", target.machine);
    TRY_VOID(Waiter(machine, target, command.timeout).wait());
  }
  return ssh_words(command, target,
                   [](const std::string& path) { return ::access(path.c_str(), R_OK) == 0; });
}

}  // namespace

int run_ssh(const SshCommand& command) {
  auto words = prepare(command);
  if (!words) {
    std::fprintf(stderr, "skerry: %s\n", words.error().message().c_str());
    return schema::exit_host;
  }
  if (command.print) {
    std::string line;
    for (const std::string& word : *words) line += (line.empty() ? "" : " ") + quoted(word);
    bool printed = std::puts(line.c_str()) >= 0 && std::fflush(stdout) == 0;
    return printed ? 0 : schema::exit_host;
  }
  std::vector<char*> argv;
  for (const std::string& word : *words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  auto error = fail_errno("cannot run ssh").error();
  if (error.code == ENOENT) error.hint = "install it: apt-get install openssh-client";
  std::fprintf(stderr, "skerry: %s\n", error.message().c_str());
  return schema::exit_host;
}

}  // namespace skerry::cli
