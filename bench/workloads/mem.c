// Memory: block operations of libc and by hand, dependent and independent accesses.
#include "bench.h"

enum { big = 16 << 20 };
static uint8_t *from, *to;

static void fill(uint8_t* p, size_t size) {
  uint64_t seed = 21;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = random_next(&seed) | 0x0101010101010101u;  // no zero byte
    memcpy(p + i, &word, 8);
  }
}

static void blocks_prepare(void) {
  from = allocate(big), to = allocate(big);
  fill(from, big);
  memset(to, 0, big);
}

// A sample, not the whole: hashing must not cost more than what is measured.
static uint64_t sampled(const uint8_t* p, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i < size; i += 4093) sum = mix(sum, p[i]);
  return sum;
}

// memcpy_small: 1 to 64 bytes at odd places.
static uint64_t small_body(void) {
  uint64_t x = 22;
  for (int i = 0; i < 3000000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    memcpy(to + (x >> 52), from + (x >> 40 & 4095), (x >> 34 & 63) + 1);
    OPAQUE(to);
  }
  return mix_bytes(0, to, 4096 + 64);
}

static uint64_t copy_4k_body(void) {
  for (int i = 0; i < 400000; ++i) {
    memcpy(to, from + (i & 7) * 4096, 4096);
    OPAQUE(to);
  }
  return sampled(to, 4096);
}

static uint64_t copy_16m_body(void) {
  for (int i = 0; i < 16; ++i) {
    from[i * 100] = (uint8_t)(i + 1);
    memcpy(to, from, big);
    OPAQUE(to);
  }
  return sampled(to, big);
}

// copy8: 8 bytes at a time by a loop, which the flags of this file's build keep a loop.
static uint64_t copy8_body(void) {
  const uint64_t* restrict in = (const uint64_t*)from;
  uint64_t* restrict out = (uint64_t*)to;
  for (int round = 0; round < 1600; ++round) {
    for (int i = 0; i < 32768; ++i) out[i] = in[i];
    OPAQUE(out);
  }
  return sampled(to, 32768 * 8);
}

static uint64_t memset_body(void) {
  for (int i = 0; i < 250000; ++i) {
    memset(to, i, 8192 - (i & 63));
    OPAQUE(to);
  }
  return sampled(to, 8192);
}

// rep_movs: the string instruction itself, a page at a time, as kernels copy.
static uint64_t rep_movs_body(void) {
  for (int i = 0; i < 600000; ++i) {
    void* d = to + (i & 3) * 4096;
    const void* s = from + (i & 7) * 4096;
    size_t n = 4096;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
  }
  return sampled(to, 4 * 4096);
}

// chase: each load's address is the last load's value, over one cache line per element.
struct line {
  uint32_t next;
  char pad[60];
};
static struct line* lines;
static uint32_t line_count;

static void chase_prepare(uint32_t size) {
  line_count = size / sizeof(struct line);
  lines = allocate(size);
  uint64_t seed = 23;
  for (uint32_t i = 0; i < line_count; ++i) lines[i].next = i;
  for (uint32_t i = line_count - 1; i; --i) {  // Sattolo's shuffle: a single cycle
    uint32_t j = (uint32_t)((random_next(&seed) >> 32) % i), t = lines[i].next;
    lines[i].next = lines[j].next, lines[j].next = t;
  }
}
static void chase_16k_prepare(void) {
  chase_prepare(16 << 10);
}
static void chase_1m_prepare(void) {
  chase_prepare(1 << 20);
}
static void chase_64m_prepare(void) {
  chase_prepare(64 << 20);
}

static uint64_t chase(int steps) {
  uint32_t at = 0, sum = 0;
  for (int i = 0; i < steps; ++i) at = lines[at].next, sum += at;
  return sum;
}
static uint64_t chase_16k_body(void) {
  return chase(16000000);
}
static uint64_t chase_1m_body(void) {
  return chase(4000000);
}
static uint64_t chase_64m_body(void) {
  return chase(300000);
}

// random: independent read-modify-writes all over 16 MiB.
static uint64_t random_body(void) {
  uint32_t* table = (uint32_t*)from;
  uint64_t x = 24;
  memset(from, 0, big);
  for (int i = 0; i < 4000000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    table[x >> 42] += (uint32_t)i;
  }
  return sampled(from, big);
}

// triad: a = b + s * c over arrays larger than the caches.
enum { triad_count = 2 << 20 };
static double *ta, *tb, *tc;
static void triad_prepare(void) {
  ta = allocate(triad_count * 8), tb = allocate(triad_count * 8), tc = allocate(triad_count * 8);
  for (int i = 0; i < triad_count; ++i) ta[i] = 0, tb[i] = i, tc[i] = i % 1000;
}
static uint64_t triad_body(void) {
  for (int round = 0; round < 10; ++round) {
    double s = round + 0.5;
    for (int i = 0; i < triad_count; ++i) ta[i] = tb[i] + s * tc[i];
    OPAQUE(ta);
  }
  return sampled((const uint8_t*)ta, triad_count * 8);
}

// strlen, memchr: libc's scans.
static uint64_t strlen_body(void) {
  uint64_t sum = 0;
  from[8191] = 0;
  for (int i = 0; i < 700000; ++i) {
    const char* text = (const char*)from + (i * 37 & 8191);
    OPAQUE(text);
    sum += strlen(text);
  }
  return sum;
}
static uint64_t memchr_body(void) {
  uint64_t sum = 0;
  memset(from, 'a', 65536);
  from[60000] = 'b';
  for (int i = 0; i < 60000; ++i) {
    const uint8_t* at = from + (i & 63);
    OPAQUE(at);
    sum += (uint64_t)((const uint8_t*)memchr(at, 'b', 65000) - at);
  }
  return sum;
}

// stack: pushes, pops and spills: the accesses that compiled code makes most.
__attribute__((noinline)) static uint64_t spill(uint64_t n, uint64_t a, uint64_t b, uint64_t c) {
  volatile uint64_t kept[6] = {a, b, c, a ^ b, b ^ c, n};
  if (n == 0) return kept[0] + kept[4];
  return spill(n - 1, kept[1] + 1, kept[2], kept[3]) + kept[5];
}
static uint64_t stack_body(void) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < 60000; ++i) sum += spill(40, i, i + 1, i + 2);
  return sum;
}

int main(int argc, char** argv) {
  static const struct workload table[] = {
      {"memcpy_small", blocks_prepare, small_body},
      {"memcpy_4k", blocks_prepare, copy_4k_body},
      {"memcpy_16m", blocks_prepare, copy_16m_body},
      {"copy8", blocks_prepare, copy8_body},
      {"memset", blocks_prepare, memset_body},
      {"rep_movs", blocks_prepare, rep_movs_body},
      {"chase_16k", chase_16k_prepare, chase_16k_body},
      {"chase_1m", chase_1m_prepare, chase_1m_body},
      {"chase_64m", chase_64m_prepare, chase_64m_body},
      {"random", blocks_prepare, random_body},
      {"triad", triad_prepare, triad_body},
      {"strlen", blocks_prepare, strlen_body},
      {"memchr", blocks_prepare, memchr_body},
      {"stack", NULL, stack_body},
  };
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}
