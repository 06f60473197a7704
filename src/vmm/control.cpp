#include "vmm/control.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "net/port.hpp"
#include "schema/dispatch.hpp"
#include "virtio/balloon.hpp"
#include "virtio/blk.hpp"
#include "vmm/stats.hpp"

namespace skerry::vmm {

using schema::ActionError;
using schema::Answer;
using schema::ErrorCode;
using schema::Nothing;
using schema::Phase;
using schema::refuse;

namespace {

constexpr Nanos kSecond = 1'000'000'000;
constexpr unsigned kDeviceEventsPerSecond = 20;

std::vector<schema::CounterValue> values(const std::vector<machine::Counter>& counters) {
  std::vector<schema::CounterValue> list;
  for (const machine::Counter& c : counters) list.push_back({std::string(c.name), c.value});
  return list;
}

/// `option` makes one.
Error unknown(std::string_view what, const std::string& name, const std::vector<std::string>& all,
              std::string_view option) {
  if (all.empty())
    return {fmt::format("the machine has no {}", what), fmt::format("start it with {}", option), 0};
  std::vector<std::string_view> views(all.begin(), all.end());
  return schema::unknown_word(what, name, views);
}

}  // namespace

Result<std::unique_ptr<Control>> Control::listen(const std::string& path, Host host) {
  std::unique_ptr<Control> control(new Control(std::move(host)));
  Control* c = control.get();
  schema::Hello hello;
  hello.version = SKERRY_VERSION;
  hello.machine = c->host_.spec.name;
  ControlServer::Host callbacks;
  callbacks.request = [c](ControlServer::ClientId client, std::string line) {
    c->request(client, line);
  };
  callbacks.too_long = [] {
    return schema::error_line(
        nullptr,
        {ErrorCode::bad_request,
         {fmt::format("request: longer than {} KiB", ControlServer::kLongestLine / KiB), {}, 0}});
  };
  callbacks.type = [c](ControlServer::ClientId client, size_t line, std::string bytes) {
    c->type(client, line, std::move(bytes));
  };
  control->server_ =
      TRY(ControlServer::listen(path, schema::hello_line(hello), std::move(callbacks)));
  return control;
}

void Control::start(board::Board& board) {
  board_ = &board;
  began_ = board.machine().clock().now();
  board.machine().on_device_event = [this](const std::string& device, std::string_view what) {
    device_event(device, what);
  };
  board.machine().on_change = [this](bool paused) { machine_changed(paused); };
  server_->start();
}

// ---- requests

void Control::request(ControlServer::ClientId client, const std::string& line) {
  schema::Json id = nullptr;
  auto parsed = schema::parse_request(line, id);
  if (!parsed) return server_->answer(client, schema::error_line(id, parsed.error()));
  std::string id_text = id.dump();
  auto done = schema::dispatch(*parsed, [&]<class A>(A action, const typename A::Request& given) {
    if constexpr (A::info.immediate) {
      run(action, client, id_text, given);
    } else {
      host_.on_main(
          [this, action, client, id_text, given] { run(action, client, id_text, given); });
    }
  });
  if (!done) server_->answer(client, schema::error_line(id, done.error()));
}

template <class A>
void Control::run(A action, ControlServer::ClientId client, const std::string& id_text,
                  const typename A::Request& arguments) {
  schema::Json id = schema::Json::parse(id_text);
  auto fail_with = [&](const ActionError& error) {
    server_->answer(client, schema::error_line(id, error));
  };
  Phase phase = phase_;
  if (!(phase == Phase::running && A::info.running) && !(phase == Phase::paused && A::info.paused))
    return fail_with({ErrorCode::wrong_phase,
                      {fmt::format("{}: the machine is {}", A::info.name, name_of(phase)),
                       phase == Phase::paused ? "resume it first" : "", 0}});
  if constexpr (std::is_same_v<A, schema::SchemaAction>) {
    server_->answer(client, schema::answer_line(id, schema::schema_json()));
  } else if constexpr (std::is_same_v<A, schema::EventsAction>) {
    schema::EventsAction::Response response{server_->last_event()};
    server_->subscribe(client, schema::answer_line(id, schema::to_json(response)), arguments.after);
  } else if constexpr (std::is_same_v<A, schema::ConsoleAction>) {
    auto index = line_index(arguments.line);
    if (!index) return fail_with(index.error());
    server_->become_console(client, schema::answer_line(id, schema::Json::object()), *index,
                            *host_.screens[*index], arguments.replay);
  } else {
    auto answer = perform(action, arguments);
    if (!answer) return fail_with(answer.error());
    server_->answer(client, schema::answer_line(id, schema::to_json(*answer)));
  }
}

Answer<size_t> Control::line_index(const std::string& name) const {
  std::vector<std::string_view> names;
  for (const board::Line& line : board_->lines()) names.push_back(line.name);
  auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end())
    return refuse(ErrorCode::not_found, schema::unknown_word("line", name, names));
  return static_cast<size_t>(at - names.begin());
}

Answer<virtio::Blk*> Control::disk(const std::string& name) const {
  std::vector<std::string> names;
  for (virtio::Blk* disk : board_->disks()) {
    names.push_back(disk->name());
    if (names.back() == name) return disk;
  }
  return refuse(ErrorCode::not_found, unknown("disk", name, names, "--disk path=FILE"));
}

Answer<void> Control::not_debugged() const {
  if (!host_.debugged) return {};
  return refuse(ErrorCode::refused, {"gdb decides when this machine runs",
                                     "use gdb's own commands, or start it without --gdb", 0});
}

#define NOT_DEBUGGED() \
  if (auto free = not_debugged(); !free) return std::unexpected(std::move(free.error()))

Answer<schema::StatusAction::Response> Control::perform(schema::StatusAction, const Nothing&) {
  machine::Machine& machine = board_->machine();
  schema::StatusAction::Response r;
  r.name = host_.spec.name;
  r.version = SKERRY_VERSION;
  r.engine = machine.engine().name();
  r.state = phase_;
  {
    std::lock_guard guard(mutex_);
    if (r.state != Phase::running) r.reason = reason_;
  }
  r.cpus = machine.cpus();
  r.pid = static_cast<u32>(::getpid());
  r.memory = machine.memory().size();
  r.time = static_cast<u64>(machine.clock().now() - began_);
  for (const board::Line& line : board_->lines()) r.lines.push_back(line.name);
  r.user = host_.spec.user;
  for (const std::string& key : host_.spec.ssh_keys) {
    std::error_code failed;
    auto whole = std::filesystem::absolute(key, failed);
    r.ssh_keys.push_back(failed ? key : whole.string());
  }
  for (unsigned i = 0; i < host_.spec.nets.size(); ++i) {
    const schema::NetSpec& net = host_.spec.nets[i];
    std::string connection(name_of(net.kind));
    for (const std::string* name : {&net.name, &net.ifname, &net.bridge})
      if (!name->empty()) connection += " " + *name;
    r.nets.push_back({fmt::format("net{}", i), connection,
                      net.mac.empty() ? net::to_text(net::stable_mac(host_.spec.name, i)) : net.mac,
                      net.hostfwd});
  }
  return r;
}

Answer<Nothing> Control::perform(schema::PauseAction, const Nothing&) {
  NOT_DEBUGGED();
  if (phase_ == Phase::running) set_reason("by request");
  board_->machine().pause();
  return Nothing{};
}

Answer<Nothing> Control::perform(schema::ResumeAction, const Nothing&) {
  NOT_DEBUGGED();
  board_->machine().resume();
  return Nothing{};
}

Answer<Nothing> Control::perform(schema::PowerButtonAction, const Nothing&) {
  board_->press_power_button();
  return Nothing{};
}

Answer<Nothing> Control::perform(schema::ResetAction, const Nothing&) {
  NOT_DEBUGGED();
  Result<> done;
  while_paused([&] { done = board_->machine().reset(); });
  if (!done) {
    host_.stop();  // without a boot state there is nothing to run
    return refuse(ErrorCode::refused, std::move(done.error()).in("reset"));
  }
  return Nothing{};
}

Answer<Nothing> Control::perform(schema::StopAction, const Nothing&) {
  host_.stop();
  return Nothing{};
}

Answer<schema::StatisticsAction::Response> Control::perform(schema::StatisticsAction,
                                                            const Nothing&) {
  machine::Machine& machine = board_->machine();
  if (phase_ == Phase::running) NOT_DEBUGGED();
  schema::StatisticsAction::Response r;
  while_paused([&] {
    Stats stats = read_stats(machine, began_);
    r.engine = stats.engine;
    r.time = static_cast<u64>(stats.guest_time);
    r.resident = stats.resident;
    r.peak_resident = stats.peak_resident;
    r.guest_memory = stats.guest_memory;
    for (const auto& counters : stats.vcpus) r.cpus.push_back({values(counters)});
    for (const Stats::Device& device : stats.devices)
      r.devices.push_back({device.name, values(device.counters)});
  });
  return r;
}

Answer<schema::ScreenAction::Response> Control::perform(
    schema::ScreenAction, const schema::ScreenAction::Request& asked) {
  auto index = line_index(asked.line);
  if (!index) return std::unexpected(std::move(index.error()));
  const Screen& screen = *host_.screens[*index];
  schema::ScreenAction::Response r;
  r.written = screen.written();
  u64 at = r.written - std::min<u64>(r.written, asked.bytes);
  r.text = screen.read(at, asked.bytes);
  return r;
}

Answer<schema::NewGenerationAction::Response> Control::perform(schema::NewGenerationAction,
                                                               const Nothing&) {
  return schema::NewGenerationAction::Response{board_->new_generation()};
}

Answer<schema::BalloonAction::Response> Control::perform(
    schema::BalloonAction, const schema::BalloonAction::Request& asked) {
  virtio::Balloon* balloon = board_->balloon();
  if (!balloon)
    return refuse(ErrorCode::not_found,
                  {"the machine has no balloon", "start it with --balloon", 0});
  machine::Machine& machine = board_->machine();
  constexpr u64 kPage = virtio::Balloon::kPage;
  schema::BalloonAction::Response r;
  u64 told;
  bool asking;
  {
    std::lock_guard guard(machine.lock());
    if (asked.size.count != ~u64{0}) {
      if (asked.size.count > machine.memory().size())
        return refuse(ErrorCode::bad_arguments, {fmt::format("balloon: the guest has only {} MiB",
                                                             machine.memory().size() / MiB),
                                                 {},
                                                 0});
      balloon->set_target(static_cast<u32>(asked.size.count / kPage));
    }
    told = balloon->statistics_count();
    asking = phase_ == Phase::running && balloon->ask_statistics();
  }
  // A guest that answers does so within a moment; old figures are better than none.
  for (int turn = 0; asking && turn < 50; ++turn) {
    std::this_thread::sleep_for(std::chrono::milliseconds(4));
    std::lock_guard guard(machine.lock());
    asking = balloon->statistics_count() == told;
  }
  std::lock_guard guard(machine.lock());
  r.wanted = balloon->target() * kPage;
  r.lent = balloon->actual() * kPage;
  r.driver = balloon->driven();
  struct stat file {};
  if (::fstat(machine.memory().fd(), &file) == 0)
    r.guest_memory = static_cast<u64>(file.st_blocks) * 512;
  for (size_t tag = 0; tag < balloon->statistics().size(); ++tag)
    if (auto value = balloon->statistics()[tag])
      r.guest.push_back({std::string(virtio::Balloon::kStatistics[tag]), *value});
  return r;
}

// Here, without the board's lock, the machine goes on while the image changes.
Answer<schema::DiskResizeAction::Response> Control::perform(
    schema::DiskResizeAction, const schema::DiskResizeAction::Request& asked) {
  auto disk = this->disk(asked.disk);
  if (!disk) return std::unexpected(std::move(disk.error()));
  schema::DiskResizeAction::Response r;
  r.before = (*disk)->size();
  if (auto done = (*disk)->resize(asked.size.count); !done)
    return refuse(ErrorCode::refused, std::move(done.error()));
  r.size = (*disk)->size();
  return r;
}

Answer<schema::DiskLimitsAction::Response> Control::perform(
    schema::DiskLimitsAction, const schema::DiskLimitsAction::Request& asked) {
  auto disk = this->disk(asked.disk);
  if (!disk) return std::unexpected(std::move(disk.error()));
  machine::Machine& machine = board_->machine();
  std::lock_guard guard(machine.lock());
  virtio::Blk::Limits limits = (*disk)->limits();
  auto take = [](u64& limit, u64 given) {
    if (given != schema::kLeftOut) limit = given;
  };
  take(limits.bytes, asked.bps.count);
  take(limits.bytes_burst, asked.bps_burst.count);
  take(limits.operations, asked.iops);
  take(limits.operations_burst, asked.iops_burst);
  if (limits != (*disk)->limits()) (*disk)->set_limits(limits, machine.clock());
  return schema::DiskLimitsAction::Response{limits.bytes, limits.bytes_burst, limits.operations,
                                            limits.operations_burst};
}

Answer<schema::LinkAction::Response> Control::perform(schema::LinkAction,
                                                      const schema::LinkAction::Request& asked) {
  std::vector<std::string> names;
  for (const board::NetworkCard& card : board_->network_cards()) {
    names.push_back(card.name);
    if (card.name != asked.card) continue;
    if (asked.cable != schema::Cable::as_it_is) card.set_link(asked.cable == schema::Cable::up);
    auto status = card.status();
    return schema::LinkAction::Response{card.name, status.mac, status.connected_to, status.link_up};
  }
  return refuse(ErrorCode::not_found, unknown("network card", asked.card, names, "--net user"));
}

void Control::while_paused(const std::function<void()>& work) {
  machine::Machine& machine = board_->machine();
  bool ran = phase_ == Phase::running;
  brief_ = true;
  machine.pause();
  work();
  // What the guest asked for just before is the main loop's to answer, with the vCPUs where they
  // are.
  if (ran && !machine.request_pending()) machine.resume();
  brief_ = false;
}

// ---- lines

void Control::type(ControlServer::ClientId client, size_t line, std::string bytes) {
  // The board's lock may be held for long while output blocks: the channels' thread waits for it.
  host_.channel_loop.post([this, client, line, bytes = std::move(bytes)] {
    size_t taken =
        board_->lines()[line].receive({reinterpret_cast<const u8*>(bytes.data()), bytes.size()});
    server_->typed(client, taken);
  });
}

// ---- what is told

void Control::set_reason(std::string reason) {
  std::lock_guard guard(mutex_);
  reason_ = std::move(reason);
}

void Control::machine_changed(bool paused) {
  if (brief_ || phase_ == Phase::ended) return;
  Phase now = paused ? Phase::paused : Phase::running;
  if (phase_.exchange(now) != now) tell_state(now, 0);
}

void Control::pause_for(std::string reason) {
  set_reason(std::move(reason));
  board_->machine().pause();
  machine_changed(true);  // it may have been paused for a moment, of which nobody was told
}

void Control::tell_state(Phase state, u32 status) {
  schema::StateEvent event{state, {}, status};
  if (state != Phase::running) {
    std::lock_guard guard(mutex_);
    event.reason = reason_;
  }
  server_->tell([&](u64 number) { return schema::event_line(number, event); });
}

void Control::guest_does(schema::GuestDoing what) {
  schema::GuestEvent event{what};
  server_->tell([&](u64 number) { return schema::event_line(number, event); });
}

void Control::ended(int status) {
  phase_ = Phase::ended;
  set_reason("the machine has ended");
  tell_state(Phase::ended, static_cast<u32>(status));
}

void Control::device_event(const std::string& device, std::string_view what) {
  {
    std::lock_guard guard(mutex_);
    Nanos now = HostClock::monotonic();
    if (now - device_events_since_ >= kSecond) device_events_since_ = now, device_events_ = 0;
    if (++device_events_ > kDeviceEventsPerSecond) return;
  }
  schema::DeviceEvent event{device, std::string(what)};
  server_->tell([&](u64 number) { return schema::event_line(number, event); });
}

}  // namespace skerry::vmm
