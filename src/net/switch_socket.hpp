// Where a switch is found and what is said on its socket.
//
// A switch is a process of the user's (skerry-switch), started by the first machine that wants it
// and gone after the last. Its socket is NAME.sock in runtime_directory(), a SOCK_SEQPACKET one
// that carries one Request and its answer: for `attach` a Reply with three descriptors (the rings'
// memfd, the eventfd that the switch waits for, the eventfd that the port waits for), after which
// the open socket stands for the attachment; for `show` JSON text.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/fd.hpp"
#include "net/port.hpp"

namespace skerry::net {

struct SwitchRequest {
  static constexpr u32 kMagic = 0x774b'5331;  // "1SKw"
  static constexpr u32 kVersion = 2;
  static constexpr size_t kCommon = 12;  ///< magic, version and kind, the same in all releases
  enum Kind : u32 { attach = 1, show = 2 };
  enum class Uplink : u32 { none, user, tap };
  u32 magic = kMagic, version = kVersion;
  u32 kind = attach;
  Uplink uplink = Uplink::none;  ///< what the switch gets in this port's VLAN
  u64 rate = 0;                  ///< bits per second, 0: no limit
  u16 vlan = 0;
  u8 isolated = 0;
  Mac mac{};
  char owner[87] = {};                    ///< "web/net0"
  char ifname[16] = {}, bridge[16] = {};  ///< for Uplink::tap: see TapSetup
};
static_assert(sizeof(SwitchRequest) == 152);

struct SwitchReply {
  u32 magic = SwitchRequest::kMagic, version = SwitchRequest::kVersion;
  u32 good = 0;
  char what[500] = {}, hint[500] = {};
};

/// Text in one of the fields above: what does not fit is cut off.
template <size_t N>
void put_text(char (&to)[N], std::string_view from) {
  size_t n = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), n);
  to[n] = 0;
}

/// Letters, digits, '-', '_' and '.', at most 32, not beginning with '.' or '-'.
bool valid_switch_name(std::string_view name);

/// A directory of this user's alone: $XDG_RUNTIME_DIR/skerry, /run/user/UID/skerry or
/// /tmp/skerry-UID. Made if need be; refused if anybody else could write there.
Result<std::string> runtime_directory();

/// Of the switch called `name`; nullopt if none runs.
Result<std::optional<Fd>> connect_switch(const std::string& name);
/// The same, starting it if need be with `program` (skerry-switch).
Result<Fd> start_switch(const std::string& name, const std::string& program);
/// For the switch itself, once nobody is attached: nullopt: the socket is gone, nobody can come any
/// more; else somebody came meanwhile. `listener` is its socket.
Result<std::optional<Fd>> retire_switch(const std::string& name, int listener);
/// What the running switches are called, sorted.
Result<std::vector<std::string>> list_switches();

/// One packet with up to three descriptors.
Result<> send_packet(int socket, std::span<const u8> bytes, std::span<const int> descriptors = {});
/// The packet's length; 0: closed. Waits at most `timeout_ms`.
Result<size_t> receive_packet(int socket, std::span<u8> bytes, std::vector<Fd>& descriptors,
                              int timeout_ms);

}  // namespace skerry::net
