// Blk: the virtio block device over a storage::Disk.
//
// Virtio 1.2 section 5.2: read, write, flush, discard, write zeroes, get-id; several queues; a
// writeback cache that the driver may switch. Data moves straight between the disk and guest
// memory. Without F_FLUSH, and while the driver has switched the cache to write-through, each
// change is on stable storage before it is reported (5.2.6.2). Not here: secure erase, zoned
// devices, lifetime.
//
// A request that the host cannot do is an error to the guest, or it waits until the machine was
// paused and goes on again (OnError); such requests are part of the device's state.
//
// Threading: as VirtioDevice; the host's side (limits, counters) is called with the board lock
// held, too, except where it says otherwise. The disk is used by a DiskWorker, begun on the event
// loop's thread without the board lock; what ends later is told to the event loop.
#pragma once

#include <map>

#include "storage/disk_worker.hpp"
#include "virtio/device.hpp"
#include "virtio/token_bucket.hpp"

namespace skerry::virtio {

class Blk final : public VirtioDevice {
 public:
  static constexpr u16 kQueueSize = 256;
  static constexpr unsigned kMaxQueues = 8;
  static constexpr u64 kFeatureSegMax = 1 << 2, kFeatureReadOnly = 1 << 5, kFeatureBlkSize = 1 << 6,
                       kFeatureFlush = 1 << 9, kFeatureConfigWce = 1 << 11, kFeatureMq = 1 << 12,
                       kFeatureDiscard = 1 << 13, kFeatureWriteZeroes = 1 << 14;

  /// Per second; 0: no limit. A burst of 0 is a tenth of a second's worth.
  struct Limits {
    u64 bytes = 0, bytes_burst = 0;
    u64 operations = 0, operations_burst = 0;
    bool operator==(const Limits&) const = default;
  };

  /// What a request that the host cannot do leads to.
  struct OnError {
    bool pause_if_full = false;  ///< the host's disk is full, or its user's quota
    bool pause = false;          ///< anything else
    /// Asks for the machine to be paused. Board lock held.
    std::function<void(const std::string& why)> ask;
  };

  /// `serial`: at most 20 bytes are shown to the guest. `queues`: 1 to kMaxQueues. `ring`: null for
  /// threads.
  Blk(std::string name, Environment environment, std::unique_ptr<storage::Disk> disk,
      std::string serial = {}, unsigned queues = 1,
      std::unique_ptr<storage::DiskRing> ring = nullptr);
  ~Blk() override;

  /// DiskWorker::set_threads().
  void set_threads(unsigned most) { worker_.set_threads(most); }
  /// Makes the disk larger, in bytes, and tells the driver. Blocks while the image changes, without
  /// the board lock, which the caller does not hold either. One call at a time.
  Result<> resize(u64 bytes);
  /// Any thread.
  u64 size() const { return disk_->size(); }
  /// From now on. `clock` is the event loop's and outlives this.
  void set_limits(const Limits& limits, const Clock& clock);
  const Limits& limits() const { return limits_; }
  /// Before the machine runs.
  void set_on_error(OnError policy) { on_error_ = std::move(policy); }
  /// Requests wait for the machine to be paused and go on.
  bool stuck() const { return !stuck_.empty(); }

  u16 id() const override { return 2; }
  u32 class_code() const override { return 0x010000; }
  std::string name() const override { return name_; }
  u64 features() const override;
  std::vector<u16> queue_sizes() const override {
    return std::vector<u16>(queues_.size(), kQueueSize);
  }
  std::span<const u8> config() const override { return config_; }
  void write_config(u32 offset, std::span<const u8> bytes) override;
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void notified() override;
  void quiesce() override;
  void reset() override;
  void save(state::Image& image) const override { image.put(name_, state(), 3); }
  Result<> load(const state::Image& image) override;
  std::vector<machine::Counter> counters() const override;

 private:
  struct Waiting {
    u16 queue = 0, head = 0;
    static void describe(auto& s, auto& v) {
      v.field("queue", s.queue);
      v.field("head", s.head);
    }
  };
  /// What the guest relies on, to refuse a smaller disk; what the driver has set; and requests that
  /// wait for the host.
  struct State {
    u64 sectors = 0;
    bool readonly = false;
    bool write_through = false;
    std::vector<Waiting> waiting;
    static void describe(auto& s, auto& v) {
      v.field("sectors", s.sectors);
      v.field("readonly", s.readonly);
      v.field("write_through", s.write_through, state::since(2));
      v.field("waiting", s.waiting, state::since(3));
    }
  };
  struct Request {
    Chain chain;
    u64 data = 0;  ///< writable bytes before the status byte that are filled on success
    u16 queue = 0;
  };
  struct Counts {
    u64 reads = 0, writes = 0, flushes = 0, discards = 0, zeroes = 0, read_bytes = 0,
        written_bytes = 0, host_errors = 0, refused = 0, throttled = 0, stuck = 0;
  };
  State state() const;
  void set_capacity();
  bool durable() const;
  void handle(Chain chain, unsigned queue);
  std::unique_ptr<storage::DiskRing> watched(std::unique_ptr<storage::DiskRing> ring);
  void try_again();
  bool pauses(const Error& error) const;
  bool ranges(const Chain& chain, u64 length, bool zero, storage::DiskWorker::Job& job, u8& status);
  void answer(Chain& chain, u8 status, u64 data);
  void finish();
  bool throttled();
  std::function<void()> go_on();

  std::string name_, serial_;
  Environment environment_;
  std::unique_ptr<storage::Disk> disk_;
  std::array<u8, 60> config_{};
  std::vector<Queue*> queues_;  ///< null while inactive
  u64 features_ = 0;            ///< negotiated
  std::map<u64, Request> in_flight_;
  u64 next_token_ = 1;
  unsigned reported_ = 0;  ///< host errors shown to the operator
  Counts counts_;
  OnError on_error_;
  std::vector<storage::DiskJob> stuck_;  ///< in in_flight_, too
  std::vector<Waiting> loaded_;          ///< to be taken again
  std::vector<Waiting> to_retake_;       ///< the same between load() and activate()
  Limits limits_;
  const Clock* clock_ = nullptr;  ///< null: no limits
  TokenBucket bytes_, operations_;
  EventLoop::TimerId timer_ = 0;  ///< of the end of a throttled time; 0: none
  bool quiet_ = false;            ///< begins nothing until the next notify()
  std::shared_ptr<Blk*> self_ = std::make_shared<Blk*>(this);  ///< tells posted work that we live
  storage::DiskWorker worker_;
};

}  // namespace skerry::virtio
