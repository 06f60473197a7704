#!/usr/bin/env python3
"""Boots the guests of tests/guests.toml with `skerry run` and checks what they say.

  run_guest.py --list [--engine E]                       names of the rows
  run_guest.py --skerry BIN --engine soft NAME...        run rows here (or soft,interpreter)
  run_guest.py --skerry BIN --engine kvm --lab NAME...   run rows in the KVM lab (tests/guests/lab)
  run_guest.py --probe                                   is everything here? 0, or 77 and the reason

Without a NAME all rows of the engine run; by name, soft,interpreter runs all that soft does. Exit status: 0 all well, 1 a row failed, 77 something that the
rows need is not here. --verbose shows the guest's output as it comes. $SKERRY_TEST_SCALE (a number)
stretches the time limits for slow builds and hosts.
"""
import argparse
import os
import pathlib
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

import kit
import lab
import net_server
from kit import ESCAPES, GUESTS, SCALE, SKIP

HERE = pathlib.Path(__file__).resolve().parent
CRASHED = 81  # schema/exit_status.hpp


def rows(engine=None, by_name=False):
    document = tomllib.loads((HERE / "guests.toml").read_text())
    result = {}
    for name, row in document["guest"].items():
        if isinstance(row.get("checks"), str):
            row["checks"] = document["sets"][row["checks"]]
        engines = row.get("engines", ["soft", "kvm"])
        if engine is None or engine == "auto" or engine in engines or by_name and engine.split(",")[0] in engines:
            result[name] = row
    return result


class Run:
    """One boot: its output with the time of each line, and how it ended."""

    def __init__(self, command, typed, limit, verbose, on_line=lambda line: None):
        self.lines, self.status, self.began = [], None, time.monotonic()
        self.pending, self.typed, self.on_line = "", list(typed), on_line
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        grace = None
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = self.began + limit - time.monotonic()
            if left <= 0:
                process.kill()
                break
            if not selector.select(min(left, 1)):
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            text = data.decode("utf-8", "replace").replace("\r", "")
            if verbose:
                sys.stdout.write(text)
                sys.stdout.flush()
            self.take(text, process)
            if any("Kernel panic" in line for _, line in self.lines[-50:]):
                grace = grace or time.monotonic()  # for the call trace; with panic=-1 it would start over
                if time.monotonic() - grace > 3 or text.count("end Kernel panic"):
                    process.kill()
                    break
        self.take("\n", process)
        try:
            self.status = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.lines.append((time.monotonic() - self.began, "the host's kernel does not let the process die"))
        self.timed_out = left <= 0
        self.took = time.monotonic() - self.began

    def take(self, text, process):
        self.pending += text
        *whole, self.pending = self.pending.split("\n")
        now = time.monotonic() - self.began
        self.lines += [(now, ESCAPES.sub("", line)) for line in whole]
        for line in whole:
            self.on_line(line)
        # A line is typed when the shell asks for one.
        if self.typed and ESCAPES.sub("", self.pending).endswith("# "):
            self.pending += "\n"
            try:
                process.stdin.write((self.typed.pop(0) + "\n").encode())
                process.stdin.flush()
            except BrokenPipeError:
                pass

    def when(self, what):
        return next((at for at, line in self.lines if what in line), None)


def attempt(name, row, args):
    """One run of a row: whether it went well, and the exit status."""
    with tempfile.TemporaryDirectory(prefix="skerry-guest-") as scratch:
        append = f"{row.get('append', '')} skerry.cpus={row.get('cpus', 1)} skerry.epoch={int(time.time())}"
        command = kit.command(args, row["kernel"], "--cpus", row.get("cpus", 1), "--memory", row.get("memory", "512M"),
                                *row.get("options", []), append=append)
        if row.get("disk", "rw") != "none":
            disk = pathlib.Path(scratch) / "disk.img"
            shutil.copyfile(GUESTS / "disk.img", disk)
            if row.get("disk") == "qcow2":
                top = pathlib.Path(scratch) / "top.qcow2"
                subprocess.run([args.skerry, "image", "create", "-b", "disk.img", "-F", "raw", str(top)], check=True)
                disk = top
            command += ["--disk", f"path={disk}" + (",readonly" if row.get("disk") == "ro" else "")]
        server = net_server.Server() if "net" in row else None
        if server:
            command[command.index("--append") + 1] += f" skerry.net={server.port}" + (",v6" if server.v6 else "")
            command += ["--net", row["net"] + f",hostfwd=tcp:127.0.0.1:{server.forward}-:8080"]
        run = Run(command, row.get("input", []), row["timeout"] * SCALE, args.verbose,
                  server.on_line if server else lambda line: None)
        damage = row.get("disk") == "qcow2" and subprocess.run(
            [args.skerry, "image", "check", str(disk)], capture_output=True, text=True)

    said = [line for _, line in run.lines]
    wrong = []
    if run.timed_out:
        wrong.append(f"not done within {row['timeout'] * scale:.0f} s")
    elif run.status != row.get("status", 0):
        wrong.append(f"exit status {run.status}, expected {row.get('status', 0)}")
    if server:
        wrong += server.close()
    wrong += [line for line in said if "SKERRY-CHECK:" in line and "FAILED" in line]
    for check in row.get("checks", []):
        if not any(re.search(rf"SKERRY-CHECK: {re.escape(check)} ok\b", line) for line in said):
            wrong.append(f"no '{check} ok'")
    # The echo of what was typed must not pass for the answer.
    for text in row.get("expect", []):
        if not any(text in line and "# " not in line for line in said):
            wrong.append(f"no '{text}'")
    if damage and damage.returncode != 0:
        wrong.append(f"the image: {damage.stdout}{damage.stderr}")
    if not any("SKERRY-INIT: uptime" in line for line in said):
        wrong.append("init was not reached")

    if wrong and not args.verbose:
        print("\n".join("    " + " ".join(command[i:i + 2]) for i in range(0, len(command), 2)))
        print("\n".join(f"{at:8.2f} {line}" for at, line in run.lines[-200:]))
    if args.timing:
        init, done = run.when("SKERRY-INIT: uptime"), run.when("SKERRY-CHECK: done")
        if init is not None and done is not None:
            print(f"timing boot {init:.2f}\ntiming checks {done - init:.2f}"
                  f"\ntiming power-off {run.took - done:.2f}")
    print(f"{'FAILED' if wrong else 'ok':6} {args.engine} {name} {run.took:.1f} s"
          + "".join(f"\n       {w}" for w in wrong), flush=True)
    return not wrong, run.status


def run_row(name, row, args):
    """In the lab, once in some twenty runs on two CPUs, the emulated SVM shuts a guest down. Whether QEMU or we
    are to blame is not known; such a row gets one more try, and says so. Other failures and engines do not."""
    good, status = attempt(name, row, args)
    if good or status != CRASHED or not kit.IN_LAB:
        return good
    print(f"again  {args.engine} {name}: it ended in a triple fault, which the lab's processor sometimes invents")
    return attempt(name, row, args)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--engine", choices=["soft", "soft,interpreter", "soft,jit", "soft,tables", "kvm", "auto"])
    parser.add_argument("--skerry")
    for flag in ("list", "probe", "lab", "verbose", "timing"):
        parser.add_argument("--" + flag, action="store_true")
    args = parser.parse_args()
    chosen = rows(args.engine, bool(args.names))
    if args.list:
        print("\n".join(chosen))
        return 0
    unknown = [name for name in args.names if name not in chosen]
    if unknown:
        parser.error(f"no row {unknown[0]} for this engine; there are: {' '.join(chosen)}")
    names = args.names or list(chosen)
    why = kit.missing(*sorted({chosen[name]["kernel"] for name in names}), disk=bool(names))
    if why:
        print(f"skipped: {why}")
        return SKIP
    if args.probe:
        return 0
    if not args.skerry or not args.engine:
        parser.error("--skerry and --engine are needed")
    if args.lab:
        again = ["python3", HERE / "run_guest.py", "--skerry", pathlib.Path(args.skerry).resolve(), "--engine", args.engine,
                 *(["--verbose"] if args.verbose else [])]
        return lab.run(again, names, lambda names: sum(chosen[name]["timeout"] for name in names))
    good = [run_row(name, chosen[name], args) for name in names]
    print(f"{sum(good)} of {len(good)} guests well on engine {args.engine}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
