// skerry-switch: a virtual switch, and what `skerry switch` shows of them.
//   skerry-switch --serve NAME     the switch itself: descriptor 3 is its socket. Started by
//   machines skerry-switch list [--json] skerry-switch show NAME [--json]
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "net/switch_report.hpp"
#include "net/switch_server.hpp"

namespace {

using namespace skerry;

// sysexits of schema/exit_status.hpp, which this layer does not see.
constexpr int kUsageError = 64, kHostError = 71;

constexpr const char* kUsage =
    "usage: skerry-switch list [--json] | show NAME [--json]\n"
    "  `skerry switch` is the same; machines start a switch with --net switch,name=NAME.\n";

int complain(const Error& error) {
  std::fprintf(stderr, "skerry: %s\n", error.message().c_str());
  return kHostError;
}

/// Until nobody is attached. The parent returns at once, so that whoever started us need not wait.
int serve(const std::string& name) {
  pid_t child = ::fork();
  if (child < 0) return kHostError;
  if (child > 0) ::_exit(0);
  ::signal(SIGPIPE, SIG_IGN);
  HostClock clock;
  auto loop = EventLoop::create(clock);
  if (!loop) return kHostError;
  bool empty = false;
  auto server = net::SwitchServer::create(**loop, clock, name, Fd(3), [&] {
    empty = true;
    (*loop)->stop();
  });
  if (!server) return kHostError;
  for (;;) {
    (*loop)->run();
    if (!empty || !(*server)->is_empty()) continue;
    auto late = net::retire_switch(name, (*server)->listener());
    if (!late || !*late) return 0;
    (*server)->welcome(std::move(**late));
  }
}

int list(bool json) {
  auto names = net::list_switches();
  if (!names) return complain(names.error());
  std::vector<std::string> reports;
  for (const std::string& name : *names)
    if (auto report = net::fetch_report(name)) reports.push_back(std::move(*report));
  std::string text = json ? net::list_json(reports) : net::list_text(reports);
  return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0 ? 0 : kHostError;
}

int show(const std::string& name, bool json) {
  auto report = net::fetch_report(name);
  if (!report) return complain(report.error());
  std::string text = json ? *report : net::show_text(*report);
  return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0 ? 0 : kHostError;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  bool json = std::erase(args, "--json") != 0;
  if (args.size() == 2 && args[0] == "--serve" && net::valid_switch_name(args[1]))
    return serve(args[1]);
  if (args.size() == 1 && args[0] == "list") return list(json);
  if (args.size() == 2 && args[0] == "show") return show(args[1], json);
  std::fputs(kUsage, stderr);
  return kUsageError;
}
