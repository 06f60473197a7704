// `skerry ssh`: a shell or a command in a running machine, through its control socket and a forward
// of the guest's port 22, with the OpenSSH client.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"
#include "schema/net_spec.hpp"

namespace skerry::cli {

struct SshCommand {
  std::string path;                  ///< of the control socket
  std::string user;                  ///< "": as the machine was told, else debian
  std::vector<std::string> keys;     ///< private keys; none: those of the machine's --ssh-key
  std::vector<std::string> options;  ///< for ssh -o
  unsigned timeout = 180;            ///< seconds until the server must answer
  bool print = false;                ///< only print the command
  std::vector<std::string> command;  ///< empty: a shell
};

/// `args` after "ssh", without --help.
Result<SshCommand> parse_ssh(const std::vector<std::string>& args);
std::string ssh_help();

/// What is known of the machine: the answer to `status`.
struct SshTarget {
  std::string machine, state, user;
  std::vector<std::string> public_keys;
  schema::HostForward forward;
};
/// `status` is JSON. An Error where there is no forward of port 22.
Result<SshTarget> ssh_target(std::string_view status);
/// The words of the OpenSSH command line, the program's name first. `readable` tells whether a
/// file can be read.
std::vector<std::string> ssh_words(const SshCommand& command, const SshTarget& target,
                                   bool (*readable)(const std::string&));

/// Waits for the server, then becomes ssh. Returns the exit status only if that fails.
int run_ssh(const SshCommand& command);

}  // namespace skerry::cli
