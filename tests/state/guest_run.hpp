// A machine in this process whose serial port is a string, taken through save and load.
#pragma once

#include <condition_variable>
#include <mutex>

#include "board/board.hpp"

namespace skerry::state_test {

/// What the guest has said, over all the machines it has lived in.
class Transcript {
 public:
  void append(std::span<const u8> bytes) {
    std::lock_guard guard(mutex_);
    text_.append(bytes.begin(), bytes.end());
  }
  std::string text() const {
    std::lock_guard guard(mutex_);
    return text_;
  }
  size_t count(std::string_view what) const;

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

/// A machine of `spec` on the software engine, powered on and paused.
Result<std::unique_ptr<board::Board>> build(const schema::MachineSpec& spec,
                                            Transcript& transcript);

/// What differs between two images but for the sections `ignored`, for people; empty if nothing
/// does.
std::string differences(const state::Image& a, const state::Image& b,
                        const std::vector<std::string>& ignored = {});

/// The same, without what a device brings up to the present when it is loaded: the RTC (its clock
/// is the host's), how much of their time timers have accounted for, and the interrupts of a timer
/// that was due.
std::string differences_but_time(const state::Image& a, const state::Image& b);

/// Saves the paused machine, takes it apart, builds it again from its Spec and the bytes of the
/// image; `board` is the new one, paused. Checks with EXPECT that saving once more gives the same
/// image.
Result<> round_trip(const schema::MachineSpec& spec, Transcript& transcript,
                    std::unique_ptr<board::Board>& board);

}  // namespace skerry::state_test
