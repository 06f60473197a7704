"""What the whole-guest scripts share: the guests of tests/guests/make, the command that runs one on an engine, and a
machine that is commanded through its control socket and typed to on its console."""
import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
GUESTS = pathlib.Path(os.environ.get("SKERRY_GUESTS") or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skerry/guests")
SCALE = float(os.environ.get("SKERRY_TEST_SCALE", "1"))
IN_LAB = bool(os.environ.get("SKERRY_LAB"))
LONGEST = 300 if IN_LAB else float("inf")  # a guest that the lab has silenced should not take the time of all others
SKIP = 77
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # the shell asks the terminal where its cursor is


def patience(seconds=120):
    """How long to wait for what takes less time than that."""
    return min(seconds * SCALE, LONGEST)


def parser(doc):
    """Of a script's arguments: SKERRY [--engine E]."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    result.add_argument("skerry")
    result.add_argument("--engine", default="soft")
    return result


def missing(*kernels, disk=False):
    """Why there is no such guest, or None."""
    for kernel in kernels:
        if not (GUESTS / kernel / "initrd").exists():
            return f"no guest image {GUESTS / kernel}; make it with: tests/guests/make"
    if disk and not (GUESTS / "disk.img").exists():
        return "no disk image; make it with: tests/guests/make"
    return None


def scratch(name):
    """A directory for a script's files. Not in a tmpfs if it can be helped: O_DIRECT and holes are other there."""
    return tempfile.TemporaryDirectory(prefix=f"skerry-{name}-", dir=os.environ.get("TMPDIR", "/var/tmp"))


def engine_options(engine):
    """QEMU 7.2's emulated SVM breaks XSAVE in a nested guest: with it, QEMU's own KVM guests die in rt_sigreturn just
    the same."""
    return ["--engine", engine, *(["--cpu", "x86-64-v2,-xsave"] if IN_LAB else [])]


def command(args, kernel, *options, initrd=None, append=""):
    """Runs a kernel of tests/guests/make."""
    folder = GUESTS / kernel
    words = [args.skerry, "run", *engine_options(args.engine), "--kernel", folder / "vmlinuz", "--initrd",
             initrd or folder / "initrd", "--append", f"console=ttyS0 quiet panic=-1 {append}".strip(), *options]
    return [str(word) for word in words]


class Client:
    """One connection to a control socket: requests and the events that come between."""

    def __init__(self, path, limit=patience()):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(limit)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rwb")
        self.events, self.number = [], 0
        self.hello = json.loads(self.stream.readline())["hello"]

    def ask(self, action, **arguments):
        self.number += 1
        self.stream.write((json.dumps({"id": self.number, "action": action, "arguments": arguments}) + "\n").encode())
        self.stream.flush()
        while True:
            line = json.loads(self.stream.readline())
            if "event" in line:
                self.events.append(line)
            elif line["id"] == self.number:
                return line

    def result(self, action, **arguments):
        answer = self.ask(action, **arguments)
        assert "result" in answer, answer
        return answer["result"]

    def event(self, name, **data):
        """Waits for an event with this data."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event["event"] == name and all(event["data"][k] == v for k, v in data.items()):
                    return event
            seen = len(self.events)
            line = self.stream.readline()
            assert line, f"the connection ended before {name} {data}; there were {self.events}"
            self.events.append(json.loads(line))


class Console:
    """The serial console, through the control socket."""

    def __init__(self, path, replay=1024):
        self.client = Client(path)
        assert "result" in self.client.ask("console", replay=replay)
        self.text = ""

    def type(self, text):
        self.client.socket.sendall(text.encode())

    def expect(self, text, limit=120):
        end = time.monotonic() + patience(limit)
        while text not in self.text:
            self.client.socket.settimeout(max(0.1, end - time.monotonic()))
            try:
                data = self.client.stream.read1(65536)
            except socket.timeout:
                sys.exit(f"no '{text}' on the console:\n{self.text[-3000:]}")
            assert data, f"the console ended before '{text}':\n{self.text[-3000:]}"
            self.text += data.decode("utf-8", "replace").replace("\r", "")
        self.text = self.text.split(text, 1)[1]


class Machine:
    """A guest that runs while the `with` lasts, with its control socket in `control`."""

    def __init__(self, args, folder, kernel, *options, initrd=None, **popen):
        self.control = pathlib.Path(folder) / "vm.sock"
        self.command = command(args, kernel, "--serial", "none", "--control", f"unix:{self.control}", *options,
                               initrd=initrd)
        self.popen = popen

    def __enter__(self):
        self.began = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, **self.popen)
        try:
            self.wait_for(self.control)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind=None, *_):
        if kind and kind is not KeyboardInterrupt and self.process.poll() is None:
            self.report()
        self.process.kill()
        self.process.wait()

    def report(self):
        """What a machine that failed its test was doing: whether it answers, what its devices have done, and what
        its threads wait for."""
        print(f"the machine, {time.monotonic() - self.began:.0f} s old:", flush=True)
        for action in "status", "statistics", "statistics":
            try:
                client = Client(self.control, limit=20)
                print(f"  {action}: {json.dumps(client.ask(action))}", flush=True)
            except (OSError, ValueError) as error:
                print(f"  {action}: {error!r}", flush=True)
        for task in sorted(pathlib.Path(f"/proc/{self.process.pid}/task").iterdir(), key=lambda path: int(path.name)):
            try:
                state, *numbers = (task / "stat").read_text().rsplit(")", 1)[1].split()
                waits = (task / "wchan").read_text() if os.getuid() == 0 else "?"
                print(f"  thread {(task / 'comm').read_text().strip():16} {state} in {waits}, "
                      f"{int(numbers[10]) + int(numbers[11])} ticks of CPU time", flush=True)
            except OSError:
                pass

    def wait_for(self, path):
        """Until there is such a socket."""
        end = time.monotonic() + 30 * SCALE
        while not path.exists():
            assert time.monotonic() < end and self.process.poll() is None, f"no {path}"
            time.sleep(0.05)

    def client(self):
        return Client(self.control)

    def console(self):
        return Console(self.control, replay=65536)

    def ended(self, limit=60):
        """Its exit status."""
        return self.process.wait(timeout=limit * SCALE)
