"""Tests of tls_peer.py and websocket_peer.py themselves, against rathole and against each other."""

import socket
import threading

import pytest

from capabilities import NO_RATHOLE
from harness import RATHOLE, TOKEN, have, within
from protocol import CMD_CREATE_DATA_CHANNEL, FakeServer, connect, how_closed, recv_exact, u32
from services import AfterEof, Echo, EofFirst, digest_of, pattern
from tls_peer import ALERT, APPLICATION_DATA, HANDSHAKE, Tls, Truncated, records
from websocket_peer import (
    BINARY, CLOSE, PING, Frames, WebSocket, accept_of, frame, masked,
)

needs_rathole = pytest.mark.skipif(not have(RATHOLE), reason=NO_RATHOLE)

TRANSPORTS = {"tls": lambda: Tls("address", None), "tls-hostname": Tls,
              "websocket": WebSocket, "websocket-tls": lambda: WebSocket(Tls())}


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return TRANSPORTS[request.param]()


@pytest.fixture
def ends(transport):
    """Both ends over a socket pair of TCP: (client's, server's)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = connect(listener.getsockname()[1])
        far, _ = listener.accept()
    far.settimeout(10)
    made = {}

    def serve():
        made["server"] = transport.server(far)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    made["client"] = transport.client(near)
    thread.join(10)
    yield made["client"], made["server"]
    near.close()
    far.close()


def test_the_two_ends_understand_each_other(ends):
    """Both directions, and a half close each way."""
    client, server = ends
    for one, other in (ends, ends[::-1]):
        one.sendall(b"x" * 100000)
        assert recv_exact(other, 100000) == b"x" * 100000
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"late")
    assert recv_exact(client, 4) == b"late"
    server.shutdown(socket.SHUT_WR)
    assert how_closed(client, 5) == ("fin", b"")


def test_a_bare_fin_is_a_truncation(ends):
    client, server = ends
    client.sendall(b"all of it?")
    client.fin()
    assert recv_exact(server, 10) == b"all of it?"
    with pytest.raises(Truncated):
        server.recv(1)


def test_frames_by_hand():
    """The examples of RFC 6455, section 5.7 and 1.3."""
    assert frame(b"Hello", opcode=1).hex() == "810548656c6c6f"
    mask = bytes.fromhex("37fa213d")
    assert frame(b"Hello", opcode=1, mask=mask).hex() == "818537fa213d7f9f4d5158"
    assert masked(masked(b"abcdefg", mask), mask) == b"abcdefg"
    assert frame(bytes(256))[:4].hex() == "827e0100"
    assert frame(bytes(65536))[:10].hex() == "827f0000000000010000"
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    parser = Frames(is_masked=True)
    data = frame(b"one", mask=mask) + frame(bytes(300), mask=mask, fin=False)
    found = [each for at in range(len(data)) for each in parser.feed(data[at : at + 1])]
    assert found == [(BINARY, True, b"one"), (BINARY, False, bytes(300))]


def test_records_by_hand():
    made = [bytes([kind, 3, 3, 0, 2, 7, 7]) for kind in (HANDSHAKE, ALERT, APPLICATION_DATA)]
    assert records(b"".join(made)) == list(zip((HANDSHAKE, ALERT, APPLICATION_DATA), made))
    assert records(made[0] + made[1][:6]) == [(HANDSHAKE, made[0])]


@needs_rathole
def test_as_client_of_rathole(tunnel, transport):
    t = tunnel({"s": None}, server=RATHOLE, client=RATHOLE, transport=transport, start=False)
    t.start_server()
    with t.login("s") as session:
        assert session.command(within(2)) == CMD_CREATE_DATA_CHANNEL
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"up" * 50000)
            assert recv_exact(channel, 100004) == u32(0) + b"up" * 50000
            channel.sendall(b"down" * 50000)
            assert recv_exact(visitor, 200000) == b"down" * 50000


@needs_rathole
def test_as_server_of_rathole(tunnel, service, transport):
    t = tunnel({"s": service(Echo).port}, server=RATHOLE, client=RATHOLE, transport=transport,
               start=False)
    with FakeServer(t.control_port, secure=transport.server) as fake:
        t.start_client()
        control, key = fake.accept_login(TOKEN)
        control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
        channel = fake.accept_data(key)
        channel.sendall(u32(0) + b"hello")
        assert recv_exact(channel, 5) == b"hello"


@needs_rathole
@pytest.mark.parametrize("role", ["server", "client"])
def test_rathole_drops_both_ways_on_a_ping(tunnel, service, role):
    """Why our program never sends one."""
    transport = WebSocket()
    local = service(Echo)
    t = tunnel({"s": None if role == "server" else local.port}, server=RATHOLE, client=RATHOLE,
               transport=transport, start=False)
    if role == "server":
        t.start_server()
        with t.login("s") as session:
            t.wait_ready(names=["s"])
            channel = session.open_channel()
            with connect(t.port("s")) as visitor:
                recv_exact(channel, 4)
                channel.send_raw(channel.seal(b"", opcode=PING))
                assert how_closed(visitor, within(5)) in (("fin", b""), ("rst", b""))
        return
    with FakeServer(t.control_port, secure=transport.server) as fake:
        t.start_client()
        control, key = fake.accept_login(TOKEN)
        control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
        channel = fake.accept_data(key)
        channel.sendall(u32(0) + b"hello")
        recv_exact(channel, 5)
        channel.send_raw(channel.seal(b"", opcode=PING))
        assert how_closed(channel, within(5))[0] != "open"


@needs_rathole
def test_ratholes_server_reads_on_after_its_close(tunnel):
    """So our client keeps the half close towards it."""
    t = tunnel({"s": None}, server=RATHOLE, client=RATHOLE, transport=WebSocket(), start=False)
    t.start_server()
    with t.login("s") as session:
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"up")
            visitor.shutdown(socket.SHUT_WR)
            assert recv_exact(channel, 6) == u32(0) + b"up"
            assert channel.recv(1) == b"" and channel.controls == [(CLOSE, b"")]
            channel.sendall(b"late")
            assert recv_exact(visitor, 4) == b"late"


def channel_to_rathole(t, fake):
    """A data channel from rathole's client, with its service behind it."""
    t.start_client()
    control, key = fake.accept_login(TOKEN)
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    channel = fake.accept_data(key)
    channel.sendall(u32(0))
    return channel


@needs_rathole
def test_ratholes_client_loses_the_reply_after_our_close(tunnel, service):
    """So our server holds its Close back."""
    t = tunnel({"s": service(AfterEof, 1000).port}, server=RATHOLE, client=RATHOLE,
               transport=WebSocket(), start=False)
    with FakeServer(t.control_port, secure=WebSocket().server) as fake:
        channel = channel_to_rathole(t, fake)
        channel.sendall(b"question")
        channel.shutdown(socket.SHUT_WR)
        how, data = how_closed(channel, within(5))
        assert how != "open" and data == b""


@needs_rathole
def test_ratholes_client_reads_on_after_its_close(tunnel, service):
    """So a service may end first, and still gets the rest from a visitor."""
    local = service(EofFirst, 1000)
    t = tunnel({"s": local.port}, server=RATHOLE, client=RATHOLE, transport=WebSocket(), start=False)
    with FakeServer(t.control_port, secure=WebSocket().server) as fake:
        channel = channel_to_rathole(t, fake)
        recv_exact(channel, 1000)
        assert channel.recv(1) == b"" and channel.controls == [(CLOSE, b"")]
        for part in pattern(6, 1 << 20):
            channel.sendall(part)
        channel.shutdown(socket.SHUT_WR)
        record = local.wait_record(0, within(10))
    assert (record.end, record.digest) == ("fin", digest_of(pattern(6, 1 << 20)))
