#!/usr/bin/env python3
"""Whole guests on a virtual switch: they reach each other, VLANs and private ports keep apart, what is sent
from another's address is dropped, a rate holds, `skerry switch` tells, and nothing is left afterwards.

  switch_guests.py SKERRY [--engine soft]

Exit status 0, 1, or 77 where tests/guests/make has not run.
"""
import json
import os
import re
import subprocess
import sys
import threading
import time

import kit

KERNEL = "cloud-6.1"
RATES = {"a": 2, "c": 3} if kit.IN_LAB else {"a": 24, "c": 32}  # Mbit/s, of their second cards


class Guest:
    """A machine with a shell on its serial port."""

    def __init__(self, args, name, *nets, initrd=None, cpus=1):
        command = kit.command(args, KERNEL, "--name", name, "--memory", "256M", "--cpus", cpus,
                              *(word for net in nets for word in ("--net", net)), initrd=initrd)
        self.name, self.text, self.count = name, "", 0
        self.changed = threading.Condition()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.text += data.decode("utf-8", "replace").replace("\r", "")
                self.changed.notify_all()
        with self.changed:
            self.text += "\n(ended)\n"
            self.changed.notify_all()

    def wait(self, pattern, seconds=120):
        limit = time.monotonic() + seconds * kit.SCALE
        with self.changed:
            while not (found := re.search(pattern, kit.ESCAPES.sub("", self.text))):
                left = limit - time.monotonic()
                if left <= 0 or "(ended)" in self.text:
                    raise RuntimeError(f"{self.name}: no {pattern!r} in:\n{self.text[-2000:]}")
                self.changed.wait(left)
            return found

    def start(self, line):
        """Types a line; wait_done() waits for its end."""
        self.count += 1
        with self.changed:
            self.text = ""
        self.process.stdin.write(f"{line}; echo END-$(({self.count} + 0))-$?.\n".encode())
        self.process.stdin.flush()

    def wait_done(self, seconds=120):
        found = self.wait(rf"END-{self.count}-(\d+)\.", seconds)
        return int(found.group(1)), found.string[:found.start()]

    def run(self, line, seconds=120):
        self.start(line)
        return self.wait_done(seconds)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Test:
    def __init__(self, args):
        self.args, self.failed, self.guests = args, 0, []

    def check(self, what, good, why=""):
        print(f"{'ok' if good else 'FAILED':6} {what}" + (f" ({why})" if why else ""), flush=True)
        self.failed += not good

    def guest(self, name, *nets, **more):
        self.guests.append(Guest(self.args, name, *nets, **more))
        return self.guests[-1]

    def switch(self, *words):
        done = subprocess.run([self.args.skerry, "switch", *words], capture_output=True, text=True, timeout=30)
        return done.stdout if done.returncode == 0 else done.stderr

    def port(self, owner):
        report = json.loads(self.switch("show", "lan1", "--json"))
        port = next(p for p in report["ports"] if p["owner"] == owner)
        return port | {"seconds": report["monotonic_seconds"]}

    def run(self):
        a = self.guest("a", "switch,name=lan1", f"switch,name=lan1,vlan=30,rate={RATES['a']}M")
        b = self.guest("b", "switch,name=lan1", "switch,name=lan1,vlan=20,isolated")
        c = self.guest("c", "switch,name=lan1,vlan=20", f"switch,name=lan1,vlan=30,rate={RATES['c']}M")
        d = self.guest("d", "switch,name=lan1,vlan=20,isolated")
        for number, guest in enumerate(self.guests, 1):
            guest.wait(r"# $")
            # Linux answers ARP for all its addresses on any card, unless told.
            guest.run("stty -echo; PS1=; echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore")
            for card in range(2):
                guest.run(f"ip addr add 10.{card}.0.{number}/16 dev eth{card} 2>/dev/null && ip link set eth{card} up")
        self.alike(a, b)
        self.apart(b, c, d)
        c.run("ip route add 10.1.0.1/32 dev eth1 src 10.1.0.3")
        self.rate(a, c, "10.1.0.3")
        self.rate(c, a, "10.1.0.1")
        self.spoofed(a, b)
        self.duplicate()
        self.leave()

    @staticmethod
    def pings(guest, address, count=3):
        return guest.run(f"ping -c {count} -W 3 {address} >/dev/null")[0] == 0

    def alike(self, a, b):
        self.check("two machines reach each other", self.pings(a, "10.0.0.2") and self.pings(b, "10.0.0.1"))
        b.start("nc -l -p 5000 | sha256sum")
        a.run("sleep 1; dd if=/dev/urandom of=/tmp/big bs=64k count=512 2>/dev/null")
        a.run("nc 10.0.0.2 5000 < /tmp/big")
        _, got = b.wait_done()
        _, sent = a.run("sha256sum < /tmp/big")
        self.check("32 MiB arrive unharmed", got.split()[:1] == sent.split()[:1] and len(got) > 60)
        shown = self.switch("list") + self.switch("show", "lan1")
        self.check("skerry switch shows them", all(word in shown for word in ["lan1", "a/net0", "b/net1", f"{RATES['c']}M"]))

    def apart(self, b, c, d):
        # c's eth0 and d's eth0 are in VLAN 20, b's eth0 is not; b's eth1 and d's eth0 are isolated.
        self.check("the same VLAN", self.pings(c, "10.0.0.4"))
        self.check("another VLAN is out of reach", not self.pings(c, "10.0.0.2"))
        d.run("ip addr add 10.1.0.4/16 dev eth0")
        c.run("ip addr add 10.1.0.33/16 dev eth0; ip route add 10.1.0.2/32 dev eth0 src 10.1.0.33")
        self.check("a private port reaches others", self.pings(c, "10.1.0.2"))
        self.check("but no private one", not self.pings(d, "10.1.0.2"))

    def rate(self, sender, receiver, address):
        """The rate of what a guest sends, over spans in which the rate and nothing else held it back: the switch
        counts what it would have let through beyond what came. On a busy machine a span may have a gap; then
        there is another one."""
        owner, rate = f"{sender.name}/net1", RATES[sender.name] * 1e6
        # Its input is not the terminal, of which a line for the shell would stop it.
        receiver.run("tail -f /dev/null | nc -l -p 5001 > /dev/null & sleep 1")
        sender.run(f"nc {address} 5001 < /dev/zero & sleep 3")
        full, shares, sums, last = [], [], [], self.port(owner)
        for _ in range(20):
            time.sleep(4)  # what may be sent at once after a pause is 50 ms of it
            now = self.port(owner)
            most = rate * (now["seconds"] - last["seconds"]) / 8
            share = (now["in"]["bytes"] - last["in"]["bytes"]) / most
            unused = (now["rate_unused"] - last["rate_unused"]) / most
            shares.append(share)
            sums.append(share + unused)
            if unused < 0.01:
                full.append(share)
            last = now
            if len(full) == 3:
                break
        for guest in sender, receiver:
            guest.run("killall nc tail 2>/dev/null; wait")
        what, said = f"{owner} sends at {rate / 1e6:.0f} Mbit/s", " ".join(f"{s:.3f}" for s in shares)
        self.check(f"{what}, to within 5 %, whenever that is what holds it back",
                   full and all(0.95 < s < 1.05 for s in full), f"{len(full)} of {len(shares)} spans: {said}")
        self.check(f"{what} and never more", all(s < 1.05 for s in shares))
        self.check(f"{what}, or the switch knows what is missing", all(0.95 < s < 1.05 for s in sums),
                   " ".join(f"{s:.3f}" for s in sums))

    def spoofed(self, a, b):
        before = self.port("a/net0")["dropped"]["spoofed"]
        a.run("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77; ip link set eth0 up")
        self.check("a machine with another's address is not heard", not self.pings(a, "10.0.0.2"))
        self.check("and counted", self.port("a/net0")["dropped"]["spoofed"] > before)

    def duplicate(self):
        twin = self.guest("a", "switch,name=lan1")
        twin.wait(r"\(ended\)")
        said = " ".join(twin.text.split())
        self.check("a duplicate address is refused", twin.end() == 71 and "in use by a/net0" in said and "--name" in said, said)

    def leave(self):
        for guest in self.guests:
            guest.end()
        for _ in range(50):
            if "no switch runs" in self.switch("list"):
                break
            time.sleep(0.1)
        self.check("the switch ends with its last machine", "no switch runs" in self.switch("list"))


def run(test_of, args, name):
    """The exit status of a test with guests, whose switches are found in a folder of its own."""
    with kit.scratch(name) as scratch:
        os.environ["XDG_RUNTIME_DIR"] = scratch
        test = test_of(args)
        try:
            test.run()
        except RuntimeError as error:
            test.check(str(error), False)
        finally:
            for guest in test.guests:
                guest.end()
    return 1 if test.failed else 0


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    return run(Test, args, "sw")


if __name__ == "__main__":
    sys.exit(main())
