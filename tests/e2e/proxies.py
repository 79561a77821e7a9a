"""Proxies between a client and its server: two real ones, and one that does what a test says."""

import base64
import contextlib
import shutil
import socket
import struct
import threading
import time
import urllib.parse

import protocol
from harness import Process, free_port, is_listening, wait_until, within

SOCKS5, HTTP = "socks5", "http"
KINDS = (SOCKS5, HTTP)
PROGRAMS = {SOCKS5: "microsocks", HTTP: "tinyproxy"}
USER, PASSWORD = "tunnel@home", "Hush%2F+Secret"
PLAIN_USER, PLAIN_PASSWORD = "tunnel", "Hush-7.secret"  # tinyproxy's file takes no other characters

SOCKS5_BOUND = b"\x00\x01\x7f\x00\x00\x01\x00\x50"  # behind a result: the address that the proxy has bound
SOCKS5_OPEN = b"\x05\x00" + SOCKS5_BOUND
HTTP_OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"
OPEN = {SOCKS5: SOCKS5_OPEN, HTTP: HTTP_OPEN}


def why_not(kind):
    """Why there can be no real proxy of this kind here, or None."""
    program = PROGRAMS[kind]
    return None if shutil.which(program) else f"NO {program} FOUND (scripts/setup test)"


def url(kind, port, user=None, password=None, host="127.0.0.1"):
    credentials = ""
    if user is not None:
        credentials = ":".join(urllib.parse.quote(text, safe="") for text in (user, password)) + "@"
    return f"{kind}://{credentials}{host}:{port}"


def secrets():
    """What must not be in any log."""
    for user, password in ((USER, PASSWORD), (PLAIN_USER, PLAIN_PASSWORD)):
        yield password
        yield urllib.parse.quote(password, safe="")
        yield base64.b64encode(f"{user}:{password}".encode()).decode()


class Proxied:
    """A transport for harness.Tunnel: the client goes through a proxy, over plain TCP or `inner`."""

    def __init__(self, address, inner=None):
        self.address, self.inner = address, inner

    def tables(self, role):
        tables = self.inner.tables(role) if self.inner else {}
        if role == "client" and self.address:
            tables["transport.tcp"] = {"proxy": self.address}
        return tables

    def client(self, sock, **kwargs):
        return self.inner.client(sock, **kwargs) if self.inner else protocol.plain(sock)

    def server(self, sock, **kwargs):
        return self.inner.server(sock, **kwargs) if self.inner else protocol.plain(sock)


def start_real(kind, workdir, with_user, files=None):
    """A real proxy on a free port: (its Process, the port)."""
    port = free_port()
    if kind == SOCKS5:
        argv = [PROGRAMS[kind], "-i", "127.0.0.1", "-p", port]
        argv += ["-u", PLAIN_USER, "-P", PLAIN_PASSWORD] if with_user else []
    else:
        path = workdir / "tinyproxy.conf"
        path.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 300\n"
                        + (f"BasicAuth {PLAIN_USER} {PLAIN_PASSWORD}\n" if with_user else ""))
        argv = [PROGRAMS[kind], "-d", "-c", path]
    process = Process([shutil.which(argv[0]), *argv[1:]], workdir / f"{PROGRAMS[kind]}.log", files=files)
    process.name = PROGRAMS[kind]
    wait_until(lambda: is_listening(port), within(10), lambda: f"the proxy's port: {process.log()}")
    return process, port


class Visit:
    """One connection to a Scripted proxy. host, port, user, password: what it asked for. ended: when
    the client was seen to end it, and how ("fin", "rst")."""

    def __init__(self, sock):
        self.sock = sock
        self.begun, self.ended, self.how = time.monotonic(), None, None
        self.is_open = False  # the tunnel stands
        self.host = self.port = self.user = self.password = None


class Scripted:
    """A proxy of one kind that a test may break and mend while it runs.

    method, auth, reply: what it answers at each step (HTTP has `reply` alone), None: the right thing.
    then: what it does after the reply: "tunnel", "stall" (it says no more), "close" or "reset". A step
    whose answer is empty or wrong is the last one. piece: the answers go out in pieces of so many
    bytes. tail: bytes right behind the reply, as if the tunnel had begun. wants_user: it asks for USER
    and PASSWORD."""

    def __init__(self, kind, host="127.0.0.1", wants_user=False, port=None):
        self.kind, self.wants_user, self.host = kind, wants_user, host
        self.port = port or free_port()
        self.visits, self.lock = [], threading.Lock()
        self.mend()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, self.port))
        self.listener.listen(512)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def mend(self):
        self.method = self.auth = self.reply = None
        self.then, self.piece, self.tail = "tunnel", None, b""

    def break_(self, **changes):
        self.mend()
        for name, value in changes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    def url(self, user=None, password=None):
        return url(self.kind, self.port, user, password, self.host)

    def wait_visits(self, count, timeout=10):
        wait_until(lambda: len(self.visits) >= count, within(timeout),
                   lambda: f"{len(self.visits)} of {count} connections reached the proxy")
        return self.visits[count - 1]

    def open_tunnels(self):
        with self.lock:
            return sum(visit.is_open for visit in self.visits)

    def wait_quiet(self, quiet=0.3):
        """Waits until no connection has come for `quiet` seconds."""
        last, since = len(self.visits), time.monotonic()
        while time.monotonic() - since < quiet:
            time.sleep(0.01)
            if len(self.visits) != last:
                last, since = len(self.visits), time.monotonic()

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)
        with self.lock:
            for visit in self.visits:
                with contextlib.suppress(OSError):
                    visit.sock.shutdown(socket.SHUT_RDWR)

    # a connection

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            visit = Visit(sock)
            with self.lock:
                self.visits.append(visit)
            threading.Thread(target=self._run, args=(visit,), daemon=True).start()

    def _run(self, visit):
        visit.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        visit.sock.settimeout(60)
        try:
            if self.kind == SOCKS5:
                self._socks5(visit)
            else:
                self._http(visit)
        except (OSError, EOFError) as error:
            self._saw_end(visit, "fin" if isinstance(error, EOFError) else "rst")
        visit.sock.close()

    def _saw_end(self, visit, how):
        if visit.ended is None:
            visit.ended, visit.how = time.monotonic(), how

    def _send(self, visit, data, piece):
        for at in range(0, len(data), piece or max(1, len(data))):
            visit.sock.sendall(data[at : at + (piece or len(data))])
            if piece:
                time.sleep(0.001)

    def _answer(self, visit, scripted, right, then, tail=b""):
        """Sends the answer of a step. False: it was the last one."""
        self._send(visit, (right if scripted is None else scripted) + tail, self.piece)
        if scripted is None or scripted.startswith(right):
            return True
        self._finish(visit, then if then != "tunnel" else "stall")
        return False

    def _finish(self, visit, then):
        """The end of a connection without a tunnel."""
        if then == "stall":
            while visit.sock.recv(65536):
                pass
            raise EOFError
        if then == "reset":
            protocol.reset(visit.sock)

    def _socks5(self, visit):
        then, method, auth, reply = self.then, self.method, self.auth, self.reply
        version, count = protocol.recv_exact(visit.sock, 2)
        offered = protocol.recv_exact(visit.sock, count)
        assert version == 5 and offered in (b"\x00", b"\x00\x02"), offered
        if not self._answer(visit, method, b"\x05\x02" if self.wants_user else b"\x05\x00", then):
            return
        if self.wants_user:
            assert protocol.recv_exact(visit.sock, 1) == b"\x01"
            texts = [protocol.recv_exact(visit.sock, protocol.recv_exact(visit.sock, 1)[0])
                     for _ in range(2)]
            visit.user, visit.password = (text.decode() for text in texts)
            if not self._answer(visit, auth, b"\x01\x00", then):
                return
        head = protocol.recv_exact(visit.sock, 5)
        assert head[:4] == b"\x05\x01\x00\x03", head  # CONNECT to a name, even if it is an address
        visit.host = protocol.recv_exact(visit.sock, head[4]).decode()
        visit.port = struct.unpack(">H", protocol.recv_exact(visit.sock, 2))[0]
        if self._answer(visit, reply, SOCKS5_OPEN, then, self.tail):
            self._open(visit, then)

    def _http(self, visit):
        then, reply = self.then, self.reply
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += protocol.recv_exact(visit.sock, 1)
        first, *fields = request.decode().split("\r\n")
        method, target, version = first.split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1"), first
        assert fields[0] == f"Host: {target}", fields
        visit.host, port = target.rsplit(":", 1)
        visit.port = int(port)
        for field in fields:
            if field.startswith("Proxy-Authorization: Basic "):
                visit.user, visit.password = base64.b64decode(field.split()[-1]).decode().split(":", 1)
        if self.wants_user and reply is None and (visit.user, visit.password) != (USER, PASSWORD):
            reply = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
            then = "close"
        if self._answer(visit, reply, HTTP_OPEN, then, self.tail):
            self._open(visit, then)

    def _open(self, visit, then):
        if then != "tunnel":
            self._finish(visit, then)
            return
        with socket.create_connection((visit.host.strip("[]"), visit.port), timeout=60) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            visit.is_open = True
            back = threading.Thread(target=self._pump, args=(server, visit.sock), daemon=True)
            back.start()
            how = self._pump(visit.sock, server)
            self._saw_end(visit, how)
            back.join()
        visit.is_open = False

    @staticmethod
    def _pump(source, sink):
        """Copies until the end, passes it on, and returns how it was."""
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
            return "fin"
        except OSError:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            return "rst"
