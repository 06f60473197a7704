// The command line of `skerry`, as pure text processing: nothing is opened or run here but the file
// that --config names.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "cli/ctl.hpp"
#include "cli/image_build.hpp"
#include "cli/ssh.hpp"
#include "schema/machine_spec.hpp"

namespace skerry::cli {

struct RunCommand {
  schema::MachineSpec spec;  ///< valid
};
/// `skerry switch`: list, or show one.
struct SwitchCommand {
  std::string show;  ///< "" list
  bool json = false;
};
struct DoctorCommand {
  bool json = false;
};
/// `skerry image`: everything after it (cli/image.hpp).
struct ImageCommand {
  std::vector<std::string> args;
};
/// Help or version: to be printed on stdout.
struct PrintCommand {
  std::string text;
};
using Command = std::variant<RunCommand, DoctorCommand, ImageCommand, ImageBuildCommand, CtlCommand,
                             PrintCommand, SwitchCommand, SshCommand>;

/// `args` without the program's name. Every Error is a user's mistake.
Result<Command> parse_command(const std::vector<std::string>& args);

/// "skerry 0.1.0\n".
std::string version_text();

}  // namespace skerry::cli
