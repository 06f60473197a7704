#!/usr/bin/env python3
"""A guest's ext4 survives kill -9 of its machine, on a raw and on a qcow2 image, which survives it, too.

Each round boots a guest on the same disk, the two formats in turn; it writes files, calls fsync on each and on their directory, and
then says so, while another process writes without. At a random moment the machine is killed. After that e2fsck
must find nothing but a journal to replay, and every file whose fsync the guest has seen must be there, whole; and
`skerry image check` must find a qcow2 image consistent (leaked clusters are no corruption).

  tests/kill9.py build/release/bin/skerry [--rounds 6] [--format raw,qcow2] [--engine soft] [--seed N]
"""
import os
import pathlib
import random
import re
import selectors
import signal
import subprocess
import sys
import time

import kit

KERNEL = "cloud-6.1"
KEPT = 30  # how many files the guest leaves before it removes the oldest
TOOLS = dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin")

# File number n is a line with its number over and over, of a length that follows from n.
WRITER = ("(while :; do dd if=/dev/zero of=noise bs=64k count=50 2>/dev/null; rm noise; done) & n=%d; "
          "while :; do n=$((n + 1)); yes line-$n | head -c $((n %% 41 * 4099 + 7)) > t && "
          "sync t && mv t f.$n && sync . && echo SAVED-$n; rm -f f.$((n - %d)); done")


def content(n):
    line = b"line-%d\n" % n
    size = n % 41 * 4099 + 7
    return (line * (size // len(line) + 1))[:size]


def run(command):
    return subprocess.run(command, env=TOOLS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write_until_killed(args, disk, first, saves, delay, limit):
    """The number of the last file that the guest has called saved."""
    command = kit.command(args, KERNEL, "--memory", "256M", "--disk", f"path={disk}")
    machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end, said, typed, last = time.monotonic() + limit, "", False, first
    began = kill_at = None
    selector = selectors.DefaultSelector()
    selector.register(machine.stdout, selectors.EVENT_READ)
    try:
        while kill_at is None or time.monotonic() < kill_at:
            left = max(0, (kill_at or end) - time.monotonic())
            if left == 0 and kill_at is None:
                print(said[-3000:])
                raise SystemExit(f"FAILED: the guest saved only {last - first} files in {limit:.0f} s")
            if not selector.select(left):
                continue
            data = os.read(machine.stdout.fileno(), 65536).decode("utf-8", "replace")
            if not data:
                print(said[-3000:])
                raise SystemExit(f"FAILED: the machine ended by itself, status {machine.wait()}")
            said += data.replace("\r", "")
            if not typed and kit.ESCAPES.sub("", said[-200:]).endswith("# "):
                typed = True
                machine.stdin.write((WRITER % (first, KEPT) + "\n").encode())
                machine.stdin.flush()
            last = max([last] + [int(n) for n in re.findall(r"^SAVED-(\d+)$", said, re.M)])
            # On a busy host a flush may take seconds: what was saved by then will do.
            began = began or (time.monotonic() if last > first else None)
            if kill_at is None and (last - first >= saves or began and time.monotonic() > began + 15):
                kill_at = time.monotonic() + delay
        # What it has said by now counts as well.
        machine.send_signal(signal.SIGKILL)
        said += machine.stdout.read().decode("utf-8", "replace").replace("\r", "")
        whole = said[:said.rfind("\n") + 1]
        return max([last] + [int(n) for n in re.findall(r"^SAVED-(\d+)$", whole, re.M)])
    finally:
        machine.kill()
        machine.wait()


def check(skerry, disk, scratch, last):
    wrong = []
    if disk.suffix == ".qcow2":
        image = run([skerry, "image", "check", str(disk)])
        if image.returncode not in (0, 3):
            wrong.append(f"image check: status {image.returncode}: {image.stdout}")
        # The guest's own kernel replays the journal of the image; here, of a copy.
        copy = pathlib.Path(scratch) / "copy.raw"
        converted = run([skerry, "image", "convert", "--force", "-O", "raw", str(disk), str(copy)])
        if converted.returncode != 0:
            return wrong + [f"image convert: status {converted.returncode}: {converted.stdout}"]
        disk = copy
    replay = run(["e2fsck", "-p", str(disk)])
    if replay.returncode not in (0, 1):
        wrong.append(f"e2fsck -p: status {replay.returncode}: {replay.stdout}")
    clean = run(["e2fsck", "-fn", str(disk)])
    if clean.returncode != 0:
        wrong.append(f"not clean after the journal's replay: {clean.stdout}")
    files = pathlib.Path(scratch) / "files"
    files.mkdir()
    run(["debugfs", "-R", f"rdump / {files}", str(disk)])
    for n in range(max(1, last - KEPT + 1), last + 1):
        path = files / f"f.{n}"
        if not path.exists():
            wrong.append(f"f.{n} is missing (the last saved is {last})")
        elif path.read_bytes() != content(n):
            wrong.append(f"f.{n} has other content (the last saved is {last})")
    run(["rm", "-rf", str(files)])
    return wrong


def main():
    parser = kit.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--format", default="raw,qcow2", help="comma-separated")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    for tool in ("mke2fs", "e2fsck", "debugfs"):
        if run(["sh", "-c", f"command -v {tool}"]).returncode != 0:
            print(f"skipped: no {tool}; apt-get install e2fsprogs")
            return kit.SKIP
    chance = random.Random(args.seed)
    limit = 120 * kit.SCALE
    print(f"seed {args.seed}")
    with kit.scratch("kill9") as scratch:
        disks = {pathlib.Path(scratch) / f"disk.{name}": 0 for name in args.format.split(",")}
        empty = pathlib.Path(scratch) / "empty.raw"
        made = run(["mke2fs", "-q", "-t", "ext4", str(empty), "64M"])
        assert made.returncode == 0, made.stdout
        for disk in disks:
            made = run([args.skerry, "image", "convert", "-O", disk.suffix[1:], str(empty), str(disk)])
            assert made.returncode == 0, made.stdout
        for number in range(1, args.rounds + 1):
            disk = list(disks)[(number - 1) % len(disks)]
            first = disks[disk]
            last = write_until_killed(args, disk, first, chance.randrange(1, 60), chance.random() * 0.3, limit)
            disks[disk] = last
            wrong = check(args.skerry, disk, scratch, last)
            print(f"round {number}: {disk.suffix[1:]}: {last - first} files saved, killed, "
                  + ("FAILED" if wrong else "well"), flush=True)
            if wrong:
                print("\n".join(f"  {w}" for w in wrong))
                return 1
    print(f"{args.rounds} rounds well, {sum(disks.values())} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
