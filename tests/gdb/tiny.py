#!/usr/bin/env python3
"""gdb on tiny guests: tiny.py SKERRY GUEST.bin GUEST.elf TICKER2.bin [NAME...]

GUEST is guest.S here, TICKER2 ../state/ticker.S for two CPUs."""
import re
import shutil
import socket
import sys

from session import Gdb, Machine, opened, run, skip

SKERRY, IMAGE, SYMBOLS, TICKER = sys.argv[1:5]
del sys.argv[2:5]


def both(scratch, *options, tcp=None):
    machine = opened(Machine(SKERRY, scratch, ["--kernel", IMAGE, "--serial", "none", "--memory", "16M",
                                               *options], tcp))
    return machine, opened(Gdb(machine.address, SYMBOLS))


def to_steps(gdb):
    gdb.expect("break steps", "Breakpoint 1 at")
    gdb.expect("continue", "Breakpoint 1, ")
    gdb.do("delete")


def registers(scratch):
    machine, gdb = both(scratch)
    assert gdb.value("$rip") == gdb.value("&start32"), "does not stop before the first instruction"
    to_steps(gdb)
    assert gdb.value("$rip") == gdb.value("&steps")
    text = gdb.do("info registers")
    for name in ("rax rbx rcx rdx rsi rdi rbp rsp r8 r15 rip eflags cs ss ds es fs gs fs_base gs_base "
                 "cr0 cr2 cr3 cr4 cr8 efer").split():
        assert re.search(rf"^{name} ", text, re.M), f"info registers lacks {name}:\n{text}"
    gdb.expect("info registers r12", "0x1122334455667788")
    assert gdb.value("$cs") == 8 and gdb.value("$ss") == 16
    assert gdb.value("$cr0") & 0x80000001 == 0x80000001
    assert gdb.value("$cr3") == gdb.value("&pml4")
    assert gdb.value("$efer") & 0x500 == 0x500
    gdb.expect("p $st0", "= 1$|= 1\n")
    assert gdb.value("$xmm3.v2_int64[1]") == 0xfedcba9876543210
    assert gdb.value("$mxcsr") is not None
    # Written ones are read back, by gdb and by the guest.
    for name, number in (("rbx", 0x123456789abcdef0), ("r14", 41), ("r13", 7), ("xmm5.v2_int64[0]", 99),
                         ("fs_base", 0x7000), ("mxcsr", 0x1fa0)):
        gdb.do(f"set ${name} = {number:#x}")
        gdb.do("maintenance flush register-cache")
        assert gdb.value("$" + name) == number, name
    gdb.do("set $st0 = 2.5")
    gdb.do("maintenance flush register-cache")
    gdb.expect("p $st0", "2.5")
    gdb.do("break store")
    gdb.expect("continue", "Breakpoint")
    assert gdb.value("$r14") == 42 and gdb.value("$r13") == 8 and gdb.value("$xmm5.v2_int64[0]") == 99
    gdb.do("set $rip = steps")
    gdb.do("stepi")
    gdb.do("stepi")
    assert gdb.value("$r13") == 9, "the guest did not go on where $rip was set"
    gdb.do("p $eflags")
    gdb.do("set $eflags = $eflags | 1")
    assert gdb.value("$eflags") & 1


def memory(scratch):
    machine, gdb = both(scratch)
    gdb.expect("x/s &source", '"guest"')  # before there is paging
    to_steps(gdb)
    high = 0xffffffff80000000
    pattern = gdb.value("&pattern")
    assert gdb.value(f"*(unsigned long *){pattern:#x}") == 0x0123456789abcdef
    assert gdb.value(f"*(unsigned long *){high + pattern:#x}") == 0x0123456789abcdef
    gdb.do(f"set *(unsigned long *){high + pattern:#x} = 0x55aa55aa55aa55aa")
    assert gdb.value(f"*(unsigned long *){pattern:#x}") == 0x55aa55aa55aa55aa
    gdb.expect("x/2i &around", r"inc\s+%r14(.|\n)*inc\w*\s+")
    # Across a page, and where nothing is mapped.
    gdb.do("set {long} 0x105ffd = 0x1122334455667788")
    assert gdb.value("*(unsigned long *)0x105ffd") == 0x1122334455667788
    gdb.expect("x/gx 0x7fffffff0000", "Cannot access memory")
    gdb.expect("x/gx 0x8000000000000000", "Cannot access memory")
    gdb.expect("set *(long *)0x7fffffff0000 = 1", "Cannot access memory")
    # A big block, there and back.
    dump = scratch / "dump"
    gdb.do(f"dump binary memory {dump} 0x100000 0x106000")
    assert dump.stat().st_size == 0x6000
    (scratch / "new").write_bytes(bytes(range(256)) * 64)
    gdb.do(f"restore {scratch / 'new'} binary 0x200000")
    gdb.do(f"dump binary memory {dump} 0x200000 0x204000")
    assert dump.read_bytes() == (scratch / "new").read_bytes()


def breakpoints(scratch):
    machine, gdb = both(scratch)
    gdb.expect("hbreak start64", "Hardware assisted breakpoint 1")
    gdb.expect("continue", "Breakpoint 1, ")
    gdb.do("delete")
    code = gdb.do("x/40xb &around")
    for where in ("around", "work", "load"):
        gdb.do("break " + where)
    gdb.do("hbreak *store")
    gdb.expect("break *&interrupt", "Breakpoint")
    gdb.do("continue")
    assert gdb.value("$rip") == gdb.value("&interrupt")
    for turn in range(3):
        for where in ("around", "store"):
            gdb.expect("continue", "Breakpoint")
            assert gdb.value("$rip") == gdb.value("&" + where), where
        assert gdb.value("*(unsigned long *)&counter") == turn
        for where in ("load", "work"):
            gdb.expect("continue", "Breakpoint")
            assert gdb.value("$rip") == gdb.value("&" + where), where
        assert gdb.value("*(unsigned long *)&counter") == turn + 1
    assert gdb.do("x/40xb &around") == code, "breakpoints show in memory"
    # Both kinds at one address; one goes, the other stays.
    gdb.do("delete")
    first = re.search(r"reakpoint (\d+)", gdb.do("break *work")).group(1)
    gdb.do("hbreak *work")
    gdb.do("delete " + first)
    gdb.expect("continue", "Breakpoint")
    # A condition and an ignore count.
    gdb.do("delete")
    gdb.do("break work if $r14 == 50")
    gdb.expect("continue", "Breakpoint")
    assert gdb.value("$r14") == 50
    gdb.do("delete")
    gdb.do("break work")
    gdb.do("ignore $bpnum 9")
    gdb.expect("continue", "Breakpoint")
    assert gdb.value("$r14") == 60
    gdb.do("delete")
    gdb.do("tbreak load")
    gdb.expect("continue", "Temporary breakpoint")
    gdb.expect("advance *&work", "work")
    gdb.expect("finish", "around|load")


def watchpoints(scratch):
    machine, gdb = both(scratch)
    to_steps(gdb)
    gdb.expect("watch *(unsigned long *)&counter", "Hardware watchpoint")
    gdb.expect("continue", r"Hardware watchpoint(.|\n)*Old value = 0(.|\n)*New value = 1")
    assert gdb.value("$rip") == gdb.value("&load"), "stops after the store"
    gdb.expect("continue", r"Old value = 1(.|\n)*New value = 2")
    gdb.do("delete")
    gdb.expect("rwatch *(unsigned long *)&counter", "Hardware read watchpoint")
    gdb.expect("continue", r"Hardware read watchpoint(.|\n)*Value = 2")
    gdb.do("delete")
    gdb.do("awatch *(unsigned long *)&counter")
    gdb.expect("continue", "access .read/write. watchpoint")
    first = gdb.value("$rip")
    gdb.expect("continue", "access .read/write. watchpoint")
    assert {first, gdb.value("$rip")} <= {gdb.value("&load"), gdb.value("&after_load")}
    gdb.do("delete")
    # One byte inside it, next to it, and a string instruction that reaches it.
    gdb.do("watch *(unsigned char *)&counter")
    gdb.expect("continue", "Hardware watchpoint")
    gdb.do("delete")
    gdb.do("watch *((unsigned char *)&target + 3)")
    gdb.do("set $rip = steps")
    gdb.do("set *((unsigned char *)&target + 3) = 0")
    gdb.expect("continue", r"Hardware watchpoint(.|\n)*New value")
    assert gdb.value("$rcx") <= 1 and gdb.value("$rip") in (gdb.value("&string"), gdb.value("&after_string"))
    gdb.do("delete")
    # Through another address of the same memory it is not seen: watchpoints are guest-virtual.
    gdb.do("watch *(unsigned long *)0xffffffff80101000")
    gdb.start()
    gdb.interrupt()
    gdb.expect("info watchpoints", "0xffffffff80101000")


def steps(scratch):
    machine, gdb = both(scratch)
    to_steps(gdb)
    at = lambda: gdb.value("$rip")
    address = lambda name: gdb.value("&" + name)
    r13 = gdb.value("$r13")
    gdb.do("stepi")
    assert at() == address("steps") + 1 and gdb.value("$r13") == r13
    gdb.do("stepi")
    assert gdb.value("$r13") == r13 + 1
    for _ in range(3):
        gdb.do("stepi")
    assert at() == address("string") and gdb.value("$ecx") == 5
    # Like a trap flag's, a step is one element of a repeated string instruction.
    turns = 0
    while at() == address("string"):
        gdb.do("stepi")
        turns += 1
        assert turns <= 5
        assert gdb.value("$ecx") == 5 - turns
    assert turns == 5 and at() == address("after_string")
    gdb.expect("x/s &target", '"guest"')
    gdb.do("stepi")
    gdb.do("stepi")
    assert at() == address("on_interrupt"), "int leads into its handler"
    gdb.do("stepi")
    gdb.do("stepi")
    assert at() == address("system_call"), "iretq leads back"
    gdb.do("stepi")
    assert at() == address("on_system_call"), "syscall leads to LSTAR"
    gdb.do("stepi")
    assert at() == address("after_system_call")
    gdb.do("stepi 4")
    assert at() == address("after_load")
    gdb.do("nexti")
    assert at() == address("after_load") + 5, "nexti steps over the call"
    # A step from a breakpoint, onto a breakpoint, and on.
    gdb.do("break around")
    gdb.do("break store")
    gdb.expect("stepi", "Breakpoint|around")
    assert at() == address("around")
    gdb.do("stepi")
    assert at() == address("store")
    gdb.expect("continue", "Breakpoint")
    assert at() == address("around")


def interrupt(scratch):
    machine, gdb = both(scratch)
    gdb.start()
    text = gdb.interrupt()
    assert "SIGINT" in text, text
    r14 = gdb.value("$r14")
    assert r14 > 0, "the guest did not run"
    assert r14 == gdb.value("$r14"), "the guest runs while it should not"
    gdb.start()
    gdb.interrupt()
    assert gdb.value("$r14") > r14
    # At HLT, with nothing to wake it.
    gdb.do("set $rip = halt_here")
    gdb.start()
    gdb.interrupt()
    assert gdb.value("$rip") == gdb.value("&halt_here") + 2


def threads(scratch):
    machine, gdb = both(scratch, "--cpus", "2")
    to_steps(gdb)
    text = gdb.do("info threads")
    assert "CPU 0" in text and "CPU 1" in text and len(re.findall(r"Thread ", text)) == 2, text
    gdb.do("thread 2")
    assert gdb.value("$rip") == 0xfff0  # waits for its start-up IPI
    gdb.do("thread 1")
    assert gdb.value("$rip") == gdb.value("&steps")


def detach(scratch):
    """The guest runs on: it comes to the power-off that gdb prepared."""
    machine, gdb = both(scratch, "--debug-exit")
    to_steps(gdb)
    gdb.do("break work")
    # mov $21, %al; out %al, $0xf4: instead of work, but only when gdb has gone.
    gdb.expect("continue", "Breakpoint")
    gdb.do("set {unsigned} &work = 0xf4e615b0")
    gdb.expect("detach", "detached")
    assert machine.status() == 43


def reattach(scratch):
    machine, gdb = both(scratch)
    to_steps(gdb)
    gdb.expect("detach", "detached")
    again = opened(Gdb(machine.address, SYMBOLS))
    before = again.value("$r14")
    assert before > 0, "the guest did not run on"
    again.start()
    again.interrupt()
    assert again.value("$r14") > before
    again.end()  # a gdb that dies leaves the guest running, too
    third = opened(Gdb(machine.address, SYMBOLS))
    assert third.value("$r14") > before
    assert machine.process.poll() is None


def kill(scratch):
    machine, gdb = both(scratch)
    to_steps(gdb)
    gdb.expect("kill", "killed")
    assert machine.status() == 137, machine.process.returncode


def crash(scratch):
    machine, gdb = both(scratch)
    to_steps(gdb)
    gdb.do("set $rip = crash")
    gdb.expect("continue", "SIGSEGV")
    gdb.expect("x/i $rip", "int3")
    assert gdb.value("$r12") == 0x1122334455667788
    gdb.expect("x/s &source", '"guest"')
    gdb.expect("monitor cpu", "64-bit mode")
    assert machine.process.poll() is None
    gdb.expect("detach", "detached")
    assert machine.status() == 81
    assert "triple fault" in machine.text


def power_off(scratch):
    machine, gdb = both(scratch, "--debug-exit")
    to_steps(gdb)
    gdb.do("set {unsigned} &work = 0xf4e615b0")
    gdb.expect("continue", r"exited with code 053")
    assert machine.status() == 43


def protected_mode(scratch):
    """32-bit code: stops and registers are right; for instructions there is 'monitor cpu'."""
    machine, gdb = both(scratch)
    assert gdb.value("$rip") == gdb.value("&start32")
    gdb.expect("monitor cpu", r"32-bit protected mode(.|\n)*cli(.|\n)*mov\s+esp")
    gdb.do("stepi 2")
    assert gdb.value("$rsp") == gdb.value("&stack_top")
    gdb.do("watch *(unsigned *)&pdpt")
    gdb.expect("continue", "Hardware watchpoint")
    assert gdb.value("*(unsigned *)&pdpt") == gdb.value("&directory") + 3
    gdb.do("delete")
    gdb.do("break start64")
    gdb.expect("continue", "Breakpoint")
    gdb.expect("monitor cpu", "64-bit mode")


def real_mode(scratch):
    """A second CPU starts at 0800:0000. gdb sees the offset; breakpoints and watchpoints are linear."""
    machine = opened(Machine(SKERRY, scratch, ["--kernel", TICKER, "--serial", "none", "--cpus", "2"]))
    gdb = opened(Gdb(machine.address))
    gdb.do("break *0x8000")
    gdb.expect("continue", "Thread 2 received signal SIGTRAP")
    assert (gdb.value("$cs"), gdb.value("$cs_base"), gdb.value("$rip")) == (0x800, 0x8000, 0)
    gdb.expect("monitor cpu", r"CPU 1 in real mode(.|\n)*inc dword ptr cs:\[0x100\]")
    gdb.do("stepi")
    assert gdb.value("$rip") == 6
    gdb.expect("continue", "SIGTRAP")
    gdb.do("delete")
    gdb.do("watch *(int *)0x8100")
    gdb.expect("continue", r"Old value = 1(.|\n)*New value = 2")
    assert gdb.value("$rip") == 6


def tcp(scratch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    machine, gdb = both(scratch, tcp=port)
    to_steps(gdb)


if not shutil.which("gdb"):
    skip("gdb is not installed (apt install gdb)")
run({f.__name__: f for f in (registers, memory, breakpoints, watchpoints, steps, interrupt, threads, detach,
                             reattach, kill, crash, power_off, protected_mode, real_mode, tcp)})
