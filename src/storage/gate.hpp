// Gate: waits until everybody who was inside has left, without keeping anybody out.
#pragma once

#include <condition_variable>
#include <mutex>

namespace skerry::storage {

class Gate {
 public:
  class Inside {
   public:
    explicit Inside(Gate& gate) : gate_(gate) {
      std::lock_guard guard(gate_.mutex_);
      side_ = gate_.side_;
      ++gate_.inside_[side_];
    }
    ~Inside() {
      std::lock_guard guard(gate_.mutex_);
      if (--gate_.inside_[side_] == 0) gate_.left_.notify_all();
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    Gate& gate_;
    unsigned side_;
  };

  /// Returns when all who were inside at the call have left. One caller at a time.
  void wait() {
    std::unique_lock guard(mutex_);
    unsigned side = std::exchange(side_, side_ ^ 1);
    left_.wait(guard, [&] { return inside_[side] == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  unsigned side_ = 0, inside_[2] = {};
};

}  // namespace skerry::storage
