"""A machine under `skerry run --gdb` and the real gdb talking to it, for the tests beside this file."""
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SKIP = 77
ENGINE = os.environ.get("SKERRY_TEST_ENGINE", "soft")
SCALE = float(os.environ.get("SKERRY_TEST_SCALE", "1"))
LIMIT = 120 * SCALE  # seconds for one command: a busy host, a sanitizer build


def skip(why):
    print("skipped: " + why)
    sys.exit(SKIP)


class Failed(Exception):
    pass


class Pipe:
    """A child process whose output can be waited for."""

    def __init__(self, command, **more):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, **more)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text, self.ended = "", False
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def take(self, seconds):
        if self.ended:
            time.sleep(min(seconds, 0.05))
        elif self.selector.select(seconds):
            data = os.read(self.process.stdout.fileno(), 65536)
            self.ended = not data
            self.text += data.decode("utf-8", "replace")

    def wait_for(self, what, limit=LIMIT):
        """Until the regular expression appears; gives the output up to its end and forgets it."""
        end = time.monotonic() + limit
        while True:
            found = re.search(what, self.text)
            if found:
                before, self.text = self.text[:found.end()], self.text[found.end():]
                return before
            if self.ended or time.monotonic() > end:
                raise Failed(f"{self.process.args[0]}: no {what!r} in:\n{self.text[-3000:]}")
            self.take(0.2)

    def status(self, limit=LIMIT):
        end = time.monotonic() + limit
        while not self.ended and time.monotonic() < end:
            self.take(0.2)
        return self.process.wait(max(1, end - time.monotonic()))

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Machine(Pipe):
    """skerry run, waiting for gdb."""

    def __init__(self, skerry, scratch, options, tcp=None):
        self.address = str(scratch / "gdb.sock")
        where = "unix:" + self.address
        if tcp:
            self.address, where = f"127.0.0.1:{tcp}", f"tcp:127.0.0.1:{tcp}"
        super().__init__([skerry, "run", "--engine", ENGINE, "--gdb", where, *options])
        self.wait_for("waiting for gdb")


class Gdb(Pipe):
    """gdb with its prompt as the end of every answer."""

    def __init__(self, address, symbols=None):
        # A process group of its own: SIGINT is for gdb alone.
        super().__init__(["gdb", "-nx", "-q", *([symbols] if symbols else [])], start_new_session=True,
                         env={**os.environ, "TERM": "dumb", "DEBUGINFOD_URLS": ""})
        self.number = 0
        self.log = []
        for setting in ("confirm off", "pagination off", "width 0", "height 0", "style enabled off",
                        "disassemble-next-line off", f"remotetimeout {int(60 * SCALE)}"):
            self.do("set " + setting)
        self.do("target remote " + address)

    def send(self, command):
        self.process.stdin.write((command + "\n").encode())
        self.process.stdin.flush()

    def answer(self, command):
        self.number += 1
        mark = f"=={self.number}=="
        self.send(f"echo {mark}\\n")
        text = self.wait_for(mark + "\n").rsplit(mark, 1)[0].replace("(gdb) ", "")
        self.log.append(f"(gdb) {command}\n{text}")
        return text

    def do(self, command):
        self.send(command)
        return self.answer(command)

    def expect(self, command, what):
        """The command's answer must hold the regular expression; gives the match."""
        text = self.do(command)
        found = re.search(what, text)
        if not found:
            raise Failed(f"(gdb) {command}\n{text}\n  lacks {what!r}")
        return found

    def value(self, expression):
        text = self.do(f"output/x {expression}")
        found = re.search(r"0x([0-9a-f]+)", text)
        if not found:
            raise Failed(f"(gdb) output/x {expression}\n{text}")
        return int(found.group(1), 16)

    def start(self, command="continue"):
        """A command that does not come back until the guest stops."""
        self.send(command)
        time.sleep(0.3)

    def interrupt(self):
        os.kill(self.process.pid, signal.SIGINT)
        return self.answer("^C")


def run(tests):
    """Runs functions (scratch directory) -> None by name; exit status 0 or 1."""
    names = sys.argv[2:] or list(tests)
    wrong = 0
    for name in names:
        began = time.monotonic()
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="skerry-gdb-"))
        open_pipes.clear()
        try:
            tests[name](scratch)
            print(f"ok     {name} {time.monotonic() - began:.1f} s", flush=True)
        except (Failed, AssertionError, subprocess.TimeoutExpired, OSError) as error:
            wrong += 1
            for pipe in open_pipes:
                if isinstance(pipe, Gdb):
                    print("\n".join(pipe.log))
                print(f"-- last words of {pipe.process.args[0]}:\n{pipe.text[-2000:]}")
            print(f"FAILED {name} {time.monotonic() - began:.1f} s: {type(error).__name__} {error}", flush=True)
        finally:
            for pipe in reversed(open_pipes):
                pipe.end()
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(1 if wrong else 0)


open_pipes = []


def opened(pipe):
    open_pipes.append(pipe)
    return pipe
