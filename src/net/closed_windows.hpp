// libslirp (4.7) closes a connection's window when the host's socket is full and does not tell the
// guest when it has room again: the guest asks after 200 ms at the earliest (a window probe, RFC
// 9293 3.8.6.1). This asks in its name as soon as there is room.
//
// Not thread-safe. Frames are what libslirp took or made; others do no harm.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "net/offload.hpp"

namespace skerry::net {

class ClosedWindows {
 public:
  /// A frame for the guest, and the guest's that it answers (may be empty).
  void sees(std::span<const u8> frame, std::span<const u8> cause);
  /// Gives `input` a probe for each connection whose window was last seen closed. What it answers
  /// goes to sees(), with the probe as its cause.
  void probe(const std::function<void(std::span<const u8>)>& input);
  bool empty() const { return probes_.empty(); }

 private:
  static constexpr u16 kSmall = 16 * KiB;  ///< a window that holds a sender up
  static constexpr size_t kMost = 256;     ///< connections; others wait for the guest's own probes
  std::map<u32, std::vector<u8>> probes_;  ///< by flow_hash
};

}  // namespace skerry::net
