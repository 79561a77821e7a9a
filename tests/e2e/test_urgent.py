"""TCP's urgent bytes stay at their place in the stream and do not block the bytes behind them.

That needs a test because splice(2) never goes beyond the urgent mark: it reports EAGAIN for ever, or the
end of the stream.
"""

import socket
import threading
import time

import pytest

from harness import wait_until, within
from protocol import connect
from services import Service, pattern

pytestmark = pytest.mark.ours

MIB = 1 << 20


class Talk(Service):
    """Hands each connection to the test."""

    def serve(self, sock, record):
        record.released = threading.Event()
        record.talk = sock
        record.released.wait(60)


@pytest.fixture
def ends(tunnel, service, transport):
    """make(sender) -> (sending socket, receiving socket, the Tunnel); sender: "visitor" or "service"."""
    made = []

    def make(sender):
        local = service(Talk)
        t = tunnel({"s": local.port}, transport=transport)
        visitor = connect(t.port("s"))
        made.append(visitor)
        wait_until(lambda: local.records and hasattr(local.records[0], "talk"), within(5),
                   "the connection to the local service")
        talk = local.records[0].talk
        made.append(talk)
        return (visitor, talk, t) if sender == "visitor" else (talk, visitor, t)

    yield make
    for sock in made:
        sock.close()


def receive(sock, size):
    """Up to `size` bytes; fewer if the stream ends or no byte arrives for a while."""
    data = bytearray()
    sock.settimeout(within(3))
    try:
        while len(data) < size and (part := sock.recv(MIB)):
            data += part
    except TimeoutError:
        pass
    return bytes(data)


class Receiver(threading.Thread):
    def __init__(self, sock, size):
        super().__init__(daemon=True)
        self.sock, self.size, self.data = sock, size, b""
        self.start()

    def run(self):
        self.data = receive(self.sock, self.size)


def assert_same(got, want):
    assert len(got) == len(want), f"{len(got)} bytes of {len(want)}"
    assert got == want, "other bytes, or at another place"


SENDERS = ["visitor", "service"]


@pytest.mark.parametrize("sender", SENDERS)
def test_an_urgent_byte_stays_in_its_place(ends, sender):
    source, sink, _ = ends(sender)
    for data, flags in ((b"ab", 0), (b"C", socket.MSG_OOB), (b"de", 0)):
        source.send(data, flags)
        time.sleep(0.05)
    assert receive(sink, 5) == b"abCde"
    # An urgent byte in one segment with others before it.
    source.send(b"XYZ", socket.MSG_OOB)
    assert receive(sink, 3) == b"XYZ"


@pytest.mark.parametrize("sender", SENDERS)
def test_an_urgent_byte_is_the_first(ends, sender):
    source, sink, _ = ends(sender)
    source.send(b"U", socket.MSG_OOB)
    assert receive(sink, 1) == b"U"
    source.send(b"V", socket.MSG_OOB)
    source.shutdown(socket.SHUT_WR)
    assert receive(sink, 2) == b"V", "the last byte before an end"


@pytest.mark.parametrize("sender", SENDERS)
def test_an_urgent_byte_in_bulk(ends, sender):
    """All bytes arrive before the sender closes, no process spins meanwhile, and the end of the stream comes
    behind them."""
    source, sink, t = ends(sender)
    before, after = b"".join(pattern(1, MIB)), b"".join(pattern(2, 10000))
    got = Receiver(sink, MIB + 1 + len(after))
    source.sendall(before)
    source.send(b"U", socket.MSG_OOB)
    source.sendall(after)
    got.join(within(20))
    assert_same(got.data, before + b"U" + after)
    used = [process.cpu_seconds() for process in (t.server, t.client)]
    time.sleep(1)
    for process, seconds in zip((t.server, t.client), used):
        burnt = process.cpu_seconds() - seconds
        assert burnt < 0.2, f"{process.name} has used {burnt:.2f} s of the CPU in a second"
    source.send(b"V", socket.MSG_OOB)
    source.sendall(after)
    source.shutdown(socket.SHUT_WR)
    assert_same(receive(sink, 2 * MIB), b"V" + after)


@pytest.mark.parametrize("sender", SENDERS)
def test_many_urgent_bytes(ends, sender):
    source, sink, _ = ends(sender)
    before, between = b"".join(pattern(1, MIB)), b"".join(pattern(2, 70000))
    want = before + (b"UVW" + between) * 50
    got = Receiver(sink, len(want) + 1)
    source.sendall(before)
    for _ in range(50):
        for byte in (b"U", b"V", b"W"):
            source.send(byte, socket.MSG_OOB)
        source.sendall(between)
    source.shutdown(socket.SHUT_WR)
    got.join(within(20))
    assert_same(got.data, want)
