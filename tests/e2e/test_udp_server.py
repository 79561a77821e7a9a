"""Our server's UDP lanes against a client that is played here: wrong frames, channels that end, and
channels that the client does not read.

What must hold: a bad frame is dropped, at worst with its channel; a lane without a channel requests
one; the service goes on and no queue grows without bound.
"""

import contextlib
import threading
import time

import pytest

from datagrams import Flows, UdpVisitor, knock, parse, payload
from harness import SANITIZED, TOKEN, is_bound, unread_bytes, wait_until, within
from played import PlayedClient, channel_of, drops, header_of, visitor_of_each
from protocol import udp_frame

pytestmark = pytest.mark.ours

STRANGER = ("127.0.0.1", 9)  # has never sent anything


@pytest.fixture
def server(tunnel):
    """make(lanes) -> a Tunnel whose server runs with the UDP service `s`; the client is played."""

    def make(lanes=2, threads=2, **kwargs):
        t = tunnel({"s": None}, start=False, udp=True, threads=threads,
                   service_options={"s": {"udp_data_channels": lanes}}, **kwargs)
        t.start_server()
        wait_until(lambda: is_bound(t.port("s")), within(3), "the port")  # bound after the control port
        return t

    return make


@contextlib.contextmanager
def playing(t, lanes=2, **kwargs):
    with PlayedClient(t.control_port, "s", TOKEN, **kwargs) as client:
        wait_until(lambda: len(client.live()) >= lanes, within(5), f"{lanes} lanes")
        yield client


def fresh(t, timeout=5):
    """A new visitor, once its first answer has arrived."""
    visitor = UdpVisitor(t.port("s"))
    assert visitor.insist(b"hello", within(timeout)) == b"hello"
    visitor.drain(0.02)
    return visitor


def test_a_played_client_works(server):
    t = server()
    with playing(t) as client:
        assert client.requests == 2
        knock(t.port("s"))
        with Flows(t.port("s"), 20) as flows:
            flows.run(20, window=2, size=1200)
        assert {len(payload) for _, payload in client.frames()} == {5, 1200}


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
def test_lanes_are_asked_for_and_each_visitor_stays_on_one(server, lanes):
    t = server(lanes)
    with playing(t, lanes) as client:
        knock(t.port("s"), visitors=24)
        with Flows(t.port("s"), 40) as flows:
            flows.run(5)
        time.sleep(0.2)
        assert client.requests == lanes and len(client.live()) == lanes
        of_visitor = {}
        for lane, channel in enumerate(client.channels):
            for address, _ in channel.frames:
                of_visitor.setdefault(address, set()).add(lane)
        assert all(len(used) == 1 for used in of_visitor.values())
        assert len(set.union(*of_visitor.values())) == lanes, "a lane is not used at all"


def test_address_in_the_frame_is_the_visitors(server):
    t = server()
    with playing(t) as client, fresh(t) as visitor:
        assert visitor.ask(b"me", within(5)) == b"me"
        assert (visitor.address, b"me") in client.frames()


def test_dual_stack_addresses_are_as_upstream_writes_them(server):
    """An IPv4 visitor of [::] has a v4-mapped address in a header of 24 bytes."""
    t = server(visitor_host="[::]")
    with playing(t) as client:
        for host, wire in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
            knock(t.port("s"), host)
            with UdpVisitor(t.port("s"), host) as visitor:
                assert visitor.ask(b"me", within(5)) == b"me"
                # The two visitors may be on different lanes, whose frames arrive in any order.
                addresses = [address for address, data in client.frames() if data == b"me"]
                assert (wire, visitor.address[1]) in [address[:2] for address in addresses]
                if host == "127.0.0.1":
                    # The plain IPv4 form names the same visitor, as in upstream's server.
                    channel_of(client, visitor).send(visitor.address, b"plain")
                    assert visitor.receive(within(5)) == b"plain"


UNDELIVERABLE = {
    "stranger": lambda v: udp_frame(STRANGER, b"bad"),
    "stranger, large": lambda v: udp_frame(STRANGER, b"b" * 65507),
    "port 0": lambda v: udp_frame((v[0], 0), b"bad"),
    "broadcast": lambda v: udp_frame(("255.255.255.255", v[1]), b"bad"),
    "directed broadcast": lambda v: udp_frame(("127.255.255.255", v[1]), b"bad"),
    "multicast": lambda v: udp_frame(("224.0.0.1", v[1]), b"bad"),
    "any address": lambda v: udp_frame(("0.0.0.0", v[1]), b"bad"),
    "other port": lambda v: udp_frame((v[0], v[1] ^ 1), b"bad"),
    "IPv6 on an IPv4 socket": lambda v: udp_frame(("::1", v[1]), b"bad"),
    "mapped on an IPv4 socket": lambda v: udp_frame(("::ffff:10.1.2.3", v[1]), b"bad"),
    "too long": lambda v: udp_frame(v, b"b" * 65508),
    "longest": lambda v: udp_frame(v, b"b" * 65535),
    "longest, stranger": lambda v: udp_frame(STRANGER, b"b" * 65535),
}


def test_frames_that_cannot_be_delivered(server):
    """Dropped and counted; the frames behind them on the same channel are delivered."""
    t = server(1)
    with playing(t, 1) as client, fresh(t) as visitor:
        channel = client.channels[0]
        asked = client.requests
        assert asked == 1, "the lane asks once"
        before = drops(t.server)
        for name, bad in UNDELIVERABLE.items():
            for n in range(3):
                channel.write(bad(visitor.address) + udp_frame(visitor.address, b"good %d" % n))
                assert visitor.receive(within(5)) == b"good %d" % n, f"after {name}"
            assert not channel.ended.is_set(), f"{name} cost the channel"
        assert drops(t.server) - before == 3 * len(UNDELIVERABLE), t.server.metrics()
        assert visitor.ask(b"still", within(5)) == b"still"
        assert client.requests == asked, "no channel was lost"


def test_visitor_of_another_lane_is_no_strangers_business(server):
    """A lane sends to its own visitors. A frame for a visitor of another lane is delivered or dropped; it
    never ends the channel."""
    t = server(2)
    with playing(t, 2) as client:
        knock(t.port("s"))
        with fresh(t) as visitor:
            channel_of(client, visitor)
            for channel in client.live():
                channel.send(visitor.address, b"to you")
            assert visitor.receive(within(5)) == b"to you"
            visitor.drain()
            assert visitor.ask(b"still", within(5)) == b"still"
        assert client.requests == 2


def end_lanes(t, client, cases, host="127.0.0.1"):
    """Runs each case(channel, visitor) on a lane of its own, where it must end the channel. Then the server
    must request all channels again and serve all visitors; no bad frame may be delivered."""
    lanes = visitor_of_each(t.port("s"), client, host)
    assert len(lanes) >= len(cases)
    requests = client.requests
    for (channel, visitor), case in zip(lanes, cases):
        case(channel, visitor)
    for (channel, _), case in zip(lanes, cases):
        assert channel.ended.wait(within(5)), f"the channel of {case} goes on"
    for _, visitor in lanes:
        assert visitor.insist(b"next", within(5)) == b"next"
        assert set(visitor.drain(0.02)) <= {b"next"}, "a bad frame was delivered"
        visitor.close()
    assert client.requests == requests + len(cases)


def header_case(size, data=b"bad", **kwargs):
    def case(channel, visitor):
        channel.write(bytes([size]) + header_of(size, visitor.address, len(data)) + data)

    return case


def test_header_that_is_too_short_costs_the_channel(server):
    t = server(12)
    with playing(t, 12) as client:
        end_lanes(t, client, [header_case(size) for size in range(12)])


def test_header_that_is_too_short_costs_the_channel_ipv6(server):
    t = server(6, visitor_host="[::1]")
    with playing(t, 6) as client:
        end_lanes(t, client, [header_case(size) for size in (4, 11, 12, 20, 22, 23)], "::1")


def test_unknown_address_family_costs_the_channel(server):
    tags = [2, 3, 255, 256, 0x01000000, 0x7FFFFFFF, 0xFFFFFFFF]
    t = server(len(tags))
    with playing(t, len(tags)) as client:
        end_lanes(t, client, [
            lambda channel, visitor, tag=tag: channel.send(visitor.address, b"bad", tag=tag)
            for tag in tags])


def test_channels_that_end_inside_a_frame(server):
    def case(cut, end):
        def run(channel, visitor):
            channel.write(udp_frame(visitor.address, b"p" * 1000)[:cut])
            time.sleep(0.02)
            getattr(channel, end)()

        return run

    t = server(6)
    with playing(t, 6) as client:
        end_lanes(t, client, [case(cut, end) for cut in (1, 7, 500) for end in ("close", "reset")])


@pytest.mark.parametrize("host,least", [("127.0.0.1", 12), ("::1", 24)], ids=["ipv4", "ipv6"])
def test_header_that_is_longer_than_needed(server, host, least):
    """The surplus bytes of the header are ignored."""
    t = server(1, visitor_host=f"[{host}]" if ":" in host else host)
    with playing(t, 1) as client, UdpVisitor(t.port("s"), host) as visitor:
        assert visitor.insist(b"hello", within(5)) == b"hello"
        visitor.drain(0.02)
        channel = channel_of(client, visitor)
        asked = client.requests
        assert asked == 1, "the lane asks once"
        for size in range(least, 256):
            data = b"size %d" % size
            header_case(size, data)(channel, visitor)
            assert visitor.receive(within(5)) == data, f"header of {size} bytes"
        assert client.requests == asked, "no channel was lost"


def test_frame_that_never_completes_harms_nobody_else(server):
    """Visitors keep being read while their lane's channel holds half a frame."""
    t = server(1)
    with playing(t, 1) as client, fresh(t) as visitor:
        channel = channel_of(client, visitor)
        frame = udp_frame(visitor.address, b"p" * 60000)
        channel.write(frame[:30000])
        channel.echo = False
        seen = len(channel.frames)
        for n in range(50):
            visitor.send(b"%d" % n)
        wait_until(lambda: len(channel.frames) >= seen + 50, within(5), "the visitor's datagrams")
        channel.write(frame[30000:])
        assert visitor.receive(within(5)) == b"p" * 60000


def test_frames_in_any_pieces(server):
    """One byte per segment, many frames per segment, and cuts at every place."""
    t = server(1)
    with playing(t, 1) as client, fresh(t) as visitor:
        channel = channel_of(client, visitor)
        channel.echo = False
        frames = b"".join(
            udp_frame(visitor.address, payload(1, n, 12 + n), trailing=b"t" * (n % 3))
            for n in range(8))
        for byte in range(len(frames)):
            channel.write(frames[byte : byte + 1])
        assert [parse(visitor.receive(within(5)))[1] for _ in range(8)] == list(range(8))
        channel.write(frames * 20)
        assert [parse(visitor.receive(within(5)))[1] for _ in range(160)] == list(range(8)) * 20
        short = udp_frame(visitor.address, payload(2, 0, 20)) + \
            udp_frame(visitor.address, payload(2, 1, 0)) + \
            udp_frame(visitor.address, payload(2, 2, 13))
        for cut in range(1, len(short)):
            channel.write(short[:cut])
            time.sleep(0.001)
            channel.write(short[cut:])
            assert parse(visitor.receive(within(5))) == (2, 0)
            assert visitor.receive(within(5)) == b""
            assert parse(visitor.receive(within(5))) == (2, 2)


def test_frame_with_the_hello(server):
    """Bytes before StartForwardUdp are legal: no visitor is known yet, so they are dropped."""
    t = server(1)
    with PlayedClient(t.control_port, "s", TOKEN, offer=0) as client:
        wait_until(lambda: client.requests, within(5), "a request")
        client.open(early=udp_frame(STRANGER, b"early"))
        with fresh(t) as visitor:
            assert visitor.ask(b"me", within(5)) == b"me"


def test_lane_whose_channel_died_asks_for_another_at_once(server):
    """The lane requests a channel at once when the old one had worked for a while, and soon otherwise."""
    t = server(2)
    with playing(t, 2) as client:
        lanes = visitor_of_each(t.port("s"), client)
        time.sleep(1.2)
        for bound in (0.5, 1.6):
            for visitor, end in zip([visitor for _, visitor in lanes], ("close", "reset")):
                requests = client.requests
                start = time.monotonic()
                getattr(channel_of(client, visitor), end)()
                wait_until(lambda: client.requests > requests, within(3), "a request")
                assert visitor.insist(b"back", within(5), 0.02) == b"back"
                assert time.monotonic() - start < within(bound)
                assert client.requests == requests + 1
                visitor.drain(0.02)
        for _, visitor in lanes:
            visitor.close()


def test_all_channels_die_at_once(server):
    t = server(4)
    with playing(t, 4) as client:
        knock(t.port("s"), visitors=24)
        for _ in range(2):
            for channel in client.live():
                channel.reset()
            time.sleep(0.05)
            knock(t.port("s"), visitors=24, timeout=within(5))
        assert client.requests == 4 + 2 * 4


def test_client_whose_channels_always_die(server):
    """No busy loop: the server requests channels at a bounded rate while each ends as soon as it opens."""
    t = server(2)

    class Dying:
        def __init__(self, sock, echo):
            self.started = self.ended = threading.Event()
            sock.close()

        def close(self):
            pass

    with PlayedClient(t.control_port, "s", TOKEN, make=Dying) as client:
        cpu = t.server.cpu_seconds()
        time.sleep(2)
        assert not client.ended.is_set()
        assert client.requests < 2000
        assert t.server.cpu_seconds() - cpu < 1
    with playing(t):
        knock(t.port("s"))


def test_client_that_offers_one_channel_only(server):
    """The lane that has the channel is served. Datagrams for the other lanes are dropped and counted until
    those have a channel."""
    t = server(2)
    with playing(t, 1, offer=1) as client:
        visitors = [UdpVisitor(t.port("s")) for _ in range(24)]
        try:
            wait_until(lambda: any(v.ask(b"hello", 0.05) for v in visitors), within(5), "an answer")
            for visitor in visitors:
                visitor.drain(0.01)
            for visitor in visitors:
                visitor.send(b"one")
            time.sleep(within(0.5))
            served = [v for v in visitors if b"one" in v.drain(0.001)]
            assert 0 < len(served) < 24
            others = [v for v in visitors if v not in served]
            before = drops(t.server)
            for _ in range(3):
                for visitor in served:
                    assert visitor.ask(b"two", within(5)) == b"two"
                for visitor in others:
                    visitor.send(b"nobody")
            wait_until(lambda: drops(t.server) - before == 3 * len(others), within(3),
                       lambda: f"{3 * len(others)} counted, but {drops(t.server) - before}")
            asked = client.requests
            time.sleep(1)
            assert client.requests - asked < 50, "asks in a hot loop"
            client.open()
            for visitor in others:
                assert visitor.insist(b"three", within(5)) == b"three"
            for visitor in served:
                assert visitor.ask(b"four", within(5)) == b"four"
        finally:
            for visitor in visitors:
                visitor.close()


def test_datagrams_that_come_joined_are_counted_one_by_one(server):
    """No client is logged in, so all datagrams are dropped. UDP_GRO may hand several to the server as one
    buffer; the drop counter counts each."""
    t = server(1)
    with UdpVisitor(t.port("s")) as visitor:
        visitor.send_joined([b"x" * 100] * 20)
        visitor.send_joined([b"x" * 100] * 7 + [b"short"])
        wait_until(lambda: drops(t.server) >= 2, within(3), "drops")
        time.sleep(0.2)
        assert drops(t.server) == 28


def test_more_channels_than_lanes(server):
    """Channels that the server did not request are kept or closed, and do no harm."""
    t = server(2)
    with playing(t) as client:
        for _ in range(10):
            client.open()
        knock(t.port("s"))
        with Flows(t.port("s"), 10) as flows:
            flows.run(10)


def test_newer_client_takes_over(server):
    t = server(2)
    with playing(t) as old:
        with fresh(t) as visitor:
            with playing(t) as new:
                assert old.ended.wait(within(5))
                assert visitor.insist(b"new", within(5)) == b"new"
                visitor.drain()
                assert visitor.ask(b"to the new one", within(5)) == b"to the new one"
                assert (visitor.address, b"to the new one") in new.frames()
                assert (visitor.address, b"to the new one") not in old.frames()
                wait_until(lambda: not old.live(), within(5), "the old channels to end")


def test_session_ends_and_comes_back(server):
    """Without a client datagrams are dropped; the next login serves the same visitors."""
    t = server(2)
    with fresh_session(t) as visitor:
        fds = None
        for n in range(3):
            t.server.wait_log("(?s)" + ".*".join((n + 1) * ["control channel lost"]), within(5))
            visitor.send(b"nobody there")
            wait_until(lambda: not unread_bytes(t.port("s")), within(5), "the datagram to be read")
            with playing(t):
                assert visitor.insist(b"%d" % n, within(5)) == b"%d" % n
            now = t.server.settled_fds()
            fds = fds or now
            assert now <= fds + 1
            visitor.drain()


@contextlib.contextmanager
def fresh_session(t):
    with playing(t):
        visitor = fresh(t)
    with visitor:
        yield visitor


# --- clients that do not read ---------------------------------------------------------------------


def test_client_that_stops_reading(server):
    """The lane's queue is bounded: datagrams that do not fit are dropped and counted. Other lanes work
    as before."""
    t = server(2)
    with playing(t) as client:
        knock(t.port("s"))
        visitors = [fresh(t) for _ in range(16)]
        stuck = channel_of(client, visitors[0])
        beside = [v for v in visitors if channel_of(client, v) is not stuck]
        assert beside, "all visitors on one lane"
        stuck.may_read.clear()
        rss, dropped = t.server.rss_kib(), drops(t.server)
        end = time.monotonic() + 2
        data = payload(1, 0, 1200)
        stuck_visitors = [v for v in visitors if v not in beside]
        sent = 0
        times = []
        while time.monotonic() < end:
            for _ in range(40):
                for visitor in stuck_visitors:
                    visitor.send(data)
                    sent += 1
            start = time.monotonic()
            assert beside[0].ask(b"beside", within(2)) == b"beside"
            times.append(time.monotonic() - start)
        times.sort()
        assert times[len(times) // 2] < within(0.1), "the other lane waits for the stuck one"
        grown = t.server.rss_kib() - rss
        assert SANITIZED or grown < 8 * 1024, f"{grown} KiB more for a channel that does not read"
        assert drops(t.server) - dropped > sent // 10
        # The client reads again, and soon the lane works as before.
        stuck.may_read.set()
        assert stuck_visitors[0].insist(b"again", within(10)) in (b"again", data)
        for visitor in visitors:
            visitor.close()
    assert t.server.alive()


def test_queue_is_bounded_in_time(server):
    """Datagrams that a stuck channel held back for seconds are stale: few of them are sent afterwards."""
    t = server(1)
    with playing(t, 1, echo=False) as client:
        channel = client.live()[0]
        channel.may_read.clear()
        with UdpVisitor(t.port("s")) as visitor:
            for n in range(20000):
                visitor.send(payload(1, n, 1200))
                if n % 50 == 0:
                    time.sleep(0.001)
            time.sleep(1)
            channel.may_read.set()
            visitor.send(payload(1, 30000, 1200))
            deadline = time.monotonic() + within(10)
            # Send until one arrives: the queue may still be full at first.
            while not any(parse(data)[1] >= 30000 for _, data in channel.frames[-200:]):
                assert time.monotonic() < deadline, "the lane does not recover"
                visitor.send(payload(1, 30000, 1200))
                time.sleep(0.02)
        numbers = [parse(data)[1] for _, data in channel.frames]
        assert numbers == sorted(numbers), "out of order"
        old = [number for number in numbers if number < 30000]
        assert len(old) * 1230 < 8 << 20, f"{len(old)} old datagrams were kept"
