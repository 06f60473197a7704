// SwitchPort: a network card's place on a virtual switch, which is another process of this user's
// (switch_server.hpp) that this one starts if need be.
//
// Frames go through shared memory both ways, a socket only stands for the attachment. Should the
// switch go away, the link is down until it is back: once a second it is looked for and started
// again. Threading: as Port.
#pragma once

#include <optional>

#include "base/event_loop.hpp"
#include "net/ring.hpp"
#include "net/switch_socket.hpp"

namespace skerry::net {

struct SwitchPortSetup {
  std::string name;     ///< the switch's
  std::string program;  ///< skerry-switch
  SwitchRequest request;
};

class SwitchPort final : public Port {
 public:
  static Result<std::unique_ptr<SwitchPort>> create(EventLoop& loop, SwitchPortSetup setup);
  ~SwitchPort() override;

  void attach(Events events) override;
  bool send(const Offload& offload, std::span<const u8> frame, unsigned queue) override;
  void flush() override;
  void resume() override;
  std::string describe() const override { return "switch " + setup_.name; }

 private:
  struct Link {
    Fd socket, to_switch, from_switch;
    SharedRings rings;
    RingWriter writer;
    RingReader reader;
  };
  SwitchPort(EventLoop& loop, SwitchPortSetup setup) : loop_(loop), setup_(std::move(setup)) {}
  Result<> join();
  Result<> watch();
  void on_event();
  void take();
  void lose();
  void try_again();

  EventLoop& loop_;
  SwitchPortSetup setup_;
  Events events_;
  std::optional<Link> link_;
  Fd retry_;  ///< a timerfd: the host's time, not the machine's
  bool refused_ = false, blocked_ = false, posted_ = false;
  std::shared_ptr<SwitchPort*> self_ = std::make_shared<SwitchPort*>(this);
};

}  // namespace skerry::net
