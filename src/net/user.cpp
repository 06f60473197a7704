#include "net/user.hpp"

#include <arpa/inet.h>
#include <glib.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "base/bits.hpp"
#include "base/log.hpp"
#include "net/wire.hpp"

namespace skerry::net {

namespace {

/// The longest IP packet that libslirp takes (IF_MTU_MAX).
constexpr size_t kMtu = 65521;
/// Of the guest's network card, as far as we know: longer UDP datagrams go to it in fragments.
constexpr size_t kGuestMtu = 1500;
constexpr size_t kTurn = 1 * MiB;

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  bool v6() const { return storage.ss_family == AF_INET6; }
};

/// Numeric; "" is 0.0.0.0.
std::optional<Address> address_of(const std::string& host, u16 port) {
  Address a;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&a.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&a.storage);
  if (host.empty() || ::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    a.length = sizeof *v4;
  } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    a.length = sizeof *v6;
  } else {
    return std::nullopt;
  }
  return a;
}

/// libslirp's messages are about what guests do: not for the operator.
void quiet_log(const gchar*, GLogLevelFlags, const gchar* message, gpointer) {
  trace(Trace::virtio, "libslirp: {}", message);
}

}  // namespace

/// A timer of libslirp's (router advertisements).
struct UserPort::Timer {
  UserPort* port;
  SlirpTimerId id;
  void* opaque;
  EventLoop::TimerId armed = 0;
};

struct UserPort::Callbacks {
  static UserPort& self(void* opaque) { return *static_cast<UserPort*>(opaque); }
  static ssize_t send_packet(const void* bytes, size_t length, void* opaque) {
    self(opaque).packet({static_cast<const u8*>(bytes), length});
    return static_cast<ssize_t>(length);
  }
  static void guest_error(const char* message, void*) {
    trace(Trace::virtio, "libslirp: {}", message);
  }
  static int64_t now(void* opaque) { return self(opaque).clock_.now(); }
  static void* timer_new(SlirpTimerId id, void* cb_opaque, void* opaque) {
    auto& timers = self(opaque).timers_;
    timers.push_back(std::make_unique<Timer>(&self(opaque), id, cb_opaque));
    return timers.back().get();
  }
  static void timer_free(void* timer, void* opaque) {
    UserPort& port = self(opaque);
    if (!timer) return;
    port.loop_.cancel(static_cast<Timer*>(timer)->armed);
    std::erase_if(port.timers_, [&](auto& t) { return t.get() == timer; });
  }
  static void timer_mod(void* opaque_timer, int64_t milliseconds, void* opaque) {
    UserPort& port = self(opaque);
    Timer* timer = static_cast<Timer*>(opaque_timer);
    port.loop_.cancel(timer->armed);
    timer->armed =
        port.loop_.call_at(milliseconds * 1'000'000, [timer, alive = std::weak_ptr(port.self_)] {
          auto p = alive.lock();
          if (!p) return;
          (*p)->run([&] { slirp_handle_timer((*p)->slirp_, timer->id, timer->opaque); });
        });
  }
  static void register_fd(int fd, void* opaque) { self(opaque).watched_.erase(fd); }
  static void unregister_fd(int fd, void* opaque) {
    UserPort& port = self(opaque);
    if (port.watched_.erase(fd)) ::epoll_ctl(port.sockets_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
  static void notify(void* opaque) { self(opaque).post(); }
  static int add_poll(int fd, int events, void* opaque) {
    UserPort& port = self(opaque);
    port.asked_.push_back({fd, events});
    return static_cast<int>(port.asked_.size()) - 1;
  }
  static int revents(int index, void* opaque) {
    UserPort& port = self(opaque);
    if (index < 0 || static_cast<size_t>(index) >= port.asked_.size()) return 0;
    auto it = port.ready_.find(port.asked_[static_cast<size_t>(index)].fd);
    if (it == port.ready_.end()) return 0;
    u32 e = it->second;
    return (e & EPOLLIN ? SLIRP_POLL_IN : 0) | (e & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
           (e & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (e & EPOLLERR ? SLIRP_POLL_ERR : 0) |
           (e & EPOLLHUP ? SLIRP_POLL_HUP : 0);
  }
  static constexpr SlirpCb table{
      .send_packet = send_packet,
      .guest_error = guest_error,
      .clock_get_ns = now,
      .timer_new = nullptr,
      .timer_free = timer_free,
      .timer_mod = timer_mod,
      .register_poll_fd = register_fd,
      .unregister_poll_fd = unregister_fd,
      .notify = notify,
      .init_completed = nullptr,
      .timer_new_opaque = timer_new,
  };
};

Result<std::unique_ptr<UserPort>> UserPort::create(EventLoop& loop, const Clock& clock,
                                                   const UserSetup& setup) {
  std::unique_ptr<UserPort> port(new UserPort(loop, clock));
  port->sockets_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!port->sockets_) return fail_errno("cannot create an epoll descriptor");
  static const guint handler = ::g_log_set_handler(
      "Slirp", static_cast<GLogLevelFlags>(G_LOG_LEVEL_MASK & ~G_LOG_LEVEL_ERROR), quiet_log,
      nullptr);
  (void)handler;

  SlirpConfig config{};
  config.version = 4;
  config.restricted = setup.restricted;
  config.in_enabled = config.in6_enabled = true;
  auto v4 = [](const char* text) {
    in_addr a{};
    ::inet_pton(AF_INET, text, &a);
    return a;
  };
  auto v6 = [](const char* text) {
    in6_addr a{};
    ::inet_pton(AF_INET6, text, &a);
    return a;
  };
  config.vnetwork = v4("10.0.2.0");
  config.vnetmask = v4("255.255.255.0");
  config.vhost = v4("10.0.2.2");
  config.vdhcp_start = v4("10.0.2.15");
  config.vnameserver = v4("10.0.2.3");
  config.vprefix_addr6 = v6("fd00::");
  config.vprefix_len = 64;
  config.vhost6 = v6("fd00::2");
  config.vnameserver6 = v6("fd00::3");
  config.vhostname = setup.hostname.empty() ? nullptr : setup.hostname.c_str();
  config.if_mtu = config.if_mru = kMtu;
  port->slirp_ = ::slirp_new(&config, &Callbacks::table, port.get());
  if (!port->slirp_) return fail("libslirp does not start");
  for (const Forward& forward : setup.forwards) TRY_VOID(port->add_forward(forward));
  TRY_VOID(
      loop.watch(port->sockets_.get(), EPOLLIN, [raw = port.get()](u32) { raw->on_sockets(); }));
  port->watch();
  return port;
}

UserPort::UserPort(EventLoop& loop, const Clock& clock) : loop_(loop), clock_(clock) {}

UserPort::~UserPort() {
  self_.reset();
  loop_.unwatch(sockets_.get());
  loop_.cancel(timeout_);
  if (slirp_) ::slirp_cleanup(slirp_);
  for (auto& timer : timers_) loop_.cancel(timer->armed);
}

Result<> UserPort::add_forward(const Forward& f) {
  auto host = address_of(f.host, f.host_port), guest = address_of(f.guest, f.guest_port);
  if (!host || !guest)
    return fail("cannot forward {} to {}: addresses must be numeric", f.host, f.guest);
  int flags = (f.udp ? SLIRP_HOSTFWD_UDP : 0) | (host->v6() ? SLIRP_HOSTFWD_V6ONLY : 0);
  if (::slirp_add_hostxfwd(slirp_, host->get(), host->length, guest->get(), guest->length, flags) ==
      0)
    return {};
  int code = errno;
  std::string where = fmt::format("{} port {}{}", f.udp ? "UDP" : "TCP", f.host_port,
                                  f.host.empty() ? "" : " of " + f.host);
  Error error;
  error.code = code;
  error.what =
      fmt::format("cannot forward {}: {}", where,
                  code == EADDRINUSE ? "it is in use by another program" : std::strerror(code));
  if (code == EADDRINUSE) {
    error.hint = fmt::format("choose another port, or see who has it: ss -{}lnp sport = {}",
                             f.udp ? 'u' : 't', f.host_port);
  } else if (code == EACCES) {
    error.hint = "ports below 1024 need root; choose a higher one";
  } else if (code == EADDRNOTAVAIL) {
    error.hint = "this host does not have that address; see: ip address";
  }
  return std::unexpected(std::move(error));
}

void UserPort::run(const std::function<void()>& work) {
  work();
  deliver();
  watch();
}

void UserPort::post() {
  if (std::exchange(posted_, true)) return;
  loop_.post([alive = std::weak_ptr(self_)] {
    if (auto p = alive.lock()) (*p)->take_posted();
  });
}

bool UserPort::send(const Offload& offload, std::span<const u8> frame, unsigned) {
  if (outgoing_bytes_ + frame.size() > kWaiting) return false;
  outgoing_bytes_ += frame.size();
  outgoing_.push_back({offload, {frame.begin(), frame.end()}});
  post();
  return true;
}

void UserPort::resume() {
  refused_ = false;
  post();
}

void UserPort::input(std::span<const u8> frame) {
  input_ = frame;
  ::slirp_input(slirp_, frame.data(), static_cast<int>(frame.size()));
  input_ = {};
}

void UserPort::take_posted() {
  posted_ = false;
  bool was_full = outgoing_bytes_ > kWaiting / 2;
  run([&] {
    auto input = [&](const Offload&, std::span<const u8> frame) { this->input(frame); };
    for (size_t done = 0; !outgoing_.empty() && done < kTurn;) {
      Waiting next = std::move(outgoing_.front());
      outgoing_.pop_front();
      outgoing_bytes_ -= next.frame.size();
      done += next.frame.size();
      std::span<u8> frame(next.frame);
      raise_segment_size(next.offload, frame);
      if (!next.offload.gso_type || frame.size() > kMtu + kEthernetHeader) {
        adapt(next.offload, frame, {}, input);
        continue;
      }
      // A large segment goes as it is; only its checksum has to be right.
      Layout layout = layout_of(frame);
      layout.transport = next.offload.checksum_start;
      set_tcp_checksum(layout, frame);
      input({}, frame);
    }
  });
  if (!outgoing_.empty()) post();
  if (was_full && outgoing_bytes_ <= kWaiting / 2 && events_.writable) events_.writable();
}

// The maximum segment size option (RFC 9293 3.7.1) of a SYN. A checksum that is there already is
// kept right by the difference (RFC 1624); one that is still to be finished needs nothing.
void UserPort::raise_segment_size(const Offload& offload, std::span<u8> frame) {
  Layout l = layout_of(frame);
  if (!holds_tcp(l, frame) || !(frame[l.transport + 13u] & kSyn)) return;
  size_t end = l.transport + (size_t{frame[l.transport + 12u]} >> 4 << 2);
  if (end > frame.size()) return;
  for (size_t at = l.transport + 20u; at + 4 <= end;) {
    u8 kind = frame[at], length = frame[at + 1];
    if (kind == 0) return;
    if (kind == 1) {
      ++at;
      continue;
    }
    if (length < 2) return;
    if (kind != 2 || length != 4) {
      at += length;
      continue;
    }
    size_t value = at + 2, sum_at = l.transport + 16u;
    u16 asked = get16(frame, value), raised = static_cast<u16>(kMtu - (l.ip4 ? 40 : 60));
    if (asked < kMinSegment) return;
    segment_size_[flow_hash(frame) % segment_size_.size()] = asked;
    put16(frame, value, raised);
    if (offload.needs_checksum()) return;
    // At an odd place its bytes are added the other way round.
    bool odd = (value - l.transport) % 2;
    auto part = [&](u16 v) -> u32 { return odd ? (v << 8 | v >> 8) & 0xffff : v; };
    u32 sum = static_cast<u16>(~get16(frame, sum_at)) + (~part(asked) & 0xffff) + part(raised);
    put16(frame, sum_at, checksum_end(sum));
    return;
  }
}

// libslirp has computed all checksums. A segment longer than the guest asked for is marked to be
// cut; its checksum field then holds the pseudo header's part only.
Offload UserPort::offload_for(std::span<u8> frame) const {
  Offload o;
  o.flags = Offload::kDataValid;
  Layout l = layout_of(frame);
  if (!holds_tcp(l, frame)) return o;
  size_t header = l.transport + (size_t{frame[l.transport + 12u]} >> 4 << 2);
  u16 size = segment_size_[flow_hash(frame) % segment_size_.size()];
  if (size < kMinSegment) size = 536;  // RFC 9293 3.7.1: without the option
  if (header > frame.size() || frame.size() - header <= size) return o;
  o.flags = Offload::kNeedsChecksum;
  o.gso_type = l.ip4 ? Offload::kTcp4 : Offload::kTcp6;
  o.header_length = static_cast<u16>(header);
  o.gso_size = size;
  o.checksum_start = l.transport;
  o.checksum_offset = 16;
  size_t length = frame.size() - l.transport;
  auto addresses = l.ip4 ? frame.subspan(l.network + 12u, 8) : frame.subspan(l.network + 8u, 32);
  u32 sum = checksum_add(addresses) + kTcp + static_cast<u32>(length);
  put16(frame, l.transport + 16u, static_cast<u16>(~checksum_end(sum)));
  return o;
}

void UserPort::packet(std::span<const u8> bytes) {
  if (bytes.size() < kEthernetHeader || bytes.size() > kMaxFrame ||
      incoming_bytes_ + bytes.size() > kWaiting)
    return;  // TCP sends again
  closed_windows_.sees(bytes, input_);
  auto queue = [&](const Offload& o, std::vector<u8> frame) {
    incoming_bytes_ += frame.size();
    incoming_.push_back({o, std::move(frame)});
  };
  std::vector<u8> frame(bytes.begin(), bytes.end());
  Offload o = offload_for(frame);
  if (o.gso_type || frame.size() <= kGuestMtu + kEthernetHeader) return queue(o, std::move(frame));
  fragment(frame, kGuestMtu, [&](std::span<const u8> part) {
    queue({}, {part.begin(), part.end()});
  });
}

void UserPort::deliver() {
  while (!incoming_.empty() && !refused_) {
    Waiting& next = incoming_.front();
    if (events_.receive && !events_.receive(next.offload, next.frame, 0)) {
      refused_ = true;
      return;
    }
    incoming_bytes_ -= next.frame.size();
    incoming_.pop_front();
  }
}

void UserPort::watch() {
  asked_.clear();
  u32 timeout = ~u32{0};
  ::slirp_pollfds_fill(slirp_, &timeout, &Callbacks::add_poll, this);
  // With a guest that takes nothing, the data stays in the host's sockets.
  bool hold = incoming_bytes_ > kWaiting / 4;
  std::map<int, u32> wanted;
  for (const Watched& w : asked_) {
    u32 events = w.events & SLIRP_POLL_OUT ? u32{EPOLLOUT} : 0;
    if (!hold && w.events & SLIRP_POLL_IN) events |= EPOLLIN;
    if (!hold && w.events & SLIRP_POLL_PRI) events |= EPOLLPRI;
    if (events) wanted[w.fd] |= events;
  }
  for (auto it = watched_.begin(); it != watched_.end();) {
    if (wanted.contains(it->first)) {
      ++it;
      continue;
    }
    ::epoll_ctl(sockets_.get(), EPOLL_CTL_DEL, it->first, nullptr);
    it = watched_.erase(it);
  }
  for (auto [fd, events] : wanted) {
    auto it = watched_.find(fd);
    if (it != watched_.end() && it->second == events) continue;
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(sockets_.get(), EPOLL_CTL_MOD, fd, &event) < 0)
      ::epoll_ctl(sockets_.get(), EPOLL_CTL_ADD, fd, &event);
    watched_[fd] = events;
  }
  if (timeout == ~u32{0}) return;
  Nanos deadline = clock_.now() + Nanos{timeout} * 1'000'000;
  if (timeout_ && timeout_at_ <= deadline) return;  // comes soon enough and looks again
  loop_.cancel(timeout_);
  timeout_at_ = deadline;
  timeout_ = loop_.call_at(deadline, [alive = std::weak_ptr(self_)] {
    auto p = alive.lock();
    if (!p) return;
    (*p)->timeout_ = 0;
    (*p)->on_sockets();
  });
}

void UserPort::on_sockets() {
  epoll_event events[64];
  int n = ::epoll_wait(sockets_.get(), events, std::size(events), 0);
  ready_.clear();
  for (int i = 0; i < n; ++i) ready_[events[i].data.fd] = events[i].events;
  run([&] {
    ::slirp_pollfds_poll(slirp_, n < 0, &Callbacks::revents, this);
    if (closed_windows_.empty()) return;
    bool drained = std::any_of(ready_.begin(), ready_.end(),
                               [](const auto& r) { return (r.second & EPOLLOUT) != 0; });
    if (drained) closed_windows_.probe([&](std::span<const u8> frame) { input(frame); });
  });
  ready_.clear();
}

}  // namespace skerry::net
