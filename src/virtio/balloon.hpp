// Balloon: memory that the guest lends back to the host. Virtio 1.2 section 5.5.
//
// The host sets a target; the driver puts that many pages into the balloon, or takes them out
// again, also on its own account when it runs out of memory. Pages in the balloon, and free pages
// that the driver reports, are given back to the host. Not here: free page hints (for migration).
//
// Threading: as VirtioDevice; the host's side is called with the board lock held, too.
#pragma once

#include <array>

#include "virtio/device.hpp"

namespace skerry::virtio {

class Balloon final : public VirtioDevice {
 public:
  static constexpr u64 kMustTellHost = 1 << 0, kStats = 1 << 1, kDeflateOnOom = 1 << 2,
                       kPoison = 1 << 4, kReporting = 1 << 5;
  static constexpr u64 kPage = 4096;  ///< the unit of all numbers, whatever the guest's page size
  /// Most pages, or reported ranges, per turn: giving one back is a system call.
  static constexpr unsigned kBudget = 4096;
  /// What the driver tells of its memory (5.5.6.4), in the order of its tags.
  static constexpr std::array<std::string_view, 10> kStatistics{
      "swapped in bytes",     "swapped out bytes", "major faults",    "minor faults",
      "free bytes",           "total bytes",       "available bytes", "caches bytes",
      "huge pages allocated", "huge pages failed"};

  Balloon(std::string name, memory::GuestMemory& memory)
      : name_(std::move(name)), memory_(memory) {}

  /// Pages that are to be in the balloon.
  void set_target(u32 pages);
  u32 target() const { return state_.target; }
  /// Pages that the driver says are in it.
  u32 actual() const { return state_.actual; }
  bool driven() const { return inflate_; }  ///< a driver is at work

  /// Asks the driver for fresh statistics; false if it cannot be asked now.
  bool ask_statistics();
  /// Grows whenever the driver has told them.
  u64 statistics_count() const { return told_; }
  /// By tag; nullopt: never told.
  const std::array<std::optional<u64>, kStatistics.size()>& statistics() const { return stats_; }

  u16 id() const override { return 5; }
  u32 class_code() const override { return 0x050000; }
  std::string name() const override { return name_; }
  u64 features() const override {
    return kMustTellHost | kStats | kDeflateOnOom | kPoison | kReporting;
  }
  std::vector<u16> queue_sizes() const override { return {128, 128, 16, 64}; }
  std::span<const u8> config() const override { return config_; }
  void write_config(u32 offset, std::span<const u8> bytes) override;
  void activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) override;
  void deactivate() override;
  bool notify(unsigned queue) override;
  void quiesce() override;
  void reset() override;
  void save(state::Image& image) const override { image.put(name_, state_); }
  Result<> load(const state::Image& image) override;
  std::vector<machine::Counter> counters() const override;

 private:
  struct State {
    u32 target = 0, actual = 0, poison = 0;
    static void describe(auto& s, auto& v) {
      v.field("target", s.target);
      v.field("actual", s.actual);
      v.field("poison", s.poison);
    }
  };
  void publish();
  bool inflate();
  bool deflate();
  bool take_statistics();
  bool take_reports();
  void give_back(u64 first, u64 pages);

  std::string name_;
  memory::GuestMemory& memory_;
  std::array<u8, 16> config_{};
  State state_;
  Queue *inflate_ = nullptr, *deflate_ = nullptr, *statistics_ = nullptr, *reports_ = nullptr;
  unsigned statistics_index_ = 0, reports_index_ = 0;
  bool keep_reported_ = false;    ///< reported pages must keep what is in them
  bool quiet_ = false;            ///< between quiesce() and the next notify()
  std::optional<Chain> waiting_;  ///< given back to ask for statistics (5.5.6.3)
  u64 told_ = 0;
  std::array<std::optional<u64>, kStatistics.size()> stats_{};
  u64 inflated_ = 0, deflated_ = 0, reported_ = 0, given_back_ = 0;
};

}  // namespace skerry::virtio
