// SwitchServer: the process behind a virtual switch: attaches machines and moves their frames.
//
// Every machine has rings of its own and sees nobody else's. What it puts there is checked before
// it goes on: one that breaks its rings is detached, one that does not take its frames loses them,
// one that floods gets its turn like the others. A frame's first bytes are copied before they are
// judged, so that what was judged is what goes on.
//
// Threading: everything on one EventLoop.
#pragma once

#include "base/event_loop.hpp"
#include "net/ring.hpp"
#include "net/switch.hpp"
#include "net/switch_socket.hpp"
#include "net/tap.hpp"

namespace skerry::net {

class SwitchServer {
 public:
  /// `listener`: the socket that start_switch() made. `empty`: nobody is attached any more, or
  /// nobody came within the first ten seconds.
  static Result<std::unique_ptr<SwitchServer>> create(EventLoop& loop, const Clock& clock,
                                                      std::string name, Fd listener,
                                                      std::function<void()> empty);
  ~SwitchServer();

  /// Somebody who has connected.
  void welcome(Fd socket);
  bool is_empty() const { return members_.empty() && strangers_.empty(); }
  int listener() const { return listener_.get(); }
  /// For `skerry switch show`.
  std::string json();

 private:
  static constexpr size_t kMostMembers = 256, kMostStrangers = 32;
  /// Taken from one port before it is the next one's turn.
  static constexpr size_t kTurnFrames = 64, kTurnBytes = 512 * KiB;
  /// What an uplink leads through.
  struct Way {
    SwitchRequest::Uplink kind = SwitchRequest::Uplink::none;
    TapSetup tap;
    bool operator==(const Way&) const = default;
  };
  struct Member {
    Switch::PortId id = 0;
    // A machine's.
    Fd socket, to_switch, from_switch;
    SharedRings rings;
    RingReader reader;
    RingWriter writer;
    EventLoop::TimerId wait = 0;  ///< until its rate allows more
    bool posted = false, wake = false;
    // An uplink's.
    std::unique_ptr<Port> uplink;
    Way way;
  };
  SwitchServer(EventLoop& loop, const Clock& clock, std::string name)
      : loop_(loop), clock_(clock), name_(std::move(name)) {}

  void accept();
  void read_request(int fd);
  Result<> attach(Fd& socket, const SwitchRequest& request);
  Result<bool> has_uplink(u16 vlan, const Way& way);
  Result<std::unique_ptr<Port>> open_uplink(const Way& way);
  Result<> add_uplink(u16 vlan, const Way& way);
  void drop_uplink(Switch::PortId id);
  void detach(Switch::PortId id);
  void drop_idle_uplinks();
  Member* member(Switch::PortId id);

  void serve(Switch::PortId id);
  void serve_soon(Member& m);
  bool deliver(Switch::PortId to, const Offload& offload, std::span<const u8> header,
               std::span<const u8> rest);
  void wake_readers();
  void from_uplink(Switch::PortId id, const Offload& offload, std::span<const u8> frame);

  EventLoop& loop_;
  const Clock& clock_;
  std::string name_;
  Fd listener_;
  std::function<void()> empty_;
  Switch switch_;
  std::map<Switch::PortId, std::unique_ptr<Member>> members_;
  std::map<int, Fd> strangers_;  ///< connected, and have not said what they want
  std::vector<u8> scratch_ = std::vector<u8>(kMaxFrame);
  std::shared_ptr<SwitchServer*> self_ = std::make_shared<SwitchServer*>(this);
};

}  // namespace skerry::net
