"""A killed process resets its connections: no cut transfer may look complete. A relay that ends well
still ends with a FIN, although each of its sockets is set up to reset on close.
"""

import signal
import socket
import threading
import time

import pytest

from harness import is_listening, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import AfterEof, Echo, Service, Sink, Source, digest_of, pattern

pytestmark = pytest.mark.ours

MIB = 1 << 20


class Watched(Service):
    """Says hello, then records how the connection ends."""

    def serve(self, sock, record):
        sock.sendall(b"hello")
        record.end, record.data = how_closed(sock, 60)


class WatchedAnswer(Service):
    """Takes a request up to its FIN, sends half an answer, then single bytes until a send fails."""

    def serve(self, sock, record):
        while sock.recv(65536):
            pass
        sock.sendall(b"half an answer")
        while True:  # raises when the connection is reset
            time.sleep(0.02)
            sock.sendall(b".")


class Ended(threading.Thread):
    """Records how a visitor's connection ends. The visitor reads all the time and, if asked, sends too."""

    def __init__(self, sock, sends=False):
        super().__init__(daemon=True)
        self.sock, self.how, self.size = sock, None, 0
        sock.settimeout(within(20))
        self.sender = threading.Thread(target=self.send, daemon=True)
        if sends:
            self.sender.start()
        self.start()

    def send(self):
        try:
            while True:
                self.sock.sendall(bytes(MIB))
        except ConnectionResetError:
            # The first call after an RST takes the error: this one or recv(). After a FIN it would be EPIPE.
            self.how = "rst"
        except OSError:
            pass

    def run(self):
        try:
            while data := self.sock.recv(MIB):
                self.size += len(data)
            how = "fin"
        except ConnectionResetError:
            how = "rst"
        except OSError as error:
            how = str(error)
        if self.sender.ident:
            self.sender.join()
        self.how = self.how or how


@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_killed_process_resets(tunnel, service, transport, victim):
    """A download, an upload, a quiet connection and a half-closed one: the kill resets each of them at
    both ends. Repeated three times."""
    locals_ = {"down": service(Source), "up": service(Sink), "quiet": service(Watched),
               "half": service(WatchedAnswer)}
    for n in range(3):
        t = tunnel({name: local.port for name, local in locals_.items()}, transport=transport)
        visitors = {name: connect(t.port(name)) for name in locals_}
        visitors["half"].sendall(b"request")
        visitors["half"].shutdown(socket.SHUT_WR)
        ends = {name: Ended(visitor, sends=name == "up") for name, visitor in visitors.items()}
        for local in locals_.values():
            local.wait_connections(n + 1)
        wait_until(lambda: ends["down"].size > MIB and ends["quiet"].size == 5
                   and ends["half"].size > 14 and locals_["up"].records[n].received > MIB,
                   within(10), "all four to be at work")
        getattr(t, victim).kill9()
        for name, end in ends.items():
            end.join(within(20))
            assert end.how == "rst", f"round {n}: the visitor of {name} saw {end.how}"
            visitors[name].close()
            record = locals_[name].wait_record(n, within(20))
            assert record.end == "rst", f"round {n}: the service {name} saw {record.end}"
        t.stop()


# --- what must stay clean -----------------------------------------------------------------------


def test_an_end_behind_bytes_that_wait(tunnel, service, transport):
    """The relay ends before the visitor has read: the kernel still delivers the rest and the FIN."""
    size = 300000
    local = service(AfterEof, size)
    t = tunnel({"s": local.port}, transport=transport)
    with socket.socket() as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        visitor.connect(("127.0.0.1", t.port("s")))
        visitor.sendall(b"request")
        visitor.shutdown(socket.SHUT_WR)
        assert local.wait_record(0).end == "fin"
        for process in (t.server, t.client):
            wait_until(lambda: process.metric("relays_clean") == 1, within(10),
                       f"the relay of the {process.name} to be over")
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of([b"request"])
        got = b""
        while part := visitor.recv(65536):
            got += part
    assert got == b"".join(pattern(4, size))


def test_clean_ends_are_no_resets(tunnel, service, transport):
    """Either side closes first, with and without a half-close before; both ends see a FIN."""
    class Ends(Service):
        def serve(self, sock, record):
            word = recv_exact(sock, 4)
            if word == b"last":
                record.end, _ = how_closed(sock, 20)
                sock.sendall(b"behind")
                return
            sock.sendall(b"answer")
            if word == b"half":
                sock.shutdown(socket.SHUT_WR)
                record.end, _ = how_closed(sock, 20)

    local = service(Ends)
    t = tunnel({"s": local.port}, transport=transport)
    for n in range(10):
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"last")
            visitor.shutdown(socket.SHUT_WR)
            assert how_closed(visitor, within(5)) == ("fin", b"behind")
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"half")
            assert how_closed(visitor, within(5)) == ("fin", b"answer")
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"stop")
            assert how_closed(visitor, within(5)) == ("fin", b"answer")
        for k in range(2):
            assert local.wait_record(3 * n + k).end == "fin"
    assert t.server.metric("relays_aborted") == t.client.metric("relays_aborted") == 0


def test_a_drain_ends_with_fins(tunnel, service, transport):
    """SIGTERM to either end: an open relay finishes, and its ends are clean."""
    for role in ("server", "client"):
        local = service(Echo)
        t = tunnel({"s": local.port}, transport=transport)
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"before")
            visitor.settimeout(within(5))
            assert recv_exact(visitor, 6) == b"before"
            process = getattr(t, role)
            process.signal(signal.SIGTERM)
            wait_until(lambda: not is_listening(t.port("s")), within(5), "the port to close")
            visitor.sendall(b"after")
            assert recv_exact(visitor, 5) == b"after"
            visitor.shutdown(socket.SHUT_WR)
            assert how_closed(visitor, within(5)) == ("fin", b"")
            assert local.wait_record(0).end == "fin"
        assert process.wait(within(10)) == 0


def fate(port, request=b""):
    """How a visitor ends that is not served, and what it has received."""
    with connect(port) as visitor:
        try:
            visitor.sendall(request)
        except (ConnectionResetError, BrokenPipeError):
            return "rst", b""
        return how_closed(visitor, within(5))


def test_who_is_turned_away_is_reset(tunnel, service):
    """A visitor over a limit, or without a local service, sent nothing or a request: an end of stream would
    look like an empty answer."""
    local = service(Echo)
    t = tunnel({"full": local.port, "down": 1}, service_options={"full": {"max_connections": 1}})
    with connect(t.port("full")) as first:
        first.sendall(b"x")
        assert recv_exact(first, 1) == b"x"
        for _ in range(5):
            assert fate(t.port("full")) == ("rst", b"")
    for number in range(6):
        assert fate(t.port("down"), b"request" * (number % 2)) == ("rst", b"")
