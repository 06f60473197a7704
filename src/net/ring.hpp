// Ring: frames from one process to another through shared memory, one writer and one reader.
//
// The memory is shared with a process that may be hostile: each side keeps its own index to itself,
// takes from the other side's only values that make sense, and reads every length once. What makes
// none breaks the ring for good; the owner then drops the connection. The memory must be sealed
// against shrinking (make_shared_rings does), so that touching it cannot fault.
//
// Layout: a Control, then kRingBytes of records. A record is a RecordHeader and the frame, padded
// to 16 bytes, and never wraps: a header with length kSkip means "go on at the start".
//
// Waking: a reader that finds nothing sets `idle` and looks again; a writer that finds no room sets
// `full` and looks again. The other side then signals the eventfd that the two share.
//
// Threading: one thread per side.
#pragma once

#include <atomic>
#include <optional>

#include "base/bits.hpp"
#include "base/fd.hpp"
#include "net/port.hpp"

namespace skerry::net {

constexpr u32 kRingBytes = 4 * MiB;

struct RingControl {
  alignas(64) std::atomic<u32> head{0};  ///< bytes ever written, modulo 2^32
  alignas(64) std::atomic<u32> tail{0};  ///< bytes ever read
  alignas(64) std::atomic<u32> idle{0};
  alignas(64) std::atomic<u32> full{0};
};
struct RecordHeader {
  static constexpr u32 kSkip = ~u32{0};
  std::atomic<u32> length;
  Offload offload;
  u16 reserved;
};
static_assert(sizeof(RingControl) == 256 && sizeof(RecordHeader) == 16);

constexpr size_t kRingSize = 4096 + kRingBytes;

class RingWriter {
 public:
  RingWriter() = default;
  explicit RingWriter(u8* ring) : ring_(ring) {}
  /// The frame in two parts. False: no room, and `full` is set; or broken.
  bool write(const Offload& offload, std::span<const u8> first, std::span<const u8> rest = {});
  /// True: the reader is asleep and must be signalled.
  bool reader_idle();
  bool broken() const { return broken_; }

 private:
  RingControl& control() { return *reinterpret_cast<RingControl*>(ring_); }
  bool has_room(u32 bytes);
  u8* ring_ = nullptr;
  u32 head_ = 0;
  bool broken_ = false;
};

class RingReader {
 public:
  struct Record {
    Offload offload;
    std::span<const u8> frame;  ///< shared memory: the writer may still change it
  };
  RingReader() = default;
  explicit RingReader(u8* ring) : ring_(ring) {}
  /// The next frame, which stays until pop(); nullopt: nothing (`idle` is set then) or broken.
  std::optional<Record> peek();
  void pop();
  /// After pop(): true: the writer waits for room and there is a good deal of it now.
  bool writer_waits();
  bool broken() const { return broken_; }

 private:
  RingControl& control() { return *reinterpret_cast<RingControl*>(ring_); }
  u8* ring_ = nullptr;
  u32 tail_ = 0, next_ = 0;
  bool broken_ = false;
};

/// Two rings in one memfd: to the switch, then from it.
class SharedRings {
 public:
  static Result<SharedRings> make();
  /// Maps what another process made. Refuses what can still shrink.
  static Result<SharedRings> adopt(Fd fd);
  SharedRings() = default;
  SharedRings(SharedRings&& other) noexcept
      : fd_(std::move(other.fd_)), base_(std::exchange(other.base_, nullptr)) {}
  SharedRings& operator=(SharedRings&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(base_, other.base_);
    return *this;
  }
  ~SharedRings();
  int fd() const { return fd_.get(); }
  u8* to_switch() const { return base_; }
  u8* from_switch() const { return base_ + kRingSize; }

 private:
  Result<> map();
  Fd fd_;
  u8* base_ = nullptr;
};

}  // namespace skerry::net
