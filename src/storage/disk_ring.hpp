// DiskRing: reads, writes and flushes of a file through io_uring(7): many at once, without threads.
//
// What the host has in its page cache is done within enter(), by the caller's thread; the rest ends
// later, and then event() becomes readable. A job that fails or is done in part is handed back to
// be done again by other means, which find out what is wrong.
//
// Threading: any thread; calls exclude each other. A request belongs to the thread that entered it:
// if that thread ends first, the job comes back as one that failed.
#pragma once

#include <memory>
#include <mutex>

#include "base/fd.hpp"
#include "storage/disk_job.hpp"

namespace skerry::storage {

class DiskRing {
 public:
  struct Ended {
    DiskJob job;
    bool done;  ///< false: not, or not all of it
  };

  /// An Error where the host has none, or does not let us (seccomp, kernel.io_uring_disabled).
  static Result<std::unique_ptr<DiskRing>> create();
  ~DiskRing();
  DiskRing(const DiskRing&) = delete;
  DiskRing& operator=(const DiskRing&) = delete;

  /// Prepares a job on `fd`; it begins with the next enter(). False: there is no room, or it is no
  /// job for a ring, and `job` is as it was.
  bool prepare(DiskJob& job, int fd);
  /// Begins what is prepared, and gives what has ended.
  void enter(std::vector<Ended>& ended);
  /// The same, and waits until nothing is under way.
  void drain(std::vector<Ended>& ended);
  /// Readable when a job has ended outside enter().
  int event() const { return event_.get(); }

 private:
  struct Ring;
  DiskRing();
  void begin_locked(std::vector<Ended>& ended);
  void reap_locked(std::vector<Ended>& ended);

  std::mutex mutex_;
  Fd event_;
  std::unique_ptr<Ring> ring_;
  unsigned prepared_ = 0, under_way_ = 0;  ///< the latter includes the former
};

}  // namespace skerry::storage
