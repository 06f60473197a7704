// GDB's view of an x86-64 CPU's registers: the target description and the bytes of each register.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "machine/cpu_state.hpp"

namespace skerry::vmm {

/// target.xml: core, SSE, AVX and segment-base features of GDB's i386:x86-64, and the system
/// registers.
std::string gdb_target_description();

unsigned gdb_register_count();
/// Little-endian bytes of register `number` in the order of the description.
std::string gdb_read_register(const machine::CpuState& state, unsigned number);
/// False if the number or the size is wrong, or if the register cannot be set (selectors).
bool gdb_write_register(machine::CpuState& state, unsigned number, std::string_view bytes);

}  // namespace skerry::vmm
