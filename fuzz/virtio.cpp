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
#include "virtio/fake_fs.hpp"
#include "virtio/fake_port.hpp"
#include "virtio/fake_streams.hpp"
#include "virtio/net.hpp"
#include "virtio/ports.hpp"
#include "virtio/rng.hpp"
#include "virtio/vsock.hpp"

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
  if (net::well_formed(offload, frame)) (void)port->events.receive(offload, frame, 0);
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
#elif defined(SKERRY_FUZZ_slow_rng)
constexpr unsigned kQueues = 1, kGoodQueue = 0;
constexpr u8 kGoodRequest = 0;
ManualClock* clock_of_rig = nullptr;
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  clock_of_rig = &rig.clock;
  return std::make_unique<Rng>("device", Rng::Limit{5000, rig.clock, rig.environment()});
}
/// Time passes: by the bytes' number of milliseconds, or not enough for anything.
void host_input(VirtioDevice&, std::span<const u8> bytes, std::mutex&) {
  for (u8 b : bytes.first(std::min<size_t>(bytes.size(), 1)))
    clock_of_rig->advance(b < 16 ? b : Nanos{b} * bytes.size() * 1'000'000);
}
#elif defined(SKERRY_FUZZ_vsock)
constexpr unsigned kQueues = 3, kGoodQueue = 1;
constexpr u8 kGoodRequest = 0;
FakeStreams* streams = nullptr;
std::vector<Fd>* clients = nullptr;
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  static std::vector<Fd> all;
  all.clear();
  clients = &all;
  auto owned = std::make_unique<FakeStreams>();
  streams = owned.get();
  return std::make_unique<Vsock>("device", rig.environment(), 3, std::move(owned));
}
/// A program of the host: connects, writes, reads, ends a direction or both.
void host_input(VirtioDevice& device, std::span<const u8> bytes, std::mutex& lock) {
  if (bytes.empty()) return;
  auto& vsock = static_cast<Vsock&>(device);
  u8 what = bytes[0];
  bytes = bytes.subspan(1);
  if (what == 0) {
    auto [mine, theirs] = FakeStreams::pair();
    clients->push_back(std::move(mine));
    if (clients->size() > 16) clients->erase(clients->begin());
    lock.unlock();
    vsock.host().incoming(std::move(theirs), bytes.empty() ? 1 : bytes[0]);
    lock.lock();
    return;
  }
  Fd* fd = nullptr;
  if (what & 1 && !clients->empty()) fd = &(*clients)[what / 16 % clients->size()];
  if (!(what & 1) && !streams->accepted.empty())
    fd = &std::next(streams->accepted.begin(),
                    what / 16 % static_cast<int>(streams->accepted.size()))
              ->second;
  if (!fd || !*fd) return;
  char sink[70000];
  switch (what >> 1 & 7) {
    case 0: *fd = Fd(); break;
    case 1: ::shutdown(fd->get(), SHUT_WR); break;
    case 2: ::shutdown(fd->get(), SHUT_RD); break;
    case 3: (void)!::recv(fd->get(), sink, sizeof sink, MSG_DONTWAIT); break;
    default: (void)!::send(fd->get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}
#elif defined(SKERRY_FUZZ_ports)
constexpr unsigned kQueues = 8, kGoodQueue = 1;
constexpr u8 kGoodRequest = 'x';
FakeClients* sources[2];
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  std::vector<Ports::Setup> ports;
  for (auto& source : sources) {
    auto owned = std::make_unique<FakeClients>();
    source = owned.get();
    ports.push_back({"port", std::move(owned)});
  }
  return std::make_unique<Ports>("device", rig.environment(), std::move(ports));
}
/// A program of the host: connects, writes, reads, ends a direction or both.
void host_input(VirtioDevice&, std::span<const u8> bytes, std::mutex& lock) {
  static Fd programs[2];
  if (bytes.empty()) return;
  unsigned n = bytes[0] & 1, what = bytes[0] >> 1 & 7;
  bytes = bytes.subspan(1);
  Fd& program = programs[n];
  if (sources[n]->ready) {
    lock.unlock();
    program = sources[n]->connect();
    lock.lock();
  }
  if (!program) return;
  char sink[70000];
  switch (what) {
    case 0: program = Fd(); break;
    case 1: ::shutdown(program.get(), SHUT_WR); break;
    case 2: ::shutdown(program.get(), SHUT_RD); break;
    case 3: (void)!::recv(program.get(), sink, sizeof sink, MSG_DONTWAIT); break;
    default: (void)!::send(program.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}
#elif defined(SKERRY_FUZZ_fs)
constexpr unsigned kQueues = 2, kGoodQueue = 1;
constexpr u8 kGoodRequest = 0;
FakeFs* backend = nullptr;
std::unique_ptr<VirtioDevice> make(Rig& rig) {
  auto owned = std::make_unique<FakeFs>();
  backend = owned.get();
  return std::make_unique<Fs>("device", rig.environment(), "tag", true, std::move(owned));
}
/// virtiofsd answers, or ends.
void host_input(VirtioDevice&, std::span<const u8> bytes, std::mutex& lock) {
  if (bytes.size() == 1) backend->up = backend->up && bytes[0] != 0;
  backend->broken = bytes.size() == 2;
  (void)backend->answer({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  lock.unlock();
  backend->ready();
  lock.lock();
}
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

/// What most drivers take.
#if defined(SKERRY_FUZZ_ports)
constexpr u64 kOffer = kAll | Ports::kFeatureMultiport;
#else
constexpr u64 kOffer = kAll;
#endif

/// What the device reads first.
std::vector<u8> header(Input& input, u32 length) {
#if defined(SKERRY_FUZZ_vsock)
  // Packets that mean something most of the time: few ports, and the device's own.
  if (length < Vsock::kHeader) length = 0;
  auto a = input.take<u16>();
  Vsock::Header h{3, 2, a & 7u, a >> 3 & 7u, a >> 6 & 31u, 1, static_cast<u16>(a >> 11 & 15),
                  0, 0, 0};
  auto b = input.take<u8>();
  h.flags = b & 3;
  h.buffer = b & 4 ? input.take<u16>() : 64 * KiB;
  h.forwarded = b & 8 ? input.take<u16>() : 0;
  if (b & 16) h.destination_port |= Vsock::kFirstHostPort;
  if (b & 32) h.length = input.take<u32>();
  if (b & 64) h.type = input.take<u8>() & 3;
  if (b & 128) h.source_cid = input.take<u8>() & 7;
  std::vector<u8> bytes(Vsock::kHeader);
  std::memcpy(bytes.data(), &h, bytes.size());
  bytes.resize(std::min<size_t>(length, bytes.size()));
  return bytes;
#elif defined(SKERRY_FUZZ_ports)
  // A control message, if the queue is the one for them.
  auto a = input.take<u8>();
  Ports::Control m{a & 3u, static_cast<u16>(a >> 2 & 7), static_cast<u16>(a >> 5 & 1)};
  std::vector<u8> bytes(sizeof m);
  std::memcpy(bytes.data(), &m, sizeof m);
  bytes.resize(std::min<size_t>(length, bytes.size()));
  return bytes;
#else
  auto bytes = input.bytes(std::min(length, 16u));
  return {bytes.begin(), bytes.end()};
#endif
}

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
      if (!b.writable) (void)rig.memory->write(b.at, header(input, b.length));
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
        u64 features = input.take<u8>() & 1 ? kOffer : input.take<u64>() & driver->offered();
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
#if defined(SKERRY_FUZZ_slow_rng)
    rig.run();
    rig.clock.advance(1'000'000'000);
    rig.loop->reconsider_timers();
#endif
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
  session.started = session.driver->start(mode & 1 ? kOffer : kFeatureVersion1);
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
