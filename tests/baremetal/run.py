#!/usr/bin/env python3
"""Runs bare-metal test images under `skerry run` and judges them by their exit code.

An image ends by debug-exit with 0 if all its checks passed, so the process ends with status 1; what it
prints goes to its serial port. On KVM the checks that QEMU's TCG, the processor of the KVM lab, is known to
fail are left out (the word "lenient" on the command line).
"""
import argparse
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def rows():
    for line in (HERE / "list.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, cpus, engines = line.split()
            yield name, int(cpus), engines.split(",")


def run(options, name, cpus):
    append = ["--append", "lenient"] if options.engine == "kvm" else []
    command = [options.skerry, "run", "--kernel", f"{options.images}/{name}.elf", "--engine", options.engine,
               "--cpus", str(cpus), "--memory", "128M", "--cpu", "host", "--debug-exit", "--serial", "stdio",
               *append]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, timeout=options.timeout)
        text, status = ended.stdout, ended.returncode
    except subprocess.TimeoutExpired as late:
        text, status = late.stdout or b"", "timeout"
    print(f"{'ok  ' if status == 1 else 'FAIL'} {name} (status {status})", flush=True)
    if status != 1 or options.verbose:
        print(text.decode(errors="replace"))
    return status == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="soft", help="soft (default), soft,interpreter or kvm")
    parser.add_argument("--skerry", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--timeout", type=float, default=120 * float(os.environ.get("SKERRY_TEST_SCALE", "1")))
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("names", nargs="*", help="all of the engine's if none")
    options = parser.parse_args()
    chosen = [(name, cpus) for name, cpus, engines in rows()
              if options.engine.split(",")[0] in engines and (not options.names or name in options.names)]
    if not chosen:
        sys.exit("no such test for this engine: see list.txt")
    return 0 if all([run(options, name, cpus) for name, cpus in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
