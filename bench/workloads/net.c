// TCP between a guest and its host, or two guests, for bench/net.
//   net serve PORT              takes connections until it is killed
//   net HOST PORT up SECONDS    sends; both ends count: prints NET up BYTES NANOSECONDS
//   net HOST PORT down SECONDS  receives: NET down BYTES NANOSECONDS
//   net HOST PORT ping SECONDS  one byte there and back: NET ping ROUNDS NANOSECONDS MEDIAN_NANOSECONDS
// A connection begins with one letter and the time in milliseconds (4 bytes).
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 << 10];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char* what) {
  printf("NET error %s: %s\n", what, strerror(errno));
  exit(1);
}

static void all(int fd, void* bytes, size_t count, int out) {
  char* at = bytes;
  while (count > 0) {
    ssize_t n = out ? write(fd, at, count) : read(fd, at, count);
    if (n <= 0) die(out ? "write" : "read");
    at += n;
    count -= (size_t)n;
  }
}

/// Sends until `end`, then closes that way.
static void pour(int fd, uint64_t end) {
  while (now() < end)
    if (write(fd, buffer, sizeof buffer) < 0) break;
  shutdown(fd, SHUT_WR);
}

static uint64_t drain(int fd) {
  uint64_t total = 0;
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) total += (uint64_t)n;
  return total;
}

static void serve(int fd) {
  struct {
    uint8_t kind;
    uint32_t milliseconds;
  } __attribute__((packed)) ask;
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  all(fd, &ask, sizeof ask, 0);
  if (ask.kind == 'u') {
    uint64_t total = drain(fd);
    all(fd, &total, sizeof total, 1);
  } else if (ask.kind == 'd') {
    pour(fd, now() + ask.milliseconds * (uint64_t)1000000);
    drain(fd);
  } else {
    for (char byte; read(fd, &byte, 1) == 1;) all(fd, &byte, 1, 1);
  }
}

static int by_value(const void* a, const void* b) {
  uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return x < y ? -1 : x > y;
}

static void ask(int fd, char kind, unsigned milliseconds) {
  char head[5] = {kind};
  memcpy(head + 1, &milliseconds, 4);
  all(fd, head, sizeof head, 1);
  uint64_t begin = now(), end = begin + milliseconds * (uint64_t)1000000, total = 0;
  if (kind == 'u') {
    pour(fd, end);
    all(fd, &total, sizeof total, 0);
    printf("NET up %llu %llu\n", (unsigned long long)total, (unsigned long long)(now() - begin));
  } else if (kind == 'd') {
    total = drain(fd);
    printf("NET down %llu %llu\n", (unsigned long long)total, (unsigned long long)(now() - begin));
  } else {
    static uint32_t times[1 << 20];
    size_t rounds = 0;
    for (uint64_t at = begin; at < end && rounds < 1 << 20;) {
      char byte = 'x';
      all(fd, &byte, 1, 1);
      all(fd, &byte, 1, 0);
      uint64_t after = now();
      times[rounds++] = (uint32_t)(after - at);
      at = after;
    }
    uint64_t took = now() - begin;
    qsort(times, rounds, sizeof *times, by_value);
    printf("NET ping %zu %llu %u\n", rounds, (unsigned long long)took, times[rounds / 2]);
  }
}

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  setvbuf(stdout, NULL, _IOLBF, 0);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET};
  if (fd < 0) die("socket");
  if (argc == 3 && strcmp(argv[1], "serve") == 0) {
    signal(SIGCHLD, SIG_IGN);
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr*)&address, sizeof address) < 0 || listen(fd, 16) < 0) die("listen");
    printf("NET serving\n");
    for (;;) {
      int connection = accept(fd, NULL, NULL);
      if (connection < 0) continue;
      if (fork() == 0) {
        serve(connection);
        _exit(0);
      }
      close(connection);
    }
  }
  if (argc != 5) return 64;
  address.sin_port = htons((uint16_t)atoi(argv[2]));
  inet_pton(AF_INET, argv[1], &address.sin_addr);
  if (connect(fd, (struct sockaddr*)&address, sizeof address) < 0) die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  ask(fd, argv[3][0], (unsigned)(atof(argv[4]) * 1000));
  return 0;
}
