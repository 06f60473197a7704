#include "storage/disk_worker.hpp"

#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <climits>

#include "base/clock.hpp"
#include "storage/file.hpp"

namespace skerry::storage {

namespace {

constexpr u64 kAtOnce = 256 * KiB;  // more is copied side by side with other requests
constexpr Nanos kLong = 2'000'000;  // a write that took longer waited for the disk
constexpr unsigned kWritesElsewhere = 64;

}  // namespace

DiskWorker::DiskWorker(Disk& disk, std::function<void()> done, std::unique_ptr<DiskRing> ring)
    : disk_(disk), done_(std::move(done)), ring_(std::move(ring)) {
  if (!ring_ || !disk_.cached()) return;
  cached_ = true;
  struct statfs where {};
  int fd = disk_.descriptor(0, {});
  in_memory_ = fd >= 0 && ::fstatfs(fd, &where) == 0 && where.f_type == TMPFS_MAGIC;
}

DiskWorker::~DiskWorker() {
  wait_idle();
  {
    std::lock_guard guard(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DiskWorker::submit(Job job) {
  job.number = submitted_++;
  if (!ring_ || disk_.descriptor(job.offset, job.memory) < 0) return give_to_thread(std::move(job));
  std::lock_guard guard(mutex_);
  prepared_.push_back(std::move(job));
}

void DiskWorker::give_to_thread(Job job) {
  {
    std::lock_guard guard(mutex_);
    jobs_.push_back(std::move(job));
    if (waiting_ < jobs_.size() && threads_.size() < most_threads_)
      threads_.emplace_back([this] { run(); });
  }
  wake_.notify_one();
}

// Without waiting for anything but memory; a write may have to wait for the host's disk after all,
// if there is too much in the cache that is not on it.
bool DiskWorker::done_now(const Job& job, int fd) {
  if (!cached_ || job.durable || job.memory.size() > IOV_MAX) return false;
  u64 length = length_of(job.memory);
  if (length > kAtOnce) return false;
  int parts = static_cast<int>(job.memory.size());
  auto offset = static_cast<off_t>(job.offset);
  if (job.op == Op::read) {
    ssize_t n = ::preadv2(fd, job.memory.data(), parts, offset, in_memory_ ? 0 : RWF_NOWAIT);
    return n >= 0 && static_cast<u64>(n) == length;
  }
  if (job.op != Op::write) return false;
  if (no_writes_now_ > 0) return --no_writes_now_, false;
  Nanos began = HostClock::monotonic();
  ssize_t n = ::pwritev(fd, job.memory.data(), parts, offset);
  if (HostClock::monotonic() - began > kLong) no_writes_now_ = kWritesElsewhere;
  return n >= 0 && static_cast<u64>(n) == length;
}

// True: something is done. With beginning_ held.
bool DiskWorker::begin_prepared() {
  std::vector<Job> jobs;
  {
    std::lock_guard guard(mutex_);
    jobs.swap(prepared_);
  }
  std::vector<DiskRing::Ended> ended;
  for (Job& job : jobs) {
    int fd = disk_.descriptor(job.offset, job.memory);
    if (done_now(job, fd)) {
      ended.push_back({std::move(job), true});
    } else if (!ring_->prepare(job, fd)) {
      give_to_thread(std::move(job));
    }
  }
  ring_->enter(ended);
  if (ended.empty()) return false;
  sort_out(std::move(ended));
  return true;
}

bool DiskWorker::begin() {
  if (!ring_) return false;
  std::lock_guard guard(beginning_);
  return begin_prepared();
}

// Threads do again what the ring could not do.
void DiskWorker::sort_out(std::vector<DiskRing::Ended> ended) {
  std::vector<Done> done;
  for (DiskRing::Ended& e : ended) {
    if (e.done) {
      done.push_back({std::move(e.job), {}});
    } else {
      give_to_thread(std::move(e.job));
    }
  }
  std::lock_guard guard(mutex_);
  std::ranges::move(done, std::back_inserter(finished_));
}

std::vector<DiskWorker::Done> DiskWorker::take() {
  std::vector<Done> done;
  {
    std::lock_guard guard(mutex_);
    done.swap(finished_);
  }
  std::ranges::sort(done, {}, [](const Done& d) { return d.job.number; });
  return done;
}

void DiskWorker::wait_idle() {
  if (ring_) {
    std::lock_guard guard(beginning_);
    begin_prepared();
    std::vector<DiskRing::Ended> ended;
    ring_->drain(ended);
    sort_out(std::move(ended));
  }
  std::unique_lock guard(mutex_);
  idle_.wait(guard, [&] { return jobs_.empty() && busy_ == 0; });
}

Result<> DiskWorker::perform(const Job& job) {
  switch (job.op) {
    case Op::read: return disk_.readv(job.offset, job.memory);
    case Op::write: TRY_VOID(disk_.writev(job.offset, job.memory)); break;
    case Op::discard:
      for (const Range& r : job.ranges) TRY_VOID(disk_.discard(r.offset, r.length));
      break;
    case Op::zero:
      for (const Range& r : job.ranges) TRY_VOID(disk_.write_zeroes(r.offset, r.length, r.unmap));
      break;
    case Op::flush: return disk_.flush();
  }
  return job.durable ? disk_.flush() : Result<>{};
}

void DiskWorker::run() {
  std::unique_lock guard(mutex_);
  for (;;) {
    ++waiting_;
    wake_.wait(guard, [&] { return ending_ || !jobs_.empty(); });
    --waiting_;
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    ++busy_;
    guard.unlock();
    Result<> result = perform(job);
    guard.lock();
    bool first = finished_.empty();
    finished_.push_back({std::move(job), std::move(result)});
    if (first) {  // more of them are found by the same take()
      guard.unlock();
      done_();
      guard.lock();
    }
    --busy_;
    if (jobs_.empty() && busy_ == 0) idle_.notify_all();
  }
}

}  // namespace skerry::storage
