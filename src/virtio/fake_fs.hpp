// An FsBackend for tests: keeps the requests until a test answers them.
#pragma once

#include "virtio/fs.hpp"

namespace skerry::virtio {

class FakeFs final : public FsBackend {
 public:
  static constexpr unsigned kRoom = 4;
  struct Request {
    u32 name;
    unsigned queue;
    std::vector<u8> copy;
    std::vector<iovec> in, out;
  };

  Result<> start() override {
    ++starts;
    up = !broken;
    if (broken) return fail("no virtiofsd today");
    return {};
  }
  void stop() override {
    up = false;
    requests.clear();
    done.clear();
  }
  bool alive() const override { return up; }
  bool has_room(unsigned queue) const override {
    unsigned n = 0;
    for (const Request& r : requests) n += r.queue == queue;
    return n < kRoom;
  }
  u32 submit(unsigned queue, std::span<const u8> copy, std::span<const iovec> in,
             std::span<const iovec> out) override {
    requests.push_back({next_name++,
                        queue,
                        {copy.begin(), copy.end()},
                        {in.begin(), in.end()},
                        {out.begin(), out.end()}});
    return requests.back().name;
  }
  std::vector<std::pair<u32, u32>> collect() override { return std::exchange(done, {}); }
  void wait(int) override {}

  /// The oldest request is answered with these bytes. False if there is none.
  bool answer(std::string_view bytes) {
    if (requests.empty()) return false;
    Request r = std::move(requests.front());
    requests.erase(requests.begin());
    u32 written = 0;
    for (const iovec& part : r.out) {
      size_t n = std::min(part.iov_len, bytes.size() - written);
      std::memcpy(part.iov_base, bytes.data() + written, n);
      written += static_cast<u32>(n);
    }
    done.emplace_back(r.name, written);
    return true;
  }

  std::vector<Request> requests;
  std::vector<std::pair<u32, u32>> done;
  bool up = false, broken = false;
  unsigned starts = 0;
  u32 next_name = 0;
};

}  // namespace skerry::virtio
