#include "net/tap.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.hpp"
#include "net/offload.hpp"

namespace skerry::net {

namespace {

constexpr const char* kDevice = "/dev/net/tun";
constexpr size_t kTurnBytes = 1 * MiB;
constexpr unsigned kTurnFrames = 256;

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), std::min(name.size(), sizeof request.ifr_name - 1));
  return request;
}

/// "sudo ip ..." for a device that the user may open.
std::string how_to_make(const std::string& name, const std::string& bridge) {
  std::string hint = fmt::format(
      "make it once for your user: sudo ip tuntap add dev {0} mode tap user $USER; "
      "sudo ip link set {0} up",
      name);
  if (!bridge.empty()) hint += fmt::format(" master {}", bridge);
  return hint + fmt::format("; then write ifname={}", name);
}

Result<Fd> open_tap(const TapSetup& setup, std::string& name) {
  Fd tap(::open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tap) {
    int code = errno;
    auto failed = fail_errno(fmt::format("tap: cannot open {}", kDevice));
    failed.error().hint = code == ENOENT || code == ENODEV ? "load the module: sudo modprobe tun"
                          : code == EACCES
                              ? fmt::format("let everybody open it: sudo chmod 666 {}", kDevice)
                              : "";
    return failed;
  }
  std::string wanted = setup.ifname.empty() ? "skerry%d" : setup.ifname;
  ifreq request = request_for(wanted);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) < 0) {
    int code = errno;
    auto failed = fail_errno(
        fmt::format("tap: cannot use {}", setup.ifname.empty() ? "a new device" : setup.ifname));
    std::string example = setup.ifname.empty() ? "tap0" : setup.ifname;
    if (code == EPERM || code == EACCES) failed.error().hint = how_to_make(example, setup.bridge);
    if (code == EBUSY)
      failed.error().hint =
          "another program has it open; give each card and each uplink a device of its own";
    if (code == EINVAL)
      failed.error().hint = fmt::format(
          "it is no tap device, or was made with multi_queue; see: ip -d link show {}", example);
    return failed;
  }
  name.assign(request.ifr_name, ::strnlen(request.ifr_name, sizeof request.ifr_name));
  int header = sizeof(Offload);
  if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &header) < 0 ||
      ::ioctl(tap.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
    return fail_errno(fmt::format("tap: cannot set the offloads of {}", name));
  return tap;
}

Result<> join_bridge(int socket, const std::string& name, const std::string& bridge) {
  ifreq request = request_for(bridge);
  request.ifr_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
  if (::ioctl(socket, SIOCBRADDIF, &request) == 0) return {};
  int code = errno;
  // A device that is in a bridge already (made so, or just now) is all that is wanted.
  std::string master = fmt::format("/sys/class/net/{}/brport/bridge", name);
  char target[256];
  ssize_t length = ::readlink(master.c_str(), target, sizeof target);
  std::string_view there(target, length > 0 ? static_cast<size_t>(length) : 0);
  if (there.ends_with("/" + bridge)) return {};
  errno = code;
  auto failed = fail_errno(fmt::format("tap: cannot add {} to the bridge {}", name, bridge));
  if (code == ENODEV)
    failed.error().hint = fmt::format(
        "make the bridge: sudo ip link add {0} type bridge; "
        "sudo ip link set {0} up",
        bridge);
  if (code == EPERM) failed.error().hint = how_to_make("tap0", bridge);
  if (code == EBUSY)
    failed.error().hint = fmt::format("it is in another one: ip link show {}", name);
  if (code == EOPNOTSUPP) failed.error().hint = fmt::format("{} is no bridge", bridge);
  return failed;
}

/// A device that stays down is no error: whoever owns it may raise it later.
void raise(int socket, const std::string& name) {
  ifreq request = request_for(name);
  if (::ioctl(socket, SIOCGIFFLAGS, &request) < 0 || request.ifr_flags & IFF_UP) return;
  request.ifr_flags |= IFF_UP;
  if (::ioctl(socket, SIOCSIFFLAGS, &request) < 0)
    log_warn(fmt::format("the tap device {0} is down: sudo ip link set {0} up", name));
}

}  // namespace

Result<std::unique_ptr<TapPort>> TapPort::create(EventLoop& loop, const TapSetup& setup) {
  std::unique_ptr<TapPort> port(new TapPort(loop));
  port->tap_ = TRY(open_tap(setup, port->name_));
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("tap: cannot create a socket");
  if (!setup.bridge.empty()) TRY_VOID(join_bridge(socket.get(), port->name_, setup.bridge));
  raise(socket.get(), port->name_);
  return port;
}

TapPort::~TapPort() {
  self_.reset();
  if (watched_) loop_.unwatch(tap_.get());
}

void TapPort::attach(Events events) {
  events_ = std::move(events);
  watch();
}

/// What there is to wait for may have changed.
void TapPort::watch() {
  u32 wanted = (refused_ ? 0u : u32{EPOLLIN}) | (blocked_ ? u32{EPOLLOUT} : 0u);
  if (std::exchange(watched_, false)) loop_.unwatch(tap_.get());
  if (!wanted) return;
  watched_ = loop_.watch(tap_.get(), wanted, [this](u32 events) { on_ready(events); }).has_value();
}

bool TapPort::send(const Offload& offload, std::span<const u8> frame) {
  Offload header = offload;
  // A hint of the guest's; the kernel refuses one beyond the frame.
  header.header_length = static_cast<u16>(std::min<size_t>(header.header_length, frame.size()));
  iovec parts[2] = {{&header, sizeof header}, {const_cast<u8*>(frame.data()), frame.size()}};
  for (;;) {
    if (::writev(tap_.get(), parts, 2) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return true;  // down, or not to the kernel's liking: lost, as on a wire
    blocked_ = true;
    watch();
    return false;
  }
}

void TapPort::resume() {
  if (!std::exchange(refused_, false) || std::exchange(posted_, true)) return;
  loop_.post([alive = std::weak_ptr(self_)] {
    auto port = alive.lock();
    if (!port) return;
    (*port)->posted_ = false;
    (*port)->take();
  });
}

void TapPort::on_ready(u32 events) {
  if (events & EPOLLOUT && std::exchange(blocked_, false)) {
    watch();
    if (events_.writable) events_.writable();
  }
  if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) take();
}

void TapPort::take() {
  bool was_refused = !watched_;
  size_t bytes = 0;
  for (unsigned n = 0; n < kTurnFrames && bytes < kTurnBytes; ++n) {
    if (held_ == 0) {
      ssize_t got = ::read(tap_.get(), buffer_.data(), buffer_.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno != EAGAIN) {  // EBADFD: the device was deleted
        log_warn(fmt::format("the tap device {} has gone: {}", name_, std::strerror(errno)));
        if (std::exchange(watched_, false)) loop_.unwatch(tap_.get());
        if (events_.carrier) events_.carrier(false);
        return;
      }
      if (got <= 0) break;
      held_ = static_cast<size_t>(got);
    }
    Offload offload;
    std::memcpy(&offload, buffer_.data(), sizeof offload);
    std::span<const u8> frame(buffer_.data() + sizeof offload,
                              held_ - std::min(held_, sizeof offload));
    if (!offload.gso_type) offload.gso_size = offload.header_length = 0;
    if (!offload.needs_checksum()) offload.checksum_start = offload.checksum_offset = 0;
    offload.flags &= Offload::kNeedsChecksum | Offload::kDataValid;
    // What comes from a network is nobody's promise.
    if (well_formed(offload, frame) && events_.receive && !events_.receive(offload, frame)) {
      refused_ = true;
      if (watched_) watch();
      return;
    }
    bytes += frame.size();
    held_ = 0;
  }
  if (was_refused) watch();
}

}  // namespace skerry::net
