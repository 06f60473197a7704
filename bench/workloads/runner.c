// Runs a list of workloads, in the guest and natively alike, and says how each went.
//
// usage: runner LIST. A line of the list is one of (fields separated by tabs)
//   preload PATH                                    read a file, so that no workload waits for the
//   disk self NAME TIMEOUT_S REPS BUDGET_MS ARGV...      a program of bench.h: it measures itself
//   whole NAME TIMEOUT_S REPS BUDGET_MS ARGV...     any command: its wall time, a hash of what it
//   writes
// For each workload it prints "BENCH-START NAME", one of
//   BENCH NAME FASTEST_NS TOTAL_NS CHECKSUM REPETITIONS
//   BENCH-SKIP NAME WHY        BENCH-FAIL NAME WHY
// then "BENCH-WALL NAME NS", the time from start to here by this machine's clock (the host compares
// it with its own), and "BENCH-END" after the last. Errors of a workload go to where the runner's
// go.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { max_fields = 24, max_text = 512 };

struct outcome {
  int status;           // of waitpid; -1 after a timeout
  uint64_t took, sum;   // of everything that was written
  char text[max_text];  // the beginning of it
};

static struct outcome run(char** argv, uint64_t timeout_ns) {
  struct outcome result = {0, 0, 0, ""};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) die("pipe");
  uint64_t began = now_ns();
  pid_t child = fork();
  if (child < 0) die("fork");
  if (child == 0) {
    setpgid(0, 0);
    dup2(ends[1], 1);
    execvp(argv[0], argv);
    perror(argv[0]);
    _exit(127);
  }
  close(ends[1]);
  static char block[65536];
  size_t kept = 0;
  // Bytes are hashed one by one: how a pipe splits them must not matter.
  uint64_t sum = 14695981039346656037u;
  for (;;) {
    uint64_t spent = now_ns() - began;
    struct pollfd wait = {.fd = ends[0], .events = POLLIN};
    int ready = spent < timeout_ns ? poll(&wait, 1, (int)((timeout_ns - spent) / 1000000) + 1) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      kill(-child, SIGKILL);
      waitpid(child, NULL, 0);
      close(ends[0]);
      result.status = -1;
      return result;
    }
    ssize_t got = read(ends[0], block, sizeof block);
    if (got <= 0) break;
    for (ssize_t i = 0; i < got; ++i) sum = (sum ^ (unsigned char)block[i]) * 1099511628211u;
    size_t keep =
        (size_t)got < sizeof result.text - 1 - kept ? (size_t)got : sizeof result.text - 1 - kept;
    memcpy(result.text + kept, block, keep);
    kept += keep;
  }
  close(ends[0]);
  if (waitpid(child, &result.status, 0) != child) die("waitpid");
  result.took = now_ns() - began;
  result.sum = sum;
  return result;
}

static int failed(const char* name, const struct outcome* o) {
  if (o->status == 0) return 0;
  if (o->status == -1)
    printf("BENCH-FAIL %s timeout\n", name);
  else if (WIFSIGNALED(o->status))
    printf("BENCH-FAIL %s signal %d\n", name, WTERMSIG(o->status));
  else
    printf("BENCH-FAIL %s status %d %s\n", name, WEXITSTATUS(o->status), o->text);
  return 1;
}

static void run_self(const char* name, char** argv, uint64_t timeout) {
  struct outcome o = run(argv, timeout);
  o.text[strcspn(o.text, "\n")] = 0;
  if (failed(name, &o)) return;
  if (strncmp(o.text, "RESULT ", 7) == 0)
    printf("BENCH %s %s\n", name, o.text + 7);
  else if (strncmp(o.text, "SKIP ", 5) == 0)
    printf("BENCH-SKIP %s %s\n", name, o.text + 5);
  else
    printf("BENCH-FAIL %s said '%s'\n", name, o.text);
}

static void run_whole(const char* name, char** argv, uint64_t timeout, int reps, uint64_t budget) {
  uint64_t best = UINT64_MAX, total = 0, sum = 0;
  int done = 0;
  do {
    struct outcome o = run(argv, timeout);
    if (failed(name, &o)) return;
    if (done && o.sum != sum) {
      printf("BENCH-FAIL %s output differs from run to run\n", name);
      return;
    }
    sum = o.sum;
    total += o.took;
    if (o.took < best) best = o.took;
    // Twice even when slow: the first one meets cold caches, the guest's and the emulator's.
  } while (++done < reps && (done < 2 || total < budget));
  printf("BENCH %s %" PRIu64 " %" PRIu64 " %016" PRIx64 " %d\n", name, best, total, sum, done);
}

static void preload(const char* path) {
  static char block[1 << 18];
  int fd = open(path, O_RDONLY);
  if (fd < 0) return;
  while (read(fd, block, sizeof block) > 0) {
  }
  close(fd);
}

int main(int argc, char** argv) {
  static char line[8192];
  FILE* list = argc == 2 ? fopen(argv[1], "re") : NULL;
  if (!list) {
    fprintf(stderr, "usage: runner LIST\n");
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof line, list)) {
    char *field[max_fields + 1], *rest = line;
    int fields = 0;
    line[strcspn(line, "\n")] = 0;
    while (fields < max_fields && (field[fields] = strsep(&rest, "\t"))) ++fields;
    field[fields] = NULL;
    if (fields == 2 && strcmp(field[0], "preload") == 0) {
      preload(field[1]);
      continue;
    }
    if (fields < 6) continue;
    uint64_t timeout = strtoull(field[2], NULL, 10) * 1000000000u;
    printf("BENCH-START %s\n", field[1]);
    uint64_t began = now_ns();
    if (strcmp(field[0], "self") == 0) {
      // A program of bench.h is given the repetitions and the budget last.
      if (fields + 2 > max_fields) continue;
      field[fields] = field[3], field[fields + 1] = field[4], field[fields + 2] = NULL;
      run_self(field[1], field + 5, timeout);
    } else {
      run_whole(field[1], field + 5, timeout, atoi(field[3]),
                strtoull(field[4], NULL, 10) * 1000000u);
    }
    printf("BENCH-WALL %s %" PRIu64 "\n", field[1], now_ns() - began);
  }
  puts("BENCH-END");
  return 0;
}
