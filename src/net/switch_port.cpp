#include "net/switch_port.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.hpp"
#include "net/offload.hpp"

namespace skerry::net {

namespace {
constexpr int kAnswerTimeout = 5000;  // ms
constexpr unsigned kTurn = 64;        // frames
}  // namespace

Result<std::unique_ptr<SwitchPort>> SwitchPort::create(EventLoop& loop, SwitchPortSetup setup) {
  std::unique_ptr<SwitchPort> port(new SwitchPort(loop, std::move(setup)));
  TRY_VOID(port->join());
  port->retry_ = Fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!port->retry_) return fail_errno("cannot create a timerfd");
  TRY_VOID(loop.watch(port->retry_.get(), EPOLLIN, [raw = port.get()](u32) { raw->try_again(); }));
  TRY_VOID(port->watch());
  return port;
}

SwitchPort::~SwitchPort() {
  self_.reset();
  if (link_) {
    loop_.unwatch(link_->socket.get());
    loop_.unwatch(link_->from_switch.get());
  }
  if (retry_) loop_.unwatch(retry_.get());
}

Result<> SwitchPort::join() {
  Link link;
  link.socket = TRY(start_switch(setup_.name, setup_.program));
  const SwitchRequest& request = setup_.request;
  TRY_VOID(send_packet(link.socket.get(), {reinterpret_cast<const u8*>(&request), sizeof request}));
  SwitchReply reply;
  std::vector<Fd> descriptors;
  size_t got = TRY(receive_packet(link.socket.get(), {reinterpret_cast<u8*>(&reply), sizeof reply},
                                  descriptors, kAnswerTimeout));
  reply.what[sizeof reply.what - 1] = reply.hint[sizeof reply.hint - 1] = 0;
  if (got != sizeof reply || reply.magic != SwitchRequest::kMagic)
    return fail("the switch {} gives no sensible answer", setup_.name);
  if (reply.version != SwitchRequest::kVersion)
    return fail_hint("end the machines on it, so that it starts anew",
                     "the switch {} is of another release of Skerry", setup_.name);
  if (!reply.good) return fail_hint(reply.hint, "switch {}: {}", setup_.name, reply.what);
  if (descriptors.size() != 3) return fail("the switch {} gives no rings", setup_.name);
  link.rings = TRY(SharedRings::adopt(std::move(descriptors[0])));
  link.to_switch = std::move(descriptors[1]);
  link.from_switch = std::move(descriptors[2]);
  link.writer = RingWriter(link.rings.to_switch());
  link.reader = RingReader(link.rings.from_switch());
  link_ = std::move(link);
  return {};
}

Result<> SwitchPort::watch() {
  TRY_VOID(loop_.watch(link_->socket.get(), EPOLLIN | EPOLLRDHUP, [this](u32) { lose(); }));
  TRY_VOID(loop_.watch(link_->from_switch.get(), EPOLLIN, [this](u32) { on_event(); }));
  signal_event(link_->from_switch.get());  // what is there already
  return {};
}

void SwitchPort::attach(Events events) {
  events_ = std::move(events);
}

bool SwitchPort::send(const Offload& offload, std::span<const u8> frame, unsigned) {
  if (!link_) return true;  // the cable leads nowhere
  if (link_->writer.write(offload, frame)) return true;
  if (link_->writer.broken()) return true;  // and the next event says so
  blocked_ = true;
  return false;
}

void SwitchPort::flush() {
  if (link_ && link_->writer.reader_idle()) signal_event(link_->to_switch.get());
}

void SwitchPort::resume() {
  refused_ = false;
  if (std::exchange(posted_, true)) return;
  loop_.post([alive = std::weak_ptr(self_)] {
    auto port = alive.lock();
    if (!port) return;
    (*port)->posted_ = false;
    (*port)->take();
  });
}

void SwitchPort::on_event() {
  drain_event(link_->from_switch.get());
  if (std::exchange(blocked_, false) && events_.writable) events_.writable();
  if (link_) take();
}

void SwitchPort::take() {
  if (!link_ || !events_.receive) return;
  for (unsigned n = 0; n < kTurn && !refused_; ++n) {
    auto record = link_->reader.peek();
    if (!record) {
      if (link_->reader.broken() || link_->writer.broken()) lose();
      return;
    }
    // The other machine is not trusted, and the switch looks at addresses only.
    if (well_formed(record->offload, record->frame)) {
      if (!events_.receive(record->offload, record->frame, 0)) {
        refused_ = true;
        return;
      }
    }
    link_->reader.pop();
    if (link_->reader.writer_waits()) signal_event(link_->to_switch.get());
  }
  if (!refused_) resume();  // the rest after what else is waiting
}

void SwitchPort::lose() {
  if (!link_) return;
  loop_.unwatch(link_->socket.get());
  loop_.unwatch(link_->from_switch.get());
  link_.reset();
  refused_ = blocked_ = false;
  log_warn(fmt::format("the switch {} has gone; looking for it every second", setup_.name));
  itimerspec every{{1, 0}, {1, 0}};
  ::timerfd_settime(retry_.get(), 0, &every, nullptr);
  if (events_.carrier) events_.carrier(false);
  if (events_.writable) events_.writable();
}

void SwitchPort::try_again() {
  u64 expirations;
  [[maybe_unused]] ssize_t n = ::read(retry_.get(), &expirations, sizeof expirations);
  if (link_ || !join() || !watch()) return;
  itimerspec never{};
  ::timerfd_settime(retry_.get(), 0, &never, nullptr);
  log_info(fmt::format("the switch {} is back", setup_.name));
  if (events_.carrier) events_.carrier(true);
}

}  // namespace skerry::net
