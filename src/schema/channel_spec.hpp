// ChannelSpec and others: what leads from a guest to programs of the host, but for the network.
#pragma once

#include <string>
#include <vector>

#include "schema/field.hpp"

namespace skerry::schema {

/// The virtio socket device: `--vsock cid=3,socket=/tmp/vm`.
struct VsockSpec {
  u32 cid = 0;         ///< the guest's, from 3; 0: no device
  std::string socket;  ///< where the host connects; SOCKET_PORT is where the guest's connections go

  static void describe(auto& s, auto& v) {
    v.field({.name = "cid", .doc = "the guest's context ID, from 3", .value = "N"}, s.cid);
    v.field({.name = "socket",
             .doc = "unix socket that leads to the guest; PATH_P is the host's port P",
             .value = "PATH"},
            s.socket);
  }
  bool empty() const { return *this == VsockSpec{}; }
  bool operator==(const VsockSpec&) const = default;
};

/// A port of the virtio console: `--channel name=org.qemu.guest_agent.0,socket=/tmp/agent`.
struct ChannelSpec {
  std::string name;
  std::string socket;

  static void describe(auto& s, auto& v) {
    v.field({.name = "name",
             .doc = "what the port is called in the guest",
             .value = "NAME",
             .required = true},
            s.name);
    v.field({.name = "socket",
             .doc = "unix socket where a program of the host connects",
             .value = "PATH",
             .required = true},
            s.socket);
  }
  bool operator==(const ChannelSpec&) const = default;
};

struct MachineSpec;
/// Part of validate().
Result<> validate_channels(const MachineSpec& spec);

}  // namespace skerry::schema
