#include "virtio/rng.hpp"

#include <sys/random.h>

namespace skerry::virtio {

void Rng::host_entropy(std::span<u8> to) {
  // Up to 256 bytes come whole and uninterrupted (getrandom(2)).
  SKERRY_CHECK(::getrandom(to.data(), to.size(), 0) == static_cast<ssize_t>(to.size()));
}

Rng::Rng(std::string name, Limit limit, Source source)
    : name_(std::move(name)),
      source_(std::move(source)),
      limit_(std::move(limit)),
      tokens_(limit_->bytes_per_second),
      filled_(limit_->clock.now()) {
  SKERRY_CHECK(limit_->bytes_per_second > 0);
}

Rng::~Rng() {
  deactivate();
}

void Rng::deactivate() {
  if (timer_) limit_->environment.loop.cancel(std::exchange(timer_, 0));
  next_.reset();
  queue_ = nullptr;
}

bool Rng::notify(unsigned) {
  quiet_ = false;
  return serve();
}

void Rng::give(Chain& chain, u64 length) {
  for (u64 at = 0; at < length;) {
    u8 bytes[256];
    std::span part(bytes, std::min<u64>(length - at, sizeof bytes));
    source_(part);
    at += chain.write(at, part);
  }
  given_ += length;
  chain.complete(length);
}

void Rng::refill() {
  constexpr u64 kSecond = 1'000'000'000;
  Nanos now = limit_->clock.now();
  u64 rate = limit_->bytes_per_second,
      elapsed = static_cast<u64>(std::max<Nanos>(now - filled_, 0));
  if (elapsed >= kSecond) {
    tokens_ = rate;
    filled_ = now;
    return;
  }
  auto more = static_cast<u64>(u128{elapsed} * rate / kSecond);
  // The rest of a byte keeps counting.
  filled_ += static_cast<Nanos>(u128{more} * kSecond / rate);
  tokens_ = std::min(rate, tokens_ + more);
}

void Rng::serve_at(Nanos when) {
  timer_ = limit_->environment.loop.call_at(
      when, [self = std::weak_ptr(self_), &lock = limit_->environment.lock] {
        std::lock_guard guard(lock);
        auto alive = self.lock();
        if (!alive) return;
        Rng& rng = **alive;
        rng.timer_ = 0;
        if (rng.serve() && !rng.timer_) rng.serve_at(rng.limit_->clock.now());
      });
}

// A saved machine has no request in flight: the one that waits gets less than it asked for.
void Rng::quiesce() {
  quiet_ = true;
  if (!next_) return;
  refill();
  auto chain = std::exchange(next_, std::nullopt);
  u64 length = std::min({chain->writable(), kMost, std::max<u64>(tokens_, 1)});
  tokens_ -= std::min(tokens_, length);
  give(*chain, length);
}

bool Rng::serve() {
  if (!queue_ || quiet_) return false;
  for (unsigned budget = queue_->size(); budget > 0; --budget) {
    if (!next_) next_ = queue_->pop();
    if (!next_) return false;
    u64 length = std::min(next_->writable(), kMost);
    if (limit_) {
      u64 rate = limit_->bytes_per_second;
      refill();
      length = std::min(length, rate);
      if (tokens_ < length) {
        if (timer_) return false;
        ++waits_;
        u64 wait = static_cast<u64>(u128{length - tokens_} * 1'000'000'000 / rate);
        serve_at(limit_->clock.now() + static_cast<Nanos>(wait) + 1);
        return false;
      }
      tokens_ -= length;
    }
    auto chain = std::exchange(next_, std::nullopt);
    give(*chain, length);
  }
  return true;
}

}  // namespace skerry::virtio
