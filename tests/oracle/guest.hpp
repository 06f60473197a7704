// Runs cases on the software engine: a 64-bit user-mode Cpu whose page tables map the addresses of
// case.hpp. Either the interpreter's handler alone, or the engine's run loop with translated code:
// then a HLT behind the instruction, which is a fault at CPL 3, ends the case, and handlers that
// halt say what happened. Single-threaded.
#pragma once

#include <memory>

#include "engine/soft/core.hpp"
#include "engine/soft/room.hpp"
#include "oracle/case.hpp"

namespace skerry::oracle {

class Guest {
 public:
  /// `translated`: cases run as translated code.
  static Result<std::unique_ptr<Guest>> create(bool translated);
  void run(const Case& c, Outcome& out);

 private:
  Guest() = default;
  void build_tables();
  void build_kernel();
  void set_mode(bool bits32);
  void run_translated(const Case& c, Outcome& out);
  u64 runs_ = 0;
  std::unique_ptr<memory::GuestMemory> memory_;
  soft::Shared shared_;
  soft::Room room_;  ///< where cpu_ and its TLBs live
  soft::Cpu* cpu_ = &room_.cpu();
  std::unique_ptr<soft::Cpu::Core> core_;
};

}  // namespace skerry::oracle
