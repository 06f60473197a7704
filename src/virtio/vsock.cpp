#include "virtio/vsock.hpp"

#include <sys/epoll.h>

#include "base/log.hpp"

namespace skerry::virtio {

static_assert(offsetof(Vsock::Header, forwarded) + 4 == Vsock::kHeader);

Vsock::Vsock(std::string name, Environment environment, u32 cid,
             std::unique_ptr<net::StreamHost> host)
    : name_(std::move(name)), environment_(environment), host_(std::move(host)) {
  store<u64>(config_.data(), cid);
  scratch_.resize(kBuffer);
  host_->incoming = [this](Fd socket, u32 port) {
    std::lock_guard guard(environment_.lock);
    incoming(std::move(socket), port);
  };
}

Vsock::~Vsock() {
  deactivate();
}

void Vsock::activate(u64, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = false;
  rx_ = queues[0].get();
  tx_ = queues[1].get();
  events_ = queues[2].get();
}

void Vsock::deactivate() {
  rx_ = tx_ = events_ = nullptr;
  connections_.clear();
  turns_.clear();
  refusals_.clear();
  tx_waits_ = false;
}

bool Vsock::notify(unsigned queue) {
  quiet_ = false;
  bool more = false;
  if (queue == 2) {
    send_event();
  } else if (queue == 1 || tx_waits_) {
    more = take_packets();
  }
  bool packets = send_packets();
  if (tx_waits_ && refusals_.size() < kMaxResets) more |= take_packets();
  return more || packets;
}

Result<> Vsock::load(const state::Image&) {
  reset_due_ = true;
  return {};
}

std::vector<machine::Counter> Vsock::counters() const {
  return {{"connections", connections_.size()},
          {"connections since the start", opened_},
          {"connections refused", refused_},
          {"bytes to the guest", to_guest_},
          {"bytes from the guest", from_guest_}};
}

void Vsock::send_event() {
  if (!events_ || !reset_due_) return;
  for (unsigned budget = events_->size(); budget > 0; --budget) {
    auto chain = events_->pop();
    if (!chain) return;
    constexpr u8 kTransportReset[4] = {};
    bool fits = chain->writable() >= sizeof kTransportReset;
    chain->complete(fits ? chain->write(0, kTransportReset) : 0);
    if (!fits) continue;
    reset_due_ = false;
    return;
  }
}

// ---- connections

Vsock::Connection& Vsock::add(Key key, Fd socket) {
  auto& c = connections_[key] = std::make_unique<Connection>();
  c->key = key;
  c->number = next_number_++;
  ++opened_;
  auto ready = [self = std::weak_ptr(self_), &lock = environment_.lock, key,
                number = c->number](u32 events) {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->on_ready(key, number, events);
  };
  c->stream = std::make_unique<net::Stream>(environment_.loop, std::move(socket), ready);
  return *c;
}

void Vsock::incoming(Fd socket, u32 port) {
  // Without a driver nobody could answer.
  if (!rx_ || connections_.size() >= kMaxConnections) {
    ++refused_;
    return;
  }
  Key key{next_port_, port};
  while (connections_.contains(key)) ++key.host_port;
  next_port_ = key.host_port + 1;
  if (next_port_ < kFirstHostPort || next_port_ == ~u32{0}) next_port_ = kFirstHostPort;
  Connection& c = add(key, std::move(socket));
  c.owes_request = true;
  watch(c);
  want_turn(c);
  pump();
}

void Vsock::drop(Connection& c, bool tell) {
  Key key = c.key;
  if (tell) refuse(key);
  connections_.erase(key);
}

void Vsock::refuse(Key key, u16 type) {
  ++refused_;
  refusals_.push_back({key, type});
}

void Vsock::want_turn(Connection& c) {
  if (std::exchange(c.in_turn, true)) return;
  turns_.push_back(c.key);
}

// What is in the way is never waited for, or a level-triggered loop would spin.
void Vsock::watch(Connection& c) {
  if (!c.stream) return;
  if (c.asking) return c.stream->wait_for(0);
  bool deaf = (c.host_ended & kNoSend) || (c.guest_ended & kNoReceive);
  u32 events = (deaf || c.readable ? 0u : u32{EPOLLIN}) | (c.out.empty() ? 0u : u32{EPOLLOUT});
  if (events || deaf)
    c.stream->wait_for(events);
  else
    c.stream->wait_for_nothing();
}

void Vsock::on_ready(Key key, u64 number, u32 events) {
  auto it = connections_.find(key);
  if (it == connections_.end() || it->second->number != number || !it->second->stream) return;
  Connection& c = *it->second;
  bool gone = events & (EPOLLHUP | EPOLLERR);
  if (c.asking) {
    if (gone) {
      drop(c, !c.owes_request);
      pump();
    }
    return;
  }
  if (!c.out.empty() && (events & EPOLLOUT || gone) && !forward(c)) {
    pump();
    return;
  }
  bool deaf = (c.host_ended & kNoSend) || (c.guest_ended & kNoReceive);
  if (!deaf && (events & EPOLLIN || gone)) {
    c.readable = true;
    want_turn(c);
  } else if (gone && c.stream) {
    host_ends(c, kBoth);
  }
  watch(c);
  pump();
}

void Vsock::host_ends(Connection& c, u32 how) {
  if ((c.host_ended | how) == c.host_ended) return;
  c.host_ended |= how;
  c.owes_shutdown = true;
  if (c.host_ended == kBoth) {
    c.stream.reset();
    c.readable = false;
    c.forwarded += static_cast<u32>(c.out.size());
    c.out.clear();
  }
  want_turn(c);
}

// ---- to the guest

void Vsock::put(Chain& chain, const Connection& c, u16 op, u32 flags, std::span<const u8> data) {
  Header h{};
  h.source_cid = kHostCid;
  std::memcpy(&h.destination_cid, config_.data(), sizeof h.destination_cid);
  h.source_port = c.key.host_port;
  h.destination_port = c.key.guest_port;
  h.length = static_cast<u32>(data.size());
  h.type = c.type;
  h.op = op;
  h.flags = flags;
  h.buffer = kBuffer;
  h.forwarded = c.forwarded;
  chain.write(0, {reinterpret_cast<const u8*>(&h), kHeader});
  chain.write(kHeader, data);
  chain.complete(kHeader + data.size());
}

/// False: `c` has nothing for the guest, and the chain is untouched.
bool Vsock::send_one(Connection& c, Chain& chain) {
  auto sent = [&](u16 op, u32 flags = 0, std::span<const u8> data = {}) {
    put(chain, c, op, flags, data);
    c.owes_credit = false;
    c.told = c.forwarded;
    return true;
  };
  if (std::exchange(c.owes_request, false)) return sent(request);
  if (std::exchange(c.owes_response, false)) return sent(response);
  if (c.readable && !c.asking && c.stream) {
    u64 most = std::min<u64>({chain.writable() - kHeader, c.credit(), scratch_.size()});
    if (c.credit() == 0 && !std::exchange(c.asked, true)) c.owes_question = true;
    if (most > 0) {
      auto n = c.stream->read(std::span(scratch_).first(most));
      if (n && *n > 0) {
        c.sent += static_cast<u32>(*n);
        to_guest_ += *n;
        return sent(rw, 0, std::span(scratch_).first(*n));
      }
      c.readable = false;
      if (!n) host_ends(c, c.stream->hung_up() ? kBoth : kNoSend);
      watch(c);
    }
  }
  if (std::exchange(c.owes_shutdown, false)) return sent(shutdown, c.host_ended);
  if (std::exchange(c.owes_question, false)) return sent(credit_request);
  if (c.owes_credit) return sent(credit_update);
  return false;
}

void Vsock::pump() {
  if (!send_packets()) return;
  environment_.loop.post([self = std::weak_ptr(self_), &lock = environment_.lock] {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->pump();
  });
}

bool Vsock::send_packets() {
  if (!rx_ || quiet_) return false;
  for (unsigned budget = rx_->size(); budget > 0;) {
    if (refusals_.empty() && turns_.empty()) return false;
    auto chain = rx_->pop();
    if (!chain) return false;
    if (chain->writable() < kHeader) {
      chain->complete(0);
      --budget;
      continue;
    }
    if (!refusals_.empty()) {
      Connection stranger;
      stranger.key = refusals_.front().key;
      stranger.type = refusals_.front().type;
      put(*chain, stranger, rst, 0);
      refusals_.pop_front();
      --budget;
      continue;
    }
    Key key = turns_.front();
    turns_.pop_front();
    auto it = connections_.find(key);
    bool done = false;
    if (it != connections_.end()) {
      Connection& c = *it->second;
      c.in_turn = false;
      done = send_one(c, *chain);
      if (done) want_turn(c);  // one packet each, in turn
    }
    if (done)
      --budget;
    else
      rx_->give_back(std::move(*chain));  // turns_ has one less
  }
  return true;
}

// ---- from the guest

bool Vsock::take_packets() {
  if (!tx_) return false;
  tx_waits_ = false;
  for (unsigned budget = tx_->size(); budget > 0; --budget) {
    if (refusals_.size() >= kMaxResets) {
      tx_waits_ = true;
      return false;
    }
    auto chain = tx_->pop();
    if (!chain) return false;
    Header h{};
    if (chain->read(0, {reinterpret_cast<u8*>(&h), kHeader}) == kHeader) take(h, *chain);
    chain->complete(0);
  }
  tx_waits_ = true;
  return true;
}

void Vsock::take(const Header& h, Chain& chain) {
  u64 cid;
  std::memcpy(&cid, config_.data(), sizeof cid);
  if (h.source_cid != cid || h.destination_cid != kHostCid) return;
  Key key{h.destination_port, h.source_port};
  auto it = connections_.find(key);
  // 5.10.6.4.2: what belongs to no connection is answered with a reset, but for resets.
  if (h.type != kStream || (it == connections_.end() && h.op != request)) {
    if (h.op != rst) refuse(key, h.type);
    return;
  }
  if (h.op == request) return take_request(h, key);
  Connection& c = *it->second;
  c.guest_buffer = h.buffer;
  c.guest_forwarded = h.forwarded;
  if (c.credit()) {
    c.asked = false;
    if (c.readable) want_turn(c);
  }
  if (h.op == rst) return drop(c, false);
  if (h.op == response) return c.asking ? take_response(c) : drop(c, true);
  if (c.asking) return drop(c, true);
  switch (h.op) {
    case rw: return take_data(c, chain, h.length);
    case shutdown: return take_shutdown(c, h.flags);
    case credit_update: return;
    case credit_request:
      c.owes_credit = true;
      want_turn(c);
      return;
    default: drop(c, true);
  }
}

void Vsock::take_request(const Header& h, Key key) {
  if (auto it = connections_.find(key); it != connections_.end()) return drop(*it->second, true);
  if (connections_.size() >= kMaxConnections) return refuse(key);
  auto socket = host_->connect(key.host_port);
  if (!socket) {
    trace(Trace::virtio, "{}: {}", name_, socket.error().what);
    return refuse(key);
  }
  Connection& c = add(key, std::move(*socket));
  c.asking = false;
  c.guest_buffer = h.buffer;
  c.guest_forwarded = h.forwarded;
  c.owes_response = true;
  watch(c);
  want_turn(c);
}

void Vsock::take_response(Connection& c) {
  if (c.owes_request) return drop(c, true);  // to a request that it has not seen
  c.asking = false;
  std::string text = fmt::format("OK {}\n", c.key.host_port);
  // A new socket has room for it.
  if (c.stream->write({reinterpret_cast<const u8*>(text.data()), text.size()}) != text.size())
    return host_ends(c, kBoth);
  watch(c);
}

void Vsock::take_data(Connection& c, Chain& chain, u32 length) {
  if ((c.guest_ended & kNoSend) || length > chain.readable() - kHeader) return drop(c, true);
  if (length == 0) return;
  c.received += length;
  if (!c.stream) {
    c.forwarded += length;  // into the void: the guest is being told
    return;
  }
  // More than its credit.
  if (length > kBuffer - c.out.size()) return drop(c, true);
  size_t old = c.out.size();
  c.out.resize(old + length);
  chain.read(kHeader, {reinterpret_cast<u8*>(c.out.data()) + old, length});
  from_guest_ += length;
  forward(c);
}

void Vsock::take_shutdown(Connection& c, u32 flags) {
  c.guest_ended |= flags & kBoth;
  if (!c.stream) {
    if (c.guest_ended == kBoth) drop(c, true);
    return;
  }
  if (c.guest_ended & kNoReceive) {
    c.stream->end_input();
    c.readable = false;
  }
  forward(c);
}

bool Vsock::forward(Connection& c) {
  if (!c.out.empty()) {
    auto n = c.stream->write({reinterpret_cast<const u8*>(c.out.data()), c.out.size()});
    if (!n) {
      host_ends(c, kBoth);
      // The guest has ended already: nothing is left to be told but the end.
      if (c.guest_ended != kBoth) return true;
    } else {
      c.out.erase(0, *n);
      c.forwarded += static_cast<u32>(*n);
    }
  }
  if (c.out.empty()) {
    if (c.guest_ended == kBoth) {
      drop(c, true);  // 5.10.6.6: a clean end is answered with a reset
      return false;
    }
    if ((c.guest_ended & kNoSend) && c.stream) c.stream->end_output();
  }
  // The guest is told of room before it runs out of what it knows of.
  if (c.told != c.forwarded && kBuffer - (c.received - c.told) < kBuffer / 2) {
    c.owes_credit = true;
    want_turn(c);
  }
  watch(c);
  return true;
}

}  // namespace skerry::virtio
