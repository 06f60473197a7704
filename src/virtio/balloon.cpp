#include "virtio/balloon.hpp"

#include "memory/discard.hpp"

namespace skerry::virtio {

namespace {
// struct virtio_balloon_config (5.5.4)
enum Config : u32 { kNumPages = 0, kActual = 4, kFreePageHint = 8, kPoisonValue = 12 };
constexpr u64 kReportBudget = 256 * KiB;  // pages per turn: 1 GiB
constexpr size_t kStatistic = 10;         // le16 tag, le64 value (5.5.6.3)
}  // namespace

void Balloon::publish() {
  store<u32>(&config_[kNumPages], state_.target);
  store<u32>(&config_[kActual], state_.actual);
  store<u32>(&config_[kPoisonValue], state_.poison);
}

void Balloon::set_target(u32 pages) {
  if (state_.target == pages) return;
  state_.target = pages;
  publish();
  if (config_changed) config_changed();
}

void Balloon::write_config(u32 offset, std::span<const u8> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    size_t at = offset + i;
    bool drivers =
        (at >= kActual && at < kActual + 4) || (at >= kPoisonValue && at < config_.size());
    if (drivers) config_[at] = bytes[i];
  }
  state_.actual = skerry::load<u32>(&config_[kActual]);
  state_.poison = skerry::load<u32>(&config_[kPoisonValue]);
}

void Balloon::activate(u64 features, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = false;
  inflate_ = queues[0].get();
  deflate_ = queues[1].get();
  // Queues of features that were not negotiated do not exist: the later ones move up (5.5.2).
  unsigned next = 2;
  if (features & kStats) statistics_ = queues[statistics_index_ = next++].get();
  if (features & kReporting) reports_ = queues[reports_index_ = next++].get();
  // 5.5.6.7.2: with a poison value, pages must come back with it, and ours come back as zeros.
  keep_reported_ = features & kPoison;
}

void Balloon::deactivate() {
  waiting_.reset();
  inflate_ = deflate_ = statistics_ = reports_ = nullptr;
}

void Balloon::reset() {
  // What the host wants stays; the pages are the new driver's.
  state_.actual = state_.poison = 0;
  stats_ = {};
  publish();
}

bool Balloon::notify(unsigned queue) {
  quiet_ = false;
  if (!inflate_) return false;
  if (queue == 0) return inflate();
  if (queue == 1) return deflate();
  if (statistics_ && queue == statistics_index_) return take_statistics();
  if (reports_ && queue == reports_index_) return take_reports();
  return false;
}

void Balloon::give_back(u64 first, u64 pages) {
  given_back_ += memory::discard(memory_, first * kPage, pages * kPage) / kPage;
}

// A request is a list of 32-bit page numbers; drivers send up to 256. Neighbours go back together.
bool Balloon::inflate() {
  for (unsigned budget = kBudget; budget > 0;) {
    auto chain = inflate_->pop();
    if (!chain) return false;
    u64 count = std::min<u64>(chain->readable() / 4, kBudget), first = 0, run = 0;
    for (u64 i = 0; i < count;) {
      u32 numbers[256];
      size_t got = chain->read(4 * i, {reinterpret_cast<u8*>(numbers),
                                       4 * std::min<u64>(count - i, std::size(numbers))}) /
                   4;
      if (got == 0) break;
      for (size_t k = 0; k < got; ++k) {
        if (run && numbers[k] == first + run) {
          ++run;
        } else if (run && numbers[k] + u64{1} == first) {  // Linux often counts down
          --first, ++run;
        } else {
          give_back(first, run);
          first = numbers[k], run = 1;
        }
      }
      i += got;
    }
    give_back(first, run);
    inflated_ += count;
    budget -= static_cast<unsigned>(std::min<u64>(budget, count + 1));
    chain->complete(0);
  }
  return true;
}

// The pages come back by being touched; there is nothing to do but to let the driver go on.
bool Balloon::deflate() {
  for (unsigned budget = deflate_->size(); budget > 0; --budget) {
    auto chain = deflate_->pop();
    if (!chain) return false;
    deflated_ += chain->readable() / 4;
    chain->complete(0);
  }
  return true;
}

bool Balloon::take_statistics() {
  for (unsigned budget = statistics_->size(); budget > 0; --budget) {
    auto chain = statistics_->pop();
    if (!chain) return false;
    u8 bytes[kStatistic * 32];
    size_t n = chain->read(0, bytes);
    for (size_t at = 0; at + kStatistic <= n; at += kStatistic) {
      u16 tag = skerry::load<u16>(bytes + at);
      if (tag < stats_.size()) stats_[tag] = skerry::load<u64>(bytes + at + 2);
    }
    ++told_;
    // One buffer waits; a driver that sends more gets the older ones back.
    if (waiting_) waiting_->complete(0);
    waiting_ = std::move(*chain);
  }
  return true;
}

bool Balloon::ask_statistics() {
  if (!waiting_ || quiet_) return false;
  auto chain = std::exchange(waiting_, std::nullopt);
  chain->complete(0);
  return true;
}

// Free pages as the writable parts of a request; nothing is written, they just become zeros.
bool Balloon::take_reports() {
  // Marking pages dirty takes time, too; one request has at most 4 GiB.
  for (u64 budget = kReportBudget; budget > 0;) {
    auto chain = reports_->pop();
    if (!chain) return false;
    budget -= std::min(budget, chain->writable() / kPage + kReportBudget / 64);
    if (!keep_reported_ || state_.poison == 0) {
      u64 before = given_back_;
      for (const iovec& part : chain->writable_span(0, chain->writable())) {
        auto* start = static_cast<const u8*>(part.iov_base);
        for (const memory::Slot& slot : memory_.slots())
          if (start >= slot.host && start < slot.host + slot.size)
            given_back_ +=
                memory::discard(memory_, slot.start + static_cast<u64>(start - slot.host),
                                part.iov_len) /
                kPage;
      }
      reported_ += given_back_ - before;
    }
    chain->complete(0);
  }
  return true;
}

// The driver tells its statistics again once it has the buffer back.
void Balloon::quiesce() {
  ask_statistics();
  quiet_ = true;
}

Result<> Balloon::load(const state::Image& image) {
  State state;
  TRY_VOID(image.get(name_, state));
  state_ = state;
  publish();
  return {};
}

std::vector<machine::Counter> Balloon::counters() const {
  return {{"target pages", state_.target},    {"pages in the balloon", state_.actual},
          {"pages inflated", inflated_},      {"pages deflated", deflated_},
          {"free pages reported", reported_}, {"pages given back to the host", given_back_}};
}

}  // namespace skerry::virtio
