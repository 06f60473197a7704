// DiskWorker: makes a Disk asynchronous: what the host has in its page cache is done at once by
// whoever calls begin(), the rest by io_uring where it is the plain bytes of a file, and by a few
// threads of its own where it is not.
//
// Jobs run side by side and end in any order; a flush covers every write that was done when it was
// submitted. Any thread may call; memory that a job names stays valid until its Done was taken.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "storage/disk_job.hpp"
#include "storage/disk_ring.hpp"

namespace skerry::storage {

class DiskWorker {
 public:
  static constexpr unsigned kThreads = 4;  ///< at most; started as jobs wait for one

  using Job = DiskJob;
  using Op = DiskJob::Op;
  using Range = DiskJob::Range;
  struct Done {
    Job job;  ///< as it was submitted
    Result<> result;
  };

  /// `disk` outlives the worker, and so does `ring`'s thread. `done` is called on a thread of the
  /// worker when take() has something new. Without a ring, threads do everything.
  DiskWorker(Disk& disk, std::function<void()> done, std::unique_ptr<DiskRing> ring = nullptr);
  /// Finishes what was submitted.
  ~DiskWorker();

  /// With one thread and no ring, jobs end in the order of submit(). Before the first of them.
  void set_threads(unsigned most) { most_threads_ = most; }
  void submit(Job job);
  /// Begins what was submitted and has not begun by itself. Whoever submits calls it soon after;
  /// may do the work, so no lock that others need is held. True: take() has something, which is not
  /// told otherwise.
  bool begin();
  /// Readable: call begin(). -1 if there is no such thing.
  int event() const { return ring_ ? ring_->event() : -1; }
  /// What has ended since, in the order in which it was submitted: after wait_idle() the answer
  /// does not depend on the threads.
  std::vector<Done> take();
  /// Returns when every submitted job is done.
  void wait_idle();

 private:
  void run();
  Result<> perform(const Job& job);
  void give_to_thread(Job job);
  void sort_out(std::vector<DiskRing::Ended> ended);
  bool done_now(const Job& job, int fd);
  bool begin_prepared();

  Disk& disk_;
  unsigned most_threads_ = kThreads;
  std::function<void()> done_;
  std::unique_ptr<DiskRing> ring_;
  std::mutex beginning_;        ///< held while jobs are begun, and done at once; before mutex_
  bool cached_ = false;         ///< some can be done at once
  bool in_memory_ = false;      ///< all can: the file is in a file system that is the host's memory
  unsigned no_writes_now_ = 0;  ///< so many more go to the ring, since one took long
  std::mutex mutex_;
  std::vector<Job> prepared_;
  std::condition_variable wake_, idle_;
  std::deque<Job> jobs_;
  std::vector<Done> finished_;
  unsigned busy_ = 0, waiting_ = 0;
  std::atomic<u64> submitted_{0};
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace skerry::storage
