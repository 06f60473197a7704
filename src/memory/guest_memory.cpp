#include "memory/guest_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

namespace skerry::memory {

DirtyMap::DirtyMap(u64 bytes)
    : pages_((bytes + kPageSize - 1) / kPageSize),
      words_((pages_ + 63) / 64),
      descriptors_(
          static_cast<PageDescriptor*>(std::calloc(pages_ ? pages_ : 1, sizeof(PageDescriptor)))) {
  // All-zero bytes are a valid PageDescriptor: lock-free atomics have no other state.
  static_assert(std::atomic<u64>::is_always_lock_free && sizeof(PageDescriptor) == 16);
  SKERRY_CHECK(descriptors_ != nullptr, "out of memory for the page descriptors");
}

std::vector<u64> DirtyMap::take() {
  std::vector<u64> bits(words_.size());
  for (size_t i = 0; i < bits.size(); ++i)
    bits[i] = words_[i].exchange(0, std::memory_order_acq_rel);
  if (taken) taken();
  return bits;
}

void DirtyMap::code_written(u64 page, u64 first, u64 last) {
  u64 start = page * kPageSize;
  unsigned low = first > start ? static_cast<unsigned>((first - start) / 64) : 0;
  unsigned high = last - start >= kPageSize ? 63 : static_cast<unsigned>((last - start) / 64);
  u64 mask = (~u64{0} << low) & (~u64{0} >> (63 - high));
  PageDescriptor& code = descriptors_[page];
  if (!(code.granules.load(std::memory_order_relaxed) & mask)) return;
  // The whole page is forgotten: engines mark it again when they check what they decoded from it.
  code.granules.store(0, std::memory_order_seq_cst);
  code.version.fetch_add(1, std::memory_order_seq_cst);
  if (code_changed) code_changed(page);
}

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(u64 bytes) {
  if (bytes == 0 || bytes > 1024 * GiB)
    return fail("a guest can have from 4 KiB to 1 TiB of memory");
  std::unique_ptr<GuestMemory> memory(new GuestMemory);
  u64 size = memory->ram_size_ = align_up(bytes, kPageSize);
  memory->fd_ = Fd(::memfd_create("skerry-ram", MFD_CLOEXEC));
  if (!memory->fd_) return fail_errno("cannot create guest memory");
  if (::ftruncate(memory->fd_.get(), static_cast<off_t>(size)) < 0)
    return fail_errno(fmt::format("cannot make {} MiB of guest memory", size / MiB));
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      memory->fd_.get(), 0);
  if (base == MAP_FAILED)
    return fail_errno(fmt::format("cannot map {} MiB of guest memory", size / MiB));
  memory->base_ = static_cast<u8*>(base);
  u64 low = std::min<u64>(size, kHoleStart);
  memory->slots_.push_back({0, low, memory->base_, 0, true});
  if (size > low)
    memory->slots_.push_back({kHighStart, size - low, memory->base_ + low, low, true});
  memory->dirty_ = std::make_unique<DirtyMap>(size);
  return memory;
}

GuestMemory::~GuestMemory() {
  if (base_) ::munmap(base_, ram_size_);
}

const Slot* GuestMemory::slot_of(Gpa at) const {
  for (const Slot& s : slots_)
    if (at >= s.start && at - s.start < s.size) return &s;
  return nullptr;
}

void GuestMemory::mark_dirty(Gpa at, u64 length) {
  if (const Slot* s = slot_of(at)) dirty_->mark(s->offset + (at - s->start), length);
}

bool GuestMemory::read(Gpa at, std::span<u8> to) const {
  const u8* from = host(at, to.size());
  if (!from) return false;
  if (!to.empty()) std::memcpy(to.data(), from, to.size());  // an empty span may have no address
  return true;
}

bool GuestMemory::write(Gpa at, std::span<const u8> from) {
  const Slot* s = slot_of(at);
  u8* to = host(at, from.size());
  if (!s || !to || !s->writable) return false;
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
  dirty_->mark(s->offset + (at - s->start), from.size());
  return true;
}

bool GuestMemory::fill(Gpa at, u8 value, u64 length) {
  const Slot* s = slot_of(at);
  u8* to = host(at, length);
  if (!s || !to || !s->writable) return false;
  std::memset(to, value, length);
  dirty_->mark(s->offset + (at - s->start), length);
  return true;
}

}  // namespace skerry::memory
