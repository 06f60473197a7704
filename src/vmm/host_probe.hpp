// What this host can do for virtual machines, and which engine follows from it. The one place of
// that knowledge: `--engine auto` and `skerry doctor` both read it.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::vmm {

/// Facts, read from /proc, /sys and /dev. `root` lets tests put other files in their place.
struct HostFacts {
  std::string cpu_name;
  unsigned cpus = 0;
  u64 memory = 0;                                     ///< bytes, total
  bool vmx = false, svm = false, hypervisor = false;  ///< CPU flags
  bool avx2 = false, avx512 = false;
  bool kvm_module = false;  ///< kvm is loaded or built in
  bool kvm_pvm = false;     ///< a software-only KVM (PVM): cannot run unmodified kernels
  bool kvm_device = false;
  int kvm_open_errno = 0;  ///< of opening /dev/kvm read-write, 0: works
  int kvm_api = 0;         ///< 12 on every kernel since 2.6.22
};
HostFacts probe_host(const std::string& root = "");

/// One line of the doctor's findings.
struct Finding {
  enum class Level { good, note, problem } level = Level::good;
  std::string what;
  std::string mend;  ///< the exact command or setting, or empty
};

struct Verdict {
  schema::EngineChoice engine = schema::EngineChoice::soft;  ///< kvm or soft
  std::string why;
  std::vector<Finding> findings;
};
Verdict judge(const HostFacts& facts);

std::string doctor_text(const HostFacts& facts, const Verdict& verdict);
std::string doctor_json(const HostFacts& facts, const Verdict& verdict);

}  // namespace skerry::vmm
