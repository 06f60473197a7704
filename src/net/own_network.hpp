// For tests: a network namespace of one's own, and the host's side of a tap device in it.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <functional>

#include "base/fd.hpp"
#include "net/port.hpp"

namespace skerry::net {

constexpr int kNotHere = 77;

/// Runs `body` in a child with a network of its own; skips, saying why, where none can be had.
inline void in_own_network(const std::function<void()>& body) {
  std::fflush(stdout);
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && ::unshare(CLONE_NEWNET) < 0)
      ::_exit(kNotHere);
    if (Fd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)); !tun) ::_exit(kNotHere);
    // Nobody asks for routers in between.
    if (Fd v6(::open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC)); v6)
      if (::write(v6.get(), "1", 1) != 1) std::perror("IPv6 stays on");
    body();
    std::fflush(stdout);
    ::_exit(testing::Test::HasFailure());
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotHere)
    GTEST_SKIP() << "no network namespace, or no /dev/net/tun: needs root, or user namespaces";
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the child failed (see above)";
}

/// 10.9.0.1/24 on a device.
inline void give_address(const std::string& name) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  auto* address = reinterpret_cast<sockaddr_in*>(&request.ifr_addr);
  address->sin_family = AF_INET;
  ::inet_pton(AF_INET, "10.9.0.1", &address->sin_addr);
  ASSERT_EQ(::ioctl(socket.get(), SIOCSIFADDR, &request), 0) << std::strerror(errno);
  ::inet_pton(AF_INET, "255.255.255.0", &address->sin_addr);
  ASSERT_EQ(::ioctl(socket.get(), SIOCSIFNETMASK, &request), 0) << std::strerror(errno);
}

/// At port 7000 of the host.
inline Fd udp_socket() {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_port = htons(7000);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&here), sizeof here), 0);
  return socket;
}
/// To port 53 of 10.9.0.2.
inline void send_to_guest(const Fd& socket, std::string_view text) {
  sockaddr_in there{};
  there.sin_family = AF_INET;
  there.sin_port = htons(53);
  ::inet_pton(AF_INET, "10.9.0.2", &there.sin_addr);
  EXPECT_EQ(::sendto(socket.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&there),
                     sizeof there),
            static_cast<ssize_t>(text.size()))
      << std::strerror(errno);
}

/// So that the host need not ask.
inline void add_neighbour(const std::string& device, const char* address, const Mac& mac) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM, 0));
  arpreq request{};
  auto* ip = reinterpret_cast<sockaddr_in*>(&request.arp_pa);
  ip->sin_family = AF_INET;
  ::inet_pton(AF_INET, address, &ip->sin_addr);
  request.arp_ha.sa_family = ARPHRD_ETHER;
  std::memcpy(request.arp_ha.sa_data, mac.data(), mac.size());
  request.arp_flags = ATF_COM | ATF_PERM;
  std::memcpy(request.arp_dev, device.c_str(), device.size());
  ASSERT_EQ(::ioctl(socket.get(), SIOCSARP, &request), 0) << std::strerror(errno);
}

/// A device that stays, as `ip tuntap add` makes it.
inline bool make_tap(const std::string& name, bool multi) {
  Fd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | (multi ? IFF_MULTI_QUEUE : 0));
  return ::ioctl(tap.get(), TUNSETIFF, &request) == 0 && ::ioctl(tap.get(), TUNSETPERSIST, 1) == 0;
}

inline void delete_device(const std::string& device) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_DELLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.link.ifi_index = static_cast<int>(::if_nametoindex(device.c_str()));
  Fd socket(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    nlmsgerr result;
    u8 rest[256];
  } answer{};
  ASSERT_EQ(::send(socket.get(), &request, sizeof request, 0), ssize_t{sizeof request});
  ASSERT_GT(::recv(socket.get(), &answer, sizeof answer, 0), ssize_t{sizeof answer.header});
  EXPECT_EQ(answer.result.error, 0) << std::strerror(-answer.result.error);
}

/// What the kernel has received on a device.
inline unsigned long received_bytes(const std::string& device) {
  std::FILE* file = std::fopen("/proc/self/net/dev", "r");
  if (!file) return 0;
  char line[512];
  unsigned long bytes = 0;
  while (std::fgets(line, sizeof line, file))
    if (const char* at = std::strstr(line, (device + ":").c_str()))
      std::sscanf(at + device.size() + 1, "%lu", &bytes);
  std::fclose(file);
  return bytes;
}

/// Frames as they are out of a device of the host's: on a tap, to whoever holds it.
class RawSocket {
 public:
  explicit RawSocket(const std::string& device)
      : socket_(::socket(AF_PACKET, SOCK_RAW, 0)),
        index_(static_cast<int>(::if_nametoindex(device.c_str()))) {
    EXPECT_TRUE(socket_ && index_) << std::strerror(errno);
  }
  void send(std::span<const u8> frame) {
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = index_;
    EXPECT_EQ(::sendto(socket_.get(), frame.data(), frame.size(), 0,
                       reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(frame.size()))
        << std::strerror(errno);
  }

 private:
  Fd socket_;
  int index_;
};

}  // namespace skerry::net
