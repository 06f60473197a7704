#include "net/switch.hpp"

#include <algorithm>
#include <cstring>

namespace skerry::net {

namespace {

/// What may be sent at once after a pause: 50 ms, since a busy host may wake the switch that late,
/// and at least the longest frame.
i64 burst(u64 rate) {
  return std::max<i64>(static_cast<i64>(rate / 8 / 20), static_cast<i64>(kMaxFrame));
}

Mac mac_at(std::span<const u8> frame, size_t at) {
  Mac mac;
  std::memcpy(mac.data(), &frame[at], mac.size());
  return mac;
}

}  // namespace

Result<Switch::PortId> Switch::add(PortSetup setup, Nanos now) {
  if (!setup.uplink) {
    if (is_multicast(setup.mac.data()) || setup.mac == Mac{})
      return fail("{} is not the address of a network card", to_text(setup.mac));
    for (const auto& [id, port] : ports_)
      if (!port.setup.uplink && port.setup.mac == setup.mac)
        return fail_hint("give one of the machines another --name, or the card a mac=",
                         "the address {} is in use by {}", to_text(setup.mac), port.setup.owner);
  }
  PortId id = next_++;
  PortState state;
  state.tokens = burst(setup.rate);
  state.filled = now;
  state.setup = std::move(setup);
  if (!state.setup.uplink) {
    Key key{state.setup.vlan, state.setup.mac};
    if (auto it = table_.find(key); it != table_.end()) --learned_;  // behind an uplink, once
    table_[key] = {id, now};
  }
  ports_[id] = std::move(state);
  return id;
}

void Switch::remove(PortId id) {
  PortState* port = find(id);
  if (!port) return;
  for (auto it = table_.begin(); it != table_.end();) {
    if (it->second.port != id) {
      ++it;
      continue;
    }
    if (port->setup.uplink) --learned_;
    it = table_.erase(it);
  }
  ports_.erase(id);
}

Switch::PortState* Switch::find(PortId id) {
  auto it = ports_.find(id);
  return it == ports_.end() ? nullptr : &it->second;
}

void Switch::refill(PortState& port, Nanos now) {
  const u64 rate = port.setup.rate;
  // What has come in, in bytes; the rest of the time is kept for the next look.
  u64 passed = static_cast<u64>(std::max<Nanos>(now - port.filled, 0));
  auto gained = static_cast<i64>(u128{passed} * rate / 8'000'000'000);
  if (gained <= 0) return;
  port.filled += static_cast<Nanos>(u128(gained) * 8'000'000'000 / rate);
  port.tokens += gained;
  if (i64 over = port.tokens - burst(rate); over >= 0) {
    port.counters.rate_unused += static_cast<u64>(over);
    port.tokens = burst(rate);
    port.filled = now;
  }
}

void Switch::settle(Nanos now) {
  for (auto& [id, port] : ports_)
    if (port.setup.rate) refill(port, now);
}

Nanos Switch::may_send(PortId id, Nanos now) {
  PortState* port = find(id);
  if (!port || port->setup.rate == 0) return 0;
  refill(*port, now);
  const u64 rate = port->setup.rate;
  if (port->tokens > 0) return 0;
  return now + 1 + static_cast<Nanos>(u128(1 - port->tokens) * 8'000'000'000 / rate);
}

bool Switch::allowed(const PortState& from, const PortState& to) {
  return from.setup.vlan == to.setup.vlan && !(from.setup.isolated && to.setup.isolated);
}

/// A machine for itself; an uplink for whoever is not on the switch: a frame of a machine's own
/// that comes back from outside is either forged or in a loop.
bool Switch::may_speak_for(const PortState& from, const Mac& source) const {
  if (!from.setup.uplink) return source == from.setup.mac;
  auto it = table_.find({from.setup.vlan, source});
  return it == table_.end() || ports_.at(it->second.port).setup.uplink;
}

void Switch::learn(const Key& key, PortId port, Nanos now) {
  auto it = table_.find(key);
  if (it != table_.end()) {
    it->second = {port, now};
    return;
  }
  if (learned_ >= kMaxLearned) {
    for (auto old = table_.begin(); old != table_.end();) {
      bool gone = ports_.at(old->second.port).setup.uplink && now - old->second.seen > kAge;
      if (gone) --learned_;
      old = gone ? table_.erase(old) : std::next(old);
    }
    if (learned_ >= kMaxLearned) return;
  }
  table_[key] = {port, now};
  ++learned_;
}

void Switch::route(PortId from_id, std::span<const u8> header, size_t length, Nanos now) {
  PortState* from = find(from_id);
  if (!from) return;
  if (from->setup.rate) from->tokens -= static_cast<i64>(length);
  if (length < kEthernetHeader || length > kMaxFrame || header.size() < kEthernetHeader) {
    ++from->counters.errors;
    return;
  }
  Mac to = mac_at(header, 0), source = mac_at(header, 6);
  u16 type = static_cast<u16>(header[12] << 8 | header[13]);
  if (is_multicast(source.data())) {
    ++from->counters.errors;
    return;
  }
  if (!may_speak_for(*from, source)) {
    ++from->counters.spoofed;
    return;
  }
  // Before anything is learned: the frame is of another VLAN than the port.
  if (type == 0x8100 || type == 0x88a8) {
    ++from->counters.tagged;
    return;
  }
  if (from->setup.uplink) learn({from->setup.vlan, source}, from_id, now);
  if (is_multicast(to.data())) {
    for (auto& [id, port] : ports_)
      if (id != from_id && allowed(*from, port)) targets_.push_back(id);
  } else if (auto it = table_.find({from->setup.vlan, to});
             it != table_.end() &&
             (!ports_.at(it->second.port).setup.uplink || now - it->second.seen <= kAge)) {
    if (it->second.port != from_id && allowed(*from, ports_.at(it->second.port)))
      targets_.push_back(it->second.port);
  } else {
    for (auto& [id, port] : ports_)
      if (id != from_id && port.setup.uplink && allowed(*from, port)) targets_.push_back(id);
  }
  if (targets_.empty()) {
    ++from->counters.unreachable;
    return;
  }
  ++from->counters.in_frames;
  from->counters.in_bytes += length;
}

}  // namespace skerry::net
