#include "net/switch_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "net/offload.hpp"
#include "net/user.hpp"

namespace skerry::net {

namespace {

constexpr Nanos kFirstGuest = 10'000'000'000;
/// What is judged of a frame: Ethernet header and a VLAN tag.
constexpr size_t kJudged = 18;

/// Printable ASCII only: it ends up on terminals.
std::string clean(const char* text, size_t most) {
  std::string out;
  for (size_t i = 0; i < most && text[i]; ++i)
    out += text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
  return out;
}

}  // namespace

Result<std::unique_ptr<SwitchServer>> SwitchServer::create(EventLoop& loop, const Clock& clock,
                                                           std::string name, Fd listener,
                                                           std::function<void()> empty) {
  std::unique_ptr<SwitchServer> server(new SwitchServer(loop, clock, std::move(name)));
  server->listener_ = std::move(listener);
  server->empty_ = std::move(empty);
  TRY_VOID(
      loop.watch(server->listener_.get(), EPOLLIN, [raw = server.get()](u32) { raw->accept(); }));
  loop.call_at(clock.now() + kFirstGuest, [alive = std::weak_ptr(server->self_)] {
    auto s = alive.lock();
    if (s && (*s)->is_empty()) (*s)->empty_();
  });
  return server;
}

SwitchServer::~SwitchServer() {
  self_.reset();
  loop_.unwatch(listener_.get());
  for (auto& [fd, socket] : strangers_) loop_.unwatch(fd);
  for (auto& [id, m] : members_) {
    if (m->uplink) continue;
    loop_.unwatch(m->socket.get());
    loop_.unwatch(m->to_switch.get());
    loop_.cancel(m->wait);
  }
}

SwitchServer::Member* SwitchServer::member(Switch::PortId id) {
  auto it = members_.find(id);
  return it == members_.end() ? nullptr : it->second.get();
}

void SwitchServer::accept() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket) welcome(std::move(socket));
}

void SwitchServer::welcome(Fd socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  bool ours = ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
              peer.uid == ::getuid();
  if (!ours || strangers_.size() >= kMostStrangers) return;
  int fd = socket.get();
  if (!loop_.watch(fd, EPOLLIN | EPOLLRDHUP, [this, fd](u32) { read_request(fd); })) return;
  strangers_[fd] = std::move(socket);
}

void SwitchServer::read_request(int fd) {
  auto it = strangers_.find(fd);
  if (it == strangers_.end()) return;
  Fd socket = std::move(it->second);
  strangers_.erase(it);
  loop_.unwatch(fd);
  SwitchRequest request;
  ssize_t got = ::recv(fd, &request, sizeof request, MSG_TRUNC);
  bool sensible =
      got >= static_cast<ssize_t>(SwitchRequest::kCommon) && request.magic == SwitchRequest::kMagic;
  if (sensible && request.kind == SwitchRequest::show) {
    std::string text = json();
    ::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } else if (sensible) {
    bool known = got == sizeof request && request.version == SwitchRequest::kVersion;
    Result<> done = known ? attach(socket, request) : fail("another release of Skerry");
    if (!done) {
      SwitchReply reply;
      put_text(reply.what, done.error().what);
      put_text(reply.hint, done.error().hint);
      (void)send_packet(fd, {reinterpret_cast<const u8*>(&reply), sizeof reply});
    }
  }
  if (is_empty()) empty_();
}

/// Takes `socket` over if all is well.
Result<> SwitchServer::attach(Fd& socket, const SwitchRequest& request) {
  if (members_.size() >= kMostMembers)
    return fail("it has {} ports, the most there can be", kMostMembers);
  if (request.vlan > 4094) return fail("there is no VLAN {}", request.vlan);
  Way way{
      request.uplink,
      {clean(request.ifname, sizeof request.ifname), clean(request.bridge, sizeof request.bridge)}};
  if (way.kind > SwitchRequest::Uplink::tap) return fail("there is no such uplink");
  auto m = std::make_unique<Member>();
  m->rings = TRY(SharedRings::make());
  m->to_switch = TRY(Fd::event());
  m->from_switch = TRY(Fd::event());
  m->reader = RingReader(m->rings.to_switch());
  m->writer = RingWriter(m->rings.from_switch());
  Switch::PortSetup setup;
  setup.owner = clean(request.owner, sizeof request.owner);
  setup.mac = request.mac;
  setup.vlan = request.vlan;
  setup.isolated = request.isolated;
  setup.rate = request.rate;
  m->id = TRY(switch_.add(std::move(setup), clock_.now()));
  Switch::PortId id = m->id;
  auto finish = [&]() -> Result<> {
    if (way.kind != SwitchRequest::Uplink::none) TRY_VOID(add_uplink(request.vlan, way));
    SwitchReply reply;
    reply.good = 1;
    int descriptors[] = {m->rings.fd(), m->to_switch.get(), m->from_switch.get()};
    TRY_VOID(send_packet(socket.get(), {reinterpret_cast<const u8*>(&reply), sizeof reply},
                         descriptors));
    TRY_VOID(loop_.watch(socket.get(), EPOLLIN | EPOLLRDHUP, [this, id](u32) { detach(id); }));
    return loop_.watch(m->to_switch.get(), EPOLLIN, [this, id](u32) {
      if (Member* self = member(id)) {
        drain_event(self->to_switch.get());
        serve(id);
      }
    });
  };
  if (auto done = finish(); !done) {
    loop_.unwatch(socket.get());
    switch_.remove(id);
    drop_idle_uplinks();
    return done;
  }
  m->socket = std::move(socket);
  signal_event(m->to_switch.get());
  members_[id] = std::move(m);
  return {};
}

void SwitchServer::detach(Switch::PortId id) {
  Member* m = member(id);
  if (!m) return;
  loop_.unwatch(m->socket.get());
  loop_.unwatch(m->to_switch.get());
  loop_.cancel(m->wait);
  switch_.remove(id);
  members_.erase(id);
  drop_idle_uplinks();
  if (is_empty()) empty_();
}

// ---- frames

void SwitchServer::serve_soon(Member& m) {
  if (std::exchange(m.posted, true)) return;
  loop_.post([alive = std::weak_ptr(self_), id = m.id] {
    auto s = alive.lock();
    Member* self = s ? (*s)->member(id) : nullptr;
    if (!self) return;
    self->posted = false;
    (*s)->serve(id);
  });
}

void SwitchServer::serve(Switch::PortId id) {
  Member* m = member(id);
  if (!m || m->uplink || m->wait) return;
  size_t frames = 0, bytes = 0;
  bool more = true;
  while (frames < kTurnFrames && bytes < kTurnBytes) {
    Nanos now = clock_.now();
    if (Nanos at = switch_.may_send(id, now)) {
      m->wait = loop_.call_at(at, [alive = std::weak_ptr(self_), id] {
        auto s = alive.lock();
        Member* self = s ? (*s)->member(id) : nullptr;
        if (!self) return;
        self->wait = 0;
        (*s)->serve(id);
      });
      more = false;
      break;
    }
    auto record = m->reader.peek();
    if (!record) {
      more = false;
      break;
    }
    u8 judged[kJudged];
    std::span<const u8> frame = record->frame;
    size_t n = std::min(frame.size(), kJudged);
    if (n) std::memcpy(judged, frame.data(), n);
    std::span<const u8> header(judged, n);
    Offload offload = record->offload;
    switch_.forward(id, header, frame.size(), now, [&](Switch::PortId to) {
      return deliver(to, offload, header, frame.subspan(n));
    });
    m->reader.pop();
    ++frames;
    bytes += frame.size();
  }
  wake_readers();
  m = member(id);
  if (!m) return;
  if (m->reader.broken() || m->writer.broken()) return detach(id);
  if (m->reader.writer_waits()) signal_event(m->from_switch.get());
  if (more) serve_soon(*m);
}

bool SwitchServer::deliver(Switch::PortId to, const Offload& offload, std::span<const u8> header,
                           std::span<const u8> rest) {
  Member* m = member(to);
  if (!m) return false;
  if (!m->uplink) {
    bool room = m->writer.write(offload, header, rest);
    m->wake |= room;
    return room;
  }
  // Out of shared memory first: what is checked must be what goes on.
  std::span<u8> frame(scratch_.data(), header.size() + rest.size());
  std::memcpy(frame.data(), header.data(), header.size());
  if (!rest.empty()) std::memcpy(frame.data() + header.size(), rest.data(), rest.size());
  return well_formed(offload, frame) && m->uplink->send(offload, frame, 0);
}

/// Once for all frames of a turn.
void SwitchServer::wake_readers() {
  for (auto& [id, m] : members_) {
    if (!std::exchange(m->wake, false)) continue;
    if (m->writer.reader_idle()) signal_event(m->from_switch.get());
  }
}

// ---- the way out

/// What is there already serves all who ask for the same.
Result<bool> SwitchServer::has_uplink(u16 vlan, const Way& way) {
  for (auto& [id, m] : members_) {
    if (!m->uplink) continue;
    const Switch::PortSetup& setup = switch_.find(id)->setup;
    std::string where = setup.vlan ? fmt::format("VLAN {}", setup.vlan) : "the common VLAN";
    if (setup.vlan == vlan) {
      if (m->way == way) return true;
      return fail_hint("leave uplink= out to use that one, or give the card another vlan=",
                       "{} has another uplink already: {}", where, m->uplink->describe());
    }
    if (!way.tap.ifname.empty() && m->uplink->describe() == "tap " + way.tap.ifname)
      return fail_hint("give each VLAN a device of its own: another ifname=",
                       "{} is the uplink of {} already", way.tap.ifname, where);
  }
  return false;
}

Result<std::unique_ptr<Port>> SwitchServer::open_uplink(const Way& way) {
  if (way.kind == SwitchRequest::Uplink::tap) return TRY(TapPort::create(loop_, way.tap));
  return TRY(UserPort::create(loop_, clock_, {}));
}

Result<> SwitchServer::add_uplink(u16 vlan, const Way& way) {
  if (TRY(has_uplink(vlan, way))) return {};
  auto m = std::make_unique<Member>();
  m->uplink = TRY(open_uplink(way));
  m->way = way;
  Switch::PortSetup setup;
  setup.owner = "uplink " + m->uplink->describe();
  setup.vlan = vlan;
  setup.uplink = true;
  m->id = TRY(switch_.add(std::move(setup), clock_.now()));
  m->uplink->attach({.receive =
                         [this, id = m->id](const Offload& o, std::span<const u8> frame, unsigned) {
                           from_uplink(id, o, frame);
                           return true;
                         },
                     .writable = {},
                     .carrier =
                         [this, id = m->id](bool up) {
                           if (!up) drop_uplink(id);
                         }});
  members_[m->id] = std::move(m);
  return {};
}

/// Its device was deleted, or nobody needs it.
void SwitchServer::drop_uplink(Switch::PortId id) {
  auto it = members_.find(id);
  if (it == members_.end()) return;
  switch_.remove(id);
  // Not from inside its own callback.
  loop_.post([gone = std::shared_ptr<Member>(std::move(it->second))] {});
  members_.erase(it);
}

void SwitchServer::from_uplink(Switch::PortId id, const Offload& offload,
                               std::span<const u8> frame) {
  std::span<const u8> header = frame.first(std::min(frame.size(), kJudged));
  switch_.forward(id, header, frame.size(), clock_.now(), [&](Switch::PortId to) {
    return deliver(to, offload, header, frame.subspan(header.size()));
  });
  wake_readers();
}

/// An uplink stays as long as a machine is in its VLAN.
void SwitchServer::drop_idle_uplinks() {
  std::vector<Switch::PortId> idle;
  for (auto& [up, m] : members_) {
    u16 vlan = switch_.find(up)->setup.vlan;
    bool used = !m->uplink;
    for (auto& [id, port] : switch_.ports())
      used = used || (!port.setup.uplink && port.setup.vlan == vlan);
    if (!used) idle.push_back(up);
  }
  for (Switch::PortId id : idle) drop_uplink(id);
}

std::string SwitchServer::json() {
  using Json = nlohmann::ordered_json;
  Json ports = Json::array(), table = Json::array();
  const Nanos now = clock_.now();
  switch_.settle(now);
  for (const auto& [id, p] : switch_.ports()) {
    const Switch::PortCounters& c = p.counters;
    Json port{{"port", id}, {"owner", p.setup.owner}};
    port["mac"] = p.setup.uplink ? Json(nullptr) : Json(to_text(p.setup.mac));
    port["vlan"] = p.setup.vlan;
    port["isolated"] = p.setup.isolated;
    port["uplink"] = p.setup.uplink;
    port["rate"] = p.setup.rate;
    port["rate_unused"] = c.rate_unused;
    port["in"] = {{"frames", c.in_frames}, {"bytes", c.in_bytes}};
    port["out"] = {{"frames", c.out_frames}, {"bytes", c.out_bytes}};
    port["dropped"] = {{"no_room", c.out_dropped},
                       {"spoofed", c.spoofed},
                       {"tagged", c.tagged},
                       {"malformed", c.errors},
                       {"unreachable", c.unreachable}};
    ports.push_back(std::move(port));
  }
  for (const auto& [key, entry] : switch_.table()) {
    bool learned = switch_.ports().at(entry.port).setup.uplink;
    Json row{{"mac", to_text(key.mac)}, {"vlan", key.vlan}, {"port", entry.port}};
    row["learned"] = learned;
    row["age_seconds"] = learned ? Json((now - entry.seen) / 1'000'000'000) : Json(nullptr);
    table.push_back(std::move(row));
  }
  Json report{{"name", name_}, {"pid", ::getpid()}};
  report["monotonic_seconds"] = static_cast<double>(now) / 1e9;
  report["ports"] = std::move(ports);
  report["mac_table"] = std::move(table);
  return report.dump(2) + "\n";
}

}  // namespace skerry::net
