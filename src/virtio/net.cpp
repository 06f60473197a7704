#include "virtio/net.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace skerry::virtio {

namespace {

/// Guest memory copied in one turn, about: more waits for the next.
constexpr size_t kTurn = 1 * MiB;
constexpr u16 kLinkUp = 1;  // 5.1.4: status

}  // namespace

Net::Net(std::string name, Environment environment, std::unique_ptr<net::Port> port, Setup setup)
    : name_(std::move(name)),
      environment_(environment),
      setup_(setup),
      scratch_(net::kMaxFrame + 1),
      port_(std::move(port)) {
  SKERRY_CHECK(setup_.pairs >= 1 && setup_.pairs <= kMaxPairs);
  state_.mac = setup_.mac;
  std::memcpy(config_.data(), setup_.mac.data(), 6);
  store<u16>(&config_[6], kLinkUp);
  store<u16>(&config_[8], static_cast<u16>(setup_.pairs));
  store<u16>(&config_[10], setup_.mtu);
  std::weak_ptr<Net*> self = self_;
  std::mutex& lock = environment_.lock;
  port_->attach(
      {.receive =
           [self, &lock](const net::Offload& offload, std::span<const u8> frame, unsigned queue) {
             std::lock_guard guard(lock);
             auto alive = self.lock();
             return !alive || (*alive)->receive(offload, frame, queue);
           },
       .writable =
           [self, &lock] {
             std::lock_guard guard(lock);
             if (auto alive = self.lock()) (*alive)->transmit_all();
           },
       .carrier =
           [self, &lock](bool up) {
             std::lock_guard guard(lock);
             if (auto alive = self.lock()) {
               (*alive)->carrier_ = up;
               (*alive)->show_link();
             }
           }});
}

Net::~Net() = default;

u64 Net::features() const {
  return kFeatureChecksum | kFeatureGuestChecksum | kFeatureGuestOffloads | kFeatureMac |
         kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn | kFeatureHostTso4 |
         kFeatureHostTso6 | kFeatureHostEcn | kFeatureMergeable | kFeatureStatus | kFeatureControl |
         kFeatureRxMode | kFeatureRxExtra | kFeatureSetMac |
         (setup_.pairs > 1 ? kFeatureMultiqueue : 0) | (setup_.mtu ? kFeatureMtu : 0);
}

std::vector<u16> Net::queue_sizes() const {
  std::vector<u16> sizes(2 * setup_.pairs, kQueueSize);
  sizes.push_back(kControlSize);
  return sizes;
}

// 5.1.2: receiveq1, transmitq1, ..., controlq; the control queue comes after the last pair that the
// device has, or after the first without MULTIQUEUE.
Queue* Net::queue(unsigned index) const {
  return index < queues_.size() && queues_[index]->ready() ? queues_[index].get() : nullptr;
}

void Net::set_link(bool up) {
  cable_ = up;
  show_link();
}

void Net::show_link() {
  u16 status = link_up() ? kLinkUp : 0;
  if (skerry::load<u16>(&config_[6]) == status) return;
  store<u16>(&config_[6], status);
  if (config_changed) config_changed();
}

void Net::activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = false;
  features_ = features;
  queues_ = queues;
  // 5.1.6.5.8: what was negotiated is on until the driver says otherwise.
  constexpr u64 kGuest =
      kFeatureGuestChecksum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn;
  if (!(state_.offloads & kOffloadsSet)) state_.offloads = features & kGuest;
}

void Net::deactivate() {
  queues_ = {};
  waiting_.clear();
}

void Net::reset() {
  state_ = State{};
  state_.mac = setup_.mac;
  std::memcpy(config_.data(), state_.mac.data(), 6);
  steer_ = {};
  pairs_changed();
}

/// On the port's thread, which this may not be.
void Net::pairs_changed() {
  if (port_->queues() == 1) return;
  environment_.loop.post([self = std::weak_ptr(self_), &lock = environment_.lock] {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->port_->use_queues((*alive)->state_.pairs);
  });
}

Result<> Net::load(const state::Image& image) {
  State saved;
  TRY_VOID(image.get(name_, saved));
  for (const Filter* f : {&saved.unicast, &saved.multicast})
    if (f->addresses.size() > 6 * kMaxFilter || f->addresses.size() % 6)
      return fail("{} has an impossible address filter in the image", name_);
  if (saved.pairs < 1 || saved.pairs > setup_.pairs)
    return fail_hint("give the network card the queues it had when the machine was saved",
                     "{}: the guest uses {} pairs of queues, there are {}", name_, saved.pairs,
                     setup_.pairs);
  state_ = std::move(saved);
  std::memcpy(config_.data(), state_.mac.data(), 6);
  pairs_changed();
  return {};
}

std::vector<machine::Counter> Net::counters() const {
  return {
      {"sent frames", counters_.sent_frames},          {"sent bytes", counters_.sent_bytes},
      {"sent dropped", counters_.sent_dropped},        {"sent malformed", counters_.sent_errors},
      {"received frames", counters_.received_frames},  {"received bytes", counters_.received_bytes},
      {"received dropped", counters_.received_dropped}};
}

bool Net::notify(unsigned index) {
  quiet_ = false;
  if (queues_.empty()) return false;
  bool control = index == control_queue() || (index == 2 && !(features_ & kFeatureMultiqueue));
  if (control) return this->control();
  if (index % 2) return transmit(index / 2);
  send_waiting();
  if (waiting_.empty() && std::exchange(refused_, false)) port_->resume();
  return false;
}

// ---- from the guest

bool Net::transmit(unsigned pair) {
  Queue* queue = this->queue(2 * pair + 1);
  if (!queue) return false;
  bool more = true;
  size_t budget = kTurn;
  Queue::Batch batch(*queue);
  for (unsigned count = queue->size(); more && count > 0 && budget > 0; --count) {
    auto chain = queue->pop();
    if (!chain) {
      more = false;
      break;
    }
    size_t length = std::min<size_t>(chain->readable(), net::kMaxFrame) + 256;
    budget -= std::min(budget, length);
    if (send(*chain, pair)) {
      chain->complete(0);
    } else {
      queue->give_back(std::move(*chain));
      more = false;  // until Events::writable
    }
  }
  port_->flush();
  return more;
}

void Net::transmit_all() {
  if (queues_.empty() || quiet_) return;
  bool more = false;
  for (unsigned i = 0; i < setup_.pairs; ++i) more |= transmit(i);
  if (!more) return;
  // In turns with everything else on the loop.
  environment_.loop.post([self = std::weak_ptr(self_), &lock = environment_.lock] {
    std::lock_guard guard(lock);
    if (auto alive = self.lock()) (*alive)->transmit_all();
  });
}

/// False: the port has no room.
bool Net::send(Chain& chain, unsigned pair) {
  u8 header[kHeader];
  if (chain.readable() < kHeader + net::kEthernetHeader ||
      chain.readable() > kHeader + net::kMaxFrame || chain.read(0, header) != kHeader) {
    ++counters_.sent_errors;
    return true;
  }
  size_t length = chain.readable() - kHeader;
  std::span<u8> frame(scratch_.data(), length);
  chain.read(kHeader, frame);
  net::Offload offload;
  std::memcpy(&offload, header, sizeof offload);
  offload.flags &= net::Offload::kNeedsChecksum;  // 5.1.6.2: the others are the device's
  bool allowed = (!offload.needs_checksum() || features_ & kFeatureChecksum) &&
                 (offload.segments_as() != net::Offload::kTcp4 || features_ & kFeatureHostTso4) &&
                 (offload.segments_as() != net::Offload::kTcp6 || features_ & kFeatureHostTso6);
  if (!offload.gso_type) offload.gso_size = offload.header_length = 0;
  if (!offload.needs_checksum()) offload.checksum_start = offload.checksum_offset = 0;
  if (!allowed || !net::well_formed(offload, frame)) {
    trace(Trace::virtio, "{}: a malformed frame of {} bytes", name_, length);
    ++counters_.sent_errors;
    return true;
  }
  if (!link_up()) {
    ++counters_.sent_dropped;
    return true;
  }
  if (!port_->send(offload, frame, pair)) return false;
  if (state_.pairs > 1) steer_[net::flow_hash(frame) % steer_.size()] = static_cast<u8>(pair);
  ++counters_.sent_frames;
  counters_.sent_bytes += length;
  return true;
}

// ---- to the guest

bool Net::Filter::has(const u8* mac) const {
  if (overflow) return true;
  for (size_t at = 0; at + 6 <= addresses.size(); at += 6)
    if (std::memcmp(&addresses[at], mac, 6) == 0) return true;
  return false;
}

bool Net::wanted(const u8* mac) const {
  static constexpr u8 kBroadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  if (state_.promiscuous) return true;
  if (std::memcmp(mac, kBroadcast, 6) == 0) return !state_.no_broadcast;
  if (net::is_multicast(mac))
    return !state_.no_multicast && (state_.all_multicast || state_.multicast.has(mac));
  return !state_.no_unicast && (state_.all_unicast || std::memcmp(mac, state_.mac.data(), 6) == 0 ||
                                state_.unicast.has(mac));
}

unsigned Net::pair_for(std::span<const u8> frame, unsigned queue) const {
  if (state_.pairs <= 1) return 0;
  if (port_->queues() > 1) return queue % state_.pairs;
  return steer_[net::flow_hash(frame) % steer_.size()] % state_.pairs;
}

void Net::count_received(Put put, size_t length) {
  if (put == Put::never) {
    ++counters_.received_dropped;
    return;
  }
  ++counters_.received_frames;
  counters_.received_bytes += length;
}

bool Net::receive(const net::Offload& offload, std::span<const u8> frame, unsigned from) {
  // Without a driver there is nobody to wait for.
  if (queues_.empty() || !link_up() || frame.size() < net::kEthernetHeader ||
      !wanted(frame.data())) {
    ++counters_.received_dropped;
    return true;
  }
  Queue* queue = this->queue(2 * pair_for(frame, from));
  if (!queue) {
    ++counters_.received_dropped;
    return true;
  }
  if (quiet_ || !waiting_.empty()) {
    refused_ = true;
    return false;
  }
  net::Abilities can{.checksum = (state_.offloads & kFeatureGuestChecksum) != 0,
                     .tcp4 = (state_.offloads & kFeatureGuestTso4) != 0,
                     .tcp6 = (state_.offloads & kFeatureGuestTso6) != 0,
                     .ecn = (state_.offloads & kFeatureGuestEcn) != 0};
  bool first = true, taken = true;
  net::adapt(offload, frame, can, [&](const net::Offload& o, std::span<const u8> part) {
    if (!taken) return;
    Put put = waiting_.empty() ? this->put(*queue, o, part) : Put::no_room;
    if (put == Put::no_room && first) {
      taken = false;
      return;
    }
    first = false;
    if (put == Put::no_room) {
      waiting_.push_back({o, {part.begin(), part.end()}, from});
    } else {
      count_received(put, part.size());
    }
  });
  if (!taken) refused_ = true;
  return taken;
}

void Net::send_waiting() {
  while (!waiting_.empty()) {
    const Waiting& next = waiting_.front();
    Queue* queue = this->queue(2 * pair_for(next.frame, next.queue));
    Put put = queue ? this->put(*queue, next.offload, next.frame) : Put::never;
    if (put == Put::no_room) return;
    count_received(put, next.frame.size());
    waiting_.pop_front();
  }
}

Net::Put Net::put_single(Queue& queue, std::span<const u8> header, std::span<const u8> frame) {
  auto chain = queue.pop();
  if (!chain) return Put::no_room;
  if (chain->writable() < header.size() + frame.size()) {
    queue.give_back(std::move(*chain));
    return Put::never;
  }
  chain->write(0, header);
  chain->write(header.size(), frame);
  chain->complete(header.size() + frame.size());
  return Put::done;
}

// 5.1.6.4: with MRG_RXBUF a frame goes into as many buffers as it takes, whose number the header
// tells. They are collected before any is written, since a frame waits until there are enough, and
// shown to the driver all at once, since it takes the number at its word.
Net::Put Net::put(Queue& queue, const net::Offload& offload, std::span<const u8> frame) {
  u8 header[kHeader];
  std::memcpy(header, &offload, sizeof offload);
  store<u16>(header + 10, 1);
  if (!(features_ & kFeatureMergeable)) return put_single(queue, header, frame);

  std::vector<Chain> chains;
  u64 room = 0;
  auto give_up = [&](Put result) {
    for (auto it = chains.rbegin(); it != chains.rend(); ++it) queue.give_back(std::move(*it));
    return result;
  };
  while (room < kHeader + frame.size()) {
    auto chain = queue.pop();
    // Not even the whole ring holds it.
    if (!chain) return give_up(chains.size() >= queue.size() ? Put::never : Put::no_room);
    // 5.1.6.3.1: each buffer holds at least the header. A smaller one is of no use to anybody.
    if (chain->writable() < kHeader) {
      chains.push_back(std::move(*chain));
      return give_up(Put::never);
    }
    room += chain->writable();
    chains.push_back(std::move(*chain));
    if (chains.size() == queue.size() && room < kHeader + frame.size()) return give_up(Put::never);
  }
  store<u16>(header + 10, static_cast<u16>(chains.size()));
  Queue::Batch batch(queue);
  size_t at = 0;
  for (Chain& chain : chains) {
    size_t skip = &chain == &chains[0] ? kHeader : 0;
    if (skip) chain.write(0, header);
    size_t n = chain.write(skip, frame.subspan(at));
    at += n;
    chain.complete(skip + n);
  }
  return Put::done;
}

}  // namespace skerry::virtio
