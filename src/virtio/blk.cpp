#include "virtio/blk.hpp"

#include <sys/epoll.h>

#include <cerrno>

#include "base/log.hpp"

namespace skerry::virtio {

namespace {

using storage::DiskWorker;
using storage::kSector;

enum Type : u32 {  // 5.2.6
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};
enum Status : u8 { kOk = 0, kIoError = 1, kUnsupported = 2 };
constexpr u64 kHeader = 16, kIdLength = 20, kSegment = 16;
constexpr unsigned kReports = 10;
constexpr u32 kUnmap = 1;  // flags of a discard or write zeroes segment
// One request keeps a thread of the worker for a bounded time.
constexpr u32 kMaxSegments = 16, kMaxSectors = 2 * GiB / kSector;
constexpr u32 kWritebackAt = 32;
constexpr u32 kDiscardSectors = 8;  // what filesystems of the host can give back

}  // namespace

Blk::Blk(std::string name, Environment environment, std::unique_ptr<storage::Disk> disk,
         std::string serial, unsigned queues, std::unique_ptr<storage::DiskRing> ring)
    : name_(std::move(name)),
      serial_(std::move(serial)),
      environment_(environment),
      disk_(std::move(disk)),
      queues_(std::clamp(queues, 1u, kMaxQueues)),
      worker_(
          *disk_,
          [this, self = std::weak_ptr(self_)] {
            environment_.loop.post([self, &lock = environment_.lock] {
              std::lock_guard guard(lock);
              if (auto alive = self.lock()) (*alive)->finish();
            });
          },
          watched(std::move(ring))) {
  // 5.2.4: struct virtio_blk_config.
  set_capacity();
  store<u32>(&config_[12], kQueueSize - 2);
  store<u32>(&config_[20], kSector);
  config_[kWritebackAt] = 1;
  store<u16>(&config_[34], static_cast<u16>(queues_.size()));
  store<u32>(&config_[36], kMaxSectors);
  store<u32>(&config_[40], kMaxSegments);
  store<u32>(&config_[44], kDiscardSectors);
  store<u32>(&config_[48], kMaxSectors);
  store<u32>(&config_[52], kMaxSegments);
  config_[56] = 1;  // write_zeroes_may_unmap
}

Blk::~Blk() {
  worker_.wait_idle();
  if (worker_.event() >= 0) environment_.loop.unwatch(worker_.event());
  if (timer_) environment_.loop.cancel(timer_);
}

// A ring whose ends nobody would hear of is of no use.
std::unique_ptr<storage::DiskRing> Blk::watched(std::unique_ptr<storage::DiskRing> ring) {
  if (!ring) return nullptr;
  int event = ring->event();
  auto watched = environment_.loop.watch(event, EPOLLIN, [this, event](u32) {
    drain_event(event);
    notified();
  });
  if (watched) return ring;
  log_warn(fmt::format("{}: threads instead of io_uring: {}", name_, watched.error().what));
  return nullptr;
}

void Blk::notified() {
  if (!worker_.begin()) return;
  std::lock_guard guard(environment_.lock);
  finish();
}

void Blk::set_capacity() {
  store<u64>(&config_[0], disk_->size() / kSector);
}

u64 Blk::features() const {
  u64 common = kFeatureSegMax | kFeatureBlkSize | kFeatureFlush | kFeatureConfigWce |
               (queues_.size() > 1 ? kFeatureMq : 0);
  return common | (disk_->readonly() ? kFeatureReadOnly : kFeatureDiscard | kFeatureWriteZeroes);
}

Result<> Blk::resize(u64 bytes) {
  if (bytes < disk_->size())
    return fail_hint("shut the machine down and use: skerry image resize --shrink",
                     "{} has {} bytes: a disk in use only becomes larger", name_, disk_->size());
  if (bytes == disk_->size()) return {};
  TRY_VOID(disk_->resize(bytes));
  std::lock_guard guard(environment_.lock);
  set_capacity();
  if (config_changed) config_changed();
  return {};
}

void Blk::set_limits(const Limits& limits, const Clock& clock) {
  limits_ = limits;
  clock_ = &clock;
  Nanos now = clock.now();
  bytes_.set(limits.bytes, limits.bytes_burst, now);
  operations_.set(limits.operations, limits.operations_burst, now);
  // Who waits by the old limits looks again.
  if (timer_ && environment_.loop.cancel(timer_)) timer_ = environment_.loop.call_at(now, go_on());
}

Blk::State Blk::state() const {
  State s{disk_->size() / kSector, disk_->readonly(), config_[kWritebackAt] == 0, loaded_};
  for (const storage::DiskJob& job : stuck_) {
    const Request& request = in_flight_.at(job.token);
    s.waiting.push_back({request.queue, request.chain.head()});
  }
  return s;
}

Result<> Blk::load(const state::Image& image) {
  State saved;
  TRY_VOID(image.get(name_, saved));
  if (saved.sectors != state().sectors || saved.readonly != state().readonly)
    return fail_hint("attach the same disk with the same options",
                     "{}: the guest had a {} disk of {} sectors, {} is a {} one of {}", name_,
                     saved.readonly ? "read-only" : "writable", saved.sectors, disk_->path(),
                     disk_->readonly() ? "read-only" : "writable", state().sectors);
  if (saved.waiting.size() > queues_.size() * kQueueSize)
    return fail("{}: the image has more requests than the disk has room for", name_);
  for (const Waiting& w : saved.waiting)
    if (w.queue >= queues_.size()) return fail("{}: a request of no queue in the image", name_);
  config_[kWritebackAt] = !saved.write_through;
  to_retake_ = std::move(saved.waiting);
  return {};
}

// 5.2.5: only writeback can be written, and only if the driver took F_CONFIG_WCE, which it does
// before it is active.
void Blk::write_config(u32 offset, std::span<const u8> bytes) {
  if (offset > kWritebackAt || kWritebackAt - offset >= bytes.size()) return;
  config_[kWritebackAt] = bytes[kWritebackAt - offset] != 0;
}

bool Blk::durable() const {
  if (features_ & kFeatureConfigWce) return config_[kWritebackAt] == 0;
  return !(features_ & kFeatureFlush);
}

void Blk::activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) {
  for (size_t i = 0; i < queues_.size(); ++i) queues_[i] = queues[i].get();
  features_ = features;
  loaded_ = std::exchange(to_retake_, {});
}

void Blk::deactivate() {
  quiesce();
  for (storage::DiskJob& job : stuck_) {
    auto it = in_flight_.find(job.token);
    answer(it->second.chain, kIoError, 0);
    in_flight_.erase(it);
  }
  stuck_.clear();
  loaded_.clear();
  std::fill(queues_.begin(), queues_.end(), nullptr);
}

void Blk::reset() {
  config_[kWritebackAt] = 1;
  features_ = 0;
  to_retake_.clear();
}

void Blk::quiesce() {
  quiet_ = true;
  worker_.wait_idle();
  finish();
}

// The end of a throttled time.
std::function<void()> Blk::go_on() {
  // A turn for each queue at a time: others wait for the lock.
  struct GoOn {
    std::weak_ptr<Blk*> self;
    std::mutex& lock;
    EventLoop& loop;
    void operator()() {
      auto alive = self.lock();
      if (!alive) return;
      Blk& blk = **alive;
      bool more = false;
      {
        std::lock_guard guard(lock);
        blk.timer_ = 0;
        for (unsigned i = 0; !blk.quiet_ && i < blk.queues_.size(); ++i) more |= blk.notify(i);
      }
      blk.notified();
      if (more) loop.post(*this);
    }
  };
  return GoOn{self_, environment_.lock, environment_.loop};
}

// True while the limits let nothing begin; a timer then looks again.
bool Blk::throttled() {
  if (!clock_) return false;
  Nanos now = clock_->now();
  Nanos wait = std::max(bytes_.wait(now), operations_.wait(now));
  if (wait == 0) return false;
  if (timer_) return true;
  ++counts_.throttled;
  timer_ = environment_.loop.call_at(now + wait, go_on());
  return true;
}

bool Blk::notify(unsigned index) {
  if (stuck() && !quiet_) return false;  // until the machine was paused
  quiet_ = false;
  try_again();
  Queue* queue = queues_[index];
  if (!queue || !queue->ready()) return false;
  for (unsigned budget = queue->size(); budget > 0; --budget) {
    if (throttled()) return false;
    auto chain = queue->pop();
    if (!chain) return false;
    operations_.take(1);
    handle(std::move(*chain), index);
  }
  return true;
}

// What the host could not do, or what another process has left when its machine was saved.
void Blk::try_again() {
  for (storage::DiskJob& job : std::exchange(stuck_, {})) worker_.submit(std::move(job));
  for (const Waiting& w : std::exchange(loaded_, {}))
    if (Queue* queue = queues_[w.queue])
      if (auto chain = queue->retake(w.head)) handle(std::move(*chain), w.queue);
}

bool Blk::pauses(const Error& error) const {
  bool full = error.code == ENOSPC || error.code == EDQUOT;
  return on_error_.ask && (full ? on_error_.pause_if_full : on_error_.pause);
}

// The status is the last writable byte, wherever the driver put it (2.7.4: no framing is assumed).
// The used length covers only what was written without a gap from the start (2.7.8.2).
void Blk::answer(Chain& chain, u8 status, u64 data) {
  u64 before = chain.writable() - 1, filled = status == kOk ? data : 0;
  chain.write(before, {&status, 1});
  chain.complete(filled == before ? before + 1 : filled);
}

// The segments of a discard or write zeroes request (5.2.6.1, 5.2.6.2).
bool Blk::ranges(const Chain& chain, u64 length, bool zero, DiskWorker::Job& job, u8& status) {
  u64 capacity = disk_->size() / kSector;
  status = kIoError;
  if (disk_->readonly() || length == 0 || length % kSegment || length / kSegment > kMaxSegments)
    return false;
  for (u64 at = 0; at < length; at += kSegment) {
    u8 segment[kSegment];
    chain.read(kHeader + at, segment);
    u64 sector = skerry::load<u64>(segment);
    u32 count = skerry::load<u32>(segment + 8), flags = skerry::load<u32>(segment + 12);
    if (flags & ~(zero ? kUnmap : 0)) {
      status = kUnsupported;
      return false;
    }
    if (count > kMaxSectors || sector > capacity || count > capacity - sector) return false;
    if (count)
      job.ranges.push_back({sector * kSector, u64{count} * kSector, (flags & kUnmap) != 0});
  }
  return true;
}

void Blk::handle(Chain chain, unsigned queue) {
  u8 header[kHeader];
  if (chain.read(0, header) != kHeader || chain.writable() == 0) {
    // There is nowhere to put a status, or nothing to answer.
    trace(Trace::virtio, "{}: a request without header or status", name_);
    ++counts_.refused;
    return chain.complete(0);
  }
  u32 type = skerry::load<u32>(header);
  u64 sector = skerry::load<u64>(header + 8), capacity = disk_->size() / kSector;
  u64 in = chain.writable() - 1, out = chain.readable() - kHeader;
  trace(Trace::virtio, "{}: type {} sector {} in {} out {}", name_, type, sector, in, out);
  auto refuse = [&](u8 status) {
    ++counts_.refused;
    answer(chain, status, 0);
  };

  DiskWorker::Job job;
  job.token = next_token_++;
  u64 length = 0;
  u8 status = kOk;
  switch (type) {
    case kIn:
      length = in;
      job.op = DiskWorker::Op::read;
      job.memory = chain.writable_span(0, in);
      break;
    case kOut:
      if (disk_->readonly()) return refuse(kIoError);
      length = out;
      job.op = DiskWorker::Op::write;
      job.memory = chain.readable_span(kHeader, out);
      break;
    case kFlush: job.op = DiskWorker::Op::flush; break;
    case kDiscard:
    case kWriteZeroes:
      if (!(features_ & (type == kDiscard ? kFeatureDiscard : kFeatureWriteZeroes)))
        return refuse(kUnsupported);
      job.op = type == kDiscard ? DiskWorker::Op::discard : DiskWorker::Op::zero;
      if (!ranges(chain, out, type == kWriteZeroes, job, status)) return refuse(status);
      break;
    case kGetId: {
      u8 id[kIdLength] = {};
      std::memcpy(id, serial_.data(), std::min<size_t>(serial_.size(), kIdLength));
      u64 shown = std::min(in, kIdLength);
      chain.write(0, {id, shown});
      return answer(chain, kOk, shown);
    }
    default: return refuse(kUnsupported);
  }
  if (type == kIn || type == kOut) {
    if (length % kSector || sector > capacity || length / kSector > capacity - sector)
      return refuse(kIoError);
    job.offset = sector * kSector;
    bytes_.take(length);
  }
  switch (type) {
    case kIn: ++counts_.reads, counts_.read_bytes += length; break;
    case kOut: ++counts_.writes, counts_.written_bytes += length; break;
    case kFlush: ++counts_.flushes; break;
    case kDiscard: ++counts_.discards; break;
    default: ++counts_.zeroes;
  }
  job.durable = durable();
  in_flight_.emplace(job.token,
                     Request{std::move(chain), type == kIn ? in : 0, static_cast<u16>(queue)});
  worker_.submit(std::move(job));
}

void Blk::finish() {
  std::string why;
  for (DiskWorker::Done& done : worker_.take()) {
    auto it = in_flight_.find(done.job.token);
    SKERRY_CHECK(it != in_flight_.end());
    if (!done.result) {
      ++counts_.host_errors;
      if (reported_ < kReports)
        log_warn(fmt::format("{}: {}{}", name_, done.result.error().what,
                             ++reported_ == kReports ? " (further errors are not shown)" : ""));
      if (pauses(done.result.error())) {
        ++counts_.stuck;
        why = std::move(done.result.error().what);
        stuck_.push_back(std::move(done.job));
        continue;
      }
    }
    answer(it->second.chain, done.result ? kOk : kIoError, it->second.data);
    in_flight_.erase(it);
  }
  if (!why.empty()) on_error_.ask(why);
}

std::vector<machine::Counter> Blk::counters() const {
  return {{"reads", counts_.reads},
          {"writes", counts_.writes},
          {"flushes", counts_.flushes},
          {"discards", counts_.discards},
          {"write zeroes", counts_.zeroes},
          {"bytes read", counts_.read_bytes},
          {"bytes written", counts_.written_bytes},
          {"host errors", counts_.host_errors},
          {"times stuck", counts_.stuck},
          {"requests refused", counts_.refused},
          {"times throttled", counts_.throttled}};
}

}  // namespace skerry::virtio
