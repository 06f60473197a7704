#!/usr/bin/env python3
"""iperf3, the host's own, between two guests on a virtual switch, and between a guest and its host through the NAT
and a forward: TCP in both directions and at once, UDP.

  iperf.py SKERRY [--engine soft]

It says how fast it was and judges only whether all went well: figures are for bench/net. Exit status 0, 1, or 77
where iperf3 is missing or tests/guests/make has not run.
"""
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import time

import kit
import net_server
import switch_guests

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
from harness.root import archive  # noqa: E402

PORT = 5201
LEAST = 1 << 20  # bytes that even a slow stream carries
OPTIONS = "-J -i 0"
LISTENS = ":{:04X} 0*:0000 0A"  # in /proc/net/tcp


def initrd(scratch, program):
    """That of the guests, with a program of the host's and its libraries behind it."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    files = [program, *re.findall(r"(/\S+) \(0x", listed)]
    entries = {}
    for file in files:
        path = pathlib.Path(file)
        for parent in reversed(path.parents[:-1]):
            entries.setdefault(str(parent)[1:], (stat.S_IFDIR | 0o755, b""))
        entries[file[1:]] = (stat.S_IFREG | 0o755, path.read_bytes())
    entries["bin/iperf3"] = entries.pop(program[1:])
    first = (kit.GUESTS / switch_guests.KERNEL / "initrd").read_bytes()
    result = pathlib.Path(scratch) / "initrd"
    result.write_bytes(first + bytes(-len(first) % 4) + archive(entries))
    return result


def document(text):
    """The JSON in what a guest's terminal shows."""
    try:
        return json.loads(text[text.index("{"):text.rindex("}") + 1])
    except ValueError:
        return {"error": f"no JSON in {text[-300:]!r}"}


class InGuest:
    """A server for one test: one that is still ending the last would refuse the next. In a session of its own: in the
    shell's it takes the shell along when it ends."""

    def __init__(self, guest):
        self.guest = guest

    def __enter__(self):
        self.guest.run(f"setsid iperf3 -s -1 < /dev/null > /dev/null 2>&1 & until grep -q '{LISTENS.format(PORT)}' /proc/net/tcp /proc/net/tcp6; "
                       "do sleep 0.2; done")

    def __exit__(self, *_):
        self.guest.run("killall iperf3 2>/dev/null; wait")


class OnHost:
    def __init__(self, port):
        self.port = port

    def __enter__(self):
        self.process = subprocess.Popen(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not re.search(LISTENS.format(self.port), pathlib.Path("/proc/net/tcp").read_text()) and self.process.poll() is None:
            time.sleep(0.1)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Test(switch_guests.Test):
    def run(self):
        forward, image = net_server.free_port(), initrd(os.environ["XDG_RUNTIME_DIR"], shutil.which("iperf3"))
        one = self.guest("one", "switch,name=lan1", initrd=image)
        two = self.guest("two", "switch,name=lan1", f"user,hostfwd=tcp:127.0.0.1:{forward}-:{PORT}", initrd=image)
        for number, guest in enumerate(self.guests, 1):
            guest.wait(r"# $")
            guest.run("stty -echo; PS1=; ip link set lo up")
            guest.run(f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up")
        two.run("ip addr add 10.0.2.15/24 dev eth1; ip link set eth1 up; ip route add default via 10.0.2.2")
        port = net_server.free_port()
        self.streams("guest to guest", InGuest(one), lambda options: two.run(f"iperf3 -c 10.0.0.1 {OPTIONS} {options}")[1])
        self.streams("guest to host", OnHost(port),
                     lambda options: two.run(f"iperf3 -c 10.0.2.2 -p {port} {OPTIONS} {options}")[1])
        # Only TCP is forwarded.
        self.streams("host to guest", InGuest(two), lambda options: subprocess.run(
            ["iperf3", "-c", "127.0.0.1", "-p", str(forward), *OPTIONS.split(), *options.split()],
            capture_output=True, text=True, timeout=120).stdout, udp=False)

    def streams(self, what, server, client, udp=True):
        def run(options):
            with server:
                return client(options)

        for name, options, ways in ("sent", "-t 3", ["sum_received"]), ("received", "-t 3 -R", ["sum_received"]), (
                "both at once", "-t 3 --bidir", ["sum_received", "sum_received_bidir_reverse"]):
            said = document(run(options))
            end = said.get("end", {})
            carried = [end.get(way, {"bytes": 0, "bits_per_second": 0}) for way in ways]
            speed = ", ".join(f"{way['bits_per_second'] / 1e9:.2f} Gbit/s" for way in carried)
            self.check(f"{what}: TCP {name}", "error" not in said and all(way["bytes"] >= LEAST for way in carried),
                       said.get("error") or speed)
        if udp:
            said = document(run("-t 3 -u -b 2M"))
            total = said.get("end", {}).get("sum", {"packets": 0, "lost_packets": 0})
            arrived = total["packets"] - total["lost_packets"]
            self.check(f"{what}: UDP", total["packets"] > 100 and 2 * arrived > total["packets"],
                       said.get("error") or f"{arrived} of {total['packets']} datagrams")


def main():
    args = kit.parser(__doc__).parse_args()
    why = kit.missing(switch_guests.KERNEL)
    if not shutil.which("iperf3"):
        why = "no iperf3: apt-get install iperf3"
    if why:
        print(f"skipped: {why}")
        return kit.SKIP
    return switch_guests.run(Test, args, "iperf")


if __name__ == "__main__":
    sys.exit(main())
