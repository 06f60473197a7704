#include "net/unix_ports.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <charconv>

#include "base/unix_socket.hpp"

namespace skerry::net {

namespace {
constexpr size_t kLongestLine = 24;  // "CONNECT 4294967294"
}

Result<std::unique_ptr<UnixPorts>> UnixPorts::create(EventLoop& loop, const std::string& path) {
  std::unique_ptr<UnixPorts> ports(new UnixPorts(loop, path));
  ports->listener_ = TRY(listen_unix(path, " for vsock", 64, true));
  TRY_VOID(
      loop.watch(ports->listener_.get(), EPOLLIN, [p = ports.get()](u32) { p->accept_one(); }));
  return ports;
}

UnixPorts::~UnixPorts() {
  if (!listener_) return;
  loop_.unwatch(listener_.get());
  ::unlink(path_.c_str());
}

Result<Fd> UnixPorts::connect(u32 port) {
  return connect_unix(fmt::format("{}_{}", path_, port));
}

std::optional<u32> UnixPorts::parse_connect(std::string_view line) {
  constexpr std::string_view kWord = "CONNECT ";
  if (!line.starts_with(kWord)) return std::nullopt;
  line.remove_prefix(kWord.size());
  if (line.ends_with('\r')) line.remove_suffix(1);
  u32 port = 0;
  auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  if (error != std::errc{} || end != line.data() + line.size() || port == ~u32{0})
    return std::nullopt;
  return port;
}

void UnixPorts::accept_one() {
  Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  if (clients_.size() >= kMaxWaiting) clients_.erase(clients_.begin());
  u64 id = next_id_++;
  Client& client = clients_[id];
  client.stream = std::make_unique<Stream>(loop_, std::move(fd), [this, id](u32) { hear(id); });
  client.stream->wait_for(EPOLLIN);
}

// Byte by byte: what follows the line is the guest's.
void UnixPorts::hear(u64 id) {
  auto it = clients_.find(id);
  if (it == clients_.end()) return;
  Client& client = it->second;
  for (;;) {
    u8 byte;
    auto n = client.stream->read({&byte, 1});
    if (n == size_t{0}) return;
    if (n && byte != '\n' && client.line.size() < kLongestLine) {
      client.line += static_cast<char>(byte);
      continue;
    }
    auto port = n && byte == '\n' ? parse_connect(client.line) : std::nullopt;
    Fd fd = client.stream->take();
    clients_.erase(it);
    if (port && incoming) incoming(std::move(fd), *port);
    return;
  }
}

}  // namespace skerry::net
