"""drain_delay: the health check fails first, then visitors are refused, then the open ones finish."""

import http.client
import signal
import socket
import threading
import time

import pytest

from harness import free_port, is_listening, wait_until, within
from protocol import Session, connect, how_closed, recv_exact
from services import Echo, ping
from upgrades import upgrade

pytestmark = pytest.mark.ours

DELAY = 1.5


@pytest.fixture
def balanced(tunnel, service, processes):
    """balanced(drain_delay) -> a tunnel to an echo service whose server has a [status]."""

    def balanced(delay=DELAY, **server_options):
        t = tunnel({"echo": service(Echo).port}, start=False,
                   server_options={"drain_delay": delay, **server_options})
        t.kept, t.status_port = processes, free_port()
        plain = t.config
        status = f"\n[status]\nbind_addr = 127.0.0.1:{t.status_port}\n"
        t.config = lambda role: plain(role) + (status if role == "server" else "")
        t.start()
        wait_until(lambda: readyz(t) == 200, within(10), "ready")
        return t

    return balanced


def readyz(t):
    connection = http.client.HTTPConnection("127.0.0.1", t.status_port, timeout=within(5))
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def rewrite(t, **server_options):
    t.server_options.update(server_options)
    t.rewrite()


class Visitors(threading.Thread):
    """Visitors that come one after another, each with a round trip, until the port refuses."""

    def __init__(self, port):
        super().__init__()
        self.port, self.served, self.problem, self.refused_at = port, [], None, None
        self.start()

    def run(self):
        while True:
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self.port), within(5)) as sock:
                    sock.settimeout(within(5))
                    sock.sendall(b"hello")
                    assert recv_exact(sock, 5) == b"hello"
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1) == b""
            except ConnectionRefusedError:
                self.refused_at = began
                return
            except (OSError, AssertionError) as error:
                self.problem = error
                return
            self.served.append(began)


def test_the_health_check_fails_first_then_visitors_are_refused(balanced):
    t = balanced()
    kept = connect(t.port())
    kept.sendall(b"x")
    assert recv_exact(kept, 1) == b"x"
    visitors = [Visitors(t.port()) for _ in range(3)]
    asked = time.monotonic()
    t.server.signal(signal.SIGTERM)
    wait_until(lambda: readyz(t) == 503, within(0.5), "not ready")
    while time.monotonic() < asked + DELAY - 0.2:
        assert readyz(t) == 503
        assert is_listening(t.port())
        time.sleep(0.02)
    for thread in visitors:
        thread.join(within(DELAY + 5))
        assert thread.problem is None, thread.problem
        assert DELAY - 0.05 <= thread.refused_at - asked <= within(DELAY + 1)
        assert len([began for began in thread.served if began > asked + 0.5]) > 1
    assert readyz(t) == 503
    # The open one goes on, and the process ends after it.
    kept.sendall(b"y")
    assert recv_exact(kept, 1) == b"y"
    assert t.server.alive()
    kept.shutdown(socket.SHUT_WR)
    assert how_closed(kept, within(5)) == ("fin", b"")
    assert t.server.wait(within(5)) == 0


def test_a_visitor_that_waits_at_the_end_of_the_delay_is_served(balanced):
    """Its client takes its time. The control port goes on meanwhile, and ends afterwards."""
    t = balanced(1)
    t.client.stop()
    wait_until(lambda: not is_listening(t.port()), within(5), "the end of the session")
    with Session(t.control_port, "echo", t.token) as session:
        wait_until(lambda: is_listening(t.port()), within(5), "the port")
        t.server.signal(signal.SIGTERM)
        visitor = connect(t.port())
        visitor.sendall(b"ask")
        wait_until(lambda: not is_listening(t.port()), within(3), "visitors to be refused")
        assert is_listening(t.control_port)
        channel = session.open_channel()
        channel.settimeout(within(5))
        assert recv_exact(channel, 4) == b"\0\0\0\0"
        assert recv_exact(channel, 3) == b"ask"
        assert how_closed(session.control, within(5))[0] in ("fin", "rst")
        channel.sendall(b"answer")
        visitor.settimeout(within(5))
        assert recv_exact(visitor, 6) == b"answer"
        channel.close()
        visitor.close()
    assert t.server.wait(within(5)) == 0


def test_drain_timeout_begins_after_the_delay(balanced):
    t = balanced(1, drain_timeout=1)
    kept = connect(t.port())
    kept.sendall(b"x")
    assert recv_exact(kept, 1) == b"x"
    asked = time.monotonic()
    t.server.signal(signal.SIGTERM)
    assert t.server.wait(within(5)) == 0
    assert 1.9 <= time.monotonic() - asked <= within(3)
    assert how_closed(kept, within(2))[0] == "rst"
    kept.close()


def test_a_second_signal_stops_at_once(balanced):
    t = balanced(60)
    t.server.signal(signal.SIGTERM)
    wait_until(lambda: readyz(t) == 503, within(2), "not ready")
    ping(t.port())
    asked = time.monotonic()
    t.server.signal(signal.SIGTERM)
    assert t.server.wait(within(3)) == 0
    assert time.monotonic() - asked < within(1)
    assert not is_listening(t.port())


def test_an_upgrade_is_not_delayed(balanced):
    t = balanced(60)
    old, _ = upgrade(t)
    assert old.wait(within(5)) == 0
    wait_until(lambda: readyz(t) == 200, within(5), "ready")
    ping(t.port())


def test_no_upgrade_while_it_stops(balanced):
    t = balanced(60)
    t.server.signal(signal.SIGTERM)
    wait_until(lambda: readyz(t) == 503, within(2), "not ready")
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log("upgrade: refused: this process is stopping", within(2))
    ping(t.port())


def test_the_delay_of_the_new_file(balanced):
    """A reload counts before the signal, and while the delay runs."""
    t = balanced(0)
    rewrite(t, drain_delay=60)
    t.server.wait_log("reload: ", within(5))
    t.server.signal(signal.SIGTERM)
    wait_until(lambda: readyz(t) == 503, within(2), "not ready")
    time.sleep(0.5)
    ping(t.port())
    rewrite(t, drain_delay=0)
    wait_until(lambda: not is_listening(t.port()), within(3), "visitors to be refused")
    assert t.server.wait(within(3)) == 0
