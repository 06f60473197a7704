#include "cli/connection.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

#include "schema/action.hpp"
#include "schema/json.hpp"

namespace skerry::cli {

using schema::Json;

namespace {
constexpr size_t kLongestLine = 16 * MiB;
}

Result<Connection> Connection::open(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail("'{}' is no path of a socket", path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Connection connection;
  connection.fd_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.fd_) return fail_errno("cannot create a socket");
  if (::connect(connection.fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    bool nobody = errno == ENOENT || errno == ECONNREFUSED;
    auto failed = fail_errno("cannot connect to " + path);
    if (nobody) failed.error().hint = fmt::format("start the machine with --control unix:{}", path);
    return failed;
  }
  TRY_VOID(connection.check_hello(path));
  return connection;
}

Result<> Connection::send(std::string_view text) {
  return write_all(fd_.get(), {reinterpret_cast<const u8*>(text.data()), text.size()});
}

Result<std::optional<std::string>> Connection::line() {
  for (;;) {
    if (size_t end = buffer_.find('\n'); end != buffer_.npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (buffer_.size() > kLongestLine) return fail("the machine's answer is too long");
    char bytes[16 * KiB];
    ssize_t n = ::read(fd_.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != ECONNRESET) return fail_errno("cannot read from the machine");
    if (n <= 0) return std::optional<std::string>();
    buffer_.append(bytes, static_cast<size_t>(n));
  }
}

Result<std::string> Connection::ask(std::string_view action, std::string_view arguments) {
  Json request = Json::object();
  request["id"] = 1;
  request["action"] = action;
  request["arguments"] = Json::parse(arguments);
  TRY_VOID(send(request.dump() + "\n"));
  auto line = TRY(this->line());
  if (!line) return fail("the machine ended before it answered");
  Json answer = TRY(schema::parse_json(*line, "answer"));
  if (!answer.is_object()) return fail("the machine's answer is none: {}", *line);
  return *line;
}

Result<> Connection::check_hello(const std::string& path) {
  auto line = TRY(this->line());
  auto json = line ? schema::parse_json(*line, "hello") : fail("nothing");
  if (!json || !json->is_object() || !json->contains("hello") || !(*json)["hello"].is_object())
    return fail("{} is no control socket of a machine", path);
  u32 protocol = (*json)["hello"].value("protocol", 0u);
  if (protocol != schema::kProtocol)
    return fail_hint("use the skerry that the machine was started with",
                     "the machine speaks protocol {}, this program {}", protocol,
                     schema::kProtocol);
  return {};
}

}  // namespace skerry::cli
