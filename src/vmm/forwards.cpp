#include "vmm/forwards.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/fd.hpp"

namespace skerry::vmm {

namespace {

constexpr u16 kSsh = 22;

Result<u16> free_port(const schema::HostForward& forward) {
  sockaddr_storage storage{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  socklen_t length = sizeof *v4;
  if (forward.host.empty() || ::inet_pton(AF_INET, forward.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
  } else {
    ::inet_pton(AF_INET6, forward.host.c_str(), &v6->sin6_addr);
    v6->sin6_family = AF_INET6;
    length = sizeof *v6;
  }
  Fd probe(::socket(storage.ss_family, (forward.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  if (!probe || ::bind(probe.get(), address, length) < 0 ||
      ::getsockname(probe.get(), address, &length) < 0)
    return fail_errno("cannot find a free port for hostfwd " + to_text(forward));
  return ntohs(storage.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
}

}  // namespace

Result<bool> choose_ports(schema::MachineSpec& spec) {
  bool any = false;
  for (schema::NetSpec& net : spec.nets) {
    for (std::string& text : net.hostfwd) {
      schema::HostForward forward = TRY(schema::parse_hostfwd(text));
      if (forward.host_port != 0) continue;
      forward.host_port = TRY(free_port(forward));
      text = to_text(forward);
      any = true;
    }
  }
  return any;
}

std::string ssh_advice(const schema::MachineSpec& spec) {
  bool user_net = false;
  for (const schema::NetSpec& net : spec.nets) {
    user_net |= net.kind == schema::NetKind::user;
    for (const std::string& text : net.hostfwd) {
      auto forward = schema::parse_hostfwd(text);
      if (!forward || forward->udp || forward->guest_port != kSsh) continue;
      // What it is for is known only where a key was given.
      std::string who = spec.user.empty() ? "" : spec.user + "@";
      std::string host = forward->host.empty() || forward->host == "0.0.0.0" ? "127.0.0.1"
                         : forward->host == "::"                             ? "::1"
                                                                             : forward->host;
      if (!spec.control.empty()) return fmt::format("log in with: skerry ssh {}", spec.control);
      return fmt::format("log in with: ssh -p {} {}{}", forward->host_port, who, host);
    }
  }
  if (!user_net || spec.ssh_keys.empty()) return {};
  return "nothing leads to the guest's ssh server: add hostfwd=tcp:127.0.0.1:0-:22 to --net user";
}

}  // namespace skerry::vmm
