#!/usr/bin/env python3
"""Whole guests on tap devices, in a network namespace of their own: bytes arrive unharmed both ways between a guest
and its host, guests of one bridge reach each other, two CPUs use two queues, and a tap is a switch's uplink.

  tap_guests.py SKERRY [--engine soft]

Exit status 0, 1, or 77 where namespaces, /dev/net/tun or ip(8) are missing or tests/guests/make has not run.
"""
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

import kit
import switch_guests

BIG = random.Random(2).randbytes(24 << 20)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(kit.SKIP)


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
            threading.Thread(target=work, args=(connection,), daemon=True).start()

    @staticmethod
    def give(connection):
        with connection:
            connection.sendall(BIG)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    def take(self, connection):
        sha = hashlib.sha256()
        with connection:
            while data := connection.recv(1 << 20):
                sha.update(data)
        self.here = sha.hexdigest()
        self.got.set()


class Test(switch_guests.Test):
    def run(self):
        self.card_and_bridge()
        self.queues()
        self.uplink()

    def shell(self, guest, *commands):
        guest.wait(r"# $")
        for command in ("stty -echo; PS1=", *commands):
            guest.run(command)

    def both_ways(self, what, guest, host, address):
        self.check(f"{what}: guest and host reach each other", self.pings(guest, address))
        _, got = guest.run(f"nc {address} 7001 < /dev/null | sha256sum", 180)
        self.check(f"{what}: 24 MiB arrive unharmed in the guest", hashlib.sha256(BIG).hexdigest() in got, got.strip())
        _, sent = guest.run("dd if=/dev/urandom of=/tmp/big bs=64k count=384 2>/dev/null; sha256sum < /tmp/big; "
                            f"nc {address} 7002 < /tmp/big", 180)
        host.got.wait(60)
        self.check(f"{what}: 24 MiB arrive unharmed at the host", host.here and host.here in sent, sent.strip())

    def leave(self, device):
        for guest in self.guests:
            guest.end()
        self.guests.clear()
        for _ in range(50):  # a switch takes a moment longer than its machines
            if not ip("link", "show", device):
                break
            time.sleep(0.1)
        self.check(f"{device} goes with its machine", not ip("link", "show", device))

    def queues(self):
        """Each CPU sends on a queue of its own, and the kernel answers there."""
        def there():
            shown = json.loads(subprocess.run(["ip", "-d", "-j", "link", "show", "skmq"], capture_output=True).stdout)
            info = shown[0]["linkinfo"]["info_data"]
            return info["numqueues"], info["numdisabled"]

        guest = self.guest("m", "tap,ifname=skmq,queues=2", cpus=2)
        up = "ip addr add 10.10.0.2/24 dev eth0; ip link set eth0 up"
        self.shell(guest, up)
        ip("addr", "add", "10.10.0.1/24", "dev", "skmq")
        host = Host("10.10.0.1")
        self.check("two CPUs use two queues", there() == (2, 0), str(there()))
        self.both_ways("queues", guest, host, "10.10.0.1")
        _, got = guest.run("for mask in 1 2; do taskset $mask nc 10.10.0.1 7001 < /dev/null | sha256sum & done; wait", 180)
        self.check("a stream on each CPU arrives unharmed", got.count(hashlib.sha256(BIG).hexdigest()) == 2, got.strip())
        _, told = guest.run("grep virtio.*put /proc/interrupts")
        counts = {line.split()[-1].split("-")[1]: sum(map(int, line.split()[1:3])) for line in told.splitlines()
                  if "put." in line}
        self.check("both queues were used both ways", len(counts) == 4 and all(counts.values()), str(counts))
        _, device = guest.run("basename $(readlink /sys/class/net/eth0/device)")
        device, driver = device.strip(), "/sys/bus/virtio/drivers/virtio_net"
        guest.run(f"echo {device} > {driver}/unbind")
        self.check("without a driver one is left", there() == (1, 1), str(there()))
        guest.run(f"echo {device} > {driver}/bind; {up}")
        self.check("and two again with it", there() == (2, 0) and self.pings(guest, "10.10.0.1"), str(there()))
        self.leave("skmq")

    def uplink(self):
        """A virtual switch on the host's network: both machines through the one's uplink."""
        c = self.guest("c", "switch,name=lan1,uplink=tap,ifname=skup")
        c.wait(r"# $")
        d = self.guest("d", "switch,name=lan1")
        for number, guest in enumerate(self.guests, 2):
            self.shell(guest, f"ip addr add 10.11.0.{number}/24 dev eth0; ip link set eth0 up")
        ip("addr", "add", "10.11.0.1/24", "dev", "skup")
        host = Host("10.11.0.1")
        self.both_ways("uplink", d, host, "10.11.0.1")
        self.check("uplink: the machines reach each other, too", self.pings(c, "10.11.0.3") and self.pings(c, "10.11.0.1"))
        port = self.port("uplink tap skup")
        least = len(BIG)
        self.check("skerry switch shows it", port["in"]["bytes"] > least and port["out"]["bytes"] > least and
                   not port["dropped"]["malformed"], json.dumps(port))
        self.leave("skup")

    def card_and_bridge(self):
        bridge = ip("link", "add", "skbr", "type", "bridge") and ip("link", "set", "skbr", "up")
        nets = ["tap,bridge=skbr"] if bridge else []
        a = self.guest("a", "tap,ifname=sktap", *nets)
        guests = [a, self.guest("b", *nets)] if bridge else [a]
        for number, guest in enumerate(guests, 2):
            self.shell(guest, f"ip addr add 10.8.0.{number}/24 dev eth{int(guest is a)}")
            guest.run("for c in /sys/class/net/eth*; do ip link set ${c##*/} up; done")
        a.run("ip addr add 10.9.0.2/24 dev eth0")
        ip("addr", "add", "10.9.0.1/24", "dev", "sktap")
        host = Host("10.9.0.1")
        self.both_ways("card", a, host, "10.9.0.1")
        if bridge:
            self.check("guests of one bridge reach each other", self.pings(a, "10.8.0.3"))
            shown = subprocess.run(["ip", "-o", "link", "show", "master", "skbr"], capture_output=True, text=True).stdout
            names = [line.split(":")[1].strip() for line in shown.splitlines()]
            self.check("their devices are in it", sorted(names) == ["skerry0", "skerry1"], " ".join(names))
        else:
            print("skipped: two guests on a bridge: this kernel has none")
        self.leave("sktap")


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(switch_guests.KERNEL):
        skip(why)
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
    return switch_guests.run(Test, args, "tap")


if __name__ == "__main__":
    sys.exit(main())
