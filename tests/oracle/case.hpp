// One case for the oracle: an instruction, the state before it, and what came out of running it.
//
// Both sides see the same user-mode address space (64-bit, CPL 3):
//   kCode   the instruction, execute and read only
//   kData   one page read-only, two pages read-write; around them nothing
// so base registers, RIP and faulting addresses compare as they are. Vector and x87 state are held
// in the engine's layout (standard format, Intel's offsets); the native side converts.
#pragma once

#include <array>
#include <string>

#include "isa/insn.hpp"
#include "machine/cpu_state.hpp"

namespace skerry::oracle {

constexpr u64 kPage = 4096;
constexpr u64 kCode = 0x6000'0000;
constexpr u64 kInsnAt = kCode + 0x100;
/// Where branches may go: within reach of an 8-bit displacement, and farther away.
constexpr u64 kNearLanding = kCode + 0x150, kFarLanding = kCode + 0x800;
constexpr u64 kReadOnly = 0x6100'1000, kData = 0x6100'2000, kDataSize = 2 * kPage;
constexpr u64 kDataEnd = kData + kDataSize;

struct Registers {
  std::array<u64, 16> gpr{};
  u64 rip = 0, rflags = 0;
};

struct State {
  Registers regs;
  alignas(64) std::array<u8, machine::kXsaveSize> xsave{};
};

/// 0xff: no fault.
constexpr u8 kNoFault = 0xff, kHostDied = 0xfe, kHostHung = 0xfd, kNotRun = 0xfc;

struct Outcome {
  State state;
  u8 vector = kNoFault;
  u32 error = 0;
  u64 address = 0;  ///< CR2 of a page fault
  std::array<u8, kDataSize> data;
  bool translated = false;
};

struct Case {
  u8 code[16] = {};
  isa::Insn insn;
  State in;
  std::array<u8, kDataSize> data;
  u64 memory_at = 0;  ///< where the memory operand lies
  /// The interpreter runs it in 32-bit protected mode, the host in 64-bit mode: an instruction that
  /// is the same in both.
  bool bits32 = false;
  isa::Insn insn32;  ///< decoded in that mode
};

}  // namespace skerry::oracle
