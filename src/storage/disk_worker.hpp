// DiskWorker: makes a Disk asynchronous with a thread of its own.
//
// Jobs run in the order of submission, so a flush covers every write submitted before it. Any
// thread may call; memory that a job names stays valid until its Done was taken.
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
  enum class Op : u8 { read, write, flush };
  struct Job {
    u64 token = 0;  ///< the submitter's, handed back in Done
    Op op = Op::flush;
    u64 offset = 0;
    std::vector<iovec> memory;
    bool durable = false;  ///< a write that is flushed before it is done
  };
  struct Done {
    u64 token;
    Result<> result;
  };

  /// `disk` outlives the worker. `done` is called on the worker's thread when take() has something
  /// new.
  DiskWorker(Disk& disk, std::function<void()> done);
  /// Finishes what was submitted.
  ~DiskWorker();

  void submit(Job job);
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
  bool busy_ = false, ending_ = false;
  std::thread thread_;
};

}  // namespace skerry::storage
