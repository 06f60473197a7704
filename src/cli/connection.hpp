// The client's end of a machine's control socket (docs/control.md).
#pragma once

#include <optional>
#include <string>

#include "base/fd.hpp"

namespace skerry::cli {

class Connection {
 public:
  /// Connects, and checks that a machine of our protocol answers. Errors say how to start one.
  static Result<Connection> open(const std::string& path);

  Result<> send(std::string_view text);
  /// The next line, or nullopt at the end. Blocks.
  Result<std::optional<std::string>> line();
  /// The answer to an action: a line that is a JSON object. `arguments` is JSON. Blocks.
  Result<std::string> ask(std::string_view action, std::string_view arguments = "{}");

  int fd() const { return fd_.get(); }
  /// What has come after the last line.
  std::string take_buffer() { return std::exchange(buffer_, {}); }

 private:
  Result<> check_hello(const std::string& path);
  Fd fd_;
  std::string buffer_;
};

}  // namespace skerry::cli
