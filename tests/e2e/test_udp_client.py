"""Our client's UDP channels against a server that is played here: wrong frames, many channels, a
server that does not read, a local service that is not there.
"""

import contextlib
import time

import pytest

from datagrams import UdpEcho, payload
from harness import SANITIZED, TOKEN, wait_until, within
from played import PlayedServer, drops, header_of
from protocol import DATA_CMD_FORWARD_TCP, u32, udp_frame

pytestmark = pytest.mark.ours


@pytest.fixture
def client(tunnel, service):
    """make() -> (a Tunnel whose client runs with the UDP service `s`, a played server, an echo)."""
    made = []

    def make(threads=2, kind=UdpEcho, **options):
        local = service(kind)
        t = tunnel({"s": local.port}, start=False, udp=True, threads=threads,
                   client_service_options={"s": options})
        server = PlayedServer(t.control_port, TOKEN)
        made.append(server)
        t.start_client()
        server.login(within(10))
        return t, server, local

    yield make
    for each in made:
        each.close()


def test_a_played_server_works(client):
    t, server, local = client()
    channel = server.open_udp()
    for n in range(20):
        visitor = ("192.0.2.1", 1000 + n)
        channel.send(visitor, payload(n, 0, 500))
        assert channel.next_frame(within(5)) == (visitor, payload(n, 0, 500))
    assert len(local.peers) == 20


@pytest.mark.parametrize("visitor", [
    ("0.0.0.0", 0), ("255.255.255.255", 65535), ("127.0.0.1", 1), ("::", 0), ("::1", 1),
    ("::ffff:10.0.0.1", 53), ("ff02::1", 5353), ("2001:db8::ffff", 65535)])
def test_visitor_is_an_opaque_key(client, visitor):
    _, server, _ = client()
    channel = server.open_udp()
    for size in (0, 1, 2049, 65507):
        channel.send(visitor, b"k" * size)
        assert channel.next_frame(within(5)) == (visitor, b"k" * size)


def test_mapped_and_plain_addresses_are_two_visitors(client):
    _, server, local = client()
    channel = server.open_udp()
    for visitor in (("10.0.0.1", 7), ("::ffff:10.0.0.1", 7), ("10.0.0.1", 8)):
        channel.send(visitor, b"x")
        assert channel.next_frame(within(5)) == (visitor, b"x")
    assert len(local.peers) == 3


def test_every_header_size_towards_the_client(client):
    """A header that is too short ends its channel and no other. In a longer one, the rest is ignored."""
    t, server, _ = client()
    steady = server.open_udp()
    steady.send(("192.0.2.9", 9), b"steady")
    assert steady.next_frame(within(5)) == (("192.0.2.9", 9), b"steady")
    channel = server.open_udp()
    visitor = ("192.0.2.1", 4242)
    for size in range(256):
        data = b"size %d" % size
        channel.write(bytes([size]) + header_of(size, visitor, len(data)) + data)
        if size >= 12:
            assert channel.next_frame(within(5)) == (visitor, data), f"header of {size} bytes"
        else:
            channel.expect_end(within(5))
            channel = server.open_udp()
    for tag in (2, 255, 0xFFFFFFFF):
        channel.send(visitor, b"bad", tag=tag)
        channel.expect_end(within(5))
        channel = server.open_udp()
    visitor = ("2001:db8::1", 4242)
    for size in (12, 23, 24, 25, 255):
        data = b"size %d" % size
        channel.write(bytes([size]) + header_of(size, visitor, len(data)) + data)
        if size >= 24:
            assert channel.next_frame(within(5)) == (visitor, data), f"header of {size} bytes"
        else:
            channel.expect_end(within(5))
            channel = server.open_udp()
    steady.send(("192.0.2.9", 9), b"still")
    assert steady.next_frame(within(5)) == (("192.0.2.9", 9), b"still")
    assert server.still_logged_in()


@pytest.mark.parametrize("size", [65508, 65520, 65535])
def test_datagram_too_long_for_the_local_service(client, size):
    """The client drops and counts the datagram; the same visitor goes on."""
    t, server, local = client()
    channel = server.open_udp()
    visitor = ("192.0.2.1", 4242)
    before = drops(t.client)
    for n in range(5):
        channel.write(udp_frame(visitor, b"b" * size) + udp_frame(visitor, b"good %d" % n))
        assert channel.next_frame(within(5)) == (visitor, b"good %d" % n)
    assert drops(t.client) - before == 5
    assert len(local.peers) == 1


def test_frames_in_any_pieces_towards_the_client(client):
    _, server, _ = client()
    channel = server.open_udp()
    visitors = [("192.0.2.1", 1), ("2001:db8::2", 2), ("192.0.2.3", 3)]
    frames = [(visitor, payload(n, n, 12 + n)) for n, visitor in enumerate(visitors)]
    wire = b"".join(udp_frame(*frame, trailing=b"t" * n) for n, frame in enumerate(frames))
    for byte in range(len(wire)):
        channel.write(wire[byte : byte + 1])
    assert sorted(channel.next_frame(within(5)) for _ in frames) == sorted(frames)
    channel.write(wire * 40)
    got = [channel.next_frame(within(5)) for _ in range(120)]
    assert {frame: got.count(frame) for frame in frames} == dict.fromkeys(frames, 40)
    for cut in range(1, len(wire)):
        channel.write(wire[:cut])
        time.sleep(0.001)
        channel.write(wire[cut:])
        assert sorted(channel.next_frame(within(5)) for _ in frames) == sorted(frames)


def test_command_and_frames_in_one_segment(client):
    _, server, _ = client()
    visitor = ("192.0.2.1", 1)
    frames = b"".join(udp_frame(visitor, b"%d" % n) for n in range(10))
    channel = server.open_udp(frames)
    assert [channel.next_frame(within(5)) for _ in range(10)] == \
        [(visitor, b"%d" % n) for n in range(10)]


def test_several_channels_at_once(client, threads):
    """A server with lanes asks for several; the same visitor on two channels counts as two visitors."""
    t, server, local = client(threads)
    channels = [server.open_udp() for _ in range(8)]
    for _ in range(3):
        for n, channel in enumerate(channels):
            for visitor in (("192.0.2.1", 1), ("192.0.2.2", 100 + n)):
                channel.send(visitor, b"on %d" % n)
        for n, channel in enumerate(channels):
            got = [channel.next_frame(within(5)) for _ in range(2)]
            assert sorted(got) == [(("192.0.2.1", 1), b"on %d" % n),
                                   (("192.0.2.2", 100 + n), b"on %d" % n)]
    assert len(local.peers) == 16
    fds = t.client.settled_fds()
    for channel in channels:
        channel.close()
    # rathole's server gives no other sign: the sockets of the visitors go with their channel, or
    # when they have been idle for long enough.
    assert server.still_logged_in()
    assert fds


def test_second_channel_that_is_never_started(client):
    """rathole's server parks it for ever: no harm, and it can still be started later."""
    _, server, _ = client()
    parked = server.open_data()
    channel = server.open_udp()
    time.sleep(0.5)
    for n in range(10):
        channel.send(("192.0.2.1", 1), b"%d" % n)
        assert channel.next_frame(within(5)) == (("192.0.2.1", 1), b"%d" % n)
    second = server.start_udp(parked)
    second.send(("192.0.2.1", 1), b"late start")
    assert second.next_frame(within(5)) == (("192.0.2.1", 1), b"late start")


def test_wrong_command_for_a_udp_service(client):
    _, server, local = client()
    for command in (DATA_CMD_FORWARD_TCP, 2, 0xFFFFFFFF):
        channel = server.open_data()
        channel.sendall(u32(command) + udp_frame(("192.0.2.1", 1), b"x"))
        channel.settimeout(within(5))
        with contextlib.suppress(ConnectionResetError):
            assert channel.recv(100) == b""
    assert local.received == 0
    channel = server.open_udp()
    channel.send(("192.0.2.1", 1), b"right")
    assert channel.next_frame(within(5)) == (("192.0.2.1", 1), b"right")


def test_closed_channel_frees_its_visitors(client):
    t, server, local = client(udp_timeout=1)
    base = t.client.settled_fds()
    for end in ("fin", "rst"):
        channel = server.open_udp()
        for n in range(50):
            channel.send(("192.0.2.1", 1 + n), b"x")
        for _ in range(50):
            channel.next_frame(within(5))
        assert t.client.fds() >= base + 50
        channel.reset() if end == "rst" else channel.close()
        t.client.wait_fds(base, within(8))
    assert server.still_logged_in()


def test_client_reads_on_while_its_own_writes_are_stuck(client):
    """A server whose own writes are stuck depends on this (protocol.md 4.3)."""
    t, server, local = client()
    channel = server.open_udp(read=False)
    local.handle = lambda data, peer: [local.send(b"r" * 8000, peer) for _ in range(4)]
    rss = t.client.rss_kib()
    count = 3000
    data = payload(1, 1, 1000)
    before = local.received
    for n in range(count // 20):
        channel.write(b"".join(udp_frame(("192.0.2.1", 1 + n % 5), data) for _ in range(20)))
        time.sleep(0.001)
    wait_until(lambda: local.received - before > count * 0.5, within(10),
               lambda: f"{local.received - before} of {count} datagrams at the service")
    grown = t.client.rss_kib() - rss
    assert SANITIZED or grown < 8 * 1024, f"{grown} KiB more for a server that does not read"
    local.wait_quiet()  # what is still queued there would be echoed, not answered
    del local.handle
    channel.start_reading()
    wait_until(lambda: channel.frames, within(5), "the answers that were queued")
    channel.frames.clear()
    deadline = time.monotonic() + within(10)
    while (("192.0.2.77", 7), b"after") not in channel.frames:
        assert time.monotonic() < deadline, "the channel does not recover"
        channel.send(("192.0.2.77", 7), b"after")
        time.sleep(0.05)
    assert all(data in (b"after", b"r" * 8000) for _, data in list(channel.frames))


def test_service_that_is_down_costs_nothing_but_its_datagrams(client):
    """The client tries with each datagram and is refused; it serves at once when the service is up."""
    t, server, local = client()
    port = local.port
    channel = server.open_udp()
    visitor = ("192.0.2.1", 1)
    channel.send(visitor, b"up")
    assert channel.next_frame(within(5)) == (visitor, b"up")
    local.stop()
    fds = t.client.settled_fds()
    cpu = t.client.cpu_seconds()
    for _ in range(200):
        channel.send(visitor, b"down")
        time.sleep(0.002)
    assert t.client.fds() <= fds + 1
    assert t.client.cpu_seconds() - cpu < within(0.5)
    again = UdpEcho(port)
    try:
        deadline = time.monotonic() + within(5)
        while (visitor, b"back") not in channel.frames:
            assert time.monotonic() < deadline, "the service is back, its answers are not"
            channel.send(visitor, b"back")
            time.sleep(0.05)
        # What was on its way as the service came back is answered too: with 2 ms between two, a few.
        assert channel.frames.count((visitor, b"down")) < 100, channel.frames
    finally:
        again.stop()
