// Stream sockets of AF_VSOCK for the guests' init, which has no other tool for them:
//   vsock connect CID PORT    joins stdin and stdout to a connection
//   vsock listen PORT         the same with the first connection that comes
// Ends when the other side has ended; an end of stdin ends that direction alone.
#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

static bool copy(int from, int to) {
  static char buffer[65536];
  ssize_t n = read(from, buffer, sizeof buffer);
  for (ssize_t done = 0; done < n;) {
    ssize_t m = write(to, buffer + done, static_cast<size_t>(n - done));
    if (m <= 0) return false;
    done += m;
  }
  return n > 0;
}

static int failed(const char* what) {
  perror(what);
  return 1;
}

int main(int argc, char** argv) {
  bool connecting = argc == 4 && !strcmp(argv[1], "connect");
  if (!connecting && !(argc == 3 && !strcmp(argv[1], "listen"))) {
    fputs("vsock connect CID PORT | vsock listen PORT\n", stderr);
    return 64;
  }
  int s = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (s < 0) return failed("socket");
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_port = static_cast<unsigned>(strtoul(argv[argc - 1], nullptr, 10));
  address.svm_cid = connecting ? static_cast<unsigned>(atoi(argv[2])) : VMADDR_CID_ANY;
  auto* where = reinterpret_cast<sockaddr*>(&address);
  if (connecting) {
    if (connect(s, where, sizeof address) < 0) return failed("connect");
  } else {
    if (bind(s, where, sizeof address) < 0 || listen(s, 1) < 0) return failed("listen");
    int client = accept(s, nullptr, nullptr);
    if (client < 0) return failed("accept");
    close(s);
    s = client;
  }
  pollfd fds[2] = {{0, POLLIN, 0}, {s, POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) return failed("poll");
    if (fds[0].revents && !copy(0, s)) {
      shutdown(s, SHUT_WR);
      fds[0].fd = -1;
    }
    if (fds[1].revents && !copy(s, 1)) return 0;
  }
}
