// What a person needs to see when a guest crashed.
#pragma once

#include <string>

#include "machine/machine.hpp"

namespace skerry::vmm {

/// Registers, mode, the bytes and instructions at RIP and the top of the stack of `cpu`. The
/// machine is paused.
std::string crash_report(machine::Machine& machine, unsigned cpu);

}  // namespace skerry::vmm
