// Messages to the operator, and traces of what a guest does.
//
// Logging goes to stderr through spdlog. A trace category is a bit that `--trace cpu,irq` switches
// on; a disabled category costs one load and one branch.
#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/result.hpp"

namespace skerry {

enum class Trace : u32 {
  exec = 1 << 0,    ///< every instruction (very long)
  cpu = 1 << 1,     ///< exceptions, interrupts taken, mode changes
  mmu = 1 << 2,     ///< page-table walks that fail, TLB flushes
  msr = 1 << 3,     ///< model-specific registers
  irq = 1 << 4,     ///< interrupt controllers
  io = 1 << 5,      ///< port and memory-mapped accesses to devices
  pci = 1 << 6,     ///< configuration space
  virtio = 1 << 7,  ///< queues and requests
  time = 1 << 8,    ///< timers
  exit = 1 << 9,    ///< exits of the engine
};

namespace detail {
inline u32 trace_mask = 0;
void trace_line(Trace category, std::string_view text);
}  // namespace detail

inline bool tracing(Trace category) {
  return detail::trace_mask & static_cast<u32>(category);
}

template <class... Args>
void trace(Trace category, fmt::format_string<Args...> text, Args&&... args) {
  if (__builtin_expect(tracing(category), 0))
    detail::trace_line(category, fmt::format(text, std::forward<Args>(args)...));
}

/// "cpu,irq" or "all"; set before threads start. An unknown name is an Error listing the known
/// ones.
Result<> set_trace(std::string_view categories);
/// Every category with what it shows, one per line, for --help.
std::string trace_help();

/// A line for the operator on stderr.
void log_info(std::string_view text);
void log_warn(std::string_view text);

}  // namespace skerry
