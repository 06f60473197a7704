// What differs between the two sides.
#pragma once

#include "isa/insn.hpp"
#include "lockstep/side.hpp"

namespace skerry::lockstep {

/// What is not compared.
struct Ignore {
  u64 flags = 0;                    ///< bits of RFLAGS
  std::vector<std::string> fields;  ///< beginnings of names: "xsave", "dr6"
  bool devices = false;
  bool pointers = true;  ///< of the x87: not every processor keeps them (AMD's do not)

  bool covers(std::string_view name) const;
};

/// One number of a state that differs.
struct Difference {
  std::string name;
  u64 a = 0, b = 0;
};

isa::DecodeMode mode_of(const machine::CpuState& s);
u64 linear_rip(const machine::CpuState& s);

/// The flags that are for arithmetic to change.
constexpr u64 kArithmetic = 0x8d5;
/// Arithmetic flags that are undefined after `count` instructions from the state `before`: engines
/// may differ there.
u64 undefined_flags(Side& side, const machine::CpuState& before, u64 count);

/// Every field of a state, by its name: "rax", "cs.base", "xsave+0x240".
std::vector<std::pair<std::string, u64>> fields(const machine::CpuState& state);
std::vector<Difference> differences(const machine::CpuState& a, const machine::CpuState& b,
                                    const Ignore& ignore);
/// The same for a local APIC, under "lapic.".
std::vector<Difference> differences(const machine::LapicState& a, const machine::LapicState& b);

/// Copies to B the registers that differ from A's only in the arithmetic flags of what looks like
/// an image of RFLAGS (PUSHF and POP, SYSCALL). How many.
u64 settle_images(Side& a, Side& b);

/// The same for 16-bit words of memory from `linear` on. Which flags differed.
u64 settle_stack(Side& a, Side& b, u64 linear, u64 length);

/// Pages written since the last comparison, on either side. What looks like an image of RFLAGS (of
/// PUSHF, of an interrupt) and differs only in arithmetic flags is copied from A to B.
class RamComparison {
 public:
  explicit RamComparison(bool settle) : settle_(settle) {}
  u64 settled() const { return settled_; }
  struct Result {
    memory::Gpa at;  ///< first differing byte
    std::vector<u8> a, b;
    u64 pages;  ///< that differ
  };
  std::optional<Result> compare(Side& a, Side& b);

 private:
  bool settle(Side& b, memory::Gpa at, const u8* x, u8* y);
  const bool settle_;
  u64 settled_ = 0;
  std::vector<u64> differing_;  ///< pages found to differ, which stay in the comparison
};

/// Names of devices whose states differ.
std::vector<std::string> differing_devices(Side& a, Side& b);

}  // namespace skerry::lockstep
