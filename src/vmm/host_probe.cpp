#include "vmm/host_probe.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

namespace skerry::vmm {
namespace {

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

void read_cpuinfo(const std::string& text, HostFacts& facts) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string value = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
    if (line.starts_with("processor")) ++facts.cpus;
    if (line.starts_with("model name")) facts.cpu_name = value;
    if (!line.starts_with("flags")) continue;
    std::istringstream flags(value);
    for (std::string flag; flags >> flag;) {
      facts.vmx |= flag == "vmx";
      facts.svm |= flag == "svm";
      facts.hypervisor |= flag == "hypervisor";
      facts.avx2 |= flag == "avx2";
      facts.avx512 |= flag == "avx512f";
    }
  }
}

const char* level_name(Finding::Level level) {
  switch (level) {
    case Finding::Level::good: return "ok";
    case Finding::Level::note: return "note";
    case Finding::Level::problem: return "problem";
  }
  return "";
}

}  // namespace

HostFacts probe_host(const std::string& root) {
  HostFacts facts;
  if (auto text = read_file(root + "/proc/cpuinfo")) read_cpuinfo(*text, facts);
  if (auto text = read_file(root + "/proc/meminfo")) {
    unsigned long long kib = 0;
    if (std::sscanf(text->c_str(), "MemTotal: %llu kB", &kib) == 1) facts.memory = kib * KiB;
  }
  facts.kvm_module = exists(root + "/sys/module/kvm");
  facts.kvm_pvm = exists(root + "/sys/module/kvm_pvm");
  std::string device = root + "/dev/kvm";
  facts.kvm_device = exists(device);
  if (facts.kvm_device) {
    Fd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    facts.kvm_open_errno = fd ? 0 : errno;
    if (fd) facts.kvm_api = ::ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  }
  return facts;
}

Verdict judge(const HostFacts& f) {
  using enum Finding::Level;
  Verdict v;
  auto add = [&](Finding::Level level, std::string what, std::string mend = "") {
    v.findings.push_back({level, std::move(what), std::move(mend)});
  };
  const bool hardware = f.vmx || f.svm;
  if (hardware) {
    add(good, fmt::format("the CPU offers hardware virtualization ({})", f.vmx ? "vmx" : "svm"));
  } else if (f.hypervisor) {
    add(note,
        "the CPU offers no hardware virtualization: this host is itself a virtual machine or "
        "container",
        "if you control the outer hypervisor, switch on nested virtualization there");
  } else {
    add(note, "the CPU offers no hardware virtualization",
        "look for VT-x or SVM in the firmware's setup and switch it on");
  }
  if (f.kvm_pvm)
    add(note, "KVM here is a software-only variant (kvm_pvm), which cannot run unmodified kernels");
  if (!f.kvm_device) {
    add(hardware ? problem : note, "/dev/kvm does not exist",
        hardware ? (f.vmx ? "sudo modprobe kvm_intel" : "sudo modprobe kvm_amd") : "");
  } else if (f.kvm_open_errno == EACCES || f.kvm_open_errno == EPERM) {
    add(hardware ? problem : note, "no permission to use /dev/kvm",
        hardware ? "sudo usermod -aG kvm $USER   (then log in again)" : "");
  } else if (f.kvm_open_errno) {
    add(problem, fmt::format("/dev/kvm cannot be opened: {}", std::strerror(f.kvm_open_errno)));
  } else if (f.kvm_api != 12) {
    add(problem, fmt::format("/dev/kvm has API version {}, not 12", f.kvm_api));
  } else {
    add(good, "/dev/kvm can be used");
  }
  bool usable = f.kvm_device && f.kvm_open_errno == 0 && f.kvm_api == 12;
  if (hardware && usable && !f.kvm_pvm) {
    v.engine = schema::EngineChoice::kvm;
    v.why = "hardware virtualization and /dev/kvm are there";
  } else if (!hardware) {
    v.why = "there is no hardware virtualization on this host";
  } else if (f.kvm_pvm) {
    v.why = "this host's KVM cannot run unmodified kernels";
  } else {
    v.why = "/dev/kvm cannot be used";
  }
  add(good, "the software engine runs on this host");
  if (!f.avx2) add(note, "the host CPU has no AVX2: guests get at most the CPU model x86-64-v2");
  return v;
}

std::string doctor_text(const HostFacts& f, const Verdict& v) {
  std::string text =
      fmt::format("Host: {}, {} CPUs, {} MiB of memory\n", f.cpu_name, f.cpus, f.memory / MiB);
  text += fmt::format("Engine that --engine auto takes: {}, because {}\n\n",
                      schema::name_of(v.engine), v.why);
  for (const Finding& finding : v.findings) {
    text += fmt::format("  {:<8}{}\n", level_name(finding.level), finding.what);
    if (!finding.mend.empty()) text += fmt::format("          mend it: {}\n", finding.mend);
  }
  return text;
}

std::string doctor_json(const HostFacts& f, const Verdict& v) {
  nlohmann::ordered_json j;
  j["engine"] = schema::name_of(v.engine);
  j["why"] = v.why;
  j["host"] = {{"cpu", f.cpu_name},   {"cpus", f.cpus},     {"memory_bytes", f.memory},
               {"vmx", f.vmx},        {"svm", f.svm},       {"is_virtual_machine", f.hypervisor},
               {"avx2", f.avx2},      {"avx512", f.avx512}, {"kvm_device", f.kvm_device},
               {"kvm_pvm", f.kvm_pvm}};
  j["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : v.findings)
    j["findings"].push_back(
        {{"level", level_name(finding.level)}, {"what", finding.what}, {"mend", finding.mend}});
  return j.dump(2) + "\n";
}

}  // namespace skerry::vmm
