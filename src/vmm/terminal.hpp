// The user's terminal in raw mode while a guest owns it. Restored at exit, however that comes
// about.
#pragma once

#include "base/result.hpp"

namespace skerry::vmm {

/// Puts stdin into raw mode if it is a terminal; nothing otherwise. Once per process.
void make_terminal_raw();
/// Puts it back. Async-signal-safe, idempotent; also runs at exit.
void restore_terminal();

}  // namespace skerry::vmm
