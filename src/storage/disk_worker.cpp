#include "storage/disk_worker.hpp"

#include <algorithm>

namespace skerry::storage {

DiskWorker::DiskWorker(Disk& disk, std::function<void()> done)
    : disk_(disk), done_(std::move(done)) {}

DiskWorker::~DiskWorker() {
  {
    std::lock_guard guard(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void DiskWorker::submit(Job job) {
  {
    std::lock_guard guard(mutex_);
    job.number = submitted_++;
    jobs_.push_back(std::move(job));
    if (waiting_ < jobs_.size() && threads_.size() < kThreads)
      threads_.emplace_back([this] { run(); });
  }
  wake_.notify_one();
}

std::vector<DiskWorker::Done> DiskWorker::take() {
  std::vector<Done> done;
  {
    std::lock_guard guard(mutex_);
    done.swap(finished_);
  }
  std::ranges::sort(done, {}, &Done::number);
  return done;
}

void DiskWorker::wait_idle() {
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
    finished_.push_back({job.token, std::move(result), job.number});
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
