"""WebSocket: upgrades, frames, half closes, and what our program must never send.

Other files test the relay (test_transports_relay.py), rathole (test_transports_interop.py), wrong bytes
(test_websocket_hostile.py) and reverse proxies (test_reverse_proxies.py).
"""

import os
import re
import select
import socket
import time

import pytest

from capabilities import NO_RATHOLE, needs_tls, needs_websocket, skip_unless_able
from harness import OURS, RATHOLE, TOKEN, have, scaled, wait_until, within
from limits import Limits
from protocol import (
    CMD_CREATE_DATA_CHANNEL, CMD_HEARTBEAT, FakeServer, auth, connect, control_hello, how_closed,
    recv_exact, u32,
)
from services import AfterEof, Echo, EofFirst, Service, Sink, digest_of, pattern, ping
from tls_peer import Tls
from websocket_peer import (
    CLOSE, CONTINUATION, OWN_FIELD, OWN_VALUE, PING, PONG, WebSocket, WebSocketSocket, accept_of,
    parse_head, read_head, request, response,
)

ours = pytest.mark.ours
LIMITS = Limits(retry_min=0.1, login=2.5)

IMPLEMENTATIONS = [
    pytest.param(OURS, marks=needs_websocket),
    pytest.param(RATHOLE, marks=pytest.mark.skipif(not have(RATHOLE), reason=NO_RATHOLE)),
]
either = pytest.mark.parametrize("program", IMPLEMENTATIONS)
KINDS = {"websocket": WebSocket, "websocket-tls": lambda: WebSocket(Tls())}


@pytest.fixture
def server(tunnel):
    """make(program) -> a Tunnel with its server alone, started, over plain WebSocket."""

    def make(program=OURS, services=("s",), **options):
        t = tunnel(dict.fromkeys(services), server=program, client=program, transport=WebSocket(),
                   start=False, **options)
        t.start_server()
        return t

    return make


@pytest.fixture
def client(tunnel, service):
    """make(program, local) -> (a Tunnel with its client alone, started, a FakeServer of plain sockets)"""
    fakes = []

    def make(program, local=None, **options):
        t = tunnel({"s": (local or service(Echo)).port}, server=program, client=program,
                   transport=WebSocket(), start=False, limits=LIMITS, **options)
        fakes.append(FakeServer(t.control_port))
        t.start_client()
        return t, fakes[-1]

    yield make
    for fake in fakes:
        fake.close()


def a_login(fake, timeout=10):
    fake.secure = WebSocket().server
    return fake.accept_login(TOKEN, within(timeout))


def a_channel(fake, control, key):
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    return fake.accept_data(key, within(10))


# --- the upgrade ----------------------------------------------------------------------------------

PIECE = {OURS: 1, RATHOLE: 10}  # bytes; rathole takes more than 64 small pieces for an attack
# What a server takes beside rathole's own request: browsers, proxies and CDNs write theirs in many ways.
REQUESTS = {
    "rathole's": {},
    "another path": {"line": b"GET /tunnel/2?x=%20y HTTP/1.1"},
    "another host": {"host": b"example.org"},
    "a list of connection options": {"connection": b"keep-alive, Upgrade"},
    "upper case": {"connection": b"UPGRADE", "upgrade": b"WebSocket"},
    "more headers": {"x_forwarded_for": b"192.0.2.1", "via": b"1.1 proxy", "user_agent": b"x" * 500,
                     "origin": b"https://example.org", "cookie": b"a=b; c=d"},
    "offers": {"sec_websocket_extensions": b"permessage-deflate; client_max_window_bits",
               "sec_websocket_protocol": b"chat, superchat"},
}


@either
@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_are_taken(server, program, name):
    """No offer is accepted: no extension and no subprotocol is in the answer."""
    t = server(program)
    key = b"dGhlIHNhbXBsZSBub25jZQ=="
    sock = connect(t.control_port)
    sock.sendall(request("127.0.0.1", key, **REQUESTS[name]))
    head, behind = read_head(sock)
    line, headers = parse_head(head)
    assert line.startswith("HTTP/1.1 101 ") and behind == b""
    assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"
    assert headers["sec-websocket-accept"].encode() == accept_of(key)
    assert headers.keys() <= {"upgrade", "connection", "sec-websocket-accept", "date", "server"}
    with WebSocketSocket(sock, False) as link:
        link.sendall(control_hello("s"))
        assert len(recv_exact(link, 37)) == 37


@either
def test_request_in_pieces(server, program):
    t = server(program)
    sock = connect(t.control_port)
    asked = request("127.0.0.1")
    for at in range(0, len(asked), PIECE[program]):
        sock.sendall(asked[at : at + PIECE[program]])
    head, _ = read_head(sock)
    assert head.startswith(b"HTTP/1.1 101 ")
    with WebSocketSocket(sock, False) as link:
        link.sendall(control_hello("s"))
        assert len(recv_exact(link, 37)) == 37


@either
def test_clients_request(client, program):
    """As rathole's, and ours has a field that only our server reads: see `keeps_half`."""
    t, fake = client(program)
    head, behind = read_head(fake.accept_plain())
    line, headers = parse_head(head)
    assert line == "GET / HTTP/1.1" and behind == b""
    key = headers.pop("sec-websocket-key")
    assert re.fullmatch(r"[A-Za-z0-9+/]{22}==", key)
    if program == OURS:
        assert headers.pop(OWN_FIELD.lower()) == OWN_VALUE
    assert headers == {"host": f"127.0.0.1:{t.control_port}", "connection": "Upgrade",
                       "upgrade": "websocket", "sec-websocket-version": "13"}
    if program == OURS:  # rathole's gives up for good
        fake.accepted[0].close()
        again, _ = read_head(fake.accept_plain())
        assert parse_head(again)[1]["sec-websocket-key"] != key, "one key for two connections"
    else:  # and aborts when a connection without an answer is reset
        t.client.stop()


ANSWERS = {
    "rathole's": {},
    "another reason": {"line": b"HTTP/1.1 101 Web Socket Protocol Handshake"},
    "upper case": {"connection": b"UPGRADE", "upgrade": b"WEBSOCKET"},
    "more headers": {"server": b"nginx", "date": b"Thu, 01 Jan 2026 00:00:00 GMT", "via": b"1.1 x"},
}


def answered(sock, cut=None, **changes):
    """Reads the request and answers it; cut: piece by piece. Returns a WebSocketSocket."""
    head, _ = read_head(sock)
    answer = response(parse_head(head)[1]["sec-websocket-key"].encode(), **changes)
    for at in range(0, len(answer), cut or len(answer)):
        sock.sendall(answer[at : at + (cut or len(answer))])
    return WebSocketSocket(sock, True)


@either
@pytest.mark.parametrize("name", [*ANSWERS, "in pieces"])
def test_answers_that_are_taken(client, program, name):
    _, fake = client(program)
    link = answered(fake.accept_plain(), PIECE[program] if name == "in pieces" else None,
                    **ANSWERS.get(name, {}))
    assert len(recv_exact(link, 37)) == 37


@ours
@needs_websocket
def test_first_frame_right_behind_the_answer(client):
    """A server may speak at once, in the segment of its answer."""
    _, fake = client(OURS)
    sock = fake.accept_plain()
    head, _ = read_head(sock)
    link = WebSocketSocket(sock, True)
    key = parse_head(head)[1]["sec-websocket-key"].encode()
    nonce = bytes(32)
    sock.sendall(response(key) + link.seal(u32(0) + b"\1" + nonce))
    assert recv_exact(link, 37) == control_hello("s")
    assert recv_exact(link, 32) == auth(TOKEN, nonce)


# --- frames ---------------------------------------------------------------------------------------


@pytest.fixture
def relay(server):
    """make(program) -> (visitor, data channel), after each has sent something to the other."""
    opened = []

    def make(program):
        t = server(program)
        session = t.login("s")
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        visitor = connect(t.port("s"))
        opened.extend((channel, visitor, session))
        visitor.sendall(b"up")
        assert recv_exact(channel, 6) == u32(0) + b"up"
        channel.sendall(b"down")
        assert recv_exact(visitor, 4) == b"down"
        return visitor, channel

    yield make
    for each in opened:
        each.close()


@either
def test_frames_are_a_byte_stream(relay, program):
    """Any sizes, fragments, empty frames, many in a segment, one byte a segment."""
    visitor, channel = relay(program)
    for size in (1, 2, 125, 126, 127, 60000, 65535, 65536, 65537, 300000):
        data = os.urandom(size)
        channel.sendall(data)
        assert recv_exact(visitor, size) == data, f"{size} bytes"
    data = os.urandom(10000)
    channel.send_raw(channel.seal(data[:3000], fin=False)
                     + channel.seal(b"", opcode=CONTINUATION, fin=False)
                     + channel.seal(data[3000:5000], opcode=CONTINUATION, fin=False)
                     + channel.seal(data[5000:], opcode=CONTINUATION))
    assert recv_exact(visitor, 10000) == data, "fragments"
    channel.send_raw(b"".join(channel.seal(bytes([byte])) for byte in data))
    assert recv_exact(visitor, 10000) == data, "a frame a byte"
    channel.send_raw(channel.seal(b"") * 50 + channel.seal(data) + channel.seal(b"") * 50)
    assert recv_exact(visitor, 10000) == data, "empty frames"
    for byte in channel.seal(data[:2000]) + channel.seal(b"end"):
        channel.send_raw(bytes([byte]))
    assert recv_exact(visitor, 2003) == data[:2000] + b"end", "a segment a byte"


@ours
@needs_websocket
@pytest.mark.parametrize("size", [1 << 20, 16 << 20])
def test_large_frames(relay, size):
    """Up to 16 MiB, the limit that rathole has: passed on as they come, not collected first."""
    visitor, channel = relay(OURS)
    data = os.urandom(1 << 20) * (size >> 20)
    sealed = channel.seal(data)
    visitor.settimeout(within(10))
    channel.send_raw(sealed[:100000])
    assert len(recv_exact(visitor, 90000)) == 90000, "nothing comes before the frame is whole"
    for at in range(100000, len(sealed), 300000):
        channel.send_raw(sealed[at : at + 300000])
        recv_exact(visitor, min(300000, len(sealed) - at))


@either
def test_frames_of_a_server(relay, program):
    """Binary, whole, not masked, never longer than needed; and nothing but data, then one Close. The
    played client checks each header."""
    visitor, channel = relay(program)
    data = os.urandom(scaled(4 << 20, 1 << 20))
    for at in range(0, len(data), 200000):
        visitor.sendall(data[at : at + 200000])
        assert recv_exact(channel, len(data[at : at + 200000])) == data[at : at + 200000]
    visitor.shutdown(socket.SHUT_WR)
    channel.shutdown(socket.SHUT_WR)
    how, _ = how_closed(channel, within(3))
    assert how == "fin" or (program == RATHOLE and how == "rst")
    assert {first for first, _ in channel.frames.headers} <= {0x82, 0x88}
    assert how == "rst" or [opcode for opcode, _ in channel.controls] == [CLOSE]
    assert max(channel.sizes) <= 16 << 20


class Upload(Service):
    """Sends `size` bytes, then its FIN, and takes what comes."""

    def __init__(self, port, size, **kwargs):
        self.size = size
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        for part in pattern(5, self.size):
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            record.received += len(data)
        record.end = "fin"


@either
def test_frames_of_a_client(client, service, program):
    """All masked, with masks that differ."""
    size = scaled(4 << 20, 1 << 20)
    _, fake = client(program, service(Upload, size))
    control, key = a_login(fake)
    channel = a_channel(fake, control, key)
    channel.sendall(u32(0))
    masks, take = set(), channel.frames._next

    def next_frame():
        data = bytes(channel.frames.pending[:14])
        found = take()
        if found is not None:
            at = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
            masks.add(data[at : at + 4])
        return found

    channel.frames._next = next_frame
    got = recv_all(channel)
    assert got == b"".join(pattern(5, size))
    assert {first for first, _ in channel.frames.headers} <= {0x82, 0x88}
    assert channel.controls == [(CLOSE, b"")]
    if program == OURS or len(channel.sizes) > 10:
        assert len(masks) > min(10, len(channel.sizes)) // 2, masks


def recv_all(sock):
    data = bytearray()
    while part := sock.recv(1 << 16):
        data += part
    return bytes(data)


# --- Ping, Pong and what we never send ------------------------------------------------------------


@ours
@needs_websocket
@pytest.mark.parametrize("where", ["control", "used", "waiting"])
def test_ping_is_answered_by_a_server(server, where):
    """On control channels, on relays and on channels that wait; with the payload, as often as asked."""
    t = server()
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        if where == "waiting":
            ponged(channel)
            ponged(channel, b"")
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"up")
            assert recv_exact(channel, 6) == u32(0) + b"up"
            link = session.control if where == "control" else channel
            for payload in (b"", b"x", bytes(125)):
                ponged(link, payload)
            channel.sendall(b"down")
            assert recv_exact(visitor, 4) == b"down"


@ours
@needs_websocket
def test_ping_in_a_flow(relay):
    """In the middle of a message, and in front of what the visitor sends."""
    visitor, channel = relay(OURS)
    channel.send_raw(channel.seal(b"one", fin=False) + channel.seal(b"now?", opcode=PING)
                     + channel.seal(b"two", opcode=CONTINUATION))
    assert recv_exact(visitor, 6) == b"onetwo"
    visitor.sendall(b"back")
    assert recv_exact(channel, 4) == b"back" and channel.controls[-1] == (PONG, b"now?")


def is_readable(link, timeout=1):
    return bool(select.select([link.fileno()], [], [], timeout)[0])


def ponged(link, payload=None):
    """Sends a Ping and reads until its Pong."""
    payload = os.urandom(8) if payload is None else payload
    link.send_raw(link.seal(payload, opcode=PING))
    link.settimeout(0.05)
    deadline = time.monotonic() + within(3)
    while (PONG, payload) not in link.controls and time.monotonic() < deadline:
        try:
            # Into the link's own buffer, so that no data is lost
            link._take(link.sock.recv(1 << 16))
        except TimeoutError:
            pass
    link.settimeout(10)
    assert (PONG, payload) in link.controls, f"no Pong on {link.controls}"


@ours
@needs_websocket
def test_ping_is_answered_by_a_client(client):
    _, fake = client(OURS)
    control, key = a_login(fake)
    for payload in (b"", b"x", bytes(125)):
        ponged(control, payload)
    waiting = a_channel(fake, control, key)
    ponged(waiting)
    waiting.sendall(u32(0) + b"hello")
    assert recv_exact(waiting, 5) == b"hello"
    ponged(waiting)
    control.send_raw(control.seal(b"unasked", opcode=PONG))
    other = a_channel(fake, control, key)
    other.send_raw(other.seal(b"unasked", opcode=PONG))
    other.sendall(u32(0) + b"still")
    assert recv_exact(other, 5) == b"still"


@ours
@needs_websocket
def test_server_never_sends_ping_pong_or_text(server):
    """With heartbeats due, and channels that wait: a peer that may be rathole would drop both ways."""
    t = server(server_options={"heartbeat_interval": 1})
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        channels = [session.open_channel() for _ in range(3)]
        seen, end = [], time.monotonic() + 2.5
        while time.monotonic() < end:
            seen.append(session.command(0.3))
        assert seen.count(CMD_HEARTBEAT) >= 2
        for channel in [session.control, *channels]:
            assert channel.controls == []
            assert {first for first, _ in channel.frames.headers} <= {0x82}
        assert not any(is_readable(channel, 0) for channel in channels), "something on a waiting channel"


@ours
@needs_websocket
def test_client_never_sends_ping_pong_or_text(client):
    """After its login not a byte on the control channel, and none on a channel that waits."""
    _, fake = client(OURS, client_options={"heartbeat_timeout": 6})
    control, key = a_login(fake)
    channel = a_channel(fake, control, key)
    for _ in range(3):
        control.sendall(u32(CMD_HEARTBEAT))
        time.sleep(0.7)
    assert not is_readable(control, 0) and not is_readable(channel, 0)
    assert control.controls == channel.controls == []


# --- half close: transports.md, section 3 ---------------------------------------------------------


class AnswerThenEnd(Service):
    """Takes `size` bytes, waits, then answers; needs no end of the visitor's."""

    def __init__(self, port, size, delay, **kwargs):
        self.size, self.delay = size, delay
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        data = recv_exact(sock, self.size)
        record.received = len(data)
        time.sleep(self.delay)
        sock.sendall(b"late " + data[:10])
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if sock.recv(1) == b"" else "surplus"


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]()


def pairing(server, client):
    return {"server": server, "client": client}


@pytest.mark.parametrize("pair", [pairing(OURS, OURS), pairing(OURS, RATHOLE), pairing(RATHOLE, OURS)],
                         ids=lambda pair: "/".join(pair.values()))
def test_late_answer_after_the_visitors_end(tunnel, service, kind, pair):
    """The visitor ends its side, then waits for the answer. Towards rathole's client our server holds its
    Close back, or the answer would be lost."""
    skip_unless_able(kind, pair.values())
    local = service(AnswerThenEnd, 1000, 0.5)
    t = tunnel({"s": local.port}, transport=kind, **pair)
    for n in range(3):
        with connect(t.port("s")) as visitor:
            visitor.sendall(bytes(1000))
            visitor.shutdown(socket.SHUT_WR)
            visitor.settimeout(within(5))
            assert recv_exact(visitor, 15) == b"late " + bytes(10)
            assert how_closed(visitor, within(5)) == ("fin", b"")
        # When the service has ended, the Close that was held back goes out: it is not kept for long.
        assert local.wait_record(n, within(5)).end == "fin"


def test_an_upload_to_ratholes_client_ends_late(tunnel, service, kind):
    """A service that waits for its visitor to end hears it after half_close_timeout, behind all bytes."""
    skip_unless_able(kind, (OURS, RATHOLE))
    local = service(Sink)
    t = tunnel({"s": local.port}, transport=kind, server=OURS, client=RATHOLE,
               server_options={"half_close_timeout": 1})
    size = scaled(4 << 20, 1 << 20)
    with connect(t.port("s")) as visitor:
        for part in pattern(6, size):
            visitor.sendall(part)
        start = time.monotonic()
        visitor.shutdown(socket.SHUT_WR)
        record = local.wait_record(0, within(5))
        assert (record.end, record.received) == ("fin", size)
        assert time.monotonic() - start > 0.9
        assert how_closed(visitor, within(5))[0] != "open"


@pytest.mark.parametrize("pair", [pairing(OURS, OURS), pairing(RATHOLE, OURS)],
                         ids=lambda pair: "/".join(pair.values()))
def test_the_service_sees_the_visitors_end(tunnel, service, kind, pair):
    """Our client passes a Close on as a FIN and goes on sending."""
    skip_unless_able(kind, pair.values())
    size = scaled(8 << 20, 2 << 20)
    t = tunnel({"s": service(AfterEof, size).port}, transport=kind, **pair)
    with connect(t.port("s")) as visitor:
        visitor.sendall(b"x" * 10000)
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of([b"x" * 10000])
        assert recv_exact(visitor, size) == b"".join(pattern(4, size)) and visitor.recv(1) == b""


@pytest.mark.parametrize("pair", [pairing(OURS, OURS), pairing(OURS, RATHOLE)],
                         ids=lambda pair: "/".join(pair.values()))
def test_the_visitor_sees_the_services_end(tunnel, service, kind, pair):
    """And goes on sending: rathole's client reads on after its own Close."""
    skip_unless_able(kind, pair.values())
    size = scaled(8 << 20, 2 << 20)
    local = service(EofFirst, 1000)
    t = tunnel({"s": local.port}, transport=kind, **pair)
    with connect(t.port("s")) as visitor:
        visitor.settimeout(within(10))
        assert len(recv_exact(visitor, 1000)) == 1000 and visitor.recv(1) == b""
        for part in pattern(6, size):
            visitor.sendall(part)
        visitor.shutdown(socket.SHUT_WR)
        record = local.wait_record(0, within(10))
    assert (record.end, record.digest) == ("fin", digest_of(pattern(6, size)))


def test_the_services_end_at_ratholes_server(tunnel, service, kind):
    """rathole's server drops both ways then; the visitor has all that the service sent, and its end."""
    skip_unless_able(kind, (RATHOLE, OURS))
    t = tunnel({"s": service(EofFirst, 300000).port}, transport=kind, server=RATHOLE, client=OURS)
    for _ in range(3):
        with connect(t.port("s")) as visitor:
            how, data = how_closed(visitor, within(5))
            assert len(data) == 300000 and how in ("fin", "rst")


@ours
@needs_websocket
def test_a_visitor_that_has_gone_frees_a_silent_service(tunnel, service):
    """Where our server holds the Close back: a visitor that has ended both ways (reset) is not waited for."""
    if not have(RATHOLE):
        pytest.skip(NO_RATHOLE)
    local = service(Sink)
    t = tunnel({"s": local.port}, transport=WebSocket(), server=OURS, client=RATHOLE)
    with connect(t.port("s")) as visitor:
        visitor.sendall(b"x")
        local.wait_connections(1, within(5))
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert local.wait_record(0, within(5)).end in ("fin", "rst")


@ours
@needs_websocket
@pytest.mark.parametrize("is_known", [True, False])
def test_when_the_server_sends_its_close(server, is_known):
    """At once, to a client that says that it goes on after it; else when the client's has come."""
    t = server()
    t.transport["client"] = WebSocket(keeps_half=is_known)
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"up")
            visitor.shutdown(socket.SHUT_WR)
            assert recv_exact(channel, 6) == u32(0) + b"up"
            if is_known:
                assert channel.recv(1) == b"" and channel.controls == [(CLOSE, b"")]
            else:
                assert not is_readable(channel, 0.5), "a Close that drops both ways"
            channel.sendall(b"late")
            assert recv_exact(visitor, 4) == b"late"
            channel.shutdown(socket.SHUT_WR)
            assert visitor.recv(1) == b"" and channel.recv(1) == b""


@ours
@needs_websocket
def test_close_with_a_reason_is_an_end_too(relay):
    """A proxy may write 1000 and a reason into its Close. The other direction stays open."""
    visitor, channel = relay(OURS)
    channel.send_raw(channel.seal(b"last") + channel.seal(b"\x03\xe8done", opcode=CLOSE))
    assert recv_exact(visitor, 4) == b"last" and visitor.recv(1) == b""
    visitor.sendall(b"still here")
    assert recv_exact(channel, 10) == b"still here"
    visitor.shutdown(socket.SHUT_WR)
    assert channel.recv(1) == b""


@ours
@needs_websocket
@needs_tls
def test_a_record_behind_a_close_loses_nothing(tunnel, service):
    """rathole's server ends TLS behind its Close. Unread, that record would make the kernel drop what our
    client's socket still holds for a slow server, and reset."""
    transport = WebSocket(Tls())
    size = 4 << 20
    local = service(AfterEof, size)
    t = tunnel({"s": local.port}, transport=transport, start=False, limits=LIMITS)
    with FakeServer(t.control_port, secure=transport.server) as fake:
        t.start_client()
        control, key = fake.accept_login(TOKEN, within(10))
        channel = a_channel(fake, control, key)
        channel.sendall(u32(0) + b"request")
        channel.shutdown(socket.SHUT_WR)
        assert is_readable(channel, within(10)), "the service has not seen the end"
        channel.sock.shutdown(socket.SHUT_WR)
        assert local.wait_record(0, within(10)).end == "fin"
        channel.settimeout(within(10))
        assert recv_all(channel) == b"".join([digest_of([b"request"]), *pattern(4, size)])
        assert channel.controls == [(CLOSE, b"")]
        assert how_closed(channel.sock.sock, within(5)) == ("fin", b"")


# --- a whole tunnel -------------------------------------------------------------------------------


@ours
@needs_websocket
def test_an_idle_connection_lives(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, transport=WebSocket(),
               server_options={"heartbeat_interval": 1}, client_options={"heartbeat_timeout": 3})
    with connect(t.port()) as visitor:
        visitor.sendall(b"a")
        assert recv_exact(visitor, 1) == b"a"
        time.sleep(3.5)
        visitor.sendall(b"b")
        assert recv_exact(visitor, 1) == b"b"
    wait_until(lambda: t.client.log().count("established") == 1, within(1), "one login only")
    ping(t.port())
