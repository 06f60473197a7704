// What a machine asks of the host beyond its Clock, made repeatable: this program has its own
// getrandom() (RDRAND, RDSEED, virtio-rng) and clock_gettime(CLOCK_REALTIME) (the RTC), which
// answer for the machine whose turn it is. Single-threaded, but for disk workers, which ask
// neither.
#pragma once

#include "base/types.hpp"

namespace skerry::lockstep {

/// One machine's share of the host.
struct Host {
  u64 random = 0x9e37'79b9'7f4a'7c15;  ///< state of its generator
  Nanos wall = 0;                      ///< CLOCK_REALTIME
};

/// While it lives, the host's answers are this machine's.
class Turn {
 public:
  explicit Turn(Host& host);
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Host* before_;
};

}  // namespace skerry::lockstep
