// ChannelSpec and others: what leads from a guest to programs of the host, but for the network.
#pragma once

#include <array>
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

/// How virtiofsd confines itself; `chroot` is for containers.
enum class ShareSandbox : u8 { namespace_, chroot };
constexpr std::array<std::string_view, 2> enum_names(ShareSandbox) {
  return {"namespace", "chroot"};
}

/// A folder of the host: `--share tag=home,path=/home`.
struct ShareSpec {
  std::string tag, path;
  bool readonly = false;
  ShareSandbox sandbox = ShareSandbox::namespace_;

  static void describe(auto& s, auto& v) {
    v.field(
        {.name = "tag", .doc = "what the guest mounts it by", .value = "NAME", .required = true},
        s.tag);
    v.field({.name = "path", .doc = "the folder", .value = "DIR", .required = true}, s.path);
    v.field({.name = "readonly", .doc = "the guest cannot change anything in it"}, s.readonly);
    v.field({.name = "sandbox", .doc = "how virtiofsd confines itself; chroot: in a container"},
            s.sandbox);
  }
  bool operator==(const ShareSpec&) const = default;
};

struct MachineSpec;
/// Part of validate().
Result<> validate_channels(const MachineSpec& spec);

}  // namespace skerry::schema
