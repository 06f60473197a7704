// What is printed of a divergence: the block, the state before it, what each side made of it.
#pragma once

#include <deque>

#include "lockstep/compare.hpp"

namespace skerry::lockstep {

/// The result of one comparison.
struct Findings {
  machine::CpuState a, b;
  std::vector<Difference> registers;
  std::optional<RamComparison::Result> ram;
  std::vector<std::string> notes;
  bool any() const { return !registers.empty() || ram || !notes.empty(); }
};
std::string text_of(const Findings& findings);

/// One block as A executed it, and B's way through it.
class BlockReport {
 public:
  /// `before`: the state both sides are in.
  BlockReport(Side& a, const machine::CpuState& before);
  void ended_at(u64 position) { end_ = position; }
  /// B has executed one instruction, or taken an exception or interrupt.
  void add_step(const machine::CpuState& to) {
    if (steps_.size() < kSteps) steps_.push_back(to);
  }

  u64 begin() const { return begin_; }
  u64 linear() const { return linear_; }
  u64 steps() const { return end_ - begin_; }
  /// Addresses, bytes and instructions.
  std::string code() const;
  /// With the registers before, and B's steps.
  std::string text(Side& b) const;

 private:
  machine::CpuState before_;
  u64 begin_, end_ = 0, linear_;
  std::vector<u8> bytes_;
  static constexpr size_t kSteps = 200;
  std::vector<machine::CpuState> steps_;
};

/// The blocks before.
class History {
 public:
  void add(const BlockReport& block);
  std::string text() const;

 private:
  struct Line {
    u64 position, linear, steps;
  };
  std::deque<Line> lines_;
};

}  // namespace skerry::lockstep
