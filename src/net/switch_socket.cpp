#include "net/switch_socket.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>

extern char** environ;

namespace skerry::net {

namespace {

constexpr size_t kMostDescriptors = 3;

Result<std::string> path_of(const std::string& name, const char* ending) {
  return TRY(runtime_directory()) + "/" + name + ending;
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail_hint("set XDG_RUNTIME_DIR to a shorter path", "the socket path {} is too long",
                     path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/// Held while a switch comes or goes.
Result<Fd> lock(const std::string& name) {
  std::string path = TRY(path_of(name, ".lock"));
  Fd fd = TRY(Fd::open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  while (::flock(fd.get(), LOCK_EX) < 0)
    if (errno != EINTR) return fail_errno("cannot lock " + path);
  return fd;
}

/// The switch gets its listening socket as descriptor 3 and nothing else of ours. It goes into the
/// background by itself, so the child that we wait for is gone at once.
Result<> spawn(const std::string& name, const std::string& program, int listener) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  for (int fd : {0, 1, 2}) ::posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
  ::posix_spawn_file_actions_adddup2(&files, listener, 3);
  ::posix_spawn_file_actions_addclosefrom_np(&files, 4);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::string arguments[] = {program, "--serve", name};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  pid_t child = 0;
  int error = ::posix_spawn(&child, program.c_str(), &files, &attributes, argv, environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (error) {
    errno = error;
    return fail_errno("cannot start " + program);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return fail("{} did not start", program);
  return {};
}

Result<std::optional<Fd>> connect_to(const std::string& path) {
  sockaddr_un address = TRY(address_of(path));
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("cannot create a socket");
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
    return std::optional(std::move(fd));
  if (errno == ENOENT || errno == ECONNREFUSED) return std::nullopt;
  return fail_errno("cannot connect to " + path);
}

}  // namespace

bool valid_switch_name(std::string_view name) {
  if (name.empty() || name.size() > 32 || name[0] == '.' || name[0] == '-') return false;
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

Result<std::string> runtime_directory() {
  std::string path;
  const uid_t user = ::getuid();
  std::string run = fmt::format("/run/user/{}", user);
  if (const char* named = ::getenv("XDG_RUNTIME_DIR"); named && *named == '/') {
    path = std::string(named) + "/skerry";
  } else if (::access(run.c_str(), W_OK) == 0) {
    path = run + "/skerry";
  } else {
    path = fmt::format("/tmp/skerry-{}", user);
  }
  if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST)
    return fail_errno("cannot make the directory " + path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) < 0) return fail_errno("cannot look at " + path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != user || info.st_mode & 0022)
    return fail_hint("remove it, or set XDG_RUNTIME_DIR to a directory of your own",
                     "{} is not a directory that only you can write to", path);
  return path;
}

Result<std::optional<Fd>> connect_switch(const std::string& name) {
  return connect_to(TRY(path_of(name, ".sock")));
}

Result<Fd> start_switch(const std::string& name, const std::string& program) {
  std::string path = TRY(path_of(name, ".sock"));
  if (auto there = TRY(connect_to(path))) return std::move(*there);
  Fd held = TRY(lock(name));
  if (auto there = TRY(connect_to(path))) return std::move(*there);
  // Nobody listens, and nobody else is about to: what is left of a killed switch may go.
  ::unlink(path.c_str());
  sockaddr_un address = TRY(address_of(path));
  Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return fail_errno("cannot create a socket");
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      ::listen(listener.get(), 64) < 0)
    return fail_errno("cannot listen on " + path);
  auto started = spawn(name, program, listener.get());
  if (!started) {
    ::unlink(path.c_str());
    return std::unexpected(std::move(started).error());
  }
  auto there = TRY(connect_to(path));
  if (!there) return fail("the switch {} ended at once", name);
  return std::move(*there);
}

Result<std::optional<Fd>> retire_switch(const std::string& name, int listener) {
  Fd held = TRY(lock(name));
  Fd late(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (late) return std::optional(std::move(late));
  ::unlink(TRY(path_of(name, ".sock")).c_str());
  return std::nullopt;
}

Result<std::vector<std::string>> list_switches() {
  std::string path = TRY(runtime_directory());
  std::vector<std::string> names;
  DIR* directory = ::opendir(path.c_str());
  if (!directory) return fail_errno("cannot read " + path);
  while (dirent* entry = ::readdir(directory)) {
    std::string name = entry->d_name;
    if (!name.ends_with(".sock")) continue;
    name.resize(name.size() - 5);
    if (!valid_switch_name(name)) continue;
    auto there = connect_switch(name);
    if (there && *there) names.push_back(name);
  }
  ::closedir(directory);
  std::ranges::sort(names);
  return names;
}

Result<> send_packet(int socket, std::span<const u8> bytes, std::span<const int> descriptors) {
  iovec part{const_cast<u8*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  SKERRY_CHECK(descriptors.size() <= kMostDescriptors);
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent;
  do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent != static_cast<ssize_t>(bytes.size())) return fail_errno("cannot send to the switch");
  return {};
}

Result<size_t> receive_packet(int socket, std::span<u8> bytes, std::vector<Fd>& descriptors,
                              int timeout_ms) {
  pollfd wait{socket, POLLIN, 0};
  int ready;
  do ready = ::poll(&wait, 1, timeout_ms);
  while (ready < 0 && errno == EINTR);
  if (ready == 0) return fail("the switch does not answer");
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return fail_errno("cannot receive from the switch");
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= h->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(h) + at, sizeof fd);
      descriptors.emplace_back(fd);
    }
  }
  if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) return fail("the switch's answer is too long");
  return static_cast<size_t>(got);
}

}  // namespace skerry::net
