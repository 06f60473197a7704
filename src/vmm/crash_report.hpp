// What a person needs to see of a CPU when a guest crashed, or in a debugger.
#pragma once

#include <string>

#include "machine/machine.hpp"

namespace skerry::vmm {

/// A heading and cpu_report().
std::string crash_report(machine::Machine& machine, unsigned cpu);
/// Registers, mode, the bytes and instructions at RIP and the top of the stack of `cpu`. The
/// machine is paused.
std::string cpu_report(machine::Machine& machine, unsigned cpu);

}  // namespace skerry::vmm
