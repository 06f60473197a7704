// The VM generation ID (Microsoft's "Virtual Machine Generation ID"): 16 random bytes in guest
// memory that change when the machine becomes a copy, so that guests throw away what must be
// unique: random number pools, connections. ACPI tells the guest where they are and when they
// change.
//
// The same over resets and migration; renew() is for whoever makes a copy. Threading: a device
// (board lock held).
#pragma once

#include <array>

#include "machine/device.hpp"
#include "memory/guest_memory.hpp"

namespace skerry::devices {

class VmGeneration final : public machine::Device {
 public:
  using Id = std::array<u8, 16>;
  /// `at`: 16 bytes that the guest uses for nothing else. `changed` notifies the guest.
  VmGeneration(memory::GuestMemory& memory, memory::Gpa at, Id id, std::function<void()> changed)
      : memory_(memory), at_(at), changed_(std::move(changed)) {
    s_.id = id;
  }
  /// A random one, as RFC 4122 wants it.
  static Id random();
  /// "6f1c...-....": little-endian fields first, as guests show it.
  static std::string text(const Id& id);

  const Id& id() const { return s_.id; }
  void renew(Id id);
  /// Writes it to memory: at every start.
  void place() { (void)memory_.write(at_, s_.id); }

  std::string name() const override { return "vm_generation"; }
  void reset() override {}
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override;

  struct State {
    Id id{};
    static void describe(auto& s, auto& v) { v.field("id", s.id); }
  };

 private:
  memory::GuestMemory& memory_;
  const memory::Gpa at_;
  std::function<void()> changed_;
  State s_;
};

}  // namespace skerry::devices
