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
#include "net/tap_queues.hpp"

namespace skerry::net {

namespace {

constexpr const char* kDevice = "/dev/net/tun";
constexpr size_t kTurnBytes = 1 * MiB;
constexpr unsigned kTurnFrames = 256;
constexpr const char* kInUse =
    "another program has it open; give each card and each uplink a device of its own";

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), std::min(name.size(), sizeof request.ifr_name - 1));
  return request;
}

/// "sudo ip ..." for a device that the user may open.
std::string how_to_make(const std::string& name, const std::string& bridge, bool multi) {
  std::string hint = fmt::format(
      "make it once for your user: sudo ip tuntap add dev {0} mode tap {1}user $USER; "
      "sudo ip link set {0} up",
      name, multi ? "multi_queue " : "");
  if (!bridge.empty()) hint += fmt::format(" master {}", bridge);
  return hint + fmt::format("; then write ifname={}", name);
}

Result<Fd> open_device() {
  Fd tap(::open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (tap) return tap;
  int code = errno;
  auto failed = fail_errno(fmt::format("tap: cannot open {}", kDevice));
  failed.error().hint = code == ENOENT || code == ENODEV ? "load the module: sudo modprobe tun"
                        : code == EACCES
                            ? fmt::format("let everybody open it: sudo chmod 666 {}", kDevice)
                            : "";
  return failed;
}

/// The next queue of the device `name`, which becomes the device's real one; 0 or why not.
int attach_queue(int fd, std::string& name, bool multi) {
  ifreq request = request_for(name);
  request.ifr_flags =
      static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi ? IFF_MULTI_QUEUE : 0));
  if (::ioctl(fd, TUNSETIFF, &request) < 0) return errno;
  name.assign(request.ifr_name, ::strnlen(request.ifr_name, sizeof request.ifr_name));
  return 0;
}

std::unexpected<Error> cannot_attach(int code, const TapSetup& setup) {
  errno = code;
  auto failed = fail_errno(
      fmt::format("tap: cannot use {}", setup.ifname.empty() ? "a new device" : setup.ifname));
  std::string example = setup.ifname.empty() ? "tap0" : setup.ifname;
  if (code == EPERM || code == EACCES)
    failed.error().hint = how_to_make(example, setup.bridge, setup.queues > 1);
  if (code == EBUSY) failed.error().hint = kInUse;
  if (code == EINVAL)
    failed.error().hint =
        fmt::format("it is no tap device{}; see: ip -d link show {}",
                    setup.queues > 1 ? ", or was not made with multi_queue" : "", example);
  if (code == E2BIG)
    failed.error().hint = "another program has queues of it; write a lower queues=";
  return failed;
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
  if (code == EPERM) failed.error().hint = how_to_make("tap0", bridge, false);
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

Result<> TapPort::open(const TapSetup& setup) {
  name_ = setup.ifname.empty() ? "skerry%d" : setup.ifname;
  bool multi = setup.queues > 1;
  for (unsigned i = 0; i < setup.queues; ++i) {
    Queue queue;
    queue.fd = TRY(open_device());
    int code = attach_queue(queue.fd.get(), name_, multi);
    // A device that can have several queues may have one, too.
    if (code == EINVAL && !multi) code = attach_queue(queue.fd.get(), name_, multi = true);
    if (code) return cannot_attach(code, setup);
    queues_.push_back(std::move(queue));
  }
  // One with several queues gives some to everybody who asks.
  if (multi && tap_queues(name_).value_or(setup.queues) > setup.queues)
    return fail_hint(kInUse, "tap: cannot use {}: it is in use", name_);
  int header = sizeof(Offload), fd = queues_[0].fd.get();
  if (::ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
      ::ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
    return fail_errno(fmt::format("tap: cannot set the offloads of {}", name_));
  for (unsigned i = setup.queues; i-- > used_;)
    if (!set_attached(queues_[i], false))
      return fail_errno(fmt::format("tap: cannot detach a queue of {}", name_));
  return {};
}

Result<std::unique_ptr<TapPort>> TapPort::create(EventLoop& loop, const TapSetup& setup) {
  std::unique_ptr<TapPort> port(new TapPort(loop));
  TRY_VOID(port->open(setup));
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("tap: cannot create a socket");
  if (!setup.bridge.empty()) TRY_VOID(join_bridge(socket.get(), port->name_, setup.bridge));
  raise(socket.get(), port->name_);
  return port;
}

TapPort::~TapPort() {
  self_.reset();
  for (Queue& queue : queues_) unwatch(queue);
}

void TapPort::attach(Events events) {
  events_ = std::move(events);
  for (unsigned i = 0; i < used_; ++i) watch(i);
}

bool TapPort::set_attached(Queue& queue, bool attached) {
  ifreq request{};
  request.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  return ::ioctl(queue.fd.get(), TUNSETQUEUE, &request) == 0;
}

// The kernel fills the gap that a detached queue leaves with the last one: in this order there is
// none, and its queues are numbered as ours.
void TapPort::use_queues(unsigned count) {
  count = std::clamp(count, 1u, queues());
  for (; used_ > count && set_attached(queues_[used_ - 1], false); --used_) {
    Queue& queue = queues_[used_ - 1];
    unwatch(queue);
    queue.held = 0;  // the kernel drops the others
    queue.refused = false;
    if (std::exchange(queue.blocked, false)) writable_soon();  // on another one
  }
  for (; used_ < count && set_attached(queues_[used_], true); ++used_) watch(used_);
  if (used_ != count)
    log_warn(fmt::format("the tap device {} has {} queues, not {}: {}", name_, used_, count,
                         std::strerror(errno)));
}

void TapPort::writable_soon() {
  loop_.post([alive = std::weak_ptr(self_)] {
    auto port = alive.lock();
    if (port && (*port)->events_.writable) (*port)->events_.writable();
  });
}

/// What there is to wait for may have changed.
void TapPort::watch(unsigned index) {
  Queue& queue = queues_[index];
  u32 wanted = (queue.refused ? 0u : u32{EPOLLIN}) | (queue.blocked ? u32{EPOLLOUT} : 0u);
  unwatch(queue);
  if (!wanted) return;
  queue.watched =
      loop_.watch(queue.fd.get(), wanted, [this, index](u32 events) { on_ready(index, events); })
          .has_value();
}

void TapPort::unwatch(Queue& queue) {
  if (std::exchange(queue.watched, false)) loop_.unwatch(queue.fd.get());
}

bool TapPort::send(const Offload& offload, std::span<const u8> frame, unsigned index) {
  index = index < used_ ? index : 0;
  Queue& queue = queues_[index];
  Offload header = offload;
  // A hint of the guest's; the kernel refuses one beyond the frame.
  header.header_length = static_cast<u16>(std::min<size_t>(header.header_length, frame.size()));
  iovec parts[2] = {{&header, sizeof header}, {const_cast<u8*>(frame.data()), frame.size()}};
  for (;;) {
    if (::writev(queue.fd.get(), parts, 2) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return true;  // down, or not to the kernel's liking: lost, as on a wire
    queue.blocked = true;
    watch(index);
    return false;
  }
}

void TapPort::resume() {
  bool any = false;
  for (Queue& queue : queues_) any |= queue.refused;
  if (!any || std::exchange(posted_, true)) return;
  loop_.post([alive = std::weak_ptr(self_)] {
    auto shared = alive.lock();
    if (!shared) return;
    TapPort& port = **shared;
    port.posted_ = false;
    for (unsigned i = 0; i < port.used_; ++i)
      if (std::exchange(port.queues_[i].refused, false)) port.take(i);
  });
}

void TapPort::on_ready(unsigned index, u32 events) {
  if (index >= used_) return;
  if (events & EPOLLOUT && std::exchange(queues_[index].blocked, false)) {
    watch(index);
    if (events_.writable) events_.writable();
  }
  if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) take(index);
}

/// The device was deleted (EBADFD).
void TapPort::lose(int why) {
  log_warn(fmt::format("the tap device {} has gone: {}", name_, std::strerror(why)));
  for (Queue& queue : queues_) unwatch(queue);
  if (events_.carrier) events_.carrier(false);
}

void TapPort::take(unsigned index) {
  Queue& queue = queues_[index];
  bool was_refused = !queue.watched;
  size_t bytes = 0;
  for (unsigned n = 0; n < kTurnFrames && bytes < kTurnBytes; ++n) {
    if (queue.held == 0) {
      ssize_t got = ::read(queue.fd.get(), queue.buffer.data(), queue.buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno != EAGAIN) return lose(errno);
      if (got <= 0) break;
      queue.held = static_cast<size_t>(got);
    }
    Offload offload;
    std::memcpy(&offload, queue.buffer.data(), sizeof offload);
    std::span<const u8> frame(queue.buffer.data() + sizeof offload,
                              queue.held - std::min(queue.held, sizeof offload));
    if (!offload.gso_type) offload.gso_size = offload.header_length = 0;
    if (!offload.needs_checksum()) offload.checksum_start = offload.checksum_offset = 0;
    offload.flags &= Offload::kNeedsChecksum | Offload::kDataValid;
    // What comes from a network is nobody's promise.
    if (well_formed(offload, frame) && events_.receive && !events_.receive(offload, frame, index)) {
      queue.refused = true;
      if (queue.watched) watch(index);
      return;
    }
    bytes += frame.size();
    queue.held = 0;
  }
  if (was_refused) watch(index);
}

}  // namespace skerry::net
