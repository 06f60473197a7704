#!/usr/bin/env python3
"""Random requests to disks of every kind, every byte of which is checked: disk_verify.py SKERRY DISK_VERIFY. 77 if there
is no guest image.

A guest with two CPUs has a disk of each kind and runs disk_verify on all of them at the same time; afterwards what
the host finds in the images must be what the guest last read, and qcow2 images must be consistent."""
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bench")]
from control import GUESTS, SCALE, Client, Console  # noqa: E402
from harness.root import archive  # noqa: E402

KERNEL = GUESTS / "cloud-6.1"
REQUESTS = int(os.environ.get("SKERRY_VERIFY_REQUESTS", "3000"))
DISKS = [("plain.raw", ""), ("threads.raw", ",aio=threads"), ("direct.raw", ",direct"), ("plain.qcow2", ""),
         ("small.qcow2", ""), ("limited.raw", ",iops=20000,bps=200M")]


def make(skerry, folder, name):
    options = ["-o", "cluster_size=4096"] if name.startswith("small") else []
    subprocess.run([skerry, "image", "create", *options, folder / name, "32M"], check=True, stdout=subprocess.DEVNULL)


def main():
    skerry, program = sys.argv[1:]
    if not (KERNEL / "initrd").exists():
        print("skipped: no guest image; make it with: tests/guests/make cloud-6.1")
        return 77
    seed = int(os.environ.get("SKERRY_VERIFY_SEED", time.time_ns() % 1000000))
    print(f"seed {seed}, {REQUESTS} requests to each disk")
    # Not in a tmpfs, where O_DIRECT and holes are other than on a disk.
    with tempfile.TemporaryDirectory(prefix="skerry-verify-", dir="/var/tmp") as scratch:
        folder = pathlib.Path(scratch)
        first = (KERNEL / "initrd").read_bytes()
        (folder / "initrd").write_bytes(first + bytes(-len(first) % 4) + archive(
            {"disk_verify": (0o100755, pathlib.Path(program).read_bytes())}))
        for name, _ in DISKS:
            make(skerry, folder, name)
        disks = [word for name, options in DISKS for word in ("--disk", f"path={folder / name}{options}")]
        vm = subprocess.Popen([skerry, "run", "--engine", "soft", "--kernel", KERNEL / "vmlinuz", "--initrd",
                               folder / "initrd", "--append", "console=ttyS0 quiet panic=-1", "--cpus", "2", "--serial", "none",
                               "--control", f"unix:{folder / 'vm.sock'}", *disks], stdin=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30 * SCALE
            while not (folder / "vm.sock").exists():
                assert time.monotonic() < end and vm.poll() is None, "no socket"
                time.sleep(0.05)
            client, console = Client(folder / "vm.sock"), Console(folder / "vm.sock", replay=65536)
            console.expect("# ")
            names = [f"/dev/vd{letter}" for letter in "abcdefgh"[:len(DISKS)]]
            console.type(f"cd /; for d in {' '.join(names)}; do (/disk_verify $d {REQUESTS} {seed} >/log.${{d##*/}} 2>&1; "
                         "echo ended=$?) & done; wait; cat /log.*; echo all; echo\n")
            # The machine is paused and goes on in the middle of it.
            for _ in range(20):
                time.sleep(0.1)
                client.result("pause")
                client.result("resume")
            console.expect("\nall\n", limit=240)
            log = client.result("screen", bytes=8192)["text"].replace("\r", "")
            for name, (image, options) in zip(names, DISKS):
                assert f"verified {name}\n" in log, f"{image}{options}:\n{log}"
            console.type(f"echo 3 >/proc/sys/vm/drop_caches; md5sum {' '.join(names)}; echo sums; echo\n")
            console.expect("\nsums\n", limit=240)
            log = client.result("screen", bytes=8192)["text"].replace("\r", "")
            sums = {image: re.search(rf"^([0-9a-f]{{32}})  {name}$", log, re.M)[1] for name, (image, _) in zip(names, DISKS)}
            console.type("poweroff -f\n")
            assert vm.wait(timeout=60 * SCALE) == 0
        finally:
            vm.kill()
            vm.wait()
        for image, _ in DISKS:
            path = folder / image
            if image.endswith("qcow2"):
                subprocess.run([skerry, "image", "check", path], check=True, stdout=subprocess.DEVNULL)
                subprocess.run([skerry, "image", "convert", "-O", "raw", path, folder / "copy.raw"], check=True,
                               stdout=subprocess.DEVNULL)
                path = (folder / "copy.raw").rename(folder / f"{image}.raw")
            found = hashlib.md5(path.read_bytes()).hexdigest()
            assert found == sums[image], (image, found, sums[image])
        print(f"ok: {len(DISKS)} disks verified by the guest, and the host finds the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
