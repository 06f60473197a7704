// --boot-from-disk: the loader's files come from the guest's own disk, at each power-on and reset,
// so that a kernel which the guest has installed is the one that starts next.
#pragma once

#include "board/loader.hpp"
#include "schema/machine_spec.hpp"
#include "storage/disk.hpp"

namespace skerry::board {

/// Nothing writes the disk during the call.
Result<machine::CpuState> load_from_disk(memory::GuestMemory& memory, storage::Disk& disk,
                                         const schema::MachineSpec& spec,
                                         const BootContext& context);

/// The kernel's command line: `options` of the boot loader's entry, then `append`, with `root` and
/// the serial console put in where neither has its own.
std::string disk_command_line(std::string_view root, const std::string& options, bool serial,
                              const std::string& append);

}  // namespace skerry::board
