#include "virtio/fs.hpp"

#include <fcntl.h>
#include <linux/fuse.h>
#include <cerrno>

#include "base/log.hpp"

namespace skerry::virtio {

static_assert(sizeof(fuse_in_header) == Fs::kInHeader && sizeof(fuse_out_header) == Fs::kOutHeader);

Fs::Fs(std::string name, Environment environment, std::string_view tag, bool readonly,
       std::unique_ptr<FsBackend> backend)
    : name_(std::move(name)),
      environment_(environment),
      readonly_(readonly),
      backend_(std::move(backend)) {
  SKERRY_CHECK(!tag.empty() && tag.size() <= kTag);
  std::memcpy(config_.data(), tag.data(), tag.size());
  store<u32>(&config_[kTag], 1);
  backend_->ready = [self = std::weak_ptr(self_), &lock = environment_.lock] {
    std::lock_guard guard(lock);
    auto alive = self.lock();
    if (!alive || (*alive)->quiet_) return;
    (*alive)->finish();
    for (unsigned q = 0; q < FsBackend::kQueues; ++q)
      while ((*alive)->serve(q)) {
      }
  };
}

Fs::~Fs() {
  deactivate();
}

void Fs::activate(u64, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = ended_ = false;
  for (unsigned q = 0; q < FsBackend::kQueues; ++q) queues_[q] = queues[q].get();
  if (auto started = backend_->start(); !started)
    log_warn(fmt::format("{}: {}", name_, started.error().message()));
}

void Fs::deactivate() {
  if (!queues_[0]) return;
  backend_->stop();
  in_flight_.clear();
  for (Queue*& queue : queues_) queue = nullptr;
}

Result<> Fs::can_save() const {
  return fail_hint("start it without --share",
                   "a machine with a shared folder cannot be saved: what its guest has open is "
                   "virtiofsd's");
}

std::vector<machine::Counter> Fs::counters() const {
  return {{"requests", requests_}, {"requests refused", refused_}};
}

bool Fs::notify(unsigned queue) {
  quiet_ = false;
  finish();
  return serve(queue);
}

void Fs::quiesce() {
  // A request that takes longer is completed after the pause.
  for (int i = 0; i < 20 && !in_flight_.empty() && backend_->alive(); ++i) {
    backend_->wait(50);
    finish();
  }
  quiet_ = true;
}

void Fs::answer(Chain chain, int error) {
  ++refused_;
  fuse_in_header in{};
  chain.read(0, {reinterpret_cast<u8*>(&in), sizeof in});
  fuse_out_header out{sizeof out, -error, in.unique};
  if (chain.writable() < sizeof out) return chain.complete(0);
  chain.complete(chain.write(0, {reinterpret_cast<const u8*>(&out), sizeof out}));
}

void Fs::finish() {
  if (!queues_[0]) return;
  for (auto [name, written] : backend_->collect()) {
    auto it = in_flight_.find(name);
    if (it == in_flight_.end()) continue;
    it->second.complete(written);
    in_flight_.erase(it);
  }
  if (!backend_->alive()) give_up();
}

void Fs::give_up() {
  if (!std::exchange(ended_, true)) {
    log_warn(name_ + ": virtiofsd has ended; the guest's accesses fail until it restarts");
    if (environment_.tell) environment_.tell(name_, "virtiofsd has ended");
    backend_->stop();  // nothing writes any more what is given back now
  }
  for (auto& [name, chain] : in_flight_) answer(std::move(chain), EIO);
  in_flight_.clear();
}

// Opcodes that change nothing; what a future kernel adds is refused.
int Fs::refusal(std::span<const u8> request) const {
  fuse_in_header h;
  std::memcpy(&h, request.data(), sizeof h);
  switch (h.opcode) {
    case FUSE_LOOKUP:
    case FUSE_FORGET:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_READ:
    case FUSE_STATFS:
    case FUSE_RELEASE:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_FLUSH:
    case FUSE_INIT:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_RELEASEDIR:
    case FUSE_ACCESS:
    case FUSE_INTERRUPT:
    case FUSE_DESTROY:
    case FUSE_BATCH_FORGET:
    case FUSE_READDIRPLUS:
    case FUSE_LSEEK: return 0;
    case FUSE_OPEN: {
      fuse_open_in open{};
      if (request.size() < sizeof h + sizeof open) return EINVAL;
      std::memcpy(&open, request.data() + sizeof h, sizeof open);
      bool writes = (open.flags & O_ACCMODE) != O_RDONLY || (open.flags & (O_TRUNC | O_CREAT));
      return writes ? EROFS : 0;
    }
    default: return EROFS;
  }
}

bool Fs::serve(unsigned index) {
  Queue* queue = queues_[index];
  if (!queue || quiet_) return false;
  for (unsigned budget = queue->size(); budget > 0; --budget) {
    bool alive = backend_->alive();
    if (alive && !backend_->has_room(index)) return false;  // goes on when something is done
    auto chain = queue->pop();
    if (!chain) return false;
    ++requests_;
    if (!alive) {
      answer(std::move(*chain), EIO);
      continue;
    }
    u64 length = chain->readable();
    // virtiofsd ends itself over such ones.
    if (length < kInHeader || length > kLongest ||
        (chain->writable() > 0 && chain->writable() < kOutHeader)) {
      answer(std::move(*chain), EINVAL);
      continue;
    }
    std::vector<u8> copy;
    if (readonly_) {
      copy.resize(std::min<u64>(length, FsBackend::kMaxCopy));
      chain->read(0, copy);
      int error = length > copy.size() ? EROFS : refusal(copy);
      if (error) {
        answer(std::move(*chain), error);
        continue;
      }
    }
    auto in = chain->readable_span(copy.size(), length - copy.size());
    auto out = chain->writable_span(0, chain->writable());
    if (in.size() + out.size() > FsBackend::kMaxParts) {
      answer(std::move(*chain), EINVAL);
      continue;
    }
    in_flight_.insert_or_assign(backend_->submit(index, copy, in, out), std::move(*chain));
  }
  return true;
}

}  // namespace skerry::virtio
