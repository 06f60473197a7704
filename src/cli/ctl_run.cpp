// The client's side of the control socket.
#include <poll.h>
#include <termios.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>

#include "cli/connection.hpp"
#include "cli/ctl.hpp"
#include "schema/action.hpp"
#include "schema/dispatch.hpp"
#include "schema/exit_status.hpp"

namespace skerry::cli {
namespace {

using schema::Json;

constexpr char kEscape = 1;  // Ctrl-A

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

Result<> print_events(Connection& connection, bool json) {
  for (;;) {
    auto line = TRY(connection.line());
    if (!line) return {};
    if (json) {
      print(*line + "\n");
      continue;
    }
    Json event = TRY(schema::parse_json(*line, "event"));
    std::string text =
        fmt::format("{:>5}  {:<8}", event.value("number", u64{0}), event.value("event", ""));
    for (auto& [name, value] : event["data"].items()) {
      std::string shown = value.is_string() ? value.get<std::string>() : value.dump();
      if (!shown.empty() && !(name == "status" && event["data"].value("state", "") != "ended"))
        text += fmt::format(" {}: {}", name, shown) +
                (name == event["data"].items().begin().key() ? "," : "");
    }
    if (text.ends_with(',')) text.pop_back();
    print(text + "\n");
  }
}

/// The terminal and the connection, each to the other, until one ends or Ctrl-A x is typed.
Result<> be_console(Connection& connection) {
  termios saved{};
  bool terminal = ::isatty(STDIN_FILENO) && ::tcgetattr(STDIN_FILENO, &saved) == 0;
  if (terminal) {
    std::fputs("(Ctrl-A x leaves, Ctrl-A a sends Ctrl-A)\n", stderr);
    termios raw = saved;
    ::cfmakeraw(&raw);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  print(connection.take_buffer());
  bool escaped = false, input = true;
  Result<> result;
  for (bool going = true; going && result;) {
    pollfd fds[2] = {{connection.fd(), POLLIN, 0}, {input ? STDIN_FILENO : -1, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) break;
    char bytes[4096];
    if (fds[0].revents) {
      ssize_t n = ::read(connection.fd(), bytes, sizeof bytes);
      if (n <= 0) break;
      print({bytes, static_cast<size_t>(n)});
    }
    if (!fds[1].revents) continue;
    ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (n <= 0) {
      input = false;  // what the guest answers is still to come
      continue;
    }
    std::string typed;
    for (char c : std::string_view(bytes, static_cast<size_t>(n))) {
      if (terminal && escaped) {
        escaped = false;
        if (c == 'x') going = false;
        if (c == 'a' || c == kEscape) typed += kEscape;
      } else if (terminal && c == kEscape) {
        escaped = true;
      } else {
        typed += c;
      }
    }
    if (!typed.empty()) result = connection.send(typed);
  }
  if (terminal) {
    ::tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    std::fputs("\n", stderr);
  }
  return result;
}

/// 0, or 1 if the machine refuses.
Result<int> talk(const CtlCommand& command) {
  Connection connection = TRY(Connection::open(command.path));
  std::string line = TRY(connection.ask(command.action, command.arguments));
  Json answer = TRY(schema::parse_json(line, "answer"));
  if (auto error = answer.find("error"); error != answer.end() && error->is_object()) {
    if (command.json) print(line + "\n");
    Error told{error->value("message", ""), error->value("hint", ""), 0};
    std::fprintf(stderr, "skerry: %s\n", told.message().c_str());
    return 1;
  }
  if (command.action == schema::ConsoleAction::info.name) {
    TRY_VOID(be_console(connection));
  } else if (command.action == schema::EventsAction::info.name) {
    TRY_VOID(print_events(connection, command.json));
  } else {
    std::string result = answer["result"].dump();
    print(command.json ? result + "\n" : ctl_text(command.action, result));
  }
  return 0;
}

}  // namespace

int run_ctl(const CtlCommand& command) {
  Result<int> status = 0;
  try {
    status = talk(command);
  } catch (const Json::exception&) {  // a field of another type than it should have
    status = fail("{} answers, but not as a machine does", command.path);
  }
  if (!status) {
    std::fprintf(stderr, "skerry: %s\n", status.error().message().c_str());
    return schema::exit_host;
  }
  return *status;
}

}  // namespace skerry::cli
