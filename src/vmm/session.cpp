#include "vmm/session.hpp"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <csignal>
#include <cstdio>

#include "base/log.hpp"
#include "board/board.hpp"
#include "schema/exit_status.hpp"
#include "vmm/channel.hpp"
#include "vmm/control.hpp"
#include "vmm/crash_report.hpp"
#include "vmm/engine_choice.hpp"
#include "vmm/forwards.hpp"
#include "vmm/gdb_server.hpp"
#include "vmm/stats.hpp"
#include "vmm/terminal.hpp"

namespace skerry::vmm {
namespace {

using machine::Machine;
using machine::Request;

constexpr const char* kEscapeHelp =
    "\r\n"
    "Ctrl-A x  end the machine at once     Ctrl-A p  press its power button\r\n"
    "Ctrl-A r  reset it                    Ctrl-A a  send Ctrl-A to the guest\r\n"
    "Ctrl-A h  this help\r\n";

/// Channels are made before the board, whose lines they feed once it exists.
class Session {
 public:
  explicit Session(const schema::MachineSpec& spec) : spec_(spec) {}
  ~Session();
  Result<> build();
  int run();

 private:
  Result<> open_channels();
  Result<> watch_signals();
  void escape(char key);
  void end_by_user(int status);
  Result<> open_control();
  board::LineSink sink(size_t line);
  void on_main(std::function<void()> work);
  void do_posted();
  std::optional<int> handle(const Machine::Outcome& outcome);
  std::optional<int> panicked();
  Result<> reset();
  void tell_guest(Request what);
  void trouble(const std::string& device, const std::string& why,
               const std::function<bool()>& still);

  schema::MachineSpec spec_;
  HostClock channel_clock_;
  std::unique_ptr<EventLoop>
      channel_loop_;  ///< terminal, sockets, signals: alive while paused, too
  std::thread channel_thread_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::unique_ptr<board::Board> board_;
  std::unique_ptr<GdbServer> gdb_;
  std::vector<std::unique_ptr<Screen>> screens_;  ///< of each line, if there is a control socket
  std::unique_ptr<Control> control_;
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;  ///< for the main thread
  Fd signals_;
  std::atomic<int> user_status_{-1};
};

Session::~Session() {
  if (board_) board_->machine().on_change = nullptr;
  gdb_.reset();
  if (board_) board_->machine().shut_down();
  for (auto& channel : channels_) channel->flush();
  if (channel_thread_.joinable()) {
    channel_loop_->stop();
    channel_thread_.join();
  }
  control_.reset();
  channels_.clear();
  board_.reset();
}

Result<> Session::open_channels() {
  std::vector<schema::SerialSpec> all = spec_.serials;
  all.insert(all.end(), spec_.consoles.begin(), spec_.consoles.end());
  for (const schema::SerialSpec& line : all)
    channels_.push_back(TRY(open_channel(line, *channel_loop_, [this](char key) { escape(key); })));
  return {};
}

Result<> Session::open_control() {
  if (spec_.control.empty()) return {};
  for (size_t i = 0; i < channels_.size(); ++i) screens_.push_back(std::make_unique<Screen>());
  control_ = TRY(
      Control::listen(TRY(schema::parse_control(spec_.control)),
                      {.spec = spec_,
                       .channel_loop = *channel_loop_,
                       .screens = screens_,
                       .on_main = [this](std::function<void()> work) { on_main(std::move(work)); },
                       .stop = [this] { end_by_user(schema::exit_power_off); },
                       .debugged = !spec_.gdb.empty()}));
  return {};
}

board::LineSink Session::sink(size_t line) {
  Channel* channel = channels_[line].get();
  if (!control_)
    return {[channel](std::span<const u8> bytes) { channel->write(bytes); },
            [channel] { channel->room(); }};
  return {[channel, screen = screens_[line].get()](std::span<const u8> bytes) {
            screen->write(bytes);
            channel->write(bytes);
          },
          [channel, control = control_.get()] {
            channel->room();
            control->room();
          }};
}

void Session::on_main(std::function<void()> work) {
  {
    std::lock_guard guard(posted_mutex_);
    posted_.push_back(std::move(work));
  }
  board_->machine().interrupt_wait();
}

void Session::do_posted() {
  std::vector<std::function<void()>> work;
  {
    std::lock_guard guard(posted_mutex_);
    work.swap(posted_);
  }
  for (auto& each : work) each();
}

Result<> Session::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  // Threads made from here on inherit the mask, so that only the descriptor sees them.
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // a reader that leaves is an error of write(2)
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("cannot watch signals");
  return channel_loop_->watch(signals_.get(), EPOLLIN, [this](u32) {
    signalfd_siginfo info{};
    if (::read(signals_.get(), &info, sizeof info) == sizeof info)
      end_by_user(schema::exit_signal + static_cast<int>(info.ssi_signo));
  });
}

void Session::end_by_user(int status) {
  int none = -1;
  user_status_.compare_exchange_strong(none, status);
  for (auto& channel : channels_) channel->abandon();  // a full one would hold the vCPUs
  board_->machine().request(Request::power_off);
}

void Session::escape(char key) {
  switch (key) {
    case 'x': end_by_user(schema::exit_power_off); return;
    case 'p': board_->press_power_button(); return;
    case 'r': board_->machine().request(Request::reset); return;
    default: {
      [[maybe_unused]] ssize_t n = ::write(STDERR_FILENO, kEscapeHelp, std::strlen(kEscapeHelp));
    }
  }
}

Result<> Session::build() {
  TRY_VOID(set_trace(spec_.trace));
  bool chose_ports = TRY(choose_ports(spec_));
  ChosenEngine chosen = TRY(choose_engine(spec_.engine));
  channel_loop_ = TRY(EventLoop::create(channel_clock_));
  TRY_VOID(watch_signals());  // before any thread exists
  TRY_VOID(open_channels());
  TRY_VOID(open_control());
  board_ = TRY(board::Board::build(spec_, std::move(chosen.engine),
                                   [this](size_t line) { return sink(line); }));
  Machine& machine = board_->machine();
  if (!spec_.gdb.empty()) gdb_ = TRY(GdbServer::listen(TRY(schema::parse_gdb(spec_.gdb)), machine));
  if (control_)
    machine.on_trouble = [this](const std::string& device, const std::string& why,
                                std::function<bool()> still) {
      on_main([this, device, why, still = std::move(still)] { trouble(device, why, still); });
    };
  TRY_VOID(machine.power_on());
  if (!chosen.why.empty() && ::isatty(STDERR_FILENO))
    log_info(fmt::format("engine {}: {}", machine.engine().name(), chosen.why));
  if (std::string advice = ssh_advice(spec_);
      !advice.empty() && (chose_ports || ::isatty(STDERR_FILENO)))
    log_info(advice);
  for (size_t i = 0; i < channels_.size(); ++i) channels_[i]->set_input(board_->lines()[i].receive);
  channel_thread_ = std::thread([this] { channel_loop_->run(); });
  if (control_) control_->start(*board_);
  return {};
}

Result<> Session::reset() {
  Machine& machine = board_->machine();
  Result<> done;
  if (control_) {
    control_->while_paused([&] { done = machine.reset(); });
  } else {
    machine.pause();
    done = machine.reset();
    if (done) machine.resume();
  }
  return done;
}

void Session::tell_guest(Request what) {
  if (!control_) return;
  switch (what) {
    case Request::power_off: control_->guest_does(schema::GuestDoing::power_off); break;
    case Request::reset: control_->guest_does(schema::GuestDoing::reset); break;
    case Request::debug_exit: control_->guest_does(schema::GuestDoing::debug_exit); break;
    case Request::panic: control_->guest_does(schema::GuestDoing::panic); break;
    case Request::crash: control_->guest_does(schema::GuestDoing::crash); break;
    case Request::fatal: break;
  }
}

// A device cannot go on. It may have come to its senses since, by a pause for another reason.
void Session::trouble(const std::string& device, const std::string& why,
                      const std::function<bool()>& still) {
  {
    std::lock_guard guard(board_->machine().lock());
    if (!still()) return;
  }
  std::string reason = fmt::format("{}: {}", device, why);
  control_->device_event(device, why);
  control_->pause_for(reason);
  log_warn(
      fmt::format("the machine is paused ({}); mend that and resume it with: skerry ctl {} "
                  "resume",
                  reason, schema::parse_control(spec_.control).value_or("PATH")));
}

std::optional<int> Session::panicked() {
  Machine& machine = board_->machine();
  switch (spec_.on_panic) {
    case schema::PanicPolicy::exit: return schema::exit_panic;
    case schema::PanicPolicy::pause:
      control_->pause_for("the guest's kernel panicked");
      return std::nullopt;
    case schema::PanicPolicy::reset:
      if (auto done = reset(); !done) {
        log_warn("reset: " + done.error().message());
        return schema::exit_host;
      }
      return std::nullopt;
    case schema::PanicPolicy::report: machine.resume(); return std::nullopt;
  }
  return schema::exit_internal;
}

std::optional<int> Session::handle(const Machine::Outcome& outcome) {
  Machine& machine = board_->machine();
  if (user_status_ >= 0) return user_status_.load();
  tell_guest(outcome.what);
  switch (outcome.what) {
    case Request::power_off:
      if (gdb_ && gdb_->killed()) return schema::exit_signal + SIGKILL;
      return schema::exit_power_off;
    case Request::debug_exit: return schema::exit_debug(outcome.code);
    case Request::fatal: return schema::exit_internal;
    case Request::panic:
      if (gdb_ && gdb_->guest_crashed(0)) {
        log_info("the guest's kernel panicked; gdb has the machine");
        return std::nullopt;
      }
      return panicked();
    case Request::crash:
      if (control_) control_->set_reason("the guest crashed");
      machine.pause();
      restore_terminal();
      std::fputs(crash_report(machine, outcome.code).c_str(), stderr);
      if (gdb_ && gdb_->guest_crashed(outcome.code)) {
        log_info("gdb has the machine");
        return std::nullopt;
      }
      return schema::exit_crash;
    case Request::reset: {
      if (spec_.no_reboot) return schema::exit_reset;
      if (auto done = reset(); !done) {
        log_warn("reset: " + done.error().message());
        return schema::exit_host;
      }
      return std::nullopt;
    }
  }
  return schema::exit_internal;
}

int Session::run() {
  Machine& machine = board_->machine();
  const Nanos began = machine.clock().now();
  if (gdb_) {
    log_info(fmt::format("waiting for gdb: target remote {}", gdb_->where()));
    gdb_->start();
  } else {
    machine.resume();
  }
  for (;;) {
    auto outcome = machine.wait_request();
    std::optional<int> status;
    if (outcome) status = handle(*outcome);
    if (!status) do_posted();
    // Work may have reset the machine and so have taken back what the user asked for.
    if (user_status_ >= 0) status = user_status_.load();
    if (status) {
      if (control_) control_->ended(*status);
      machine.pause();
      if (gdb_) gdb_->guest_ended(*status);
      if (spec_.stats) {
        restore_terminal();
        std::fputs(stats_text(read_stats(machine, began)).c_str(), stderr);
      }
      return *status;
    }
  }
}

}  // namespace

int run_session(const schema::MachineSpec& spec) {
  int status;
  {
    Session session(spec);
    auto built = session.build();
    if (!built) {
      restore_terminal();
      std::fprintf(stderr, "skerry: %s\n", built.error().message().c_str());
      return schema::exit_host;
    }
    status = session.run();
  }
  restore_terminal();
  return status;
}

}  // namespace skerry::vmm
