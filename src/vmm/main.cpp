// skerry-vmm: the process of one VM. Started by `skerry run` (or, later, by skerryd), seldom by
// hand:
//   skerry-vmm --spec-fd N       a MachineSpec as JSON on descriptor N
//   skerry-vmm --doctor [--json] what this host can do
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "schema/exit_status.hpp"
#include "vmm/host_probe.hpp"
#include "vmm/session.hpp"

namespace {

using namespace skerry;

constexpr const char* kUsage =
    "usage: skerry-vmm --spec-fd N | --doctor [--json]\n"
    "  This program runs one virtual machine for `skerry run`; use that instead.\n";

int doctor(bool json) {
  vmm::HostFacts facts = vmm::probe_host();
  vmm::Verdict verdict = vmm::judge(facts);
  std::string text = json ? vmm::doctor_json(facts, verdict) : vmm::doctor_text(facts, verdict);
  std::fputs(text.c_str(), stdout);
  return schema::exit_power_off;
}

int run(std::string_view number) {
  int fd = -1;
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), fd);
  if (error != std::errc{} || end != number.data() + number.size() || fd < 0) {
    std::fputs(kUsage, stderr);
    return schema::exit_usage;
  }
  auto text = read_file(fmt::format("/proc/self/fd/{}", fd), 16 * MiB);
  schema::MachineSpec spec;
  Result<> read;
  if (!text) {
    read = std::unexpected(std::move(text.error()));
  } else {
    read = schema::merge_json_text(*text, "the spec", spec);
  }
  if (read) read = schema::validate(spec);
  if (!read) {
    std::fprintf(stderr, "skerry: %s\n", read.error().message().c_str());
    return schema::exit_usage;
  }
  return vmm::run_session(spec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--spec-fd") return run(argv[2]);
  if (argc >= 2 && std::string_view(argv[1]) == "--doctor")
    return doctor(argc >= 3 && std::string_view(argv[2]) == "--json");
  std::fputs(kUsage, stderr);
  return schema::exit_usage;
}
