#!/usr/bin/env python3
"""Runs the scripts of tests/scripts.toml.

  run_scripts.py --list                                  NAME TIMEOUT PROCESSORS LAB SOFT_FIRST of each
  run_scripts.py --skerry BIN --engine soft NAME...      run them here
  run_scripts.py --skerry BIN --engine kvm --lab NAME... run them in the KVM lab (tests/guests/lab)

Exit status: 0 all well, 1 one failed, 77 all of them skipped. $SKERRY_TEST_SCALE (a number) stretches the time
limits for slow builds and hosts.
"""
import argparse
import pathlib
import subprocess
import sys
import time
import tomllib

import kit
import lab

HERE = pathlib.Path(__file__).resolve().parent
LAB_SCALE = 4  # an emulated host is slow
CRASH = "the guest crashed: triple fault"
SILENT = "' on the console:"  # kit.Console.expect


def rows():
    return {name: {"kvm": [], "lab": "scripts", "timeout": 900, "processors": 1, "soft_first": False, **row}
            for name, row in tomllib.loads((HERE / "scripts.toml").read_text())["script"].items()}


def attempt(name, row, args):
    """The exit status, and all that was said."""
    script, *options = row["command"]
    words = [sys.executable, "-u", str(HERE / script), args.skerry, "--engine", args.engine, *options,
             *(row["kvm"] if kit.IN_LAB else [])]
    began, said = time.monotonic(), []
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        for line in process.stdout:
            print(f"{time.monotonic() - began:7.1f} {line}", end="", flush=True)
            said.append(line)
    verdict = {0: "ok", kit.SKIP: "skipped"}.get(process.returncode, "FAILED")
    print(f"{verdict:7} {args.engine} {name} {time.monotonic() - began:.1f} s", flush=True)
    return process.returncode, "".join(said)


def run(name, row, args):
    """In the lab the emulated processor now and then shuts a guest down, as run_guest.py tells, and once a guest fell
    silent in the middle of a command (why is not known); such a script gets one more try, and says so."""
    status, said = attempt(name, row, args)
    if status not in (0, kit.SKIP) and kit.IN_LAB:
        why = "a triple fault" if CRASH in said else "silence" if SILENT in said else ""
        if why:
            print(f"again   {args.engine} {name}: {why}, which the lab's processor sometimes invents", flush=True)
            status, _ = attempt(name, row, args)
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--engine")
    parser.add_argument("--skerry")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--lab", action="store_true")
    args = parser.parse_args()
    every = rows()
    if args.list:
        for name, row in every.items():
            print(name, row["timeout"], row["processors"], row["lab"], int(row["soft_first"]))
        return 0
    unknown = [name for name in args.names if name not in every]
    if unknown:
        parser.error(f"no row {unknown[0]}; there are: {' '.join(every)}")
    if not args.skerry or not args.engine or not args.names:
        parser.error("--skerry, --engine and names are needed")
    if args.lab:
        again = ["env", f"SKERRY_TEST_SCALE={kit.SCALE * LAB_SCALE}", "python3", HERE / "run_scripts.py", "--skerry",
                 pathlib.Path(args.skerry).resolve(), "--engine", args.engine]
        return lab.run(again, args.names, lambda names: sum(every[name]["timeout"] for name in names), "--disk", 8192)
    ended = {run(name, every[name], args) for name in args.names}
    return 1 if ended - {0, kit.SKIP} else kit.SKIP if 0 not in ended else 0


if __name__ == "__main__":
    sys.exit(main())
