#include "virtio/queue.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace skerry::virtio {

namespace {

constexpr u16 kNext = 1, kWrite = 2, kIndirect = 4;  // 2.7.5
constexpr u16 kNoInterrupt = 1;                      // 2.7.6

// The rings are shared with running vCPUs: every access is a single atomic one.
u16 load16(const u8* at, std::memory_order order = std::memory_order_relaxed) {
  return std::atomic_ref<u16>(*reinterpret_cast<u16*>(const_cast<u8*>(at))).load(order);
}
void store16(u8* at, u16 value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<u16>(*reinterpret_cast<u16*>(at)).store(value, order);
}

}  // namespace

Chain::Chain(Chain&& other) noexcept
    : queue_(std::exchange(other.queue_, nullptr)),
      generation_(other.generation_),
      head_(other.head_),
      read_(std::move(other.read_)),
      write_(std::move(other.write_)),
      touched_(std::move(other.touched_)),
      readable_(other.readable_),
      writable_(other.writable_) {}

Chain& Chain::operator=(Chain&& other) noexcept {
  if (this == &other) return *this;
  complete(0);
  queue_ = std::exchange(other.queue_, nullptr);
  generation_ = other.generation_;
  head_ = other.head_;
  read_ = std::move(other.read_);
  write_ = std::move(other.write_);
  touched_ = std::move(other.touched_);
  readable_ = other.readable_;
  writable_ = other.writable_;
  return *this;
}

Chain::~Chain() {
  complete(0);
}

std::vector<Segment> Chain::cut(const std::vector<Segment>& part, u64 offset, u64 length) const {
  std::vector<Segment> out;
  for (const Segment& s : part) {
    if (length == 0) break;
    if (offset >= s.length) {
      offset -= s.length;
      continue;
    }
    u32 step = static_cast<u32>(std::min<u64>(s.length - offset, length));
    out.push_back({s.at + offset, step});
    length -= step;
    offset = 0;
  }
  return out;
}

std::vector<iovec> Chain::view(const std::vector<Segment>& part) const {
  std::vector<iovec> out;
  for (const Segment& s : part) {
    u8* host = queue_->memory_.host(s.at, s.length);
    SKERRY_CHECK(host, "a checked segment left guest memory");
    out.push_back({host, s.length});
  }
  return out;
}

std::vector<iovec> Chain::readable_span(u64 offset, u64 length) const {
  return queue_ ? view(cut(read_, offset, length)) : std::vector<iovec>{};
}

std::vector<iovec> Chain::writable_span(u64 offset, u64 length) {
  if (!queue_) return {};
  std::vector<Segment> part = cut(write_, offset, length);
  touched_.insert(touched_.end(), part.begin(), part.end());
  return view(part);
}

size_t Chain::read(u64 offset, std::span<u8> to) const {
  size_t done = 0;
  for (const iovec& part : readable_span(offset, to.size())) {
    std::memcpy(to.data() + done, part.iov_base, part.iov_len);
    done += part.iov_len;
  }
  return done;
}

// The pages are marked dirty by complete(), before the driver can see them used.
size_t Chain::write(u64 offset, std::span<const u8> from) {
  size_t done = 0;
  for (const iovec& part : writable_span(offset, from.size())) {
    std::memcpy(part.iov_base, from.data() + done, part.iov_len);
    done += part.iov_len;
  }
  return done;
}

void Chain::complete(u64 written) {
  Queue* queue = std::exchange(queue_, nullptr);
  if (!queue) return;
  // Also what a failed request may have left behind, and after a reset.
  for (const Segment& s : touched_) queue->memory_.mark_dirty(s.at, s.length);
  if (generation_ == queue->generation_)
    queue->use(head_, static_cast<u32>(std::min(written, writable_)));
}

Queue::Queue(memory::GuestMemory& memory, u16 max_size, std::function<void()> interrupt,
             std::function<void(const char*)> broke)
    : memory_(memory),
      max_size_(max_size),
      interrupt_(std::move(interrupt)),
      broke_(std::move(broke)) {
  SKERRY_CHECK(is_power_of_two(max_size) && max_size <= kMaxSize);
  reset();
}

void Queue::fail(const char* why) {
  state_.broken = true;
  trace(Trace::virtio, "queue broken: {}", why);
  if (broke_) broke_(why);
}

void Queue::start(u64 features) {
  indirect_ = features & kFeatureIndirect;
  event_idx_ = features & kFeatureEventIdx;
  running_ = true;
  if (state_.broken) return;
  u64 size = state_.size;
  // 2.7: alignments 16, 2 and 4. Each ring lies in one slot of RAM; the used ring is written.
  const memory::Slot* slot = memory_.slot_of(state_.used);
  descriptors_ = memory_.host(state_.descriptors, 16 * size);
  available_ = memory_.host(state_.available, 6 + 2 * size);
  used_ = memory_.host(state_.used, 6 + 8 * size);
  if (!is_power_of_two(size) || size > max_size_ || !descriptors_ || !available_ || !used_ ||
      !slot->writable || state_.descriptors % 16 || state_.available % 2 || state_.used % 4)
    fail("its rings are not in memory or not aligned");
}

void Queue::stop() {
  running_ = false;
  ++generation_;
  in_flight_ = 0;
  unpublished_ = false;
}

void Queue::reset() {
  stop();
  state_ = State{};
  state_.size = max_size_;
}

bool Queue::fits(const State& state) const {
  return is_power_of_two(state.size) && state.size <= max_size_;
}

void Queue::adopt(const State& state) {
  stop();
  state_ = state;
}

u16 Queue::available_index() const {
  return load16(available_ + 2, std::memory_order_acquire);
}

std::optional<Chain> Queue::pop() {
  if (!ready()) return std::nullopt;
  u16 waiting = static_cast<u16>(available_index() - state_.next_available);
  if (waiting == 0 && event_idx_) {
    // 2.7.10.1: ask to be told of the next one, then look again: it may have come in between.
    store16(used_ + 4 + 8 * state_.size, state_.next_available);
    memory_.mark_dirty(state_.used + 4 + 8 * state_.size, 2);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    waiting = static_cast<u16>(available_index() - state_.next_available);
  }
  if (waiting == 0) return std::nullopt;
  if (waiting > state_.size) {
    fail("its available index jumped");
    return std::nullopt;
  }
  auto chain = retake(load16(available_ + 4 + 2 * (state_.next_available & (state_.size - 1))));
  if (chain) ++state_.next_available;
  return chain;
}

std::optional<Chain> Queue::retake(u16 head) {
  if (!ready()) return std::nullopt;
  // Every request holds at least one descriptor, so an honest driver has at most `size` of them
  // out.
  if (in_flight_ >= state_.size) {
    fail("more requests than descriptors");
    return std::nullopt;
  }
  Chain chain;
  if (!walk(head, chain)) return std::nullopt;
  ++in_flight_;
  chain.queue_ = this;
  chain.generation_ = generation_;
  chain.head_ = head;
  return chain;
}

void Queue::give_back(Chain chain) {
  bool ours = std::exchange(chain.queue_, nullptr) == this && chain.generation_ == generation_;
  if (!ours) return;  // reset meanwhile
  SKERRY_DCHECK(in_flight_ > 0);
  --in_flight_;
  --state_.next_available;
}

// 2.7.5: descriptors linked by `next`; the last may refer to a table of further ones (2.7.5.3),
// which replaces the queue's table for the rest of the chain.
bool Queue::walk(u16 head, Chain& chain) {
  const u8* table = descriptors_;
  u32 entries = state_.size;
  u32 index = head;
  bool in_indirect = false;
  // As many steps as descriptors exist, so a loop ends.
  for (u32 left = entries, total = 0; left > 0; --left, ++total) {
    if (index >= entries) return fail("a descriptor index is out of range"), false;
    auto d = skerry::load<Descriptor>(table + 16 * index);
    if (d.flags & kIndirect) {
      if (!indirect_ || in_indirect || (d.flags & kNext))
        return fail("an indirect descriptor where none may be"), false;
      if (d.length == 0 || d.length % 16 || d.length / 16 > kMaxChain)
        return fail("an indirect table of an odd size"), false;
      table = memory_.host(d.address, d.length);
      if (!table) return fail("an indirect table outside memory"), false;
      in_indirect = true;
      entries = d.length / 16;
      left = entries + 1;
      index = 0;
      continue;
    }
    if (total >= kMaxChain + state_.size) return fail("a request of too many parts"), false;
    if (!append(chain, d)) return false;
    if (!(d.flags & kNext)) return true;
    index = d.next;
  }
  return fail("descriptors form a loop"), false;
}

bool Queue::append(Chain& chain, const Descriptor& d) {
  bool write = d.flags & kWrite;
  if (!write && !chain.write_.empty())
    return fail("a readable buffer after a writable one"), false;  // 2.7.4.2
  if (d.length == 0) return true;
  const memory::Slot* slot = memory_.slot_of(d.address);
  if (!slot || !memory_.host(d.address, d.length)) return fail("a buffer outside memory"), false;
  if (write && !slot->writable) return fail("a buffer in read-only memory"), false;
  (write ? chain.write_ : chain.read_).push_back({d.address, d.length});
  u64& sum = write ? chain.writable_ : chain.readable_;
  sum += d.length;
  // 2.7.5: a driver makes no chain longer than 2^32 bytes in total.
  if (chain.readable_ + chain.writable_ > u64{1} << 32) return fail("a request over 4 GiB"), false;
  return true;
}

void Queue::use(u16 head, u32 written) {
  SKERRY_DCHECK(in_flight_ > 0);
  --in_flight_;
  if (!ready()) return;
  u64 offset = 4 + 8 * (state_.next_used & (state_.size - 1));
  store<u32>(used_ + offset, head);
  store<u32>(used_ + offset + 4, written);
  ++state_.next_used;
  memory_.mark_dirty(state_.used + offset, 8);
  unpublished_ = true;
  if (batches_ == 0) publish();
}

void Queue::publish() {
  if (!std::exchange(unpublished_, false) || !ready()) return;
  store16(used_ + 2, state_.next_used, std::memory_order_release);
  memory_.mark_dirty(state_.used, 4);
  if (wants_interrupt() && interrupt_) interrupt_();
}

// 2.7.7: the driver's wish must be read after the index was written, hence the full fence.
bool Queue::wants_interrupt() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_idx_) return !(load16(available_) & kNoInterrupt);
  u16 event = load16(available_ + 4 + 2 * state_.size);
  u16 now = state_.next_used, before = std::exchange(state_.signalled, now);
  if (!std::exchange(state_.signalled_valid, true)) return true;
  return static_cast<u16>(now - event - 1) < static_cast<u16>(now - before);
}

}  // namespace skerry::virtio
