#include "storage/disk_ring.hpp"

#include <liburing.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "storage/file.hpp"

namespace skerry::storage {

namespace {

constexpr unsigned kEntries = 256;
constexpr unsigned kUnderWay = 1024;  // completions that the kernel keeps for us

struct Slot {
  DiskJob job;
  u64 length = 0;  ///< what is to be moved
};

}  // namespace

struct DiskRing::Ring {
  io_uring uring{};
  bool made = false;
  ~Ring() {
    if (made) ::io_uring_queue_exit(&uring);
  }
};

DiskRing::DiskRing() : ring_(std::make_unique<Ring>()) {}

DiskRing::~DiskRing() {
  std::vector<Ended> ended;
  drain(ended);
}

Result<std::unique_ptr<DiskRing>> DiskRing::create() {
  std::unique_ptr<DiskRing> ring(new DiskRing);
  ring->event_ = TRY(Fd::event());
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = kUnderWay;
  io_uring& uring = ring->ring_->uring;
  auto failed = [](int code) {
    Error error{fmt::format("io_uring: {}", std::strerror(code)),
                "use aio=threads, or see the sysctl kernel.io_uring_disabled", code};
    return std::unexpected(std::move(error));
  };
  if (int code = ::io_uring_queue_init_params(kEntries, &uring, &params); code < 0)
    return failed(-code);
  ring->ring_->made = true;
  // Not the "async" kind, which says nothing of what ends in our own thread's task work.
  if (int code = ::io_uring_register_eventfd(&uring, ring->event_.get()); code < 0)
    return failed(-code);
  return ring;
}

bool DiskRing::prepare(DiskJob& job, int fd) {
  bool moves = job.op == DiskJob::Op::read || job.op == DiskJob::Op::write;
  if (!moves && job.op != DiskJob::Op::flush) return false;
  if (job.memory.size() > IOV_MAX) return false;
  u64 length = length_of(job.memory);
  if (length > INT_MAX) return false;
  std::lock_guard guard(mutex_);
  if (under_way_ >= kUnderWay) return false;
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_->uring);
  if (!entry) return false;
  auto* slot = new Slot{std::move(job), length};
  const DiskJob& j = slot->job;
  unsigned parts = static_cast<unsigned>(j.memory.size());
  switch (j.op) {
    case DiskJob::Op::read:
      ::io_uring_prep_readv(entry, fd, j.memory.data(), parts, j.offset);
      break;
    case DiskJob::Op::write:
      ::io_uring_prep_writev2(entry, fd, j.memory.data(), parts, j.offset,
                              j.durable ? RWF_DSYNC : 0);
      break;
    default: ::io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
  }
  ::io_uring_sqe_set_data(entry, slot);
  ++prepared_;
  ++under_way_;
  return true;
}

void DiskRing::reap_locked(std::vector<Ended>& ended) {
  io_uring_cqe* entry;
  unsigned head, seen = 0;
  io_uring_for_each_cqe(&ring_->uring, head, entry) {
    std::unique_ptr<Slot> slot(static_cast<Slot*>(::io_uring_cqe_get_data(entry)));
    bool done = entry->res >= 0 && static_cast<u64>(entry->res) == slot->length;
    ended.push_back({std::move(slot->job), done});
    ++seen;
  }
  ::io_uring_cq_advance(&ring_->uring, seen);
  under_way_ -= seen;
}

void DiskRing::begin_locked(std::vector<Ended>& ended) {
  while (prepared_ > 0) {
    int n = ::io_uring_submit(&ring_->uring);
    if (n > 0) prepared_ -= std::min(prepared_, static_cast<unsigned>(n));
    if (n > 0 || n == -EINTR) continue;
    // No memory just now, or too many are under way: there is room when one has ended.
    reap_locked(ended);
    io_uring_cqe* entry;
    if (under_way_ > prepared_) ::io_uring_wait_cqe(&ring_->uring, &entry);
  }
}

void DiskRing::enter(std::vector<Ended>& ended) {
  std::lock_guard guard(mutex_);
  begin_locked(ended);
  // What has ended by now is found here, and the event loop need not be woken for it.
  if (::io_uring_cq_ready(&ring_->uring)) drain_event(event_.get());
  reap_locked(ended);
}

void DiskRing::drain(std::vector<Ended>& ended) {
  std::lock_guard guard(mutex_);
  begin_locked(ended);
  for (reap_locked(ended); under_way_ > 0; reap_locked(ended)) {
    io_uring_cqe* entry;
    ::io_uring_wait_cqe(&ring_->uring, &entry);
  }
}

}  // namespace skerry::storage
