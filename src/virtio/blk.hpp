// Blk: the virtio block device over a storage::Disk.
//
// Virtio 1.2 section 5.2: read, write, flush, get-id. Data moves straight between the disk and
// guest memory. Without F_FLUSH each write is on stable storage before it is reported (5.2.6.2).
// Not here: discard, write zeroes, several queues, topology.
//
// Threading: as VirtioDevice; the disk is used on a DiskWorker's thread, whose completions are
// posted to the event loop.
#pragma once

#include <map>

#include "storage/disk_worker.hpp"
#include "virtio/device.hpp"

namespace skerry::virtio {

class Blk final : public VirtioDevice {
 public:
  static constexpr u16 kQueueSize = 256;
  static constexpr u64 kFeatureSegMax = 1 << 2, kFeatureReadOnly = 1 << 5, kFeatureBlkSize = 1 << 6,
                       kFeatureFlush = 1 << 9;

  /// `serial`: at most 20 bytes are shown to the guest.
  Blk(std::string name, Environment environment, std::unique_ptr<storage::Disk> disk,
      std::string serial = {});
  ~Blk() override;

  u16 id() const override { return 2; }
  u32 class_code() const override { return 0x010000; }
  std::string name() const override { return name_; }
  u64 features() const override;
  std::vector<u16> queue_sizes() const override { return {kQueueSize}; }
  std::span<const u8> config() const override { return config_; }
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override;
  void reset() override {}
  void save(state::Image& image) const override { image.put(name_, state()); }
  Result<> load(const state::Image& image) override;

 private:
  /// What the guest relies on, to refuse a smaller disk.
  struct State {
    u64 sectors = 0;
    bool readonly = false;
    static void describe(auto& s, auto& v) {
      v.field("sectors", s.sectors);
      v.field("readonly", s.readonly);
    }
  };
  struct Request {
    Chain chain;
    u64 data = 0;  ///< writable bytes before the status byte that are filled on success
  };
  State state() const;
  void handle(Chain chain);
  void answer(Chain& chain, u8 status, u64 data);
  void finish();

  std::string name_, serial_;
  Environment environment_;
  std::unique_ptr<storage::Disk> disk_;
  std::array<u8, 60> config_{};
  Queue* queue_ = nullptr;  ///< null while inactive
  bool durable_writes_ = false;
  std::map<u64, Request> in_flight_;
  u64 next_token_ = 1;
  unsigned reported_ = 0;  ///< host errors shown to the operator
  std::shared_ptr<Blk*> self_ = std::make_shared<Blk*>(this);  ///< tells posted work that we live
  storage::DiskWorker worker_;
};

}  // namespace skerry::virtio
