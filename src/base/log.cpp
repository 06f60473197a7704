#include "base/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace skerry {
namespace {

struct Category {
  Trace bit;
  const char* name;
  const char* shows;
};
constexpr Category kCategories[] = {
    {Trace::exec, "exec", "every instruction (very long)"},
    {Trace::cpu, "cpu", "exceptions, interrupts taken, mode changes"},
    {Trace::mmu, "mmu", "page-table walks that fail, TLB flushes"},
    {Trace::msr, "msr", "model-specific registers"},
    {Trace::irq, "irq", "interrupt controllers"},
    {Trace::io, "io", "port and memory-mapped accesses to devices"},
    {Trace::pci, "pci", "PCI configuration space"},
    {Trace::virtio, "virtio", "virtqueues and requests"},
    {Trace::time, "time", "timers"},
    {Trace::exit, "exit", "exits of the CPU engine"},
};

spdlog::logger& logger() {
  static auto instance = [] {
    auto l = spdlog::stderr_color_mt("skerry");
    l->set_pattern("skerry: %v");
    return l;
  }();
  return *instance;
}

}  // namespace

void detail::trace_line(Trace category, std::string_view text) {
  for (const Category& c : kCategories)
    if (c.bit == category) logger().info("[{}] {}", c.name, text);
}

Result<> set_trace(std::string_view categories) {
  u32 mask = 0;
  while (!categories.empty()) {
    size_t comma = categories.find(',');
    std::string_view name = categories.substr(0, comma);
    categories = comma == std::string_view::npos ? "" : categories.substr(comma + 1);
    u32 bit = name == "all" ? ~u32{0} : 0;
    for (const Category& c : kCategories)
      if (name == c.name) bit = static_cast<u32>(c.bit);
    if (bit == 0)
      return fail_hint("known categories:\n" + trace_help(), "no trace category is called '{}'",
                       name);
    mask |= bit;
  }
  detail::trace_mask = mask;
  return {};
}

std::string trace_help() {
  std::string text;
  for (const Category& c : kCategories) text += fmt::format("  {:<8}{}\n", c.name, c.shows);
  return text;
}

void log_info(std::string_view text) {
  logger().info(text);
}
void log_warn(std::string_view text) {
  logger().warn(text);
}

}  // namespace skerry
