// Random cases: an instruction of a given row of the instruction table, and a state that makes it
// do something: directed operand values, memory operands inside, across and beyond the mapped
// pages.
#pragma once

#include <optional>

#include "isa/generate.hpp"
#include "oracle/case.hpp"

namespace skerry::oracle {

/// xoshiro-like; small and fast.
class Random {
 public:
  explicit Random(u64 seed)
      : a_(seed * 0x9e3779b97f4a7c15 + 1), b_(seed ^ 0xd1b54a32d192ed03), instances_(seed) {
    for (int i = 0; i < 8; i++) next();
  }
  u64 next() {
    u64 s = a_ ^ (a_ << 23);
    a_ = b_;
    b_ = s ^ b_ ^ (s >> 17) ^ (b_ >> 26);
    return a_ + b_;
  }
  /// 0 .. n - 1
  u32 below(u32 n) { return static_cast<u32>((next() >> 32) * n >> 32); }
  bool chance(u32 percent) { return below(100) < percent; }
  template <class T, size_t N>
  T pick(const T (&list)[N]) {
    return list[below(N)];
  }

  isa::Rng& instances() { return instances_; }

 private:
  u64 a_, b_;
  isa::Rng instances_;
};

/// Whether the oracle can judge this row on this host in 64-bit user mode; if not, why not.
bool testable(const isa::Row& row, std::string_view& why_not);

/// A case for rows()[row]. Nothing: this attempt did not give a legal instruction; try again.
/// `bits32`: one that does the same in 32-bit mode.
std::optional<Case> generate(u16 row, Random& random, bool bits32 = false);

}  // namespace skerry::oracle
