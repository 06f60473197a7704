#include "vmm/channel.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/unix_socket.hpp"
#include "vmm/terminal.hpp"

namespace skerry::vmm {
namespace {

constexpr size_t kQueueLimit = 4 * MiB;
constexpr Nanos kGrace = 1'000'000'000;  // for output once the machine is being ended
constexpr size_t kInputLimit = 4 * KiB;
constexpr u8 kEscape = 1;  // Ctrl-A

/// Empties a queue of bytes into a descriptor on a thread of its own.
class OutputQueue {
 public:
  ~OutputQueue() {
    {
      std::lock_guard guard(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  void start() {
    thread_ = std::thread([this] { main(); });
  }
  void set_fd(int fd) {
    std::lock_guard guard(mutex_);
    fd_ = fd;
    if (fd < 0) queue_.clear();
    changed_.notify_all();
  }
  void write(std::span<const u8> data) {
    std::unique_lock guard(mutex_);
    changed_.wait(guard,
                  [&] { return fd_ < 0 || ending_ || abandoned_ || queue_.size() < kQueueLimit; });
    if (fd_ < 0 || queue_.size() >= kQueueLimit) return;
    queue_.insert(queue_.end(), data.begin(), data.end());
    changed_.notify_all();
  }
  void flush() {
    std::unique_lock guard(mutex_);
    while (fd_ >= 0 && (!queue_.empty() || busy_)) {
      if (abandoned_ && HostClock::monotonic() >= last_moment_) {
        fd_ = -1;
        break;
      }
      changed_.wait_for(guard, std::chrono::milliseconds(100));
    }
    if (fd_ < 0) queue_.clear();
  }
  void abandon() {
    std::lock_guard guard(mutex_);
    if (!abandoned_) last_moment_ = HostClock::monotonic() + kGrace;
    abandoned_ = true;
    changed_.notify_all();
  }

 private:
  void main() {
    std::unique_lock guard(mutex_);
    for (;;) {
      changed_.wait(guard, [&] { return ending_ || (fd_ >= 0 && !queue_.empty()); });
      if (queue_.empty() || fd_ < 0) {
        if (ending_) return;
        continue;
      }
      std::vector<u8> chunk;
      chunk.swap(queue_);
      busy_ = true;
      int fd = fd_;
      changed_.notify_all();
      guard.unlock();
      bool good = write_fully(fd, chunk);
      guard.lock();
      busy_ = false;
      if (!good && fd_ == fd) fd_ = -1;  // the reader went away: later output has nowhere to go
      changed_.notify_all();
    }
  }
  // Descriptors may be blocking (pipes, terminals) or not, as somebody else who has them wishes.
  // Up to PIPE_BUF bytes do not block a pipe that polls writable, so that this thread can always be
  // told to end.
  bool write_fully(int fd, std::span<const u8> data) {
    while (!data.empty()) {
      pollfd p{fd, POLLOUT, 0};
      if (::poll(&p, 1, 100) <= 0) {
        std::lock_guard guard(mutex_);
        if (fd_ != fd || ending_) return false;
        continue;
      }
      auto some = data.first(std::min<size_t>(data.size(), PIPE_BUF));
      ssize_t n = ::send(fd, some.data(), some.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno == ENOTSOCK) n = ::write(fd, some.data(), some.size());
      if (n > 0) {
        data = data.subspan(static_cast<size_t>(n));
      } else if (errno != EAGAIN && errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<u8> queue_;
  int fd_ = -1;
  bool ending_ = false, busy_ = false, abandoned_ = false;
  Nanos last_moment_ = 0;
  std::thread thread_;
};

class NullChannel final : public Channel {
  void write(std::span<const u8>) override {}
  void set_input(Accept) override {}
  void room() override {}
  void flush() override {}
  void abandon() override {}
};

class FdChannel : public Channel {
 public:
  FdChannel(EventLoop& loop, EscapeHandler escape) : loop_(loop), escape_(std::move(escape)) {
    output_.start();
  }
  ~FdChannel() override {
    if (listener_) loop_.unwatch(listener_.get());
    stop_input();
  }

  Result<> open_stdio() {
    output_.set_fd(STDOUT_FILENO);
    make_terminal_raw();
    if (::isatty(STDIN_FILENO) == 0) escape_ = nullptr;  // piped bytes are the guest's, all of them
    input_ = STDIN_FILENO;
    return {};
  }
  Result<> open_file(const std::string& path) {
    file_ = TRY(Fd::open(path, O_WRONLY | O_CREAT | O_TRUNC));
    output_.set_fd(file_.get());
    return {};
  }
  Result<> listen(const std::string& path) {
    listener_ = TRY(listen_unix(path));
    return loop_.watch(listener_.get(), EPOLLIN, [this](u32) { accept_client(); });
  }

  void write(std::span<const u8> data) override { output_.write(data); }
  void flush() override { output_.flush(); }
  void abandon() override { output_.abandon(); }
  void set_input(Accept accept) override {
    loop_.post([this, accept = std::move(accept)] {
      accept_ = accept;
      start_input();
    });
  }
  void room() override {
    if (!starved_.exchange(false)) return;
    loop_.post([this] { offer(); });
  }

 private:
  void accept_client() {
    Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) return;
    stop_input();
    client_ = std::move(client);
    output_.set_fd(client_.get());
    input_ = client_.get();
    start_input();
  }
  void start_input() {
    if (input_ < 0 || !accept_ || watching_) return;
    // Regular files cannot be polled; /dev/null and files simply have no more to say after their
    // end.
    watching_ = loop_.watch(input_, EPOLLIN, [this](u32) { read_some(); }).has_value();
    if (!watching_) read_to_end_in_turns();
  }
  void stop_input() {
    if (watching_) loop_.unwatch(input_);
    watching_ = false;
  }
  void read_to_end_in_turns() {
    loop_.post([this] {
      if (pending_.size() < kInputLimit && !read_some()) return;
      if (starved_) {
        resume_file_ = true;
      } else {
        read_to_end_in_turns();
      }
    });
  }
  // False at the end of the input.
  bool read_some() {
    u8 buffer[1024];
    ssize_t n = ::read(input_, buffer, sizeof buffer);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    if (n <= 0) {
      stop_input();
      if (client_ && input_ == client_.get()) output_.set_fd(-1);
      input_ = -1;
      return false;
    }
    for (ssize_t i = 0; i < n; ++i) take(buffer[i]);
    offer();
    return true;
  }
  void take(u8 byte) {
    if (escape_ && escaped_) {
      escaped_ = false;
      if (byte == 'a' || byte == kEscape) {
        pending_.push_back(kEscape);
      } else {
        escape_(static_cast<char>(byte));
      }
    } else if (escape_ && byte == kEscape) {
      escaped_ = true;
    } else {
      pending_.push_back(byte);
    }
  }
  void offer() {
    if (!accept_) return;
    // Before: the guest may make room, and room() be called, at any time from here on.
    starved_ = true;
    size_t took = accept_(pending_);
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<long>(took));
    if (pending_.empty()) {
      starved_ = false;
      if (std::exchange(resume_file_, false)) read_to_end_in_turns();
      if (!watching_ && input_ >= 0) start_input();
      return;
    }
    // The escape key must work even when the guest does not read: keep reading up to a bound.
    if (pending_.size() >= kInputLimit && !escape_) stop_input();
    if (pending_.size() >= kInputLimit && escape_) pending_.resize(kInputLimit);
  }

  EventLoop& loop_;
  EscapeHandler escape_;
  OutputQueue output_;
  Fd file_, listener_, client_;
  int input_ = -1;
  bool watching_ = false, escaped_ = false, resume_file_ = false;
  std::atomic<bool> starved_{false};
  std::vector<u8> pending_;
  Accept accept_;
};

}  // namespace

Result<std::unique_ptr<Channel>> open_channel(const schema::SerialSpec& spec, EventLoop& loop,
                                              EscapeHandler escape) {
  if (spec.kind == schema::SerialKind::none) return std::make_unique<NullChannel>();
  auto channel = std::make_unique<FdChannel>(loop, std::move(escape));
  switch (spec.kind) {
    case schema::SerialKind::stdio: TRY_VOID(channel->open_stdio()); break;
    case schema::SerialKind::file: TRY_VOID(channel->open_file(spec.path)); break;
    case schema::SerialKind::unix_: TRY_VOID(channel->listen(spec.path)); break;
    case schema::SerialKind::none: break;
  }
  return channel;
}

}  // namespace skerry::vmm
