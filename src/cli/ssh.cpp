#include "cli/ssh.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>

#include "cli/parsing.hpp"
#include "schema/json.hpp"

namespace skerry::cli {

namespace {

using schema::Json;

constexpr u16 kSsh = 22;

/// Where the host's own programs find a forward: an address to which it is bound may be any.
std::string connect_host(const schema::HostForward& forward) {
  if (forward.host.empty() || forward.host == "0.0.0.0") return "127.0.0.1";
  return forward.host == "::" ? "::1" : forward.host;
}

}  // namespace

std::string ssh_help() {
  return "Usage: skerry ssh PATH [OPTIONS] [-- COMMAND...]\n\n"
         "A shell, or COMMAND, in a machine that runs with --control unix:PATH and\n"
         "--net user,hostfwd=tcp:127.0.0.1:0-:22. Waits until its ssh server answers.\n\n" +
         wrapped("--user NAME", "log in as NAME (default: of --user, else debian)") +
         wrapped("-i, --identity FILE",
                 "private key (default: beside the machine's --ssh-key FILE.pub)") +
         wrapped("-o, --option TEXT", "an option for ssh, as ForwardAgent=yes; may be repeated") +
         wrapped("--timeout SECONDS", "how long to wait for the server (default 180)") +
         wrapped("--print", "print the ssh command instead") +
         "\nHost keys are not checked and not kept: the connection does not leave this host, and\n"
         "a machine that is made anew has new ones. -o StrictHostKeyChecking=yes -o "
         "UserKnownHostsFile=F\nchecks them.\n"
         "\nExamples:\n"
         "  skerry ssh /tmp/vm.sock\n"
         "  skerry ssh /tmp/vm.sock --user root -- systemctl is-system-running --wait\n"
         "\nExit status: that of the command, 255 if ssh fails; 64 usage, 71 no machine answers "
         "there, or its\nssh server does not.\n";
}

Result<SshCommand> parse_ssh(const std::vector<std::string>& args) {
  SshCommand command;
  auto end = std::find(args.begin(), args.end(), "--");
  if (end != args.end()) command.command.assign(end + 1, args.end());
  CLI::App app;
  auto one = [](CLI::Option* option, CLI::MultiOptionPolicy policy) {
    option->type_size(1)->expected(1)->allow_extra_args(false)->multi_option_policy(policy);
  };
  std::string timeout;
  app.add_option("PATH", command.path);
  one(app.add_option("--user", command.user), CLI::MultiOptionPolicy::TakeLast);
  one(app.add_option("-i,--identity", command.keys), CLI::MultiOptionPolicy::TakeAll);
  one(app.add_option("-o,--option", command.options), CLI::MultiOptionPolicy::TakeAll);
  one(app.add_option("--timeout", timeout), CLI::MultiOptionPolicy::TakeLast);
  app.add_flag("--print", command.print);
  if (auto help = split(app, {args.begin(), end}, "ssh"); !help) {
    if (!command.path.empty() && help.error().what.starts_with("unexpected argument"))
      help.error().hint = "write -- before the command; see: skerry help ssh";
    return std::unexpected(std::move(help.error()));
  }
  if (command.path.empty())
    return fail_hint("write skerry ssh PATH, of a machine with --control unix:PATH",
                     "no control socket given");
  if (command.path.starts_with("unix:")) command.path.erase(0, 5);
  if (!timeout.empty()) {
    auto seconds = schema::parse_number(timeout);
    if (!seconds || *seconds > 86400)
      return fail_hint("give seconds, 0 to 86400", "--timeout: '{}' is no time", timeout);
    command.timeout = static_cast<unsigned>(*seconds);
  }
  return command;
}

Result<SshTarget> ssh_target(std::string_view status) {
  SshTarget target;
  try {
    Json json = TRY(schema::parse_json(status, "status"));
    target.machine = json.value("name", "");
    target.state = json.value("state", "");
    target.user = json.value("user", "");
    for (const Json& key : json.value("ssh_keys", Json::array()))
      target.public_keys.push_back(key.get<std::string>());
    for (const Json& net : json.value("nets", Json::array())) {
      for (const Json& text : net.value("forwards", Json::array())) {
        auto forward = schema::parse_hostfwd(text.get<std::string>());
        if (!forward || forward->udp || forward->guest_port != kSsh) continue;
        target.forward = *forward;
        return target;
      }
    }
  } catch (const Json::exception&) {
    return fail("the machine's status is none");
  }
  return fail_hint(
      "start it with --net user,hostfwd=tcp:127.0.0.1:0-:22 (0: any port that is free)",
      "nothing leads to the ssh server of machine '{}': it has no forward of port 22",
      target.machine);
}

std::vector<std::string> ssh_words(const SshCommand& command, const SshTarget& target,
                                   bool (*readable)(const std::string&)) {
  std::vector<std::string> words{"ssh", "-p", fmt::format("{}", target.forward.host_port), "-l"};
  std::string user = command.user.empty() ? target.user : command.user;
  words.push_back(user.empty() ? "debian" : user);
  std::vector<std::string> keys = command.keys;
  if (keys.empty())
    for (const std::string& key : target.public_keys)
      if (key.ends_with(".pub") && readable(key.substr(0, key.size() - 4)))
        keys.push_back(key.substr(0, key.size() - 4));
  for (const std::string& key : keys) words.insert(words.end(), {"-i", key});
  // The first value of an option counts, so that the user's come before ours.
  for (const std::string& option : command.options) words.insert(words.end(), {"-o", option});
  for (const char* option :
       {"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"})
    words.insert(words.end(), {"-o", option});
  words.push_back(connect_host(target.forward));
  if (!command.command.empty()) {
    words.push_back("--");
    words.insert(words.end(), command.command.begin(), command.command.end());
  }
  return words;
}

}  // namespace skerry::cli
