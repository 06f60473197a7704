// What network cards are connected to: a NetSpec becomes a net::Port.
#pragma once

#include "base/event_loop.hpp"
#include "net/port.hpp"
#include "schema/net_spec.hpp"

namespace skerry::board {

/// What is told about a card to whatever it is connected to.
struct CardNames {
  std::string machine, card;
  net::Mac mac{};
};
/// Errors say which option to change. `clock` is the loop's time base.
Result<std::unique_ptr<net::Port>> connect(const schema::NetSpec& spec, const CardNames& card,
                                           EventLoop& loop, const Clock& clock);

}  // namespace skerry::board
