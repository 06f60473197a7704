#include "vmm/gdb_server.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.hpp"
#include "base/unix_socket.hpp"
#include "vmm/crash_report.hpp"
#include "vmm/gdb_registers.hpp"

namespace skerry::vmm {
namespace {

constexpr int kSigTrap = 5, kSigInt = 2, kSigSegv = 11;

Result<Fd> listen_tcp(const std::string& host, u32 port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  int error = ::getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found);
  if (error) return fail("cannot resolve {} for gdb: {}", host, ::gai_strerror(error));
  Fd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int one = 1;
  if (fd) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bool good =
      fd && ::bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd.get(), 1) == 0;
  ::freeaddrinfo(found);
  if (!good) return fail_errno(fmt::format("cannot listen for gdb on {}:{}", host, port));
  return fd;
}

}  // namespace

Result<std::unique_ptr<GdbServer>> GdbServer::listen(const schema::GdbAddress& address,
                                                     machine::Machine& machine) {
  std::unique_ptr<GdbServer> server(new GdbServer(machine));
  server->listener_ = TRY(address.tcp ? listen_tcp(address.host, address.port)
                                      : listen_unix(address.path, " for gdb"));
  server->where_ = address.tcp ? fmt::format("{}:{}", address.host, address.port) : address.path;
  server->wake_ = TRY(Fd::event());
  machine.vcpu_host().debug_hit = [s = server.get()](unsigned cpu, const machine::Debug& debug) {
    {
      std::lock_guard guard(s->mutex_);
      s->hits_.push_back({cpu, debug, kSigTrap});
    }
    signal_event(s->wake_.get());
  };
  return server;
}

GdbServer::~GdbServer() {
  ending_ = true;
  if (wake_) signal_event(wake_.get());
  if (thread_.joinable()) thread_.join();
}

void GdbServer::start() {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "gdb");
    main();
  });
}

bool GdbServer::guest_crashed(unsigned cpu) {
  if (!connected_) return false;
  {
    std::lock_guard guard(mutex_);
    hits_.insert(hits_.begin(), Hit{cpu < machine_.cpus() ? cpu : 0, {}, kSigSegv});
  }
  signal_event(wake_.get());
  return true;
}

void GdbServer::guest_ended(int status) {
  ended_ = true;
  if (connected_ && !killed_) reply(fmt::format("W{:02x}", status & 0xff));
}

void GdbServer::main() {
  while (!ending_) {
    pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) continue;
    if (ending_) return;
    if (!(fds[0].revents & POLLIN)) {
      drain_event(wake_.get());
      continue;
    }
    client_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client_) continue;
    session(client_.get());
    connected_ = false;
    client_ = Fd();
    // A debugger that goes away leaves the guest running, as it was before.
    if (!ending_ && !ended_ && !killed_) {
      stop_all();
      breakpoints_.clear();
      watches_.clear();
      apply_debug(-1);
      machine_.resume();
    }
  }
}

void GdbServer::session(int fd) {
  stream_ = {};
  no_ack_ = false;
  stop_all();
  last_signal_ = kSigTrap;
  connected_ = true;
  u8 buffer[4096];
  while (!ending_) {
    while (auto item = stream_.next()) {
      if (item->kind == GdbStream::Item::Kind::interrupt) {
        if (running_) {
          stop_all();
          last_signal_ = kSigInt;
          report_stop();
        }
        continue;
      }
      bool good = item->kind == GdbStream::Item::Kind::packet;
      if (!no_ack_) [[maybe_unused]]
        ssize_t n = ::send(fd, good ? "+" : "-", 1, MSG_NOSIGNAL);
      if (!good) continue;
      if (item->body == "D" || item->body.starts_with("D;")) {
        reply("OK");
        return;
      }
      if (item->body == "k" || item->body.starts_with("vKill")) {
        killed_ = true;
        if (item->body != "k") reply("OK");
        machine_.request(machine::Request::power_off);
        return;
      }
      handle(item->body);
    }
    pollfd fds[2] = {{fd, POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents & POLLIN) {
      drain_event(wake_.get());
      bool hit;
      {
        std::lock_guard guard(mutex_);
        hit = !hits_.empty();
      }
      if (hit && running_) {
        stop_all();
        std::lock_guard guard(mutex_);
        cpu_ = hits_[0].cpu;
        last_signal_ = hits_[0].signal;
        last_watch_ = hits_[0].debug.watch_address;
        hits_.erase(hits_.begin());
        report_stop();
      }
    }
    if (fds[0].revents) {
      ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
      if (n <= 0) return;
      stream_.feed({buffer, static_cast<size_t>(n)});
    }
  }
}

void GdbServer::reply(std::string_view body) {
  std::string frame = gdb_frame(body);
  std::lock_guard guard(send_mutex_);  // guest_ended() comes from the main thread
  [[maybe_unused]] ssize_t n = ::send(client_.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
}

void GdbServer::stop_all() {
  machine_.pause();
  running_ = false;
}

bool GdbServer::apply_debug(int step_cpu) {
  machine::DebugRequest request;
  for (const auto& [kind, address] : breakpoints_) request.breakpoints.push_back(address);
  request.watches = watches_;
  for (unsigned i = 0; i < machine_.cpus(); ++i) {
    request.single_step = static_cast<int>(i) == step_cpu;
    auto done = machine_.cpu(i).vcpu().set_debug(request);
    if (!done) {
      log_warn(done.error().message());
      return false;
    }
  }
  return true;
}

// Another CPU may have come to a breakpoint at the same time as the one that was reported. To its
// engine that one has been seen; loading the state makes it hit again.
void GdbServer::rearm_unreported() {
  std::vector<Hit> hits;
  {
    std::lock_guard guard(mutex_);
    hits.swap(hits_);
  }
  for (const Hit& hit : hits)
    if (hit.signal == kSigTrap && hit.cpu != cpu_)
      if (auto state = state_of(hit.cpu)) (void)machine_.cpu(hit.cpu).load(*state);
}

void GdbServer::resume(int step_cpu, int only_cpu) {
  rearm_unreported();
  last_watch_ = 0;
  if (!apply_debug(step_cpu)) return reply("E03");
  running_ = true;
  if (only_cpu >= 0) {
    machine_.resume_only(static_cast<unsigned>(only_cpu));
  } else {
    machine_.resume();
  }
}

void GdbServer::report_stop() {
  std::string text = fmt::format("T{:02x}thread:{:x};", last_signal_, cpu_ + 1);
  if (last_watch_) {
    std::string_view kind = "watch";
    for (const auto& w : watches_)
      if (w.address == last_watch_) kind = !w.on_read ? "watch" : w.on_write ? "awatch" : "rwatch";
    text += fmt::format("{}:{:x};", kind, last_watch_);
  }
  reply(text);
}

std::optional<machine::CpuState> GdbServer::state_of(unsigned cpu) {
  machine::CpuState state;
  if (!machine_.cpu(cpu).save(state)) return std::nullopt;
  return state;
}

// ---- packets

void GdbServer::handle(const std::string& packet) {
  switch (packet[0]) {
    case '?': return report_stop();
    case 'q':
    case 'Q': return handle_query(packet);
    case 'g':
    case 'G':
    case 'p':
    case 'P': return handle_registers(packet);
    case 'm':
    case 'M': return handle_memory(packet);
    case 'Z':
    case 'z': return handle_breakpoint(packet);
    case 'c':
    case 's':
    case 'C':
    case 'S':
    case 'v': return handle_resume(packet);
    case 'H': {
      std::string_view rest = std::string_view(packet).substr(std::min<size_t>(2, packet.size()));
      if (packet.size() > 1 && packet[1] == 'g')
        if (auto id = take_hex(rest); id && *id >= 1 && *id <= machine_.cpus())
          cpu_ = static_cast<unsigned>(*id - 1);
      return reply("OK");
    }
    case 'T': {
      std::string_view rest = std::string_view(packet).substr(1);
      auto id = take_hex(rest);
      return reply(id && *id >= 1 && *id <= machine_.cpus() ? "OK" : "E01");
    }
    default: return reply("");
  }
}

void GdbServer::handle_query(std::string_view packet) {
  if (packet.starts_with("qSupported"))
    return reply("PacketSize=4000;qXfer:features:read+;QStartNoAckMode+;vContSupported+;hwbreak+");
  if (packet == "QStartNoAckMode") {
    reply("OK");
    no_ack_ = true;
    return;
  }
  if (packet.starts_with("qXfer:features:read:target.xml:")) {
    std::string_view range = packet.substr(31);
    auto offset = take_hex(range);
    if (!offset || range.empty()) return reply("E01");
    range.remove_prefix(1);
    u64 length = take_hex(range).value_or(0);
    std::string xml = gdb_target_description();
    if (*offset >= xml.size()) return reply("l");
    std::string part = xml.substr(*offset, length);
    return reply((*offset + part.size() < xml.size() ? "m" : "l") + part);
  }
  if (packet == "qfThreadInfo") {
    std::string list;
    for (unsigned i = 0; i < machine_.cpus(); ++i)
      list += fmt::format("{}{:x}", i ? "," : "m", i + 1);
    return reply(list);
  }
  if (packet == "qsThreadInfo") return reply("l");
  if (packet == "qC") return reply(fmt::format("QC{:x}", cpu_ + 1));
  if (packet == "qAttached") return reply("1");
  if (packet.starts_with("qThreadExtraInfo,")) {
    std::string_view rest = packet.substr(17);
    u64 id = take_hex(rest).value_or(1);
    std::string text = fmt::format("CPU {}", id - 1);
    return reply(to_hex({reinterpret_cast<const u8*>(text.data()), text.size()}));
  }
  if (packet.starts_with("qRcmd,"))
    if (auto command = from_hex(packet.substr(6))) return handle_monitor(*command);
  reply("");
}

void GdbServer::handle_monitor(std::string_view command) {
  std::string text;
  auto state = state_of(cpu_);
  if (command == "cpu") {
    text = cpu_report(machine_, cpu_);
  } else if (command == "registers" && state) {
    text = state::dump(*state);
  } else if (command == "reset") {
    auto done = machine_.reset();
    text = done ? "reset\n" : done.error().message() + "\n";
  } else if (command == "devices") {
    text = machine_.ports().dump() + machine_.memory_space().dump();
  } else {
    text =
        "monitor commands:\n"
        "  cpu        this CPU's mode, segments, instructions and stack, in 16- and 32-bit code "
        "too\n"
        "  registers  everything that a saved machine would hold of this CPU\n"
        "  devices    what is at which address\n"
        "  reset      the machine back to its first instruction\n";
  }
  // An answer is one packet: long dumps are cut at what it holds.
  if (text.size() > 7000) text = text.substr(0, 7000) + "...\n";
  reply(to_hex({reinterpret_cast<const u8*>(text.data()), text.size()}));
}

void GdbServer::handle_registers(std::string_view packet) {
  auto state = state_of(cpu_);
  if (!state) return reply("E02");
  char kind = packet[0];
  std::string_view rest = packet.substr(1);
  auto hex = [&](unsigned n) {
    std::string bytes = gdb_read_register(*state, n);
    return to_hex({reinterpret_cast<const u8*>(bytes.data()), bytes.size()});
  };
  if (kind == 'g') {
    std::string all;
    for (unsigned i = 0; i < gdb_register_count(); ++i) all += hex(i);
    return reply(all);
  }
  if (kind == 'p') {
    auto number = take_hex(rest);
    if (!number || *number >= gdb_register_count()) return reply("E01");
    return reply(hex(static_cast<unsigned>(*number)));
  }
  bool good = true;
  if (kind == 'P') {
    auto number = take_hex(rest);
    auto bytes = rest.empty() ? std::nullopt : from_hex(rest.substr(1));
    good = number && bytes && gdb_write_register(*state, static_cast<unsigned>(*number), *bytes);
  } else if (auto bytes = from_hex(rest)) {
    std::string_view left = *bytes;
    for (unsigned i = 0; i < gdb_register_count() && !left.empty() && good; ++i) {
      size_t size = gdb_read_register(*state, i).size();
      good = left.size() >= size && gdb_write_register(*state, i, left.substr(0, size));
      left.remove_prefix(std::min(size, left.size()));
    }
  } else {
    good = false;
  }
  reply(good && machine_.cpu(cpu_).load(*state) ? "OK"
                                                : "E01");  // E01: no processor has such a state
}

bool GdbServer::copy_memory(u64 address, std::span<u8> data, bool write) {
  while (!data.empty()) {
    size_t part = std::min<size_t>(data.size(), memory::kPageSize - address % memory::kPageSize);
    auto gpa = machine_.cpu(cpu_).vcpu().translate(address);
    if (!gpa) return false;
    bool good = write ? machine_.memory().write(*gpa, data.first(part))
                      : machine_.memory().read(*gpa, data.first(part));
    if (!good) return false;
    address += part;
    data = data.subspan(part);
  }
  return true;
}

void GdbServer::handle_memory(std::string_view packet) {
  std::string_view rest = packet.substr(1);
  auto address = take_hex(rest);
  if (!address || rest.empty()) return reply("E01");
  rest.remove_prefix(1);
  u64 length = take_hex(rest).value_or(0);
  if (packet[0] == 'm') {
    std::vector<u8> data(std::min<u64>(length, 0x1f00));
    // As much as is mapped, as GDB expects of a read that runs into a hole.
    while (!data.empty() && !copy_memory(*address, data, false)) data.resize(data.size() / 2);
    return reply(data.empty() ? "E14" : to_hex(data));
  }
  auto bytes = rest.empty() ? std::nullopt : from_hex(rest.substr(1));
  if (!bytes || bytes->size() != length) return reply("E01");
  reply(copy_memory(*address, {reinterpret_cast<u8*>(bytes->data()), bytes->size()}, true) ? "OK"
                                                                                           : "E14");
}

void GdbServer::handle_breakpoint(std::string_view packet) {
  if (packet.size() < 3) return reply("E01");
  bool set = packet[0] == 'Z';
  char type = packet[1];
  std::string_view rest = packet.substr(3);
  auto address = take_hex(rest);
  if (!address || rest.empty()) return reply("E01");
  rest.remove_prefix(1);
  u64 length = take_hex(rest).value_or(1);
  auto old_breakpoints = breakpoints_;
  auto old_watches = watches_;
  if (type == '0' || type == '1') {
    if (set) {
      breakpoints_.insert({type, *address});
    } else {
      breakpoints_.erase({type, *address});
    }
  } else if (type >= '2' && type <= '4') {
    machine::DebugRequest::Watch watch{*address, static_cast<u32>(std::min<u64>(length, 4096)),
                                       type != '2', type != '3'};
    std::erase_if(watches_, [&, watch](const auto& w) {
      return w.address == watch.address && w.length == watch.length && w.on_read == watch.on_read &&
             w.on_write == watch.on_write;
    });
    if (set) watches_.push_back(watch);
  } else {
    return reply("");
  }
  if (apply_debug(-1)) return reply("OK");
  breakpoints_ = std::move(old_breakpoints);  // more than the engine has
  watches_ = std::move(old_watches);
  reply("E03");
}

void GdbServer::handle_resume(std::string_view packet) {
  if (packet == "vCont?") return reply("vCont;c;C;s;S");
  if (packet == "c" || packet.starts_with("C")) return resume(-1, -1);
  if (packet == "s" || packet.starts_with("S"))
    return resume(static_cast<int>(cpu_), static_cast<int>(cpu_));
  if (!packet.starts_with("vCont;")) return reply("");
  // "vCont;s:2;c": step thread 2, let the rest run. Without a default action the rest stands still.
  int step = -1, only = -1;
  bool rest_runs = false;
  std::string_view list = packet.substr(6);
  while (!list.empty()) {
    size_t end = list.find(';');
    std::string_view action = list.substr(0, end);
    list = end == std::string_view::npos ? "" : list.substr(end + 1);
    size_t colon = action.find(':');
    int cpu = -1;
    if (colon != std::string_view::npos) {
      std::string_view id = action.substr(colon + 1);
      if (auto n = take_hex(id); n && *n >= 1 && *n <= machine_.cpus())
        cpu = static_cast<int>(*n - 1);
    }
    if (action[0] == 's' || action[0] == 'S') {
      step = cpu >= 0 ? cpu : static_cast<int>(cpu_);
      only = step;
    } else if (cpu < 0) {
      rest_runs = true;
    } else if (only < 0) {
      only = cpu;
    }
  }
  resume(step, rest_runs ? -1 : only);
}

}  // namespace skerry::vmm
