#!/usr/bin/env python3
"""gdb on an unmodified Debian kernel with two CPUs: debian.py SKERRY"""
import os
import pathlib
import re
import shutil
import sys

from session import SCALE, Gdb, Machine, opened, run, skip

SKERRY = sys.argv[1]
GUESTS = pathlib.Path(os.environ.get("SKERRY_GUESTS") or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skerry/guests")
KERNEL = GUESTS / "cloud-6.1"
BOOT = 300 * SCALE


class Shell:
    """The guest's console."""

    def __init__(self, machine):
        self.machine, self.number = machine, 0

    def type(self, line):
        self.machine.process.stdin.write((line + "\n").encode())
        self.machine.process.stdin.flush()

    def answer(self):
        """What the last line typed printed, once its mark is there."""
        return self.machine.wait_for(rf"=={self.number}==\s", BOOT).replace("\r", "")

    def start(self, command):
        self.number += 1
        # The echo of the line must not look like its mark.
        self.type(f"{command}; echo ==$(({self.number}))==")

    def do(self, command):
        self.start(command)
        return self.answer()


def kernel(scratch):
    machine = opened(Machine(SKERRY, scratch, [
        "--kernel", str(KERNEL / "vmlinuz"), "--initrd", str(KERNEL / "initrd"), "--cpus", "2",
        "--append", "console=ttyS0 quiet nokaslr panic=-1", "--memory", "256M"]))
    gdb = opened(Gdb(machine.address))
    shell = Shell(machine)

    # Before the first instruction, then all through the boot.
    assert gdb.value("$rip") != 0
    gdb.expect("x/i $rip", r"=> 0x")
    gdb.start()
    machine.wait_for(r"# (\x1b\[\d*n)?$", BOOT)
    said = shell.do("cat /proc/kallsyms > /tmp/all; grep -wE '__x64_sys_newuname|__do_sys_newuname|"
                    "linux_banner|entry_SYSCALL_64|jiffies_64|init_uts_ns' /tmp/all")
    symbols = {name: int(at, 16) for at, name in re.findall(r"([0-9a-f]{16}) \w (\w+)", said)}
    uname, entry = symbols["__x64_sys_newuname"], symbols["entry_SYSCALL_64"]

    # Ctrl-C, threads, registers, memory.
    text = gdb.interrupt()
    assert "SIGINT" in text, text
    text = gdb.do("info threads")
    assert len(re.findall(r"CPU [01]", text)) == 2, text
    for cpu in (1, 2):
        gdb.do(f"thread {cpu}")
        assert gdb.value("$rip") != 0 and gdb.value("$cr0") & 0x80000001 == 0x80000001
        assert gdb.value("$gs_base") >> 47 or gdb.value("$k_gs_base") >> 47, "no per-CPU area"
    gdb.expect(f"x/s {symbols['linux_banner']:#x}", "Linux version 6.1")
    gdb.expect(f"x/2i {entry:#x}", "swapgs")
    gdb.expect("x/gx 0xffff000000000000", "Cannot access memory")

    # A breakpoint in the kernel, on the CPU that the guest's scheduler was told.
    gdb.do(f"break *{uname:#x}")
    for cpu in (1, 2):
        gdb.start()
        shell.start(f"taskset {cpu} uname -n")
        text = gdb.answer("(the breakpoint)")
        assert "Breakpoint" in text and gdb.value("$rip") == uname, text
        text = gdb.do("info threads")
        assert re.search(rf"^\* {cpu} ", text, re.M), text
        # Steps in the kernel, each one instruction: the next is where the disassembly says.
        for _ in range(4):
            following = re.findall(r"(0x[0-9a-f]+)[^\n]*:\t(\w+)", gdb.do("x/2i $rip"))
            gdb.do("stepi")
            if following[0][1] not in ("call", "jmp", "ret") and following[0][1][0] != "j":
                assert gdb.value("$rip") == int(following[1][0], 16), following
        gdb.start()
        shell.answer()
        gdb.interrupt()

    # From a system call's entry back to user space, and steps there.
    gdb.do("delete")
    gdb.do(f"hbreak *{entry:#x}")
    gdb.start()
    shell.start("uname -n")
    gdb.answer("(the entry)")
    assert gdb.value("$rip") == entry and gdb.value("$cs") & 3 == 0
    user = gdb.value("$rcx")
    assert user < 1 << 47
    gdb.do("delete")
    gdb.expect(f"x/i {user - 2:#x}", "syscall")
    gdb.do(f"tbreak *{user:#x}")
    gdb.expect("continue", "Temporary breakpoint")
    assert gdb.value("$rip") == user and gdb.value("$cs") & 3 == 3
    gdb.do("stepi")
    assert gdb.value("$rip") != user
    gdb.start()
    shell.answer()
    gdb.interrupt()
    # The same command makes the same call: this time stopped before it.
    gdb.do(f"tbreak *{user - 2:#x}")
    gdb.start()
    shell.start("uname -n")
    gdb.answer("(the system call)")
    assert gdb.value("$rip") == user - 2 and gdb.value("$cs") & 3 == 3
    gdb.do("stepi")
    assert gdb.value("$rip") == entry, "syscall leads to the kernel's entry"
    gdb.start()
    shell.answer()
    gdb.interrupt()

    # Watchpoints: time goes on.
    jiffies = symbols["jiffies_64"]
    gdb.do(f"watch *(unsigned long *){jiffies:#x}")
    for _ in range(2):
        text = gdb.expect("continue", r"Old value = (\d+)(.|\n)*New value = (\d+)")
        assert int(text.group(3)) > int(text.group(1))
    gdb.do("delete")
    gdb.do(f"rwatch *(unsigned long *){jiffies:#x}")
    gdb.expect("continue", "read watchpoint")
    gdb.do("delete")

    # What gdb writes the guest sees: its name.
    start = symbols["init_uts_ns"]
    at = int(re.search(r"(0x[0-9a-f]+)", gdb.do(f"find /1 {start:#x}, +512, '(', 'n', 'o', 'n', 'e', ')'")).group(1), 16)
    gdb.do(f'set {{char[6]}} {at:#x} = "gdbwa"')
    gdb.start()
    assert "gdbwa" in shell.do("uname -n")

    # Gone: the guest lives on.
    gdb.interrupt()
    gdb.expect("detach", "detached")
    assert "42" in shell.do("echo $((40 + 2))")
    shell.type("exit")
    assert machine.status(BOOT) == 0


if not shutil.which("gdb"):
    skip("gdb is not installed (apt install gdb)")
if not (KERNEL / "initrd").exists():
    skip(f"no guest image {KERNEL}; make it with: tests/guests/make")
run({"kernel": kernel})
