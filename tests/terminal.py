#!/usr/bin/env python3
"""`skerry run` on a terminal of its own: what is typed reaches the guest, Ctrl-C too, and the escape key works.

  terminal.py SKERRY [--engine E]      exit status 0, 1, or 77 where the guest images are missing
"""
import os
import pty
import select
import sys
import time

import kit

KERNEL = "cloud-6.1"
LIMIT = kit.patience()


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    child, terminal = pty.fork()
    if child == 0:
        os.execv(args.skerry, kit.command(args, KERNEL))
    seen = b""

    def until(text):
        nonlocal seen
        end = time.monotonic() + LIMIT
        while text not in seen:
            if time.monotonic() > end or not select.select([terminal], [], [], LIMIT)[0]:
                raise SystemExit(f"FAILED: no {text!r} in {seen[-500:]!r}")
            seen += os.read(terminal, 4096)
        seen = seen[seen.index(text) + len(text):]

    until(b"# ")
    os.write(terminal, b"echo answer-$((40+2))\n")
    until(b"\nanswer-42")
    until(b"# ")
    os.write(terminal, b"\x01h")
    until(b"Ctrl-A x")
    # Not "echo began; sleep 1000": a Ctrl-C between the shell's fork and exec is lost on its handler.
    os.write(terminal, b"sh -c 'echo began; exec sleep 1000'\n")
    until(b"\nbegan")
    os.write(terminal, b"\x03")
    until(b"# ")
    os.write(terminal, b"\x01x")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ok" if status == 0 else f"FAILED: exit status {status}")
    return status != 0


if __name__ == "__main__":
    sys.exit(main())
