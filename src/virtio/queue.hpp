// Queue and Chain: a split virtqueue and one request taken from it.
//
// Virtio 1.2 section 2.7 (split virtqueues), with indirect descriptors and event-index suppression.
// The rings and every length in them are the guest's and may change at any moment, so each value is
// read once and checked. What a driver must never do (an index out of range, a loop, a buffer
// outside RAM, a readable buffer after a writable one...) breaks the queue: it yields nothing more
// and the device asks to be reset. Not here: packed virtqueues, VIRTIO_F_RING_RESET,
// VIRTIO_F_IN_ORDER.
//
// Threading: called with the board lock held; the guest's vCPUs run meanwhile.
#pragma once

#include <sys/uio.h>

#include <functional>
#include <optional>
#include <vector>

#include "memory/guest_memory.hpp"
#include "state/describe.hpp"

namespace skerry::virtio {

using memory::Gpa;

class Queue;

/// Reserved feature bits (6).
constexpr u64 kFeatureIndirect = u64{1} << 28, kFeatureEventIdx = u64{1} << 29,
              kFeatureVersion1 = u64{1} << 32;

/// Part of guest memory. All of it is inside one slot of RAM.
struct Segment {
  Gpa at = 0;
  u32 length = 0;
};

/// One request: readable bytes, then writable bytes. Move-only. Must be completed; one that is
/// destroyed unfinished is completed with no bytes. After its queue was reset it still reads and
/// writes guest memory, but completing it does nothing. Does not outlive its queue.
class Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&& other) noexcept;
  ~Chain();

  u64 readable() const { return readable_; }  ///< bytes, at most 4 GiB
  u64 writable() const { return writable_; }
  /// The first descriptor: what names the request in a saved state.
  u16 head() const { return head_; }

  /// Copies from the readable part at `offset`; the number of bytes that were there.
  size_t read(u64 offset, std::span<u8> to) const;
  /// Copies into the writable part at `offset`; the number of bytes that fitted.
  size_t write(u64 offset, std::span<const u8> from);

  /// Host views of [offset, offset + length) of a part, clipped to it. Valid as long as guest
  /// memory is.
  std::vector<iovec> readable_span(u64 offset, u64 length) const;
  std::vector<iovec> writable_span(u64 offset, u64 length);

  /// Gives the buffers back, with `written` bytes of the writable part filled, and interrupts if
  /// the driver wants that.
  void complete(u64 written);

 private:
  friend class Queue;
  Chain() = default;
  std::vector<Segment> cut(const std::vector<Segment>& part, u64 offset, u64 length) const;
  std::vector<iovec> view(const std::vector<Segment>& part) const;

  Queue* queue_ = nullptr;  ///< null once completed or moved from
  u32 generation_ = 0;
  u16 head_ = 0;
  std::vector<Segment> read_, write_;
  std::vector<Segment> touched_;  ///< what of write_ the device may have written
  u64 readable_ = 0, writable_ = 0;
};

class Queue {
 public:
  /// Longest request in descriptors, indirect ones included. The specification allows the queue's
  /// size; some drivers count an indirect table as one.
  static constexpr unsigned kMaxChain = 1024;
  static constexpr u16 kMaxSize = 1024;

  struct State {
    u16 size = 0;  ///< set to the maximum at reset
    bool enabled = false, broken = false;
    Gpa descriptors = 0, available = 0, used = 0;
    u16 next_available = 0, next_used = 0;
    u16 signalled = 0;  ///< next_used at the last interrupt
    bool signalled_valid = false;
    static void describe(auto& s, auto& v) {
      v.field("size", s.size);
      v.field("enabled", s.enabled);
      v.field("broken", s.broken);
      v.field("descriptors", s.descriptors);
      v.field("available", s.available);
      v.field("used", s.used);
      v.field("next_available", s.next_available);
      v.field("next_used", s.next_used);
      v.field("signalled", s.signalled);
      v.field("signalled_valid", s.signalled_valid);
    }
  };

  /// `interrupt`: the driver wants to know of used buffers. `broke`: see the head of this file.
  Queue(memory::GuestMemory& memory, u16 max_size, std::function<void()> interrupt,
        std::function<void(const char* why)> broke);
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // For devices.
  bool ready() const { return running_ && !state_.broken; }
  /// The next request, or nullopt. With an empty queue, asks the driver to notify again.
  std::optional<Chain> pop();
  /// Puts a request back: the next pop() returns it again. The last one taken only, untouched.
  void give_back(Chain chain);
  /// Takes a request that the device had when its state was saved; nullopt if there can be none.
  std::optional<Chain> retake(u16 head);
  /// While one lives, completed requests are not shown to the driver; then all are, at once, with
  /// one interrupt at most. Does not outlive its queue. They may nest.
  class Batch {
   public:
    explicit Batch(Queue& queue) : queue_(queue) { ++queue_.batches_; }
    ~Batch() {
      if (--queue_.batches_ == 0) queue_.publish();
    }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

   private:
    Queue& queue_;
  };
  /// Requests taken and not yet completed.
  unsigned in_flight() const { return in_flight_; }
  u16 size() const { return state_.size; }

  // For the transport.
  u16 max_size() const { return max_size_; }
  State& setup() { return state_; }  ///< to be changed only while not running
  const State& state() const { return state_; }
  /// Begins to use the rings, with the negotiated features. A bad ring breaks the queue.
  void start(u64 features);
  void stop();
  void reset();
  bool fits(const State& state) const;
  void adopt(const State& state);

 private:
  friend class Chain;
  struct Descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
  };
  void fail(const char* why);
  bool walk(u16 head, Chain& chain);
  bool append(Chain& chain, const Descriptor& d);
  void use(u16 head, u32 written);
  void publish();
  bool wants_interrupt();
  u16 available_index() const;

  memory::GuestMemory& memory_;
  const u16 max_size_;
  std::function<void()> interrupt_;
  std::function<void(const char*)> broke_;
  State state_;
  bool running_ = false, indirect_ = false, event_idx_ = false;
  u32 generation_ = 0;
  unsigned in_flight_ = 0;
  unsigned batches_ = 0;
  bool unpublished_ = false;  ///< next_used is ahead of what the driver sees
  // The rings, while running.
  const u8* descriptors_ = nullptr;
  const u8* available_ = nullptr;
  u8* used_ = nullptr;
};

}  // namespace skerry::virtio
