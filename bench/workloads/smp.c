// Two threads on two CPUs: contention, hand-over, sharing, TLB shoot-down.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

struct job {
  void (*run)(int);
  int number;
};
static pthread_barrier_t ready;

static void* start(void* argument) {
  const struct job* job = argument;
  pin(job->number);
  pthread_barrier_wait(&ready);
  job->run(job->number);
  return NULL;
}

static void both(void (*run)(int)) {
  pthread_t threads[2];
  struct job jobs[2] = {{run, 0}, {run, 1}};
  pthread_barrier_init(&ready, NULL, 2);
  for (int i = 0; i < 2; ++i)
    if (pthread_create(&threads[i], NULL, start, &jobs[i])) die("pthread_create");
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
}

// atomic: both add to one counter.
static _Atomic uint64_t counter;
static void atomic_run(int number) {
  for (int i = 0; i < 1000000; ++i) atomic_fetch_add(&counter, (uint64_t)number + 1);
}
static uint64_t atomic_body(void) {
  counter = 0;
  both(atomic_run);
  return counter;
}

// mutex: both take one lock.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded[4];
static void mutex_run(int number) {
  for (int i = 0; i < 200000; ++i) {
    pthread_mutex_lock(&lock);
    guarded[i & 3] += (uint64_t)number + 1;
    pthread_mutex_unlock(&lock);
  }
}
static uint64_t mutex_body(void) {
  memset(guarded, 0, sizeof guarded);
  both(mutex_run);
  return mix_bytes(0, guarded, sizeof guarded);
}

// futex: each sleeps until the other wakes it.
static _Atomic uint32_t turn;
static uint64_t turns;
static void futex_run(int number) {
  for (int i = 0; i < 500; ++i) {
    uint32_t seen;
    while ((seen = atomic_load(&turn)) % 2 != (uint32_t)number)
      syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    ++turns;
    atomic_fetch_add(&turn, 1);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  }
}
static uint64_t futex_body(void) {
  turn = 0;
  turns = 0;
  both(futex_run);
  return turns;
}

// spin: the cache line goes to and fro without the kernel.
static void spin_run(int number) {
  for (int i = 0; i < 30000; ++i) {
    while (atomic_load_explicit(&turn, memory_order_acquire) % 2 != (uint32_t)number)
      __builtin_ia32_pause();
    ++turns;
    atomic_fetch_add(&turn, 1);
  }
}
static uint64_t spin_body(void) {
  turn = 0;
  turns = 0;
  both(spin_run);
  return turns;
}

// sort: each half by a thread, then merged.
enum { count = 400000 };
static uint32_t *input, *work, *merged;
static void sort_prepare(void) {
  uint64_t seed = 31;
  input = allocate(count * 4), work = allocate(count * 4), merged = allocate(count * 4);
  for (int i = 0; i < count; ++i) input[i] = (uint32_t)random_next(&seed);
}
static int compare(const void* a, const void* b) {
  uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return (x > y) - (x < y);
}
static void sort_run(int number) {
  qsort(work + number * (count / 2), count / 2, 4, compare);
}
static uint64_t sort_body(void) {
  memcpy(work, input, count * 4);
  both(sort_run);
  for (int i = 0, j = count / 2, k = 0; k < count; ++k)
    merged[k] = j == count || (i < count / 2 && work[i] <= work[j]) ? work[i++] : work[j++];
  return mix_bytes(0, merged, count * 4);
}

// independent: two computations that share nothing.
static uint64_t results[2][8];
static void independent_run(int number) {
  uint64_t x = (uint64_t)number + 1;
  double y = 1;
  for (int i = 0; i < 6000000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    if (x >> 63) y = y * 0.5 + (double)(x >> 40);
  }
  results[number][0] = mix(x, (uint64_t)y);
}
static uint64_t independent_body(void) {
  both(independent_run);
  return mix(results[0][0], results[1][0]);
}

// shootdown: one changes mappings that the other uses.
static _Atomic int stop;
static char* shared_pages;
static void shootdown_run(int number) {
  uint64_t sum = 0;
  if (number == 1) {
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
      for (int i = 0; i < 64; ++i) sum += (unsigned char)((volatile char*)shared_pages)[i * 4096];
    results[1][0] = sum;
    return;
  }
  for (int i = 0; i < 150; ++i) {
    char* page = shared_pages + (i & 63) * 4096;
    mprotect(page, 4096, PROT_READ);
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    *(volatile char*)page = (char)i;
  }
  atomic_store(&stop, 1);
}
static uint64_t shootdown_body(void) {
  stop = 0;
  shared_pages = mmap(NULL, 64 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shared_pages == MAP_FAILED) die("mmap");
  memset(shared_pages, 1, 64 << 12);
  both(shootdown_run);
  uint64_t sum = mix_bytes(0, shared_pages, 64 << 12);
  munmap(shared_pages, 64 << 12);
  return sum;
}

int main(int argc, char** argv) {
  static const struct workload table[] = {
      {"atomic", NULL, atomic_body},       {"mutex", NULL, mutex_body},
      {"futex", NULL, futex_body},         {"spin", NULL, spin_body},
      {"psort", sort_prepare, sort_body},  {"independent", NULL, independent_body},
      {"shootdown", NULL, shootdown_body},
  };
  bench_median = 1;
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}
