// Console: the virtio console with one port. Virtio 1.2 section 5.3.
//
// What the guest writes goes to a sink; what the host has for the guest comes through receive(). No
// descriptors inside. Not here: multiple ports, the control queues, resizing at run time.
//
// Threading: as VirtioDevice; the sink is called with the board lock held and must not block.
#pragma once

#include <deque>

#include "virtio/device.hpp"

namespace skerry::virtio {

class Console final : public VirtioDevice {
 public:
  static constexpr u64 kFeatureSize = 1 << 0, kFeatureEmergency = 1 << 2;
  /// Host bytes that wait for the guest, and the most taken from one request.
  static constexpr size_t kPending = 64 * KiB, kLongest = 64 * KiB;

  using Sink = std::function<void(std::span<const u8>)>;
  struct Size {
    u16 columns = 80, rows = 25;
  };
  Console(std::string name, Sink sink, Size size);
  Console(std::string name, Sink sink) : Console(std::move(name), std::move(sink), Size()) {}

  /// Host input. Returns how many bytes were taken; the rest may be offered again when has_room is
  /// called. Board lock held.
  size_t receive(std::span<const u8> bytes);
  size_t room() const { return kPending - state_.pending.size(); }
  std::function<void()> has_room;

  u16 id() const override { return 3; }
  u32 class_code() const override { return 0x078000; }
  std::string name() const override { return name_; }
  u64 features() const override { return kFeatureSize | kFeatureEmergency; }
  std::vector<u16> queue_sizes() const override { return {64, 64}; }
  std::span<const u8> config() const override { return config_; }
  void write_config(u32 offset, std::span<const u8> bytes) override;
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override { input_ = output_ = nullptr; }
  void quiesce() override { quiet_ = true; }
  bool notify(unsigned queue) override;
  /// What the host has sent already still reaches the next driver.
  void reset() override {}
  void save(state::Image& image) const override { image.put(name_, state_); }
  Result<> load(const state::Image& image) override;

 private:
  struct State {
    std::string pending;  ///< input that the guest has no buffer for yet
    static void describe(auto& s, auto& v) { v.field("pending", s.pending); }
  };
  bool send_input();
  bool take_output();

  std::string name_;
  Sink sink_;
  std::array<u8, 12> config_{};
  State state_;
  Queue* input_ = nullptr;
  Queue* output_ = nullptr;
  bool quiet_ = false;  ///< between quiesce() and the next notify()
};

}  // namespace skerry::virtio
