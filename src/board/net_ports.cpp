#include "board/net_ports.hpp"

#include <cstdlib>
#include <filesystem>

#include "net/switch_port.hpp"
#include "net/tap.hpp"
#include "net/user.hpp"

namespace skerry::board {

namespace {

Result<std::unique_ptr<net::Port>> connect_user(const schema::NetSpec& spec, std::string_view name,
                                                EventLoop& loop, const Clock& clock) {
  net::UserSetup setup;
  setup.restricted = spec.restricted;
  setup.hostname = name;
  for (const std::string& text : spec.hostfwd) {
    schema::HostForward f = TRY(schema::parse_hostfwd(text));
    setup.forwards.push_back({f.udp, f.host, f.host_port, f.guest, f.guest_port});
  }
  return TRY(net::UserPort::create(loop, clock, setup));
}

/// Beside this program; $SKERRY_SWITCH names another.
Result<std::string> switch_program() {
  if (const char* named = std::getenv("SKERRY_SWITCH"); named && *named) return std::string(named);
  std::error_code failed;
  auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (failed)
    return fail_hint("mount /proc, or set SKERRY_SWITCH to the path of skerry-switch",
                     "cannot read /proc/self/exe: {}", failed.message());
  return (self.parent_path() / "skerry-switch").string();
}

net::SwitchRequest::Uplink uplink_of(schema::Uplink uplink) {
  switch (uplink) {
    case schema::Uplink::user: return net::SwitchRequest::Uplink::user;
    case schema::Uplink::tap: return net::SwitchRequest::Uplink::tap;
    case schema::Uplink::none: break;
  }
  return net::SwitchRequest::Uplink::none;
}

Result<std::unique_ptr<net::Port>> connect_switch(const schema::NetSpec& spec,
                                                  const CardNames& card, EventLoop& loop) {
  net::SwitchPortSetup setup;
  setup.name = spec.name;
  setup.program = TRY(switch_program());
  net::SwitchRequest& request = setup.request;
  request.uplink = uplink_of(spec.uplink);
  net::put_text(request.ifname, spec.ifname);
  net::put_text(request.bridge, spec.bridge);
  request.rate = spec.rate.empty() ? 0 : schema::parse_rate(spec.rate).value_or(0);
  request.vlan = static_cast<u16>(spec.vlan);
  request.isolated = spec.isolated;
  request.mac = card.mac;
  net::put_text(request.owner, card.machine + "/" + card.card);
  return TRY(net::SwitchPort::create(loop, std::move(setup)));
}

}  // namespace

Result<std::unique_ptr<net::Port>> connect(const schema::NetSpec& spec, const CardNames& card,
                                           EventLoop& loop, const Clock& clock) {
  switch (spec.kind) {
    case schema::NetKind::user: break;
    case schema::NetKind::switch_: return connect_switch(spec, card, loop);
    case schema::NetKind::tap:
      return TRY(net::TapPort::create(
          loop, {.ifname = spec.ifname, .bridge = spec.bridge, .queues = spec.queues}));
  }
  return connect_user(spec, card.machine, loop, clock);
}

}  // namespace skerry::board
