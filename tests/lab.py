"""Runs rows of tests in the KVM lab (tests/guests/lab), many in one boot of it."""
import pathlib
import re
import subprocess

import kit

STOPPED = 98  # tests/guests/lab


def run(command, names, limit, *options):
    """The command with the names of rows, in the lab. It prints "ok ENGINE NAME ... s" for each that went well, and
    limit(names) is how many seconds they may take; the lab gets the options. When the lab's own kernel stops,
    which is QEMU's fault or that kernel's, for the VM monitor is an ordinary process there, the rows left get a second
    lab."""
    for lab in range(2):
        seconds = 120 + round(min(1800, limit(names)) * kit.SCALE)
        boot = [pathlib.Path(__file__).resolve().with_name("guests") / "lab", "--timeout", seconds, *options, "--",
                *command, *names]
        with subprocess.Popen([str(word) for word in boot], stdout=subprocess.PIPE, text=True,
                              errors="replace") as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                if found := re.match(r"ok +\S+ (\S+) [0-9.]+ s$", line):
                    names = [name for name in names if name != found[1]]
        if process.returncode != STOPPED or lab:
            return process.returncode
        print(f"again  the lab itself stopped; what is left in a new one: {' '.join(names)}", flush=True)
