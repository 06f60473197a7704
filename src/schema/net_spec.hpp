// NetSpec: one network card and what its other end is connected to: `--net user,hostfwd=...`.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "schema/field.hpp"

namespace skerry::schema {

enum class NetKind : u8 { user, switch_, tap };
constexpr std::array<std::string_view, 3> enum_names(NetKind) {
  return {"user", "switch", "tap"};
}

/// How a switch reaches the world.
enum class Uplink : u8 { none, user, tap };
constexpr std::array<std::string_view, 3> enum_names(Uplink) {
  return {"none", "user", "tap"};
}

struct NetSpec {
  NetKind kind = NetKind::user;
  std::string mac;  ///< "" one made from the machine's name and the card's number
  u32 mtu = 1500;
  u32 queues = 1;  ///< pairs
  bool link_down = false;
  // user
  std::vector<std::string> hostfwd;  ///< see parse_hostfwd
  bool restricted = false;
  // switch
  std::string name;
  u32 vlan = 0;
  bool isolated = false;
  std::string rate;  ///< see parse_rate; "" no limit
  Uplink uplink = Uplink::none;
  // tap, and a switch whose uplink is one
  std::string ifname, bridge;  ///< at least one of them

  static constexpr std::string_view grammar =
      "user[,hostfwd=tcp:ADDRESS:PORT-:PORT][,restrict] | "
      "switch,name=NAME[,vlan=N][,isolated][,rate=RATE]"
      "[,uplink=user|uplink=tap,ifname=NAME|bridge=NAME] | "
      "tap,ifname=NAME|bridge=NAME, "
      "each [,mac=MAC][,mtu=N][,queues=N][,link_down]";
  /// The kind, then KEY=VALUE items.
  static Result<NetSpec> from_text(std::string_view text);
  static void describe(auto& s, auto& v) {
    v.field({.name = "kind", .doc = "what the card is connected to"}, s.kind);
    v.field({.name = "mac", .doc = "its address", .value = "MAC"}, s.mac);
    v.field({.name = "mtu", .doc = "longest packet in bytes", .min = 68, .max = 65521}, s.mtu);
    v.field({.name = "queues", .doc = "pairs of queues", .min = 1, .max = 8}, s.queues);
    v.field({.name = "link_down", .doc = "the cable is unplugged at the start"}, s.link_down);
    v.field({.name = "hostfwd",
             .doc = "user: a host socket that leads to the guest",
             .value = "tcp|udp:ADDRESS:PORT-ADDRESS:PORT"},
            s.hostfwd);
    v.field({.name = "restrict", .doc = "user: the guest reaches nothing outside"}, s.restricted);
    v.field({.name = "name", .doc = "switch: which one", .value = "NAME"}, s.name);
    v.field({.name = "vlan", .doc = "switch: the port's VLAN", .max = 4094}, s.vlan);
    v.field({.name = "isolated", .doc = "switch: reaches no other isolated port"}, s.isolated);
    v.field({.name = "rate", .doc = "switch: most that it may send", .value = "RATE"}, s.rate);
    v.field({.name = "uplink", .doc = "switch: gives the VLAN a way out"}, s.uplink);
    v.field({.name = "ifname", .doc = "tap: the host's device", .value = "NAME"}, s.ifname);
    v.field({.name = "bridge", .doc = "tap: the host's bridge to be in", .value = "NAME"},
            s.bridge);
  }
  bool operator==(const NetSpec&) const = default;
};

/// A host socket that leads to the guest: "tcp:127.0.0.1:2222-:22". Addresses are numeric, IPv6
/// ones in brackets. Host port 0: one that is free, chosen when the machine starts.
struct HostForward {
  bool udp = false;
  std::string host;  ///< "" every address of the host
  u16 host_port = 0;
  std::string guest;  ///< "" the first address that the guest's DHCP hands out
  u16 guest_port = 0;
};
Result<HostForward> parse_hostfwd(std::string_view text);
/// As parse_hostfwd() takes it.
std::string to_text(const HostForward& forward);

/// "52:54:00:12:34:56"; nullopt if it is none.
std::optional<std::array<u8, 6>> parse_mac(std::string_view text);

/// "100M": bits per second with K, M or G (powers of 1000); at least 8K. nullopt if it is none.
std::optional<u64> parse_rate(std::string_view text);

/// What does not go together in one card; `what` names it in messages.
Result<> validate(const NetSpec& net, std::string_view what);

}  // namespace skerry::schema
