#include "storage/disk_worker.hpp"

#include <algorithm>

namespace skerry::storage {

DiskWorker::DiskWorker(Disk& disk, std::function<void()> done, std::unique_ptr<DiskRing> ring)
    : disk_(disk), done_(std::move(done)), ring_(std::move(ring)) {}

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
  if (ring_) {
    int fd = disk_.descriptor(job.offset, job.memory);
    if (fd >= 0 && ring_->prepare(job, fd)) return;
  }
  give_to_thread(std::move(job));
}

void DiskWorker::give_to_thread(Job job) {
  {
    std::lock_guard guard(mutex_);
    jobs_.push_back(std::move(job));
    if (waiting_ < jobs_.size() && threads_.size() < kThreads)
      threads_.emplace_back([this] { run(); });
  }
  wake_.notify_one();
}

bool DiskWorker::begin() {
  if (!ring_) return false;
  std::vector<DiskRing::Ended> ended;
  ring_->enter(ended);
  if (ended.empty()) return false;
  sort_out(std::move(ended));
  return true;
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
