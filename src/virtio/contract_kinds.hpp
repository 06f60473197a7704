// One of every virtio device, for the tests of what all of them must keep.
#pragma once

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

namespace skerry::virtio {

struct Kind {
  const char* name;
  std::unique_ptr<VirtioDevice> (*make)(Rig&);
  unsigned queue;  ///< a queue whose requests the device answers by itself
  u8 request;      ///< first byte of a request that the device likes
};

inline const Kind kKinds[] = {
    {"blk",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Blk>("disk0", rig.environment(),
                                    std::make_unique<storage::MemoryDisk>(64 * KiB), "serial");
     },
     0, 8},
    {"rng", [](Rig&) -> std::unique_ptr<VirtioDevice> { return std::make_unique<Rng>("rng0"); }, 0,
     0},
    {"console",
     [](Rig&) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Console>("console0", [](std::span<const u8>) {});
     },
     1, 'x'},
    {"balloon",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Balloon>("balloon0", *rig.memory);
     },
     0, 3},
    {"net",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Net>("net0", rig.environment(), std::make_unique<FakePort>(),
                                    Net::Setup{.mac = {2, 0, 0, 0, 0, 2}, .pairs = 2, .mtu = 1500});
     },
     1, 0},
    {"ports",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       std::vector<Ports::Setup> ports;
       for (const char* name : {"a", "b"}) ports.push_back({name, std::make_unique<FakeClients>()});
       return std::make_unique<Ports>("channels", rig.environment(), std::move(ports));
     },
     1, 'x'},
    {"fs",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Fs>("share0", rig.environment(), "tag", true,
                                   std::make_unique<FakeFs>());
     },
     1, 0},
    {"vsock",
     [](Rig& rig) -> std::unique_ptr<VirtioDevice> {
       return std::make_unique<Vsock>("vsock0", rig.environment(), 3,
                                      std::make_unique<FakeStreams>());
     },
     1, 0},
};

}  // namespace skerry::virtio
