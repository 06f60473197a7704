#!/usr/bin/env python3
"""Wall time from start to the first line of init, and for the guest's whole check, of a Debian cloud
kernel on Skerry's software engine and on QEMU's TCG, alternating in one run; medians.

  bench/boot.py [--runs 3] [--kernel cloud-6.1]
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUESTS = pathlib.Path(os.environ.get("SKERRY_GUESTS")
                      or pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "skerry/guests")


def timed(command):
    began = time.monotonic()
    marks = {}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in process.stdout:
        for mark in (b"SKERRY-INIT: uptime", b"SKERRY-CHECK: done"):
            if mark in line:
                marks.setdefault(mark, time.monotonic() - began)
    process.wait()
    return marks.get(b"SKERRY-INIT: uptime"), marks.get(b"SKERRY-CHECK: done")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kernel", default="cloud-6.1")
    args = parser.parse_args()
    guest = GUESTS / args.kernel
    with tempfile.TemporaryDirectory() as scratch:
        disk = pathlib.Path(scratch) / "disk.img"
        shutil.copyfile(GUESTS / "disk.img", disk)
        kernel, initrd = str(guest / "vmlinuz"), str(guest / "initrd")
        append = "console=ttyS0 quiet panic=-1 skerry.check"
        rivals = {
            "skerry soft": [str(ROOT / "build/release/bin/skerry"), "run", "--engine", "soft", "--kernel", kernel,
                            "--initrd", initrd, "--append", append, "--disk", f"path={disk}"],
            "qemu tcg": ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-display",
                         "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append",
                         append, "-drive", f"file={disk},if=virtio,format=raw"],
        }
        results = {name: [] for name in rivals}
        for _ in range(args.runs):
            for name, command in rivals.items():
                results[name].append(timed(command))
    for name, times in results.items():
        init = statistics.median(t[0] for t in times if t[0])
        done = statistics.median(t[1] for t in times if t[1])
        print(f"{name:12} init after {init:6.2f} s   checks done after {done:6.2f} s")


if __name__ == "__main__":
    main()
