"""UDP through the tunnel: whole datagrams, each to its own visitor, in order.

Peers played by the test are in test_udp_server.py and test_udp_client.py, expiry and limits in
test_udp_visitors.py, failures and restarts in test_udp_restart.py.
"""

import random
import socket
import threading
import time

import pytest

from datagrams import (
    Flows, UdpEcho, UdpReport, UdpSeen, UdpVisitor, UdpWorld, knock, parse, payload,
)
from harness import free_port, scaled, within
from services import Echo, ping

SIZES = [0, 1, 2, 63, 64, 511, 1200, 1471, 1472, 1473, 2047, 2048, 2049, 4096, 8192, 9000, 16384,
         32767, 32768, 40000, 65506, 65507]


def test_one_datagram(udp):
    t, local = udp(ready=0)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.insist(b"ping", within(10)) == b"ping"
        assert all(rest == b"ping" for rest in visitor.drain())
    assert len(local.peers) == 1


@pytest.mark.ours
def test_sizes_both_ways(udp):
    """A datagram of each size arrives whole in both directions, and no other datagram with it."""
    t, _ = udp()
    with UdpVisitor(t.port()) as visitor:
        for size in SIZES + SIZES[::-1]:
            data = payload(1, size, size)
            assert visitor.ask(data, within(5)) == data, f"{size} bytes"
        assert visitor.drain() == []


@pytest.mark.ours
def test_sizes_one_way(udp):
    """Large datagrams up with a small answer, and a small question with a large answer."""
    t, _ = udp(UdpReport)
    with UdpVisitor(t.port()) as visitor:
        for size in SIZES:
            assert visitor.ask(payload(1, size, size), within(5)) == b"got %d" % size
            assert visitor.ask(b"give %d" % size, within(5)) == payload(0, size, size)
        assert visitor.drain() == []


def test_empty_datagrams_are_datagrams(udp):
    t, local = udp()
    before = local.received
    with UdpVisitor(t.port()) as visitor:
        for _ in range(20):
            assert visitor.ask(b"", within(5)) == b""
    assert local.received == before + 20


@pytest.mark.ours
def test_random_sizes(udp, threads):
    t, _ = udp(threads=threads)
    rng = random.Random(threads)
    sizes = [int(12 * 5459 ** rng.random()) for _ in range(997)]
    with Flows(t.port(), 6) as flows:
        flows.run(scaled(300, 40), size=lambda n, number: min(65507, sizes[(n + number) % 997]),
                  total=2)


def test_thousands_of_visitors(udp, threads):
    """Each visitor has its own socket at the local service, and keeps it."""
    t, local = udp(UdpSeen, threads=threads)
    count = scaled(2500, 250)
    with Flows(t.port(), count) as flows:
        flows.run(2)
        flows.run(1, size=500)
    local.check_sockets(count)


def test_each_visitor_in_order(udp, threads):
    """With several datagrams of each visitor in flight, none is lost and none overtakes another."""
    t, _ = udp(threads=threads)
    with Flows(t.port(), 8) as flows:
        flows.run(scaled(1500, 200), window=8)
        flows.run(scaled(300, 50), window=8, size=1200)


def test_order_when_too_much_comes(udp, threads):
    """More datagrams than the buffers hold: some may be lost, none is reordered, doubled or misdelivered."""
    t, _ = udp(threads=threads)
    with Flows(t.port(), 16) as flows:
        flows.run(scaled(1500, 400), window=400, total=6400, size=1000, lossy=True, patience=0.5)
        assert flows.received > 400
        time.sleep(0.2)
        flows.run(20)


def bursts(rng, count):
    """Lists of sizes as batches have them: runs of one size, a shorter last one, empty ones between."""
    for _ in range(count):
        sizes = []
        while len(sizes) < 48:
            size = rng.choice([0, 0, 1, 20, 500, 1200, 1200, 1472, 1473, 4000])
            sizes += [size] * rng.choice([1, 1, 2, 5, 17])
            if size and rng.random() < 0.5:
                sizes.append(rng.randrange(size))
        yield sizes[:48]


@pytest.mark.ours
def test_bursts_of_equal_and_other_sizes(udp):
    """Datagrams keep their boundaries, even where GSO or GRO joins them on the way."""
    t, local = udp()
    rng = random.Random(5)
    with UdpVisitor(t.port()) as visitor:
        for sizes in bursts(rng, scaled(120, 30)):
            data = [payload(1, n, size) for n, size in enumerate(sizes)]
            for each in data:
                visitor.send(each)
            assert [visitor.receive(within(5)) for _ in data] == data
            peer = next(reversed(local.peers))
            for each in reversed(data):
                local.send(each, peer)
            assert [visitor.receive(within(5)) for _ in data] == data[::-1]


@pytest.mark.ours
@pytest.mark.parametrize("size", [1, 100, 1200, 1448])
def test_visitor_that_has_the_kernel_cut(udp, size):
    """UDP_SEGMENT: one call of the visitor sends many datagrams; they may reach the server joined."""
    t, _ = udp()
    with UdpVisitor(t.port()) as visitor:
        for count, rest in ((1, 0), (2, 0), (7, size // 2), (32, 1 % size), (40, 0)):
            pieces = [payload(1, n, size) for n in range(count)]
            pieces += [payload(1, count, rest)] if rest else []
            visitor.send_joined(pieces)
            assert [visitor.receive(within(5)) for _ in pieces] == pieces


@pytest.mark.ours
@pytest.mark.parametrize("size", [1, 1448])
def test_flood_of_joined_datagrams(udp, size):
    """A flood of UDP_SEGMENT calls of maximal size: what comes back is in order and unharmed."""
    t, _ = udp()
    per_call = min(64, 65000 // size)
    with UdpVisitor(t.port()) as visitor:
        rounds = scaled(600, 100)
        pieces = [payload(1, n, size) for n in range(per_call)]
        got = []
        for _ in range(rounds):
            visitor.send_joined(pieces)
            while (data := visitor.receive(0)) is not None:
                got.append(data)
        got += visitor.drain(within(0.3))
        assert len(got) > per_call
        assert set(got) <= set(pieces)
        assert visitor.ask(b"still", within(5)) == b"still"


# --- patterns -------------------------------------------------------------------------------------


def test_like_dns(udp):
    """One socket per question, one datagram each way."""
    t, local = udp()
    before = local.received
    total = scaled(2000, 200)
    for _ in range(total // 40):
        with Flows(t.port(), 40) as flows:
            flows.run(1, size=45, total=40)
    assert local.received - before == total // 40 * 40


def test_like_quic(udp, threads):
    """Datagrams of 1200 bytes in windows, as a few bulk connections send them."""
    t, _ = udp(threads=threads)
    count = scaled(800, 100)
    with Flows(t.port(), 4) as flows:
        flows.run(count, window=12, size=1200, total=48)
        assert flows.received == 4 * count


@pytest.mark.realtime
def test_like_a_game(udp):
    """Players send small datagrams at 50 Hz, and each gets the state of the world at 50 Hz."""
    t, world = udp(UdpWorld)
    players = [UdpVisitor(t.port()) for _ in range(10)]
    seconds = 1.5
    try:
        start = time.monotonic()
        ticks = int(seconds * 50)
        states = [[] for _ in players]
        for tick in range(ticks):
            for n, player in enumerate(players):
                player.send(payload(n, tick, 60))
            while time.monotonic() < start + (tick + 1) * 0.02:
                time.sleep(0.004)
                for n, player in enumerate(players):
                    while (state := player.receive(0)) is not None:
                        states[n].append((time.monotonic(), parse(state)[1]))
        for state in states:
            numbers = [number for _, number in state]
            assert numbers == sorted(set(numbers)), "states out of order"
            # If the machine keeps the pace, a player misses only states sent before its first input.
            assert len(numbers) >= (world.number > ticks * 0.8) * ticks * 0.7
            assert numbers[-1] - numbers[0] == len(numbers) - 1, "a state was lost"
    finally:
        for player in players:
            player.close()


def test_service_pushes_without_being_asked_again(udp):
    """One question, many answers, over some time."""
    t, local = udp()
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"subscribe", within(5)) == b"subscribe"
        peer = next(reversed(local.peers))
        for n in range(200):
            local.send(payload(3, n, 900), peer)
            assert parse(visitor.receive(within(5))) == (3, n)


@pytest.mark.realtime
def test_latency_beside_a_flood(udp, service):
    """A visitor that sends as fast as it can neither delays the others nor costs them datagrams."""
    t, _ = udp()
    stop = threading.Event()

    def flood():
        with UdpVisitor(t.port()) as visitor:
            data = payload(1, 1, 1200)
            while not stop.is_set():
                for _ in range(20):
                    visitor.send(data)
                time.sleep(0.001)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        time.sleep(0.3)
        times, lost = [], 0
        visitors = [UdpVisitor(t.port()) for _ in range(8)]
        for n in range(160):
            start = time.monotonic()
            if visitors[n % 8].ask(b"%8d" % n, within(0.5)) != b"%8d" % n:
                visitors[n % 8].drain(0.01)
                lost += 1
            times.append(time.monotonic() - start)
        for visitor in visitors:
            visitor.close()
    finally:
        stop.set()
        thread.join()
    times.sort()
    assert times[80] < within(0.1), f"median round trip {times[80]:.3f} s beside a flood"
    assert lost <= 40, f"{lost} of 160 lost beside a flood"


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.ours
def test_replies_leave_from_the_address_that_was_used(udp):
    """The server is bound to all addresses; a connected socket accepts answers only from the one it asked."""
    t, _ = udp(visitor_host="0.0.0.0")
    for host in ("127.0.0.2", "127.0.0.1", "127.77.3.9"):
        knock(t.port(), host, 4)
        with UdpVisitor(t.port(), host) as visitor:
            for size in (0, 1, 1200, 30000, 65507):
                data = payload(1, size, size)
                assert visitor.ask(data, within(5)) == data


@pytest.mark.ours
def test_one_visitor_that_uses_two_addresses(udp):
    t, _ = udp(visitor_host="0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
        visitor.settimeout(within(5))
        for n in range(20):
            host = f"127.0.0.{2 + n % 3}"
            visitor.sendto(b"%d" % n, (host, t.port()))
            assert visitor.recvfrom(100) == (b"%d" % n, (host, t.port()))


def test_ipv6_visitors(udp):
    t, _ = udp(visitor_host="[::1]", knock_at="::1")
    with Flows(t.port(), 20, "::1") as flows:
        flows.run(10, window=2, size=700)


@pytest.mark.ours
def test_dual_stack(udp):
    """[::] serves both families. On the wire a v4 visitor is v4-mapped; the visitor does not notice."""
    t, _ = udp(visitor_host="[::]")
    for host in ("127.0.0.1", "::1", "127.0.0.2"):
        knock(t.port(), host, 8)
        with UdpVisitor(t.port(), host) as visitor:
            for size in (0, 1, 1200, 9000, 65507):
                data = payload(1, size, size)
                assert visitor.ask(data, within(5)) == data, f"{size} bytes by way of {host}"
    with Flows(t.port(), 20, "127.0.0.2") as old, Flows(t.port(), 20, "::1") as new:
        for _ in range(5):
            old.run(2)
            new.run(2)


@pytest.mark.ours
def test_datagrams_that_ipv4_cannot_carry(udp):
    """An IPv6 visitor may send 65527 bytes, an IPv4 service takes 65507: dropped, not cut."""
    t, local = udp(visitor_host="[::1]", knock_at="::1")
    with UdpVisitor(t.port(), "::1") as visitor:
        assert visitor.ask(b"x" * 65507, within(5)) == b"x" * 65507
        before = local.received
        for size in (65508, 65520, 65527):
            visitor.send(b"x" * size)
        assert visitor.ask(b"after", within(5)) == b"after"
        assert visitor.drain() == []
        assert local.received == before + 1


def test_ipv6_local_service(tunnel, service, transport):
    local = service(UdpEcho, "::1")
    t = tunnel({"echo": local.port}, udp=True, local_host="[::1]", transport=transport)
    knock(t.port())
    with Flows(t.port(), 10) as flows:
        flows.run(10, window=2, size=1200)


def test_local_service_by_name(udp):
    """The name is resolved outside the event loop: visitors see a short delay, and nothing else."""
    t, _ = udp(local_host="localhost", ready=0)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.insist(b"hello", within(10)) == b"hello"
    knock(t.port())
    with Flows(t.port(), 100) as flows:
        flows.run(2)


def test_several_services(tunnel, service, transport):
    """Several UDP services and a TCP service; one of the UDP ports has the same number as the TCP port."""
    class Named(UdpEcho):
        def handle(self, data, peer):
            self.send(b"%d %s" % (self.port, data), peer)

    udp_names = [f"udp{n}" for n in range(5)]
    services = {name: service(Named).port for name in udp_names}
    services["tcp0"] = service(Echo).port
    t = tunnel(services, udp=udp_names, transport=transport, start=False)
    port = free_port()
    t.ports["tcp0"] = t.ports["udp0"] = port
    t.start()
    for name in udp_names:
        knock(t.port(name))
    for _ in range(10):
        ping(port)
        for name in udp_names:
            with UdpVisitor(t.port(name)) as visitor:
                assert visitor.ask(b"q", within(5)) == b"%d q" % services[name]
