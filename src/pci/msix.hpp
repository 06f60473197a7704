// The MSI-X table and pending-bit array of a function: a block of registers for one of its BARs.
//
// PCI 3.0 6.8.2. The table is at offset 0, the PBA at pba_offset(). The capability's control word
// lives in configuration space; the function tells this block about it with set_control(). Called
// with the board lock held.
#pragma once

#include <vector>

#include "base/log.hpp"
#include "machine/device.hpp"

namespace skerry::pci {

class Msix final : public machine::Registers {
 public:
  static constexpr u16 kEnable = 1 << 15, kFunctionMask = 1 << 14;

  struct Entry {
    u32 address_low = 0, address_high = 0, data = 0;
    u32 control = 1;  ///< bit 0: masked, the state after reset (6.8.2.9)
    static void describe(auto& s, auto& v) {
      v.field("address_low", s.address_low);
      v.field("address_high", s.address_high);
      v.field("data", s.data);
      v.field("control", s.control);
    }
  };
  struct State {
    std::vector<Entry> table;
    std::vector<u64> pending;
    static void describe(auto& s, auto& v) {
      v.field("table", s.table);
      v.field("pending", s.pending);
    }
  };

  /// 1..2048 vectors.
  explicit Msix(unsigned vectors);

  unsigned vectors() const { return static_cast<unsigned>(state_.table.size()); }
  u32 pba_offset() const { return static_cast<u32>(align_up(16 * vectors(), 64)); }
  /// Of table and PBA together: what the BAR must hold, a power of two and at least a page.
  u64 size() const;

  void connect(machine::MsiSink* sink) { sink_ = sink; }
  /// `control` is the capability's word, `master` COMMAND's bus master bit: without it no message
  /// leaves.
  void set_control(u16 control, bool master);
  bool enabled() const { return control_ & kEnable; }

  /// Sends the message of `vector`, or remembers it while masked. Odd vectors do nothing.
  void trigger(unsigned vector);

  u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;

  void reset();
  const State& state() const { return state_; }
  bool fits(const State& state) const;
  void adopt(State state) { state_ = std::move(state); }

 private:
  bool can_send(unsigned vector) const;
  void send(unsigned vector);
  void send_unmasked();

  State state_;
  machine::MsiSink* sink_ = nullptr;
  u16 control_ = 0;
  bool master_ = false;
};

}  // namespace skerry::pci
