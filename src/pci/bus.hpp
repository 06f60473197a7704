// Bus 0 and the two ways to its configuration space: ports 0xcf8/0xcfc and ECAM.
//
// PCI Local Bus 3.0 3.2.2.3.2 (mechanism #1), PCI Express Base 7.2.2 (ECAM). There are no bridges,
// so every other bus is empty. Functions are added before the machine runs and stay.
//
// Threading: called with the board lock held.
#pragma once

#include <array>

#include "pci/function.hpp"

namespace skerry::pci {

constexpr u64 kEcamBase = 0xb000'0000, kEcamSize = 256 * MiB;
constexpr u16 kConfigPort = 0xcf8, kConfigPorts = 8;

class Bus final : public machine::Device {
 public:
  explicit Bus(Wiring wiring);

  /// `device` 0..31, `function` 0..7, free. Does not own the function, which outlives the bus's
  /// use.
  void add(unsigned device, unsigned function, Function& what);
  /// The lowest device number from `first` on with no function 0, or nullopt.
  std::optional<unsigned> free_device(unsigned first = 1) const;
  Function* at(unsigned device, unsigned function) const {
    return functions_[device * 8 + function];
  }

  /// To be mapped at port kConfigPort, kConfigPorts long. Accesses of one byte to the address
  /// register do nothing, so the board can put the reset register (0xcf9) over it.
  machine::Registers& ports() { return ports_; }
  /// To be mapped at kEcamBase, kEcamSize long.
  machine::Registers& ecam() { return ecam_; }

  std::string name() const override { return "pci"; }
  void reset() override { state_ = {}; }
  void save(state::Image& image) const override { image.put(name(), state_); }
  Result<> load(const state::Image& image) override;

 private:
  struct State {
    u32 address = 0;
    static void describe(auto& s, auto& v) { v.field("address", s.address); }
  };
  struct Ports final : machine::Registers {
    explicit Ports(Bus& b) : bus(b) {}
    u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;
    Bus& bus;
  };
  struct Ecam final : machine::Registers {
    explicit Ecam(Bus& b) : bus(b) {}
    u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;
    Bus& bus;
  };
  /// `bdf` is bus << 8 | device << 3 | function.
  u32 config_read(unsigned bdf, unsigned offset, unsigned size) const;
  void config_write(unsigned bdf, unsigned offset, unsigned size, u32 value);

  Wiring wiring_;
  std::array<Function*, 256> functions_{};
  State state_;
  Ports ports_{*this};
  Ecam ecam_{*this};
};

}  // namespace skerry::pci
