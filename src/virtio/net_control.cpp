// The control queue of the network card: virtio 1.2 section 5.1.6.5.
#include "base/log.hpp"
#include "virtio/net.hpp"

namespace skerry::virtio {

namespace {

enum Class : u8 { kRx = 0, kMac = 1, kMultiqueue = 4, kOffloads = 5 };
constexpr u8 kOk = 0, kError = 1;

}  // namespace

bool Net::control() {
  Queue* queue = this->queue(features_ & kFeatureMultiqueue ? control_queue() : 2);
  if (!queue || !(features_ & kFeatureControl)) return false;
  for (unsigned budget = queue->size(); budget > 0; --budget) {
    auto chain = queue->pop();
    if (!chain) return false;
    bool good = command(*chain);
    u8 status = good ? kOk : kError;
    chain->complete(chain->write(0, {&status, 1}));
  }
  return true;
}

bool Net::command(Chain& chain) {
  u8 head[2];
  if (chain.read(0, head) != 2) return false;
  trace(Trace::virtio, "{}: control class {} command {}", name_, head[0], head[1]);
  switch (head[0]) {
    case kRx: return features_ & kFeatureRxMode && rx_mode(head[1], chain);
    case kMac: return mac_command(head[1], chain);
    case kMultiqueue: {
      u8 value[2];
      if (!(features_ & kFeatureMultiqueue) || head[1] != 0 || chain.read(2, value) != 2)
        return false;
      u16 pairs = skerry::load<u16>(value);
      if (pairs < 1 || pairs > setup_.pairs) return false;
      state_.pairs = pairs;
      pairs_changed();
      return true;
    }
    case kOffloads: {
      u8 value[8];
      if (!(features_ & kFeatureGuestOffloads) || head[1] != 0 || chain.read(2, value) != 8)
        return false;
      u64 wanted = skerry::load<u64>(value);
      constexpr u64 kAllowed =
          kFeatureGuestChecksum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn;
      if (wanted & ~(features_ & kAllowed)) return false;
      state_.offloads = wanted | kOffloadsSet;
      return true;
    }
    default: return false;
  }
}

bool Net::rx_mode(u8 command, Chain& chain) {
  bool* const flags[] = {&state_.promiscuous,  &state_.all_multicast, &state_.all_unicast,
                         &state_.no_multicast, &state_.no_unicast,    &state_.no_broadcast};
  u8 on;
  if (command >= std::size(flags) || chain.read(2, {&on, 1}) != 1) return false;
  if (command >= 2 && !(features_ & kFeatureRxExtra)) return false;
  *flags[command] = on != 0;
  return true;
}

bool Net::mac_command(u8 command, Chain& chain) {
  if (command == 1) {
    net::Mac mac;
    if (!(features_ & kFeatureSetMac) || chain.read(2, mac) != mac.size()) return false;
    state_.mac = mac;
    std::memcpy(config_.data(), mac.data(), mac.size());
    return true;
  }
  if (command != 0 || !(features_ & kFeatureRxMode)) return false;
  u64 at = 2;
  Filter unicast, multicast;
  if (!read_filter(chain, at, unicast) || !read_filter(chain, at, multicast)) return false;
  state_.unicast = std::move(unicast);
  state_.multicast = std::move(multicast);
  return true;
}

// u32 entries, then so many addresses.
bool Net::read_filter(Chain& chain, u64& at, Filter& filter) {
  u8 count[4];
  if (chain.read(at, count) != 4) return false;
  u64 bytes = u64{skerry::load<u32>(count)} * 6;
  at += 4;
  if (bytes > chain.readable() - at) return false;
  filter.overflow = bytes > 6 * kMaxFilter;
  filter.addresses.resize(filter.overflow ? 0 : bytes);
  chain.read(at, filter.addresses);
  at += bytes;
  return true;
}

}  // namespace skerry::virtio
