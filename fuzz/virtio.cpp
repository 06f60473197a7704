// A virtio device with a driver that does what the input says: well-formed and broken chains,
// stores into the rings, any register, configuration space, resets, notifications, a save and a
// load in the middle. Whatever happened, after a reset the device must serve a good driver again.
//
// Built once for each kind of device.
#include <sys/uio.h>

#include "fuzz/input.hpp"
#include "storage/memory_disk.hpp"
#include "virtio/balloon.hpp"
#include "virtio/blk.hpp"
#include "virtio/console.hpp"
#include "virtio/fake_driver.hpp"
#include "virtio/fake_port.hpp"
#include "virtio/net.hpp"
#include "virtio/rng.hpp"

namespace skerry::fuzz {
namespace {

using namespace virtio;
using memory::Gpa;
using B = FakeDriver::Buffer;

constexpr u64 kAll = kFeatureVersion1 | kFeatureIndirect | kFeatureEventIdx;

#if defined(SKERRY_FUZZ_blk)
constexpr unsigned kQueues = 1, kGoodQueue = 0;
constexpr u8 kGoodRequest = 8;  // get id
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  return std::make_unique<Blk>("device", rig.environment(),
                               std::make_unique<storage::MemoryDisk>(64 * KiB), "serial");
}
void host_input(VirtioDevice&, std::span<const u8>, std::mutex&) {}
#elif defined(SKERRY_FUZZ_net)
constexpr unsigned kQueues = 5, kGoodQueue = 1;
constexpr u8 kGoodRequest = 0;
FakePort* port = nullptr;
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  auto owned = std::make_unique<FakePort>();
  port = owned.get();
  return std::make_unique<Net>("device", rig.environment(), std::move(owned),
                               Net::Setup{.mac = {2, 0, 0, 0, 0, 2}, .pairs = 2, .mtu = 1500});
}
/// A frame of the host's, which is checked before it gets this far; and a port that fills up, or a
/// cable that is pulled. Called with the board lock held, which the events take.
void host_input(VirtioDevice& device, std::span<const u8> bytes, std::mutex& lock) {
  auto& net = static_cast<Net&>(device);
  net.set_link(bytes.empty() || bytes[0] != 0xff);
  if (bytes.size() < 10) return;
  net::Offload offload;
  std::memcpy(&offload, bytes.data(), sizeof offload);
  std::vector<u8> frame(bytes.begin() + 10, bytes.end());
  frame.resize(frame.size() + 64 * (offload.gso_size & 63));
  lock.unlock();
  port->full = offload.flags & 0x80;
  offload.flags &= 3;
  if (net::well_formed(offload, frame)) (void)port->events.receive(offload, frame);
  if (!port->full) port->events.writable();
  lock.lock();
}
#elif defined(SKERRY_FUZZ_rng)
constexpr unsigned kQueues = 1, kGoodQueue = 0;
constexpr u8 kGoodRequest = 0;
std::unique_ptr<VirtioDevice> make(Rig&) {
  return std::make_unique<Rng>("device");
}
void host_input(VirtioDevice&, std::span<const u8>, std::mutex&) {}
#elif defined(SKERRY_FUZZ_balloon)
constexpr unsigned kQueues = 4, kGoodQueue = 0;
constexpr u8 kGoodRequest = 3;
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  return std::make_unique<Balloon>("device", *rig.memory);
}
void host_input(VirtioDevice& device, std::span<const u8> bytes, std::mutex&) {
  auto& balloon = static_cast<Balloon&>(device);
  balloon.ask_statistics();
  balloon.set_target(static_cast<u32>(bytes.size()));
}
#else
constexpr unsigned kQueues = 2, kGoodQueue = 1;
constexpr u8 kGoodRequest = 'x';
std::unique_ptr<VirtioDevice> make(Rig&) {
  return std::make_unique<Console>("device", [](std::span<const u8>) {});
}
void host_input(VirtioDevice& device, std::span<const u8> bytes, std::mutex&) {
  static_cast<Console&>(device).receive(bytes);
}
#endif

struct Session {
  Session() : transport(rig.plug(make(rig))) { driver.emplace(rig, 1); }

  std::vector<B> buffers(Input& input) {
    std::vector<B> list(1 + (input.take<u8>() & 7));
    for (B& b : list) {
      auto flags = input.take<u8>();
      b.writable = flags & 1;
      b.length = flags & 2 ? input.take<u32>() : input.take<u16>();
      switch (flags >> 2 & 3) {
        case 0:
        case 1: b.at = driver->allocate(std::min<u32>(b.length, 64 * KiB)); break;
        case 2: b.at = input.take<u32>(); break;
        case 3: b.at = input.take<u64>(); break;
      }
      // What the device reads first: a request header with the input's bytes.
      if (!b.writable) (void)rig.memory->write(b.at, input.bytes(std::min(b.length, 16u)));
    }
    return list;
  }

  void step(Input& input) {
    unsigned queue = input.take<u8>() % kQueues;
    switch (input.take<u8>() % 14) {
      case 0:
      case 1:
        if (ready(queue)) driver->put(queue, buffers(input), input.take<u8>() & 1);
        break;
      case 2:
      case 3: driver->kick(queue); break;
      case 4: {  // a store somewhere in a queue's rings
        Gpa at = 0x10'0000 + queue * 0x1'0000 + input.take<u16>() % 0x8000;
        (void)rig.memory->write(at, input.bytes(input.take<u8>() & 31));
        break;
      }
      case 5:
        if (ready(queue))
          driver->descriptor(queue, input.take<u16>() & 255, input.take<u64>(), input.take<u32>(),
                             input.take<u16>(), input.take<u16>());
        break;
      case 6:
        if (ready(queue)) driver->publish(queue, input.take<u16>());
        break;
      case 7: {
        static constexpr unsigned kSizes[] = {1, 2, 4, 8};
        u32 at = input.take<u16>();
        unsigned size = kSizes[at >> 14];
        at &= 0x3fff;
        if (at >= 0x800) at = (at & 0x7000) | (at & 0x3f);  // where there is something
        if (input.take<u8>() & 1)
          driver->set(at & 0x3fff, size, input.take<u64>());
        else
          (void)driver->get(at & 0x3fff, size);
        break;
      }
      case 8: {
        unsigned at = input.take<u8>();
        driver->config_write(at, 1u << (input.take<u8>() % 3), input.take<u32>());
        break;
      }
      case 9: {
        driver.emplace(rig, 1);
        u64 features = input.take<u8>() & 1 ? kAll : input.take<u64>() & driver->offered();
        started = driver->start(features);
        break;
      }
      case 10: {
        auto flags = input.take<u8>();
        if (flags & 1) driver->enable_msix();
        if (ready(queue) && flags & 2) driver->set_used_event(queue, input.take<u16>());
        if (ready(queue) && flags & 4) driver->set_available_flags(queue, input.take<u16>());
        break;
      }
      case 11: {
        std::lock_guard guard(rig.lock);
        host_input(transport.device(), input.bytes(input.take<u8>()), rig.lock);
        break;
      }
      case 12: save_and_load(); break;
      case 13: rig.run(); break;
    }
    rig.run();
    if (rig.msis.sent.size() > 10000) rig.msis.sent.clear();
  }

  bool ready(unsigned queue) const { return started && driver->queue_entries(queue) > 8; }

  void save_and_load() {
    std::lock_guard guard(rig.lock);
    transport.quiesce();
    state::Image image;
    transport.save(image);
    auto parsed = state::Image::parse(image.serialize());
    expect(parsed.has_value(), "an image is read again");
    auto done = transport.load(*parsed);
    expect(done.has_value(), "what a device saved it loads");
    state::Image again;
    transport.save(again);
    expect(again.serialize() == image.serialize(), "a load changes nothing that is saved");
    transport.resume();
  }

  void expect_works() {
    driver.emplace(rig, 1);
    expect(driver->start(kAll), "a reset device negotiates");
    Gpa in = driver->allocate(16), out = driver->allocate(64);
    (void)rig.memory->write_value<u8>(in, kGoodRequest);
    u16 head = driver->put(kGoodQueue, {{in, 16, false}, {out, 64, true}});
    driver->kick(kGoodQueue);
    auto used = driver->wait_used(kGoodQueue);
    expect(used && used->id == head, "a reset device answers a request");
  }

  Rig rig{4 * MiB};
  TransportPci& transport;
  std::optional<FakeDriver> driver;
  bool started = false;
};

void one(Input& input) {
  Session session;
  auto mode = input.take<u8>();
  session.started = session.driver->start(mode & 1 ? kAll : kFeatureVersion1);
  for (unsigned n = 0; n < 200 && !input.empty(); ++n) session.step(input);
  session.expect_works();
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}
