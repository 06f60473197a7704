// DiskWorker: makes a Disk asynchronous with a few threads of its own.
//
// Jobs run side by side and end in any order; a flush covers every write that was done when it was
// submitted. Any thread may call; memory that a job names stays valid until its Done was taken.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/disk.hpp"

namespace skerry::storage {

class DiskWorker {
 public:
  static constexpr unsigned kThreads = 4;  ///< started as jobs wait for one

  enum class Op : u8 { read, write, flush, discard, zero };
  struct Range {
    u64 offset = 0, length = 0;
    bool unmap = false;  ///< of zero: the space may go back to the host
  };
  struct Job {
    u64 token = 0;  ///< the submitter's, handed back in Done
    Op op = Op::flush;
    u64 offset = 0;             ///< of read and write
    std::vector<iovec> memory;  ///< of read and write
    bool durable = false;       ///< a change that is flushed before it is done
    std::vector<Range> ranges;  ///< of discard and zero
    u64 number = 0;             ///< the worker's own: counts submissions
  };
  struct Done {
    u64 token;
    Result<> result;
    u64 number = 0;  ///< Job::number
  };

  /// `disk` outlives the worker. `done` is called on a thread of the worker when take() has
  /// something new.
  DiskWorker(Disk& disk, std::function<void()> done);
  /// Finishes what was submitted.
  ~DiskWorker();

  void submit(Job job);
  /// What has ended since, in the order in which it was submitted: after wait_idle() the answer
  /// does not depend on the threads.
  std::vector<Done> take();
  /// Returns when every submitted job is done.
  void wait_idle();

 private:
  void run();
  Result<> perform(const Job& job);

  Disk& disk_;
  std::function<void()> done_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Job> jobs_;
  std::vector<Done> finished_;
  unsigned busy_ = 0, waiting_ = 0;
  u64 submitted_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace skerry::storage
