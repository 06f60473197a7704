#!/usr/bin/env python3
"""A whole Debian system: built by `skerry image build`, set up by cloud-init, started from its own disk.

  tests/debian.py build/release/bin/skerry [--engine soft] [--image FILE] [--timing] [--verbose]

The image is built once and kept in build/debian; it needs a Debian mirror, and the test skips, saying why, where
none can be reached. The guest must come to a login, systemd to `running` with no unit failed, the host name and
the user of the seed disk must be there, the filesystem must fill the disk, and the machine must power off.
The guest agent must answer on its channel. `skerry ssh` must get in through the NAT with the user's key and not with another, and apt-get must install a package
over the network; where this host itself does not reach the guest's mirror, that part is skipped, saying why.
"""
import hashlib
import json
import os
import pathlib
import re
import selectors
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import kit
from kit import SCALE

HERE = pathlib.Path(__file__).resolve().parent
IMAGES = pathlib.Path(os.environ.get("SKERRY_DEBIAN") or HERE.parent / "build/debian")
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()].)")


class Skipped(Exception):
    pass


def image(skerry):
    """The image's path; builds it if there is none of this recipe."""
    recipe = hashlib.sha256((HERE.parent / "share/image-build").read_bytes()).hexdigest()[:12]
    path = IMAGES / f"debian-12-{recipe}.raw"
    if path.exists():
        return path
    if kit.IN_LAB:
        raise Skipped(f"no image {path}; ctest guest.soft.debian makes it")
    IMAGES.mkdir(parents=True, exist_ok=True)
    built = subprocess.run([skerry, "image", "build", "debian-12", "-o", str(path)], stderr=subprocess.PIPE, text=True)
    if built.returncode != 0:
        if "cannot reach the mirror" in built.stderr or "needs programs" in built.stderr:
            raise Skipped(built.stderr.strip().splitlines()[-2])
        raise SystemExit(f"FAILED: skerry image build: {built.stderr}")
    for old in IMAGES.glob("debian-12-*.raw"):
        if old != path:
            old.unlink()
    return path


class Console:
    """The serial console of a running machine, where root is logged in."""

    def __init__(self, command, verbose):
        self.began, self.said, self.verbose = time.monotonic(), "", verbose
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def wait(self, pattern, limit):
        """Everything up to a match of `pattern` in what comes from now on."""
        end = time.monotonic() + limit * SCALE
        while not (found := re.search(pattern, ESCAPES.sub("", self.said), re.M)):
            left = end - time.monotonic()
            data = os.read(self.process.stdout.fileno(), 65536) if left > 0 and self.selector.select(left) else None
            if not data:
                print(ESCAPES.sub("", self.said)[-4000:])
                why = f"not within {limit * SCALE:.0f} s" if data is None else "the machine ended first"
                raise SystemExit(f"FAILED: no {pattern!r}: {why}")
            text = data.decode("utf-8", "replace").replace("\r", "")
            if self.verbose:
                print(text, end="", flush=True)
            self.said += text
        plain = ESCAPES.sub("", self.said)
        self.said = plain[found.end():]
        return plain[:found.end()]

    def ask(self, command, limit=60):
        """What a command prints. Marks around it tell it from its echo and from messages of services."""
        self.process.stdin.write(f"echo; echo BEGIN-$((1)); {command}; echo END-$((1))\n".encode())
        self.process.stdin.flush()
        self.wait(r"^BEGIN-1$", limit)
        return self.wait(r"^END-1$", limit).removesuffix("END-1").strip()


class Ssh:
    """What commands print that `skerry ssh` runs in the machine."""

    def __init__(self, skerry, control):
        self.words = [skerry, "ssh", f"unix:{control}", "-o", "BatchMode=yes", "--timeout",
                      f"{120 * SCALE:.0f}"]
        self.environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}

    def ask(self, command, *options, limit=120):
        """Its output, and its exit status if that is not 0."""
        try:
            ran = subprocess.run([*self.words, *options, "--", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env=self.environment, timeout=limit * SCALE)
        except subprocess.TimeoutExpired:
            return f"not within {limit * SCALE:.0f} s"
        return ran.stdout.strip() + (f" (status {ran.returncode})" if ran.returncode else "")


class Agent:
    """The QEMU guest agent, through its channel: a line of JSON each way."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60 * SCALE)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rwb")

    def ask(self, command):
        """What it returns, or what is wrong."""
        self.stream.write(json.dumps({"execute": command}).encode() + b"\n")
        self.stream.flush()
        try:
            answer = json.loads(self.stream.readline())
        except (OSError, ValueError) as error:
            return f"{command}: {error!r}"
        return answer.get("return", answer)


def check_agent(path, expect):
    agent = Agent(path)
    expect("guest agent", str(agent.ask("guest-ping")), r"^{}$")
    info = agent.ask("guest-info")
    known = [c["name"] for c in info["supported_commands"] if c["enabled"]] if isinstance(info, dict) else []
    expect("its commands", f"{len(known)} known, guest-shutdown {'guest-shutdown' in known}", r"guest-shutdown True$")
    name = agent.ask("guest-get-host-name")
    expect("its host name", str(name), r"^{'host-name': 'whole-debian'}$")


def apt_options(uri, scratch):
    """Options with which the guest's apt reaches the mirror as this host's does. Skipped if that does not."""
    url = urllib.parse.urlparse(uri)
    if url.scheme not in ("http", "https") or url.hostname in ("localhost", "127.0.0.1", "::1"):
        raise Skipped(f"the mirror {uri} is on this host only")
    helper = "/usr/lib/apt/apt-helper"
    if not os.access(helper, os.X_OK):
        raise Skipped("no apt on this host to ask whether it reaches the mirror")
    fetched = subprocess.run([helper, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "download-file",
                              f"{uri.rstrip('/')}/dists/bookworm/InRelease", f"{scratch}/InRelease"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120 * SCALE)
    if fetched.returncode != 0:
        raise Skipped(f"this host does not reach {uri}: {fetched.stdout.strip().splitlines()[-1:]}")
    options = ["-o", "Acquire::Languages=none", "-o", "APT::Update::Error-Mode=any"]
    for scheme in ("http", "https"):
        told = subprocess.run(["apt-config", "dump", "--format", "%v", f"Acquire::{scheme}::Proxy"],
                              stdout=subprocess.PIPE, text=True).stdout.strip()
        proxy = told or os.environ.get(f"{scheme}_proxy", "")
        if proxy:  # one on the host's loopback address is at 10.0.2.2 for the guest
            proxy = re.sub(r"//(localhost|127\.0\.0\.1|\[::1\])", "//10.0.2.2", proxy)
            options += ["-o", f"Acquire::{scheme}::Proxy={proxy}"]
    return " ".join(f"'{word}'" for word in options)


def check_network(ssh, scratch, expect):
    """From outside through the NAT, and from inside to a mirror."""
    expect("ssh", ssh.ask("id -un; sudo -n id -u"), r"^ann\n0$")
    stranger = pathlib.Path(scratch) / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    expect("ssh with another key", ssh.ask("id", "-i", str(stranger), "-o", "IdentitiesOnly=yes"),
           r"Permission denied.*\(status 255\)$")
    expect("exit status of a command", ssh.ask("exit 42"), r"^ *\(status 42\)$")
    sources = ssh.ask("grep -rhoE 'https?://[^ ]+ bookworm |^URIs: .*' /etc/apt/sources.list /etc/apt/sources.list.d 2> /dev/null || true")
    uri = re.search(r"(?:http|https|file):[^ \n]+", sources)
    try:
        if not uri:
            raise Skipped(f"the guest's apt has no mirror: {sources!r}")
        options = apt_options(uri[0], scratch)
    except Skipped as why:
        print(f"apt-get in the guest: skipped: {why}", flush=True)
        return
    began = time.monotonic()
    got = ssh.ask(f"sudo apt-get -q {options} update 2>&1 | tail -n 3 && "
                  f"sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y {options} install hello 2>&1 | tail -n 2 && hello",
                  limit=240)
    expect(f"apt-get in the guest ({time.monotonic() - began:.1f} s)", got, r"^Hello, world!$")


def check(args, scratch):
    disk = pathlib.Path(scratch) / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(args.image or image(args.skerry)), str(disk)], check=True)
    with open(disk, "r+b") as file:
        file.truncate(5 << 30)  # a larger one than was built
    key = pathlib.Path(scratch) / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    console = Console([args.skerry, "run", *kit.engine_options(args.engine), "--boot-from-disk", "--disk", f"path={disk}",
                       "--memory", "1G", "--hostname", "whole-debian", "--user", "ann", "--ssh-key", f"{key}.pub",
                       "--net", "user,hostfwd=tcp:127.0.0.1:0-:22", "--control", f"unix:{scratch}/control",
                       "--channel", f"name=org.qemu.guest_agent.0,socket={scratch}/agent"],
                      args.verbose)
    ssh = Ssh(args.skerry, f"{scratch}/control")
    wrong = []

    def expect(what, got, pattern):
        good = re.search(pattern, got, re.M)  # services write to the console as well
        print(f"{what}: {'ok' if good else 'FAILED'} ({' / '.join(got.splitlines())})", flush=True)
        if not good:
            wrong.append(what)

    try:
        console.wait(r"root@[\w-]+:~# ", 240)
        login = time.monotonic() - console.began
        print(f"a login after {login:.1f} s", flush=True)
        expect("systemd", console.ask("systemctl is-system-running --wait", 240), r"^running$")
        running = time.monotonic() - console.began
        expect("failed units", console.ask("systemctl --failed --no-legend | wc -l"), r"^0$")
        expect("cloud-init", console.ask("cloud-init status"), r"^status: done$")
        expect("host name", console.ask("hostname"), r"^whole-debian$")
        expect("user", console.ask("id -un ann; sudo -u ann sudo -n id -u"), r"^ann\n0$")
        expect("key", console.ask("cat /home/ann/.ssh/authorized_keys"),
               re.escape(pathlib.Path(f"{key}.pub").read_text().strip()))
        expect("size", console.ask("df -BM --output=size / | tail -1"), r"^\s*4[0-9]{3}M$|^\s*5[01][0-9]{2}M$")
        check_agent(f"{scratch}/agent", expect)
        check_network(ssh, scratch, expect)
        console.process.stdin.write(b"poweroff\n")
        console.process.stdin.flush()
        console.wait(r"Power down", 120)
        status = console.process.wait(timeout=60 * SCALE)
        expect("exit status", str(status), "^0$")
        if args.timing:
            print(f"timing login {login:.2f}\ntiming running {running:.2f}")
    finally:
        console.process.kill()
        console.process.wait()
    fsck = subprocess.run(["e2fsck", "-fn", str(disk)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=dict(os.environ, PATH=os.environ["PATH"] + ":/sbin:/usr/sbin"))
    expect("filesystem", "clean" if fsck.returncode == 0 else fsck.stdout, "^clean$")
    print(f"FAILED: {', '.join(wrong)}" if wrong else "the whole system is well")
    return 1 if wrong else 0


def main():
    parser = kit.parser(__doc__)
    parser.add_argument("--image", help="an image that is there already")
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    if not shutil.which("ssh-keygen") or not shutil.which("ssh"):
        print("skipped: no OpenSSH client; apt-get install openssh-client")
        return kit.SKIP
    try:
        with kit.scratch("debian") as scratch:
            return check(args, scratch)
    except Skipped as why:
        print(f"skipped: {why}")
        return kit.SKIP


if __name__ == "__main__":
    sys.exit(main())
