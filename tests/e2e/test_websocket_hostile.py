"""Wrong, cut, slow and too large upgrades and frames, towards our server and our client.

What must hold: such a connection is closed at once where its end can know, else within the deadline, with a
clear line; no other connection is harmed, nothing is left, and no byte of a bad frame is delivered.
"""

import os
import random
import socket
import threading
import time

import pytest

from capabilities import needs_websocket
from harness import SANITIZED, TOKEN, nothing_piles_up, scaled, wait_until, within
from limits import Limits
from protocol import (
    CMD_CREATE_DATA_CHANNEL, FakeServer, connect, control_hello, how_closed, recv_exact, reset, u32,
)
from services import Echo, Sink, pattern, ping
from test_hostile import GARBAGE, close_all, drip, still_open, stranger, unharmed
from test_websocket import Upload, ponged, recv_all
from websocket_peer import (
    CLOSE, CONTINUATION, FRAME_MAX, HEADER_MAX, PING, PONG, TEXT, WebSocket,
    WebSocketSocket, accept_of, frame, parse_head, read_head, request, response,
)

pytestmark = [pytest.mark.ours, needs_websocket]

DEADLINE = 2  # handshake_timeout where a test waits for it


@pytest.fixture
def target(tunnel, service):
    """make(options) -> a Tunnel that works, with the service `echo`."""

    def make(**options):
        return tunnel({"echo": service(Echo).port, "s": None}, transport=WebSocket(),
                      server_options=options)

    return make


def refused(sock, what, timeout=1):
    """Closed within the time, at most with an HTTP answer that is no success."""
    how, data = how_closed(sock, within(timeout))
    sock.close()
    assert how != "open", f"{what}: still open after {within(timeout):g} s"
    assert data == b"" or data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), f"{what}: {data[:80]!r}"


# --- upgrades towards our server ------------------------------------------------------------------

RIGHT = request("127.0.0.1")

BAD_REQUESTS = {
    "POST": request("h", line=b"POST / HTTP/1.1"),
    "HTTP/1.0": request("h", line=b"GET / HTTP/1.0"),
    "HTTP/2": request("h", line=b"PRI * HTTP/2.0"),
    "no path": request("h", line=b"GET HTTP/1.1"),
    "lower case": request("h", line=b"get / http/1.1"),
    "no upgrade": request("h", upgrade=None),
    "another upgrade": request("h", upgrade=b"h2c"),
    "no connection": request("h", connection=None),
    "connection without upgrade": request("h", connection=b"keep-alive"),
    "connection with a word like it": request("h", connection=b"upgraded, no-upgrade"),
    "no version": request("h", sec_websocket_version=None),
    "version 8": request("h", sec_websocket_version=b"8"),
    "version 131": request("h", sec_websocket_version=b"131"),
    "no key": request("h", sec_websocket_key=None),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the line": request("h", line=b"GET /\0 HTTP/1.1"),
    "NUL in a header": request("h", x=b"a\0b"),
    "header without a colon": RIGHT[:-2] + b"nonsense\r\n\r\n",
    "header without a name": RIGHT[:-2] + b": value\r\n\r\n",
    "a response": response(b"dGhlIHNhbXBsZSBub25jZQ=="),
    "header too long": request("h", x=b"a" * (HEADER_MAX + 100)),
    "header without an end": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (HEADER_MAX // 6 + 10),
    "line without an end": b"GET /" + b"a" * (HEADER_MAX + 100),
    "many headers": RIGHT[:-2] + b"".join(b"A%d:\r\n" % n for n in range(2000)) + b"\r\n",
}


def test_bad_requests(target):
    """Each is refused at once."""
    t = target()
    for what, data in BAD_REQUESTS.items():
        refused(stranger(t, data), what)
    # What could still become a request may wait for the deadline.
    for what in ("http", "zeros", "ones"):
        refused(stranger(t, GARBAGE[what] + bytes(200)), what)
    refused(stranger(t, os.urandom(HEADER_MAX + 100)), "random")
    unharmed(t)


def test_keys_of_wrong_sizes(target):
    """Not 16 bytes in base64: refused, or answered with their hash as rathole does; no harm."""
    t = target()
    for key in (b"", b"x", b"dGhl", b"A" * 1000, b"\xff\xfe" * 10, b"dGhlIHNhbXBsZSBub25jZQ=="[:-1]):
        sock = stranger(t, request("h", sec_websocket_key=key))
        sock.settimeout(within(1))
        try:
            answer = sock.recv(4096)
        except ConnectionResetError:
            answer = b""
        assert answer[:10] in (b"", b"HTTP/1.1 4") or accept_of(key) in answer
        sock.close()
    unharmed(t)


@pytest.mark.parametrize("end", ["fin", "rst"])
def test_request_truncated(target, end):
    t = target()
    before = t.server.settled_fds()
    for size in [0, 1, len(RIGHT) - 1, *range(2, len(RIGHT), 1 + 100 // scaled(100, 10))]:
        sock = connect(t.control_port)
        sock.sendall(RIGHT[:size])
        if end == "rst":
            reset(sock)
            continue
        sock.shutdown(socket.SHUT_WR)
        refused(sock, f"cut at {size}")
    t.server.wait_fds(before, within(3))
    unharmed(t)


@pytest.mark.parametrize("what", ["nothing", "half a request", "a request", "half a frame", "drip"])
def test_held_back(target, what):
    """Closed at the deadline, which is one for the upgrade and the login."""
    t = target(handshake_timeout=DEADLINE)
    stop, start = threading.Event(), time.monotonic()
    socks = [connect(t.control_port) for _ in range(8)]
    for n, sock in enumerate(socks):
        sock.settimeout(within(2))
        if what == "drip":
            threading.Thread(target=drip, args=(sock, RIGHT * 2, 0.1 + 0.1 * n, stop),
                             daemon=True).start()
            continue
        sock.sendall({"nothing": b"", "half a request": RIGHT[:50]}.get(what, RIGHT))
        if what in ("a request", "half a frame"):
            read_head(sock)
        if what == "half a frame":
            sock.sendall(frame(control_hello("s"), mask=b"abcd")[:20])
    try:
        unharmed(t)
        wait_until(lambda: not still_open(socks), within(DEADLINE + 1), "all closed")
        assert time.monotonic() - start > 0.8 * (1 if what == "nothing" else DEADLINE)
    finally:
        stop.set()
        close_all(socks)
    unharmed(t)


def test_frames_behind_the_request(target):
    """Against the RFC, before the answer: taken or refused, without harm."""
    t = target()
    sock = stranger(t, RIGHT + frame(control_hello("s"), mask=b"abcd"))
    sock.settimeout(within(2))
    try:
        head, behind = read_head(sock)
        if head.startswith(b"HTTP/1.1 101"):
            assert len(recv_exact(WebSocketSocket(sock, False, behind), 37)) == 37
    except (EOFError, ConnectionResetError):
        pass
    sock.close()
    unharmed(t)


def test_nothing_piles_up_of_upgrades_that_fail(target):
    t = target()
    count, rng = 300, random.Random(3)

    def one_round():
        for n in range(count):
            sock = connect(t.control_port)
            sock.sendall(RIGHT[: rng.randrange(len(RIGHT) + 1)])
            reset(sock) if n % 3 else sock.close()

    nothing_piles_up([t.server], one_round, count)
    unharmed(t)


# --- frames towards our server --------------------------------------------------------------------


def long_size(sock, size, **changes):
    """A header alone, for a frame that is too large to be sent."""
    return sock.seal(b"", form=64, size=size, **changes)


# A function of a socket and the payload that a good frame would have. Both roles must refuse what it makes.
FAULTS = {
    "rsv1": lambda sock, data: sock.seal(data, rsv=4),
    "rsv2": lambda sock, data: sock.seal(data, rsv=2),
    "rsv3": lambda sock, data: sock.seal(data, rsv=1),
    "mask of the other role": lambda sock, data: frame(data, mask=b"abcd" if sock.is_server else None),
    "opcode 3": lambda sock, data: sock.seal(data, opcode=3),
    "opcode 7": lambda sock, data: sock.seal(data, opcode=7),
    "opcode 11": lambda sock, data: sock.seal(data[:100], opcode=11),
    "opcode 15": lambda sock, data: sock.seal(data[:100], opcode=15),
    "text": lambda sock, data: sock.seal(b"hello", opcode=TEXT),
    "continuation of nothing": lambda sock, data: sock.seal(data, opcode=CONTINUATION),
    "message in a message": lambda sock, data: sock.seal(b"", fin=False) + sock.seal(data),
    "ping in pieces": lambda sock, data: sock.seal(b"a", opcode=PING, fin=False),
    "close in pieces": lambda sock, data: sock.seal(b"", opcode=CLOSE, fin=False),
    "ping of 126 bytes": lambda sock, data: sock.seal(bytes(126), opcode=PING),
    "pong of 64 KiB": lambda sock, data: sock.seal(bytes(65536), opcode=PONG),
    "close in a message": lambda sock, data: sock.seal(b"", fin=False) + sock.seal(b"", opcode=CLOSE),
    "close of somebody who gives up": lambda sock, data: sock.seal(b"\x03\xe9", opcode=CLOSE),
    "close of one byte": lambda sock, data: sock.seal(b"x", opcode=CLOSE),
    # rathole reads these three, but nobody writes them
    "7 bits of length in 16": lambda sock, data: sock.seal(data[:100], form=16),
    "7 bits of length in 64": lambda sock, data: sock.seal(data[:100], form=64),
    "16 bits of length in 64": lambda sock, data: sock.seal(data, form=64),
    "more than 16 MiB": lambda sock, data: long_size(sock, FRAME_MAX + 1),
    "4 GiB": lambda sock, data: long_size(sock, 1 << 32),
    "2^63 bytes": lambda sock, data: long_size(sock, 1 << 63),
    "2^64 - 1 bytes": lambda sock, data: long_size(sock, (1 << 64) - 1),
}
@pytest.fixture
def relay(tunnel):
    """make() -> (visitor, data channel), after each has sent something to the other."""
    t = tunnel({"s": None, "other": None}, transport=WebSocket(), start=False)
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


def gone(link, what, timeout=2):
    how, _ = how_closed(link.sock, within(timeout))
    link.close()
    assert how != "open", f"{what}: still open"


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_frame_on_a_data_channel(relay, fault):
    """The visitor gets the bytes before the bad frame, then a reset; the next visitor is served."""
    for good in (b"", b"good", bytes(60000)):
        visitor, channel = relay()
        first = channel.seal(good) if good else b""
        channel.send_raw(first + FAULTS[fault](channel, b"evil" * 50))
        how, data = how_closed(visitor, within(2))
        assert how == "rst", f"the visitor saw {how}"
        assert good.startswith(data), f"{len(data)} bytes, {data[:20]!r}"
        gone(channel, fault)
    relay()


def test_masks_of_all_kinds(relay):
    """Also one of zeros, and masks over frames that come in any pieces."""
    visitor, channel = relay()
    rng = random.Random(11)
    for mask in (bytes(4), b"\xff" * 4, b"\0\0\0\1", b"\1\0\0\0", os.urandom(4)):
        for size in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 1000, 70001):
            data = rng.randbytes(size)
            sealed = channel.seal(data, mask=mask)
            at = 0
            while at < len(sealed):
                step = rng.choice((1, 2, 3, 5, 13, 4096, 60000))
                channel.send_raw(sealed[at : at + step])
                at += step
            assert recv_exact(visitor, size) == data


@pytest.mark.parametrize("fault", FAULTS)
def test_login_with_a_bad_frame(target, fault):
    t = target()
    link = WebSocket().client(connect(t.control_port))
    link.send_raw(FAULTS[fault](link, control_hello("s")))
    gone(link, fault)
    unharmed(t)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 10, -1])
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_data_channel_cut_without_close(relay, cut, end):
    """A truncation, also between two frames: the visitor sees a reset."""
    for size in (1, 1000, 60000):
        visitor, channel = relay()
        channel.send_raw(channel.seal(bytes(size))[:cut])
        if end == "rst":
            reset(channel.sock)
        else:
            channel.fin()
        assert how_closed(visitor, within(2))[0] == "rst"
        if end == "fin":
            gone(channel, f"cut at {cut}")
    used = relay.tunnel.server.cpu_seconds()
    time.sleep(0.3)
    assert relay.tunnel.server.cpu_seconds() - used < within(0.1), "a spin"


def test_bytes_behind_a_close_are_not_delivered(relay):
    visitor, channel = relay()
    channel.send_raw(channel.seal(b"last") + channel.seal(b"", opcode=CLOSE) + channel.seal(b"behind"))
    how, data = how_closed(visitor, within(1))
    assert how in ("open", "fin", "rst") and b"last".startswith(data)


def test_flood_of_pings(relay):
    """A peer that asks and does not read: its Pongs are bounded; memory does not grow with its Pings."""
    visitor, channel = relay()
    server = relay.tunnel.server
    before = server.private_kib()
    ping_frames = channel.seal(bytes(125), opcode=PING) * 400
    channel.sock.settimeout(0.5)
    try:
        for _ in range(scaled(300, 100)):
            channel.sock.sendall(ping_frames)
    except OSError:
        pass  # closed, or no longer read: both are bounds
    if not SANITIZED:
        assert server.private_kib() - before < 4096, "Pongs pile up"
    visitor.close()
    relay()


def test_flood_of_empty_frames(relay):
    """Costs the peer as much as us, and ends with the channel; another visitor is served meanwhile."""
    _, channel = relay()
    stop = threading.Event()

    def flood():
        data = channel.seal(b"") * 5000
        channel.sock.settimeout(1)
        while not stop.is_set():
            try:
                channel.sock.sendall(data)
            except OSError:
                return

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    for _ in range(5):
        other, its_channel = relay()
        other.close()
        its_channel.close()
    stop.set()
    thread.join(5)


@pytest.mark.parametrize("send", ["binary", "text", "close", "fin", "empty"])
def test_bytes_on_the_control_channel(relay, send):
    """Data or an end there ends the session; an empty frame is no data."""
    t = relay.tunnel
    with t.login("other") as session:
        t.wait_ready(names=["other"])
        control = session.control
        if send == "fin":
            control.fin()
        else:
            control.send_raw(control.seal(b"abc" if send in ("binary", "text") else b"",
                                          opcode={"text": TEXT, "close": CLOSE}.get(send, 2)))
        how, _ = how_closed(control.sock, within(1))
        assert how != "open" or send == "empty"


# --- towards our client ---------------------------------------------------------------------------

CLIENT_LIMITS = Limits(retry_min=0.1, second=0.2, login=2.5)


@pytest.fixture
def client(tunnel, service):
    """(Tunnel with the client started, its FakeServer of plain sockets, local service)"""
    local = service(Sink)
    t = tunnel({"s": local.port}, transport=WebSocket(), start=False,
               limits=CLIENT_LIMITS)
    with FakeServer(t.control_port) as fake:
        t.start_client()
        yield t, fake, local


def a_login(fake):
    fake.secure = WebSocket().server
    return fake.accept_login(TOKEN, within(10))


def give_channel(fake, control, key):
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    return fake.accept_data(key, within(10))


BAD_ANSWERS = {
    "200": lambda key: response(key, line=b"HTTP/1.1 200 OK"),
    "404": lambda key: b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot found",
    "502 of a proxy": lambda key: b"HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n\r\n<html>",
    "redirect": lambda key: b"HTTP/1.1 301 Moved\r\nLocation: https://example.org/\r\n\r\n",
    "HTTP/1.0": lambda key: response(key, line=b"HTTP/1.0 101 Switching Protocols"),
    "no upgrade": lambda key: response(key, upgrade=None),
    "another upgrade": lambda key: response(key, upgrade=b"h2c"),
    "no connection": lambda key: response(key, connection=None),
    "connection without upgrade": lambda key: response(key, connection=b"keep-alive"),
    "no hash": lambda key: response(key, sec_websocket_accept=None),
    "another hash": lambda key: response(key, sec_websocket_accept=accept_of(b"x" + key)),
    "the key itself": lambda key: response(key, sec_websocket_accept=key),
    "an extension": lambda key: response(key, sec_websocket_extensions=b"permessage-deflate"),
    "a subprotocol": lambda key: response(key, sec_websocket_protocol=b"chat"),
    "too long": lambda key: response(key, x=b"a" * 5000),
    "without an end": lambda key: b"HTTP/1.1 101 Switching Protocols\r\n" + b"A: b\r\n" * 1000,
    "garbage": lambda key: os.urandom(5000),
    "a request": lambda key: RIGHT,
    "rathole's hello": lambda key: control_hello("s") + bytes(5000),
}


def test_bad_answers_to_an_upgrade(client):
    """The client says what was wrong and tries again; it never sends its hello there."""
    t, fake, _ = client
    for what, answer in BAD_ANSWERS.items():
        since = len(t.client.log())
        sock = fake.accept_plain(within(6))
        head, _ = read_head(sock)
        sock.sendall(answer(parse_head(head)[1]["sec-websocket-key"].encode()))
        how, data = how_closed(sock, within(1))
        assert how != "open" and data == b"", f"{what}: {how}, {data!r}"
        t.client.wait_log(r"(warn|error)", within(2), since)
        if what in ("404", "502 of a proxy", "redirect"):
            assert {"404": "404", "502 of a proxy": "502", "redirect": "301"}[what] in \
                t.client.log()[since:], f"{what}: no word of the status"
    a_login(fake)
    assert t.client.alive() and t.client.fds() < 64


@pytest.mark.parametrize("what", ["silence", "half", "drip"])
def test_answer_held_back(client, what):
    t, fake, _ = client
    sock = fake.accept_plain(within(6))
    head, _ = read_head(sock)
    answer = response(parse_head(head)[1]["sec-websocket-key"].encode())
    stop = threading.Event()
    if what == "half":
        sock.sendall(answer[:40])
    elif what == "drip":
        threading.Thread(target=drip, args=(sock, answer, 0.2, stop), daemon=True).start()
    how, _ = how_closed(sock, within(CLIENT_LIMITS.login + 3.5))
    stop.set()
    assert how != "open", "the client waits for ever"
    fake.accepted.clear()
    a_login(fake)


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_frame_from_a_server(client, fault):
    """On the control channel and on a data channel: closed, and nothing of it reaches the service."""
    t, fake, local = client
    control, key = a_login(fake)
    channel = give_channel(fake, control, key)
    channel.sendall(u32(0) + b"good")
    local.wait_connections(1, within(5))
    wait_until(lambda: local.records[0].received == 4, within(5), "the first bytes")
    channel.send_raw(FAULTS[fault](channel, b"evil" * 50))
    gone(channel, fault)
    record = local.wait_record(0, within(5))
    assert record.end == "rst" and record.received == 4
    control.send_raw(FAULTS[fault](control, u32(CMD_CREATE_DATA_CHANNEL) * 10))
    gone(control, fault)
    a_login(fake)


@pytest.mark.parametrize("cut", [0, 1, 2, -1])
def test_channel_from_a_server_cut_without_close(client, cut):
    t, fake, local = client
    control, key = a_login(fake)
    channel = give_channel(fake, control, key)
    channel.sendall(u32(0) + b"good")
    local.wait_connections(1, within(5))
    wait_until(lambda: local.records[0].received == 4, within(5), "the first bytes")
    channel.send_raw(channel.seal(b"cut off")[:cut])
    channel.fin()
    assert local.wait_record(0, within(5)).end == "rst"


def test_commands_in_any_frames(client):
    """rathole writes a command a frame; a proxy may cut and join them."""
    t, fake, _ = client
    control, key = a_login(fake)
    fake.secure = WebSocket().server
    command = u32(CMD_CREATE_DATA_CHANNEL)
    control.send_raw(b"".join(control.seal(bytes([byte]), fin=False, opcode=CONTINUATION if n else 2)
                              for n, byte in enumerate(command))
                     + control.seal(b"", opcode=CONTINUATION))
    fake.accept_data(key)
    control.sendall(command * 3)
    for _ in range(3):
        fake.accept_data(key)


def test_close_on_the_control_channel_means_reconnect(client):
    t, fake, _ = client
    control, _ = a_login(fake)
    control.shutdown(socket.SHUT_WR)
    gone(control, "a control channel after Close")
    a_login(fake)


def test_pong_when_the_socket_is_full(tunnel, service):
    """A Ping in the middle of a full download: its Pong comes, and no byte is lost around it."""
    size = 4 << 20
    t = tunnel({"s": service(Upload, size).port}, transport=WebSocket(), start=False,
               limits=Limits(retry_min=0.1))
    with FakeServer(t.control_port) as fake:
        t.start_client()
        control, key = a_login(fake)
        channel = give_channel(fake, control, key)
        channel.sendall(u32(0))
        time.sleep(0.3)  # both sockets are full now
        for n in range(5):
            channel.send_raw(channel.seal(b"ping %d" % n, opcode=PING))
        assert recv_all(channel) == b"".join(pattern(5, size))
        pongs = [payload for opcode, payload in channel.controls if opcode == PONG]
        assert pongs and pongs[-1] == b"ping 4"


def test_ping_beside_a_login(target):
    """Between the messages of a login as well."""
    t = target()
    link = WebSocket().client(connect(t.control_port))
    ponged(link, b"before")
    link.sendall(control_hello("s"))
    recv_exact(link, 37)
    ponged(link, b"between")
    link.close()
    ping(t.port())
