// Board: one machine assembled from its Spec: which device sits where, which line goes to which
// interrupt controller, how the guest is booted. Knows no engine's inside.
//
// Threading: build() and everything below come from the VM process's main thread, except where it
// says "any thread".
#pragma once

#include <span>

#include "board/cpu_model.hpp"
#include "machine/machine.hpp"
#include "net/port.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::virtio {
class Balloon;
class Blk;
}  // namespace skerry::virtio

namespace skerry::board {

/// A serial line or console as the VM process sees it.
struct Line {
  std::string name;  ///< "serial0", "console0"
  /// Bytes for the guest: how many it took. Takes the board lock. Any thread.
  std::function<size_t(std::span<const u8>)> receive;
};

/// Where the bytes of a Line go; set before the machine runs. Called with the board lock held.
struct LineSink {
  std::function<void(std::span<const u8>)> write;
  std::function<void()> room;
};

/// A network card as the VM process sees it. Calls take the board lock. Any thread.
struct NetworkCard {
  struct Status {
    std::string connected_to;  ///< "user"
    std::string mac;           ///< as the guest has set it
    bool link_up;              ///< cable and far end
    net::Counters counters;
  };
  std::string name;  ///< "net0"
  std::function<Status()> status;
  /// Plugs or unplugs the cable.
  std::function<void(bool up)> set_link;
};

class Board {
 public:
  /// `sinks` has one entry per spec.serials, then one per spec.consoles. Errors say which option to
  /// change.
  static Result<std::unique_ptr<Board>> build(const schema::MachineSpec& spec,
                                              std::unique_ptr<machine::Engine> engine,
                                              std::function<LineSink(size_t index)> sinks);
  ~Board();

  machine::Machine& machine();
  const std::vector<Line>& lines() const;
  const std::vector<NetworkCard>& network_cards() const;
  /// Any thread.
  void press_power_button();
  /// The machine has become a copy of another: a new VM generation ID, of which the guest is told.
  /// Any thread.
  std::string new_generation();
  /// Null if the machine has none. Its calls need the board lock.
  virtio::Balloon* balloon();
  /// In the order of spec.disks.
  const std::vector<virtio::Blk*>& disks() const;

  struct Parts;

 private:
  explicit Board(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace skerry::board
