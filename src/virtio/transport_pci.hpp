// TransportPci: a virtio device as a PCI function.
//
// Virtio 1.2 section 4.1, non-transitional ("modern") only: vendor 0x1af4, device 0x1040 + id,
// revision
// 1. BAR 0 (64-bit memory) holds the common, ISR, device and notify structures, BAR 2 the MSI-X
// table. Offers VERSION_1, INDIRECT_DESC and EVENT_IDX beside the device's features. Not here:
// legacy interface, packed rings, RING_RESET, NOTIFICATION_DATA, ACCESS_PLATFORM (guest addresses
// are physical).
//
// Notify: queue n's doorbell is the 4 bytes at notify + 4 n. A store there signals the queue's
// eventfd, from the engine directly (Wiring::add_doorbell, 2-byte stores) or from the register
// handler; the device does its work on the event loop, so a vCPU never runs backend code. Without
// COMMAND.master the device does nothing with its queues.
//
// Threading: the PCI side is called with the board lock held; the loop's callbacks take it.
#pragma once

#include "pci/function.hpp"
#include "virtio/device.hpp"

namespace skerry::virtio {

class TransportPci final : public pci::Function {
 public:
  /// Structures in BAR 0.
  static constexpr u32 kCommon = 0x0000, kIsr = 0x1000, kDevice = 0x2000, kNotify = 0x3000,
                       kBarSize = 0x4000;
  static constexpr unsigned kBar = 0, kMsixBar = 2;
  static constexpr u16 kNoVector = 0xffff;
  /// device_status (2.1).
  static constexpr u8 kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8,
                      kNeedsReset = 0x40, kFailed = 0x80;

  static Result<std::unique_ptr<TransportPci>> create(Environment environment,
                                                      std::unique_ptr<VirtioDevice> device);
  ~TransportPci() override;

  void reset() override;
  Result<> can_save() const override { return device_->can_save(); }
  /// quiesce() comes before.
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;
  /// The device's own, then: notifications (those that came in one go count once), interrupts,
  /// guest errors.
  std::vector<machine::Counter> counters() const override;

  /// Board lock held. Finishes requests in flight and takes no new ones until resume(), also not
  /// after a reset or a load in between.
  void quiesce();
  void resume();

  VirtioDevice& device() { return *device_; }
  /// Descriptor errors of the guest since creation.
  u64 guest_errors() const { return guest_errors_; }
  u8 status() const { return state_.status; }

  struct QueueSetup {
    Queue::State ring;
    u16 vector = kNoVector;
    static void describe(auto& s, auto& v) {
      v.field("ring", s.ring);
      v.field("vector", s.vector);
    }
  };
  struct State {
    u8 status = 0, isr = 0, config_generation = 0;
    u32 device_feature_select = 0, driver_feature_select = 0;
    u64 driver_features = 0;
    u16 config_vector = kNoVector, queue_select = 0;
    std::vector<QueueSetup> queues;  ///< filled when saving only
    static void describe(auto& s, auto& v) {
      v.field("status", s.status);
      v.field("isr", s.isr);
      v.field("config_generation", s.config_generation);
      v.field("device_feature_select", s.device_feature_select);
      v.field("driver_feature_select", s.driver_feature_select);
      v.field("driver_features", s.driver_features);
      v.field("config_vector", s.config_vector);
      v.field("queue_select", s.queue_select);
      v.field("queues", s.queues);
    }
  };

 private:
  struct Bar final : machine::Registers {
    explicit Bar(TransportPci& t) : transport(t) {}
    u64 read(u64 offset, unsigned size) override { return transport.bar_read(offset, size); }
    void write(u64 offset, unsigned size, u64 value) override {
      transport.bar_write(offset, size, value);
    }
    TransportPci& transport;
  };
  struct Common;

  TransportPci(Environment environment, std::unique_ptr<VirtioDevice> device);
  void add_capabilities();

  u64 bar_read(u64 offset, unsigned size);
  void bar_write(u64 offset, unsigned size, u64 value);
  Common common() const;
  void common_write(unsigned offset, unsigned size, u64 value);
  void queue_write(unsigned field, const Common& now);
  void set_status(u8 value);
  void reset_device();
  u64 offered() const;

  void before_config_read(unsigned offset, unsigned size) override;
  void after_config_write(unsigned offset, unsigned size) override;
  void bar_moved(unsigned index, std::optional<u64> address) override;

  bool active() const { return state_.status & kDriverOk; }
  bool may_run() const { return active() && !quiesced_ && bus_master(); }
  void kick(unsigned queue) { signal_event(doorbells_[queue].get()); }
  void kick_all();
  void on_doorbell(unsigned queue);
  void interrupt_queue(unsigned queue);
  void interrupt_config();
  void raise(u16 vector, u8 isr_bit);
  void queue_broke();

  Environment environment_;
  std::unique_ptr<VirtioDevice> device_;
  Bar bar_{*this};
  State state_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<u16> vectors_;
  std::vector<Fd> doorbells_;
  std::optional<u64> doorbells_at_;
  unsigned window_at_ = 0;  ///< of the pci-cfg capability
  bool quiesced_ = false, had_master_ = false;
  u64 guest_errors_ = 0, notifications_ = 0, interrupts_ = 0;
};

}  // namespace skerry::virtio
