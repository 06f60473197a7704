// Puts a kernel into guest memory the way a boot loader would, and says in which state the
// bootstrap CPU starts it.
//
// Formats, told apart by their contents:
//   - Linux bzImage (Documentation/arch/x86/boot.rst, protocol 2.10 and later): 64-bit entry where
//     the kernel has it, else the 32-bit one;
//   - Multiboot 1 (specification 0.6.96), ELF or with address fields;
//   - ELF with the PVH note (Xen's "x86/HVM direct boot ABI").
//
// Images are hostile input: every offset and size is checked. What a failed load has written to
// memory stays there. No threading: nothing of the machine runs while it is loaded.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "board/e820.hpp"
#include "machine/cpu_state.hpp"

namespace skerry::board {

/// What the user asked for; paths on the host.
struct BootRequest {
  struct Module {
    std::string path;
    std::string args;
  };
  std::string kernel_path;
  std::string initrd_path;  ///< empty: none. Multiboot gets it as its first module
  std::string cmdline;
  std::vector<Module> modules;
};

/// What the kernel is told of the machine.
struct BootContext {
  E820Map e820;
  Gpa rsdp = 0;                 ///< 0: no ACPI
  unsigned physical_bits = 36;  ///< of guest-physical addresses, for the MTRRs
};

/// The files of a BootRequest, read. Spans are only looked at during the call.
struct BootFiles {
  struct File {
    std::string name;  ///< for the guest's command lines and for messages
    std::span<const u8> bytes;
    std::string args;
  };
  File kernel;                ///< args is the kernel's command line
  std::vector<File> modules;  ///< the initrd first, if there is one
  bool has_initrd = false;
};

/// Reads the files and loads them.
Result<machine::CpuState> load_kernel(memory::GuestMemory& memory, const BootRequest& request,
                                      const BootContext& context);
/// The same from bytes.
Result<machine::CpuState> load_kernel_bytes(memory::GuestMemory& memory, const BootFiles& files,
                                            const BootContext& context);

}  // namespace skerry::board
