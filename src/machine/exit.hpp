// Exit: the whole contract between an engine, which runs guest instructions, and the machine, which
// has the devices. Vcpu::run() returns one; reads are answered with Vcpu::answer() before the next
// run().
#pragma once

#include <string>
#include <variant>

#include "memory/guest_memory.hpp"

namespace skerry::machine {

/// IN or OUT of 1, 2 or 4 bytes. String I/O comes as one exit per element.
struct PortIo {
  u16 port;
  u8 size;
  bool write;
  u32 value;  ///< what OUT writes
};

/// A load or store of 1..8 bytes at an address that is not RAM (or a store to read-only memory).
/// Wider and page-crossing accesses come as several.
struct Mmio {
  memory::Gpa at;
  u8 size;
  bool write;
  u64 value;
};

/// HLT with nothing to wake for. The vCPU waits for an NMI and, if it may take one, an interrupt.
struct Halt {
  bool interrupts_enabled = true;
};

/// Triple fault.
struct Shutdown {};

/// A breakpoint, watchpoint or single step that the debugger asked for.
struct Debug {
  u64 rip = 0;
  u64 watch_address = 0;  ///< guest-virtual address of the watchpoint that hit, or 0
};

/// kick() was called.
struct Interrupted {};

/// EOI of a level-triggered vector that the IOAPIC must know of (engines with their own LAPIC).
struct IoapicEoi {
  u8 vector;
};

/// The engine cannot go on: a defect of the host or of ours. `text` says what and where.
struct Fatal {
  std::string text;
};

using Exit = std::variant<PortIo, Mmio, Halt, Shutdown, Debug, Interrupted, IoapicEoi, Fatal>;

}  // namespace skerry::machine
