// Runs cases on the host's processor, in a forked child that is confined by strict seccomp (read,
// write, exit, sigreturn): whatever an instruction does, it does to the child. Per case the child
// loads all registers (XRSTOR, IRETQ), runs the instruction, stores them again; signals become
// faults.
//
// Single-threaded. Cases go over in batches through shared memory.
#pragma once

#include <span>

#include "base/result.hpp"
#include "oracle/case.hpp"

namespace skerry::oracle {

constexpr unsigned kBatch = 128;

class Native {
 public:
  /// Fails, with the reason, where low addresses, fork or seccomp are not to be had.
  static Result<std::unique_ptr<Native>> create();
  ~Native();

  /// cases.size() <= kBatch; fills in outcomes of the same length.
  void run(std::span<const Case> cases, std::span<Outcome> outcomes);
  unsigned restarts() const { return restarts_; }

 private:
  Native() = default;
  Result<> map();
  Result<> start_child();
  void stop_child();
  [[noreturn]] void child_main(int commands, int answers);

  struct Job;
  struct Shared;
  Shared* shared_ = nullptr;
  u8* code_alias_ = nullptr;
  int child_ = -1;
  int commands_ = -1, answers_ = -1;
  unsigned restarts_ = 0;
};

/// Moves XSAVE components between the host's layout and ours.
class Layout {
 public:
  Layout();
  void to_host(const u8* ours, u8* host) const;
  void from_host(const u8* host, u8* ours) const;
  u64 xcr0() const { return xcr0_; }
  u32 size() const { return size_; }

 private:
  u64 xcr0_ = 0;
  u32 size_ = 0;
  u32 offset_[8] = {};
};

}  // namespace skerry::oracle
