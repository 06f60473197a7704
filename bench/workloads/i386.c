// A 32-bit program for bench/i386: the first process of a guest, or natively one of a 64-bit host.
// Free-standing: needs no 32-bit libraries. Says when each workload begins and what came out of it;
// whoever reads takes the time.
typedef unsigned u32;
typedef unsigned char u8;
typedef unsigned long long u64;

static int call(int number, int a, int b, int c) {
  int result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
  return result;
}
enum { kExit = 1, kFork = 2, kWrite = 4, kWaitpid = 7, kGetpid = 20, kReboot = 88, kMunmap = 91,
       kMmap2 = 192 };

static void say(const char* kind, const char* name, u32 value, int valued) {
  static char line[128];
  int n = 0;
  for (const char* p = kind; *p; ++p) line[n++] = *p;
  line[n++] = ' ';
  for (const char* p = name; *p; ++p) line[n++] = *p;
  if (valued) {
    line[n++] = ' ';
    for (int shift = 28; shift >= 0; shift -= 4) line[n++] = "0123456789abcdef"[value >> shift & 15];
  }
  line[n++] = '\n';
  call(kWrite, 1, (int)line, n);
}

static u32 state;
static u32 next(void) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

static u32 numbers[1 << 17];
static void sort(u32* a, int n) {
  while (n > 16) {
    u32 pivot = a[n / 2];
    int i = 0, k = n - 1;
    for (;;) {
      while (a[i] < pivot) ++i;
      while (a[k] > pivot) --k;
      if (i >= k) break;
      u32 t = a[i];
      a[i++] = a[k];
      a[k--] = t;
    }
    sort(a, i);
    a += i;
    n -= i;
  }
  for (int i = 1; i < n; ++i) {
    u32 v = a[i];
    int k = i;
    for (; k > 0 && a[k - 1] > v; --k) a[k] = a[k - 1];
    a[k] = v;
  }
}
static u32 sorting(void) {
  u32 sum = 0;
  for (int round = 0; round < 8; ++round) {
    for (u32 i = 0; i < 1 << 17; ++i) numbers[i] = next();
    sort(numbers, 1 << 17);
    for (u32 i = 0; i < 1 << 17; i += 1000) sum = sum * 31 + numbers[i];
  }
  return sum;
}

static u32 crc(void) {
  static u32 table[256];
  for (u32 i = 0; i < 256; ++i) {
    u32 c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
    table[i] = c;
  }
  u32 c = ~0u;
  for (int round = 0; round < 80; ++round)
    for (u32 i = 0; i < sizeof numbers; ++i) c = table[(c ^ ((u8*)numbers)[i]) & 255] ^ c >> 8;
  return ~c;
}

// 64-bit arithmetic in 32-bit registers.
static u32 wide(void) {
  u64 a = 0x9e3779b97f4a7c15ull, b = 1;
  for (u32 i = 0; i < 30000000; ++i) {
    b += a ^ b >> 7;
    a = (a << 5 | a >> 59) + (u64)(u32)b * (u32)(a >> 32);
  }
  return (u32)(a ^ b >> 32);
}

static int __attribute__((noinline)) fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static u32 calls(void) { return (u32)fib(35); }

static u32 syscalls(void) {
  u32 sum = 0;
  for (int i = 0; i < 100000; ++i) sum += call(kGetpid, 0, 0, 0) > 0;
  return sum;
}

static u32 faults(void) {
  u32 sum = 0;
  for (int round = 0; round < 40; ++round) {
    u8* at;
    __asm__ volatile(
        "push %%ebp; xor %%ebp, %%ebp; int $0x80; pop %%ebp"
        : "=a"(at)
        : "a"(kMmap2), "b"(0), "c"(1 << 22), "d"(3), "S"(0x22), "D"(-1)
        : "memory");
    for (u32 i = 0; i < 1 << 22; i += 4096) sum += ++at[i];
    call(kMunmap, (int)at, 1 << 22, 0);
  }
  return sum;
}

static u32 forks(void) {
  u32 sum = 0;
  for (int i = 0; i < 300; ++i) {
    int pid = call(kFork, 0, 0, 0), status = 0;
    if (pid == 0) call(kExit, i & 127, 0, 0);
    call(kWaitpid, pid, (int)&status, 0);
    sum = sum * 3 + (u32)(status >> 8);
  }
  return sum;
}

static const struct {
  const char* name;
  u32 (*run)(void);
} kWork[] = {{"sort", sorting}, {"crc", crc},         {"wide", wide},  {"calls", calls},
             {"syscalls", syscalls}, {"faults", faults}, {"forks", forks}};

void __attribute__((force_align_arg_pointer)) _start(void) {
  say("I386", "init", 0, 0);
  for (u32 i = 0; i < sizeof kWork / sizeof *kWork; ++i) {
    state = 2463534242u;
    say("BEGIN", kWork[i].name, 0, 0);
    say("END", kWork[i].name, kWork[i].run(), 1);
  }
  say("I386", "done", 0, 0);
  if (call(kGetpid, 0, 0, 0) == 1)
    call(kReboot, (int)0xfee1dead, 672274793, 0x4321fedc);
  call(kExit, 0, 0, 0);
  __builtin_unreachable();
}
