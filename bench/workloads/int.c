// Integer workloads: what general-purpose registers, branches, calls and small tables do.
#include "bench.h"

// sort: quicksort of random 32-bit numbers.
enum { sort_count = 400000 };
static uint32_t *sort_input, *sort_work;

static void sort_prepare(void) {
  uint64_t seed = 1;
  sort_input = allocate(sort_count * 4);
  sort_work = allocate(sort_count * 4);
  for (int i = 0; i < sort_count; ++i) sort_input[i] = (uint32_t)random_next(&seed);
}

static void quicksort(uint32_t* a, long low, long high) {
  while (high - low > 12) {
    uint32_t x = a[low], y = a[(low + high) / 2], z = a[high];
    uint32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
    long i = low, j = high;
    while (i <= j) {
      while (a[i] < pivot) ++i;
      while (a[j] > pivot) --j;
      if (i <= j) {
        uint32_t t = a[i];
        a[i++] = a[j];
        a[j--] = t;
      }
    }
    quicksort(a, low, j);
    low = i;
  }
  for (long i = low + 1; i <= high; ++i) {
    uint32_t value = a[i];
    long j = i;
    for (; j > low && a[j - 1] > value; --j) a[j] = a[j - 1];
    a[j] = value;
  }
}

static uint64_t sort_body(void) {
  memcpy(sort_work, sort_input, sort_count * 4);
  quicksort(sort_work, 0, sort_count - 1);
  return mix_bytes(0, sort_work, sort_count * 4);
}

// hash: words counted in a chained hash table of strings.
enum { hash_words = 600000, hash_buckets = 16384 };
static char (*hash_text)[12];
struct entry {
  struct entry* next;
  uint32_t count;
  char word[12];
};
static struct entry *hash_pool, *hash_table[hash_buckets];

static void hash_prepare(void) {
  uint64_t seed = 2;
  hash_text = allocate(hash_words * sizeof *hash_text);
  hash_pool = allocate(40000 * sizeof *hash_pool);
  for (int i = 0; i < hash_words; ++i)
    snprintf(hash_text[i], sizeof hash_text[i], "w%" PRIx64,
             (random_next(&seed) >> 20) % 30000 * 40503u);
}

static uint64_t hash_body(void) {
  memset(hash_table, 0, sizeof hash_table);
  uint32_t used = 0;
  for (int i = 0; i < hash_words; ++i) {
    const char* word = hash_text[i];
    uint32_t h = 2166136261u;
    for (const char* p = word; *p; ++p) h = (h ^ (unsigned char)*p) * 16777619u;
    struct entry** slot = &hash_table[h % hash_buckets];
    while (*slot && strcmp((*slot)->word, word) != 0) slot = &(*slot)->next;
    if (!*slot) {
      struct entry* fresh = &hash_pool[used++];
      fresh->next = NULL;
      fresh->count = 0;
      strcpy(fresh->word, word);
      *slot = fresh;
    }
    (*slot)->count++;
  }
  uint64_t sum = used;
  for (int i = 0; i < hash_buckets; ++i)
    for (struct entry* e = hash_table[i]; e; e = e->next) sum = mix(sum, e->count);
  return sum;
}

// sha256: FIPS 180-4, plain C.
static uint8_t* sha_input;
enum { sha_size = 9 << 20, crc_size = 12 << 20 };
static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static void bytes_prepare(void) {
  uint64_t seed = 3;
  sha_input = allocate(crc_size);
  for (size_t i = 0; i < crc_size; i += 8) {
    uint64_t word = random_next(&seed);
    memcpy(sha_input + i, &word, 8);
  }
}

static inline uint32_t ror(uint32_t x, int n) {
  return x >> n | x << (32 - n);
}

static uint64_t sha_body(void) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (size_t at = 0; at < sha_size; at += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      uint32_t word;
      memcpy(&word, sha_input + at + 4 * (size_t)i, 4);
      w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; ++i)
      w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      uint32_t t1 =
          h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + sha_k[i] + w[i];
      uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
  return mix_bytes(0, state, sizeof state);
}

// crc32: a byte at a time by table.
static uint32_t crc_table[256];

static void crc_prepare(void) {
  bytes_prepare();
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    crc_table[i] = c;
  }
}

static uint64_t crc_body(void) {
  uint32_t c = ~0u;
  for (size_t i = 0; i < crc_size; ++i) c = crc_table[(c ^ sha_input[i]) & 255] ^ c >> 8;
  return ~c;
}

// vm: a bytecode interpreter (switch in a loop) that runs a sieve of Eratosthenes.
enum op { op_set, op_add, op_addi, op_load, op_store, op_jlt, op_jz, op_jump, op_stop };
struct insn {
  uint8_t op, a, b, c;
  int32_t value;
};

static uint64_t vm_body(void) {
  enum { limit = 180000, rounds = 10 };
  // r0 = i, r1 = limit, r2 = j, r3 = value, r4 = count, r5 = 1
  static const struct insn program[] = {
      {op_set, 0, 0, 0, 2},   {op_set, 1, 0, 0, limit}, {op_set, 4, 0, 0, 0},
      {op_set, 5, 0, 0, 1},   {op_load, 3, 0, 0, 0},    {op_jz, 3, 0, 0, 7},
      {op_jump, 0, 0, 0, 12}, {op_addi, 4, 4, 0, 1},    {op_add, 2, 0, 0, 0},
      {op_jlt, 1, 2, 0, 12},  {op_store, 5, 2, 0, 0},   {op_jump, 0, 0, 0, 15},
      {op_addi, 0, 0, 0, 1},  {op_jlt, 0, 1, 0, 4},     {op_stop, 0, 0, 0, 0},
      {op_add, 2, 2, 0, 0},   {op_jlt, 2, 1, 0, 10},    {op_jump, 0, 0, 0, 12},
  };
  static uint8_t memory[limit * 2 + 2];
  memset(memory, 0, sizeof memory);
  int64_t r[6] = {0};
  uint64_t steps = 0, round = 0;
  for (const struct insn* at = program;; ++steps) {
    const struct insn* i = at++;
    switch (i->op) {
      case op_set: r[i->a] = i->value; break;
      case op_add: r[i->a] = r[i->b] + r[i->c]; break;
      case op_addi: r[i->a] = r[i->b] + i->value; break;
      case op_load: r[i->a] = memory[r[i->b]]; break;
      case op_store: memory[r[i->b]] = (uint8_t)r[i->a]; break;
      case op_jlt:
        if (r[i->a] < r[i->b]) at = program + i->value;
        break;
      case op_jz:
        if (!r[i->a]) at = program + i->value;
        break;
      case op_jump: at = program + i->value; break;
      default:
        if (++round == rounds) return mix(steps, (uint64_t)r[4]);
        memset(memory, 0, sizeof memory);
        at = program;
    }
  }
}

// records: small records copied and compared, strings, calls: what the classic synthetic mixes do.
struct record {
  struct record* next;
  int kind, count;
  char name[32];
};
static char record_a[32] = "SOME STRING WITH THIRTY LETTER", record_b[32];

__attribute__((noinline)) static int classify(char first, char second) {
  char c = first;
  if (c != second) return 0;
  record_b[0] = c;
  return 1;
}

__attribute__((noinline)) static int same_names(const char* a, const char* b) {
  int index = 1;
  while (index <= 1)
    if (!classify(a[index], b[index + 1])) ++index;
  return strcmp(a, b) > 0 ? 10 : index;
}

__attribute__((noinline)) static void fill(struct record* to, struct record* from, int run) {
  *to->next = *from;
  to->count = run & 15;
  to->next->count = to->count + 3;
  to->next->kind = to->kind == 2 ? to->count : 7;
}

static uint64_t records_body(void) {
  struct record one = {NULL, 2, 5, "FIRST"}, two = {NULL, 1, 6, "SECOND"};
  int grid[16] = {0};
  uint64_t sum = 0;
  one.next = &two, two.next = &one;
  for (int run = 0; run < 3000000; ++run) {
    memcpy(record_b, record_a, sizeof record_b);
    record_b[4 + (run & 7)] = (char)('A' + run % 23);
    int found = same_names(record_a, record_b);
    fill(&one, &two, run);
    one.next = &two, two.next = &one;
    grid[run & 15] += found * 3 + one.count / (1 + (run & 3));
    sum += (unsigned)(grid[(run + 5) & 15] ^ two.kind);
  }
  return sum;
}

// fib: calls and returns.
__attribute__((noinline)) static uint64_t fib(unsigned n) {
  return n < 2 ? n : fib(n - 1) + fib(n - 2);
}
static uint64_t fib_body(void) {
  volatile unsigned n = 36;
  return fib(n);
}

// queens: bit tricks and recursion.
__attribute__((noinline)) static unsigned place(unsigned all, unsigned columns, unsigned left,
                                                unsigned right) {
  unsigned found = 0;
  if (columns == all) return 1;
  for (unsigned free = all & ~(columns | left | right); free;) {
    unsigned bit = free & -free;
    free ^= bit;
    found += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
  }
  return found;
}
static uint64_t queens_body(void) {
  return place((1u << 13) - 1, 0, 0, 0);
}

// bignum: modular powers of 1024-bit numbers: wide multiplies and carries.
enum { limbs = 16 };
typedef unsigned __int128 wide;

static void mont_mul(uint64_t* out, const uint64_t* a, const uint64_t* b, const uint64_t* m,
                     uint64_t inverse) {
  uint64_t t[limbs + 2] = {0};
  for (int i = 0; i < limbs; ++i) {
    uint64_t carry = 0;
    for (int j = 0; j < limbs; ++j) {
      wide x = (wide)a[j] * b[i] + t[j] + carry;
      t[j] = (uint64_t)x, carry = (uint64_t)(x >> 64);
    }
    wide x = (wide)t[limbs] + carry;
    t[limbs] = (uint64_t)x, t[limbs + 1] = (uint64_t)(x >> 64);
    uint64_t q = t[0] * inverse;
    x = (wide)q * m[0] + t[0];
    carry = (uint64_t)(x >> 64);
    for (int j = 1; j < limbs; ++j) {
      x = (wide)q * m[j] + t[j] + carry;
      t[j - 1] = (uint64_t)x, carry = (uint64_t)(x >> 64);
    }
    x = (wide)t[limbs] + carry;
    t[limbs - 1] = (uint64_t)x;
    t[limbs] = t[limbs + 1] + (uint64_t)(x >> 64);
  }
  memcpy(out, t, limbs * 8);
}

static uint64_t bignum_body(void) {
  uint64_t seed = 5, m[limbs], x[limbs], y[limbs], inverse = 1;
  for (int i = 0; i < limbs; ++i) m[i] = random_next(&seed), y[i] = x[i] = random_next(&seed) >> 1;
  m[0] |= 1, m[limbs - 1] |= 1ull << 63;
  for (int i = 0; i < 6; ++i) inverse *= 2 - m[0] * inverse;
  inverse = -inverse;
  for (int i = 0; i < 60000; ++i) {
    mont_mul(x, x, x, m, inverse);
    if (i & 1) mont_mul(x, x, y, m, inverse);
  }
  return mix_bytes(0, x, sizeof x);
}

// dispatch: indirect calls whose target changes from call to call.
typedef uint64_t (*step)(uint64_t);
static uint64_t step_a(uint64_t x) {
  return x * 5 + 1;
}
static uint64_t step_b(uint64_t x) {
  return x ^ x >> 7;
}
static uint64_t step_c(uint64_t x) {
  return (x << 13 | x >> 51) + 3;
}
static uint64_t step_d(uint64_t x) {
  return x - (x >> 3);
}
static step dispatch_table[64];

static void dispatch_prepare(void) {
  static const step steps[] = {step_a, step_b, step_c, step_d};
  uint64_t seed = 6;
  for (int i = 0; i < 64; ++i) dispatch_table[i] = steps[random_next(&seed) >> 62];
}

static uint64_t dispatch_body(void) {
  uint64_t x = 1;
  for (int i = 0; i < 12000000; ++i) x = dispatch_table[i * 7 & 63](x);
  return x;
}

// format: numbers to text and back through libc.
static uint64_t format_body(void) {
  char line[96];
  uint64_t seed = 7, sum = 0;
  for (int i = 0; i < 150000; ++i) {
    uint64_t x = random_next(&seed);
    int n = snprintf(line, sizeof line, "%d:%08x:%s:%" PRIu64, (int)x, (unsigned)(x >> 32),
                     i & 1 ? "odd" : "even", x);
    sum = mix(sum, (uint64_t)n + strtoull(strrchr(line, ':') + 1, NULL, 10));
  }
  return sum;
}

int main(int argc, char** argv) {
  static const struct workload table[] = {
      {"sort", sort_prepare, sort_body},
      {"hash", hash_prepare, hash_body},
      {"sha256", bytes_prepare, sha_body},
      {"crc32", crc_prepare, crc_body},
      {"vm", NULL, vm_body},
      {"records", NULL, records_body},
      {"fib", NULL, fib_body},
      {"queens", NULL, queens_body},
      {"bignum", NULL, bignum_body},
      {"dispatch", dispatch_prepare, dispatch_body},
      {"format", NULL, format_body},
  };
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}
