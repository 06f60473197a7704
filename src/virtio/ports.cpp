#include "virtio/ports.hpp"

#include <sys/epoll.h>

namespace skerry::virtio {

Ports::Ports(std::string name, Environment environment, std::vector<Setup> ports)
    : name_(std::move(name)), environment_(environment), scratch_(kBuffer) {
  SKERRY_CHECK(ports.size() <= kMaxPorts);
  store<u32>(&config_[4], static_cast<u32>(ports.size() + 1));  // 5.3.4: max_nr_ports
  for (Setup& setup : ports) {
    SKERRY_CHECK(setup.name.size() <= kLongestName);
    Port& p = ports_.emplace_back();
    p.name = std::move(setup.name);
    p.clients = std::move(setup.clients);
  }
  for (size_t i = 0; i < ports_.size(); ++i) {
    ports_[i].clients->connected = [this, i](Fd socket) {
      std::lock_guard guard(environment_.lock);
      connected(i, std::move(socket));
    };
    ports_[i].clients->next();
  }
}

Ports::~Ports() = default;

void Ports::activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = false;
  queues_.clear();
  for (const auto& q : queues) {
    queues_.push_back(q.get());
    if (!(features & kFeatureMultiport) && queues_.size() == 2) break;
  }
}

void Ports::reset() {
  for (Port& p : ports_) {
    p.state = {};
    p.owes_close = false;
  }
}

void Ports::save(state::Image& image) const {
  State state;
  for (const Port& p : ports_) state.ports.push_back(p.state);
  image.put(name_, state);
}

Result<> Ports::load(const state::Image& image) {
  State state;
  TRY_VOID(image.get(name_, state));
  if (state.ports.size() != ports_.size())
    return fail_hint("start the machine with the options it had when it was saved",
                     "{} has another number of ports in the image", name_);
  for (size_t i = 0; i < ports_.size(); ++i) {
    Port& p = ports_[i];
    p.state = state.ports[i];
    p.out.clear();
    // Whoever is there now is not whom the guest knew.
    p.owes_close = p.state.told_open;
    watch(p);
  }
  return {};
}

std::vector<machine::Counter> Ports::counters() const {
  u64 joined = 0;
  for (const Port& p : ports_) joined += p.stream != nullptr;
  return {{"connections", joined},
          {"connections since the start", next_number_ - 1},
          {"bytes to the guest", to_guest_},
          {"bytes from the guest", from_guest_}};
}

bool Ports::notify(unsigned index) {
  quiet_ = false;
  if (index < 2) return index == 1 && swallow(index);
  if (index == 2) return send_control();
  if (index == 3) return take_control();
  size_t port = index / 2 - 2;
  return index % 2 ? take_output(port) : send_input(port);
}

/// What is written to port 0.
bool Ports::swallow(unsigned index) {
  Queue* q = queue(index);
  if (!q) return false;
  for (unsigned budget = q->size(); budget > 0; --budget) {
    auto chain = q->pop();
    if (!chain) return false;
    chain->complete(0);
  }
  return true;
}

// ---- programs of the host

void Ports::connected(size_t index, Fd socket) {
  Port& p = ports_[index];
  p.number = next_number_++;
  p.ended = p.readable = false;
  auto ready = [self = std::weak_ptr(self_), &lock = environment_.lock, index,
                number = p.number](u32 events) {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->on_ready(index, number, events);
  };
  p.stream = std::make_unique<net::Stream>(environment_.loop, std::move(socket), ready);
  watch(p);
  pump(index);
}

void Ports::disconnect(Port& p) {
  p.stream.reset();
  p.out.clear();
  p.owes_close = p.state.told_open;
  p.clients->next();
}

// What is in the way is never waited for, or a level-triggered loop would spin.
void Ports::watch(Port& p) {
  if (!p.stream) return;
  bool reading = p.joined() && p.state.guest_open && !p.ended;
  u32 events = (reading && !p.readable ? u32{EPOLLIN} : 0) | (p.out.empty() ? 0 : u32{EPOLLOUT});
  if (reading && p.readable && !events)
    p.stream->wait_for_nothing();  // there may be bytes before the end
  else
    p.stream->wait_for(events);
}

void Ports::on_ready(size_t index, u64 number, u32 events) {
  Port& p = ports_[index];
  if (!p.stream || p.number != number) return;
  bool gone = events & (EPOLLHUP | EPOLLERR);
  bool reading = p.joined() && p.state.guest_open && !p.ended;
  if (!p.out.empty() && (events & EPOLLOUT || gone) && !flush(p)) {
    disconnect(p);
  } else if (gone && p.stream->at_end()) {
    disconnect(p);
  } else if (reading && (events & EPOLLIN || gone)) {
    p.readable = true;
  } else if (gone) {
    disconnect(p);
  }
  pump(index);
}

/// Everything that may be possible now.
void Ports::pump(size_t index) {
  bool more = send_control();
  more |= send_input(index);
  more |= take_output(index);
  watch(ports_[index]);
  if (!more) return;
  environment_.loop.post([self = std::weak_ptr(self_), &lock = environment_.lock, index] {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->pump(index);
  });
}

/// False: nobody will take it.
bool Ports::flush(Port& p) {
  auto n = p.stream->write({reinterpret_cast<const u8*>(p.out.data()), p.out.size()});
  if (!n) return false;
  p.out.erase(0, *n);
  return true;
}

bool Ports::send_input(size_t index) {
  Port& p = ports_[index];
  Queue* q = queue(to_guest(index + 1));
  if (!q || quiet_) return false;
  for (unsigned budget = q->size(); budget > 0; --budget) {
    if (!p.joined() || !p.state.guest_open || !p.readable) break;
    auto chain = q->pop();
    if (!chain) break;
    if (chain->writable() == 0) {
      chain->complete(0);
      continue;
    }
    auto n = p.stream->read(
        std::span(scratch_).first(std::min<u64>(chain->writable(), scratch_.size())));
    if (n && *n > 0) {
      to_guest_ += *n;
      chain->complete(chain->write(0, std::span(scratch_).first(*n)));
      if (budget == 1) return true;
      continue;
    }
    q->give_back(std::move(*chain));
    p.readable = false;
    p.ended = !n;
    if (p.ended && p.stream->hung_up()) {
      disconnect(p);
      (void)send_control();
    }
    break;
  }
  watch(p);
  return false;
}

bool Ports::take_output(size_t index) {
  Port& p = ports_[index];
  Queue* q = queue(from_guest(index + 1));
  if (!q || quiet_) return false;
  for (unsigned budget = q->size(); budget > 0; --budget) {
    if (p.out.size() >= kBuffer) return false;
    auto chain = q->pop();
    if (!chain) return false;
    size_t length = std::min<u64>(chain->readable(), kBuffer);
    if (!p.joined()) length = 0;
    if (length > kBuffer - p.out.size()) {
      q->give_back(std::move(*chain));  // until the reader has taken some
      return false;
    }
    size_t old = p.out.size();
    p.out.resize(old + length);
    chain->read(0, {reinterpret_cast<u8*>(p.out.data()) + old, length});
    chain->complete(0);
    from_guest_ += length;
    if (!p.out.empty() && !flush(p)) {
      disconnect(p);
      (void)send_control();
    }
    watch(p);
  }
  return true;
}

// ---- control (5.3.6.2)

/// The next message that is due; `sent` is called once it is on its way.
bool Ports::next_message(std::string& bytes, std::function<void()>& sent) {
  for (size_t i = 0; i < ports_.size(); ++i) {
    Port& p = ports_[i];
    auto message = [&](Event event, u16 value, std::string_view text, std::function<void()> then) {
      Control m{static_cast<u32>(i + 1), event, value};
      bytes.assign(reinterpret_cast<const char*>(&m), sizeof m);
      bytes += text;
      sent = std::move(then);
      return true;
    };
    if (p.state.owes_add) return message(port_add, 1, {}, [&p] { p.state.owes_add = false; });
    if (!p.state.ready) continue;
    if (p.state.owes_name)
      return message(port_name, 1, p.name, [&p] { p.state.owes_name = false; });
    if (p.state.told_open && (p.owes_close || !p.stream))
      return message(port_open, 0, {}, [&p] { p.state.told_open = p.owes_close = false; });
    if (!p.state.told_open && p.stream)
      return message(port_open, 1, {}, [this, &p] {
        p.state.told_open = true;
        watch(p);
      });
  }
  return false;
}

bool Ports::send_control() {
  Queue* q = queue(2);
  if (!q || quiet_) return false;
  std::string bytes;
  std::function<void()> sent;
  for (unsigned budget = q->size(); budget > 0; --budget) {
    if (!next_message(bytes, sent)) return false;
    auto chain = q->pop();
    if (!chain) return false;
    bool fits = chain->writable() >= bytes.size();
    if (fits) sent();
    chain->complete(
        fits ? chain->write(0, {reinterpret_cast<const u8*>(bytes.data()), bytes.size()}) : 0);
  }
  return true;
}

bool Ports::take_control() {
  Queue* q = queue(3);
  if (!q) return false;
  for (unsigned budget = q->size(); budget > 0; --budget) {
    auto chain = q->pop();
    if (!chain) return false;
    Control m{};
    bool whole = chain->read(0, {reinterpret_cast<u8*>(&m), sizeof m}) == sizeof m;
    chain->complete(0);
    if (whole) take_message(m);
  }
  return true;
}

void Ports::take_message(const Control& m) {
  if (m.event == device_ready) {
    if (m.value != 1) return;
    for (Port& p : ports_) p.state.owes_add = true;
    (void)send_control();
    return;
  }
  if (m.id == 0 || m.id > ports_.size()) return;
  Port& p = ports_[m.id - 1];
  if (m.event == port_ready && m.value == 1) {
    p.state.ready = p.state.owes_name = true;
  } else if (m.event == port_open) {
    p.state.guest_open = m.value != 0;
  }
  pump(m.id - 1);
}

}  // namespace skerry::virtio
