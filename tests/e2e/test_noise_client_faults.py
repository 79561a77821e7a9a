"""Frames that are forged, cut, reordered or replayed, towards our client.

What must hold everywhere: the connection ends at the first bad frame, nothing of it is delivered,
and who is behind the tunnel sees a reset, never an end of stream that looks like success. Covers
src/net/stream_noise.c.
"""

import os
import socket
import time

import pytest

from harness import TOKEN, wait_until, within
from noise_faults import CUTS, FAULTS, SOME_FAULTS, gone, with_patterns
from noise_peer import PAYLOAD_MAX, Noise, one_by_one
from protocol import (
    CMD_CREATE_DATA_CHANNEL, CMD_HEARTBEAT, FakeServer, control_hello, recv_exact, reset, u32,
)
from services import Service

ours = pytest.mark.ours  # the others hold for rathole too, and pass with E2E_PAIR=rathole/rathole


class Keep(Service):
    """Keeps what comes in record.data, and the socket in record.sock to answer with."""

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
    """(Tunnel with a client alone, FakeServer, its local service)"""
    yield from _client(tunnel, service, noise)


@pytest.fixture
def nk_client(tunnel, service):
    yield from _client(tunnel, service, Noise("NK"))


def _client(tunnel, service, noise):
    local = service(Keep)
    t = tunnel({"s": local.port}, transport=noise, start=False)
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
    """(data channel, what the service has of it), with `good` delivered."""
    before = len(local.records)
    channel = give_channel(fake, control, key)
    channel.sendall(u32(0) + b"good")
    local.wait_connections(before + 1, within(5))
    record = local.records[before]
    wait_until(lambda: record.received == 4, within(5), "the first bytes")
    return channel, record


@with_patterns(SOME_FAULTS)
def test_bad_frame_in_the_answer_to_a_login(client, fault):
    """The client gives this connection up, and tries again as after any failure."""
    t, fake, _ = client
    sock = fake.accept(within(6))
    recv_exact(sock, 37)
    sock.send_raw(FAULTS[fault](sock, control_hello("s")))  # as long as the server's
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
    """The service sees a reset behind what was right; the session and the next channel live."""
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
        if fault != "empty":  # which may be half a close
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
