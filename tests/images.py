#!/usr/bin/env python3
"""Disk images against qemu-img, both ways: what one writes the other reads, and its check finds nothing.

    tests/images.py SKERRY

Skips (status 77) where qemu-img and qemu-io are missing.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

SKERRY = sys.argv[1]
MIB = 1 << 20


def run(*args, status=0):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=120)
    if done.returncode != status:
        sys.exit(f"{' '.join(map(str, args))}: status {done.returncode}, expected {status}\n"
                 f"{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def skerry(*args, status=0):
    return run(SKERRY, "image", *args, status=status)


def qemu(*args, status=0):
    return run("qemu-img", *args, status=status)


def same(a, a_format, b, b_format):
    qemu("compare", "-f", a_format, "-F", b_format, a, b)


def clean(path):
    """No corruption and no leak, in the eyes of both."""
    qemu("check", "-q", "-f", "qcow2", path)
    report = json.loads(skerry("check", "-f", "qcow2", "--json", path))
    assert report["corruptions"] == 0 and report["leaks"] == 0, report


def write(path, image_format, offset, length, pattern):
    run("qemu-io", "-f", image_format, "-c", f"write -P {pattern} {offset} {length}", path)


def sample(path, size, seed):
    """A raw disk with data, text that compresses, zeros and holes."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(24):
            f.seek(rng.randrange(0, size - 256 * 1024))
            kind = rng.randrange(3)
            length = rng.randrange(512, 256 * 1024)
            f.write(rng.randbytes(length) if kind == 0 else b"skerry " * (length // 7) if kind == 1
                    else bytes(length))


def formats(raw):
    for options in ["", "cluster_size=512", "cluster_size=2M", "compat=0.10", "refcount_bits=1",
                    "refcount_bits=64", "lazy_refcounts=on", "compression_type=zstd"]:
        o = ["-o", options] if options else []
        for compress in [[], ["-c"]]:
            if options == "refcount_bits=1" and compress:
                continue  # a cluster with two compressed ones in it needs a refcount of 2
            skerry("convert", *o, *compress, "-O", "qcow2", "--force", raw, "ours.img")
            clean("ours.img")
            same(raw, "raw", "ours.img", "qcow2")
            qemu("convert", *o, *compress, "-O", "qcow2", raw, "theirs.img")
            clean("theirs.img")
            skerry("convert", "-f", "qcow2", "-O", "raw", "--force", "theirs.img", "back.img")
            same(raw, "raw", "back.img", "raw")
    assert os.stat("back.img").st_blocks * 512 < os.stat("back.img").st_size, "holes stay holes"


def map_agrees(image):
    ours = json.loads(skerry("map", "-f", "qcow2", "--json", image))
    theirs = json.loads(qemu("map", "-f", "qcow2", "--output=json", image))

    def runs(entries):
        merged = []
        for e in entries:
            key = (e["data"], e["depth"] if e["data"] else None)
            if merged and merged[-1][0] == key:
                merged[-1][1] += e["length"]
            else:
                merged.append([key, e["length"]])
        return merged
    assert runs(ours) == runs(theirs), (runs(ours), runs(theirs))


def chains(raw):
    size = os.stat(raw).st_size
    os.makedirs("sub", exist_ok=True)
    shutil.copy(raw, "sub/base.raw")
    # Ours over a raw base, by a relative name; then theirs over ours.
    skerry("create", "-b", "base.raw", "sub/middle.qcow2")
    write("sub/middle.qcow2", "qcow2", 3 * MIB + 4096, 70000, 0x11)
    run("qemu-io", "-f", "qcow2", "-c", "write -z 5M 1M", "sub/middle.qcow2")
    qemu("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "sub/top.qcow2", "20M")
    write("sub/top.qcow2", "qcow2", 6 * MIB - 512, 1024, 0x22)
    write("sub/top.qcow2", "qcow2", 18 * MIB, 512, 0x33)
    map_agrees("sub/top.qcow2")
    skerry("convert", "-O", "raw", "sub/top.qcow2", "flat.raw")
    same("sub/top.qcow2", "qcow2", "flat.raw", "raw")
    info = json.loads(skerry("info", "--backing-chain", "--json", "sub/top.qcow2"))
    assert [i["format"] for i in info] == ["qcow2", "qcow2", "raw"], info
    assert info[1]["backing_format"] == "raw" and info[1]["virtual_size"] == size, info

    skerry("rebase", "-b", "base.raw", "sub/top.qcow2")
    clean("sub/top.qcow2")
    same("sub/top.qcow2", "qcow2", "flat.raw", "raw")
    skerry("rebase", "-b", "middle.qcow2", "sub/top.qcow2")
    same("sub/top.qcow2", "qcow2", "flat.raw", "raw")
    skerry("commit", "sub/top.qcow2")
    clean("sub/top.qcow2")
    clean("sub/middle.qcow2")
    same("sub/middle.qcow2", "qcow2", "flat.raw", "raw")
    assert not any(e["data"] and e["depth"] == 0
                   for e in json.loads(skerry("map", "--json", "sub/top.qcow2"))), "top is empty"
    skerry("rebase", "-b", "", "sub/top.qcow2")
    os.rename("sub", "moved")
    clean("moved/top.qcow2")
    same("moved/top.qcow2", "qcow2", "flat.raw", "raw")


def sizes():
    skerry("create", "grow.qcow2", "8M")
    write("grow.qcow2", "qcow2", "7M", "1M", 0x55)
    skerry("resize", "grow.qcow2", "+3G")
    clean("grow.qcow2")
    assert json.loads(qemu("info", "--output=json", "grow.qcow2"))["virtual-size"] == 8 * MIB + 3072 * MIB
    assert "cuts data off" in skerry("resize", "grow.qcow2", "7680K", status=71)
    skerry("resize", "--shrink", "grow.qcow2", "7680K")
    skerry("resize", "grow.qcow2", "8M")
    clean("grow.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 0x55 7M 512k", "-c", "read -P 0 7680k 512k", "grow.qcow2")
    # The L1 table moves.
    skerry("create", "-o", "cluster_size=512", "tiny.qcow2", "1M")
    write("tiny.qcow2", "qcow2", 0, "1M", 0x66)
    skerry("resize", "tiny.qcow2", "100M")
    clean("tiny.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 0x66 0 1M", "-c", "read -P 0 1M 99M", "tiny.qcow2")


def snapshots(raw):
    qemu("convert", "-O", "qcow2", raw, "snap.qcow2")
    qemu("snapshot", "-c", "before", "snap.qcow2")
    write("snap.qcow2", "qcow2", "1M", "2M", 0x77)
    clean("snap.qcow2")
    listed = json.loads(skerry("snapshot", "--json", "snap.qcow2"))
    assert [s["name"] for s in listed] == ["before"], listed
    # What we write afterwards leaves the snapshot alone.
    skerry("create", "-b", "snap.qcow2", "-F", "qcow2", "over.qcow2")
    write("over.qcow2", "qcow2", 0, "512k", 0x78)
    skerry("commit", "over.qcow2")
    clean("snap.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 0x78 0 512k", "snap.qcow2")
    qemu("snapshot", "-a", "before", "snap.qcow2")
    same(raw, "raw", "snap.qcow2", "qcow2")


def damage(raw):
    qemu("convert", "-O", "qcow2", raw, "bad.qcow2")
    with open("bad.qcow2", "r+b") as f:
        f.seek(48)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        block = int.from_bytes(f.read(8), "big")
        f.seek(block + 2 * 5)
        f.write(b"\0\0")  # in use, not counted
        f.seek(block + 2 * 2000)
        f.write(b"\0\1")  # counted, not in use
    assert "1 leaked" in skerry("check", "bad.qcow2", status=2)
    skerry("check", "--repair", "all", "bad.qcow2")
    clean("bad.qcow2")
    same(raw, "raw", "bad.qcow2", "qcow2")
    # Left with lazy refcounts in the air: mended when it is next written.
    skerry("create", "-o", "lazy_refcounts=on", "lazy.qcow2", "64M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "flush", "-c", "abort",
                    "lazy.qcow2"], capture_output=True, timeout=60)
    assert json.loads(skerry("info", "--json", "lazy.qcow2"))["dirty"]
    skerry("resize", "lazy.qcow2", "65M")
    assert not json.loads(skerry("info", "--json", "lazy.qcow2"))["dirty"]
    clean("lazy.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1M", "lazy.qcow2")


def refusals(raw):
    def refused(text, *args):
        said = skerry(*args, status=71)
        assert text in said, (text, said)
    # A guest that writes a qcow2 header on its raw disk gets nothing by it.
    with open("secret", "w") as f:
        f.write("secret" * 200)
    qemu("create", "-q", "-f", "qcow2", "-b", os.path.abspath("secret"), "-F", "raw", "evil.qcow2", "1M")
    shutil.copy("evil.qcow2", "guest.img")
    refused("looks like a qcow2 image", "convert", "-O", "raw", "guest.img", "out.raw")
    skerry("convert", "-f", "raw", "-O", "raw", "guest.img", "out.raw")
    assert "secretsecret" not in open("out.raw", "rb").read().decode("latin-1")
    shutil.copy("evil.qcow2", "guest.raw")
    skerry("convert", "-O", "qcow2", "guest.raw", "asraw.qcow2")
    same("guest.raw", "raw", "asraw.qcow2", "qcow2")
    # ... nor as a backing file whose format nobody recorded.
    skerry("create", "-f", "qcow2", "plain.img", "1M")
    with open("noformat.qcow2", "wb") as f:
        f.write(open("evil.qcow2", "rb").read())
    qemu("rebase", "-u", "-f", "qcow2", "-b", "guest.img", "-F", "qcow2", "noformat.qcow2")
    with open("noformat.qcow2", "r+b") as f:
        head = f.read(4096)
        f.seek(head.index(b"\xe2\x79\x2a\xca"))
        f.write(b"\x12\x34\x56\x78")  # an extension that nobody knows
    refused("looks like a qcow2 image", "map", "noformat.qcow2")

    refused("not a qcow2 image", "info", "-f", "qcow2", raw)
    shutil.copy(raw, "named.qcow2")
    refused("though its name says so", "info", "named.qcow2")
    qemu("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "ext.qcow2", "1M")
    refused("extended L2 entries", "info", "ext.qcow2")
    qemu("create", "-q", "-f", "qcow2", "-o", "data_file=d.raw", "data.qcow2", "1M")
    refused("external data file", "info", "data.qcow2")
    qemu("create", "-q", "-f", "qcow2", "loop.qcow2", "1M")
    qemu("rebase", "-u", "-f", "qcow2", "-b", "loop.qcow2", "-F", "qcow2", "loop.qcow2")
    refused("loop.qcow2", "map", "loop.qcow2")
    refused("exists", "convert", "-O", "raw", raw, "loop.qcow2")
    refused("the same file", "convert", "--force", "-f", "raw", "-O", "raw", raw, raw)
    skerry("create", "x.qcow2", status=71)
    skerry("create", "--size", "x.qcow2", status=64)
    skerry("frobnicate", "x", status=64)


def main():
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("qemu-img is missing: apt-get install qemu-utils")
        return 77
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="skerry-images-") as folder:
        os.chdir(folder)
        sample("raw.raw", 16 * MIB, 1)
        for test in [formats, chains, snapshots, damage, refusals]:
            test("raw.raw")
        sizes()
        os.chdir(here)
    return 0


if __name__ == "__main__":
    SKERRY = os.path.abspath(SKERRY)
    sys.exit(main())
