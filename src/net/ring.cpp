#include "net/ring.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace skerry::net {

namespace {

constexpr u32 padded(size_t frame) {
  return static_cast<u32>(align_up(sizeof(RecordHeader) + frame, 16));
}
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
u8* record_at(u8* ring, u32 index) {
  return ring + 4096 + index % kRingBytes;
}

}  // namespace

bool RingWriter::has_room(u32 bytes) {
  u32 used = head_ - control().tail.load(std::memory_order_acquire);
  if (used > kRingBytes || used % 16) {
    broken_ = true;
    return false;
  }
  return kRingBytes - used >= bytes;
}

bool RingWriter::write(const Offload& offload, std::span<const u8> first,
                       std::span<const u8> rest) {
  if (broken_) return false;
  size_t length = first.size() + rest.size();
  SKERRY_DCHECK(length <= kMaxFrame);
  u32 bytes = padded(length), to_end = kRingBytes - head_ % kRingBytes;
  u32 needed = bytes > to_end ? to_end + bytes : bytes;
  if (!has_room(needed)) {
    if (broken_) return false;
    control().full.store(1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!has_room(needed)) return false;
    control().full.store(0, std::memory_order_relaxed);
  }
  if (bytes > to_end) {
    reinterpret_cast<RecordHeader*>(record_at(ring_, head_))
        ->length.store(RecordHeader::kSkip, std::memory_order_relaxed);
    head_ += to_end;
  }
  u8* at = record_at(ring_, head_);
  auto* header = reinterpret_cast<RecordHeader*>(at);
  header->length.store(static_cast<u32>(length), std::memory_order_relaxed);
  header->offload = offload;
  if (!first.empty()) std::memcpy(at + sizeof(RecordHeader), first.data(), first.size());
  if (!rest.empty())
    std::memcpy(at + sizeof(RecordHeader) + first.size(), rest.data(), rest.size());
  head_ += bytes;
  control().head.store(head_, std::memory_order_release);
  return true;
}

bool RingWriter::reader_idle() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return control().idle.load(std::memory_order_relaxed) && control().idle.exchange(0);
}

std::optional<RingReader::Record> RingReader::peek() {
  for (bool told = false;;) {
    if (broken_) return std::nullopt;
    u32 there = control().head.load(std::memory_order_acquire) - tail_;
    if (there > kRingBytes || there % 16) {
      broken_ = true;
      return std::nullopt;
    }
    if (there == 0) {
      if (told) return std::nullopt;
      told = true;
      control().idle.store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      continue;
    }
    if (told) {
      control().idle.store(0, std::memory_order_relaxed);
      told = false;
    }
    u8* at = record_at(ring_, tail_);
    u32 to_end = kRingBytes - tail_ % kRingBytes;
    auto* header = reinterpret_cast<RecordHeader*>(at);
    u32 length = header->length.load(std::memory_order_relaxed);
    if (length == RecordHeader::kSkip && to_end < kRingBytes && there > to_end) {
      tail_ += to_end;
      control().tail.store(tail_, std::memory_order_release);
      continue;
    }
    if (length > kMaxFrame || padded(length) > there || padded(length) > to_end) {
      broken_ = true;
      return std::nullopt;
    }
    next_ = tail_ + padded(length);
    return Record{header->offload, {at + sizeof(RecordHeader), length}};
  }
}

void RingReader::pop() {
  tail_ = next_;
  control().tail.store(tail_, std::memory_order_release);
}

bool RingReader::writer_waits() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!control().full.load(std::memory_order_relaxed)) return false;
  // In bursts rather than frame by frame.
  if (control().head.load(std::memory_order_relaxed) - tail_ > kRingBytes / 2) return false;
  return control().full.exchange(0) != 0;
}

Result<> SharedRings::map() {
  void* at = ::mmap(nullptr, 2 * kRingSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (at == MAP_FAILED) return fail_errno("cannot map the switch's rings");
  base_ = static_cast<u8*>(at);
  return {};
}

Result<SharedRings> SharedRings::make() {
  SharedRings rings;
  rings.fd_ = Fd(::memfd_create("skerry-switch", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!rings.fd_) return fail_errno("cannot make the switch's rings");
  if (::ftruncate(rings.fd_.get(), 2 * kRingSize) < 0 ||
      ::fcntl(rings.fd_.get(), F_ADD_SEALS, kSeals) < 0)
    return fail_errno("cannot make the switch's rings");
  TRY_VOID(rings.map());
  return rings;
}

Result<SharedRings> SharedRings::adopt(Fd fd) {
  SharedRings rings;
  struct stat file {};
  int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK) || ::fstat(fd.get(), &file) < 0 ||
      file.st_size != static_cast<off_t>(2 * kRingSize))
    return fail("the switch's rings are not what they should be");
  rings.fd_ = std::move(fd);
  TRY_VOID(rings.map());
  return rings;
}

SharedRings::~SharedRings() {
  if (base_) ::munmap(base_, 2 * kRingSize);
}

}  // namespace skerry::net
