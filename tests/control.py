#!/usr/bin/env python3
"""A Debian guest commanded through its control socket: control.py SKERRY [--engine E]. 77 if there is no
guest image.

Pauses and resumes under load, and what the guest computes meanwhile must come out right; then every verb."""
import hashlib
import json
import pathlib
import subprocess
import sys
import time

import kit
from kit import SCALE, GUESTS

KERNEL = "cloud-6.12"  # knows of VM generations


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    with kit.scratch("control") as scratch:
        raw, qcow2 = pathlib.Path(scratch) / "a.raw", pathlib.Path(scratch) / "b.qcow2"
        for disk in (raw, qcow2):
            subprocess.run([args.skerry, "image", "create", disk, "32M"], check=True, stdout=subprocess.DEVNULL)
        with kit.Machine(args, scratch, KERNEL, "--name", "web", "--balloon", "--disk", f"path={raw}",
                           "--disk", f"path={qcow2},iops=1000", "--net", "user,link_down") as vm:
            check(args, vm)
        assert raw.stat().st_size == 64 << 20
        subprocess.run([args.skerry, "image", "check", qcow2], check=True, stdout=subprocess.DEVNULL)
        for disk in (raw, qcow2):  # what the guest wrote where there was no disk before
            subprocess.run([args.skerry, "image", "convert", "-O", "raw", disk, f"{disk}.out"], check=True,
                           stdout=subprocess.DEVNULL)
            assert pathlib.Path(f"{disk}.out").read_bytes()[-7:] == b"the end", disk
    return 0


def balloon(client, console):
    """The guest fills its memory and frees it, lends 256 MiB, and takes them back."""
    def until(condition, what):
        end = time.monotonic() + 60 * SCALE
        while not condition(now := client.result("balloon")):
            assert time.monotonic() < end, (what, now)
            time.sleep(0.2)
        return now

    busybox = (GUESTS / "busybox").read_bytes()

    def fill(mib, label):
        """The guest writes so much memory and tells what is in it."""
        copies = (mib << 20) // len(busybox)
        console.type(f"for i in $(seq {copies}); do cat /bin/busybox; done > /tmp/x; md5sum < /tmp/x; echo {label}; echo\n")
        console.expect(f"\n{hashlib.md5(busybox * copies).hexdigest()}  -\n{label}\n")

    guest = {c["name"]: c["value"] for c in until(lambda b: b["driver"] and b["guest"], "statistics")["guest"]}
    assert 300 << 20 < guest["total bytes"] < 512 << 20 and guest["free bytes"] <= guest["total bytes"], guest
    # Free page reporting: memory that was used and freed goes back by itself.
    console.type("mount -t tmpfs -o size=330m t /tmp\n")
    used = 100 if kit.IN_LAB else 300  # the lab is slow
    fill(used, "full")
    full = client.result("balloon")["guest_memory"]
    console.type("rm /tmp/x; echo free; echo\n")
    console.expect("\nfree\n")
    now = until(lambda b: b["guest_memory"] < full - (used * 2 // 3 << 20), "free pages are reported")
    print(f"ok: guest memory {full >> 20} MiB full, {now['guest_memory'] >> 20} MiB after it was freed")

    before = client.result("balloon")
    client.result("balloon", size="256M")
    now = until(lambda b: b["lent"] == 256 << 20, "256 MiB lent")
    free = {c["name"]: c["value"] for c in now["guest"]}["free bytes"]
    assert free < guest["free bytes"] - (200 << 20), (free, guest)
    fill(64, "lent")
    assert client.result("balloon")["lent"] >= 200 << 20
    client.result("balloon", size=0)
    until(lambda b: b["lent"] == 0, "all given back")
    fill(300, "back")
    console.type("rm /tmp/x\n")
    assert client.ask("balloon", size="2G")["error"]["code"] == "bad_arguments"
    print(f"ok: 256 MiB lent and taken back; guest memory {before['guest_memory'] >> 20} MiB before, "
          f"{now['guest_memory'] >> 20} MiB while lent")


def disks(client, console, ctl):
    """Both become larger under the guest's eyes; a limit holds it up, and its end lets it go."""
    for disk, name in (("disk0", "vda"), ("disk1", "vdb")):
        assert client.result("disk_resize", disk=disk, size="64M") == {"size": 64 << 20, "before": 32 << 20}
        console.type(f"while [ $(cat /sys/block/{name}/size) != 131072 ]; do sleep 0.1; done; "
                     f"printf '%512s' 'the end' | dd of=/dev/{name} bs=512 seek=131071 2>/dev/null; sync; echo grown; echo\n")
        console.expect("\ngrown\n")
    for disk, size, code, text in [("disk0", "32M", "refused", "only becomes larger"),
                                   ("disk0", 100 << 20 | 7, "refused", "multiple"),
                                   ("disk7", "1G", "not_found", "unknown disk 'disk7'")]:
        error = client.ask("disk_resize", disk=disk, size=size)["error"]
        assert error["code"] == code and text in error["message"], error
    assert client.ask("disk_resize", disk="disk0")["error"]["code"] == "bad_arguments"
    assert ctl("disk-resize", "disk0", "64M") == "size            64.0 MiB\nbefore          64.0 MiB\n"

    assert client.result("disk_limits", disk="disk1") == {"bps": 0, "bps_burst": 0, "iops": 1000, "iops_burst": 0}
    assert client.result("disk_limits", disk="disk1", iops=2, iops_burst=1)["iops"] == 2
    # Five reads past the cache at two in a second.
    read = ("for i in 1 2 3 4 5; do dd if=/dev/vdb of=/dev/null bs=4k count=1 skip=$((i * 50)) iflag=direct 2>/dev/null; "
            "done; echo read; echo\n")
    began = time.monotonic()
    console.type(read)
    console.expect("\nread\n")
    assert 1.5 < time.monotonic() - began < 60 * SCALE
    client.result("disk_limits", disk="disk1", iops=1, iops_burst=1)
    console.type(read)
    time.sleep(0.5)
    assert "iops            0" in ctl("disk-limits", "disk1", "--iops", "0")
    console.expect("\nread\n")
    assert client.ask("disk_limits", disk="x")["error"]["code"] == "not_found"
    print("ok: disks resized, and limited")


def link(client, console, ctl):
    """The guest's carrier is what the cable is."""
    def carrier(up):
        console.type(f"while [ $(cat /sys/class/net/eth0/carrier) != {up} ]; do sleep 0.1; done; echo carrier{up}; echo\n")
        console.expect(f"\ncarrier{up}\n")

    console.type("ip link set eth0 up\n")
    now = client.result("link")
    assert (now["card"], now["up"]) == ("net0", False) and "user" in now["connected_to"], now
    carrier(0)
    assert client.result("link", cable="up")["up"]
    carrier(1)
    assert "up              no" in ctl("link", "net0", "down")
    carrier(0)
    assert client.result("link", card="net0", cable="up")["mac"] == now["mac"]
    carrier(1)
    for arguments, code in [({"card": "net1"}, "not_found"), ({"cable": "left"}, "bad_arguments")]:
        assert client.ask("link", **arguments)["error"]["code"] == code
    print("ok: the carrier follows the cable")


def check(args, vm):
    def ctl(*words, status=0):
        ran = subprocess.run([args.skerry, "ctl", vm.control, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert ran.returncode == status, (words, ran)
        return ran.stdout + ran.stderr

    assert vm.control.stat().st_mode & 0o777 == 0o600

    watcher, client = vm.client(), vm.client()
    assert watcher.hello == {"protocol": 1, "version": watcher.hello["version"], "machine": "web"}
    watcher.result("events", after=0)
    watcher.event("state", state="running")
    status = client.result("status")
    assert (status["state"], status["name"], status["pid"]) == ("running", "web", vm.process.pid), status
    assert 0 < status["time"] < 1e9 * (time.monotonic() - vm.began + 1), status

    console = vm.console()
    console.expect("# ")
    assert "shell" in client.result("screen")["text"]

    # Pause and resume under load: the guest's own result, and that its clock stood still.
    console.type("a=0; i=0; while [ $i -lt 60000 ]; do a=$(((a * 31 + i) % 1000003)); i=$((i + 1)); done; echo sum=$a\n")
    pauses = 0
    began = time.monotonic()
    while "sum=" not in client.result("screen")["text"].rsplit("echo sum=", 1)[-1] and pauses < 400:
        client.result("pause")
        before = client.result("status")
        assert before["state"] == "paused" and before["reason"] == "by request", before
        if pauses == 1:
            time.sleep(0.5)
        after = client.result("status")
        assert after["time"] == before["time"], (before, after)
        client.result("resume")
        client.result("statistics")
        pauses += 1
        time.sleep(0.01)
        assert time.monotonic() - began < 200 * SCALE
    a = 0
    for i in range(60000):
        a = (a * 31 + i) % 1000003
    console.expect(f"\nsum={a}\n")
    assert pauses > 3, pauses
    print(f"ok: {pauses} pauses under load, sum={a}")

    # The statistics moved, and are of this machine.
    statistics = client.result("statistics")
    rng = next(d for d in statistics["devices"] if d["name"] == "rng0")
    assert any(c["name"] == "interrupts" for c in rng["counters"]), rng
    assert any(c["value"] for c in statistics["cpus"][0]["counters"])
    assert statistics["guest_memory"] > 20 << 20, statistics["guest_memory"]

    balloon(client, console)
    disks(client, console, ctl)
    link(client, console, ctl)

    # A copy is told that it is one.
    first = client.result("new_generation")["id"]
    assert client.result("new_generation")["id"] != first
    console.type("while ! dmesg | grep -q 'virtual machine fork'; do sleep 0.1; done; echo forked; echo\n")
    console.expect("\nforked\n")

    # Errors are typed.
    client.result("pause")
    watcher.event("state", state="paused", reason="by request")
    for action, arguments, code in [("power_button", {}, "wrong_phase"), ("puase", {}, "unknown_action"),
                                    ("screen", {"line": "serial7"}, "not_found"),
                                    ("screen", {"bytes": 0}, "bad_arguments")]:
        answer = client.ask(action, **arguments)
        assert answer["error"]["code"] == code and answer["error"]["message"], answer
    assert "resume it first" in ctl("power-button", status=1)

    # People's way.
    assert "state           paused" in ctl("status")
    assert ctl("resume") == "running\n" and json.loads(ctl("status", "--json"))["state"] == "running"
    assert "sum=" in ctl("screen")
    counter = "KVM exits" if args.engine.startswith("kvm") else "instructions"
    assert counter in ctl("statistics") and "rng0" in ctl("statistics")
    schema = json.loads(ctl("schema", "--json"))
    assert {"pause", "console"} <= {a["name"] for a in schema["actions"]} and "power_button" in ctl("schema")

    # Reset: the guest begins again, and a paused machine stays paused.
    client.result("pause")
    client.result("reset")
    assert client.result("status")["state"] == "paused"
    client.result("resume")
    console.expect("SKERRY-INIT: uptime")
    console.expect("# ")
    # A guest that powers itself off, and how that is told.
    console.type("poweroff -f\n")
    watcher.event("guest", what="power_off")
    watcher.event("state", state="ended", status=0)
    assert vm.ended() == 0
    assert not vm.control.exists()
    print("ok: every verb")


if __name__ == "__main__":
    sys.exit(main())
