// Rng: the virtio entropy device. Virtio 1.2 section 5.4.
//
// Answers from the host's getrandom(2). A request gets at most kMost bytes at a time, so that a
// guest with huge buffers does not hold up the machine. Threading: as VirtioDevice.
#pragma once

#include "virtio/device.hpp"

namespace skerry::virtio {

class Rng final : public VirtioDevice {
 public:
  static constexpr u64 kMost = 4 * KiB;

  /// Fills a buffer of at most 256 bytes.
  using Source = std::function<void(std::span<u8>)>;
  static void host_entropy(std::span<u8> to);

  explicit Rng(std::string name, Source source = host_entropy)
      : name_(std::move(name)), source_(std::move(source)) {}

  u16 id() const override { return 4; }
  u32 class_code() const override { return 0xff0000; }
  std::string name() const override { return name_; }
  u64 features() const override { return 0; }
  std::vector<u16> queue_sizes() const override { return {64}; }
  std::span<const u8> config() const override { return {}; }
  void activate(u64, std::span<const std::unique_ptr<Queue>> queues) override {
    queue_ = queues[0].get();
  }
  void deactivate() override { queue_ = nullptr; }
  bool notify(unsigned queue) override;
  void reset() override {}
  void save(state::Image&) const override {}
  Result<> load(const state::Image&) override { return {}; }

 private:
  std::string name_;
  Source source_;
  Queue* queue_ = nullptr;
};

}  // namespace skerry::virtio
