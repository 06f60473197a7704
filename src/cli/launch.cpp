#include "cli/launch.hpp"

#include <cstdlib>
#include <filesystem>
#include <span>

#include <sys/mman.h>
#include <unistd.h>

namespace skerry::cli {

Result<Fd> spec_fd(const schema::MachineSpec& spec) {
  std::string text = schema::to_json_text(spec);
  Fd fd(memfd_create("skerry-spec", 0));
  if (!fd) return fail_errno("cannot make a memfd for the machine's description");
  TRY_VOID(write_all(fd.get(), {reinterpret_cast<const u8*>(text.data()), text.size()}));
  if (lseek(fd.get(), 0, SEEK_SET) != 0) return fail_errno("cannot rewind a memfd");
  return fd;
}

Result<std::filesystem::path> self_path(std::string hint) {
  std::error_code failed;
  auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (failed) return fail_hint(hint, "cannot read /proc/self/exe: {}", failed.message());
  return self;
}

Result<std::string> find_shared(std::string_view name) {
  auto self = TRY(self_path("mount /proc"));
  auto path = self.parent_path().parent_path() / "share/skerry" / name;
  if (access(path.c_str(), R_OK) == 0) return path.string();
  return fail_hint("build or install Skerry again: it belongs beside the program", "no {} at {}",
                   name, path.string());
}

namespace {

Result<std::string> find_program(const std::string& name, const std::string& variable) {
  if (const char* named = std::getenv(variable.c_str()); named && *named) return std::string(named);
  auto self =
      TRY(self_path(fmt::format("mount /proc, or set {} to the path of {}", variable, name)));
  auto beside = self.parent_path() / name;
  auto lib = self.parent_path().parent_path() / "lib/skerry" / name;
  for (const auto& path : {beside, lib}) {
    if (access(path.c_str(), X_OK) == 0) return path.string();
  }
  return fail_hint(
      fmt::format("build it (cmake --build build/release), or set {} to its path", variable),
      "no {} at {} nor at {}", name, beside.string(), lib.string());
}

}  // namespace

Result<std::string> find_vmm() {
  return find_program("skerry-vmm", "SKERRY_VMM");
}

Result<std::string> find_switch() {
  return find_program("skerry-switch", "SKERRY_SWITCH");
}

Error exec_program(const std::string& program, const std::vector<std::string>& args) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const auto& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return fail_errno("cannot run " + program).error();
}

}  // namespace skerry::cli
