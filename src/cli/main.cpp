// `skerry`: the command line.
#include <cstdio>

#include "cli/image.hpp"
#include "cli/launch.hpp"
#include "cli/run_options.hpp"
#include "schema/exit_status.hpp"

using namespace skerry;

namespace {

int complain(const Error& error, int status) {
  std::fprintf(stderr, "skerry: %s\n", error.message().c_str());
  return status;
}

int become_vmm(const std::vector<std::string>& args) {
  auto vmm = cli::find_vmm();
  if (!vmm) return complain(vmm.error(), schema::exit_host);
  return complain(cli::exec_program(*vmm, args), schema::exit_host);
}

int run(const cli::RunCommand& command) {
  auto fd = cli::spec_fd(command.spec);
  if (!fd) return complain(fd.error(), schema::exit_host);
  return become_vmm({"--spec-fd", fmt::format("{}", fd->get())});
}

int image_build(const cli::ImageBuildCommand& command) {
  auto script = cli::find_shared("image-build");
  if (!script) return complain(script.error(), schema::exit_host);
  auto self = cli::self_path("mount /proc");
  if (!self) return complain(self.error(), schema::exit_host);
  return complain(cli::exec_program(*script, cli::image_build_arguments(command, self->string())),
                  schema::exit_host);
}

int doctor(const cli::DoctorCommand& command) {
  std::vector<std::string> args{"--doctor"};
  if (command.json) args.push_back("--json");
  return become_vmm(args);
}

int show_switches(const cli::SwitchCommand& command) {
  auto program = cli::find_switch();
  if (!program) return complain(program.error(), schema::exit_host);
  std::vector<std::string> args{"list"};
  if (!command.show.empty()) args = {"show", command.show};
  if (command.json) args.push_back("--json");
  return complain(cli::exec_program(*program, args), schema::exit_host);
}

}  // namespace

int main(int argc, char** argv) {
  auto command = cli::parse_command({argv + 1, argv + argc});
  if (!command) return complain(command.error(), schema::exit_usage);
  if (auto* print = std::get_if<cli::PrintCommand>(&*command)) {
    // A full disk or a closed pipe must not look like success.
    bool printed = std::fputs(print->text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
    return printed ? 0 : schema::exit_host;
  }
  if (auto* ctl = std::get_if<cli::CtlCommand>(&*command)) return cli::run_ctl(*ctl);
  if (auto* ssh = std::get_if<cli::SshCommand>(&*command)) return cli::run_ssh(*ssh);
  if (auto* build = std::get_if<cli::ImageBuildCommand>(&*command)) return image_build(*build);
  if (auto* image = std::get_if<cli::ImageCommand>(&*command)) return cli::run_image(image->args);
  if (auto* asked = std::get_if<cli::DoctorCommand>(&*command)) return doctor(*asked);
  if (auto* switches = std::get_if<cli::SwitchCommand>(&*command)) return show_switches(*switches);
  return run(std::get<cli::RunCommand>(*command));
}
