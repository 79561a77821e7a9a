"""UDP visitors and TCP visitors compete for few descriptors. Every source address of a datagram
counts as a UDP visitor, a forged one too. The limit itself may be too low to serve at all.
"""

import contextlib
import itertools
import resource
import socket
import threading
import time

import pytest

from datagrams import Flows, UdpEcho, UdpVisitor, knock
from harness import free_port, is_listening, wait_until, within
from protocol import connect
from services import Echo

pytestmark = pytest.mark.ours

RESERVED = 32  # LIMIT_FDS_RESERVED: for control channels


class Sources:
    """Sends from one new address after the other, as strangers with forged addresses do."""

    def __init__(self, port):
        self.port = port
        self.count = 0
        self.over = threading.Event()
        self.thread = None

    def send(self, count):
        for n in itertools.count(self.count):
            if n >= self.count + count or self.over.is_set():
                break
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((f"127.{1 + n // 60000}.{n // 250 % 240}.{1 + n % 250}", 0))
                sock.sendto(b"flood", ("127.0.0.1", self.port))
            if n % 50 == 49:
                time.sleep(0.005)  # faster would overflow the socket buffers on the way
        self.count = n

    def keep_on(self):
        """Sends on, from a thread, until the end of the with-block."""
        self.thread = threading.Thread(target=self.send, args=(10**6,), daemon=True)
        self.thread.start()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.over.set()
        if self.thread:
            self.thread.join(10)


class MostDescriptors:
    """The largest number of descriptors that a process had in a while."""

    def __init__(self, process):
        self.process, self.most = process, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.over.wait(0.005):
            self.most = max(self.most, self.process.fds())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join(10)


@pytest.fixture
def both(tunnel, service):
    """make(nofile of the client, ...) -> a Tunnel with a TCP service and a UDP service."""

    def make(nofile, threads=2, **options):
        tcp, udp = service(Echo), service(UdpEcho)
        t = tunnel({"tcp": tcp.port, "udp": udp.port}, udp=["udp"], threads=threads, start=False,
                   **options)
        t.start_server()
        t.start_client(nofile=nofile)
        t.wait_ready()
        knock(t.port("udp"), visitors=4)
        return t

    return make


def all_answered(port, count, seconds, stack):
    """Visitors who come at once and stay: each is answered."""
    visitors = [stack.enter_context(connect(port, timeout=10)) for _ in range(count)]
    deadline = time.monotonic() + seconds
    answered = 0
    for n, visitor in enumerate(visitors):
        visitor.sendall(b"%06d" % n)
    for n, visitor in enumerate(visitors):
        visitor.settimeout(max(0.01, deadline - time.monotonic()))
        with contextlib.suppress(socket.timeout):
            answered += visitor.recv(6, socket.MSG_WAITALL) == b"%06d" % n
    assert answered == count, f"{answered} of {count} within {seconds:g} s"


@pytest.mark.realtime
@pytest.mark.parametrize("threads", [1, 2])
def test_udp_flood_leaves_tcp_its_descriptors(both, threads):
    """Far more UDP sources than descriptors, during and before; 60 TCP visitors come and stay."""
    nofile = 1024
    t = both(nofile, threads)
    with contextlib.ExitStack() as stack, MostDescriptors(t.client) as used, \
            Sources(t.port("udp")) as sources:
        sources.send(3 * nofile)
        full = t.client.fds()
        assert full >= (nofile - RESERVED) // 2 * 0.8, f"{full} descriptors are no flood"
        assert full <= nofile * 0.7, f"UDP has {full} of {nofile} descriptors"
        sources.keep_on()
        all_answered(t.port("tcp"), 60, within(4), stack)
        all_answered(t.port("tcp"), 60, within(4), stack)
    assert used.most <= nofile - RESERVED, f"{used.most} of {nofile} descriptors"
    assert t.client.metric("udp_dropped_no_local") == 0
    assert t.client.metric("data_channels_failed") == 0


def test_tcp_takes_what_another_worker_has(both):
    """UDP may have all descriptors, and one worker has all UDP visitors. TCP visitors are still
    served, whichever worker they come to, and UDP goes on."""
    nofile = 256
    t = both(nofile, 2, client_options={"udp_descriptors": 100},
             service_options={"udp": {"udp_data_channels": 1}})
    with contextlib.ExitStack() as stack, Sources(t.port("udp")) as sources:
        sources.send(4 * nofile)
        assert t.client.fds() >= 0.75 * nofile
        all_answered(t.port("tcp"), 30, within(5), stack)
        sources.keep_on()
        all_answered(t.port("tcp"), 30, within(5), stack)
        with UdpVisitor(t.port("udp")) as visitor:
            visitor.insist(b"still", within(5))
    assert t.client.metric("udp_dropped_no_local") == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_every_new_udp_visitor_is_answered(both, threads):
    """Many more visitors than there are descriptors for, each with one datagram: none is lost, and
    the number of descriptors stays below the limit all the time."""
    nofile = 256
    t = both(nofile, threads)
    before = t.client.metric("udp_visitors")
    # A source address of their own: with that of an earlier visitor, a reused port would be no new visitor.
    flows = Flows(t.port("udp"), 1500, source="127.0.0.2")
    with MostDescriptors(t.client) as used, flows:
        flows.run(1, total=8)
        assert flows.received == 1500 and flows.lost == 0
    assert t.client.metric("udp_visitors") - before == 1500
    assert t.client.metric("udp_dropped_no_local") == 0
    assert used.most <= nofile - RESERVED, f"{used.most} of {nofile} descriptors"
    assert "no socket" not in t.client.log()


def test_a_crowd_of_tcp_leaves_udp_a_part(both):
    """TCP visitors who stay take all descriptors that they may have. A new UDP visitor is still
    served, and so is a new data channel when the old one breaks."""
    nofile = 256
    t = both(nofile)
    with contextlib.ExitStack() as stack:
        for _ in range(nofile):
            with contextlib.suppress(OSError):
                visitor = stack.enter_context(connect(t.port("tcp"), timeout=5))
                visitor.sendall(b"x")
        wait_until(lambda: t.client.fds() >= 0.7 * nofile, within(10), "a crowd")
        with Flows(t.port("udp"), 200) as flows:
            flows.run(1, total=2)
            assert flows.lost == 0
        assert t.client.metric("udp_dropped_no_local") == 0
        t.kill_server()
        t.start_server()
        t.wait_ready(within(15))
        knock(t.port("udp"), visitors=8, timeout=within(15))


def test_the_share_of_a_reload(both):
    """A smaller share applies from the next visitor on."""
    nofile = 1024
    t = both(nofile)
    with Sources(t.port("udp")) as sources:
        sources.send(2 * nofile)
        assert t.client.fds() >= (nofile - RESERVED) // 2 * 0.8
        t.client_options["udp_descriptors"] = 10
        path = t.workdir / "client.ini"
        path.write_text(t.config("client"))
        t.client.wait_log("reload: ", within(5))
        sources.send(nofile)
        wait_until(lambda: t.client.fds() <= 0.25 * nofile, within(5),
                   lambda: f"{t.client.fds()} descriptors")


@pytest.mark.parametrize("source", [
    # Strangers there may hold the places of late channels, and leave 16 at a time, each after 300 ms.
    pytest.param("127.0.0.1", id="the-clients", marks=pytest.mark.realtime),
    pytest.param("127.0.0.9", id="another")])
def test_visitors_and_strangers_leave_logins_theirs(tunnel, service, source):
    """The server is full of visitors who stay, and silent strangers hold its control port: a login
    there is answered at once. Strangers at the client's own address may take the places of its data
    channels, others may not."""
    local = service(Echo)
    t = tunnel({"tcp": local.port, "s": None}, start=False)
    t.start_server(nofile=256)
    t.start_client()
    t.wait_ready(names=["tcp"])
    with contextlib.ExitStack() as stack:
        for _ in range(256):
            with contextlib.suppress(OSError):
                stack.enter_context(connect(t.port("tcp"), timeout=2))
        wait_until(lambda: t.server.metric("accept_paused") > 0, within(5), "a crowd")
        for _ in range(200):
            with contextlib.suppress(OSError):
                stack.enter_context(connect(t.control_port, source=source, timeout=2))
        for _ in range(3):
            started = time.monotonic()
            with t.login("s"):
                assert time.monotonic() - started < within(2)
        assert t.server.metric("control_channels_lost") <= 3
        assert t.server.fds() < 256


def test_strangers_leave_when_descriptors_run_out(tunnel):
    """There are fewer descriptors than the server counted on: silent strangers, far fewer than it
    lets in, make room for a login."""
    t = tunnel({"s": None}, threads=1, start=False, server_options={"handshake_timeout": 60})
    t.start_server()
    with contextlib.ExitStack() as stack:
        stack.enter_context(t.login("s"))
        _, most = resource.prlimit(t.server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(t.server.pid, resource.RLIMIT_NOFILE, (64, most))  # still a valid start
        # An accept that waits in the kernel keeps to the limit of when it began. That of a new port is new.
        t.control_port = free_port()
        (t.workdir / "server.ini").write_text(t.config("server"))
        wait_until(lambda: is_listening(t.control_port), within(3), "the control port")
        for n in range(100):
            stack.enter_context(connect(t.control_port, source=f"127.0.5.{1 + n // 50}"))
        wait_until(lambda: t.server.metric("accept_paused") > 0, within(2), "want of descriptors")
        started = time.monotonic()
        stack.enter_context(t.login("s"))
        assert time.monotonic() - started < within(3)
        assert t.server.metric("strangers_evicted_fds") > 0


def test_channels_that_came_in_the_place_of_strangers(tunnel):
    """Strangers hold low descriptors as the channels of visitors come, which get high ones: those beyond
    what visitors may use. As the strangers leave, no more visitors come in than there would have been
    without them, or there would be none left for a login."""
    nofile, strangers, early = 256, 80, 85
    t = tunnel({"s": None, "other": None}, threads=1, start=False)
    t.start_server(nofile=nofile)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(t.login("s"))
        session.count_requests()
        visitors = [stack.enter_context(connect(t.port("s"))) for _ in range(early)]
        wait_until(lambda: t.server.metric("visitors_accepted") == early, within(5), "visitors")
        guests = [connect(t.control_port, source=f"127.0.5.{1 + n // 8}") for n in range(strangers)]
        wait_until(lambda: t.server.metric("strangers_accepted") > strangers, within(5), "strangers")
        for _ in range(early):
            stack.enter_context(session.open_channel())
        wait_until(lambda: t.server.metric("relays_started") == early, within(5), "relays")
        for guest in guests:
            guest.close()
        wait_until(lambda: t.server.fds() < 60 + 2 * early, within(5), "no strangers")
        # All visitors that may come in, each with its channel.
        for _ in range(nofile):
            visitors.append(stack.enter_context(connect(t.port("s"))))
        reader = session.serve_requests(stack.enter_context)
        stack.callback(reader.stop)
        wait_until(lambda: t.server.metric("accept_paused") > 0, within(5), "a crowd")
        # The rest: 32 for control channels, and an eighth for strangers.
        assert t.server.settled_fds() <= (nofile - RESERVED) * 7 // 8
        started = time.monotonic()
        stack.enter_context(t.login("other"))
        assert time.monotonic() - started < within(2)
