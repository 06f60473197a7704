// CLI11 splits the arguments; which options `skerry run` has, their help and their meaning come
// from MachineSpec::describe, so that a new field there is an option here.
#include "cli/run_options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <map>

#include "base/fd.hpp"
#include "base/log.hpp"
#include "cli/image.hpp"
#include "cli/parsing.hpp"
#include "schema/help.hpp"

namespace skerry::cli {
namespace {

using schema::Field;
using schema::FieldHelp;
using schema::MachineSpec;

constexpr u64 max_config_bytes = 1 * MiB;

/// Puts what stands on the command line into the fields of a Spec.
class OptionReader {
 public:
  using Given = std::map<std::string, std::vector<std::string>, std::less<>>;
  explicit OptionReader(const Given& given) : given_(given) {}

  template <class T>
  void field(const Field& field, T& value) {
    auto at = given_.find(field.name);
    if (at == given_.end() || !result_) return;
    const auto& texts = at->second;
    if constexpr (schema::is_vector<T>::value) {
      value.clear();
      for (const auto& text : texts)
        if (!read_one(field, text, value.emplace_back())) return;
    } else {
      read_one(field, texts.back(), value);
    }
  }
  const Result<>& result() const { return result_; }

 private:
  template <class T>
  bool read_one(const Field& field, const std::string& text, T& value) {
    Result<> read;
    if constexpr (schema::Described<T>) {
      auto parsed = schema::from_text<T>(text);
      if (parsed) {
        value = std::move(*parsed);
      } else {
        read = std::unexpected(std::move(parsed.error()));
      }
    } else {
      read = schema::value_from_text(field, text, value);
    }
    if (!read) refuse(field, std::move(read.error()));
    return read.has_value();
  }
  static std::string option_of(const Field& field) {
    std::string name = "--" + std::string(field.option.empty() ? field.name : field.option);
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
  }
  // "cpus: 0 is out of range" -> "--cpus: 0 is out of range".
  void refuse(const Field& field, Error error) {
    std::string option = option_of(field);
    if (error.what.starts_with(std::string(field.name) + ":")) {
      error.what = option + error.what.substr(field.name.size());
    } else {
      error = std::move(error).in(option);
    }
    result_ = std::unexpected(std::move(error));
  }

  const Given& given_;
  Result<> result_;
};

std::string main_help() {
  return "Skerry runs virtual machines.\n\n"
         "Usage: skerry COMMAND [OPTIONS]\n\n" +
         wrapped("run", "boot a machine in the foreground") +
         wrapped("ctl", "command a running machine: pause, reset, statistics, console...") +
         wrapped("ssh", "a shell or a command in a running machine") +
         wrapped("image build", "make the disk of a whole Debian system") +
         wrapped("image VERB", "make, look at, convert and mend disk images") +
         wrapped("doctor", "what this host can do for Skerry, and how to improve it") +
         wrapped("switch list|show NAME", "virtual switches between machines") +
         wrapped("help [COMMAND]", "this text, or a command's options") +
         wrapped("--version", "the version") +
         "\nA first machine:\n"
         "  skerry run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n";
}

std::string run_help() {
  std::string text =
      "Usage: skerry run --kernel FILE [OPTIONS]\n\n"
      "Boots a machine in the foreground. On a terminal, Ctrl-A x ends it and Ctrl-A h helps.\n\n";
  for (const FieldHelp& f : schema::help_of<MachineSpec>()) {
    std::string value = f.value;
    if (f.name == "disks") value = schema::key_value_grammar<schema::DiskSpec>();
    std::string left = "--" + f.option + (f.flag ? "" : " " + value);
    text += wrapped(left, f.doc + (f.preset.empty() ? "" : " (default " + f.preset + ")"));
  }
  text += wrapped("--config FILE.json", "read the machine from a file; other options override it");
  text += "\nTrace categories:\n" + trace_help();
  if (!text.ends_with('\n')) text += '\n';
  text +=
      "\nExit status: 0 power-off, 64 usage, 70 internal, 71 host error, 80 reset (--no-reboot),\n"
      "81 guest crash, 82 guest panic (--on-panic exit), 128+N ended by signal N; --debug-exit: "
      "(CODE << 1) | 1.\n";
  return text;
}

std::string doctor_help() {
  return "Usage: skerry doctor [--json]\n\n"
         "Says which engine `skerry run` would use here and why, what is missing for better, and "
         "the\n"
         "command that mends it.\n\n" +
         wrapped("--json", "the same for programs");
}

std::string switch_help() {
  return "Usage: skerry switch list [--json]\n"
         "       skerry switch show NAME [--json]\n\n"
         "The virtual switches of this user. A machine's --net switch,name=NAME starts one, and it "
         "ends with\nthe last machine on it.\n\n" +
         wrapped("list", "the switches that run") +
         wrapped("show NAME", "its ports, their counters, and which address is where") +
         wrapped("--json", "the same for programs");
}

Result<Command> parse_run(const std::vector<std::string>& args) {
  CLI::App app;
  auto fields = schema::help_of<MachineSpec>();
  std::map<std::string, CLI::Option*> options;
  for (const FieldHelp& f : fields) {
    if (f.flag) {
      options[f.name] = app.add_flag("--" + f.option);
      continue;
    }
    auto* option =
        app.add_option("--" + f.option)->type_size(1)->expected(1)->allow_extra_args(false);
    option->multi_option_policy(f.list ? CLI::MultiOptionPolicy::TakeAll
                                       : CLI::MultiOptionPolicy::TakeLast);
    options[f.name] = option;
  }
  auto* config = app.add_option("--config")->type_size(1)->expected(1)->allow_extra_args(false);
  config->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  if (TRY(split(app, args, "run"))) return PrintCommand{run_help()};

  RunCommand command;
  if (config->count()) {
    const std::string& path = config->results().back();
    auto text = read_file(path, max_config_bytes);
    if (!text) return std::unexpected(std::move(text.error()).in("--config"));
    TRY_VOID(schema::merge_json_text(*text, path, command.spec));
  }
  OptionReader::Given given;
  for (auto& [name, option] : options) {
    if (option->count()) given[name] = option->results();
  }
  OptionReader reader(given);
  MachineSpec::describe(command.spec, reader);
  TRY_VOID(reader.result());
  TRY_VOID(schema::validate(command.spec));
  if (auto known = set_trace(command.spec.trace); !known) {
    return std::unexpected(std::move(known.error()).in("--trace"));
  }
  return command;
}

Result<Command> parse_doctor(const std::vector<std::string>& args) {
  CLI::App app;
  DoctorCommand command;
  app.add_flag("--json", command.json);
  if (TRY(split(app, args, "doctor"))) return PrintCommand{doctor_help()};
  return command;
}

Result<Command> parse_switch(const std::vector<std::string>& args) {
  SwitchCommand command;
  std::vector<std::string> words;
  for (const std::string& arg : args) {
    if (arg == "-h" || arg == "--help") return PrintCommand{switch_help()};
    if (arg == "--json") {
      command.json = true;
    } else if (arg.starts_with('-')) {
      constexpr std::string_view options[] = {"--json", "--help"};
      Error error = schema::unknown_word("option", arg, options);
      error.hint = "see: skerry help switch";
      return std::unexpected(std::move(error));
    } else {
      words.push_back(arg);
    }
  }
  if (words == std::vector<std::string>{"list"}) return command;
  if (words.size() == 2 && words[0] == "show" && !words[1].empty()) {
    command.show = words[1];
    return command;
  }
  return fail_hint("write: skerry switch list, or: skerry switch show NAME",
                   "switch: what is to be shown?");
}

std::string help_for(std::string_view command) {
  if (command == "ctl") return ctl_help();
  if (command == "image") return image_build_help();
  if (command == "switch") return switch_help();
  if (command == "ssh") return ssh_help();
  return command == "run" ? run_help() : command == "doctor" ? doctor_help() : main_help();
}

/// `skerry ctl [PATH] [VERB] --help`, too.
Result<Command> parse_ctl_command(const std::vector<std::string>& args) {
  for (const std::string& arg : args)
    if (arg == "--help" || arg == "-h")
      return PrintCommand{ctl_help(args.size() > 2 ? args[1] : "")};
  auto parsed = parse_ctl(args);
  if (!parsed) return std::unexpected(std::move(parsed.error()).in("ctl"));
  return std::move(*parsed);
}

/// What stands behind -- is the guest's.
Result<Command> parse_ssh_command(const std::vector<std::string>& args) {
  for (const std::string& arg : args) {
    if (arg == "--") break;
    if (arg == "--help" || arg == "-h") return PrintCommand{ssh_help()};
  }
  auto parsed = parse_ssh(args);
  if (!parsed) return std::unexpected(std::move(parsed.error()).in("ssh"));
  return std::move(*parsed);
}

}  // namespace

std::string version_text() {
  return "skerry " SKERRY_VERSION "\n";
}

Result<Command> parse_command(const std::vector<std::string>& args) {
  if (args.empty()) return fail_hint("see: skerry help", "no command given");
  const std::string& word = args[0];
  std::vector<std::string> rest(args.begin() + 1, args.end());
  if (word == "--version" || word == "version") return PrintCommand{version_text()};
  if (word == "--help" || word == "-h" || word == "help") {
    if (rest.size() > 1 && rest[0] == "ctl") return PrintCommand{ctl_help(rest[1])};
    if (!rest.empty() && rest[0] == "image" && (rest.size() < 2 || rest[1] != "build"))
      return PrintCommand{image_help(rest.size() > 1 ? rest[1] : "")};
    return PrintCommand{help_for(rest.empty() ? "" : rest[0])};
  }
  if (word == "image" && (rest.empty() || rest[0] != "build")) return ImageCommand{rest};
  if (word == "image") {
    auto parsed = TRY(parse_image_build(rest));
    if (!parsed) return PrintCommand{image_build_help()};
    return std::move(*parsed);
  }
  if (word == "run" || word == "doctor") {
    return word == "run" ? parse_run(rest) : parse_doctor(rest);
  }
  if (word == "ctl") return parse_ctl_command(rest);
  if (word == "switch") return parse_switch(rest);
  if (word == "ssh") return parse_ssh_command(rest);
  constexpr std::string_view commands[] = {"run", "ctl",  "image",     "doctor", "switch",
                                           "ssh", "help", "--version", "--help"};
  Error error = schema::unknown_word(word.starts_with('-') ? "option" : "command", word, commands);
  error.hint = "see: skerry help";
  if (word.starts_with("--") && error.what.find("did you mean") == std::string::npos) {
    error.hint = "options come after the command: skerry run --kernel FILE ...";
  }
  return std::unexpected(std::move(error));
}

}  // namespace skerry::cli
