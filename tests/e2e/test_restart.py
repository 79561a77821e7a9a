"""Ends that die, come back, are replaced, or are told to stop."""

import contextlib
import re
import signal
import socket
import threading
import time

import pytest

from harness import (
    OURS, TOKEN, is_listening, render, scaled, wait_until, within,
)
from limits import Limits
from protocol import FakeServer, Session, connect, how_closed, recv_exact
from services import HEADER, POOL, Digest, Echo, Named, NeverReads, answers, ping, transfer

pytestmark = pytest.mark.ours

# Retries come sooner, and the program's second lasts a quarter of one.
FAST = Limits(retry_min=0.12, second=0.25)


def open_relays(port, count):
    """`count` visitors; each has exchanged bytes with the service."""
    visitors = [connect(port) for _ in range(count)]
    for visitor in visitors:
        visitor.sendall(b"x")
    for visitor in visitors:
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 1) == b"x"
    return visitors


def all_closed(visitors, timeout):
    """Asserts that all visitors' connections end within `timeout` seconds in total."""
    deadline = time.monotonic() + timeout
    for n, visitor in enumerate(visitors):
        how, _ = how_closed(visitor, max(0.001, deadline - time.monotonic()))
        assert how in ("fin", "rst"), f"visitor {n} of {len(visitors)} is still open"
        visitor.close()


# --- kill -9 ------------------------------------------------------------------------------------


def test_client_killed(tunnel, service, threads):
    t = tunnel({"echo": service(Echo).port}, threads=threads)
    visitors = open_relays(t.port(), scaled(200, 30))
    t.client.kill9()
    all_closed(visitors, within(2))
    wait_until(lambda: not is_listening(t.port()), within(2), "the port to refuse")
    start = time.monotonic()
    t.start_client()
    wait_until(lambda: answers(t.port()), within(3), "the service after the restart")
    assert time.monotonic() - start < within(3)


def test_server_killed_and_restarted_at_once(tunnel, service, threads):
    t = tunnel({"echo": service(Echo).port}, threads=threads)
    visitors = open_relays(t.port(), scaled(200, 30))
    t.server.kill9()
    start = time.monotonic()
    t.server = t.spawn("server")
    wait_until(lambda: is_listening(t.control_port), within(1), "the control port to be bound")
    all_closed(visitors, within(2))
    wait_until(lambda: answers(t.port()), within(3) - (time.monotonic() - start),
               "the client to be back")


def test_server_killed_again_and_again(tunnel, service):
    t = tunnel({"echo": service(Echo).port})
    for _ in range(scaled(5, 3)):
        visitors = open_relays(t.port(), 20)
        t.server.kill9()
        t.start_server(timeout=1)
        wait_until(lambda: answers(t.port()), within(4), "the client to be back")
        all_closed(visitors, within(2))


def test_server_is_away_for_a_while(tunnel, service):
    """While the server is away, the client keeps trying and does not spin."""
    t = tunnel({"echo": service(Echo).port}, limits=FAST)
    t.server.kill9()
    before = t.client.cpu_seconds()
    time.sleep(4 * FAST.second)
    assert t.client.alive()
    assert t.client.cpu_seconds() - before < within(0.4)
    t.start_server()
    wait_until(lambda: answers(t.port()), within(3), "the client to be back")


def test_client_starts_before_the_server(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, start=False, limits=FAST)
    t.start_client()
    time.sleep(FAST.second)
    t.start_server()
    wait_until(lambda: answers(t.port()), within(3), "the service")


def test_upload_is_cut_visibly_by_a_killed_client(tunnel, service):
    """The killed client had unread bytes, so its kernel sends RST: the visitor must see that, not a FIN."""
    local = service(NeverReads)
    t = tunnel({"s": local.port})
    with connect(t.port("s")) as visitor:
        visitor.settimeout(1)
        try:
            while True:
                visitor.sendall(bytes(1 << 20))
        except TimeoutError:
            pass
        t.client.kill9()
        assert how_closed(visitor, within(5))[0] == "rst"


@pytest.mark.time_limit(90)
@pytest.mark.parametrize("role", ["server", "client"])
def test_hundred_uploads_and_a_restart(tunnel, service, transport, role):
    """A23: an end is killed under 100 uploads. Each visitor is reset, and the local service takes none of
    them for complete; new uploads succeed as soon as the end is back."""
    local = service(Digest)
    t = tunnel({"s": local.port}, transport=transport)
    visitors = [connect(t.port("s")) for _ in range(100)]
    for number, visitor in enumerate(visitors):
        visitor.sendall(HEADER.pack(number, 1 << 30, 0))
    for visitor in visitors:
        visitor.setblocking(False)
    for _ in range(3):
        for visitor in visitors:
            with contextlib.suppress(BlockingIOError):
                visitor.send(POOL[:32768])
        time.sleep(0.05)
    wait_until(lambda: all(record.sock for record in local.records) and len(local.records) == 100,
               within(10), "100 uploads at the local service")
    if role == "server":
        t.kill_server()
    else:
        t.client.kill9()
    deadline = time.monotonic() + within(5)
    for number, visitor in enumerate(visitors):
        how, data = how_closed(visitor, max(0.001, deadline - time.monotonic()))
        assert (how, data) == ("rst", b""), f"visitor {number}: {how} after {len(data)} bytes"
        visitor.close()
    for number in range(100):
        assert local.wait_record(number, within(5)).end == "rst"
    if role == "server":
        t.start_server()
    else:
        t.start_client()
    t.wait_ready(timeout=5)
    for seed in range(10):
        transfer(t.port("s"), seed, 1 << 20, 1000)


@pytest.mark.time_limit(90)
def test_many_services_and_a_restarted_server(tunnel, service):
    names = [f"svc{n}" for n in range(scaled(50, 50, full=200))]
    t = tunnel({name: service(Named, name).port for name in names})

    def right(name):
        try:
            with connect(t.port(name), timeout=1) as visitor:
                return how_closed(visitor, 1) == ("fin", name.encode())
        except OSError:
            return False

    for name in names:
        assert right(name)
    t.server.kill9()
    start = time.monotonic()
    t.start_server()
    for name in names:
        wait_until(lambda: right(name), within(10) - (time.monotonic() - start),
                   f"service {name} after the restart")
    assert t.server.metric("logins") == len(names)


def test_name_as_remote_addr(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, remote_host="localhost")
    ping(t.port())
    t.server.kill9()
    t.start_server()
    wait_until(lambda: answers(t.port()), within(4), "the client to resolve and log in again")


def test_name_that_does_not_resolve(tunnel, service):
    """The client keeps trying, logs that, and neither spins nor floods the log."""
    t = tunnel({"echo": service(Echo).port}, start=False, remote_host="no-such-host.invalid",
               limits=FAST)
    t.start_client()
    wait_until(lambda: "no-such-host.invalid" in t.client.log(), within(10), "a word about the name")
    before = t.client.cpu_seconds()
    time.sleep(3)
    assert t.client.alive()
    assert t.client.cpu_seconds() - before < within(0.5)
    assert len(t.client.log().splitlines()) < 20 / FAST.second


# --- a second client ----------------------------------------------------------------------------


def test_second_client_takes_over_at_once(tunnel, service):
    """The newest login serves, the port never refuses, and open relays of the old client go on."""
    t = tunnel({"s": service(Named, "old").port, "echo": service(Echo).port})
    refused = []
    stop = threading.Event()

    def knock():
        while not stop.is_set():
            try:
                with connect(t.port("s"), timeout=5) as visitor:
                    how_closed(visitor, 5)
            except ConnectionRefusedError as error:
                refused.append(error)
            except OSError:
                pass

    visitors = open_relays(t.port("echo"), 5)
    knocker = threading.Thread(target=knock)
    knocker.start()
    try:
        t.services = {"s": service(Named, "new").port, "echo": service(Echo).port}
        second = t.spawn("client", name="second")

        def is_new():
            with connect(t.port("s"), timeout=2) as visitor:
                return how_closed(visitor, 2)[1] == b"new"

        wait_until(is_new, within(1.5), "the second client to serve")
        # Look now: the first client will log in again soon and take the service back.
        for visitor in visitors:
            visitor.sendall(b"y")
            assert recv_exact(visitor, 1) == b"y"
        t.client.stop()
        time.sleep(0.5)
        assert is_new()
    finally:
        stop.set()
        knocker.join()
        for visitor in visitors:
            visitor.close()
    assert not refused, f"{len(refused)} visitors were refused"
    assert second.alive()


# --- refused logins -----------------------------------------------------------------------------


def logins_per_second(t, seconds):
    before = t.server.metric("logins_failed")
    time.sleep(seconds)
    return (t.server.metric("logins_failed") - before) / seconds


def test_wrong_token(tunnel, service):
    """One service has a wrong token: the log says so, retries back off, the other one works."""
    names = {"good": service(Named, "good").port, "bad": service(Named, "bad").port}
    t = tunnel(names, start=False, service_options={"bad": {"token": "the-servers-token"}},
               limits=FAST)
    t.start_server()
    client = render(OURS, "client",
                    {"remote_addr": f"127.0.0.1:{t.control_port}", "default_token": TOKEN,
                     "retry_interval": 1},
                    {name: {"local_addr": f"127.0.0.1:{port}"} for name, port in names.items()})
    t.client = t.spawn("client", text=client)
    t.wait_ready(names=["good"])
    with connect(t.port("good")) as visitor:
        assert how_closed(visitor, within(5)) == ("fin", b"good")
    line = t.client.wait_log(r"[^\n]*(token|auth)[^\n]*", within(3))
    assert "bad" in line.group(0), f"the service is not named: {line.group(0)}"
    assert not re.search(r"no such service|not.exist", t.client.log())
    rate = logins_per_second(t, 4 * FAST.second) * FAST.second
    assert 0.5 <= rate * within(1) and rate <= 2.5, f"{rate} logins a second with retry_interval 1"
    assert not is_listening(t.port("bad"))
    with connect(t.port("good")) as visitor:
        assert how_closed(visitor, within(5)) == ("fin", b"good")
    assert t.server.metric("logins") == 1, "the good service was disturbed"


def test_unknown_service(tunnel, service):
    names = {"good": service(Named, "good").port, "ghost": service(Named, "ghost").port}
    t = tunnel(names, start=False, limits=FAST)
    ghost = t.ports.pop("ghost")
    t.start_server()
    t.start_client()
    t.wait_ready(names=["good"])
    line = t.client.wait_log(r"[^\n]*ghost[^\n]*", within(3)).group(0)
    assert re.search(r"service", line, re.I) and not re.search(r"token|auth", line, re.I), line
    time.sleep(2 * FAST.second)
    assert t.client.alive() and not is_listening(ghost)
    with connect(t.port("good")) as visitor:
        assert how_closed(visitor, within(5)) == ("fin", b"good")


# --- SIGTERM ------------------------------------------------------------------------------------


@pytest.fixture(params=["server", "client"])
def role(request):
    return request.param


def test_drain_lets_an_open_transfer_finish(tunnel, service, role):
    """SIGTERM: new visitors are refused, the open transfer ends whole, exit code 0."""
    digest = service(Digest)
    t = tunnel({"digest": digest.port, "echo": service(Echo).port})
    process = getattr(t, role)
    (slow,) = open_relays(t.port(), 1)
    result = []

    def bulk():
        transfer(t.port("digest"), 5, 64 << 20, 64 << 20)
        result.append("whole")

    thread = threading.Thread(target=bulk)
    thread.start()
    digest.wait_connections(1)
    process.signal(signal.SIGTERM)
    wait_until(lambda: not is_listening(t.port()), within(2), "new visitors to be refused")
    thread.join(within(20))
    assert result == ["whole"]
    # The idle relay is open, so the process waits for it.
    assert process.alive()
    slow.sendall(b"y")
    assert recv_exact(slow, 1) == b"y"
    slow.shutdown(socket.SHUT_WR)
    assert how_closed(slow, within(5)) == ("fin", b"")
    slow.close()
    assert process.wait(within(3)) == 0


def test_sigterm_without_relays_ends_at_once(tunnel, service, role):
    t = tunnel({"echo": service(Echo).port})
    ping(t.port())
    process = getattr(t, role)
    start = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(within(3)) == 0
    assert time.monotonic() - start < within(1)


def test_sigint_is_like_sigterm(tunnel, service, role):
    t = tunnel({"echo": service(Echo).port})
    process = getattr(t, role)
    process.signal(signal.SIGINT)
    assert process.wait(within(3)) == 0


def test_second_sigterm_stops_now(tunnel, service, role):
    t = tunnel({"echo": service(Echo).port})
    visitors = open_relays(t.port(), 10)
    process = getattr(t, role)
    process.signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.alive(), "it did not wait for the open relays"
    start = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(within(3)) == 0
    assert time.monotonic() - start < within(1)
    all_closed(visitors, within(2))


def test_drain_timeout(tunnel, service, role):
    t = tunnel({"echo": service(Echo).port}, server_options={"drain_timeout": 1},
               client_options={"drain_timeout": 1})
    visitors = open_relays(t.port(), 3)
    process = getattr(t, role)
    start = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(within(5)) == 0
    assert 0.8 < time.monotonic() - start < within(2)
    for visitor in visitors:
        # The relay was cut, so the visitor must not see a clean FIN.
        assert how_closed(visitor, within(2))[0] == "rst"
        visitor.close()


def test_draining_server_ends_its_control_channels(tunnel, service):
    """A client must not sit on a server that will take no visitor any more."""
    t = tunnel({"echo": service(Echo).port})
    with Session(t.control_port, "echo", TOKEN) as session:
        t.server.signal(signal.SIGTERM)
        assert how_closed(session.control, within(2))[0] in ("fin", "rst")
    assert t.server.wait(within(3)) == 0
    assert t.client.alive()


def test_client_that_stops_frees_the_service_at_once(tunnel, service):
    """Once the client stops, the port refuses and the server has released all its descriptors."""
    t = tunnel({"echo": service(Echo).port})
    t.client.signal(signal.SIGTERM)
    assert t.client.wait(within(3)) == 0
    wait_until(lambda: not is_listening(t.port()), within(1), "the port to refuse")
    fds = t.server.settled_fds()
    t.start_client()
    t.wait_ready()
    ping(t.port())
    t.client.stop()
    wait_until(lambda: not is_listening(t.port()), within(1), "the port to refuse")
    t.server.wait_fds(fds, within(5))


# --- a server that goes silent -------------------------------------------------------------------


def test_heartbeat_timeout_of_the_client(tunnel, service):
    """Without a whole command for heartbeat_timeout the client logs in anew. Part of a command does not
    count."""
    limits = Limits(second=0.5)
    t = tunnel({"echo": service(Echo).port}, start=False,
               client_options={"heartbeat_timeout": 2}, limits=limits)
    with FakeServer(t.control_port) as fake:
        t.start_client()
        control, _ = fake.accept_login(TOKEN)
        start = time.monotonic()
        control.sendall(b"\1")
        time.sleep(limits.second)
        control.sendall(b"\0")
        fake.accept_login(TOKEN, timeout=within(2 * limits.second + 4))
        took = time.monotonic() - start
        assert 1.8 * limits.second < took < within(2 * limits.second + 2.5), \
            f"back after {took:.1f} s"
