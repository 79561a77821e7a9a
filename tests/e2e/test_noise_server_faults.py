"""Frames that are forged, cut, reordered or replayed, towards our server.

What must hold everywhere: the connection ends at the first bad frame, nothing of that frame is
delivered, and the visitor sees a reset, never an end of stream that looks like success.
"""

import os
import socket
import time

import pytest

from harness import TOKEN, scaled, within
from noise_faults import CUTS, FAULTS, gone, with_patterns
from noise_peer import PATTERNS, PAYLOAD_MAX, Noise, flipped, one_by_one
from protocol import (
    CMD_CREATE_DATA_CHANNEL, auth, connect, control_hello, data_hello, how_closed, recv_exact,
    reset, u32,
)

ours = pytest.mark.ours  # unmarked tests hold for rathole too: they pass with E2E_PAIR=rathole/rathole


@pytest.fixture(params=PATTERNS)
def noise(request):
    return Noise(request.param)


@pytest.fixture
def server(tunnel, noise):
    """A server alone, with the services `s` and `other`."""
    t = tunnel({"s": None, "other": None}, transport=noise, start=False)
    t.start_server()
    return t


@pytest.fixture
def nk_server(tunnel):
    """The same with the NK pattern alone, for tests in which the pattern makes no difference."""
    t = tunnel({"s": None, "other": None}, transport=Noise("NK"), start=False)
    t.start_server()
    return t


def open_control(t):
    return t.played("client")(connect(t.control_port))


def logs_in(t, service="other"):
    with t.login(service) as session:
        assert session.command(within(2)) == CMD_CREATE_DATA_CHANNEL


@with_patterns(FAULTS)
def test_login_with_a_bad_frame(server, fault):
    """A bad frame in place of the hello, and one in place of the auth."""
    sock = open_control(server)
    sock.send_raw(FAULTS[fault](sock, control_hello("s")))
    gone(sock, f"hello: {fault}")
    sock = open_control(server)
    sock.sendall(control_hello("s"))
    answer = auth(TOKEN, recv_exact(sock, 37)[5:])
    sock.send_raw(FAULTS[fault](sock, answer))
    gone(sock, f"auth: {fault}")
    logs_in(server)


def test_login_with_each_byte_flipped(nk_server):
    """A flipped length makes the server wait for more bytes: two frames follow so that it fails at once."""
    for offset in range(2 + 37 + 16):
        sock = open_control(nk_server)
        hello = flipped(sock.seal(control_hello("s")), offset, 0)
        sock.send_raw(hello + sock.seal(bytes(200)) + sock.seal(bytes(200)))
        gone(sock, f"byte {offset}")
    logs_in(nk_server)


def test_login_with_a_replayed_frame(nk_server):
    """The first half of a hello sent twice; and the hello of another connection, replayed."""
    sock = open_control(nk_server)
    half = sock.seal(control_hello("s")[:20])
    sock.send_raw(half + half)
    gone(sock, "half a hello twice")
    first = open_control(nk_server)
    hello = first.seal(control_hello("s"))
    first.send_raw(hello)
    recv_exact(first, 37)
    second = open_control(nk_server)
    second.send_raw(hello)
    gone(second, "a hello of another connection")
    first.close()
    logs_in(nk_server)


def test_login_with_an_empty_payload(nk_server):
    """An empty payload is the end of the stream or an error; the server must not ignore it."""
    for data in (b"", control_hello("s")[:10], control_hello("s")):
        sock = open_control(nk_server)
        if data:
            sock.sendall(data)
        if len(data) == 37:
            recv_exact(sock, 37)
        sock.send_raw(sock.seal(b""))
        gone(sock, f"empty payload after {len(data)} bytes")
    logs_in(nk_server)


@ours
@pytest.mark.parametrize("end", ["fin", "rst"])
def test_login_cut_in_mid_frame(nk_server, end):
    fds = nk_server.server.settled_fds()
    for what, cut in CUTS.items():
        for data, answered in ((control_hello("s"), 0), (bytes(32), 37)):
            sock = open_control(nk_server)
            if answered:
                sock.sendall(control_hello("s"))
                recv_exact(sock, answered)
            sealed = sock.seal(data)
            sock.send_raw(sealed[: cut(len(sealed))])
            if end == "rst":
                reset(sock)
                continue
            sock.shutdown(socket.SHUT_WR)
            gone(sock, f"FIN after {what}")
    nk_server.server.wait_fds(fds, within(2))
    used = nk_server.server.cpu_seconds()
    time.sleep(0.5)
    assert nk_server.server.cpu_seconds() - used < within(0.1), "a spin"
    logs_in(nk_server)


def test_login_split_and_joined(server):
    """Boundaries of frames, messages and TCP segments are independent of each other."""
    for size in (1, 5, 36, 37):
        sock = open_control(server)
        sock.sendall(control_hello("s"), payload_max=size)
        nonce = recv_exact(sock, 37)[5:]
        one_by_one(sock.sock, sock.seal(auth(TOKEN, nonce)))
        assert recv_exact(sock, 4) == u32(0)
        sock.close()


@ours
@pytest.mark.parametrize("fault", [*FAULTS, "replayed", "empty"])
def test_bytes_on_the_control_channel_end_the_session(nk_server, fault):
    """A client never sends on the control channel. If one does, the server neither spins nor crashes."""
    with nk_server.login("s") as session:
        nk_server.wait_ready(names=["s"])
        control = session.control
        if fault == "replayed":
            sealed = control.seal(b"x")
            control.send_raw(sealed + sealed)
        else:
            control.send_raw(control.seal(b"") if fault == "empty"
                             else FAULTS[fault](control, b"abc"))
        how, data = how_closed(control, within(1))
        assert how != "open", "still open"
        assert data.strip(b"\0") == b"", "more than the pool's requests"
    logs_in(nk_server)


@pytest.fixture
def relay(nk_server):
    """make() -> (visitor, data channel), after each has sent something to the other."""
    with nk_server.login("s") as session:
        nk_server.wait_ready(names=["s"])
        opened = []

        def make():
            channel = session.open_channel()
            visitor = connect(nk_server.port("s"))
            opened.extend((channel, visitor))
            visitor.sendall(b"up")
            assert recv_exact(channel, 6) == u32(0) + b"up"
            channel.sendall(b"down")
            assert recv_exact(visitor, 4) == b"down"
            return visitor, channel

        yield make
        for sock in opened:
            sock.close()


@ours
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_frame_on_a_data_channel(relay, fault):
    """The visitor gets the bytes before the bad frame, then a reset; the next visitor is served."""
    for good in (b"", b"good", bytes(PAYLOAD_MAX)):
        visitor, channel = relay()
        channel.send_raw((channel.seal(good) if good else b"")
                         + FAULTS[fault](channel, b"evil" * 50))
        how, data = how_closed(visitor, within(2))
        assert how == "rst", f"the visitor saw {how}"
        # A reset may discard bytes in flight, but the visitor must get no other bytes.
        assert good.startswith(data), f"{len(data)} bytes, {data[:20]!r}"
        gone(channel, fault)
    relay()


@ours
def test_bad_frame_takes_nothing_that_was_delivered(relay):
    visitor, channel = relay()
    for n in range(20):
        channel.sendall(b"%4d" % n)
        assert recv_exact(visitor, 4) == b"%4d" % n
    channel.send_raw(flipped(channel.seal(b"evil"), 10))
    assert how_closed(visitor, within(2)) == ("rst", b"")


@ours
def test_frame_replayed_on_a_data_channel(relay):
    visitor, channel = relay()
    sealed = channel.seal(b"once")
    channel.send_raw(sealed)
    assert recv_exact(visitor, 4) == b"once"
    channel.send_raw(sealed)
    assert how_closed(visitor, within(2)) == ("rst", b"")


@ours
@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("cut", CUTS)
def test_data_channel_cut_in_mid_frame(relay, nk_server, cut, end):
    """A cut frame is no clean end: the visitor sees a reset. (rathole sends FIN, or spins.)"""
    for size in (1, 1000, PAYLOAD_MAX):
        visitor, channel = relay()
        sealed = channel.seal(bytes(size))
        channel.send_raw(sealed[: CUTS[cut](len(sealed))])
        if end == "rst":
            reset(channel)
        else:
            channel.shutdown(socket.SHUT_WR)
        assert how_closed(visitor, within(2)) == ("rst", b"")
        if end == "fin":
            gone(channel, cut)
    used = nk_server.server.cpu_seconds()
    time.sleep(0.3)
    assert nk_server.server.cpu_seconds() - used < within(0.1), "a spin"


def test_clean_end_between_frames(relay):
    """A FIN between frames is a half-close: the other direction goes on."""
    visitor, channel = relay()
    channel.sendall(b"last")
    channel.shutdown(socket.SHUT_WR)
    assert recv_exact(visitor, 4) == b"last" and visitor.recv(1) == b""
    visitor.sendall(b"still here" * 10000)
    assert recv_exact(channel, 100000) == b"still here" * 10000
    visitor.shutdown(socket.SHUT_WR)
    assert how_closed(channel, within(2)) == ("fin", b"")


def test_empty_payload_on_a_data_channel(relay):
    """An empty payload ends that direction, as in rathole, or is an error; bytes after it are lost."""
    visitor, channel = relay()
    channel.send_raw(channel.seal(b"last") + channel.seal(b"") + channel.seal(b"beyond"))
    how, data = how_closed(visitor, within(2))
    assert how in ("fin", "rst"), "an empty payload is neither an end nor an error"
    assert b"last".startswith(data)


def test_frames_of_every_size_on_a_data_channel(relay):
    """Frames of up to 65,535 bytes, split anywhere, joined in one segment, or one byte a segment."""
    visitor, channel = relay()
    for size in (1, 2, 15, 16, 17, 4096, 16383, 16384, 16385, 32768, 65518, PAYLOAD_MAX):
        data = os.urandom(size)
        channel.sendall(data)
        assert recv_exact(visitor, size) == data, f"{size} bytes"
    data = os.urandom(3 * PAYLOAD_MAX)
    channel.sendall(data)
    assert recv_exact(visitor, len(data)) == data
    channel.sendall(data[:5000], payload_max=1)
    assert recv_exact(visitor, 5000) == data[:5000]
    one_by_one(channel.sock, channel.seal(data[:500]) + channel.seal(b"end"))
    assert recv_exact(visitor, 503) == data[:500] + b"end"
    sealed = channel.seal(data[:PAYLOAD_MAX]) + channel.seal(b"end")
    for at in range(0, len(sealed), 9973):
        channel.send_raw(sealed[at : at + 9973])
        time.sleep(0.002)
    assert recv_exact(visitor, PAYLOAD_MAX + 3) == data[:PAYLOAD_MAX] + b"end"


@ours
def test_frames_from_our_server(relay):
    """The server sends only valid frames, and its stream ends between two of them. NoiseSocket checks
    this: it rejects empty payloads and bad tags."""
    visitor, channel = relay()
    data = os.urandom(scaled(4 << 20, 1 << 20))
    for at in range(0, len(data), 60000):
        visitor.sendall(data[at : at + 60000])
        assert recv_exact(channel, len(data[at : at + 60000])) == data[at : at + 60000]
    assert max(channel.frames) <= PAYLOAD_MAX
    visitor.shutdown(socket.SHUT_WR)
    assert how_closed(channel, within(2)) == ("fin", b"")


@ours
def test_bad_frame_on_a_waiting_channel(nk_server):
    """The server notices when a visitor comes. The visitor gets another channel or a reset, but no byte
    of the bad frame."""
    with nk_server.login("s") as session:
        nk_server.wait_ready(names=["s"])
        for fault in FAULTS:
            bad = session.open_channel()
            bad.send_raw(FAULTS[fault](bad, b"evil"))
            time.sleep(0.02)
            good = session.open_channel()
            try:
                with connect(nk_server.port("s")) as visitor:
                    visitor.sendall(b"up")
                    how, data = how_closed(visitor, 0.1)
                    assert data == b"" and how in ("open", "rst"), f"{fault}: {how}, {data!r}"
                    if how == "open":  # the visitor got the good channel
                        assert recv_exact(good, 6) == u32(0) + b"up", fault
                        good.sendall(b"down")
                        assert recv_exact(visitor, 4) == b"down", fault
            except ConnectionResetError:
                pass  # reset while the visitor was still connecting or sending
            # Remove both channels: the next visitor must not get one of them.
            reset(good)
            bad.close()
            time.sleep(0.05)


def test_early_bytes_on_a_waiting_channel(nk_server):
    """The payload of valid frames sent before the command is the first that the visitor gets."""
    with nk_server.login("s") as session:
        nk_server.wait_ready(names=["s"])
        channel = nk_server.played("client")(connect(nk_server.control_port))
        channel.send_raw(channel.seal(data_hello(session.key) + b"ear")
                         + channel.seal(b"ly") + channel.seal(b"bird")[:7])
        time.sleep(0.1)
        with connect(nk_server.port("s")) as visitor:
            assert recv_exact(visitor, 5) == b"early"
            assert recv_exact(channel, 4) == u32(0)
        channel.close()
