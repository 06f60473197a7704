"""Boots an unmodified Debian kernel with the test suite's init and its checks (tests/guests/init): wall time from
the start of the process to the first line of init and to the end of the checks, and the memory that the process
occupies beyond the guest's own."""
import pathlib
import re
import shutil
import tempfile
import time

from . import rivals, root

MEMORY_MIB = 512
LIMIT_S = 120
MARKS = {"init": "SKERRY-INIT: uptime", "checks": "SKERRY-CHECK: done"}


def children(pid):
    """The process and all below it."""
    result = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            result += children(int(child))
    return result


def beyond_guest(pid):
    """Anonymous and shared memory in MiB that is not guest memory: what the emulator itself needs.

    Guest memory is the memfd that src/memory makes, or in QEMU the mapping of exactly its size. Shared pages count
    by proportion (Pss), so a page mapped twice counts once.
    """
    total = 0
    for process in children(pid):
        try:
            text = pathlib.Path(f"/proc/{process}/smaps").read_text()
        except OSError:
            continue
        ram = file_backed = False
        for line in text.splitlines():
            head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) *(.*)", line)
            if head:
                name = head[2]
                ram = "memfd:skerry-ram" in name
                file_backed = name.startswith("/") and not name.startswith(("/memfd:", "/dev/zero", "/SYSV"))
                continue
            field, _, value = line.partition(":")
            if field == "Size" and int(value.split()[0]) == MEMORY_MIB << 10:
                ram = True
            elif not ram and field == ("Anonymous" if file_backed else "Pss"):
                total += int(value.split()[0])
    return total / 1024


def boot(rival, log):
    """{"init": s, "checks": s, "memory": MiB, "memory_checks": MiB} or {"error": why}."""
    with tempfile.TemporaryDirectory(dir=root.CACHE) as scratch:
        disk = pathlib.Path(scratch) / "disk.img"
        shutil.copyfile(root.GUESTS / "disk.img", disk)
        command = rival.command(root.GUESTS / root.KERNEL / "initrd", "console=ttyS0 quiet panic=-1 skerry.check", 1,
                                MEMORY_MIB, disk)
        began = time.monotonic()
        lines = rivals.Lines(command, log)
        result = {}
        try:
            while len(result) < 2 * len(MARKS):
                at, line = lines.next(LIMIT_S)
                if at is None:
                    return {"error": f"machine {line} before {'the checks were done' if result else 'init'}"}
                if "SKERRY-CHECK" in line and "FAILED" in line and " hwrng " not in line:  # QEMU has none
                    return {"error": line}
                for name, mark in MARKS.items():
                    if mark in line:
                        result[name] = at - began
                        result["memory" if name == "init" else "memory_checks"] = beyond_guest(lines.process.pid)
        finally:
            lines.stop()
        return result
