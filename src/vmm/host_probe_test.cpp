#include "vmm/host_probe.hpp"

#include <gtest/gtest.h>

namespace skerry::vmm {
namespace {

HostFacts hardware_host() {
  HostFacts f;
  f.cpus = 4;
  f.vmx = f.avx2 = f.kvm_module = f.kvm_device = true;
  f.kvm_api = 12;
  return f;
}

TEST(Judge, takes_kvm_only_where_it_runs_any_kernel) {
  EXPECT_EQ(judge(hardware_host()).engine, schema::EngineChoice::kvm);
  HostFacts pvm = hardware_host();
  pvm.vmx = false;
  pvm.kvm_pvm = true;
  EXPECT_EQ(judge(pvm).engine, schema::EngineChoice::soft);
  pvm.vmx = true;
  EXPECT_EQ(judge(pvm).engine, schema::EngineChoice::soft);
  EXPECT_EQ(judge(HostFacts{}).engine, schema::EngineChoice::soft);
}

TEST(Judge, says_the_command_that_mends) {
  HostFacts f = hardware_host();
  f.kvm_open_errno = EACCES;
  Verdict v = judge(f);
  EXPECT_EQ(v.engine, schema::EngineChoice::soft);
  EXPECT_NE(doctor_text(f, v).find("usermod -aG kvm"), std::string::npos);
  f.kvm_device = false;
  EXPECT_NE(doctor_json(f, judge(f)).find("modprobe kvm_intel"), std::string::npos);
}

TEST(ProbeHost, reads_this_host) {
  HostFacts f = probe_host();
  EXPECT_GE(f.cpus, 1u);
  EXPECT_GT(f.memory, 64 * MiB);
  EXPECT_FALSE(f.cpu_name.empty());
  EXPECT_EQ(probe_host("/nonexistent").cpus, 0u);
}

}  // namespace
}  // namespace skerry::vmm
