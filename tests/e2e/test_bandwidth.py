"""Limits of the bandwidth: bandwidth and connection_bandwidth, TCP and UDP.

The bounds are upper ones: never more bytes than the rate has in the time, plus a burst. How close to
the rate a transfer comes depends on the machine, so bench/run measures that (suite limits).
"""

import hashlib
import pathlib
import socket
import threading
import time

import pytest

from datagrams import UdpEcho, UdpVisitor, knock, payload
from harness import SANITIZED, scaled, wait_until, within
from noise_peer import Noise
from protocol import connect, recv_exact
from services import AfterEof, Digest, Source, digest_of, pattern, transfer
from test_reload import LIMITS, Files, settled
from upgrades import upgrade

pytestmark = pytest.mark.ours

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "bandwidth.ini"
MBIT = 1_000_000
# 20 ms of credit, 10 ms of a quantum, a frame of 64 KiB that counts when it is whole, and the slack of
# a clock that is read in another process.
BURST_S, BURST_BYTES = 0.05, 70_000


def most(bits_per_s, seconds):
    """The bytes that may pass in that time."""
    return bits_per_s / 8 * (seconds + BURST_S) + BURST_BYTES


def least_seconds(bits_per_s, size):
    return max(0, (size - BURST_BYTES) * 8 / bits_per_s - BURST_S)


def limited(**options):
    return {"service_options": {"limited": options}}


@pytest.mark.parametrize("way", ["up", "down", "both"])
@pytest.mark.parametrize("key", ["bandwidth", "connection_bandwidth"])
@pytest.mark.parametrize("secure", [None, "NK"], ids=["tcp", "noise"])
def test_a_transfer_keeps_to_the_limit(tunnel, service, key, way, secure):
    """Each direction by itself, and no byte is lost or doubled."""
    size = 700_000
    t = tunnel({"limited": service(Digest).port}, transport=secure and Noise(secure),
               **limited(**{key: "8M"}))
    begin = time.monotonic()
    transfer(t.port("limited"), 1, size if way != "down" else 0, size if way != "up" else 0,
             timeout=within(30))
    took = time.monotonic() - begin
    assert took >= least_seconds(8 * MBIT, size)


def download(port, seconds, into, begun=None):
    """Reads for that long; adds (bytes, from, until) to the list `into`."""
    with connect(port) as sock:
        sock.settimeout(within(20))
        begin, got = time.monotonic(), 0
        if begun:
            begun.set()
        while time.monotonic() - begin < seconds:
            got += len(sock.recv(1 << 16))
        into.append((got, begin, time.monotonic()))


def test_connections_share_the_limit_of_a_service(tunnel, service):
    t = tunnel({"limited": service(Source).port}, **limited(bandwidth="16M"))
    came = []
    readers = [threading.Thread(target=download, args=(t.port("limited"), 1.5, came))
               for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(within(30))
    assert len(came) == 6
    seconds = max(until for _, _, until in came) - min(begin for _, begin, _ in came)
    assert sum(got for got, _, _ in came) <= most(16 * MBIT, seconds) + 5 * 4096
    assert all(got > 0 for got, _, _ in came), "one was starved"


def test_each_connection_has_a_limit_of_its_own(tunnel, service):
    t = tunnel({"limited": service(Source).port}, **limited(connection_bandwidth="4M"))
    came = []
    readers = [threading.Thread(target=download, args=(t.port("limited"), 1, came)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(within(30))
    for got, begin, until in came:
        assert 0 < got <= most(4 * MBIT, until - begin)


def test_another_service_has_no_limit(tunnel, service):
    """While one stream waits for its turns, one beside it moves far more than the limit has."""
    t = tunnel({"limited": service(Source).port, "free": service(Digest).port},
               **limited(bandwidth="64k"))
    came, begun = [], threading.Event()
    reader = threading.Thread(target=download, args=(t.port("limited"), 1, came, begun))
    reader.start()
    assert begun.wait(within(10))
    transfer(t.port("free"), 2, 8 << 20, 8 << 20, timeout=within(30))
    reader.join(within(30))
    (got, begin, until), = came
    assert got <= most(64_000, until - begin)


def test_short_connections_can_not_pass_by(tunnel, service):
    """The bytes of many connections that are over before they have to wait count too."""
    size, count = 12_000, scaled(40, 20)
    t = tunnel({"limited": service(Digest).port}, **limited(bandwidth="1M"))
    begin = time.monotonic()
    for seed in range(count):
        transfer(t.port("limited"), seed, size, size, timeout=within(30))
    assert time.monotonic() - begin >= least_seconds(1 * MBIT, size * count)


def test_a_connection_that_waits_is_not_idle(tunnel, service):
    """At 64 kbit/s a read of 4 KiB is followed by a wait of half a second."""
    t = tunnel({"limited": service(Digest).port},
               **limited(connection_bandwidth="64k", idle_timeout=0.2))
    transfer(t.port("limited"), 3, 20_000, 20_000, timeout=within(30))
    assert t.server.metric("relays_idle_timeout") == 0


def test_half_close(tunnel, service):
    """The visitor ends its side at once; its bytes wait for their turns, and the answer comes."""
    local = service(AfterEof, 300_000)
    t = tunnel({"limited": local.port}, **limited(connection_bandwidth="4M"))
    begin = time.monotonic()
    with connect(t.port("limited")) as sock:
        sock.settimeout(within(20))
        parts = pattern(7, 300_000)
        for part in parts:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        assert recv_exact(sock, 32) == digest_of(parts)
        assert time.monotonic() - begin >= least_seconds(4 * MBIT, 300_000)
        body = recv_exact(sock, 300_000)
        assert sock.recv(1) == b""
    assert hashlib.sha256(body).digest() == digest_of(pattern(4, 300_000))
    assert time.monotonic() - begin >= least_seconds(4 * MBIT, 300_000) * 2


# --- reload, upgrade, memory --------------------------------------------------------------------


def test_reload_lifts_a_limit(tunnel, service):
    """An open connection, in the middle of a wait: 1 MB would take two minutes."""
    t = tunnel({"limited": service(Digest).port}, limits=LIMITS,
               **limited(connection_bandwidth="64k"))
    right = []
    mover = threading.Thread(target=lambda: right.append(
        transfer(t.port("limited"), 4, 1_000_000, 1_000_000, timeout=within(30))))
    mover.start()
    wait_until(lambda: t.server.metric("bytes_copied") >= 8192, within(10), "the first bytes")
    t.service_options["limited"] = {}
    settled(t.server, lambda: Files(t).write("server"))
    mover.join(within(30))
    assert right == [None]


def test_reload_sets_and_changes_a_limit(tunnel, service):
    t = tunnel({"limited": service(Source).port}, limits=LIMITS)
    with connect(t.port("limited")) as sock:
        sock.settimeout(within(10))

        def read_for(seconds):
            got, begin = 0, time.monotonic()
            while time.monotonic() - begin < seconds:
                got += len(sock.recv(1 << 16))
            return got, time.monotonic() - begin

        read_for(0.2)
        for bits_per_s, options in ((8 * MBIT, {"connection_bandwidth": "8M"}),
                                    (2 * MBIT, {"bandwidth": "2M"})):
            t.service_options["limited"] = options
            settled(t.server, lambda: Files(t).write("server"))
            end = time.monotonic() + within(20)  # what is on its way already comes first
            while read_for(0.5)[0] > most(bits_per_s, 0.5):
                assert time.monotonic() < end, "the limit is not in force"
            got, seconds = read_for(1)
            assert 0 < got <= most(bits_per_s, seconds)
    assert t.server.metric("relays_aborted") == 0


def test_upgrade(tunnel, service, processes):
    """The old process keeps its relays, with their limit."""
    t = tunnel({"limited": service(Digest).port}, **limited(connection_bandwidth="2M"))
    t.kept = processes
    right, begin = [], time.monotonic()
    mover = threading.Thread(target=lambda: right.append(
        transfer(t.port("limited"), 5, 500_000, 500_000, timeout=within(30))))
    mover.start()
    wait_until(lambda: t.server.metric("bytes_copied") > 0, within(10), "the first bytes")
    old, _ = upgrade(t)
    mover.join(within(30))
    assert right == [None]
    assert time.monotonic() - begin >= least_seconds(2 * MBIT, 500_000)
    wait_until(lambda: not old.alive(), within(10), "the end of the old process")
    transfer(t.port("limited"), 6, 10_000, 10_000, timeout=within(10))


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's memory is its own")
def test_many_that_wait_cost_little(tunnel, service):
    """A flow that waits holds no buffer and no pipe: its bytes stay in the kernel."""
    count = scaled(400, 100)
    t = tunnel({"limited": service(Source).port}, **limited(bandwidth="1M"),
               server_options={"drain_timeout": 0})
    with connect(t.port("limited")) as first:
        recv_exact(first, 4096)
        before = t.server.private_kib()
        visitors = [connect(t.port("limited")) for _ in range(count)]
        wait_until(lambda: t.server.metric("relays_started") == count + 1, within(30), "the relays")
        time.sleep(0.5)
        assert t.server.private_kib() - before <= count * 2 + 1024
        for visitor in visitors:
            visitor.close()


def test_the_example(tunnel, service):
    """examples/bandwidth.ini as it stands, but for the ports and the numbers' size."""
    t = tunnel({"files": service(Digest).port, "ssh": service(Digest).port}, start=False, token="change-me")
    text = EXAMPLE.read_text()
    for old, new in (("2333", t.control_port), ("8080", t.port("files")), ("6022", t.port("ssh"))):
        assert text.count(f"127.0.0.1:{old}") == 1
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    t.start_server(text=text)
    t.start_client()
    t.wait_ready()
    begin = time.monotonic()
    transfer(t.port("files"), 8, 2_000_000, 2_000_000, timeout=within(30))
    assert time.monotonic() - begin >= least_seconds(20 * MBIT, 2_000_000)
    transfer(t.port("ssh"), 9, 2_000_000, 2_000_000, timeout=within(30))


# --- UDP ----------------------------------------------------------------------------------------


def flood(visitor, seconds):
    """Datagrams of 1,000 bytes, far more than the limit has; (bytes that came back, seconds)."""
    begin, got, number = time.monotonic(), 0, 0
    while time.monotonic() - begin < seconds:
        for _ in range(20):
            visitor.send(payload(1, number, 1000))
            number += 1
        while (data := visitor.receive(0.01)) is not None:
            got += len(data)
    return got, time.monotonic() - begin


@pytest.mark.parametrize("key", ["bandwidth", "connection_bandwidth"])
def test_datagrams_beyond_the_limit_are_dropped(tunnel, service, key):
    t = tunnel({"limited": service(UdpEcho).port}, udp=True, **limited(**{key: "800k"}))
    knock(t.port("limited"))
    with UdpVisitor(t.port("limited")) as visitor:
        got, seconds = flood(visitor, 1)
    assert 0 < got <= most(800_000, seconds)
    assert t.server.metric("udp_dropped_bandwidth") > 0


def test_datagrams_joined_by_the_kernel_are_dropped_one_by_one(tunnel, service):
    """The first ones of a segmented send pass, the others do not, and each is counted."""
    t = tunnel({"limited": service(UdpEcho).port}, udp=True, threads=1,
               **limited(connection_bandwidth="8k"))
    knock(t.port("limited"))
    with UdpVisitor(t.port("limited")) as visitor:
        visitor.send_joined([payload(1, n, 1000) for n in range(10)])
        assert visitor.receive(within(5)) == payload(1, 0, 1000)
        assert visitor.drain() == []
    assert t.server.metric("udp_dropped_bandwidth") == 9


def test_a_flooding_visitor_takes_nothing_from_others(tunnel, service):
    t = tunnel({"limited": service(UdpEcho).port}, udp=True,
               **limited(bandwidth="4M", connection_bandwidth="800k"))
    knock(t.port("limited"))
    with UdpVisitor(t.port("limited")) as loud, UdpVisitor(t.port("limited")) as quiet:
        for number in range(10):
            flood(loud, 0.05)
            assert quiet.insist(payload(2, number, 100), within(5)) is not None


def test_reload_of_a_udp_service(tunnel, service):
    """A large datagram at a low rate leaves a debt of 8 s; a reload forgives it."""
    t = tunnel({"limited": service(UdpEcho).port}, udp=True, limits=LIMITS,
               **limited(connection_bandwidth="8k"))
    knock(t.port("limited"))
    with UdpVisitor(t.port("limited")) as visitor:
        assert visitor.ask(payload(3, 1, 8000), within(5)) == payload(3, 1, 8000)
        visitor.send(payload(3, 2, 100))
        wait_until(lambda: t.server.metric("udp_dropped_bandwidth") > 0, within(5), "a drop")
        t.service_options["limited"] = {"connection_bandwidth": "1M"}
        settled(t.server, lambda: Files(t).write("server"))
        assert visitor.insist(payload(3, 3, 100), within(2)) == payload(3, 3, 100)
