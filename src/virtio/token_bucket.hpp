// TokenBucket: at most so much per second, with bursts.
#pragma once

#include <algorithm>

#include "base/clock.hpp"

namespace skerry::virtio {

class TokenBucket {
 public:
  /// `rate`: units per second, 0 for no limit. `burst`: what may come at once after a rest; 0 for a
  /// tenth of a second's worth.
  void set(u64 rate, u64 burst, Nanos now) {
    rate_ = static_cast<double>(rate);
    burst_ = burst ? static_cast<double>(burst) : std::max(1.0, rate_ / 10);
    left_ = burst_;
    at_ = now;
  }
  /// 0: go on now; else how long to wait.
  Nanos wait(Nanos now) {
    if (rate_ == 0) return 0;
    left_ = std::min(burst_, left_ + static_cast<double>(now - at_) * rate_ / 1e9);
    at_ = now;
    return left_ > 0 ? 0 : static_cast<Nanos>((1 - left_) * 1e9 / rate_) + 1;
  }
  /// After wait() said 0. May be more than there is: the next one waits for it.
  void take(u64 units) {
    if (rate_ != 0) left_ -= static_cast<double>(units);
  }

 private:
  double rate_ = 0, burst_ = 0, left_ = 0;
  Nanos at_ = 0;
};

}  // namespace skerry::virtio
