// The CPU states in which boot protocols start a kernel: flat 32-bit protected mode, and long mode
// with memory identity-mapped.
#pragma once

#include "board/places.hpp"
#include "machine/cpu_state.hpp"

namespace skerry::board {

/// Selectors of the boot GDT, as Linux's protocol wants them (__BOOT_CS, __BOOT_DS).
constexpr u16 kBootCode = 0x10, kBootData = 0x18, kBootTask = 0x20;

/// Paging off, flat segments, interrupts off (boot.rst "32-bit boot protocol"; Multiboot 3.2; PVH).
/// The GDT is put into low memory.
Result<machine::CpuState> protected_mode_state(Places& places, u32 entry);

/// 64-bit mode, the first 4 GiB identity-mapped with 2 MiB pages (boot.rst "64-bit boot protocol").
Result<machine::CpuState> long_mode_state(Places& places, u64 entry);

/// What firmware leaves in every CPU before it starts an operating system: MTRRs on, memory
/// write-back, the hole below 4 GiB uncached (SDM 3A 12.11). Without it Linux does not use the PAT.
void set_memory_types(machine::CpuState& state, unsigned physical_bits);

}  // namespace skerry::board
