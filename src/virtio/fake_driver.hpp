// A guest's side of a virtio device, for tests and for fuzzing: a bus with devices, and a driver
// that builds rings in guest memory and touches registers as Linux would, or as no driver should.
//
// Everything happens on the caller's thread; run() does the event loop's work.
#pragma once

#include "pci/bus.hpp"
#include "virtio/transport_pci.hpp"

namespace skerry::virtio {

/// A machine of nothing but memory, a PCI bus and an event loop.
struct Rig {
  struct Msis final : machine::MsiSink {
    void send(machine::MsiMessage m) override { sent.push_back(m); }
    std::vector<machine::MsiMessage> sent;
  };
  struct Line final : machine::IrqLine {
    void set(bool l) override { level = l; }
    bool level = false;
  };

  explicit Rig(u64 ram = 16 * MiB)
      : memory(std::move(memory::GuestMemory::create(ram).value())),
        loop(std::move(EventLoop::create(clock).value())),
        bus({.ports = &ports,
             .memory = &space,
             .msi = &msis,
             .intx = [this](unsigned, unsigned) { return &line; },
             .add_doorbell = [this](u64 at, u32, int) { doorbells.push_back(at); },
             .remove_doorbell = [this](u64 at, u32, int) { std::erase(doorbells, at); }}) {
    ports.map(pci::kConfigPort, pci::kConfigPorts, bus.ports(), "pci");
    space.map(pci::kEcamBase, pci::kEcamSize, bus.ecam(), "ecam");
  }
  Environment environment() { return {*memory, *loop, lock}; }
  /// Gives the device the next free place on the bus, after a reset.
  TransportPci& plug(std::unique_ptr<VirtioDevice> device) {
    auto& t = transports.emplace_back(
        std::move(TransportPci::create(environment(), std::move(device)).value()));
    bus.add(bus.free_device().value(), 0, *t);
    t->reset();
    return *t;
  }
  /// Lets the event loop do what is waiting, without waiting for more.
  void run() {
    for (int i = 0; i < 4; ++i) loop->run_once(0);
  }

  ManualClock clock;
  std::mutex lock;
  std::unique_ptr<memory::GuestMemory> memory;
  std::unique_ptr<EventLoop> loop;
  machine::Space ports{lock}, space{lock};
  Msis msis;
  Line line;
  std::vector<u64> doorbells;
  pci::Bus bus;
  std::vector<std::unique_ptr<TransportPci>> transports;
};

class FakeDriver {
 public:
  /// Offsets in the common configuration structure (virtio 1.2 4.1.4.3).
  enum Field : u32 {
    device_feature_select = 0x00,
    device_feature = 0x04,
    driver_feature_select = 0x08,
    driver_feature = 0x0c,
    config_vector = 0x10,
    num_queues = 0x12,
    device_status = 0x14,
    config_generation = 0x15,
    queue_select = 0x16,
    queue_size = 0x18,
    queue_vector = 0x1a,
    queue_enable = 0x1c,
    queue_notify_off = 0x1e,
    queue_descriptors = 0x20,
    queue_driver = 0x28,
    queue_device = 0x30,
  };
  static constexpr u16 kNext = 1, kWrite = 2, kIndirect = 4;
  struct Buffer {
    Gpa at = 0;
    u32 length = 0;
    bool writable = false;
  };
  struct Used {
    u32 id = 0, length = 0;
  };

  /// Places the BARs of the device in slot `slot` of the bus and enables them.
  FakeDriver(Rig& rig, unsigned slot) : rig_(rig), slot_(slot) {
    bar_ = 0xc000'0000 + slot * 0x10'0000;
    config_write(0x10, 4, static_cast<u32>(bar_));
    config_write(0x14, 4, 0);
    config_write(0x18, 4, static_cast<u32>(msix_table()));
    config_write(0x04, 2, pci::command::memory | pci::command::master);
  }

  u32 config_read(unsigned offset, unsigned size) {
    return static_cast<u32>(rig_.space.read(pci::kEcamBase + (slot_ << 15) + offset, size));
  }
  void config_write(unsigned offset, unsigned size, u32 value) {
    rig_.space.write(pci::kEcamBase + (slot_ << 15) + offset, size, value);
  }
  u64 bar() const { return bar_; }
  u64 msix_table() const { return bar_ + 0x8'0000; }
  u64 get(u32 field, unsigned size) { return rig_.space.read(bar_ + field, size); }
  void set(u32 field, unsigned size, u64 value) { rig_.space.write(bar_ + field, size, value); }
  u8 status() { return static_cast<u8>(get(device_status, 1)); }
  u64 read_config(u32 offset, unsigned size) { return get(TransportPci::kDevice + offset, size); }

  /// Resets, acknowledges and negotiates. False: the device refused FEATURES_OK.
  bool negotiate(u64 features) {
    set(device_status, 1, 0);
    queues_.clear();
    set(device_status, 1, TransportPci::kAcknowledge);
    set(device_status, 1, TransportPci::kAcknowledge | TransportPci::kDriver);
    for (u32 half : {0u, 1u}) {
      set(driver_feature_select, 4, half);
      set(driver_feature, 4, features >> (32 * half) & 0xffff'ffff);
    }
    event_idx_ = features & kFeatureEventIdx;
    set(device_status, 1, status() | TransportPci::kFeaturesOk);
    return status() & TransportPci::kFeaturesOk;
  }
  u64 offered() {
    u64 features = 0;
    for (u32 half : {0u, 1u}) {
      set(device_feature_select, 4, half);
      features |= get(device_feature, 4) << (32 * half);
    }
    return features;
  }
  /// `size` 0: what the device offers.
  void set_up_queue(unsigned index, u16 size = 0) {
    set(queue_select, 2, index);
    if (size) set(queue_size, 2, size);
    if (queues_.size() <= index) queues_.resize(index + 1);
    Ring& q = queues_[index];
    q = {};
    q.size = static_cast<u16>(get(queue_size, 2));
    q.base = 0x10'0000 + index * 0x1'0000;
    (void)rig_.memory->fill(q.base, 0, 0x1'0000);
    set(queue_descriptors, 4, q.base);
    set(queue_descriptors + 4, 4, 0);
    set(queue_driver, 4, q.available());
    set(queue_driver + 4, 4, 0);
    set(queue_device, 4, q.used());
    set(queue_device + 4, 4, 0);
    set(queue_enable, 2, 1);
  }
  void driver_ok() { set(device_status, 1, status() | TransportPci::kDriverOk); }
  /// All of the above, with every queue.
  bool start(u64 features) {
    if (!negotiate(features)) return false;
    auto count = static_cast<unsigned>(get(num_queues, 2));
    for (unsigned i = 0; i < count; ++i) set_up_queue(i);
    driver_ok();
    return true;
  }
  /// Vector n for queue n, the last for configuration changes; message data 0x40 + vector.
  void enable_msix() {
    unsigned vectors = (config_read(0x42, 2) & 0x7ff) + 1;  // the first capability
    for (unsigned v = 0; v < vectors; ++v) {
      rig_.space.write(msix_table() + 16 * v, 4, 0xfee0'0000);
      rig_.space.write(msix_table() + 16 * v + 4, 4, 0);
      rig_.space.write(msix_table() + 16 * v + 8, 4, 0x40 + v);
      rig_.space.write(msix_table() + 16 * v + 12, 4, 0);
    }
    config_write(0x42, 2, pci::Msix::kEnable);
    for (unsigned v = 0; v + 1 < vectors; ++v) {
      set(queue_select, 2, v);
      set(queue_vector, 2, v);
    }
    set(config_vector, 2, vectors - 1);
  }

  void descriptor(unsigned queue, u16 index, u64 at, u32 length, u16 flags, u16 next = 0) {
    write_descriptor(queues_[queue].base + 16 * u64{index}, at, length, flags, next);
  }
  void write_descriptor(Gpa where, u64 at, u32 length, u16 flags, u16 next = 0) {
    (void)rig_.memory->write_value<u64>(where, at);
    (void)rig_.memory->write_value<u32>(where + 8, length);
    (void)rig_.memory->write_value<u16>(where + 12, flags);
    (void)rig_.memory->write_value<u16>(where + 14, next);
  }
  /// Makes `head` available.
  void publish(unsigned queue, u16 head) {
    Ring& q = queues_[queue];
    (void)rig_.memory->write_value<u16>(q.available() + 4 + 2 * (q.next_available % q.size), head);
    set_available(queue, static_cast<u16>(q.next_available + 1));
  }
  void set_available(unsigned queue, u16 index) {
    queues_[queue].next_available = index;
    (void)rig_.memory->write_value<u16>(queues_[queue].available() + 2, index);
  }
  void set_available_flags(unsigned queue, u16 flags) {
    (void)rig_.memory->write_value<u16>(queues_[queue].available(), flags);
  }
  void set_used_event(unsigned queue, u16 index) {
    (void)rig_.memory->write_value<u16>(queues_[queue].available() + 4 + 2 * queues_[queue].size,
                                        index);
  }
  u16 available_event(unsigned queue) {
    return *rig_.memory->read_value<u16>(queues_[queue].used() + 4 + 8 * queues_[queue].size);
  }
  /// Queues a request, its descriptors in consecutive places (or in an indirect table); returns its
  /// head.
  u16 put(unsigned queue, const std::vector<Buffer>& buffers, bool indirect = false) {
    Ring& q = queues_[queue];
    auto count = static_cast<u16>(indirect ? 1 : buffers.size());
    if (q.next_descriptor + count > q.size) q.next_descriptor = 0;
    u16 head = q.next_descriptor;
    q.next_descriptor = static_cast<u16>(q.next_descriptor + count);
    Gpa table =
        indirect ? allocate(static_cast<u32>(16 * buffers.size())) : q.base + 16 * u64{head};
    for (u16 i = 0; i < buffers.size(); ++i) {
      const Buffer& b = buffers[i];
      bool last = i + 1u == buffers.size();
      write_descriptor(table + 16 * u64{i}, b.at, b.length,
                       static_cast<u16>((b.writable ? kWrite : 0) | (last ? 0 : kNext)),
                       static_cast<u16>(last ? 0 : (indirect ? 0 : head) + i + 1));
    }
    if (indirect) descriptor(queue, head, table, static_cast<u32>(16 * buffers.size()), kIndirect);
    publish(queue, head);
    return head;
  }
  void kick(unsigned queue) { set(TransportPci::kNotify + 4 * queue, 2, queue); }

  /// The next used buffer, if there is one.
  std::optional<Used> used(unsigned queue) {
    Ring& q = queues_[queue];
    if (*rig_.memory->read_value<u16>(q.used() + 2) == q.next_used) return std::nullopt;
    Gpa at = q.used() + 4 + 8 * (q.next_used++ % q.size);
    return Used{*rig_.memory->read_value<u32>(at), *rig_.memory->read_value<u32>(at + 4)};
  }
  /// Runs the event loop until a buffer is used; nullopt after about ten seconds.
  std::optional<Used> wait_used(unsigned queue) {
    for (int i = 0; i < 100; ++i) {
      if (auto u = used(queue)) return u;
      rig_.loop->run_once(100);
    }
    return used(queue);
  }

  /// Fresh guest memory, 16-byte aligned, zero.
  Gpa allocate(u32 length) {
    Gpa at = next_;
    next_ += align_up(length, 16);
    if (next_ > rig_.memory->size()) next_ = at = kHeap;
    (void)rig_.memory->fill(at, 0, length);
    return at;
  }
  std::string text(Gpa at, u32 length) {
    std::string s(length, '\0');
    (void)rig_.memory->read(at, {reinterpret_cast<u8*>(s.data()), s.size()});
    return s;
  }
  Gpa place(std::string_view text) {
    Gpa at = allocate(static_cast<u32>(text.size()));
    (void)rig_.memory->write(at, {reinterpret_cast<const u8*>(text.data()), text.size()});
    return at;
  }
  u16 queue_entries(unsigned queue) const { return queues_[queue].size; }
  Gpa ring(unsigned queue) const { return queues_[queue].base; }

 private:
  static constexpr Gpa kHeap = 0x20'0000;
  struct Ring {
    Gpa base = 0;
    u16 size = 0, next_available = 0, next_used = 0, next_descriptor = 0;
    Gpa available() const { return base + 0x4000; }
    Gpa used() const { return base + 0x6000; }
  };

  Rig& rig_;
  unsigned slot_;
  u64 bar_ = 0;
  bool event_idx_ = false;
  std::vector<Ring> queues_;
  Gpa next_ = kHeap;
};

}  // namespace skerry::virtio
