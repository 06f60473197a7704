#include "virtio/blk.hpp"

#include "base/log.hpp"

namespace skerry::virtio {

namespace {

using storage::DiskWorker;
using storage::kSector;

enum Type : u32 { kIn = 0, kOut = 1, kFlush = 4, kGetId = 8 };  // 5.2.6
enum Status : u8 { kOk = 0, kIoError = 1, kUnsupported = 2 };
constexpr u64 kHeader = 16, kIdLength = 20;
constexpr unsigned kReports = 10;

}  // namespace

Blk::Blk(std::string name, Environment environment, std::unique_ptr<storage::Disk> disk,
         std::string serial)
    : name_(std::move(name)),
      serial_(std::move(serial)),
      environment_(environment),
      disk_(std::move(disk)),
      worker_(*disk_, [this, self = std::weak_ptr(self_)] {
        environment_.loop.post([self, &lock = environment_.lock] {
          std::lock_guard guard(lock);
          if (auto alive = self.lock()) (*alive)->finish();
        });
      }) {
  // 5.2.4: capacity, size_max, seg_max, geometry, blk_size.
  store<u64>(&config_[0], disk_->size() / kSector);
  store<u32>(&config_[12], kQueueSize - 2);
  store<u32>(&config_[20], kSector);
}

Blk::~Blk() {
  worker_.wait_idle();
}

u64 Blk::features() const {
  return kFeatureSegMax | kFeatureBlkSize | kFeatureFlush |
         (disk_->readonly() ? kFeatureReadOnly : 0);
}

Blk::State Blk::state() const {
  return {disk_->size() / kSector, disk_->readonly()};
}

Result<> Blk::load(const state::Image& image) {
  State saved;
  TRY_VOID(image.get(name_, saved));
  if (saved.sectors != state().sectors || saved.readonly != state().readonly)
    return fail_hint("attach the same disk with the same options",
                     "{}: the guest had a {} disk of {} sectors, {} is a {} one of {}", name_,
                     saved.readonly ? "read-only" : "writable", saved.sectors, disk_->path(),
                     disk_->readonly() ? "read-only" : "writable", state().sectors);
  return {};
}

void Blk::activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) {
  queue_ = queues[0].get();
  durable_writes_ = !(features & kFeatureFlush);
}

void Blk::deactivate() {
  quiesce();
  queue_ = nullptr;
}

void Blk::quiesce() {
  worker_.wait_idle();
  finish();
}

bool Blk::notify(unsigned) {
  if (!queue_) return false;
  for (unsigned budget = queue_->size(); budget > 0; --budget) {
    auto chain = queue_->pop();
    if (!chain) return false;
    handle(std::move(*chain));
  }
  return true;
}

// The status is the last writable byte, wherever the driver put it (2.7.4: no framing is assumed).
// The used length covers only what was written without a gap from the start (2.7.8.2).
void Blk::answer(Chain& chain, u8 status, u64 data) {
  u64 before = chain.writable() - 1, filled = status == kOk ? data : 0;
  chain.write(before, {&status, 1});
  chain.complete(filled == before ? before + 1 : filled);
}

void Blk::handle(Chain chain) {
  u8 header[kHeader];
  if (chain.read(0, header) != kHeader || chain.writable() == 0) {
    // There is nowhere to put a status, or nothing to answer.
    trace(Trace::virtio, "{}: a request without header or status", name_);
    return chain.complete(0);
  }
  u32 type = skerry::load<u32>(header);
  u64 sector = skerry::load<u64>(header + 8), capacity = disk_->size() / kSector;
  u64 in = chain.writable() - 1, out = chain.readable() - kHeader;
  trace(Trace::virtio, "{}: type {} sector {} in {} out {}", name_, type, sector, in, out);

  DiskWorker::Job job;
  job.token = next_token_++;
  u64 length = 0;
  switch (type) {
    case kIn:
      length = in;
      job.op = DiskWorker::Op::read;
      job.memory = chain.writable_span(0, in);
      break;
    case kOut:
      if (disk_->readonly()) return answer(chain, kIoError, 0);
      length = out;
      job.op = DiskWorker::Op::write;
      job.memory = chain.readable_span(kHeader, out);
      job.durable = durable_writes_;
      break;
    case kFlush: job.op = DiskWorker::Op::flush; break;
    case kGetId: {
      u8 id[kIdLength] = {};
      std::memcpy(id, serial_.data(), std::min<size_t>(serial_.size(), kIdLength));
      u64 shown = std::min(in, kIdLength);
      chain.write(0, {id, shown});
      return answer(chain, kOk, shown);
    }
    default: return answer(chain, kUnsupported, 0);
  }
  if (type != kFlush) {
    if (length % kSector || sector > capacity || length / kSector > capacity - sector)
      return answer(chain, kIoError, 0);
    job.offset = sector * kSector;
  }
  in_flight_.emplace(job.token, Request{std::move(chain), type == kIn ? in : 0});
  worker_.submit(std::move(job));
}

void Blk::finish() {
  for (DiskWorker::Done& done : worker_.take()) {
    auto it = in_flight_.find(done.token);
    SKERRY_CHECK(it != in_flight_.end());
    if (!done.result && reported_ < kReports) {
      log_warn(fmt::format("{}: {}{}", name_, done.result.error().what,
                           ++reported_ == kReports ? " (further errors are not shown)" : ""));
    }
    answer(it->second.chain, done.result ? kOk : kIoError, it->second.data);
    in_flight_.erase(it);
  }
}

}  // namespace skerry::virtio
