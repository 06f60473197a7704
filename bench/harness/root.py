"""The guest's root file system, the programs and the initrd, made once and kept in a cache.

The root is unpacked Debian packages: natively a directory to chroot into, in a guest an ext4 image of the same
tree. The programs are compiled with the root's own compiler and go, with their inputs and the list of what to run,
into an archive behind the initrd of the test suite's guests (tests/guests/make), which has the virtio modules.
"""
import hashlib
import os
import pathlib
import shlex
import shutil
import stat
import subprocess
import sys

from . import workloads

BENCH = pathlib.Path(__file__).resolve().parent.parent
SOURCES = BENCH / "workloads"
CACHE_HOME = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skerry"
CACHE = pathlib.Path(os.environ.get("SKERRY_BENCH") or CACHE_HOME / "bench")
GUESTS = pathlib.Path(os.environ.get("SKERRY_GUESTS") or CACHE_HOME / "guests")
KERNEL = "cloud-6.1"

PACKAGES = ("python3-minimal perl-base sqlite3 gcc libc6-dev dash coreutils busybox-static xz-utils zstd "
            "openssl").split()
RELEASE = "bookworm"
# Not needed by any workload, and a third of the tree.
DROPPED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "var/lib/apt",
           "var/cache", "usr/lib/gcc/x86_64-linux-gnu/12/lto1", "usr/lib/x86_64-linux-gnu/gconv",
           "usr/share/zoneinfo", "usr/lib/x86_64-linux-gnu/perl-base/unicore")

WARNINGS = "-Wall -Wextra -Werror"
# Output, source, flags.
PROGRAMS = [
    ("int", "int.c", "-O2"),
    ("fp_sse2", "fp.c", "-O3 -lm"),
    ("fp_avx2", "fp.c", "-O3 -mavx2 -mfma -DSKERRY_AVX2 -lm"),
    ("mem", "mem.c", "-O2 -fno-tree-vectorize -fno-tree-loop-distribute-patterns"),
    ("kern", "kern.c", "-O2"),
    ("smp", "smp.c", "-O2 -pthread"),
    ("io", "io.c", "-O2"),
    ("runner", "runner.c", "-O2"),
    ("nothing", "nothing.c", "-O2 -static -nostdlib"),
]


def say(text):
    print(f"suite: {text}", file=sys.stderr, flush=True)


def digest(*parts):
    result = hashlib.sha256()
    for part in parts:
        result.update(part if isinstance(part, bytes) else str(part).encode())
    return result.hexdigest()[:16]


def stamped(path, stamp):
    return path.exists() and path.read_text() == stamp


def tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def in_root(command, **options):
    """Runs a command in the root, with /bench there being the programs and `data`, an image, at /tmp/data (for root
    only). Own namespaces: nothing stays mounted."""
    root, bench, data = CACHE / "root", options.pop("bench", CACHE / "programs"), options.pop("data", None)
    script = ('set -e; r=$1 b=$2; shift 2; mount --make-rprivate / 2>/dev/null || :; mount -t tmpfs tmpfs "$r/tmp"; '
              'mount --bind "$b" "$r/bench"; mount --rbind /proc "$r/proc"; mount --rbind /dev "$r/dev"; '
              + (f'mkdir "$r/tmp/data"; mount -o loop {shlex.quote(str(data))} "$r/tmp/data"; ' if data and os.getuid() == 0
                 else "") +
              f'exec {tool("chroot")} "$r" "$@"')
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    return [*unshare, "sh", "-c", script, "sh", str(root), str(bench), *command]


def make_root():
    stamp = digest(PACKAGES, RELEASE, DROPPED)
    if stamped(CACHE / "root.stamp", stamp):
        return
    for name in ("mmdebstrap", "mke2fs", "unshare"):
        if not tool(name):
            raise SystemExit(f"suite: {name} is needed (apt-get install mmdebstrap e2fsprogs util-linux)")
    say(f"making the root file system of {len(PACKAGES)} packages and what they need")
    CACHE.mkdir(parents=True, exist_ok=True)
    root, tar = CACHE / "root", CACHE / "root.tar"
    (CACHE / "root.stamp").unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run([tool("mmdebstrap"), "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}", RELEASE,
                    str(tar)], check=True)
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(tar), "--exclude=./dev/*", "--no-same-owner"], check=True)
    tar.unlink()
    for path in DROPPED:
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    for name in ("bench", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    (root / "bin/sh").exists() or (root / "bin/sh").symlink_to("dash")
    # Without root's compiled modules every start of Python would compile them again.
    subprocess.run(in_root(["/usr/bin/python3.11", "-m", "compileall", "-q", "/usr/lib/python3.11"], bench=SOURCES),
                   check=False)
    (CACHE / "root.stamp").write_text(stamp)


def make_image():
    image, stamp = CACHE / "root.img", (CACHE / "root.stamp").read_text()
    if stamped(CACHE / "image.stamp", stamp):
        return
    say("making the image")
    image.unlink(missing_ok=True)
    used = int(subprocess.run(["du", "-sm", str(CACHE / "root")], check=True, capture_output=True).stdout.split()[0])
    subprocess.run([tool("mke2fs"), "-q", "-t", "ext4", "-O", "^has_journal", "-L", "bench", "-E", "root_owner=0:0",
                    "-d", str(CACHE / "root"), str(image), f"{used * 13 // 10 + 32}M"], check=True,
                   stdout=subprocess.DEVNULL)
    (CACHE / "image.stamp").write_text(stamp)


def make_data(image):
    """An empty ext4 for the disk that the io workloads write."""
    subprocess.run([tool("mke2fs"), "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image), "512M"],
                   check=True, stdout=subprocess.DEVNULL)


def make_programs():
    sources = sorted(p for p in SOURCES.iterdir() if p.is_file() and p.name != "init")
    stamp = digest((CACHE / "root.stamp").read_text(), PROGRAMS, *(p.read_bytes() for p in sources),
                   (BENCH / "harness/workloads.py").read_bytes())
    if stamped(CACHE / "programs.stamp", stamp):
        return
    say("compiling the workloads")
    (CACHE / "programs.stamp").unlink(missing_ok=True)
    programs = CACHE / "programs"
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    for path in sources:
        shutil.copy2(path, programs)
    for output, source, flags in PROGRAMS:
        before, _, libraries = flags.partition(" -l")
        subprocess.run(in_root(["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "gcc", *WARNINGS.split(), *before.split(),
                                f"/bench/{source}", "-o", f"/bench/{output}",
                                *([f"-l{libraries}"] if libraries else [])]), check=True)
    for path in programs.glob("*.[ch]"):
        path.unlink()
    for name, content in workloads.inputs().items():
        (programs / name).write_bytes(content)
    (CACHE / "programs.stamp").write_text(stamp)


def make_guest():
    if not (GUESTS / KERNEL / "initrd").exists():
        subprocess.run([str(BENCH.parent / "tests/guests/make"), KERNEL], check=True, stdout=subprocess.DEVNULL)


def prepare():
    make_guest()
    make_root()
    make_image()
    make_programs()


def archive(entries):
    """A cpio archive ("newc") of {name: (mode, content)}."""
    result = bytearray()

    def add(number, name, mode, content):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        result.extend(b"070701" + b"".join(b"%08x" % f for f in fields) + encoded)
        result.extend(bytes(-len(result) % 4) + content)
        result.extend(bytes(-len(result) % 4))

    for number, (name, (mode, content)) in enumerate(entries.items(), 1):
        add(number, name, mode, content)
    add(0, "TRAILER!!!", 0, b"")
    return bytes(result)


def write_initrd(output, list_text):
    """The test guests' initrd, then an archive that replaces its /init and adds /bench."""
    entries = {"init": (stat.S_IFREG | 0o755, (SOURCES / "init").read_bytes()), "bench": (stat.S_IFDIR | 0o755, b"")}
    for path in sorted((CACHE / "programs").iterdir()):
        entries[f"bench/{path.name}"] = (path.stat().st_mode, path.read_bytes())
    entries["bench/list"] = (stat.S_IFREG | 0o644, list_text.encode())
    first = (GUESTS / KERNEL / "initrd").read_bytes()
    output.write_bytes(first + bytes(-len(first) % 4) + archive(entries))
