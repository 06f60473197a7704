// What the C workloads share: the measuring main, a generator of numbers and a hash.
//
// A program is a table of workloads. `PROGRAM NAME REPS BUDGET_MS` runs NAME: prepare() once, then
// body() until REPS repetitions are done or BUDGET_MS have passed (a slow machine is content with
// fewer), and prints
//   RESULT FASTEST_NS TOTAL_NS CHECKSUM REPETITIONS
// (the median instead of the fastest where bench_median is set: for workloads that have two speeds,
// by luck). Only body() is timed. It returns a checksum of what it computed, which must be the same
// each time and on every machine: nothing that depends on addresses, process numbers, time or
// libm's choice of variant.
#ifndef SKERRY_BENCH_H
#define SKERRY_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct workload {
  const char* name;
  void (*prepare)(void);  // may be null
  uint64_t (*body)(void);
};

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// xorshift64*: the same numbers everywhere.
static inline uint64_t random_next(uint64_t* state) {
  uint64_t x = *state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  return x * 0x2545f4914f6cdd1du;
}

static inline uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

static inline uint64_t mix_bytes(uint64_t hash, const void* data, size_t size) {
  const unsigned char* p = data;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    hash = mix(hash, word);
  }
  while (size--) hash = mix(hash, *p++);
  return hash;
}

static inline void die(const char* what) {
  perror(what);
  exit(1);
}

// The compiler must believe that p's target is read and written here.
#define OPAQUE(p) __asm__ volatile("" : "+r"(p) : : "memory")

static inline void* allocate(size_t size) {
  void* p = aligned_alloc(64, (size + 63) & ~(size_t)63);
  if (!p) die("allocate");
  return p;
}

static int bench_median;

static inline int bench_compare(const void* a, const void* b) {
  uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return (x > y) - (x < y);
}

static inline int bench_main(int argc, char** argv, const struct workload* table, size_t count) {
  if (argc != 4) {
    for (size_t i = 0; i < count; ++i) puts(table[i].name);
    return argc == 1 ? 0 : 2;
  }
  int reps = atoi(argv[2]);
  uint64_t budget = strtoull(argv[3], NULL, 10) * 1000000u;
  for (size_t i = 0; i < count; ++i) {
    if (strcmp(table[i].name, argv[1]) != 0) continue;
    if (table[i].prepare) table[i].prepare();
    static uint64_t times[1000];
    uint64_t total = 0, checksum = 0;
    if (reps > 1000) reps = 1000;
    int done = 0;
    do {
      uint64_t began = now_ns();
      uint64_t sum = table[i].body();
      uint64_t took = now_ns() - began;
      if (done && sum != checksum) {
        printf("UNSTABLE %016" PRIx64 " %016" PRIx64 "\n", checksum, sum);
        return 1;
      }
      checksum = sum;
      total += took;
      times[done] = took;
    } while (++done < reps && total < budget);
    qsort(times, (size_t)done, sizeof *times, bench_compare);
    uint64_t best = times[bench_median ? done / 2 : 0];
    printf("RESULT %" PRIu64 " %" PRIu64 " %016" PRIx64 " %d\n", best, total, checksum, done);
    return 0;
  }
  fprintf(stderr, "no workload is called %s\n", argv[1]);
  return 2;
}

#endif
