"""Stale channels and the pool: our server against a client that is played here.

A channel that died while parked must cost no visitor.
"""

import collections
import contextlib
import re
import socket
import struct
import threading
import time

import pytest

from harness import FULL, SANITIZED, TOKEN, is_listening, scaled, wait_until, within
from limits import REAL_ONES, Limits
from protocol import (
    CMD_CREATE_DATA_CHANNEL, DATA_CMD_FORWARD_TCP, Session, connect, how_closed, recv_exact, reset,
    u32,
)
from services import Banner, burst

pytestmark = pytest.mark.ours

START = u32(DATA_CMD_FORWARD_TCP)
POOL_AT_LOGIN = 8
POOL_MAX = 256
LIMITS = Limits(visitor_wait=2, channel_request=0.4)


@pytest.fixture
def server(tunnel):
    """make(options) -> a Tunnel whose server runs and whose client is ours to play."""

    def make(threads=1, names=("s",), limits=None, **options):
        t = tunnel(dict.fromkeys(names), start=False, threads=threads,
                   server_options=options, limits=limits)
        t.start_server()
        return t

    return make


@contextlib.contextmanager
def login(t, service="s"):
    with Session(t.control_port, service, TOKEN) as session:
        wait_until(lambda: is_listening(t.port(service)), within(3), "the service port")
        yield session


def open_in_order(session, count):
    """Opens channels, far enough apart that the server parks them in this order."""
    channels = []
    for _ in range(count):
        channels.append(session.open_channel())
        time.sleep(0.1)
    return channels


def started(channel, want=b"", timeout=5):
    """Reads StartForwardTcp and then `want` from a data channel."""
    channel.settimeout(within(timeout))
    assert recv_exact(channel, 4) == START
    if want:
        assert recv_exact(channel, len(want)) == want


def finish(channel, visitor, answer=b"answer"):
    """The channel's side answers; the visitor reads it; both end cleanly."""
    channel.sendall(answer)
    visitor.settimeout(within(5))
    assert recv_exact(visitor, len(answer)) == answer
    visitor.shutdown(socket.SHUT_WR)
    assert how_closed(channel, within(5)) == ("fin", b"")
    channel.close()
    assert how_closed(visitor, within(5)) == ("fin", b"")


def test_a_played_client_works(server):
    """The baseline of this file: login, pool, a visitor through a played channel."""
    t = server()
    with login(t) as session:
        assert session.count_requests() == POOL_AT_LOGIN
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            started(channel, b"question")
            finish(channel, visitor)
        # For one visitor, the server asks for one more channel.
        assert session.count_requests() >= 1


def test_bytes_before_the_command_are_the_first_for_the_visitor(server):
    t = server()
    with login(t) as session:
        channel = session.open_channel(early=b"220 early\r\n")
        time.sleep(0.2)
        with connect(t.port("s")) as visitor:
            visitor.settimeout(within(5))
            assert recv_exact(visitor, 11) == b"220 early\r\n"
            started(channel)
            visitor.sendall(b"more")
            assert recv_exact(channel, 4) == b"more"
            finish(channel, visitor)


def test_channels_are_used_in_the_order_they_came(server):
    t = server()
    with login(t) as session:
        channels = open_in_order(session, 4)
        for channel in channels:
            with connect(t.port("s")) as visitor:
                visitor.sendall(b"next")
                started(channel, b"next")
                finish(channel, visitor)


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("stale", [1, 8])
def test_parked_channel_that_has_ended_is_skipped(server, end, stale):
    t = server()
    with login(t) as session:
        session.count_requests()
        channels = [session.open_channel() for _ in range(stale)]
        time.sleep(0.2)
        for channel in channels:
            channel.close() if end == "fin" else reset(channel)
        time.sleep(0.2)
        good = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            started(good, b"question")
            finish(good, visitor)
        # The server asks for as many channels as were lost.
        assert session.count_requests() >= stale


def test_visitor_waits_when_all_parked_channels_are_stale(server):
    t = server()
    with login(t) as session:
        session.count_requests()
        channels = [session.open_channel() for _ in range(8)]
        time.sleep(0.2)
        for channel in channels:
            channel.close()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            assert session.command(within(3)) == CMD_CREATE_DATA_CHANNEL
            good = session.open_channel()
            started(good, b"question")
            finish(good, visitor)


@pytest.mark.parametrize("answer", [b"", b"a"], ids=["no-answer", "first-byte"])
@pytest.mark.parametrize("question", [b"", b"question", b"q" * 16000], ids=["none", "small", "16k"])
def test_reset_after_the_command_is_the_visitors_end(server, question, answer):
    """The service may have acted upon what was sent on this channel, so it goes to no other."""
    t = server()
    with login(t) as session:
        session.count_requests()
        channels = open_in_order(session, 3)
        with connect(t.port("s")) as visitor:
            visitor.sendall(question)
            started(channels[0], question)
            channels[0].sendall(answer)
            visitor.settimeout(within(3))
            assert recv_exact(visitor, len(answer)) == answer
            reset(channels[0])
            assert how_closed(visitor, within(3)) == ("rst", b"")
        for channel in channels[1:]:
            assert how_closed(channel, 0.3) == ("open", b""), "another channel was used up"


def test_end_of_stream_is_the_services_answer(server):
    """A FIN right after the command is no stale channel: no second one is tried."""
    t = server()
    with login(t) as session:
        channel = session.open_channel()
        time.sleep(0.1)
        spare = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            started(channel, b"question")
            channel.shutdown(socket.SHUT_WR)
            assert how_closed(visitor, within(3)) == ("fin", b"")
        assert how_closed(spare, 0.5) == ("open", b"")


@pytest.mark.slow
def test_no_channel_within_ten_seconds(server):
    """A client that never delivers: the visitor is reset, not left hanging, and it is counted."""
    t = server(limits=LIMITS)
    with login(t) as session:
        start = time.monotonic()
        with connect(t.port("s")) as visitor:
            how, data = how_closed(visitor, within(LIMITS.visitor_wait + 4))
        took = time.monotonic() - start
        assert (how, data) == ("rst", b"")
        assert 0.9 * LIMITS.visitor_wait < took < within(LIMITS.visitor_wait + 2), \
            f"closed after {took:.1f} s"
        assert t.server.metric("visitors_timed_out") == 1
        assert session.count_requests() > POOL_AT_LOGIN, "nothing was asked for anew"
        # The service itself still works.
        channel = session.open_channel()
        with connect(t.port("s")) as visitor:
            started(channel)
            finish(channel, visitor)


@pytest.mark.parametrize("end", ["fin", "rst"])
def test_end_of_the_control_channel_closes_the_service(server, end):
    """The port refuses at once; parked channels and waiting visitors are closed."""
    t = server()
    session = Session(t.control_port, "s", TOKEN)
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    channels = [session.open_channel() for _ in range(3)]
    time.sleep(0.2)
    with connect(t.port("s")) as active, connect(t.port("s")) as second:
        active.sendall(b"active")
        started(channels[0])
        second.sendall(b"second")
        started(channels[1])
        session.control.close() if end == "fin" else reset(session.control)
        wait_until(lambda: not is_listening(t.port("s")), within(1), "the port to refuse")
        with pytest.raises(ConnectionRefusedError):
            connect(t.port("s"))
        assert how_closed(channels[2], within(2))[0] in ("fin", "rst")
        # Open relays go on (protocol.md, 3.4): their two sockets have not ended.
        channels[0].sendall(b"still here")
        active.settimeout(within(3))
        assert recv_exact(active, 10) == b"still here"
    for channel in channels:
        channel.close()


def test_waiting_visitor_ends_with_the_control_channel(server):
    t = server()
    session = Session(t.control_port, "s", TOKEN)
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    with connect(t.port("s")) as visitor:
        time.sleep(0.3)
        session.control.close()
        assert how_closed(visitor, within(2)) == ("rst", b"")


def test_stray_byte_on_control_ends_the_session(server):
    t = server()
    session = Session(t.control_port, "s", TOKEN)
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    session.control.sendall(b"\0")
    wait_until(lambda: not is_listening(t.port("s")), within(2), "the session to end")
    session.close()


def test_half_closed_control_ends_the_session(server):
    t = server()
    session = Session(t.control_port, "s", TOKEN)
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    session.control.shutdown(socket.SHUT_WR)
    assert session_end(session) in ("fin", "rst")
    wait_until(lambda: not is_listening(t.port("s")), within(2), "the session to end")
    session.close()


def session_end(session):
    return how_closed(session.control, within(3))[0]


def test_replacement_ends_the_old_session(server):
    """The newest login wins; old parked channels and the old key are gone; active relays stay."""
    t = server()
    old = Session(t.control_port, "s", TOKEN)
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    active_channel = old.open_channel()
    time.sleep(0.1)
    parked = old.open_channel()
    time.sleep(0.1)
    with connect(t.port("s")) as active:
        active.sendall(b"1")
        started(active_channel, b"1")
        with Session(t.control_port, "s", TOKEN) as new:
            assert session_end(old) in ("fin", "rst")
            assert how_closed(parked, within(3))[0] in ("fin", "rst")
            late = old.open_channel()
            assert how_closed(late, within(3))[0] in ("fin", "rst")
            channel = new.open_channel()
            with connect(t.port("s")) as visitor:
                visitor.sendall(b"2")
                started(channel, b"2")
                finish(channel, visitor)
            active_channel.sendall(b"3")
            active.settimeout(within(3))
            assert recv_exact(active, 1) == b"3"
    old.close()


def test_port_never_refuses_while_clients_replace_each_other(server):
    t = server()
    sessions = collections.deque([Session(t.control_port, "s", TOKEN)])
    wait_until(lambda: is_listening(t.port("s")), within(3), "the service port")
    refused = []
    stop = threading.Event()

    def knock():
        while not stop.is_set():
            try:
                connect(t.port("s")).close()
            except ConnectionRefusedError as error:
                refused.append(error)
            except OSError:
                pass
            time.sleep(0.001)

    knocker = threading.Thread(target=knock)
    knocker.start()
    try:
        for _ in range(scaled(50, 15)):
            sessions.append(Session(t.control_port, "s", TOKEN))
            time.sleep(0.01)
            sessions.popleft().close()
    finally:
        stop.set()
        knocker.join()
    sessions[0].close()
    assert not refused, f"{len(refused)} visitors were refused"


class Player:
    """Answers every request with a channel; echoes one line on each that gets a visitor."""

    def __init__(self, session):
        self.parked = 0
        self.lock = threading.Lock()
        self.requests = session.serve_requests(self.channel)

    def channel(self, sock):
        with self.lock:
            self.parked += 1
        try:
            sock.settimeout(60)
            first = recv_exact(sock, 4)
        except (OSError, EOFError):
            first = None
        with self.lock:
            self.parked -= 1
        try:
            if first == START:
                while data := sock.recv(4096):
                    sock.sendall(data)
        except OSError:
            pass
        finally:
            sock.close()


@pytest.mark.parametrize("visitors", [100])
def test_pool_grows_with_a_burst(server, visitors):
    """After a burst the same burst finds channels ready, and the pool keeps its bound."""
    t = server(threads=2)
    with login(t) as session:
        player = Player(session)
        wait_until(lambda: player.parked == POOL_AT_LOGIN, within(3), "the pool at login")
        time.sleep(0.5)
        assert player.requests.requests == POOL_AT_LOGIN, "more was asked for than upstream does"
        burst(t.port("s"), visitors, within(10))
        wait_until(lambda: player.parked >= visitors, within(5),
                   lambda: f"{player.parked} channels parked after a burst of {visitors}")
        time.sleep(1)
        assert player.parked <= POOL_MAX
        # The same again, while the client opens nothing: what is parked serves them all.
        player.requests.pause()
        burst(t.port("s"), visitors, within(10))


@pytest.mark.time_limit(90)
def test_pool_is_bounded(server):
    """A burst beyond the largest pool is served, and no more than 256 stay parked."""
    t = server(threads=2)
    with login(t) as session:
        player = Player(session)
        for _ in range(2):
            burst(t.port("s"), 400, within(10))
        time.sleep(2)
        assert player.parked <= POOL_MAX, f"{player.parked} channels are parked"
        burst(t.port("s"), 50, within(10))


def test_surplus_channels_are_closed(server):
    """Of the channels that nobody asked for, the server keeps some, but not a flood."""
    t = server(names=("s", "other"))
    with login(t) as session:
        session.count_requests()
        before = t.server.settled_fds()
        channels = []
        refused = 0
        for n in range(scaled(700, 700, full=5000)):
            try:
                channels.append(session.open_channel())
            except OSError:
                refused += 1
            if n % 100 == 99:  # logins are not blocked meanwhile
                start = time.monotonic()
                with Session(t.control_port, "other", TOKEN):
                    pass
                if FULL:
                    assert time.monotonic() - start < 1
        time.sleep(1)
        assert t.server.fds() - before <= 512 + 64
        with Session(t.control_port, "s", TOKEN):
            pass
        for channel in channels:
            channel.close()
        t.server.wait_fds(before + 8, within(5))


def test_heartbeats_come_at_their_interval(server):
    limits = Limits(second=0.5)
    t = server(heartbeat_interval=1, limits=limits)
    with login(t) as session:
        session.count_requests(quiet=0.3)
        start = time.monotonic()
        beats = 0
        while time.monotonic() - start < 3.5 * limits.second:
            command = session.command(2)
            assert command == 1, f"command {command}"
            beats += 1
            if beats == 3:
                break
        assert beats == 3 and time.monotonic() - start < within(3.6 * limits.second)


def test_partial_data_hello_is_no_channel(server):
    """The last byte of the key is missing: nothing is parked, the visitor gets the good one."""
    t = server()
    with login(t) as session:
        half = connect(t.control_port)
        half.sendall(struct.pack("<IB", 1, 1) + session.key[:-1])
        time.sleep(0.2)
        good = session.open_channel()
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            started(good, b"question")
            finish(good, visitor)
        half.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_channel_passes_a_crowd_that_has_left(server, threads):
    """1,000 visitors reset while they wait. The next channel is for the one who stayed."""
    t = server(threads=threads)
    with login(t) as session:
        session.count_requests()
        for _ in range(1000):
            reset(connect(t.port("s")))
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"question")
            time.sleep(0.3)  # all of them wait in the pool's queue by now
            channel = session.open_channel()
            started(channel, b"question")
            finish(channel, visitor)


def visit_and_end(port, count):
    """Visitors that send nothing but their end of stream, as nc -N does."""
    visitors = []
    for _ in range(count):
        visitors.append(connect(port))
        visitors[-1].shutdown(socket.SHUT_WR)
    return visitors


def ends_of(visitors):
    ends = collections.Counter(how_closed(visitor, within(12)) for visitor in visitors)
    for visitor in visitors:
        visitor.close()
    return ends


@pytest.mark.parametrize("count", [150, pytest.param(400, marks=pytest.mark.skipif(
    SANITIZED, reason="such a build needs seconds for them: then they are a crowd"))])
def test_a_burst_that_only_asks_is_answered(tunnel, service, count):
    """The service speaks first. Who ends its half at once waits for the answer all the same."""
    t = tunnel({"s": service(Banner).port})
    assert ends_of(visit_and_end(t.port("s"), count)) == {("fin", Banner.TEXT): count}
    assert t.server.metric("visitors_accepted") == count
    assert t.server.metric("visitors_refused_queue") == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_crowd_that_only_ends_is_reset_and_counted(server, threads):
    """For longer than a client needs for a burst, many have waited who have sent nothing but their end of
    stream. Down to 64 they are reset: no empty answer comes from a service that was not asked."""
    t = server(threads=threads)
    with login(t) as session:
        session.count_requests()
        visitors = visit_and_end(t.port("s"), 100)
        time.sleep(REAL_ONES.visitors_crowd + 0.2)
        # Those who are too many are looked at one after the other: several channels at once may be on
        # their way to visitors of two workers before the first of these is looked at.
        channels = [session.open_channel(early=b"answer")]
        assert recv_exact(channels[0], 4) == START
        channels += [session.open_channel(early=b"answer") for _ in visitors[1:]]

        def settled():
            count = collections.Counter()
            for worker in t.server.metrics():
                count.update(worker)
            return count["relays_started"] + count["visitors_refused_queue"] == 100

        wait_until(settled, within(5), "each to get a channel or a refusal")
        for channel in channels:
            channel.shutdown(socket.SHUT_WR)
        ends = ends_of(visitors)
        refused = t.server.metric("visitors_refused_queue")
        assert ends == {("rst", b""): refused, ("fin", b"answer"): 100 - refused}
        assert refused == 35
        assert re.search(r"visitor refused: too many .*: it has sent nothing but its end", t.server.log())
        for channel in channels:
            channel.close()
