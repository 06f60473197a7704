#include "board/shared_folder.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "base/unix_socket.hpp"
#include "net/stream.hpp"

namespace skerry::board {

namespace {

namespace fs = std::filesystem;

/// $SKERRY_VIRTIOFSD names another; Debian 12 has it in qemu-system-common.
Result<std::string> program() {
  if (const char* named = std::getenv("SKERRY_VIRTIOFSD"); named && *named)
    return std::string(named);
  constexpr const char* kDebian = "/usr/lib/qemu/virtiofsd";
  if (::access(kDebian, X_OK) == 0) return std::string(kDebian);
  return fail_hint(
      "install it with: apt install qemu-system-common, or set SKERRY_VIRTIOFSD to its path",
      "share: virtiofsd is not installed");
}

class Daemon final : public virtio::FsProcess {
 public:
  Daemon(Fd socket, Fd words, pid_t pid)
      : socket_(std::move(socket)), words_(std::move(words)), pid_(pid) {}
  /// It ends when its connection does. All of its processes have the other end of words_.
  ~Daemon() override {
    socket_ = Fd();
    if (!ended_within(2000)) {
      ::kill(pid_, SIGKILL);
      ended_within(5000);
    }
    ::waitpid(pid_, nullptr, 0);
  }
  int socket() const override { return socket_.get(); }
  std::string last_words() override {
    ended_within(1000);
    return said_;
  }

 private:
  bool ended_within(int milliseconds) {
    const Nanos end = HostClock::monotonic() + Nanos{milliseconds} * 1'000'000;
    for (;;) {
      char text[512];
      ssize_t n = ::read(words_.get(), text, sizeof text);
      if (n == 0) return true;
      if (n > 0 && said_.size() < 2000) said_.append(text, static_cast<size_t>(n));
      if (n > 0) continue;
      Nanos left = end - HostClock::monotonic();
      if (left <= 0) return false;
      pollfd p{words_.get(), POLLIN, 0};
      ::poll(&p, 1, static_cast<int>(left / 1'000'000) + 1);
    }
  }

  Fd socket_, words_;
  pid_t pid_;
  std::string said_;
};

/// In the child, between fork() and exec(): system calls only.
bool write_file(const char* path, const char* text) {
  int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  bool good = fd >= 0 && ::write(fd, text, std::strlen(text)) >= 0;
  if (fd >= 0) ::close(fd);
  return good;
}

[[noreturn]] void become(const char* const* arguments, pid_t parent, int listener, int words,
                         const char* uids, const char* gids) {
  auto quit = [&](const char* why) {
    [[maybe_unused]] ssize_t n = ::write(words, why, std::strlen(why));
    ::_exit(127);
  };
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  // Without root, virtiofsd is root in a namespace of its own where only this user exists.
  if (uids && (::unshare(CLONE_NEWUSER) < 0 || !write_file("/proc/self/setgroups", "deny") ||
               !write_file("/proc/self/uid_map", uids) || !write_file("/proc/self/gid_map", gids)))
    quit("cannot make a user namespace\n");
  // After the new namespace, which clears it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  int null = ::open("/dev/null", O_RDWR);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(null, 1) < 0 || ::dup2(words, 2) < 0 ||
      ::dup2(listener, 3) < 0)
    ::_exit(127);
  ::close_range(4, ~0u, 0);
  ::execv(arguments[0], const_cast<char* const*>(arguments));
  [[maybe_unused]] ssize_t n = ::write(2, "cannot be executed\n", 19);
  ::_exit(127);
}

Result<std::unique_ptr<virtio::FsProcess>> launch(const schema::ShareSpec& spec) {
  std::string path = TRY(program());
  // Bound where nobody else gets, connected to, and gone again before virtiofsd runs.
  std::string folder = (fs::temp_directory_path() / "skerry-share-XXXXXX").string();
  if (!::mkdtemp(folder.data())) return fail_errno("share: cannot make a folder for a socket");
  std::string where = folder + "/fs";
  auto listener = listen_unix(where, " for virtiofsd", 1, true);
  auto socket = listener ? net::connect_unix(where) : std::unexpected(listener.error());
  ::unlink(where.c_str());
  ::rmdir(folder.c_str());
  if (!socket) return std::unexpected(std::move(socket.error()));
  // virtiofsd accepts with a blocking call.
  ::fcntl(listener->get(), F_SETFL, ::fcntl(listener->get(), F_GETFL) & ~O_NONBLOCK);
  ::fcntl(socket->get(), F_SETFL, ::fcntl(socket->get(), F_GETFL) & ~O_NONBLOCK);
  int words[2];
  if (::pipe2(words, O_CLOEXEC | O_NONBLOCK) < 0) return fail_errno("share: cannot make a pipe");
  Fd said(words[0]), says(words[1]);
  // Above what dup2() in the child writes to.
  Fd high_listener(::fcntl(listener->get(), F_DUPFD_CLOEXEC, 10));
  Fd high_says(::fcntl(says.get(), F_DUPFD_CLOEXEC, 10));
  if (!high_listener || !high_says) return fail_errno("share: no descriptors are left");

  // "-o key=value,...": a comma in the path would be the next key.
  std::string source = "source=" + spec.path;
  std::string sandbox = fmt::format("sandbox={}", name_of(spec.sandbox));
  const char* arguments[] = {path.c_str(),
                             "--fd=3",
                             "--rlimit-nofile=0",
                             "-f",
                             "-o",
                             source.c_str(),
                             "-o",
                             sandbox.c_str(),
                             "-o",
                             "xattr",
                             "-o",
                             "log_level=err",
                             nullptr};
  std::string uids = fmt::format("0 {} 1\n", ::geteuid()),
              gids = fmt::format("0 {} 1\n", ::getegid());
  bool root = ::geteuid() == 0;
  pid_t self = ::getpid();
  pid_t pid = ::fork();
  if (pid < 0) return fail_errno("share: cannot start virtiofsd");
  if (pid == 0)
    become(arguments, self, high_listener.get(), high_says.get(), root ? nullptr : uids.c_str(),
           gids.c_str());
  return std::make_unique<Daemon>(std::move(*socket), std::move(said), pid);
}

}  // namespace

Result<std::unique_ptr<virtio::Fs>> share_folder(std::string name, const schema::ShareSpec& spec,
                                                 virtio::Environment environment) {
  struct stat folder {};
  if (::stat(spec.path.c_str(), &folder) < 0)
    return fail_errno(fmt::format("share {}: cannot find {}", spec.tag, spec.path));
  if (!S_ISDIR(folder.st_mode)) return fail("share {}: {} is no folder", spec.tag, spec.path);
  schema::ShareSpec absolute = spec;
  absolute.path = fs::absolute(spec.path).string();
  auto backend = virtio::VhostUserFs::create(environment, [absolute] { return launch(absolute); });
  if (!backend) return std::unexpected(std::move(backend.error()).in("share " + spec.tag));
  return std::make_unique<virtio::Fs>(std::move(name), environment, spec.tag, spec.readonly,
                                      std::move(*backend));
}

}  // namespace skerry::board
