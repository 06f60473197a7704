#include "lockstep/host.hpp"

#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <ctime>

namespace skerry::lockstep {
namespace {

thread_local Host* turn = nullptr;

/// SplitMix64: not for secrets.
u64 next(u64& state) {
  u64 z = state += 0x9e37'79b9'7f4a'7c15;
  z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
  z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
  return z ^ (z >> 31);
}

}  // namespace

Turn::Turn(Host& host) : before_(turn) {
  turn = &host;
}
Turn::~Turn() {
  turn = before_;
}

}  // namespace skerry::lockstep

extern "C" {

ssize_t getrandom(void* to, size_t length, unsigned flags) {
  using namespace skerry::lockstep;
  if (!turn) return ::syscall(SYS_getrandom, to, length, flags);
  for (size_t at = 0; at < length; at += 8) {
    const skerry::u64 value = next(turn->random);
    std::memcpy(static_cast<char*>(to) + at, &value, std::min<size_t>(8, length - at));
  }
  return static_cast<ssize_t>(length);
}

int clock_gettime(clockid_t id, timespec* to) noexcept {
  using namespace skerry::lockstep;
  if (!turn || id != CLOCK_REALTIME) return static_cast<int>(::syscall(SYS_clock_gettime, id, to));
  to->tv_sec = static_cast<time_t>(turn->wall / 1'000'000'000);
  to->tv_nsec = static_cast<long>(turn->wall % 1'000'000'000);
  return 0;
}
}
