// What differs between the two sides.
#pragma once

#include "lockstep/side.hpp"

namespace skerry::lockstep {

/// What is not compared.
struct Ignore {
  u64 flags = 0;                    ///< bits of RFLAGS
  std::vector<std::string> fields;  ///< beginnings of names: "xsave", "dr6"
  bool devices = false;

  bool covers(std::string_view name) const;
};

/// One number of a state that differs.
struct Difference {
  std::string name;
  u64 a = 0, b = 0;
};

/// Every field of a state, by its name: "rax", "cs.base", "xsave+0x240".
std::vector<std::pair<std::string, u64>> fields(const machine::CpuState& state);
std::vector<Difference> differences(const machine::CpuState& a, const machine::CpuState& b,
                                    const Ignore& ignore);
/// The same for a local APIC, under "lapic.".
std::vector<Difference> differences(const machine::LapicState& a, const machine::LapicState& b);

/// Pages written since the last comparison, on either side.
class RamComparison {
 public:
  struct Result {
    memory::Gpa at;  ///< first differing byte
    std::vector<u8> a, b;
    u64 pages;  ///< that differ
  };
  std::optional<Result> compare(Side& a, Side& b);

 private:
  std::vector<u64> differing_;  ///< pages found to differ, which stay in the comparison
};

/// Names of devices whose states differ.
std::vector<std::string> differing_devices(Side& a, Side& b);

}  // namespace skerry::lockstep
