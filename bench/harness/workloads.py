"""The table of workloads: what is run, in which group, and on how many CPUs; and the input files made for them."""
import dataclasses
import random

GROUPS = {
    "int": "integer code",
    "fp": "floating point and vectors",
    "mem": "memory",
    "interp": "interpreters, compiler",
    "kern": "kernel-heavy",
    "smp": "two CPUs",
    "io": "disk",
    "boot": "boot of a Debian cloud kernel",
}
# What the software engine is to reach: slowdown against native, geometric mean of the group.
GOALS = {"int": 2.2, "fp": 1.8, "mem": 3.0, "interp": 3.0, "kern": 3.5, "smp": 2.5}


@dataclasses.dataclass(frozen=True)
class Workload:
    group: str
    name: str
    kind: str  # "self": a program of bench.h; "whole": a command whose wall time counts
    argv: tuple
    preload: tuple = ()  # files read before anything is measured
    more: int = 1  # times as many repetitions, for short ones that scheduling disturbs

    @property
    def cpus(self):
        return 2 if self.group == "smp" else 1

    @property
    def key(self):
        return f"{self.group}/{self.name}"


def programs(group, program, names, suffix="", more=1):
    return [Workload(group, name + suffix, "self", (f"/bench/{program}", name), more=more) for name in names.split()]


def command(group, name, line, preload=""):
    return Workload(group, name, "whole", tuple(line.split()), tuple(preload.split()))


LIB = "/lib/x86_64-linux-gnu/"
GCC = "/usr/lib/gcc/x86_64-linux-gnu/12/"

ALL = [
    *programs("int", "int", "sort hash sha256 crc32 vm records fib queens bignum dispatch format"),
    command("int", "zstd", "zstd -q -3 -T1 -c /bench/text", "/usr/bin/zstd /bench/text"),
    command("int", "xz", "xz -1 -T1 -c /bench/text_small", f"/usr/bin/xz {LIB}liblzma.so.5 /bench/text_small"),
    command("int", "openssl_sha256", "openssl dgst -sha256 /tmp/blob", "/usr/bin/openssl "
            "/usr/lib/x86_64-linux-gnu/libcrypto.so.3 /usr/lib/x86_64-linux-gnu/libssl.so.3"),
    command("int", "openssl_aes", "dash /bench/aes.sh"),
    *programs("fp", "fp_sse2", "nbody dgemm sgemm fft mandelbrot x87 triangle blur"),
    *programs("fp", "fp_avx2", "nbody dgemm sgemm fft triangle blur", "_avx2"),
    *programs("mem", "mem", "memcpy_small memcpy_4k memcpy_16m copy8 memset rep_movs chase_16k chase_1m chase_64m "
              "random triad strlen memchr stack"),
    command("interp", "python", "python3 /bench/mix.py", "/usr/bin/python3.11"),
    command("interp", "python_start", "python3 -c print(1)"),
    command("interp", "perl", "perl /bench/mix.pl", "/usr/bin/perl"),
    command("interp", "sqlite", "sqlite3 -batch -init /bench/mix.sql :memory: .quit",
            "/usr/bin/sqlite3 /usr/lib/x86_64-linux-gnu/libsqlite3.so.0"),
    command("interp", "gcc", "dash /bench/gcc.sh",
            f"{GCC}cc1 /usr/bin/gcc-12 /usr/bin/as /usr/lib/x86_64-linux-gnu/libbfd-2.40-system.so "
            "/usr/lib/x86_64-linux-gnu/libisl.so.23 /usr/lib/x86_64-linux-gnu/libgmp.so.10"),
    command("interp", "sh", "dash /bench/mix.sh", "/bin/dash"),
    command("interp", "pipes", "dash /bench/pipes.sh", "/usr/bin/tr /usr/bin/wc"),
    *programs("kern", "kern", "getpid clock fork exec pipe socket fault map stat signal segv files readwrite yield "
              "epoll"),
    *programs("smp", "smp", "atomic psort independent"),
    *programs("smp", "smp", "mutex futex spin shootdown", more=3),
    *programs("io", "io", "rand_read_1 rand_write_1 rand_read_32 rand_write_32 seq_read seq_write", more=3),
]


def select(names):
    """Workloads named by group, name or group/name; all without names. Boot is no workload of the list."""
    if not names:
        return list(ALL)
    chosen = [w for w in ALL if {w.group, w.name, w.key} & set(names)]
    known = {"boot"} | {n for w in ALL for n in (w.group, w.name, w.key)}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise SystemExit(f"suite: no group or workload is called {', '.join(unknown)}; see --list")
    return chosen


def list_text(chosen, reps, budget_ms, timeout_s):
    """The file that workloads/runner.c reads."""
    lines = dict.fromkeys(f"preload\t{path}" for w in chosen for path in w.preload)
    for w in chosen:
        lines["\t".join([w.kind, w.key, str(timeout_s), str(reps * w.more), str(budget_ms * w.more), *w.argv])] = None
    return "\n".join(lines) + "\n"


def text(size):
    """Words of uneven frequency with repeated phrases, so that compressors have something to find."""
    source = random.Random(41)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(source.choices(letters, range(26, 0, -1), k=source.randint(2, 9))) for _ in range(3000)]
    phrases = [" ".join(source.choices(words, k=6)) for _ in range(400)]
    parts, length = [], 0
    while length < size:
        part = source.choice(phrases) if source.random() < 0.2 else words[int(source.paretovariate(0.6)) % len(words)]
        parts.append(part + ("\n" if source.random() < 0.1 else " "))
        length += len(parts[-1])
    return "".join(parts).encode()[:size]


def c_source(functions):
    """A C file of the sort that compilers see: structures, switches, loops, calls."""
    source = random.Random(42)
    lines = ["struct item { struct item *next; int kind, count; long weight; char name[24]; };",
             "extern int log_it(const char *, int);"]
    for n in range(functions):
        cases = "\n".join(f"      case {c}: total += item->weight * {source.randint(2, 99)}; break;"
                          for c in range(source.randint(3, 7)))
        callee = f"work{source.randrange(n)}(item->next, depth - 1)" if n else "depth"
        lines.append(f"""
static long table{n}[{8 << n % 3}];
long work{n}(struct item *item, int depth) {{
  long total = {source.randint(1, 1000)};
  for (; item && depth > 0; item = item->next, --depth) {{
    switch ((item->kind + {n}) % 8) {{
{cases}
      default: total ^= item->count << {source.randint(1, 5)};
    }}
    for (int i = 0; i < {8 << n % 3}; ++i)
      if (table{n}[i] > total) {{ table{n}[i] -= item->count; total += i; }}
      else table{n}[i] = total * {source.randint(3, 77)} + item->name[i % 24];
    if (total % {source.randint(3, 17)} == 1) total += {callee};
    if (item->count > {source.randint(10, 500)}) log_it(item->name, (int)total);
  }}
  return total;
}}""")
    return "\n".join(lines).encode()


def inputs():
    """Input files by name."""
    blob = random.Random(43).randbytes(1 << 20)
    return {"text": text(3 << 20), "text_small": text(400 << 10), "blob": blob, "source.c": c_source(10)}
