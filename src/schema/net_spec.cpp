#include "schema/net_spec.hpp"

#include <arpa/inet.h>

#include <algorithm>

#include "schema/key_value.hpp"

namespace skerry::schema {

namespace {

bool is_address(const std::string& text) {
  in6_addr any;
  return text.empty() || ::inet_pton(AF_INET, text.c_str(), &any) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), &any) == 1;
}

/// "127.0.0.1:22", "[::1]:22", ":22".
bool split_port(std::string_view text, u64 least, std::string& host, u16& port) {
  size_t colon = text.rfind(':');
  if (colon == text.npos) return false;
  std::string_view name = text.substr(0, colon);
  if (name.starts_with('[') && name.ends_with(']')) name = name.substr(1, name.size() - 2);
  host = name;
  auto number = parse_number(text.substr(colon + 1));
  if (!number || *number < least || *number > 65535) return false;
  port = static_cast<u16>(*number);
  return true;
}

}  // namespace

Result<NetSpec> NetSpec::from_text(std::string_view text) {
  NetSpec net;
  auto reader = TRY(KeyValueReader::split(fmt::format("kind={}", text)));
  NetSpec::describe(net, reader);
  TRY_VOID(reader.finish());
  return net;
}

Result<HostForward> parse_hostfwd(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return fail_hint("write tcp:ADDRESS:PORT-ADDRESS:PORT, as tcp:127.0.0.1:2222-:22",
                     "hostfwd: '{}' {}", text, why);
  };
  HostForward f;
  if (!text.starts_with("tcp:") && !text.starts_with("udp:"))
    return bad("begins with neither tcp: nor udp:");
  f.udp = text.starts_with("udp:");
  std::string_view rest = text.substr(4);
  size_t dash = rest.find('-');
  if (dash == rest.npos) return bad("does not say where it leads");
  if (!split_port(rest.substr(0, dash), 0, f.host, f.host_port))
    return bad("has no host port from 0 to 65535");
  if (!split_port(rest.substr(dash + 1), 1, f.guest, f.guest_port))
    return bad("has no guest port from 1 to 65535");
  if (!is_address(f.host)) return bad("has a host address that is not numeric");
  if (!is_address(f.guest)) return bad("has a guest address that is not numeric");
  return f;
}

std::string to_text(const HostForward& f) {
  auto address = [](const std::string& text) {
    return text.find(':') == text.npos ? text : "[" + text + "]";
  };
  return fmt::format("{}:{}:{}-{}:{}", f.udp ? "udp" : "tcp", address(f.host), f.host_port,
                     address(f.guest), f.guest_port);
}

std::optional<std::array<u8, 6>> parse_mac(std::string_view text) {
  std::array<u8, 6> mac;
  if (text.size() != 17) return std::nullopt;
  auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < 6; ++i) {
    int high = digit(text[3 * i]), low = digit(text[3 * i + 1]);
    if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':')) return std::nullopt;
    mac[i] = static_cast<u8>(high << 4 | low);
  }
  return mac;
}

std::optional<u64> parse_rate(std::string_view text) {
  u64 unit = 1;
  if (!text.empty()) {
    switch (text.back() | 0x20) {
      case 'k': unit = 1000; break;
      case 'm': unit = 1'000'000; break;
      case 'g': unit = 1'000'000'000; break;
      default: break;
    }
  }
  if (unit > 1) text.remove_suffix(1);
  auto number = parse_number(text);
  if (!number || *number > 1'000'000'000'000 / unit || *number * unit < 8000) return std::nullopt;
  return *number * unit;
}

namespace {

bool is_switch_name(std::string_view name) {
  if (name.empty() || name.size() > 32 || name[0] == '.' || name[0] == '-') return false;
  return name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == name.npos;
}

/// An item of another kind of card would silently do nothing.
Result<> check_kind(const NetSpec& net, std::string_view what) {
  auto only = [&](NetKind kind, bool given, std::string_view item) -> Result<> {
    if (!given || net.kind == kind) return {};
    return fail_hint(fmt::format("leave {} out, or write --net {},...", item, name_of(kind)),
                     "{}: '{}' has no meaning for kind '{}'", what, item, name_of(net.kind));
  };
  TRY_VOID(only(NetKind::user, !net.hostfwd.empty(), "hostfwd"));
  TRY_VOID(only(NetKind::user, net.restricted, "restrict"));
  TRY_VOID(only(NetKind::switch_, !net.name.empty(), "name"));
  TRY_VOID(only(NetKind::switch_, net.vlan != 0, "vlan"));
  TRY_VOID(only(NetKind::switch_, net.isolated, "isolated"));
  TRY_VOID(only(NetKind::switch_, !net.rate.empty(), "rate"));
  TRY_VOID(only(NetKind::switch_, net.uplink != Uplink::none, "uplink"));
  const bool device = !net.ifname.empty() || !net.bridge.empty();
  if (net.kind == NetKind::switch_ && device && net.uplink != Uplink::tap)
    return fail_hint("write uplink=tap as well, or leave it out",
                     "{}: '{}' names a switch's uplink, which is not a tap", what,
                     net.ifname.empty() ? "bridge" : "ifname");
  if (net.kind == NetKind::switch_) return {};
  TRY_VOID(only(NetKind::tap, !net.ifname.empty(), "ifname"));
  return only(NetKind::tap, !net.bridge.empty(), "bridge");
}

/// As Linux takes them (dev_valid_name), without what stands for a number to be chosen.
bool is_interface_name(std::string_view name) {
  if (name.empty() || name.size() > 15 || name == "." || name == "..") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%';
  });
}

}  // namespace

Result<> validate(const NetSpec& net, std::string_view what) {
  TRY_VOID(check_kind(net, what));
  if (net.kind == NetKind::switch_) {
    if (net.name.empty())
      return fail_hint("write --net switch,name=NAME", "{}: the switch has no name", what);
    if (!is_switch_name(net.name))
      return fail_hint("use letters, digits, '-', '_' and '.', at most 32",
                       "{}: '{}' is no name for a switch", what, net.name);
    if (!net.rate.empty() && !parse_rate(net.rate))
      return fail_hint("write bits per second from 8K to 1000G, as 100M", "{}: '{}' is no rate",
                       what, net.rate);
  }
  const bool tap = net.kind == NetKind::tap || net.uplink == Uplink::tap;
  if (tap && net.ifname.empty() && net.bridge.empty())
    return fail_hint("write ifname=NAME, or bridge=NAME to have one made",
                     "{}: neither a tap device nor a bridge is named", what);
  for (const std::string* name : {&net.ifname, &net.bridge})
    if (!name->empty() && !is_interface_name(*name))
      return fail_hint("see the names that there are: ip link",
                       "{}: '{}' is no name for a network device", what, *name);
  if (!net.mac.empty()) {
    auto mac = parse_mac(net.mac);
    if (!mac)
      return fail_hint("write six bytes in hexadecimal, as 52:54:00:12:34:56",
                       "{}: '{}' is no MAC address", what, net.mac);
    if ((*mac)[0] & 1)
      return fail_hint("make its first byte even", "{}: {} is a multicast address, not a card's",
                       what, net.mac);
    if (*mac == std::array<u8, 6>{})
      return fail("{}: {} is not the address of a card", what, net.mac);
  }
  for (size_t i = 0; i < net.hostfwd.size(); ++i) {
    TRY_VOID(parse_hostfwd(net.hostfwd[i]));
  }
  return {};
}

}  // namespace skerry::schema
