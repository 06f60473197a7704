#!/usr/bin/env python3
"""A host's disk that is full under a guest: disk_full.py SKERRY [--engine E]. Needs root, for a small tmpfs;
77 without, or without a guest image.

The guest writes more than there is room for. With a control socket the machine is paused, says why, and finishes the
very same requests once there is room and it is resumed: the guest sees no error, and what it wrote is there. With
on_enospc=report it gets the error."""
import hashlib
import os
import pathlib
import subprocess
import sys

import kit
from kit import GUESTS

KERNEL = "cloud-6.12"
MIB = 1 << 20


def fill(args, folder, small, name, options):
    disk = small / name
    subprocess.run([args.skerry, "image", "create", disk, "12M"], check=True, stdout=subprocess.DEVNULL)
    ballast = small / "ballast"
    ballast.write_bytes(bytes(10 * MIB))
    with kit.Machine(args, folder, KERNEL, "--disk", f"path={disk}{options}", stderr=subprocess.PIPE, text=True) as vm:
        watcher, client, console = vm.client(), vm.client(), vm.console()
        watcher.result("events", after=0)
        console.expect("# ")
        busybox = (GUESTS / "busybox").read_bytes()
        copies = 10 * MIB // len(busybox)
        console.type(f"for i in $(seq {copies}); do cat /bin/busybox; done | dd of=/dev/vda bs=64k iflag=fullblock "
                     "conv=fsync 2>/dev/null; echo status=$?; echo\n")
        if "report" in options:
            console.expect("\nstatus=1\n")
            assert client.result("status")["state"] == "running"
            console.type("poweroff -f\n")
            assert vm.ended() == 0
            print(f"ok: {name}{options}: the guest has the error")
            return
        for round_number in (1, 2):
            event = watcher.event("device", device="disk0")
            assert "No space left" in event["data"]["what"], event
            reason = watcher.event("state", state="paused")["data"]["reason"]
            assert reason.startswith("disk0: ") and "No space left" in reason, reason
            status = client.result("status")
            assert (status["state"], status["reason"]) == ("paused", reason), status
            watcher.events.clear()
            if round_number == 1:
                client.result("resume")  # without room: paused again
        ballast.unlink()
        client.result("resume")
        console.expect("\nstatus=0\n")
        console.type(f"echo 3 > /proc/sys/vm/drop_caches; head -c {copies * len(busybox)} /dev/vda | md5sum; echo\n")
        console.expect(f"\n{hashlib.md5(busybox * copies).hexdigest()}  -\n")
        console.type("poweroff -f\n")
        assert vm.ended() == 0
        assert "skerry ctl" in vm.process.stderr.read()
        subprocess.run([args.skerry, "image", "check", disk] if name.endswith("qcow2") else ["true"], check=True,
                       stdout=subprocess.DEVNULL)
        print(f"ok: {name}: paused for want of room, and went on")


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    if os.getuid() != 0:
        print("skipped: only root can mount a small tmpfs")
        return kit.SKIP
    with kit.scratch("full") as scratch:
        small = pathlib.Path(scratch) / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=15m", "tmpfs", small]).returncode != 0:
            print("skipped: no tmpfs can be mounted here")
            return kit.SKIP
        try:
            for name, options in ("disk.raw", ""), ("disk.qcow2", ""), ("disk.raw", ",on_enospc=report"):
                fill(args, pathlib.Path(scratch), small, name, options)
                for file in small.iterdir():
                    file.unlink()
        finally:
            subprocess.run(["umount", small], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
