// Fs: the virtio filesystem device. Virtio 1.2 section 5.11.
//
// Requests are FUSE messages, which a backend outside this process answers (virtiofsd, through
// vhost-user). The guest's rings stay ours: the backend gets each request's buffers, and it is the
// device that completes it. So every page that the backend wrote is marked before the guest can
// know of it, as with any device. One request queue and the high-priority one; no DAX window, no
// notification queue.
//
// A backend that ends leaves a device that answers all requests with EIO, until the next driver
// brings a new one up. A readonly share lets through only what reads: that is decided on a copy of
// the request, and the copy is what the backend gets.
//
// What a filesystem has open lives in the backend, so a machine with a share cannot be saved.
//
// Threading: as VirtioDevice.
#pragma once

#include <map>

#include "virtio/device.hpp"

namespace skerry::virtio {

/// Who answers the requests. Calls need the board lock.
class FsBackend {
 public:
  static constexpr unsigned kQueues = 2;
  static constexpr size_t kMaxParts = 1000;
  /// The most bytes of a request that can be given as a copy.
  static constexpr size_t kMaxCopy = 8 * KiB;

  virtual ~FsBackend() = default;
  /// Ready for requests; starts anew if it was stopped.
  virtual Result<> start() = 0;
  /// Returns when nothing touches guest memory any more.
  virtual void stop() = 0;
  virtual bool alive() const = 0;
  virtual bool has_room(unsigned queue) const = 0;
  /// Only with room, and at most kMaxParts parts of guest memory. `copy` comes before `in`. The
  /// result names the request until it is done.
  virtual u32 submit(unsigned queue, std::span<const u8> copy, std::span<const iovec> in,
                     std::span<const iovec> out) = 0;
  /// What is done now: the request's name and how many bytes of `out` were written.
  virtual std::vector<std::pair<u32, u32>> collect() = 0;
  /// Waits for at most so long until something may be done.
  virtual void wait(int milliseconds) = 0;

  /// Something may be done, or the backend has ended. On the loop's thread, without the lock.
  std::function<void()> ready;
};

class Fs final : public VirtioDevice {
 public:
  static constexpr size_t kTag = 36;
  /// Of a FUSE message: fuse_in_header and fuse_out_header of linux/fuse.h.
  static constexpr size_t kInHeader = 40, kOutHeader = 16, kLongest = 1 * MiB;

  /// `tag`: at most kTag bytes.
  Fs(std::string name, Environment environment, std::string_view tag, bool readonly,
     std::unique_ptr<FsBackend> backend);
  ~Fs() override;

  u16 id() const override { return 26; }
  u32 class_code() const override { return 0x018000; }
  std::string name() const override { return name_; }
  u64 features() const override { return 0; }
  std::vector<u16> queue_sizes() const override { return {128, 128}; }
  std::span<const u8> config() const override { return config_; }
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override;
  void reset() override {}
  Result<> can_save() const override;
  void save(state::Image&) const override {}
  Result<> load(const state::Image&) override { return {}; }
  std::vector<machine::Counter> counters() const override;

 private:
  bool serve(unsigned queue);
  void finish();
  void give_up();
  /// The error of a request that a readonly share does not let through, or 0.
  int refusal(std::span<const u8> request) const;
  void answer(Chain chain, int error);

  std::string name_;
  Environment environment_;
  const bool readonly_;
  std::unique_ptr<FsBackend> backend_;
  std::array<u8, kTag + 4> config_{};
  Queue* queues_[FsBackend::kQueues] = {};
  bool quiet_ = false;  ///< between quiesce() and the next notify()
  bool ended_ = false;  ///< the backend has, and it was told
  std::map<u32, Chain> in_flight_;
  u64 requests_ = 0, refused_ = 0;
  std::shared_ptr<Fs*> self_ = std::make_shared<Fs*>(this);
};

}  // namespace skerry::virtio
