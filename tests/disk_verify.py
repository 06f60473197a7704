#!/usr/bin/env python3
"""Random requests to disks of every kind, every byte of which is checked: disk_verify.py SKERRY
[--engine E] [--program DISK_VERIFY] [--requests N] [--seed N]. 77 if there is no guest image.

A guest with two CPUs has a disk of each kind and runs disk_verify on all of them at the same time; afterwards what
the host finds in the images must be what the guest last read, and qcow2 images must be consistent."""
import hashlib
import pathlib
import re
import subprocess
import sys
import time

import kit

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
from harness.root import archive  # noqa: E402

KERNEL = "cloud-6.1"
DISKS = [("plain.raw", ""), ("threads.raw", ",aio=threads"), ("direct.raw", ",direct"), ("plain.qcow2", ""),
         ("small.qcow2", ""), ("limited.raw", ",iops=20000,bps=200M")]


def make(skerry, folder, name):
    options = ["-o", "cluster_size=4096"] if name.startswith("small") else []
    subprocess.run([skerry, "image", "create", *options, folder / name, "32M"], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = kit.parser(__doc__)
    parser.add_argument("--program", type=pathlib.Path, help="disk_verify; beside skerry if not given")
    parser.add_argument("--requests", type=int, default=3000, help="to each disk")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000)
    args = parser.parse_args()
    skerry, program = args.skerry, args.program or pathlib.Path(args.skerry).with_name("disk_verify")
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    if not program.exists():
        print(f"skipped: no {program}; build disk_verify, which builds with sanitizers have not")
        return kit.SKIP
    print(f"seed {args.seed}, {args.requests} requests to each disk")
    with kit.scratch("verify") as scratch:
        folder = pathlib.Path(scratch)
        first = (kit.GUESTS / KERNEL / "initrd").read_bytes()
        (folder / "initrd").write_bytes(first + bytes(-len(first) % 4) + archive(
            {"disk_verify": (0o100755, program.read_bytes())}))
        for name, _ in DISKS:
            make(skerry, folder, name)
        disks = [word for name, options in DISKS for word in ("--disk", f"path={folder / name}{options}")]
        with kit.Machine(args, folder, KERNEL, "--cpus", "2", *disks, initrd=folder / "initrd") as vm:
            client, console = vm.client(), vm.console()
            console.expect("# ")
            names = [f"/dev/vd{letter}" for letter in "abcdefgh"[:len(DISKS)]]
            console.type(f"cd /; for d in {' '.join(names)}; do (/disk_verify $d {args.requests} {args.seed} >/log.${{d##*/}} 2>&1; "
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
            assert vm.ended() == 0
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
