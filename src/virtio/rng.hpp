// Rng: the virtio entropy device. Virtio 1.2 section 5.4.
//
// Answers from the host's getrandom(2). A request gets at most kMost bytes at a time, so that a
// guest with huge buffers does not hold up the machine. A rate, if there is one, is kept by a token
// bucket that holds what comes in in a second; requests wait. Threading: as VirtioDevice.
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
  /// At most so many bytes per second of `clock`, which is the environment's loop's, too.
  struct Limit {
    u64 bytes_per_second;
    const Clock& clock;
    Environment environment;
  };
  Rng(std::string name, Limit limit, Source source = host_entropy);
  ~Rng() override;

  u16 id() const override { return 4; }
  u32 class_code() const override { return 0xff0000; }
  std::string name() const override { return name_; }
  u64 features() const override { return 0; }
  std::vector<u16> queue_sizes() const override { return {64}; }
  std::span<const u8> config() const override { return {}; }
  void activate(u64, std::span<const std::unique_ptr<Queue>> queues) override {
    queue_ = queues[0].get();
    quiet_ = false;
  }
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override;
  void reset() override {}
  void save(state::Image&) const override {}
  Result<> load(const state::Image&) override { return {}; }
  std::vector<machine::Counter> counters() const override {
    return {{"bytes given", given_}, {"waits for the rate limit", waits_}};
  }

 private:
  bool serve();
  void serve_at(Nanos when);
  void refill();
  void give(Chain& chain, u64 length);

  std::string name_;
  Source source_;
  Queue* queue_ = nullptr;
  bool quiet_ = false;  ///< between quiesce() and the next notify()
  u64 given_ = 0, waits_ = 0;

  std::optional<Limit> limit_;
  u64 tokens_ = 0;             ///< bytes that may be given now
  Nanos filled_ = 0;           ///< when tokens_ were last counted
  std::optional<Chain> next_;  ///< a request that waits for tokens
  EventLoop::TimerId timer_ = 0;
  std::shared_ptr<Rng*> self_ = std::make_shared<Rng*>(this);
};

}  // namespace skerry::virtio
