#include "virtio/transport_pci.hpp"

#include <sys/epoll.h>

namespace skerry::virtio {

/// The common configuration structure (4.1.4.3), as it lies in the BAR.
struct TransportPci::Common {
  u32 device_feature_select, device_feature, driver_feature_select, driver_feature;
  u16 config_vector, num_queues;
  u8 status, config_generation;
  u16 queue_select;
  u16 queue_size, queue_vector, queue_enable, queue_notify_off;
  u64 queue_descriptors, queue_driver, queue_device;
  u16 queue_notify_data, queue_reset;
  u32 end;
};

namespace {

constexpr u8 kVendorId = 0x09;  // PCI 3.0 appendix H: vendor-specific capability
enum CapType : u8 { kCapCommon = 1, kCapNotify = 2, kCapIsr = 3, kCapDevice = 4, kCapPciCfg = 5 };
constexpr u32 kNotifyMultiplier = 4;
constexpr u8 kIsrQueue = 1, kIsrConfig = 2;

constexpr bool touches(unsigned offset, unsigned size, unsigned field, unsigned length) {
  return offset < field + length && field < offset + size;
}

}  // namespace

Result<std::unique_ptr<TransportPci>> TransportPci::create(Environment environment,
                                                           std::unique_ptr<VirtioDevice> device) {
  std::unique_ptr<TransportPci> t(new TransportPci(environment, std::move(device)));
  for (unsigned i = 0; i < t->queues_.size(); ++i) {
    t->doorbells_.push_back(TRY(Fd::event()));
    TRY_VOID(environment.loop.watch(t->doorbells_[i].get(), EPOLLIN,
                                    [raw = t.get(), i](u32) { raw->on_doorbell(i); }));
  }
  return t;
}

TransportPci::TransportPci(Environment environment, std::unique_ptr<VirtioDevice> device)
    : Function(device->name(), {.vendor = 0x1af4,
                                .device = static_cast<u16>(0x1040 + device->id()),
                                .revision = 1,
                                .class_code = device->class_code(),
                                .subsystem_vendor = 0x1af4,
                                .subsystem = static_cast<u16>(0x1040 + device->id()),
                                .interrupt_pin = 1}),
      environment_(environment),
      device_(std::move(device)) {
  std::vector<u16> sizes = device_->queue_sizes();
  SKERRY_CHECK(sizes.size() <= 64 && device_->config().size() <= 0x1000);
  for (unsigned i = 0; i < sizes.size(); ++i)
    queues_.push_back(std::make_unique<Queue>(
        environment.memory, sizes[i], [this, i] { interrupt_queue(i); },
        [this](const char*) { queue_broke(); }));
  vectors_.assign(sizes.size(), kNoVector);
  device_->config_changed = [this] { interrupt_config(); };
  add_bar(kBar, pci::BarKind::memory64, kBarSize, bar_);
  add_msix(kMsixBar, static_cast<unsigned>(sizes.size()) + 1);
  add_capabilities();
}

TransportPci::~TransportPci() {
  // Silently: what interrupts would reach may be gone already.
  for (auto& queue : queues_) queue->stop();
  if (active()) device_->deactivate();
  bar_moved(kBar, std::nullopt);
  for (Fd& fd : doorbells_) environment_.loop.unwatch(fd.get());
}

// 4.1.4: struct virtio_pci_cap, without its first two bytes, which are the list's.
void TransportPci::add_capabilities() {
  auto add = [&](CapType type, u32 offset, u32 length, unsigned extra, u32 extra_value) {
    u8 body[18] = {};
    body[0] = static_cast<u8>(16 + extra);
    body[1] = type;
    body[2] = type == kCapPciCfg ? 0 : kBar;
    store<u32>(body + 6, offset);
    store<u32>(body + 10, length);
    store<u32>(body + 14, extra_value);
    return config_.add_capability(kVendorId, std::span(body, 14 + extra));
  };
  add(kCapCommon, kCommon, sizeof(Common) - 4, 0, 0);
  add(kCapIsr, kIsr, 1, 0, 0);
  if (!device_->config().empty())
    add(kCapDevice, kDevice, static_cast<u32>(device_->config().size()), 0, 0);
  add(kCapNotify, kNotify, static_cast<u32>(kNotifyMultiplier * queues_.size()), 4,
      kNotifyMultiplier);
  window_at_ = add(kCapPciCfg, 0, 0, 4, 0);
  config_.set8(window_at_ + 4, 0, 0xff);
  config_.set32(window_at_ + 8, 0, ~0u);
  config_.set32(window_at_ + 12, 0, ~0u);
  config_.set32(window_at_ + 16, 0, ~0u);
}

// The window (4.1.4.9): an access to its data is one to [offset, offset + length) of the BAR.
void TransportPci::before_config_read(unsigned offset, unsigned size) {
  if (!touches(offset, size, window_at_ + 16, 4)) return;
  u32 at = config_.get32(window_at_ + 8), length = config_.get32(window_at_ + 12);
  if (config_.get8(window_at_ + 4) != kBar || (length != 1 && length != 2 && length != 4) ||
      at % length || at >= kBarSize)
    return;
  config_.put<u32>(window_at_ + 16, static_cast<u32>(bar_read(at, length)));
}

void TransportPci::after_config_write(unsigned offset, unsigned size) {
  bool master = bus_master();
  if (master && !had_master_) kick_all();  // what was notified meanwhile
  had_master_ = master;
  if (!touches(offset, size, window_at_ + 16, 4)) return;
  u32 at = config_.get32(window_at_ + 8), length = config_.get32(window_at_ + 12);
  if (config_.get8(window_at_ + 4) != kBar || (length != 1 && length != 2 && length != 4) ||
      at % length || at >= kBarSize)
    return;
  bar_write(at, length, config_.get32(window_at_ + 16) & byte_mask(length));
}

void TransportPci::bar_moved(unsigned index, std::optional<u64> address) {
  if (index != kBar || doorbells_at_ == address) return;
  for (unsigned i = 0; i < doorbells_.size(); ++i) {
    u32 offset = kNotify + kNotifyMultiplier * i;
    if (doorbells_at_ && wiring().remove_doorbell)
      wiring().remove_doorbell(*doorbells_at_ + offset, 2, doorbells_[i].get());
  }
  for (unsigned i = 0; i < doorbells_.size(); ++i) {
    u32 offset = kNotify + kNotifyMultiplier * i;
    if (address && wiring().add_doorbell)
      wiring().add_doorbell(*address + offset, 2, doorbells_[i].get());
  }
  doorbells_at_ = address;
}

u64 TransportPci::offered() const {
  return device_->features() | kFeatureIndirect | kFeatureEventIdx | kFeatureVersion1;
}

TransportPci::Common TransportPci::common() const {
  Common c{};
  c.device_feature_select = state_.device_feature_select;
  if (c.device_feature_select < 2)
    c.device_feature = static_cast<u32>(offered() >> (32 * c.device_feature_select));
  c.driver_feature_select = state_.driver_feature_select;
  if (c.driver_feature_select < 2)
    c.driver_feature = static_cast<u32>(state_.driver_features >> (32 * c.driver_feature_select));
  c.config_vector = state_.config_vector;
  c.num_queues = static_cast<u16>(queues_.size());
  c.status = state_.status;
  c.config_generation = state_.config_generation;
  c.queue_select = state_.queue_select;
  if (state_.queue_select < queues_.size()) {
    const Queue::State& q = queues_[state_.queue_select]->state();
    c.queue_size = q.size;
    c.queue_vector = vectors_[state_.queue_select];
    c.queue_enable = q.enabled;
    c.queue_notify_off = state_.queue_select;
    c.queue_descriptors = q.descriptors;
    c.queue_driver = q.available;
    c.queue_device = q.used;
  }
  return c;
}

u64 TransportPci::bar_read(u64 offset, unsigned size) {
  u64 value = 0;
  if (offset < kIsr) {
    Common now = common();
    if (offset < sizeof now)
      std::memcpy(&value, reinterpret_cast<const u8*>(&now) + offset,
                  std::min<u64>(size, sizeof now - offset));
  } else if (offset < kDevice) {
    // 4.1.4.5: reading the ISR clears it and lowers INTx.
    if (offset == kIsr) {
      value = std::exchange(state_.isr, u8{0});
      set_intx(false);
    }
  } else if (offset < kNotify) {
    std::span<const u8> config = device_->config();
    u64 at = offset - kDevice;
    if (at < config.size())
      std::memcpy(&value, config.data() + at, std::min<u64>(size, config.size() - at));
  }
  return value;
}

void TransportPci::bar_write(u64 offset, unsigned size, u64 value) {
  if (offset < kIsr) {
    if (offset < sizeof(Common) - 4) common_write(static_cast<unsigned>(offset), size, value);
  } else if (offset >= kNotify) {
    u64 queue = (offset - kNotify) / kNotifyMultiplier;
    if (queue < queues_.size()) kick(static_cast<unsigned>(queue));
  } else if (offset >= kDevice) {
    u64 at = offset - kDevice, length = device_->config().size();
    if (at >= length) return;
    u8 bytes[8];
    store(bytes, value);
    device_->write_config(static_cast<u32>(at), {bytes, std::min<u64>(size, length - at)});
  }
}

// An access of any width lands on the fields it touches, the rest of each field keeping its value.
void TransportPci::common_write(unsigned offset, unsigned size, u64 value) {
  Common now = common();
  std::memcpy(reinterpret_cast<u8*>(&now) + offset, &value,
              std::min<size_t>(size, sizeof now - offset));
  auto wrote = [&](size_t field, size_t length) {
    return touches(offset, size, static_cast<unsigned>(field), static_cast<unsigned>(length));
  };
#define WROTE(field) wrote(offsetof(Common, field), sizeof now.field)
  if (WROTE(device_feature_select)) state_.device_feature_select = now.device_feature_select;
  if (WROTE(driver_feature_select)) {
    state_.driver_feature_select = now.driver_feature_select;
  } else if (WROTE(driver_feature)) {
    // 3.1.1: fixed once FEATURES_OK is set.
    if (state_.driver_feature_select < 2 && !(state_.status & kFeaturesOk)) {
      unsigned shift = 32 * state_.driver_feature_select;
      state_.driver_features = (state_.driver_features & ~(u64{0xffff'ffff} << shift)) |
                               u64{now.driver_feature} << shift;
    }
  }
  auto vector = [&](u16 wanted) { return wanted < msix()->vectors() ? wanted : kNoVector; };
  if (WROTE(config_vector)) state_.config_vector = vector(now.config_vector);
  if (WROTE(queue_select)) {
    state_.queue_select = now.queue_select;  // what follows would belong to another queue
  } else if (state_.queue_select < queues_.size()) {
    Queue& queue = *queues_[state_.queue_select];
    Queue::State& q = queue.setup();
    if (WROTE(queue_vector)) vectors_[state_.queue_select] = vector(now.queue_vector);
    // 4.1.5.1.3: a queue is set up before it is enabled and before DRIVER_OK.
    if (!q.enabled && !active()) {
      if (WROTE(queue_size) && is_power_of_two(now.queue_size) &&
          now.queue_size <= queue.max_size())
        q.size = now.queue_size;
      if (WROTE(queue_descriptors)) q.descriptors = now.queue_descriptors;
      if (WROTE(queue_driver)) q.available = now.queue_driver;
      if (WROTE(queue_device)) q.used = now.queue_device;
      if (WROTE(queue_enable) && now.queue_enable == 1) q.enabled = true;
    }
  }
  if (WROTE(status)) set_status(now.status);
#undef WROTE
}

// 2.1 and 3.1.1. Bits are only ever added; writing 0 resets.
void TransportPci::set_status(u8 value) {
  trace(Trace::virtio, "{} status {:#x} -> {:#x}", name(), state_.status, value);
  if (value == 0) return reset_device();
  u8 added = static_cast<u8>(value & ~state_.status & ~kNeedsReset);
  if (added & kFeaturesOk) {
    bool good =
        (state_.driver_features & kFeatureVersion1) && (state_.driver_features & ~offered()) == 0;
    if (!good) added = static_cast<u8>(added & ~(kFeaturesOk | kDriverOk));
  }
  if ((added & kDriverOk) && !((state_.status | added) & kFeaturesOk))
    added = static_cast<u8>(added & ~kDriverOk);
  state_.status |= added;
  if (!(added & kDriverOk)) return;
  for (auto& queue : queues_)
    if (queue->state().enabled) queue->start(state_.driver_features);
  device_->activate(state_.driver_features, queues_);
  kick_all();  // requests may be there already
}

void TransportPci::reset_device() {
  if (active()) device_->deactivate();
  for (auto& queue : queues_) queue->reset();
  vectors_.assign(vectors_.size(), kNoVector);
  device_->reset();
  state_ = State{};
  set_intx(false);
}

void TransportPci::reset() {
  reset_device();
  had_master_ = false;
  Function::reset();
}

void TransportPci::kick_all() {
  for (unsigned i = 0; i < queues_.size(); ++i) kick(i);
}

void TransportPci::on_doorbell(unsigned queue) {
  {
    std::lock_guard guard(environment_.lock);
    if (drain_event(doorbells_[queue].get())) ++notifications_;
    if (!may_run() || !queues_[queue]->ready()) return;
    if (device_->notify(queue)) kick(queue);
  }
  device_->notified();
}

void TransportPci::quiesce() {
  quiesced_ = true;
  if (active()) device_->quiesce();
}

void TransportPci::resume() {
  quiesced_ = false;
  kick_all();
}

void TransportPci::interrupt_queue(unsigned queue) {
  raise(vectors_[queue], kIsrQueue);
}

void TransportPci::interrupt_config() {
  ++state_.config_generation;
  if (active()) raise(state_.config_vector, kIsrConfig);
}

// 4.1.5.4: with MSI-X the ISR is not used, and a queue without a vector stays silent.
void TransportPci::raise(u16 vector, u8 isr_bit) {
  ++interrupts_;
  if (msix()->enabled()) {
    if (vector != kNoVector) msix()->trigger(vector);
    return;
  }
  state_.isr |= isr_bit;
  set_intx(true);
}

// 2.1.2: a device in trouble says so once and stays still until it is reset.
void TransportPci::queue_broke() {
  ++guest_errors_;
  if (state_.status & kNeedsReset) return;
  state_.status |= kNeedsReset;
  interrupt_config();
  if (environment_.tell) environment_.tell(name(), "broken by its driver, waits for a reset");
}

std::vector<machine::Counter> TransportPci::counters() const {
  std::vector<machine::Counter> all = device_->counters();
  all.push_back({"notifications", notifications_});
  all.push_back({"interrupts", interrupts_});
  all.push_back({"guest errors", guest_errors_});
  return all;
}

void TransportPci::save(state::Image& image) const {
  Function::save(image);
  State state = state_;
  for (unsigned i = 0; i < queues_.size(); ++i)
    state.queues.push_back({queues_[i]->state(), vectors_[i]});
  image.put(name() + ".virtio", state);
  device_->save(image);
}

Result<> TransportPci::load(const state::Image& image) {
  Function::State function = TRY(parse(image));
  State state;
  TRY_VOID(image.get(name() + ".virtio", state));
  if (state.queues.size() != queues_.size())
    return fail("{} has another number of queues in the image", name());
  for (unsigned i = 0; i < queues_.size(); ++i)
    if (!queues_[i]->fits(state.queues[i].ring))
      return fail("queue {} of {} has an impossible size in the image", i, name());
  if (state.driver_features & ~offered() && state.status & kFeaturesOk)
    return fail_hint("start the machine with the options it had when it was saved",
                     "the guest uses features of {} that it does not have here", name());
  if ((state.status & kDriverOk) && !(state.status & kFeaturesOk))
    return fail("{} is in an impossible status in the image", name());
  TRY_VOID(device_->load(image));

  if (active()) device_->deactivate();
  auto vector = [&](u16 v) { return v < msix()->vectors() ? v : kNoVector; };
  for (unsigned i = 0; i < queues_.size(); ++i) {
    queues_[i]->adopt(state.queues[i].ring);
    vectors_[i] = vector(state.queues[i].vector);
  }
  state_ = std::move(state);
  state_.queues.clear();
  state_.config_vector = vector(state_.config_vector);
  adopt(std::move(function));
  had_master_ = bus_master();
  if (active()) {
    for (auto& queue : queues_)
      if (queue->state().enabled) queue->start(state_.driver_features);
    device_->activate(state_.driver_features, queues_);
    if (quiesced_) device_->quiesce();  // guest memory may still be on its way
  }
  kick_all();  // a notification may have been lost with the old process
  return {};
}

}  // namespace skerry::virtio
