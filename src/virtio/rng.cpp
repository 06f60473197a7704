#include "virtio/rng.hpp"

#include <sys/random.h>

namespace skerry::virtio {

void Rng::host_entropy(std::span<u8> to) {
  // Up to 256 bytes come whole and uninterrupted (getrandom(2)).
  SKERRY_CHECK(::getrandom(to.data(), to.size(), 0) == static_cast<ssize_t>(to.size()));
}

bool Rng::notify(unsigned) {
  if (!queue_) return false;
  for (unsigned budget = queue_->size(); budget > 0; --budget) {
    auto chain = queue_->pop();
    if (!chain) return false;
    u64 length = std::min(chain->writable(), kMost);
    for (u64 at = 0; at < length;) {
      u8 bytes[256];
      std::span part(bytes, std::min<u64>(length - at, sizeof bytes));
      source_(part);
      at += chain->write(at, part);
    }
    chain->complete(length);
  }
  return true;
}

}  // namespace skerry::virtio
