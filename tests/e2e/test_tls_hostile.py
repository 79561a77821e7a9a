"""Wrong, cut, slow and forged bytes under TLS, towards our server and our client.

What must hold: such a connection is closed at once where its end can know, else within the deadline, with a
clear line; no other connection is harmed, nothing is left, and no damaged byte is delivered.
"""

import os
import random
import socket
import ssl
import struct
import threading
import time

import pytest

from capabilities import needs_tls
from harness import SANITIZED, TOKEN, nothing_piles_up, scaled, wait_until, within
from limits import Limits
from noise_peer import flipped
from protocol import (
    CMD_CREATE_DATA_CHANNEL, FakeServer, connect, control_hello, how_closed, recv_exact, reset, u32,
)
from services import Echo, Prober, Sink, ping
from test_hostile import GARBAGE, close_all, drip, still_open, stranger, unharmed
from tls_peer import APPLICATION_DATA, HANDSHAKE, Tls, TlsSocket, records

pytestmark = [pytest.mark.ours, needs_tls]

DEADLINE = 2  # handshake_timeout where a test waits for it
HANDSHAKES_PER_S = 200  # LIMIT_HANDSHAKES_ALL_PER_S / LIMIT_HANDSHAKES_TLS
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def of_version(version, role="client"):
    transport = Tls()
    context = transport.context(role)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return transport


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def target(tunnel, service):
    """make(options) -> a Tunnel that works, with the service `echo`."""

    def make(**options):
        return tunnel({"echo": service(Echo).port, "s": None}, transport=Tls(), server_options=options)

    return make


def begun(t, version="1.3", flights=0, source=None):
    """(a TlsSocket towards the server, its next flight, not yet sent) after `flights` of ours."""
    transport = of_version(version)
    sock = TlsSocket(connect(t.control_port, source=source), transport.context("client"), False,
                     transport.hostname, start=False)
    for _ in range(flights):
        sock.send_raw(sock.flight())
    return sock, sock.flight()


def ended(sock, what, timeout=1):
    """Closed within the time; what comes before can only be records: an alert, the server's flight."""
    how, data = how_closed(getattr(sock, "sock", sock), within(timeout))
    sock.close()
    assert how != "open", f"{what}: still open after {within(timeout):g} s"
    whole = records(data)
    assert {kind for kind, _ in whole} <= {20, 21, HANDSHAKE, APPLICATION_DATA}, f"{what}: {data[:80]!r}"
    assert data == b"".join(record for _, record in whole), f"{what}: {data[:80]!r}"
    return data


def client_hello(version="1.3"):
    transport = of_version(version)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = transport.context("client").wrap_bio(incoming, outgoing, server_hostname=transport.hostname)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


# --- handshakes towards our server ----------------------------------------------------------------


@pytest.mark.parametrize("end", ["fin", "rst"])
def test_each_message_truncated(target, version, end):
    """Our flights cut at many lengths, then the end."""
    t = target()
    before = t.server.settled_fds()
    rng = random.Random(5)
    for flights in (0, 1):
        sock, flight = begun(t, version, flights)
        sock.close()
        boundaries = {0, 1, 4, 5, 6, len(flight) - 1}
        for size in sorted(boundaries | set(rng.sample(range(7, len(flight)), scaled(20, 6)))):
            sock, flight = begun(t, version, flights)
            sock.send_raw(flight[:size])
            if end == "rst":
                reset(sock.sock)
                continue
            sock.fin()
            ended(sock, f"flight {flights} cut at {size} of {len(flight)}")
    t.server.wait_fds(before, within(3))
    unharmed(t)


def test_each_message_held_back(target, version):
    """Cut, and then nothing more: closed at the deadline, not before and not long after."""
    t = target(handshake_timeout=DEADLINE)
    before = t.server.settled_fds()
    start, socks = time.monotonic(), []
    for flights in (0, 1):
        for size in (1, 5, 20, -1):
            sock, flight = begun(t, version, flights)
            sock.send_raw(flight[:size])
            socks.append(sock)
    done = of_version(version)  # a handshake that is whole, and no hello after it
    for _ in range(4):
        socks.append(done.client(connect(t.control_port)))
    time.sleep(0.5)
    unharmed(t)
    assert time.monotonic() - start > DEADLINE or len(still_open([s.sock for s in socks])) > 0
    for sock in socks:
        ended(sock, "held back", DEADLINE)
    assert time.monotonic() - start > 0.8 * DEADLINE
    t.server.wait_fds(before, within(3))


def test_one_byte_at_a_time_within_the_deadline(target, version):
    """Slow but whole: the peer gets in."""
    t = target()

    def slowly(sock, data):
        for at in range(0, len(data), max(1, len(data) // 200)):
            sock.sendall(data[at : at + max(1, len(data) // 200)])
            time.sleep(0.001)

    transport = of_version(version)
    sock = transport.client(connect(t.control_port), write=slowly)
    for byte in sock.seal(control_hello("s")):
        sock.send_raw(bytes([byte]))
    assert len(recv_exact(sock, 37)) == 37
    sock.close()


def test_one_byte_per_second(target):
    """Never done: closed at the deadline although bytes go on coming."""
    t = target(handshake_timeout=DEADLINE)
    stop, socks = threading.Event(), []
    start = time.monotonic()
    for n in range(8):
        sock = connect(t.control_port)
        socks.append(sock)
        threading.Thread(target=drip, args=(sock, client_hello(), 0.1 + 0.1 * n, stop),
                         daemon=True).start()
    try:
        time.sleep(0.5)
        unharmed(t)
        wait_until(lambda: not still_open(socks), within(DEADLINE + 1), "all closed")
        assert time.monotonic() - start > 0.8 * DEADLINE
    finally:
        stop.set()
        close_all(socks)
    unharmed(t)


def record(kind, body, version=0x0303):
    return struct.pack(">BHH", kind, version, len(body)) + body


def wrong_first_bytes():
    """What the server can see to be wrong without waiting for more."""
    right = client_hello()
    yield from ((name, data) for name, data in GARBAGE.items() if name != "tls")
    yield "rathole's hello", control_hello("s") + bytes(32)
    yield "record of 64 KiB", b"\x16\x03\x01\xff\xff" + os.urandom(65535)
    yield "handshake message of 16 MiB", record(HANDSHAKE, b"\x01\xff\xff\xff" + bytes(1000))
    yield "application data", record(APPLICATION_DATA, os.urandom(100))
    yield "an alert", record(21, b"\x02\x28")
    yield "Finished first", record(HANDSHAKE, b"\x14\x00\x00\x0c" + os.urandom(12))
    yield "session id too long", flipped(right, 5 + 38, 7)
    yield "message longer than the record says", flipped(right, 8, 0) + right[:300]
    yield "major version 4", flipped(right, 1, 2)
    yield "random", os.urandom(2000)


def test_wrong_first_bytes(target):
    t = target()
    for what, data in wrong_first_bytes():
        ended(stranger(t, data), what)
    unharmed(t)


def test_each_byte_of_the_hello_flipped(target):
    """Some are still valid. None harms anything: the server answers with its flight or ends it."""
    t = target(handshake_timeout=DEADLINE)
    hello, socks = client_hello(), []
    for at in range(0, len(hello), 1 if scaled(10) >= 10 else 7):
        socks.append(stranger(t, flipped(hello, at, at % 8)))
        if len(socks) == 32:
            close_all(socks)
            socks = []
    close_all(socks)
    unharmed(t)


def test_hello_in_many_records(target):
    """Each byte of the ClientHello in a record of its own is valid, and may be refused."""
    t = target()
    body = client_hello()[5:]
    sock = stranger(t, b"".join(record(HANDSHAKE, body[at : at + 1]) for at in range(len(body))))
    sock.settimeout(within(2))
    assert sock.recv(1) in (b"", b"\x15", b"\x16")
    sock.close()
    unharmed(t)


def test_empty_records_for_ever(target):
    """Records without content in place of a handshake: bounded in number, not answered for ever."""
    t = target(handshake_timeout=DEADLINE)
    sock = connect(t.control_port)
    used, end = t.server.cpu_seconds(), time.monotonic() + within(DEADLINE + 1)
    with pytest.raises(OSError):
        while time.monotonic() < end:
            sock.sendall(record(HANDSHAKE, b"") * 100)
            time.sleep(0.001)
        raise AssertionError("still open")
    assert t.server.cpu_seconds() - used < within(1)
    unharmed(t)


def test_damaged_second_flight(target, version):
    t = target()
    sock, flight = begun(t, version, 1)
    sock.close()
    for at in (len(flight) - 1, len(flight) - 20, 11):
        sock, flight = begun(t, version, 1)
        sock.send_raw(flipped(flight, at, 3))
        # The server may wait for the rest of a record whose length was damaged.
        sock.fin()
        ended(sock, f"byte {at} of {len(flight)}")
    unharmed(t)


def test_renegotiation_is_refused(target):
    """A ClientHello inside a TLS 1.2 session. Python has no call for it, so openssl asks: R on a line."""
    t = target()
    transport = of_version("1.2")
    with transport.client(connect(t.control_port)) as sock:
        sock.sendall(control_hello("s"))
        recv_exact(sock, 37)
        # A handshake record that is not sealed with the session's keys
        sock.send_raw(client_hello("1.2"))
        ended(sock, "renegotiation")
    unharmed(t)


def test_nothing_piles_up_of_handshakes_that_fail(target, version):
    t = target()
    count = 300

    def one_round():
        begun_at = time.monotonic()
        for n in range(count):
            # From many addresses, and slowly enough for the budget of all: none is refused.
            sock, flight = begun(t, version, n % 2, source=f"127.0.{1 + n % 100}.1")
            sock.send_raw(flight[: n % (len(flight) + 1)])
            if n % 3:
                reset(sock.sock)
            else:
                sock.close()
        time.sleep(max(0.0, begun_at + count / 2 / HANDSHAKES_PER_S - time.monotonic()))

    nothing_piles_up([t.server], one_round, count)
    assert t.server.metric("handshakes_limited") == 0
    unharmed(t)


def test_a_flood_of_handshakes_is_reset_at_its_accept(target):
    """Beyond its budget an address gets no read, no answer and no place; others are served."""
    t = target()
    hello, refused, begun_at = whole_hello(), 0, time.monotonic()
    for _ in range(400):
        try:
            sock = connect(t.control_port, source="127.0.3.1")
            sock.sendall(hello)
            assert sock.recv(1) == bytes([HANDSHAKE])
            reset(sock)
        except ConnectionError:
            refused += 1
    allowed = 128 + 8 * (time.monotonic() - begun_at) + 1
    limited = t.server.metric("handshakes_limited")
    assert refused == limited >= 400 - allowed
    sock, flight = begun(t, flights=1, source="127.0.3.2")
    sock.send_raw(flight)
    sock.close()
    unharmed(t)
    assert t.server.metric("handshakes_limited") == limited


# --- frames of a session with our server ----------------------------------------------------------


@pytest.fixture
def relay(tunnel):
    """make() -> (visitor, data channel), after each has sent something to the other."""
    t = tunnel({"s": None, "other": None}, transport=Tls(), start=False)
    t.start_server()
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        opened = []

        def make():
            channel = session.open_channel()
            visitor = connect(t.port("s"))
            opened.extend((channel, visitor))
            visitor.sendall(b"up")
            assert recv_exact(channel, 6) == u32(0) + b"up"
            channel.sendall(b"down")
            assert recv_exact(visitor, 4) == b"down"
            return visitor, channel

        make.tunnel = t
        yield make
        for sock in opened:
            sock.close()


def whole_hello():
    """A whole ClientHello."""
    transport = Tls()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = transport.context("client").wrap_bio(incoming, outgoing, server_hostname=transport.hostname)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def one_less(sock, data):
    sealed = sock.seal(data)
    return sealed[:3] + struct.pack(">H", len(sealed) - 5 - 1) + sealed[5:]


def dropped(sock, data):
    sock.seal(b"lost")
    return sock.seal(data)


def replayed(sock, data):
    return 2 * sock.seal(data)


RECORD_FAULTS = {
    "payload flipped": lambda sock, data: flipped(sock.seal(data), 6, 3),
    "tag flipped": lambda sock, data: flipped(sock.seal(data), -1, 3),
    "length one less": one_less,
    "dropped": dropped,
    "reordered": lambda sock, data: b"".join(reversed([sock.seal(data), sock.seal(data)])),
    "replayed": replayed,
    "plaintext": lambda sock, data: record(APPLICATION_DATA, data + bytes(16)),
    "unknown type": lambda sock, data: record(99, data),
    "too long": lambda sock, data: record(APPLICATION_DATA, bytes(16384 + 300)),
    "alert in plaintext": lambda sock, data: record(21, b"\x01\x00"),
    "handshake in plaintext": lambda sock, data: client_hello(),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_bad_record_on_a_data_channel(relay, fault):
    """The visitor gets the bytes before the bad record, then a reset; the next visitor is served."""
    for good in (b"", b"good", bytes(60000)):
        visitor, channel = relay()
        first = channel.seal(good) if good else b""
        channel.send_raw(first + RECORD_FAULTS[fault](channel, b"evil" * 50))
        how, data = how_closed(visitor, within(2))
        assert how == "rst", f"the visitor saw {how}"
        allowed = good + (b"evil" * 50 if fault == "replayed" else b"")
        assert allowed.startswith(data), f"{len(data)} bytes, {data[:20]!r}"
        ended_with_data(channel, fault)
    relay()


def ended_with_data(channel, what):
    how, _ = how_closed(channel.sock, within(2))
    channel.close()
    assert how != "open", f"{what}: still open"


@pytest.mark.parametrize("cut", [0, 1, 3, 5, 100, -1])
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_data_channel_cut_without_close_notify(relay, cut, end):
    """A truncation: the visitor sees a reset, also where the cut is between two records."""
    for size in (1, 1000, 60000):
        visitor, channel = relay()
        channel.send_raw(channel.seal(bytes(size))[:cut])
        if end == "rst":
            reset(channel.sock)
        else:
            channel.fin()
        assert how_closed(visitor, within(2))[0] == "rst"
        if end == "fin":
            ended_with_data(channel, f"cut at {cut}")
    used = relay.tunnel.server.cpu_seconds()
    time.sleep(0.3)
    assert relay.tunnel.server.cpu_seconds() - used < within(0.1), "a spin"


def test_close_notify_is_a_half_close(relay):
    """In both directions, whoever begins; the other side goes on for long."""
    visitor, channel = relay()
    channel.sendall(b"last")
    channel.shutdown(socket.SHUT_WR)
    assert recv_exact(visitor, 4) == b"last" and visitor.recv(1) == b""
    for _ in range(10):
        visitor.sendall(b"still here" * 10000)
        assert recv_exact(channel, 100000) == b"still here" * 10000
    visitor.shutdown(socket.SHUT_WR)
    assert channel.recv(1) == b""

    visitor, channel = relay()
    visitor.shutdown(socket.SHUT_WR)
    assert channel.recv(1) == b"", "no close_notify for the visitor's FIN"
    channel.sendall(b"late" * 50000)
    assert recv_exact(visitor, 200000) == b"late" * 50000
    channel.shutdown(socket.SHUT_WR)
    assert how_closed(visitor, within(2)) == ("fin", b"")


def test_close_notify_comes_before_the_fin(relay):
    """And nothing comes after it: an end without it would be a truncation."""
    visitor, channel = relay()
    visitor.sendall(b"x" * 100000)
    visitor.shutdown(socket.SHUT_WR)
    assert recv_exact(channel, 100000) == b"x" * 100000 and channel.recv(1) == b""
    channel.shutdown(socket.SHUT_WR)
    assert visitor.recv(1) == b""
    how, data = how_closed(channel.sock, within(2))
    assert (how, data) == ("fin", b"")


def test_bytes_behind_close_notify_are_not_delivered(relay):
    visitor, channel = relay()
    raw = channel.seal(b"last")
    behind = channel.seal(b"behind")
    channel.send_raw(raw + channel.end() + behind)
    how, data = how_closed(visitor, within(2))
    assert how in ("open", "fin", "rst") and b"last".startswith(data)


def test_records_of_every_size(relay):
    """Split anywhere, joined, or one byte a segment."""
    visitor, channel = relay()
    for size in (1, 2, 100, 16383, 16384, 16385, 65536, 300000):
        data = os.urandom(size)
        channel.sendall(data)
        assert recv_exact(visitor, size) == data, f"{size} bytes"
        visitor.sendall(data)
        assert recv_exact(channel, size) == data, f"{size} bytes up"
    data = os.urandom(3000)
    for byte in data:  # a record a byte
        channel.send_raw(channel.seal(bytes([byte])))
    assert recv_exact(visitor, 3000) == data
    sealed = channel.seal(data)
    for at in range(len(sealed)):  # a segment a byte
        channel.send_raw(sealed[at : at + 1])
    assert recv_exact(visitor, 3000) == data


def test_bytes_on_the_control_channel_end_the_session(relay):
    """A client never sends there; nor does it end its half alone."""
    t = relay.tunnel
    for send in (lambda c: c.sendall(b"abc"), lambda c: c.shutdown(socket.SHUT_WR),
                 lambda c: c.fin(), lambda c: c.send_raw(os.urandom(100))):
        with t.login("other") as session:
            t.wait_ready(names=["other"])
            send(session.control)
            assert how_closed(session.control.sock, within(2))[0] != "open"


# --- towards our client ---------------------------------------------------------------------------


@pytest.fixture
def client(tunnel, service):
    """(Tunnel with the client started, its FakeServer, local service)"""
    local = service(Sink)
    t = tunnel({"s": local.port}, transport=Tls(), start=False,
               limits=Limits(retry_min=0.1, second=0.2, login=2.5))
    with FakeServer(t.control_port, secure=lambda sock: sock) as fake:
        t.start_client()
        yield t, fake, local


def server_side(fake, version="1.3", timeout=6):
    """(TlsSocket of a client's connection, the server's first flight, not sent)"""
    transport = of_version(version, "server")
    sock = TlsSocket(fake.accept(within(timeout)), transport.context("server"), True, start=False)
    return sock, sock.flight()


def a_login(fake, timeout=10):
    fake.secure = Tls().server
    try:
        return fake.accept_login(TOKEN, within(timeout))
    finally:
        fake.secure = lambda sock: sock


def test_servers_flight_truncated(client, version):
    """The client closes and tries again, and no attempt leaves a descriptor."""
    t, fake, _ = client
    a_login(fake)[0].close()
    for size in (0, 3, 5, 100, 500, -1):
        sock, flight = server_side(fake, version)
        sock.send_raw(flight[:size])
        sock.fin()
        ended_with_data(sock, f"cut at {size}")
    a_login(fake)
    assert t.client.alive() and t.client.fds() < 64


@pytest.mark.parametrize("what", ["garbage", "http", "silence", "alert", "flipped", "plain"])
def test_wrong_bytes_from_a_server(client, what):
    t, fake, _ = client
    sock = fake.accept(within(6))
    hello = sock.recv(4096)
    assert hello[0] == HANDSHAKE
    if what == "flipped":
        sock.close()
        tls, flight = server_side(fake)
        sock = tls.sock
        sock.sendall(flipped(flight, len(flight) // 2))
    else:
        sock.sendall({"garbage": os.urandom(3000), "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
                      "silence": b"", "alert": record(21, b"\x02\x28"),
                      "plain": control_hello("s")}[what])
    how, _ = how_closed(sock, within(6))
    assert how != "open", "the client waits for ever"
    t.client.wait_log(r"(warn|error)", within(2))
    a_login(fake)


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_bad_record_from_a_server(client, fault):
    """On the control channel and on a data channel: closed, and nothing of it reaches the service."""
    t, fake, local = client
    control, key = a_login(fake)
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    fake.secure = Tls().server
    channel = fake.accept_data(key)
    fake.secure = lambda sock: sock
    channel.sendall(u32(0) + b"good")
    local.wait_connections(1, within(5))
    wait_until(lambda: local.records[0].received == 4, within(5), "the first bytes")
    channel.send_raw(RECORD_FAULTS[fault](channel, b"evil" * 50))
    ended_with_data(channel, fault)
    record = local.wait_record(0, within(5))
    assert record.end == "rst" and record.received <= 4 + (200 if fault == "replayed" else 0)
    control.send_raw(RECORD_FAULTS[fault](control, u32(CMD_CREATE_DATA_CHANNEL) * 10))
    ended_with_data(control, fault)
    a_login(fake)


# --- floods ---------------------------------------------------------------------------------------


@pytest.mark.realtime
@pytest.mark.skipif(SANITIZED, reason="speed of a sanitizer build says nothing")
def test_garbage_hellos_do_not_starve_a_running_tunnel(target):
    """One address sends ClientHellos that are good enough to be answered, as fast as it can, in a thread;
    visitors go on being answered. bench/ has the stream's speed beside such a flood."""
    t = target()
    hello, stop, count = client_hello(), threading.Event(), [0]

    def flood():
        while not stop.is_set():
            sock = stranger(t, hello, source="127.7.7.7")
            count[0] += 1
            reset(sock)

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    with Prober(t.port()) as prober:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            ping(t.port(), timeout=within(5))
        stop.set()
        for thread in threads:
            thread.join(5)
    assert count[0] > 100, "no flood"
    assert prober.worst < within(1), f"an answer took {prober.worst:.2f} s"
