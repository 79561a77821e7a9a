"""Frames and handshakes that are forged, cut, reordered, replayed or late, towards our client.

What must hold everywhere: the connection ends at the first bad frame, nothing of it is delivered,
and the local service sees a reset, never an end of stream that looks like success.
"""

import os
import socket
import threading
import time

import pytest

from harness import SCALE, TOKEN, wait_until, within
from limits import Limits
from noise_faults import CUTS, FAULTS, SOME_FAULTS, gone, points, step, with_patterns
from noise_peer import PATTERNS, PAYLOAD_MAX, Noise, flipped, frame, one_by_one
from protocol import (
    CMD_CREATE_DATA_CHANNEL, CMD_HEARTBEAT, FakeServer, auth, control_hello, how_closed,
    recv_exact, reset, server_hello, u32,
)
from services import Echo, Service
from test_hostile import drip

ours = pytest.mark.ours  # the other tests hold for rathole too: they pass with E2E_PAIR=rathole/rathole

LIMITS = Limits(retry_min=0.1)
PATIENT = Limits(retry_min=0.1, login=5)


class Keep(Service):
    """Keeps received bytes in record.data, and the socket in record.sock, so that a test can answer."""

    def serve(self, sock, record):
        record.data = b""
        while part := sock.recv(65536):
            record.data += part
            record.received += len(part)
        record.end = "fin"


@pytest.fixture
def noise(request):
    return Noise(request.param)


@pytest.fixture
def client(tunnel, service, noise):
    """(Tunnel with only a client, FakeServer, its local service)"""
    yield from _client(tunnel, service, noise)


@pytest.fixture
def nk_client(tunnel, service):
    yield from _client(tunnel, service, Noise("NK"))


def _client(tunnel, service, noise):
    local = service(Keep)
    t = tunnel({"s": local.port}, transport=noise, start=False, limits=LIMITS)
    with FakeServer(t.control_port, secure=t.played("server")) as fake:
        t.start_client()
        yield t, fake, local


def logged_in(fake):
    """(control, key), once the client has logged in (again)."""
    return fake.accept_login(TOKEN, timeout=within(6))


def give_channel(fake, control, key):
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    return fake.accept_data(key)


def started(fake, control, key, local):
    """(data channel, the service's record of it), once the service has received `good`."""
    before = len(local.records)
    channel = give_channel(fake, control, key)
    channel.sendall(u32(0) + b"good")
    local.wait_connections(before + 1, within(5))
    record = local.records[before]
    wait_until(lambda: record.received == 4, within(5), "the first bytes")
    return channel, record


@with_patterns(SOME_FAULTS)
def test_bad_frame_in_the_answer_to_a_login(client, fault):
    """The client closes this connection and retries as after any failure."""
    t, fake, _ = client
    sock = fake.accept(within(6))
    recv_exact(sock, 37)
    sock.send_raw(FAULTS[fault](sock, control_hello("s")))  # the server's hello has the same size
    gone(sock, fault)
    control, key = logged_in(fake)
    give_channel(fake, control, key)


@pytest.mark.parametrize("fault", SOME_FAULTS)
def test_bad_frame_on_the_control_channel(nk_client, fault):
    t, fake, _ = nk_client
    control, _ = logged_in(fake)
    control.send_raw(control.seal(u32(CMD_HEARTBEAT)) + FAULTS[fault](control, u32(0)))
    gone(control, fault)
    control, key = logged_in(fake)
    give_channel(fake, control, key)


def test_replay_and_empty_payload_on_the_control_channel(nk_client):
    t, fake, _ = nk_client
    control, key = logged_in(fake)
    sealed = control.seal(u32(CMD_CREATE_DATA_CHANNEL))
    control.send_raw(sealed)
    channel = fake.accept_data(key)
    control.send_raw(sealed)
    gone(control, "replayed")
    channel.close()
    control, key = logged_in(fake)
    control.send_raw(control.seal(b""))
    gone(control, "empty")
    control, key = logged_in(fake)
    give_channel(fake, control, key)


@ours
@pytest.mark.parametrize("cut", CUTS)
def test_control_channel_cut_in_mid_frame(nk_client, cut):
    t, fake, _ = nk_client
    control, _ = logged_in(fake)
    sealed = control.seal(u32(0))
    control.send_raw(sealed[: CUTS[cut](len(sealed))])
    control.shutdown(socket.SHUT_WR)
    gone(control, cut)
    used = t.client.cpu_seconds()
    logged_in(fake)
    assert t.client.cpu_seconds() - used < within(0.2), "a spin"


@ours
@pytest.mark.parametrize("fault", [*FAULTS, "replayed", "empty"])
def test_bad_frame_for_the_service(nk_client, fault):
    """The service sees a reset behind the valid data. The session goes on, and so does the next channel."""
    t, fake, local = nk_client
    control, key = logged_in(fake)
    for _ in range(2):
        channel, record = started(fake, control, key, local)
        if fault == "replayed":
            sealed = channel.seal(b"once")
            channel.send_raw(sealed)
            wait_until(lambda: record.received == 8, within(5), "the frame the first time")
            channel.send_raw(sealed)
        elif fault == "empty":
            channel.send_raw(channel.seal(b"") + channel.seal(b"evil"))
        else:
            channel.send_raw(FAULTS[fault](channel, b"evil" * 50))
        assert record.done.wait(within(2)), "the service's connection is still open"
        assert record.end == "rst" or fault == "empty", f"the service saw {record.end}"
        assert record.data == (b"goodonce" if fault == "replayed" else b"good")
        if fault != "empty":  # an empty frame may mean a half-close
            gone(channel, fault)
        channel.close()
    channel, record = started(fake, control, key, local)
    channel.shutdown(socket.SHUT_WR)
    assert record.done.wait(within(2)) and record.end == "fin"


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_frame_in_place_of_the_command(nk_client, fault):
    """The service is not even connected to."""
    t, fake, local = nk_client
    control, key = logged_in(fake)
    channel = give_channel(fake, control, key)
    channel.send_raw(FAULTS[fault](channel, u32(0) + b"evil"))
    gone(channel, fault)
    assert not local.records
    channel, record = started(fake, control, key, local)
    assert len(local.records) == 1


@ours
@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("cut", CUTS)
def test_service_sees_a_cut_in_mid_frame(nk_client, cut, end):
    t, fake, local = nk_client
    control, key = logged_in(fake)
    for size in (1, 1000, PAYLOAD_MAX):
        channel, record = started(fake, control, key, local)
        sealed = channel.seal(bytes(size))
        channel.send_raw(sealed[: CUTS[cut](len(sealed))])
        if end == "rst":
            reset(channel)
        else:
            channel.shutdown(socket.SHUT_WR)
        assert record.done.wait(within(2)), "the service's connection is still open"
        assert (record.end, record.data) == ("rst", b"good")
    used = t.client.cpu_seconds()
    time.sleep(0.3)
    assert t.client.cpu_seconds() - used < within(0.1), "a spin"


def test_frames_of_every_size_for_the_service(nk_client):
    t, fake, local = nk_client
    control, key = logged_in(fake)
    channel, record = started(fake, control, key, local)
    sent = b"good"
    for size in (1, 2, 16, 4096, 16384, 32769, 65518, PAYLOAD_MAX, 2 * PAYLOAD_MAX + 1):
        data = os.urandom(size)
        channel.sendall(data)
        sent += data
    one_by_one(channel.sock, channel.seal(b"slowly"))
    channel.sendall(b"end", payload_max=1)
    channel.shutdown(socket.SHUT_WR)
    assert record.done.wait(within(5)) and record.end == "fin"
    assert record.data == sent + b"slowlyend"


def test_command_and_payload_split_and_joined(nk_client):
    t, fake, local = nk_client
    control, key = logged_in(fake)
    control.sendall(u32(CMD_HEARTBEAT) * 3 + u32(CMD_CREATE_DATA_CHANNEL) * 2, payload_max=3)
    for n in range(2):
        channel = fake.accept_data(key)
        if n:
            one_by_one(channel.sock, channel.seal(u32(0)) + channel.seal(b"payload"))
        else:
            channel.sendall(u32(0) + b"payload", payload_max=1)
        channel.shutdown(socket.SHUT_WR)
        record = local.wait_record(n, within(5))
        assert (record.end, record.data) == ("fin", b"payload")


# --- handshakes ---------------------------------------------------------------------------------


@pytest.fixture
def victim(tunnel, service):
    """make(noise) -> (Tunnel with only a client, the plain FakeServer)"""
    fakes = []

    def make(noise, limits=LIMITS):
        t = tunnel({"s": service(Echo).port}, transport=noise, start=False, limits=limits)
        fakes.append(FakeServer(t.control_port))
        t.start_client()
        return t, fakes[-1]

    yield make
    for fake in fakes:
        fake.close()


def serves(noise, fake):
    """Checks that the client logs in and its service answers."""
    fake.secure = noise.server
    control, key = fake.accept_login(TOKEN, timeout=within(6))
    control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
    channel = fake.accept_data(key)
    channel.sendall(u32(0) + b"hello")
    assert recv_exact(channel, 5) == b"hello"


def answer_with(fake, noise, change):
    """Reads the client's first message and answers with change(valid answer)."""
    sock = fake.accept(within(6))
    handshake = noise.handshake("server")
    step(sock, handshake, 1)
    data = change(frame(handshake.write()))
    if data:
        sock.sendall(data)
    return sock


ANSWERS = {
    "ephemeral flipped": lambda data: flipped(data, 2, 0),
    "tag flipped": lambda data: flipped(data, -1, 7),
    "garbage": lambda data: frame(os.urandom(len(data) - 2)),
    "length 0": lambda _: frame(b""),
    "length 15": lambda _: frame(bytes(15)),
    "cut": lambda data: frame(data[2:-1]),
    "http": lambda _: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + bytes(70000),
}


@pytest.mark.parametrize("what", list(ANSWERS)[:: 1 if SCALE >= 0.5 else 2])
def test_wrong_answer_to_a_handshake(victim, what):
    for noise in (Noise("NK"), Noise("XX")) if what.endswith("flipped") else (Noise("NK"),):
        t, fake = victim(noise)
        sock = answer_with(fake, noise, ANSWERS[what])
        gone(sock, what)
        serves(noise, fake)


@ours
def test_answer_cut_then_ended(victim):
    noise = Noise("NK")
    t, fake = victim(noise)
    for end in ("fin", "rst"):
        sock = answer_with(fake, noise, lambda data: data[:-1])
        if end == "rst":
            reset(sock)
        else:
            sock.shutdown(socket.SHUT_WR)
            gone(sock, "FIN in the answer")
    serves(noise, fake)


@ours
@pytest.mark.parametrize("noise", PATTERNS, indirect=True)
def test_low_order_points(victim, noise):
    """The answer is valid except that a low-order point makes a shared secret zero."""
    t, fake = victim(noise)
    t.client.kill9()
    # Start a new client for each attempt: the test need not wait for the back-off.
    for what, changes in list(points(noise, "server"))[:: 1 if SCALE >= 0.5 else 3]:
        t.start_client()
        sock = fake.accept(within(6))
        with pytest.raises((EOFError, ConnectionError)):
            secure = noise.server(sock, **changes)
            recv_exact(secure, 37)
            raise AssertionError(f"{what}: the client went on")
        t.client.kill9()
    t.start_client()
    serves(noise, fake)


@ours
@pytest.mark.slow
def test_server_that_is_silent_or_slow_in_the_handshake(victim):
    """The client tolerates a slow handshake and gives up at its deadline of 15 s. An old server that waits
    for one silent unauthenticated peer answers after 5 s, and that login must succeed."""
    noise = Noise("NK")
    late = victim(noise, PATIENT)[1].accept(within(6))
    answers = {"silent": lambda data: b"", "cut": lambda data: data[:30], "slow": lambda data: b""}
    plays, stop = [], threading.Event()
    for what, change in answers.items():
        t, fake = victim(noise, PATIENT)
        start = time.monotonic()
        sock = answer_with(fake, noise, change)
        if what == "slow":
            threading.Thread(target=drip, args=(sock, b"\x30\0" + bytes(48), 1, stop),
                             daemon=True).start()
        plays.append((what, t, fake, sock, start))
    time.sleep(0.4 * PATIENT.login)
    assert recv_exact(noise.server(late), 37) == control_hello("s")
    for what, t, fake, sock, start in plays:
        how, _ = how_closed(sock, within(PATIENT.login + 3) - (time.monotonic() - start))
        took = time.monotonic() - start
        assert how != "open" and took > 0.93 * PATIENT.login, f"{what}: {how} after {took:.1f} s"
        assert t.client.cpu_seconds() < within(0.4)
        serves(noise, fake)
    stop.set()


@pytest.mark.parametrize("noise", PATTERNS, indirect=True)
def test_answer_in_other_segments(victim, noise):
    """One byte per segment; then the last handshake message and the server's hello in one segment."""
    t, fake = victim(noise)
    nonce = os.urandom(32)
    for options in ({"write": one_by_one}, {"tail": server_hello(nonce)}):
        sock = noise.server(fake.accept(within(6)), **options)
        assert recv_exact(sock, 37) == control_hello("s")
        if "tail" not in options:
            one_by_one(sock.sock, sock.seal(server_hello(nonce)))
        assert recv_exact(sock, 32) == auth(TOKEN, nonce)
        one_by_one(sock.sock, sock.seal(u32(0)))
        sock.close()
