#!/usr/bin/env python3
"""A Debian guest and what leads from it to programs of the host: vsock, named ports, shared folders. channels.py SKERRY
[--engine E].

77 if there is no guest image."""
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import kit
from kit import GUESTS, SCALE

KERNEL = "cloud-6.1"
LIMIT = 60 * SCALE


def connected(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(LIMIT)
    s.connect(str(path))
    return s


def everything(s):
    """What comes until the end of file."""
    data = bytearray()
    while chunk := s.recv(65536):
        data += chunk
    return bytes(data)


def line(s):
    text = b""
    while not text.endswith(b"\n"):
        byte = s.recv(1)
        assert byte, text
        text += byte
    return text


class Listener:
    """A program of the host at port `port`: accepts one connection at a time."""

    def __init__(self, path, port):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(f"{path}_{port}")
        self.socket.listen(8)
        self.socket.settimeout(LIMIT)

    def accept(self):
        s, _ = self.socket.accept()
        s.settimeout(LIMIT)
        return s


def vsock(path, console):
    big = (GUESTS / "busybox").read_bytes()
    digest = hashlib.md5(big).hexdigest()

    # The guest connects: both directions, each with an end of its own.
    listener = Listener(path, 1234)
    console.type("(echo hello; cat) </dev/null | vsock connect 2 1234; echo; echo left\n")
    s = listener.accept()
    assert line(s) == b"hello\n"
    assert everything(s) == b""  # the guest's direction has ended
    s.sendall(b"and a good day\n")
    s.close()
    console.expect("\nand a good day\n\nleft\n")
    print("ok: the guest connects, half-closed connections work")

    # Much data each way; the reader on the host dawdles.
    console.type("vsock connect 2 1234 < /bin/busybox; echo sent\n")
    s = listener.accept()
    time.sleep(0.3)
    got = bytearray()
    while len(got) < len(big):
        chunk = s.recv(100000)
        assert chunk, len(got)
        got += chunk
    assert hashlib.md5(got).hexdigest() == digest
    s.close()
    console.expect("\nsent\n")
    console.type("vsock connect 2 1234 < /dev/null | (sleep 1; md5sum); echo got\n")
    s = listener.accept()
    s.sendall(big)
    s.close()
    console.expect(f"\n{digest}  -\ngot\n")
    print(f"ok: {len(big)} bytes each way, with slow readers")

    # Nobody listens: refused at once. Nobody in the guest listens: the end of file.
    console.type("vsock connect 2 99; echo status=$?; echo\n")
    console.expect("\nstatus=1\n")
    s = connected(path)
    s.sendall(b"CONNECT 77\n")
    assert everything(s) == b""
    s = connected(path)
    s.sendall(b"nonsense\n")
    assert everything(s) == b""

    # The host connects, and may speak before it is answered.
    console.type("(echo from the guest; sleep 1) | vsock listen 50 > /tmp/in; cat /tmp/in; echo; echo over\n")
    end = time.monotonic() + LIMIT
    while True:
        s = connected(path)
        s.sendall(b"CONNECT 50\nfrom the host\n")
        try:
            answer = line(s)
            break
        except (AssertionError, ConnectionResetError):
            assert time.monotonic() < end  # it does not listen yet
            time.sleep(0.1)
    assert answer.startswith(b"OK 10737"), answer
    s.shutdown(socket.SHUT_WR)
    assert everything(s) == b"from the guest\n"
    s.close()
    console.expect("\nfrom the host\n\nover\n")
    print("ok: the host connects")


def ports(path, console):
    big = (GUESTS / "busybox").read_bytes()
    digest = hashlib.md5(big).hexdigest()
    # What /dev/virtio-ports/NAME of udev's would lead to.
    console.type("cat /sys/class/virtio-ports/*/name; echo; p=/dev/$(basename $(dirname "
                 "$(grep -l org.test.0 /sys/class/virtio-ports/*/name))); echo named; echo\n")
    console.expect("\norg.other\norg.test.0\n")
    console.expect("\nnamed\n")
    # A program that writes before the guest opens the port; the guest waits with answers for one to come.
    s = connected(path)
    s.sendall(b"early\n")
    console.type("read x < $p; echo got=$x; echo\n")
    console.expect("\ngot=early\n")
    console.type("echo answer > $p; echo\n")
    assert line(s) == b"answer\n"
    s.close()
    # The guest sees programs come and go: an end of file, and writes that wait.
    console.type("(echo late > $p; echo written) & echo; echo waits\n")
    console.expect("\nwaits\n")
    s = connected(path)
    assert line(s) == b"late\n"
    console.expect("written\n")
    # Much data both ways, with readers that dawdle.
    console.type("cat /bin/busybox > $p; echo; echo sent\n")
    got = bytearray()
    time.sleep(0.3)
    while len(got) < len(big):
        chunk = s.recv(100000)
        assert chunk, len(got)
        got += chunk
    assert hashlib.md5(got).hexdigest() == digest
    console.expect("\nsent\n")
    console.type(f"head -c {len(big)} $p | (sleep 1; md5sum); echo received\n")
    s.sendall(big)
    console.expect(f"\n{digest}  -\nreceived\n")
    s.close()
    print(f"ok: named ports, {len(big)} bytes each way, programs that come and go")


def shares(scratch, console):
    big = (GUESTS / "busybox").read_bytes()
    digest = hashlib.md5(big).hexdigest()
    (scratch / "rw/from_host").write_bytes(big)
    console.type("mkdir -p /host/rw /host/ro; mount -t virtiofs rw /host/rw && mount -t virtiofs ro /host/ro; echo mounted; echo\n")
    console.expect("\nmounted\n")
    console.type("md5sum < /host/rw/from_host; echo read; echo\n")
    console.expect(f"\n{digest}  -\nread\n")
    console.type("cp /host/rw/from_host /host/rw/copy && mkdir /host/rw/d && mv /host/rw/copy /host/rw/d/x && "
                 "ln -s d/x /host/rw/link && echo; echo written; echo\n")
    console.expect("\nwritten\n")
    assert hashlib.md5((scratch / "rw/link").read_bytes()).hexdigest() == digest
    # A program in the share: its pages come by DMA and are run.
    (scratch / "rw/busybox").write_bytes(big)
    (scratch / "rw/busybox").chmod(0o755)
    console.type("/host/rw/busybox echo ran; echo\n")
    console.expect("\nran\n")
    # The same file with other content, run again: what was translated from the old pages must not be.
    for word in ("first", "other"):
        (scratch / "rw/script").write_text(f"echo {word}\n")
        console.type("echo 3 > /proc/sys/vm/drop_caches; sh /host/rw/script; echo\n")
        console.expect(f"\n{word}\n")
    # Read-only: all that changes is refused, and nothing changes.
    (scratch / "ro/file").write_text("as it was\n")
    console.type("cat /host/ro/file; echo; for c in 'touch /host/ro/x' 'rm /host/ro/file' 'mkdir /host/ro/d' "
                 "'chmod 777 /host/ro/file' 'mv /host/ro/file /host/ro/g' 'ln -s a /host/ro/b' "
                 "'dd if=/dev/zero of=/host/ro/file count=1'; do $c 2>/dev/null && echo CHANGED; done; echo tried; echo\n")
    console.expect("\nas it was\n")
    console.expect("\ntried\n")
    assert [p.name for p in (scratch / "ro").iterdir()] == ["file"]
    assert (scratch / "ro/file").read_text() == "as it was\n"
    # virtiofsd is killed: accesses fail, the guest goes on.
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        if is_daemon(p, scratch):
            try:
                os.kill(int(p.parent.name), signal.SIGKILL)
            except ProcessLookupError:
                pass
    console.type("cat /host/rw/script; cat /host/ro/file; echo survived; echo\n")
    console.expect("\nsurvived\n")
    print("ok: shared folders, read-write and read-only, and the end of virtiofsd")


def is_daemon(path, scratch):
    try:
        return f"source={scratch}/".encode() in path.read_bytes()
    except OSError:
        return False


def share_errors(skerry, scratch):
    def refused(share, **env):
        ran = subprocess.run([skerry, "run", "--kernel", GUESTS / KERNEL / "vmlinuz", "--share", share], capture_output=True,
                             text=True, stdin=subprocess.DEVNULL, timeout=LIMIT, env={**os.environ, **env})
        assert ran.returncode == 71, ran
        return ran.stderr
    assert "cannot find" in refused("tag=x,path=/nonexistent")
    assert "is no folder" in refused(f"tag=x,path={GUESTS / KERNEL / 'vmlinuz'}")
    assert "cannot be executed" in refused(f"tag=x,path={scratch}", SKERRY_VIRTIOFSD="/nonexistent")
    assert "virtiofsd ended" in refused(f"tag=x,path={scratch}", SKERRY_VIRTIOFSD="/bin/false")
    print("ok: shares that cannot be")


def virtiofsd_runs(skerry, scratch):
    """Why it does not here, or None: it needs to make namespaces, or to chroot."""
    if not os.path.exists("/usr/lib/qemu/virtiofsd"):
        return "shares are not tested: no /usr/lib/qemu/virtiofsd; apt install qemu-system-common", ""
    said = ""
    for sandbox in ("namespace", "chroot"):
        # With no kernel in the file, the machine is built and no further.
        (scratch / "empty").write_bytes(b"")
        ran = subprocess.run([skerry, "run", "--kernel", scratch / "empty", "--share",
                              f"tag=x,path={scratch},sandbox={sandbox}"], capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, timeout=LIMIT)
        if "share x" not in ran.stderr:
            return None, f",sandbox={sandbox}"
        said = ran.stderr
    return f"shares are not tested: virtiofsd does not run here: {said.splitlines()}", ""


def check(args, scratch):
    for name in ("rw", "ro"):
        (scratch / name).mkdir()
    unable, sandbox = virtiofsd_runs(args.skerry, scratch)
    if unable:
        print(f"skipped: {unable}")
    else:
        share_errors(args.skerry, scratch)
    folders = [] if unable else ["--share", f"tag=rw,path={scratch}/rw{sandbox}",
                                 "--share", f"tag=ro,path={scratch}/ro,readonly{sandbox}"]
    path, port = scratch / "v", scratch / "port"
    with kit.Machine(args, scratch, KERNEL, "--vsock", f"cid=42,socket={path}",
                       "--channel", f"name=org.other,socket={scratch / 'other'}",
                       "--channel", f"name=org.test.0,socket={port}", *folders) as vm:
        console = vm.console()
        console.expect("# ")
        console.type("cd /; for m in /extra/*.ko; do insmod $m; done; echo loaded; echo\n")
        console.expect("\nloaded\n")
        vsock(path, console)
        ports(port, console)
        if not unable:
            shares(scratch, console)
        console.type("dmesg | grep -E 'BUG|WARNING:|Call Trace' || echo well; poweroff -f\n")
        console.expect("\nwell\n")
        assert vm.ended() == 0
        left = [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if is_daemon(p, scratch)]
        assert not left, f"virtiofsd is left behind: {left}"
        assert not path.exists() and not port.exists(), "a socket is left behind"


def main():
    args = kit.parser(__doc__).parse_args()
    if why := kit.missing(KERNEL):
        print(f"skipped: {why}")
        return kit.SKIP
    with kit.scratch("channels") as scratch:
        check(args, pathlib.Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
