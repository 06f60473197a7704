// Runs cases in the interpreter: a 64-bit user-mode Cpu whose page tables map the addresses of
// case.hpp. Single-threaded.
#pragma once

#include <memory>

#include "engine/soft/core.hpp"
#include "engine/soft/room.hpp"
#include "oracle/case.hpp"

namespace skerry::oracle {

class Guest {
 public:
  static Result<std::unique_ptr<Guest>> create();
  void run(const Case& c, Outcome& out);

 private:
  Guest() = default;
  void build_tables();
  void set_mode(bool bits32);
  std::unique_ptr<memory::GuestMemory> memory_;
  soft::Shared shared_;
  soft::Room room_;  ///< where cpu_ and its TLBs live
  soft::Cpu* cpu_ = &room_.cpu();
  std::unique_ptr<soft::Cpu::Core> core_;
};

}  // namespace skerry::oracle
