// Asked of the kernel by RTM_GETLINK (rtnetlink(7)): the answer's IFLA_LINKINFO holds an
// IFLA_INFO_DATA of the driver's, which for tun and tap has IFLA_TUN_* (linux/if_link.h).
#include "net/tap_queues.hpp"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cstring>
#include <span>

#include "base/fd.hpp"

namespace skerry::net {

namespace {

/// The payload of the first attribute of that type; empty if there is none.
std::span<const u8> attribute(std::span<const u8> list, u16 type) {
  while (list.size() >= sizeof(rtattr)) {
    rtattr head;
    std::memcpy(&head, list.data(), sizeof head);
    if (head.rta_len < sizeof head || head.rta_len > list.size()) break;
    if ((head.rta_type & NLA_TYPE_MASK) == type)
      return list.subspan(sizeof head, head.rta_len - sizeof head);
    list = list.subspan(std::min<size_t>(NLMSG_ALIGN(head.rta_len), list.size()));
  }
  return {};
}

std::optional<u32> number(std::span<const u8> list, u16 type) {
  auto bytes = attribute(list, type);
  u32 value;
  if (bytes.size() != sizeof value) return std::nullopt;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

std::optional<u32> tap_queues(const std::string& device) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.link.ifi_index = static_cast<int>(::if_nametoindex(device.c_str()));
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket || ::send(socket.get(), &request, sizeof request, 0) != sizeof request)
    return std::nullopt;
  u8 answer[16384];
  ssize_t got = ::recv(socket.get(), answer, sizeof answer, 0);
  nlmsghdr header;
  constexpr size_t kHeads = sizeof header + sizeof(ifinfomsg);
  if (got < static_cast<ssize_t>(kHeads)) return std::nullopt;
  std::memcpy(&header, answer, sizeof header);
  if (header.nlmsg_type != RTM_NEWLINK) return std::nullopt;
  auto all = std::span<const u8>(answer, static_cast<size_t>(got)).subspan(kHeads);
  auto data = attribute(attribute(all, IFLA_LINKINFO), IFLA_INFO_DATA);
  auto attached = number(data, IFLA_TUN_NUM_QUEUES);
  auto detached = number(data, IFLA_TUN_NUM_DISABLED_QUEUES);
  if (!attached || !detached) return std::nullopt;
  return *attached + *detached;
}

}  // namespace skerry::net
