"""A process that was stopped for a while (SIGSTOP, a frozen control group, a paused machine) finds all its
deadlines expired, but also the awaited data in its socket buffers. The data must win.
"""

import contextlib
import functools
import signal
import threading
import time

import pytest

from datagrams import UdpVisitor
from harness import TOKEN, wait_until, within
from limits import Limits
from protocol import (
    ACK_OK, HELLO_SIZE, auth, connect, control_hello, how_closed, recv_exact,
)
from services import Digest, Echo, answers, ping, transfer

pytestmark = pytest.mark.ours

# All times at half their length: heartbeats, the gap that counts as an absence, the grace after it.
LIMITS = Limits(second=0.5, absent=0.25, absent_grace=1)
S, GRACE = LIMITS.second, LIMITS.absent_grace


@pytest.fixture
def tunnel(tunnel):
    return functools.partial(tunnel, limits=LIMITS)


@contextlib.contextmanager
def stopped(*processes):
    for process in processes:
        process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)


def echoes(visitor, data=b"still there?"):
    visitor.sendall(data)
    assert recv_exact(visitor, len(data)) == data


def one_session(t):
    """Checks that the first session is still the only one."""
    for process in (t.client, t.server):
        assert "lost" not in process.log(), process.log()
        assert process.metric("logins") == 1


class Traffic:
    """A visitor in constant use, and transfers one after the other."""

    def __init__(self, t):
        self.errors, self.pings, self.transfers = [], 0, 0
        self.ending = threading.Event()
        jobs = (lambda: self._ping(t.port("echo")), lambda: self._transfer(t.port("digest")))
        self.threads = [threading.Thread(target=self._run, args=(job,)) for job in jobs]

    def _run(self, job):
        try:
            job()
        except Exception as error:  # of any kind: the test shows it
            self.errors.append(error)

    def _ping(self, port):
        with connect(port, timeout=within(15)) as visitor:
            while not self.ending.is_set():
                echoes(visitor)
                self.pings += 1
                time.sleep(0.01)

    def _transfer(self, port):
        while not self.ending.is_set():
            transfer(port, self.transfers, 3 << 20, 3 << 20, timeout=within(15))
            self.transfers += 1

    def goes_on(self):
        pings, transfers = self.pings, self.transfers
        wait_until(lambda: self.errors or (self.pings > pings and self.transfers > transfers),
                   within(10), "traffic")
        assert not self.errors, self.errors

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.ending.set()
        for thread in self.threads:
            thread.join(within(20))


# --- a session outlives it ------------------------------------------------------------------------


def test_heartbeats_that_came_meanwhile_count(tunnel, service, transport):
    """The client is stopped for longer than its heartbeat_timeout while the server goes on sending."""
    t = tunnel({"echo": service(Echo).port}, transport=transport,
               server_options={"heartbeat_interval": 1}, client_options={"heartbeat_timeout": 2})
    with connect(t.port()) as visitor:
        visitor.settimeout(within(5))
        echoes(visitor)
        for _ in range(2):
            with stopped(t.client):
                time.sleep(2.7 * S)
            echoes(visitor)
            ping(t.port(), timeout=within(5))
        one_session(t)
        assert t.client.metric("absences") >= 1


def test_a_server_that_is_silent_is_given_up(tunnel, service):
    """If no heartbeat came while both were stopped, the client gives up after the short grace, not after
    another heartbeat_timeout."""
    t = tunnel({"echo": service(Echo).port}, server_options={"heartbeat_interval": 1},
               client_options={"heartbeat_timeout": 2})
    t.client.wait_log("control channel established", within(5))  # it has the Ack
    with stopped(t.server):
        time.sleep(S)  # so the client has read all that the server sent
        with stopped(t.client):
            time.sleep(3 * S)
        since = time.monotonic()
        t.client.wait_log("control channel to .* lost: deadline exceeded", within(6))
        assert time.monotonic() - since < within(GRACE + 1.5)
    wait_until(lambda: answers(t.port()), within(10), "the service")


@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_traffic_goes_on(tunnel, service, transport, who):
    timeout = 10 if who == "server" else 2  # the client is awake while the server is stopped
    t = tunnel({"echo": service(Echo).port, "digest": service(Digest).port}, transport=transport,
               server_options={"heartbeat_interval": 1},
               client_options={"heartbeat_timeout": timeout})
    processes = {"client": [t.client], "server": [t.server], "both": [t.server, t.client]}[who]
    with Traffic(t) as traffic:
        traffic.goes_on()
        with stopped(*processes):
            time.sleep(3 * S)
        traffic.goes_on()
    assert not traffic.errors, traffic.errors
    for process in (t.client, t.server):
        assert "lost" not in process.log(), process.log()
        assert process.metric("logins") == 2, "one for each service"


# --- logins, visitors -----------------------------------------------------------------------------


def test_a_login_whose_bytes_lay_there(tunnel, service, transport):
    """A client's Hello arrives while the server is stopped for longer than handshake_timeout. The login needs
    another round trip after that, and must still succeed."""
    t = tunnel({"echo": service(Echo).port, "other": None}, transport=transport,
               server_options={"handshake_timeout": 1.5 * S, "heartbeat_interval": 1})
    before = t.server.metric("strangers_accepted")
    with connect(t.control_port) as sock:
        wait_until(lambda: t.server.metric("strangers_accepted") > before, within(5), "the accept")
        with stopped(t.server):
            login = threading.Thread(target=lambda: log_in(t, sock, outcome))
            outcome = []
            login.start()
            time.sleep(2.7 * S)
            assert not outcome
        login.join(within(10))
        assert outcome == [ACK_OK]
    assert t.server.metric("strangers_timed_out") == 0


def log_in(t, sock, outcome):
    """Logs in as a client does. Appends the Ack, or the exception, to `outcome`."""
    try:
        sock.settimeout(within(8))
        secure = t.played("client")(sock)
        secure.sendall(control_hello("other"))
        nonce = recv_exact(secure, HELLO_SIZE)[5:]
        secure.sendall(auth(TOKEN, nonce))
        outcome.append(int.from_bytes(recv_exact(secure, 4), "little"))
    except Exception as error:  # of any kind: the test shows it
        outcome.append(error)


def test_a_stranger_gets_no_more_than_the_grace(tunnel, service):
    """An unauthenticated peer has one deadline from accept to the end of the login, whatever it sends."""
    t = tunnel({"echo": service(Echo).port}, server_options={"handshake_timeout": 1.5 * S})
    before = t.server.metric("strangers_accepted")
    with connect(t.control_port) as sock:
        wait_until(lambda: t.server.metric("strangers_accepted") > before, within(5), "the accept")
        with stopped(t.server):
            time.sleep(2.7 * S)
        since = time.monotonic()
        sock.settimeout(0)
        while time.monotonic() - since < within(6):
            try:
                sock.send(b"\0")
            except OSError:
                break
            time.sleep(0.1)
        took = time.monotonic() - since
        assert took < within(GRACE + 1), f"{took:.1f} s"
    # Without an absence the deadline is handshake_timeout.
    wait_until(lambda: t.server.metric("strangers_timed_out") == 1, within(2), "the counter")
    time.sleep(GRACE)
    since = time.monotonic()
    with connect(t.control_port) as sock:
        assert how_closed(sock, within(5))[0] != "open"
    assert 1.4 * S < time.monotonic() - since < within(1.5 * S + 1.5)
    one_session(t)


def of_the_stopped(who, options):
    """`options` for the end that is stopped. The other end is awake, so its own timeout would expire."""
    return {"service_options" if who == "server" else "client_service_options": {"echo": options}}


@pytest.mark.parametrize("who", ["client", "server"])
def test_what_a_visitor_sent_meanwhile_counts(tunnel, service, who):
    """A process is stopped for longer than idle_timeout, with bytes of a visitor on the way."""
    t = tunnel({"echo": service(Echo).port}, **of_the_stopped(who, {"idle_timeout": 1.5 * S}))
    with connect(t.port()) as visitor, connect(t.port()) as silent:
        for each in (visitor, silent):
            each.settimeout(within(5))
            echoes(each)
        with stopped(getattr(t, who)):
            time.sleep(0.2)
            visitor.sendall(b"meanwhile")
            time.sleep(2.3 * S)
        assert recv_exact(visitor, 9) == b"meanwhile"
        end = threading.Thread(target=lambda: ends.append(how_closed(silent, within(5))[0]))
        ends = []
        end.start()
        while end.is_alive():
            echoes(visitor)
            time.sleep(0.1)
        assert ends == ["rst"], "who said nothing is idle"
    one_session(t)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_udp_visitor_keeps_its_socket(udp, who):
    """A process is stopped for longer than udp_timeout. A datagram that arrived meanwhile still belongs to
    the same visitor, so the service sees the same address."""
    t, local = udp(ready=0, **of_the_stopped(who, {"udp_timeout": 1.5 * S}))
    with UdpVisitor(t.port()) as visitor:
        assert visitor.insist(b"first", within(10)) == b"first"
        visitor.drain(0.2)
        peers = len(local.peers)
        with stopped(getattr(t, who)):
            time.sleep(0.2)
            visitor.send(b"meanwhile")
            time.sleep(2.3 * S)
        assert visitor.receive(within(5)) == b"meanwhile"
        assert len(local.peers) == peers, "another address"
    one_session(t)
