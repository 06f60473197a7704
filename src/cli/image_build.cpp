#include "cli/image_build.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>

#include "cli/parsing.hpp"
#include "schema/text.hpp"

namespace skerry::cli {

namespace {

constexpr std::string_view kReleases[] = {"debian-12", "debian-13"};

/// Debian policy, 5.6.1, and what apt takes behind a name: =VERSION, /SUITE, :ARCHITECTURE.
Result<> check_packages(std::string_view list) {
  while (!list.empty()) {
    size_t comma = std::min(list.find(','), list.size());
    auto name = list.substr(0, comma);
    constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyz0123456789+-.:=~/";
    bool starts =
        !name.empty() && ((name[0] >= 'a' && name[0] <= 'z') || (name[0] >= '0' && name[0] <= '9'));
    if (!starts || name.find_first_not_of(allowed) != name.npos) {
      return fail_hint("write their names with commas between them, as --packages vim,curl",
                       "--packages: '{}' is no package", name);
    }
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return {};
}

Result<> check_mirror(std::string_view url) {
  bool known = url.starts_with("http://") || url.starts_with("https://");
  if (known && url.find_first_of(" \t\n[]\"'\\|") == url.npos) return {};
  return fail_hint("give a URL, as http://deb.debian.org/debian", "--mirror: '{}' is no mirror",
                   url);
}

}  // namespace

std::string image_build_help() {
  return "Usage: skerry image build RELEASE -o FILE [OPTIONS]\n\n"
         "Makes a disk with a whole Debian system: systemd, cloud-init, ssh server, guest agent, "
         "serial\nconsole. Boot it with: skerry run --boot-from-disk --disk path=FILE --memory 1G\n"
         "The packages come from where the host's own apt gets them.\n\n" +
         wrapped("RELEASE", schema::join(kReleases, " or ")) +
         wrapped("-o, --output FILE",
                 "the disk image: qcow2 if its name ends so, else raw, sparse") +
         wrapped("--size SIZE", "of the disk (default 4G)") +
         wrapped("--packages A,B...", "further packages") +
         wrapped("--mirror URL", "get the packages from there") +
         wrapped("--no-autologin",
                 "ask for a password on the serial console; without this it is root's");
}

Result<std::optional<ImageBuildCommand>> parse_image_build(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "-h" || args[0] == "--help") return std::nullopt;
  if (args[0] != "build") {
    constexpr std::string_view known[] = {"build"};
    return std::unexpected(schema::unknown_word("image command", args[0], known));
  }
  CLI::App app;
  ImageBuildCommand command;
  std::string size;
  auto once = [](CLI::Option* option) {
    option->type_size(1)->expected(1)->allow_extra_args(false);
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  };
  bool plain_console = false;
  app.add_option("RELEASE", command.release);
  once(app.add_option("-o,--output", command.output));
  once(app.add_option("--size", size));
  once(app.add_option("--packages", command.packages));
  once(app.add_option("--mirror", command.mirror));
  app.add_flag("--no-autologin", plain_console);
  if (TRY(split(app, {args.begin() + 1, args.end()}, "image"))) return std::nullopt;

  command.autologin = !plain_console;
  if (command.release.empty()) {
    return fail_hint("write: skerry image build debian-12 -o debian.raw", "no release is named");
  }
  if (std::find(std::begin(kReleases), std::end(kReleases), command.release) ==
      std::end(kReleases)) {
    return std::unexpected(schema::unknown_word("release", command.release, kReleases));
  }
  if (command.output.empty()) {
    return fail_hint(fmt::format("add -o {}.raw", command.release), "no file to write is named");
  }
  if (!size.empty()) {
    constexpr schema::Field field{.name = "--size", .doc = "", .min = 1 * GiB, .max = 16384 * GiB};
    TRY_VOID(schema::value_from_text(field, size, command.size));
    if (command.size.count % MiB != 0) return fail("--size: {} is not a whole number of MiB", size);
  }
  TRY_VOID(check_packages(command.packages));
  if (!command.mirror.empty()) TRY_VOID(check_mirror(command.mirror));
  return command;
}

std::vector<std::string> image_build_arguments(const ImageBuildCommand& command,
                                               const std::string& skerry) {
  return {command.release,
          command.output,
          fmt::format("{}", command.size.count),
          command.packages,
          command.mirror,
          command.autologin ? "yes" : "no",
          skerry};
}

}  // namespace skerry::cli
