#!/usr/bin/env python3
"""Whole guests on tap devices, in a network namespace of their own: bytes arrive unharmed both ways between a guest
and its host, and guests of one bridge reach each other.

  tap_guests.py SKERRY [--engine soft]

Exit status 0, 1, or 77 where namespaces, /dev/net/tun or ip(8) are missing or tests/guests/make has not run.
"""
import argparse
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading

import run_guest
import switch_guests

SKIP = 77
BIG = random.Random(2).randbytes(24 << 20)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def ip(*words):
    done = subprocess.run(["ip", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


class Host:
    """Sends BIG to whoever connects to port 7001, keeps the hash of what comes to 7002."""

    def __init__(self, address):
        self.got, self.here = threading.Event(), ""
        for port, work in (7001, self.give), (7002, self.take):
            listener = socket.create_server((address, port))
            threading.Thread(target=self.serve, args=(listener, work), daemon=True).start()

    @staticmethod
    def serve(listener, work):
        while True:
            connection, _ = listener.accept()
            with connection:
                work(connection)

    @staticmethod
    def give(connection):
        connection.sendall(BIG)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    def take(self, connection):
        sha = hashlib.sha256()
        while data := connection.recv(1 << 20):
            sha.update(data)
        self.here = sha.hexdigest()
        self.got.set()


class Test(switch_guests.Test):
    def run(self):
        bridge = ip("link", "add", "skbr", "type", "bridge") and ip("link", "set", "skbr", "up")
        nets = ["tap,bridge=skbr"] if bridge else []
        a = self.guest("a", "tap,ifname=sktap", *nets)
        guests = [a, self.guest("b", *nets)] if bridge else [a]
        for number, guest in enumerate(guests, 2):
            guest.wait(r"# $")
            guest.run("stty -echo; PS1=")
            guest.run(f"ip addr add 10.8.0.{number}/24 dev eth{int(guest is a)}")
            guest.run("for c in /sys/class/net/eth*; do ip link set ${c##*/} up; done")
        a.run("ip addr add 10.9.0.2/24 dev eth0")
        ip("addr", "add", "10.9.0.1/24", "dev", "sktap")
        host = Host("10.9.0.1")
        self.check("guest and host reach each other", self.pings(a, "10.9.0.1"))
        _, got = a.run("nc 10.9.0.1 7001 < /dev/null | sha256sum", 180)
        self.check("24 MiB arrive unharmed in the guest", hashlib.sha256(BIG).hexdigest() in got, got.strip())
        _, sent = a.run("dd if=/dev/urandom of=/tmp/big bs=64k count=384 2>/dev/null; sha256sum < /tmp/big; "
                        "nc 10.9.0.1 7002 < /tmp/big", 180)
        host.got.wait(60)
        self.check("24 MiB arrive unharmed at the host", host.here and host.here in sent, sent.strip())
        if bridge:
            self.check("guests of one bridge reach each other", self.pings(a, "10.8.0.3"))
            shown = subprocess.run(["ip", "-o", "link", "show", "master", "skbr"], capture_output=True, text=True).stdout
            names = [line.split(":")[1].strip() for line in shown.splitlines()]
            self.check("their devices are in it", sorted(names) == ["skerry0", "skerry1"], " ".join(names))
        else:
            print("skipped: two guests on a bridge: this kernel has none")
        for guest in self.guests:
            guest.end()
        self.check("the devices go with the machines", not ip("link", "show", "sktap"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("skerry")
    parser.add_argument("--engine", default="soft")
    args = parser.parse_args()
    if not (run_guest.GUESTS / switch_guests.KERNEL / "vmlinuz").exists():
        skip("run tests/guests/make first")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        skip("no /dev/net/tun: sudo modprobe tun")
    if not shutil.which("ip") or not shutil.which("unshare"):
        skip("no ip or unshare: apt-get install iproute2 util-linux")
    if not os.environ.get("SKERRY_TAP_NAMESPACE"):
        for how in ["-n"], ["-r", "-n"]:
            if subprocess.run(["unshare", *how, "true"], stderr=subprocess.DEVNULL).returncode == 0:
                os.environ["SKERRY_TAP_NAMESPACE"] = "1"
                os.execvp("unshare", ["unshare", *how, sys.executable, *sys.argv])
        skip("no network namespaces: needs root, or user namespaces")
    ip("link", "set", "lo", "up")
    test = Test(args)
    try:
        test.run()
    finally:
        for guest in test.guests:
            guest.end()
    return 1 if test.failed else 0


if __name__ == "__main__":
    sys.exit(main())
