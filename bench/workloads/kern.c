// The kernel's work: system calls, processes, signals, page faults, files in memory.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define NEED(condition)                \
  do                                   \
    if (!(condition)) die(#condition); \
  while (0)

static uint64_t getpid_body(void) {
  long pid = getpid();
  uint64_t same = 0;
  for (int i = 0; i < 200000; ++i) same += syscall(SYS_getpid) == pid;
  return same;
}

// clock: the vDSO's clock_gettime, which is a system call where the time source is not trusted.
static uint64_t clock_body(void) {
  uint64_t last = 0, backwards = 0;
  for (int i = 0; i < 500000; ++i) {
    uint64_t now = now_ns();
    backwards += now < last;
    last = now;
  }
  return backwards;
}

static uint64_t fork_body(void) {
  uint64_t sum = 0;
  for (int i = 0; i < 150; ++i) {
    pid_t child = fork();
    if (child == 0) _exit(i & 63);
    int status;
    NEED(child > 0 && waitpid(child, &status, 0) == child);
    sum += (uint64_t)WEXITSTATUS(status);
  }
  return sum;
}

// exec: a small static program (nothing.c) that returns the number it is given.
__attribute__((noinline)) static pid_t start_nothing(const char* number) {
  pid_t child = vfork();
  if (child == 0) {
    execl("/bench/nothing", "nothing", number, (char*)NULL);
    _exit(127);
  }
  return child;
}
static uint64_t exec_body(void) {
  uint64_t sum = 0;
  for (int i = 0; i < 120; ++i) {
    char text[16];
    snprintf(text, sizeof text, "%d", i & 63);
    pid_t child = start_nothing(text);
    int status;
    NEED(child > 0 && waitpid(child, &status, 0) == child);
    sum += (uint64_t)WEXITSTATUS(status);
  }
  return sum;
}

// pipe, socket: a byte to another process and back. `ours` and `theirs` are {read, write} ends.
static uint64_t ping_pong(const int ours[2], const int theirs[2], int count) {
  pid_t child = fork();
  NEED(child >= 0);
  char c;
  if (child == 0) {
    close(ours[0]);
    close(ours[1]);
    while (read(theirs[0], &c, 1) == 1) {
      c ^= 0x55;
      if (write(theirs[1], &c, 1) != 1) break;
    }
    _exit(0);
  }
  close(theirs[0]);
  close(theirs[1]);
  uint64_t sum = 0;
  for (int i = 0; i < count; ++i) {
    c = (char)i;
    NEED(write(ours[1], &c, 1) == 1 && read(ours[0], &c, 1) == 1);
    sum += (unsigned char)c;
  }
  close(ours[0]);
  close(ours[1]);
  NEED(waitpid(child, NULL, 0) == child);
  return sum;
}

static uint64_t pipe_body(void) {
  int there[2], back[2];
  NEED(pipe(there) == 0 && pipe(back) == 0);
  return ping_pong((int[]){back[0], there[1]}, (int[]){there[0], back[1]}, 6000);
}

static uint64_t socket_body(void) {
  int pair[2];
  NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  int ours = dup(pair[0]), theirs = dup(pair[1]);
  NEED(ours >= 0 && theirs >= 0);
  return ping_pong((int[]){pair[0], ours}, (int[]){pair[1], theirs}, 4000);
}

// fault: fresh anonymous memory, each page touched once.
static uint64_t fault_body(void) {
  uint64_t sum = 0;
  for (int round = 0; round < 12; ++round) {
    size_t size = 4 << 20;
    volatile char* p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(p != MAP_FAILED);
    madvise((void*)p, size, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < size; i += 4096) p[i] = (char)round, sum += (unsigned char)p[i];
    munmap((void*)p, size);
  }
  return sum;
}

// map: mappings made, changed and removed.
static uint64_t map_body(void) {
  uint64_t done = 0;
  for (int i = 0; i < 3000; ++i) {
    char* p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(p != MAP_FAILED);
    p[4096] = 1;
    done += mprotect(p, 8192, PROT_READ) == 0;
    done += munmap(p, 16384) == 0;
  }
  return done;
}

static uint64_t stat_body(void) {
  struct stat s;
  uint64_t sum = 0;
  for (int i = 0; i < 40000; ++i) {
    NEED(stat(i & 1 ? "/usr/bin/../lib/x86_64-linux-gnu" : "/bench/nothing", &s) == 0);
    sum += S_ISDIR(s.st_mode);
  }
  return sum;
}

static volatile sig_atomic_t signals;
static void count_signal(int number) {
  signals += number == SIGUSR1;
}
static uint64_t signal_body(void) {
  struct sigaction action = {.sa_handler = count_signal};
  signals = 0;
  sigaction(SIGUSR1, &action, NULL);
  for (int i = 0; i < 15000; ++i) raise(SIGUSR1);
  return (uint64_t)signals;
}

// segv: page faults that become signals, as garbage collectors use them.
static char* guarded;
static void open_page(int number, siginfo_t* info, void* context) {
  (void)number, (void)context;
  mprotect((void*)((uintptr_t)info->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}
static uint64_t segv_body(void) {
  struct sigaction action = {.sa_sigaction = open_page, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);
  uint64_t sum = 0;
  guarded = mmap(NULL, 64 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  NEED(guarded != MAP_FAILED);
  for (int round = 0; round < 60; ++round) {
    mprotect(guarded, 64 << 12, PROT_NONE);
    for (int page = 0; page < 64; ++page)
      sum += (unsigned)++*(volatile char*)(guarded + page * 4096);
  }
  munmap(guarded, 64 << 12);
  return sum;
}

// files: made, written, renamed and removed on tmpfs.
static uint64_t files_body(void) {
  char name[64], other[64];
  static char data[6000];
  uint64_t sum = 0;
  for (int i = 0; i < 2500; ++i) {
    snprintf(name, sizeof name, "/tmp/file%d", i % 50);
    snprintf(other, sizeof other, "/tmp/other%d", i % 50);
    int fd = open(name, O_CREAT | O_TRUNC | O_RDWR, 0600);
    NEED(fd >= 0 && write(fd, data, sizeof data) == sizeof data);
    struct stat s;
    NEED(fstat(fd, &s) == 0 && close(fd) == 0 && rename(name, other) == 0);
    sum += (uint64_t)s.st_size;
    if (i % 2) NEED(unlink(other) == 0);
  }
  for (int i = 0; i < 50; i += 2) {
    snprintf(other, sizeof other, "/tmp/other%d", i);
    unlink(other);
  }
  return sum;
}

// readwrite: 4 KiB blocks of a file in memory.
static uint64_t readwrite_body(void) {
  static char block[4096];
  uint64_t sum = 0;
  int fd = open("/tmp/blocks", O_CREAT | O_TRUNC | O_RDWR, 0600);
  NEED(fd >= 0);
  for (int i = 0; i < 20000; ++i) {
    off_t at = (off_t)(i * 37 % 256) * 4096;
    block[5] = (char)i;
    NEED(pwrite(fd, block, sizeof block, at) == sizeof block);
    NEED(pread(fd, block, sizeof block, at) == sizeof block);
    sum = mix(sum, (unsigned char)block[5]);
  }
  close(fd);
  unlink("/tmp/blocks");
  return sum;
}

// yield: two processes that give way to each other: context switches alone.
static uint64_t yield_body(void) {
  pid_t child = fork();
  NEED(child >= 0);
  for (int i = 0; i < 15000; ++i) sched_yield();
  if (child == 0) _exit(7);
  int status;
  NEED(waitpid(child, &status, 0) == child);
  return (uint64_t)WEXITSTATUS(status);
}

// epoll: an event counter written, waited for and read.
static uint64_t epoll_body(void) {
  int poll = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data = {.u32 = 9}};
  uint64_t sum = 0;
  NEED(poll >= 0 && event >= 0 && epoll_ctl(poll, EPOLL_CTL_ADD, event, &e) == 0);
  for (uint64_t i = 1; i <= 25000; ++i) {
    uint64_t value = i;
    NEED(write(event, &value, 8) == 8 && epoll_wait(poll, &e, 1, -1) == 1 &&
         read(event, &value, 8) == 8);
    sum += value + e.data.u32;
  }
  close(poll);
  close(event);
  return sum;
}

int main(int argc, char** argv) {
  static const struct workload table[] = {
      {"getpid", NULL, getpid_body},       {"clock", NULL, clock_body},
      {"fork", NULL, fork_body},           {"exec", NULL, exec_body},
      {"pipe", NULL, pipe_body},           {"socket", NULL, socket_body},
      {"fault", NULL, fault_body},         {"map", NULL, map_body},
      {"stat", NULL, stat_body},           {"signal", NULL, signal_body},
      {"segv", NULL, segv_body},           {"files", NULL, files_body},
      {"readwrite", NULL, readwrite_body}, {"yield", NULL, yield_body},
      {"epoll", NULL, epoll_body},
  };
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}
