// What the exit status of `skerry run` (and so of skerry-vmm) says. For scripts: docs/cli.md.
#pragma once

#include "base/types.hpp"

namespace skerry::schema {

enum ExitStatus : int {
  exit_power_off = 0,  ///< the guest powered itself off, or the user asked it to end (Ctrl-A x)
  exit_usage = 64,     ///< bad command line or configuration
  exit_internal = 70,  ///< a bug of ours, or the engine cannot go on
  exit_host = 71,      ///< the host refuses something: missing file, no /dev/kvm, no memory...
  exit_reset = 80,     ///< the guest asked for a reset under --no-reboot
  exit_crash = 81,     ///< the guest crashed: triple fault
  exit_panic = 82,     ///< the guest's kernel panicked under --on-panic exit
  exit_signal = 128,   ///< plus the number of the signal that ended us
};

/// With --debug-exit, what a guest's write of `code` to port 0xf4 ends the process with.
constexpr int exit_debug(u32 code) {
  return static_cast<int>(((code << 1) | 1) & 0xff);
}

}  // namespace skerry::schema
