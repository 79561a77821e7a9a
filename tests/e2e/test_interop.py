"""The four pairings of our program and rathole 0.5.0: either end can be swapped for the other.

These tests cover what rathole itself can do; the other files test what we promise beyond that.
"""

import concurrent.futures
import random
import socket
import time

import pytest

from harness import (
    OURS, RATHOLE, SANITIZED, TOKEN, have, is_listening, scaled, wait_until, within,
)
from protocol import connect, how_closed, recv_exact, reset
from services import (
    AfterEof, Banner, Digest, Echo, EofFirst, Http, Named, Resetter, Sink, answers, burst, digest_of,
    http_get, pattern, ping, transfer,
)

MIB = 1 << 20
PAIRS = [(server, client) for server in (OURS, RATHOLE) for client in (OURS, RATHOLE)]
if SANITIZED:
    PAIRS.remove((RATHOLE, RATHOLE))  # no process of ours in it
MIXED = [pair for pair in PAIRS if pair[0] != pair[1]]


@pytest.fixture(params=PAIRS, ids="/".join)
def pair(request):
    """The arguments of tunnel() that select both programs."""
    if RATHOLE in request.param and not have(RATHOLE):
        pytest.skip("rathole 0.5.0 not found: scripts/setup --peers installs it")
    return dict(zip(("server", "client"), request.param))


def test_transfers(tunnel, service, pair):
    t = tunnel({"digest": service(Digest).port}, **pair)
    rng = random.Random(7)
    jobs = [(n, int(10 ** rng.uniform(0, 6.3)), int(10 ** rng.uniform(0, 6.3)))
            for n in range(scaled(200, 30))]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(transfer, t.port("digest"), *job) for job in jobs]:
            future.result()


def test_bulk(tunnel, service, pair):
    t = tunnel({"digest": service(Digest).port}, **pair)
    size = scaled(64 * MIB, 8 * MIB)
    transfer(t.port("digest"), 1, size, size)


def test_half_close_by_visitor(tunnel, service, pair, tail_lost_max):
    size = scaled(32 * MIB, 4 * MIB)
    t = tunnel({"s": service(AfterEof, size).port}, **pair)
    with connect(t.port("s")) as visitor:
        for part in pattern(1, 500000):
            visitor.sendall(part)
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of(pattern(1, 500000))
        got = bytearray()
        while data := visitor.recv(MIB):
            got += data
    wanted = b"".join(pattern(4, size))
    assert wanted.startswith(got), "other bytes than were sent"
    assert len(wanted) - len(got) <= tail_lost_max


def test_half_close_by_service(tunnel, service, pair):
    size = scaled(32 * MIB, 4 * MIB)
    local = service(EofFirst, 1000)
    t = tunnel({"s": local.port}, **pair)
    with connect(t.port("s")) as visitor:
        visitor.settimeout(within(10))
        assert len(recv_exact(visitor, 1000)) == 1000 and visitor.recv(1) == b""
        for part in pattern(6, size):
            visitor.sendall(part)
        visitor.shutdown(socket.SHUT_WR)
        record = local.wait_record(0, within(10))
    assert (record.end, record.digest) == ("fin", digest_of(pattern(6, size)))


def test_banner_http_and_several_services(tunnel, service, pair):
    services = {"banner": service(Banner).port, "http": service(Http).port}
    services.update({f"n{n}": service(Named, f"n{n}").port for n in range(5)})
    t = tunnel(services, **pair)
    with connect(t.port("banner")) as visitor:
        assert recv_exact(visitor, len(Banner.TEXT)) == Banner.TEXT
    with connect(t.port("http")) as visitor:
        for n in range(20):
            assert http_get(visitor, b"/%d" % n)[1] == b"/%d" % n
    for n in range(5):
        with connect(t.port(f"n{n}")) as visitor:
            assert how_closed(visitor, within(5)) == ("fin", b"n%d" % n)


def test_burst_of_visitors(tunnel, service, pair):
    """More visitors at once than the pool has channels."""
    t = tunnel({"echo": service(Echo).port}, **pair)
    for _ in range(3):
        burst(t.port(), 60, within(10))


def test_churn_with_resets(tunnel, service, pair):
    """Visitors that reset their connections do no harm to later ones."""
    local = service(Echo)
    t = tunnel({"echo": local.port}, **pair)
    for n in range(scaled(100, 20)):
        visitor = connect(t.port())
        visitor.sendall(b"x" * n)
        reset(visitor)
        ping(t.port())


@pytest.mark.parametrize("pair", MIXED, ids="/".join, indirect=True)
def test_a_request_is_sent_once(tunnel, service, pair):
    """The service resets the connection after it has read a request; the request must not be repeated."""
    local = service(Resetter, 9)
    t = tunnel({"s": local.port}, **pair)
    for n in range(3):
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"POST /pay")
            how, data = how_closed(visitor, within(5))
            assert how in ("fin", "rst") and data == b""
        time.sleep(0.1)
        assert len(local.records) == n + 1, "the service got a request more than once"


def test_service_down_then_up(tunnel, service, pair):
    local = service(Echo)
    local.stop()
    t = tunnel({"echo": local.port}, **pair)
    with connect(t.port()) as visitor:
        assert how_closed(visitor, within(5))[0] in ("fin", "rst")
    service(Echo, port=local.port)
    ping(t.port())


def test_client_killed_and_restarted(tunnel, service, pair):
    t = tunnel({"echo": service(Echo).port}, **pair)
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
        t.client.kill9()
        assert how_closed(visitor, within(5))[0] in ("fin", "rst")
    t.start_client()
    wait_until(lambda: answers(t.port(), 2), within(10), "the service to work again")
    ping(t.port())


def test_server_killed_and_restarted(tunnel, service, pair):
    t = tunnel({"echo": service(Echo).port}, **pair)
    ping(t.port())
    t.server.kill9()
    t.start_server()
    wait_until(lambda: answers(t.port(), 2), within(10), "the service to work again")
    ping(t.port())


@pytest.mark.parametrize("pair", MIXED, ids="/".join, indirect=True)
def test_server_swapped_under_a_running_client(tunnel, service, pair):
    """The migration path: the other program replaces the server on the same ports; the client keeps
    running."""
    t = tunnel({"echo": service(Echo).port}, **{**pair, "server": pair["client"]})
    ping(t.port())
    t.server.stop()
    t.impl["server"] = pair["server"]
    t.start_server()
    wait_until(lambda: answers(t.port(), 2), within(10), "the client to log in at the new server")
    for _ in range(20):
        ping(t.port())


@pytest.mark.parametrize("pair", MIXED, ids="/".join, indirect=True)
def test_client_swapped_for_the_other(tunnel, service, pair):
    """The other program's client logs in for the same service and takes over."""
    t = tunnel({"who": service(Named, "old").port}, **{**pair, "client": pair["server"]})
    with connect(t.port("who")) as visitor:
        assert how_closed(visitor, within(5)) == ("fin", b"old")
    t.client.stop()
    t.services["who"] = service(Named, "new").port
    t.impl["client"] = pair["client"]
    t.start_client()

    def is_new():
        try:
            with connect(t.port("who"), timeout=2) as visitor:
                return how_closed(visitor, 2)[1] == b"new"
        except OSError:
            return False

    wait_until(is_new, within(10), "the new client to serve")
    for _ in range(20):
        assert is_new()


def test_wrong_token_is_refused(tunnel, service, pair):
    t = tunnel({"echo": service(Echo).port}, start=False, **pair)
    t.start_server()
    t.token = "not-the-token"
    t.start_client()
    time.sleep(1.5)
    assert not is_listening(t.port())
    assert t.client.alive() and t.server.alive()
    t.client.stop()
    t.token = TOKEN
    t.start_client()
    wait_until(lambda: answers(t.port(), 2), within(10), "the right token to be accepted")


def test_upload_digest_through_sink(tunnel, service, pair):
    """A plain upload without any answer arrives whole and ends with a FIN."""
    local = service(Sink)
    t = tunnel({"sink": local.port}, **pair)
    for n, size in enumerate([0, 1, 8192, 1 << 20]):
        with connect(t.port("sink")) as visitor:
            for part in pattern(n, size):
                visitor.sendall(part)
            visitor.shutdown(socket.SHUT_WR)
            assert how_closed(visitor, within(5)) == ("fin", b"")
        record = local.wait_record(n)
        assert (record.end, record.received) == ("fin", size)


def test_heartbeats_keep_an_idle_tunnel(tunnel, service, pair):
    t = tunnel({"echo": service(Echo).port}, server_options={"heartbeat_interval": 1},
               client_options={"heartbeat_timeout": 2}, **pair)
    time.sleep(0.5)
    since = len(t.client.log())
    time.sleep(3)
    assert is_listening(t.port())
    # A client that timed out logs that and logs in again; otherwise its log does not change.
    assert t.client.log()[since:] == ""
    ping(t.port())
