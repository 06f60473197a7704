// The kernel and initrd that a guest's own disk holds: what --boot-from-disk starts.
//
// Looked for in /boot of an ext4 filesystem on the whole disk or on a partition of it, or on a
// partition of its own for /boot. What GRUB (grub.cfg) or a boot loader with BLS entries would
// start by default is taken, with its command line; where there is no such menu, or what it names
// is not there, the newest kernel.
#pragma once

#include <string>

#include "bootdisk/source.hpp"

namespace skerry::bootdisk {

struct BootFiles {
  std::string kernel_name, initrd_name;  ///< paths on the disk, for messages; no initrd: ""
  std::vector<u8> kernel, initrd;
  /// What the kernel is told of its root filesystem: "root=UUID=... ro". Empty where none was
  /// found.
  std::string root;
  std::string options;  ///< the command line of the boot loader's entry, if it is one's
};

/// `limit`: the most bytes that a file may have. Errors do not name the disk.
Result<BootFiles> read_boot_files(const Source& disk, u64 limit);

/// Whether version `a` is older than `b`, as "6.1.0-9" than "6.1.0-10": digits by value, the rest
/// by bytes.
bool older(std::string_view a, std::string_view b);

}  // namespace skerry::bootdisk
