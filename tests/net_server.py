"""The host's side of a guest's network checks (tests/guests/init, skerry.net): a small HTTP server on the
loopback addresses, and a client that comes through the forward once the guest listens."""
import hashlib
import http.server
import random
import socket
import threading
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    BIG = random.Random(1).randbytes(8 << 20)

    def __init__(self):
        self.forward, self.errors, self.client = free_port(), [], None
        self.servers = [self.listen("127.0.0.1", socket.AF_INET, 0)]
        self.port = self.servers[0].server_address[1]
        try:
            self.servers.append(self.listen("::1", socket.AF_INET6, self.port))
            self.v6 = True
        except OSError:  # a host without IPv6
            self.v6 = False

    def listen(self, address, family, port):
        big = self.BIG

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, body):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.answer({"/hello": b"hello from the host\n", "/big": big,
                             "/sum": hashlib.sha256(big).hexdigest().encode() + b"\n"}.get(self.path, b"?"))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(hashlib.sha256(body).hexdigest().encode() + b"\n")

            def log_message(self, *_):
                pass

        class Threaded(http.server.ThreadingHTTPServer):
            address_family = family

        server = Threaded((address, port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def on_line(self, line):
        if "SKERRY-NET: listening" in line and not self.client:
            self.client = threading.Thread(target=self.come_in, daemon=True)
            self.client.start()

    def come_in(self):
        """The guest's nc may not be there yet: until then connections are reset."""
        limit, why = time.monotonic() + 50, ""
        while time.monotonic() < limit:
            try:
                said = self.visit()
                if said == b"hello from the guest\n":
                    return
                why = f"through the forward came {said!r}"
            except OSError as error:
                why = f"the forward: {error}"
            time.sleep(0.5)
        self.errors.append(why)

    def visit(self):
        with socket.create_connection(("127.0.0.1", self.forward), timeout=20) as guest:
            guest.settimeout(20)
            guest.sendall(b"hello through the forward\n")
            guest.shutdown(socket.SHUT_WR)
            said = b""
            while data := guest.recv(4096):
                said += data
            return said

    def close(self):
        """What went wrong, as a list."""
        if self.client:
            self.client.join(timeout=5)
        for server in self.servers:
            server.shutdown()
            server.server_close()
        return self.errors if self.client else ["the guest never listened"]
