"""Tests of noise_peer.py itself, against published test vectors and against rathole."""

import json
import socket
import threading

import pytest

from harness import RATHOLE, ROOT, TOKEN, have, within
from noise_peer import (
    LOW_ORDER, PATTERNS, Cipher, Handshake, KeyPair, LowOrderKey, Noise, NoiseError, flipped,
    one_by_one,
)
from protocol import (
    CMD_CREATE_DATA_CHANNEL, FakeServer, Session, connect, how_closed, recv_exact, u32,
)
from services import Echo

VECTORS = json.loads((ROOT / "tests/crypto/noise_vectors.json").read_text())["vectors"]
needs_rathole = pytest.mark.skipif(
    not have(RATHOLE), reason="rathole 0.5.0 not found: scripts/setup --peers installs it")


@pytest.fixture(params=PATTERNS)
def noise(request):
    return Noise(request.param)


def of_vector(vector, role):
    def raw(key):
        return bytes.fromhex(vector[key]) if key in vector else None

    other = {"initiator": "responder", "responder": "initiator"}[role]
    static = raw(f"{role}_static_private")
    return Handshake(
        vector["protocol_name"].split("_")[1], role == "initiator",
        static=KeyPair(static) if static else None,
        remote=raw(f"{role}_known_{other}_static_public"),
        ephemeral=KeyPair(raw(f"{role}_ephemeral_private")), prologue=raw(f"{role}_prologue"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: "-".join(
    (v["protocol_name"].split("_")[1], v["source"].rsplit("/")[-1].split(".")[0])))
def test_vectors(vector):
    ends = {role: of_vector(vector, role) for role in ("initiator", "responder")}
    ciphers = None
    for n, message in enumerate(vector["messages"]):
        payload, expected = (bytes.fromhex(message[key]) for key in ("payload", "ciphertext"))
        sender = ("initiator", "responder")[n % 2]
        receiver = ("responder", "initiator")[n % 2]
        if not ends[sender].done():
            assert ends[sender].write(payload) == expected
            assert ends[receiver].read(expected) == payload
            continue
        ciphers = ciphers or {role: end.split() for role, end in ends.items()}
        assert ciphers[sender][0].encrypt(payload) == expected
        assert ciphers[receiver][1].decrypt(expected) == payload
    assert ends["initiator"].hash == ends["responder"].hash
    if "handshake_hash" in vector:
        assert ends["initiator"].hash.hex() == vector["handshake_hash"]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_such(point):
    with pytest.raises(ValueError):  # the library refuses a shared secret of zeros
        KeyPair().exchange(LOW_ORDER[point])


def connected(noise):
    """Two NoiseSockets that have shaken hands."""
    ours, theirs = socket.socketpair()
    made = []
    thread = threading.Thread(target=lambda: made.append(noise.server(theirs)))
    thread.start()
    client = noise.client(ours)
    thread.join(within(5))
    return client, made[0]


def test_sockets_and_their_faults(noise):
    client, server = connected(noise)
    with client, server:
        client.sendall(b"a" * 200_000)
        assert recv_exact(server, 200_000) == b"a" * 200_000
        assert max(server.frames) == 65519
        server.sendall(b"b" * 100, payload_max=30)
        assert recv_exact(client, 100) == b"b" * 100 and client.frames == [30, 30, 30, 10]
        one_by_one(client.sock, client.seal(b"slowly"))
        assert recv_exact(server, 6) == b"slowly"
        client.send_raw(flipped(client.seal(b"forged"), 4))
        with pytest.raises(NoiseError):
            server.recv(1)
        server.send_raw(server.seal(b"cut")[:-1])
        server.close()
        with pytest.raises(NoiseError):
            client.recv(1)


def test_counter_and_wrong_keys():
    sender, receiver = Cipher(bytes(32)), Cipher(bytes(32), nonce=1)
    with pytest.raises(NoiseError):
        receiver.decrypt(sender.encrypt(b"x"))
    assert Cipher(bytes(32), nonce=1).decrypt(sender.encrypt(b"y")) == b"y"


@needs_rathole
def test_as_client_of_rathole(tunnel, service, noise):
    t = tunnel({"s": None}, server=RATHOLE, client=RATHOLE, transport=noise, start=False)
    t.start_server()
    with Session(t.control_port, "s", TOKEN, secure=noise.client) as session:
        assert session.command(within(2)) == CMD_CREATE_DATA_CHANNEL
        t.wait_ready(names=["s"])
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"up")
            assert recv_exact(channel, 6) == u32(0) + b"up"
            channel.sendall(b"down")
            assert recv_exact(visitor, 4) == b"down"
            channel.close()
            assert how_closed(visitor, within(5)) == ("fin", b"")


@needs_rathole
def test_as_server_of_rathole(tunnel, service, noise):
    t = tunnel({"s": service(Echo).port}, server=RATHOLE, client=RATHOLE, transport=noise,
               start=False)
    with FakeServer(t.control_port, secure=noise.server) as fake:
        t.start_client()
        control, key = fake.accept_login(TOKEN)
        control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
        channel = fake.accept_data(key)
        channel.sendall(u32(0) + b"hello")
        assert recv_exact(channel, 5) == b"hello"


@needs_rathole
def test_low_order_handshake_is_right_but_for_the_point(tunnel):
    """rathole does not check for an all-zero secret. It accepts, so only the point is wrong here."""
    noise = Noise("NK")
    t = tunnel({"s": None}, server=RATHOLE, client=RATHOLE, transport=noise, start=False)
    t.start_server()
    for point in LOW_ORDER.values():
        sock = connect(t.control_port)
        with noise.client(sock, ephemeral=LowOrderKey(point)) as secure:
            assert secure.handshake.done()
