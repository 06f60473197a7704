"""What runs the workloads: the host itself, Skerry's engines, QEMU's TCG. One boot runs a whole list."""
import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time

from . import root, workloads

SKERRY = root.BENCH.parent / "build/release/bin/skerry"
MEMORY_MIB = 1024
BOOT_LIMIT_S = 90
WORKLOAD_LIMIT_S = 120


@dataclasses.dataclass
class Outcome:
    """One workload, run once by one rival."""
    ns: int = 0
    checksum: str = ""
    error: str = ""
    skipped: str = ""
    clock: float = 1.0  # the guest's time for it by the host's


@dataclasses.dataclass(frozen=True)
class Rival:
    name: str
    what: str
    kind: str  # native, skerry, qemu
    options: tuple = ()
    slow: bool = False  # runs fewer repetitions
    binary: str = ""
    extra: tuple = ()  # more options, from --skerry-options

    def command(self, initrd, append, cpus, memory_mib, disk, data=None):
        """Boots a guest with its console on stdout. `data`: a second disk, which it writes."""
        kernel = str(root.GUESTS / root.KERNEL / "vmlinuz")
        if self.kind == "skerry":
            return [self.binary or str(SKERRY), "run", *self.options, *self.extra, "--kernel", kernel,
                    "--initrd", str(initrd), "--append", append, "--memory", f"{memory_mib}M", "--cpus", str(cpus), "--no-reboot",
                    *(["--disk", f"path={disk},readonly"] if disk else []),
                    *(["--disk", f"path={data},format=raw"] if data else [])]
        # What makes QEMU's disks fastest: a thread of their own, io_uring.
        disks = [*([("disk", disk, ",readonly=on", "")] if disk else []),
                 *([("data", data, ",aio=io_uring", ",iothread=io")] if data else [])]
        return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", *self.options, "-m", str(memory_mib), "-smp",
                str(cpus), "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-kernel", kernel,
                "-initrd", str(initrd), "-append", append,
                "-object", "iothread,id=io",
                *(word for name, file, drive, device in disks for word in (
                    "-drive", f"file={file},if=none,id={name},format=raw{drive}",
                    "-device", f"virtio-blk-pci,drive={name}{device}"))]


KNOWN = [
    Rival("native", "the host itself, in a chroot", "native"),
    Rival("jit", "skerry, software engine", "skerry", ("--engine", "soft", "--cpu", "host")),
    Rival("interpreter", "skerry, interpreter only", "skerry", ("--engine", "soft,interpreter", "--cpu", "host"), True),
    Rival("tcg", "QEMU TCG as shipped", "qemu"),
    Rival("tcg-max", "QEMU TCG, -cpu max", "qemu", ("-cpu", "max")),
    Rival("tcg-max-noerms", "QEMU TCG, -cpu max,-erms,-fsrm", "qemu", ("-cpu", "max,-erms,-fsrm")),
]
# Each may be given as NAME@BINARY: the same with another skerry, for comparing two builds.


def has_interpreter_option(binary=SKERRY):
    try:
        text = subprocess.run([str(binary), "help", "run"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return False
    return "interpreter" in text


def choose(names, extra=()):
    known = {rival.name: rival for rival in KNOWN}
    if not names:
        names = [n for n in known if n != "interpreter" or has_interpreter_option()]
    chosen = []
    for name in names:
        plain, _, binary = name.partition("@")
        if plain not in known:
            raise SystemExit(f"suite: no rival is called {plain}; there are: {', '.join(known)}")
        rival = known[plain]
        if rival.kind == "skerry":
            rival = dataclasses.replace(rival, extra=tuple(extra))
        if binary:
            if rival.kind != "skerry":
                raise SystemExit(f"suite: {plain} takes no other binary")
            rival = dataclasses.replace(rival, name=name, binary=str(pathlib.Path(binary).resolve()))
        chosen.append(rival)
    # Native first: everything is measured against it.
    if chosen[0].kind != "native":
        chosen = [known["native"]] + [r for r in chosen if r.kind != "native"]
    for rival in chosen:
        program = {"skerry": rival.binary or str(SKERRY), "qemu": "qemu-system-x86_64"}.get(rival.kind)
        if program and not shutil.which(program):
            raise SystemExit(f"suite: {rival.name} needs {program}, which is not there")
    return chosen


class Lines:
    """The output of a process, line by line with the time of arrival; ended by the caller, end of file or a limit."""

    def __init__(self, command, log):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.pending, self.ready, self.log = b"", collections.deque(), log
        self.last = collections.deque(maxlen=8)  # what was said before it died

    def next(self, limit_s):
        """(time, line), or (None, why) at the end."""
        until = time.monotonic() + limit_s
        while not self.ready:
            left = until - time.monotonic()
            if left <= 0:
                return None, f"silent for {limit_s} s"
            if not self.selector.select(left):
                continue
            data = os.read(self.process.stdout.fileno(), 65536)
            now = time.monotonic()
            if not data:
                try:
                    return None, f"ended with status {self.process.wait(10)}"
                except subprocess.TimeoutExpired:
                    return None, "closed its output"
            if self.log:
                self.log.write(data)
            *lines, self.pending = (self.pending + data).split(b"\n")
            self.ready.extend((now, line.decode("utf-8", "replace").strip()) for line in lines)
        self.last.append(self.ready[0][1])
        return self.ready.popleft()

    def stop(self):
        """Ends it; what it says then (--stats) goes into the log."""
        for sign, wait_s in ((signal.SIGTERM, 2), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                pass
            while self.next(wait_s)[0] is not None:
                pass
            if self.process.poll() is not None:
                break
        self.process.stdout.close()
        return self.process.wait()


def follow(lines, wanted, results, say):
    """Takes results from a run until it ends; returns why it ended ('' if all was run) and what was running."""
    running, started, limit = None, 0.0, BOOT_LIMIT_S
    while True:
        at, line = lines.next(limit)
        if at is None:
            return line, running
        marked = re.search(r"BENCH(-[A-Z]+)?( .*)?$", line)
        if not marked:
            continue
        mark, words = marked[1] or "", (marked[2] or "").split()
        if mark == "-START":
            running, started, limit = words[0], at, WORKLOAD_LIMIT_S + 60
        elif mark == "-END":
            return "", None
        elif mark == "-TROUBLE":
            say(f"the guest says: {line}")
        elif not words or words[0] not in wanted:
            continue
        elif mark == "" and len(words) == 5:
            results[words[0]] = Outcome(ns=int(words[1]), checksum=words[3])
        elif mark == "-SKIP":
            results[words[0]] = Outcome(skipped=" ".join(words[1:]))
        elif mark == "-FAIL":
            results[words[0]] = Outcome(error=" ".join(words[1:]))
        elif mark == "-WALL" and words[0] in results:
            elapsed = at - started
            # Lines take a moment to get out, so nothing is said about short ones.
            if elapsed > 0.25:
                results[words[0]].clock = int(words[1]) / 1e9 / elapsed
            running = None


def run(rival, chosen, reps, budget_ms, log, say):
    """{key: Outcome} of one repetition. After a crash the rest is run in a new guest."""
    results = {}
    for cpus in sorted({w.cpus for w in chosen}):
        left = [w for w in chosen if w.cpus == cpus]
        for _ in range(6):
            if not left:
                break
            with tempfile.TemporaryDirectory(dir=root.CACHE) as scratch, data_disk(left) as data:
                text = workloads.list_text(left, reps, budget_ms, WORKLOAD_LIMIT_S)
                lines = Lines(start(rival, text, cpus, pathlib.Path(scratch), data), log)
                try:
                    why, running = follow(lines, {w.key for w in left}, results, say)
                finally:
                    lines.stop()
            if why and not running and not any(w.key in results for w in left):
                said = "".join(f"\n    {line}" for line in lines.last)
                say(f"{rival.name}: machine {why} before the first workload{said and '; it said last:' + said}")
                results |= {w.key: Outcome(error=f"machine {why} before the first workload") for w in left}
            elif why and running:
                said = "".join(f"\n    {line}" for line in lines.last if not line.startswith("BENCH"))
                say(f"{rival.name}: {running}: machine {why}{said and '; it said last:' + said}")
                results[running] = Outcome(error=f"machine {why}")
            left = [w for w in left if w.key not in results]
            if not why:
                break
        for workload in left:
            results[workload.key] = Outcome(error="not run")
    return results


@contextlib.contextmanager
def data_disk(chosen):
    """An image for the io workloads, if there are any: in memory, for it is not the host's disk that is measured."""
    if not any(w.group == "io" for w in chosen):
        yield None
        return
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="skerry-bench-", dir=memory if os.access(memory, os.W_OK) else root.CACHE) as folder:
        image = pathlib.Path(folder) / "data.img"
        root.make_data(image)
        yield image


def start(rival, list_text, cpus, scratch, data):
    """The command that runs the list."""
    if rival.kind == "native":
        bench = scratch / "bench"
        shutil.copytree(root.CACHE / "programs", bench)
        (bench / "list").write_text(list_text)
        allowed = sorted(os.sched_getaffinity(0))
        # Away from CPU 0, which takes the host's interrupts.
        use = allowed[-1:] if cpus == 1 else allowed[:cpus]
        return ["taskset", "-c", ",".join(map(str, use)), *root.in_root(["/bench/start"], bench=bench, data=data)]
    initrd = scratch / "initrd"
    root.write_initrd(initrd, list_text)
    return rival.command(initrd, "console=ttyS0 quiet panic=-1", cpus, MEMORY_MIB, root.CACHE / "root.img", data)
