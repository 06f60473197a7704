#include "engine/soft/room.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace skerry::soft {
namespace {
// Where an instance is stored: the users', one for each kind of supervisor, the empty one.
constexpr u32 kStored = Tlbs::kSpaces + 3;
constexpr u32 stored(u32 k) {
  if (k == Tlbs::kNone) return kStored - 1;
  const u32 kind = k % Tlbs::kKinds;
  return kind == Tlbs::user ? k / Tlbs::kKinds : Tlbs::kSpaces + kind - 1;
}
}  // namespace

Room::Room() {
  Fd fd(::memfd_create("skerry-cpu", MFD_CLOEXEC));
  const u64 total = kCpuSize + kStored * kInstanceSize;
  SKERRY_CHECK(fd && ::ftruncate(fd.get(), static_cast<off_t>(total)) == 0,
               "out of memory for the software engine");
  size_ = Tlbs::kInstances * kViewSize;
  void* at = ::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SKERRY_CHECK(at != MAP_FAILED, "out of address space for the software engine");
  start_ = static_cast<u8*>(at);
  auto map = [&](u8* to, u64 size, u64 offset) {
    void* done = ::mmap(to, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd.get(),
                        static_cast<off_t>(offset));
    SKERRY_CHECK(done != MAP_FAILED, "out of memory for the software engine");
  };
  cpu_ = reinterpret_cast<Cpu*>(start_ + kCpuSize - sizeof(Cpu));
  std::array<Instance*, Tlbs::kInstances> instances;
  for (u32 k = 0; k < Tlbs::kInstances; ++k) {
    u8* view = start_ + k * kViewSize;
    map(view, kCpuSize, 0);
    map(view + kCpuSize, kInstanceSize, kCpuSize + stored(k) * kInstanceSize);
    instances[k] = reinterpret_cast<Instance*>(view + kCpuSize);
  }
  new (cpu_) Cpu;
  cpu_->tlb.instance = instances;
  cpu_->tlb.last_use[0] = cpu_->tlb.uses = 1;
  cpu_->tlb.current = cpu_->tlb.context = &cpu_->tlb.of(Tlbs::supervisor_ac);
}

Room::~Room() {
  cpu_->~Cpu();
  ::munmap(start_, size_);
}

}  // namespace skerry::soft
