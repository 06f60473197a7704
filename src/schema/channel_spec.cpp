#include "schema/channel_spec.hpp"

#include "schema/machine_spec.hpp"

namespace skerry::schema {

namespace {
constexpr size_t kMaxSocketPath = 107;  // sockaddr_un::sun_path, with its zero
constexpr size_t kMaxPortSuffix = 11;   // "_4294967295"

constexpr size_t kMaxChannels = 8;  // virtio::Ports
constexpr size_t kMaxName = 63;
constexpr size_t kMaxShares = 8;
constexpr size_t kMaxTag = 36;  // virtio 1.2 5.11.4

Result<> validate_vsock(const VsockSpec& v) {
  if (v.empty()) return {};
  if (v.cid < 3 || v.cid == ~u32{0})
    return fail_hint("write cid=3 or more: 0 to 2 and 4294967295 have meanings of their own",
                     "vsock: {} is no context ID for a guest", v.cid);
  if (v.socket.empty()) return fail_hint("add socket=PATH", "vsock: no socket is given");
  if (v.socket.size() + kMaxPortSuffix > kMaxSocketPath)
    return fail_hint("use a shorter path, as /tmp/NAME",
                     "vsock: the socket's path has at most {} bytes",
                     kMaxSocketPath - kMaxPortSuffix);
  return {};
}

/// The guest makes a file of that name.
bool is_port_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && name[0] != '.' &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == name.npos;
}

Result<> validate_channel(const ChannelSpec& c) {
  if (!is_port_name(c.name))
    return fail_hint(
        fmt::format("use letters, digits, '-', '_' and '.', at most {}, and no '.' first",
                    kMaxName),
        "channel: '{}' is no name for a port", c.name);
  if (c.socket.empty())
    return fail_hint("add socket=PATH", "channel {}: no socket is given", c.name);
  if (c.socket.size() > kMaxSocketPath)
    return fail_hint("use a shorter path, as /tmp/NAME",
                     "channel {}: a socket's path has at most {} bytes", c.name, kMaxSocketPath);
  return {};
}

Result<> validate_share(const ShareSpec& s) {
  if (s.tag.empty() || s.tag.size() > kMaxTag || s.tag.find_first_of("/\n") != s.tag.npos)
    return fail_hint(fmt::format("use 1 to {} bytes without '/'", kMaxTag), "share: '{}' is no tag",
                     s.tag);
  if (s.path.empty()) return fail_hint("add path=DIR", "share {}: no folder is given", s.tag);
  if (s.path.find(',') != s.path.npos)
    return fail_hint("share a link to it, or rename it",
                     "share {}: virtiofsd takes no path with a comma", s.tag);
  return {};
}

}  // namespace

Result<> validate_channels(const MachineSpec& spec) {
  TRY_VOID(validate_vsock(spec.vsock));
  const auto& channels = spec.channels;
  if (channels.size() > kMaxChannels) return fail("more than {} channels", kMaxChannels);
  for (size_t i = 0; i < channels.size(); ++i) {
    TRY_VOID(validate_channel(channels[i]));
    for (size_t j = 0; j < i; ++j) {
      if (channels[j].name == channels[i].name)
        return fail_hint("give each a name of its own", "two channels are called {}",
                         channels[i].name);
      if (channels[j].socket == channels[i].socket)
        return fail_hint("give each a socket of its own", "{} is the socket of two channels",
                         channels[i].socket);
    }
  }
  if (spec.shares.size() > kMaxShares) return fail("more than {} shares", kMaxShares);
  for (size_t i = 0; i < spec.shares.size(); ++i) {
    TRY_VOID(validate_share(spec.shares[i]));
    for (size_t j = 0; j < i; ++j)
      if (spec.shares[j].tag == spec.shares[i].tag)
        return fail_hint("give each a tag of its own", "two shares have the tag {}",
                         spec.shares[i].tag);
  }
  return {};
}

}  // namespace skerry::schema
