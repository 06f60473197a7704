// VhostUserFs: an FsBackend in another process, by the vhost-user protocol
// (https://qemu-project.gitlab.io/qemu/interop/vhost-user.html).
//
// The backend maps guest memory (the memfd) and a region of ours with one ring per queue, in which
// a request stands as an indirect table of the guest's buffers. What the backend says is checked:
// one that names a request it does not have counts as ended.
//
// Threading: calls as of FsBackend; descriptors are watched on the environment's loop.
#pragma once

#include <sys/types.h>

#include "virtio/fs.hpp"

namespace skerry::virtio {

/// A connection to a backend's process, which ends with it.
class FsProcess {
 public:
  virtual ~FsProcess() = default;
  /// The vhost-user socket.
  virtual int socket() const = 0;
  /// What the process said on its way to the end, or "".
  virtual std::string last_words() { return {}; }
};

class VhostUserFs final : public FsBackend {
 public:
  using Launch = std::function<Result<std::unique_ptr<FsProcess>>()>;
  /// Starts a process at once, so that an error is the operator's; and another after each stop().
  static Result<std::unique_ptr<VhostUserFs>> create(Environment environment, Launch launch);
  ~VhostUserFs() override;

  Result<> start() override;
  void stop() override;
  bool alive() const override { return running_; }
  bool has_room(unsigned queue) const override { return !rings_[queue].free.empty(); }
  u32 submit(unsigned queue, std::span<const u8> copy, std::span<const iovec> in,
             std::span<const iovec> out) override;
  std::vector<std::pair<u32, u32>> collect() override;
  void wait(int milliseconds) override;

 private:
  struct Message;
  struct Slot;
  struct Ring;
  struct Place {  ///< of a queue
    std::vector<u16> free;
    u16 next_used = 0, next_available = 0;
    Fd kick, call;
  };

  VhostUserFs(Environment environment, Launch launch)
      : environment_(environment), launch_(std::move(launch)) {}
  Result<> open();
  Result<> send(u32 request, std::span<const u8> payload, std::span<const int> fds = {},
                bool acknowledge = false);
  Result<u64> ask(u32 request);
  Result<u64> receive(u32 request);
  Result<> share_memory();
  Result<> start_ring(unsigned queue);
  std::unexpected<Error> lost(std::string_view doing);
  Ring* ring(unsigned queue) const;
  u64 address_of(const void* host) const;
  void unwatch();

  Environment environment_;
  Launch launch_;
  std::unique_ptr<FsProcess> process_;
  Fd memory_;
  u8* base_ = nullptr;
  Place rings_[kQueues];
  bool acknowledges_ = false, running_ = false, watched_ = false;
};

}  // namespace skerry::virtio
