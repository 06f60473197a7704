// A net::Port for tests: keeps what the guest sends, and gives the guest what a test wants.
#pragma once

#include <vector>

#include "net/port.hpp"

namespace skerry::virtio {

class FakePort final : public net::Port {
 public:
  struct Sent {
    net::Offload offload;
    std::vector<u8> frame;
    unsigned queue;
  };
  void attach(Events e) override { events = std::move(e); }
  unsigned queues() const override { return queues_there; }
  void use_queues(unsigned count) override { queues_used = count; }
  bool send(const net::Offload& offload, std::span<const u8> frame, unsigned queue) override {
    if (full) return false;
    sent.push_back({offload, {frame.begin(), frame.end()}, queue});
    if (sent.size() > 1000) sent.clear();
    return true;
  }
  void flush() override { ++flushes; }
  void resume() override { ++resumes; }
  std::string describe() const override { return "fake"; }

  Events events;
  std::vector<Sent> sent;
  bool full = false;
  unsigned flushes = 0, resumes = 0;
  unsigned queues_there = 1, queues_used = 1;
};

}  // namespace skerry::virtio
