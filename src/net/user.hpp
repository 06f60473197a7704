// UserPort: the guest behind a NAT in this process (libslirp), which needs no rights on the host.
//
// The guest's network is 10.0.2.0/24 and fd00::/64: the host is .2, DNS .3, DHCP hands out .15 and
// up. Connections of the guest become sockets of this process; forwards lead from a host socket to
// the guest. TCP between the guest and libslirp goes in large segments: the guest's segmentation
// offload is passed on as it is, and for the way back the maximum segment size in the guest's SYN
// is raised, the large segments then being marked to be cut to what the guest had asked for.
//
// Threading: as Port. libslirp runs on the loop's thread only, never inside send().
#pragma once

#include <netinet/in.h>

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "base/event_loop.hpp"
#include "net/closed_windows.hpp"
#include "net/offload.hpp"

struct Slirp;

namespace skerry::net {

/// A host socket that leads to the guest. Addresses are numeric.
struct Forward {
  bool udp = false;
  std::string host;  ///< "" every address of the host
  u16 host_port = 0;
  std::string guest;  ///< "" the first that DHCP hands out
  u16 guest_port = 0;
};

struct UserSetup {
  std::vector<Forward> forwards;
  bool restricted = false;  ///< nothing reaches the host or beyond but through forwards
  std::string hostname;     ///< that DHCP tells the guest; may be empty
};

class UserPort final : public Port {
 public:
  /// Bytes that wait in each direction.
  static constexpr size_t kWaiting = 4 * MiB;

  static Result<std::unique_ptr<UserPort>> create(EventLoop& loop, const Clock& clock,
                                                  const UserSetup& setup);
  ~UserPort() override;

  void attach(Events events) override { events_ = std::move(events); }
  bool send(const Offload& offload, std::span<const u8> frame, unsigned queue) override;
  void resume() override;
  std::string describe() const override { return "user"; }

 private:
  struct Callbacks;
  struct Timer;
  struct Watched {
    int fd, events;
  };
  struct Waiting {
    Offload offload;
    std::vector<u8> frame;
  };
  UserPort(EventLoop& loop, const Clock& clock);
  Result<> add_forward(const Forward& forward);

  /// Runs `work` on libslirp, then hands over what came of it and watches what it waits for.
  void run(const std::function<void()>& work);
  void post();
  void take_posted();
  void input(std::span<const u8> frame);
  void watch();
  void on_sockets();
  void packet(std::span<const u8> frame);
  void deliver();
  void raise_segment_size(const Offload& offload, std::span<u8> frame);
  Offload offload_for(std::span<u8> frame) const;

  EventLoop& loop_;
  const Clock& clock_;  ///< the time base of the loop
  Events events_;
  Slirp* slirp_ = nullptr;
  Fd sockets_;                  ///< an epoll set with libslirp's sockets
  std::map<int, u32> watched_;  ///< in the set, with its epoll events
  std::vector<Watched> asked_;  ///< as pollfds_fill() asked, by index
  std::map<int, u32> ready_;    ///< while pollfds_poll() runs
  EventLoop::TimerId timeout_ = 0;
  Nanos timeout_at_ = 0;
  std::vector<std::unique_ptr<Timer>> timers_;
  std::deque<Waiting> outgoing_, incoming_;
  size_t outgoing_bytes_ = 0, incoming_bytes_ = 0;
  bool posted_ = false, refused_ = false;
  std::span<const u8> input_;  ///< the guest's frame that libslirp is being given
  ClosedWindows closed_windows_;
  /// What the guest asked for in its SYN, by flow_hash.
  std::vector<u16> segment_size_ = std::vector<u16>(4096);
  std::shared_ptr<UserPort*> self_ = std::make_shared<UserPort*>(this);
};

}  // namespace skerry::net
