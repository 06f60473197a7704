#include "vmm/control_server.hpp"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>

#include "base/unix_socket.hpp"

namespace skerry::vmm {
namespace {
constexpr Nanos kGoodbye = 200'000'000;  // for the last answers, once the machine has ended
}

ControlServer::ControlServer(std::string path, std::string hello, Host host)
    : path_(std::move(path)), hello_(std::move(hello)), host_(std::move(host)) {}

Result<std::unique_ptr<ControlServer>> ControlServer::listen(const std::string& path,
                                                             std::string hello, Host host) {
  std::unique_ptr<ControlServer> server(new ControlServer(path, std::move(hello), std::move(host)));
  server->loop_ = TRY(EventLoop::create(server->clock_));
  server->listener_ = TRY(listen_unix(path, " for control", kClients, /*only_me=*/true));
  struct stat file {};
  if (::stat(path.c_str(), &file) == 0) server->inode_ = file.st_ino;
  TRY_VOID(server->loop_->watch(server->listener_.get(), EPOLLIN,
                                [raw = server.get()](u32) { raw->accept(); }));
  return server;
}

void ControlServer::start() {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "control");
    loop_->run();
  });
}

ControlServer::~ControlServer() {
  if (thread_.joinable()) {
    loop_->stop();
    thread_.join();
  }
  closing_ = true;
  // A client that waits for an answer or for the end hears of it.
  const Nanos until = HostClock::monotonic() + kGoodbye;
  for (;;) {
    loop_->run_once(0);
    settle_all();
    bool unsent = false;
    for (auto& [id, client] : clients_) unsent |= !client.out.empty();
    if (!unsent || HostClock::monotonic() >= until) break;
    loop_->run_once(10);
  }
  for (auto& [id, client] : clients_) {
    if (client.watched) loop_->unwatch(client.fd.get());
    if (client.screen) client.screen->set_watcher(nullptr);
  }
  loop_->unwatch(listener_.get());
  struct stat file {};
  if (::stat(path_.c_str(), &file) == 0 && file.st_ino == inode_) ::unlink(path_.c_str());
}

ControlServer::Client* ControlServer::find(ClientId id) {
  auto at = clients_.find(id);
  return at == clients_.end() ? nullptr : &at->second;
}

void ControlServer::accept() {
  Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  // The socket's mode says so already; a directory on a file system without modes does not.
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
      (peer.uid != ::geteuid() && peer.uid != 0) || clients_.size() >= kClients)
    return;
  ClientId id = next_client_++;
  Client& client = clients_[id];
  client.fd = std::move(fd);
  client.out = hello_ + "\n";
  settle(id);
}

void ControlServer::ready(ClientId id, u32 events) {
  Client* client = find(id);
  if (!client) return;
  if (events & EPOLLIN) {
    read_some(id, *client);
  } else if (events & (EPOLLHUP | EPOLLERR)) {
    client->gone = true;
  }
  settle(id);
}

void ControlServer::read_some(ClientId id, Client& client) {
  char buffer[4096];
  ssize_t n = ::read(client.fd.get(), buffer, sizeof buffer);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    client.gone = true;
    return;
  }
  client.in.append(buffer, static_cast<size_t>(n));
  if (!client.screen) take_lines(id, client);
}

void ControlServer::take_lines(ClientId id, Client& client) {
  while (!closing_ && !client.ending && !client.screen && client.unanswered < kUnanswered &&
         client.out.size() < kUnsent) {
    size_t end = client.in.find('\n');
    if (end == client.in.npos) {
      if (client.in.size() <= kLongestLine) return;
      client.out += host_.too_long() + "\n";
      client.ending = true;
      client.in.clear();
      return;
    }
    std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    ++client.unanswered;
    host_.request(id, std::move(line));  // may answer at once, but never removes a client
  }
}

void ControlServer::offer_typed(ClientId id, Client& client) {
  if (client.typing || client.full || client.in.empty()) return;
  client.typing = true;
  client.rooms = rooms_;
  hungry_ = true;
  host_.type(id, client.line, client.in);
}

void ControlServer::fill(Client& client) {
  if (client.screen) {
    client.screen->watch();  // before the look, so that nothing written meanwhile is missed
    if (client.out.size() < kUnsent)
      client.out += client.screen->read(client.shown, kUnsent - client.out.size());
  } else if (client.subscribed) {
    std::lock_guard guard(mutex_);
    for (const Kept& event : events_) {
      if (client.out.size() >= kUnsent) break;
      if (event.number < client.next_event) continue;
      client.out += event.line + "\n";
      client.next_event = event.number + 1;
    }
  }
}

/// Sends what can be sent, and waits for what can come next.
void ControlServer::settle(ClientId id) {
  Client* client = find(id);
  if (!client) return;
  for (int turn = 0; !client->gone; ++turn) {
    if (!client->screen) take_lines(id, *client);
    fill(*client);
    if (client->out.empty() || turn == 16) break;
    ssize_t n = ::send(client->fd.get(), client->out.data(), client->out.size(),
                       MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n <= 0) {
      client->gone = true;
    } else {
      client->out.erase(0, static_cast<size_t>(n));
    }
  }
  if (client->ending && client->out.empty()) client->gone = true;
  if (client->gone) {
    if (client->watched) loop_->unwatch(client->fd.get());
    clients_.erase(id);
    return;
  }
  if (client->screen) offer_typed(id, *client);
  bool may_read = client->screen ? client->in.size() < kTyped
                                 : client->unanswered < kUnanswered && client->out.size() < kUnsent;
  u32 want =
      (may_read && !client->ending ? u32{EPOLLIN} : 0) | (client->out.empty() ? 0 : u32{EPOLLOUT});
  if (want == client->watched) return;
  if (want == 0) {
    loop_->unwatch(client->fd.get());
  } else if (!loop_->watch(client->fd.get(), want, [this, id](u32 events) { ready(id, events); })) {
    clients_.erase(id);
    return;
  }
  client->watched = want;
}

void ControlServer::settle_all() {
  std::vector<ClientId> ids;
  for (auto& [id, client] : clients_) ids.push_back(id);
  for (ClientId id : ids) settle(id);
}

void ControlServer::answer(ClientId id, std::string line) {
  loop_->post([this, id, line = std::move(line)] {
    Client* client = find(id);
    if (!client) return;
    --client->unanswered;
    client->out += line + "\n";
    settle(id);
  });
}

void ControlServer::subscribe(ClientId id, std::string line, u64 after) {
  Client* client = find(id);
  if (!client) return;
  --client->unanswered;
  client->out += line + "\n";  // before the first event
  client->subscribed = true;
  client->next_event = (after == ~u64{0} ? last_event() : after) + 1;
}

void ControlServer::become_console(ClientId id, std::string line, size_t index, Screen& screen,
                                   u64 replay) {
  Client* client = find(id);
  if (!client) return;
  --client->unanswered;
  client->out += line + "\n";
  client->screen = &screen;
  client->line = index;
  u64 written = screen.written();
  client->shown = written - std::min(written, replay);
  screen.set_watcher([this] { loop_->post([this] { settle_all(); }); });
}

void ControlServer::typed(ClientId id, size_t taken) {
  loop_->post([this, id, taken] {
    Client* client = find(id);
    if (!client) return;
    client->typing = false;
    client->full = taken == 0 && client->rooms == rooms_;
    client->in.erase(0, taken);
    settle(id);
  });
}

void ControlServer::room() {
  if (!hungry_.exchange(false)) return;
  loop_->post([this] {
    ++rooms_;
    for (auto& [id, client] : clients_) client.full = false;
    settle_all();
  });
}

void ControlServer::tell(const std::function<std::string(u64)>& make) {
  {
    std::lock_guard guard(mutex_);
    u64 number = ++last_event_;
    events_.push_back({number, make(number)});
    if (events_.size() > kEvents) events_.pop_front();
  }
  loop_->post([this] { settle_all(); });
}

u64 ControlServer::last_event() const {
  std::lock_guard guard(mutex_);
  return last_event_;
}

}  // namespace skerry::vmm
