// The KVM ioctls that Skerry uses, by file descriptor. Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <cerrno>

#include "base/fd.hpp"

namespace skerry::kvm {

// <linux/kvm.h> of some distributions gives structures that end in a flexible array another size in
// C++ than in C, and so ioctl numbers that the kernel refuses. These are made from the fixed parts.
namespace number {
constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
constexpr unsigned long kSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6a, 8);
constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
}  // namespace number

/// ioctl that rides over EINTR; the error names `what`.
template <class Arg>
Result<int> call(int fd, unsigned long number, Arg arg, std::string_view what) {
  int r;
  do {
    r = ::ioctl(fd, number, arg);
  } while (r < 0 && errno == EINTR);
  if (r < 0) return fail_errno(fmt::format("KVM refuses {}", what));
  return r;
}

struct MsrValue {
  u32 index;
  u64 value;
};

// The layouts that the numbers above stand for.
struct MsrList {
  u32 count;
  u32 indices[1024];
};
struct MsrBlock {
  u32 count, pad;
  kvm_msr_entry entries[64];
};
struct CpuidBlock {
  u32 count, pad;
  kvm_cpuid_entry2 entries[256];
};

}  // namespace skerry::kvm
