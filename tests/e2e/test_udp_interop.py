"""UDP in the four pairings of our program and rathole 0.5.0.

rathole cuts datagrams that it reads from a UDP socket at 2048 bytes. So the tests ask for whole
datagrams only where our program reads the socket: our server from visitors, our client from the local
service. rathole's server uses one data channel and parks the second; rathole's client opens as many
as the server asks for.
"""

import time

import pytest

from datagrams import Flows, UdpEcho, UdpReport, UdpSeen, UdpVisitor, knock, payload
from harness import OURS, RATHOLE, SANITIZED, have, scaled, within

PAIRS = [(server, client) for server in (OURS, RATHOLE) for client in (OURS, RATHOLE)]
if SANITIZED:
    PAIRS.remove((RATHOLE, RATHOLE))  # our program has no part in this pairing
MIXED = [pair for pair in PAIRS if pair[0] != pair[1]]
RATHOLE_CUT = 2048


@pytest.fixture(params=PAIRS, ids="/".join)
def pair(request):
    if RATHOLE in request.param and not have(RATHOLE):
        pytest.skip("rathole 0.5.0 not found: scripts/setup --peers installs it")
    return dict(zip(("server", "client"), request.param))


@pytest.fixture
def make_push():
    """make(port) -> what Flows call when nothing comes: nothing, since all is sent at once."""
    return lambda port: None


def test_round_trips(udp, pair, make_push):
    t, local = udp(UdpSeen, **pair)
    with Flows(t.port(), 30) as flows:
        for size in (64, 1472):
            flows.run(scaled(60, 10), window=2, size=size, stalled=make_push(t.port()))
    local.check_sockets(30)


def test_sizes(udp, pair):
    """Datagrams are whole where our program reads the socket, and cut at 2048 bytes where rathole does."""
    t, _ = udp(UdpReport, **pair)
    with UdpVisitor(t.port()) as visitor:
        for size in [0, 1, 2, 100, 1200, 1472, 2047, 2048, 2049, 9000, 65507]:
            up = min(size, RATHOLE_CUT) if pair["server"] == RATHOLE else size
            down = min(size, RATHOLE_CUT) if pair["client"] == RATHOLE else size
            assert visitor.ask(payload(1, size, size), within(5)) == b"got %d" % up
            assert visitor.ask(b"give %d" % size, within(5)) == payload(0, size, size)[:down]


def test_ipv6_and_mapped_visitors(udp, pair):
    """A v4 visitor of a dual-stack socket: the client must echo the mapped form."""
    t, _ = udp(visitor_host="[::]", **pair)
    for host in ("127.0.0.1", "::1"):
        knock(t.port(), host)
        with Flows(t.port(), 10, host) as flows:
            flows.run(10, window=2, size=600)


def test_many_visitors(udp, pair, make_push):
    t, local = udp(UdpSeen, **pair)
    count = scaled(800, 150)
    with Flows(t.port(), count) as flows:
        flows.run(2, stalled=make_push(t.port()))
    local.check_sockets(count)


def test_order_when_too_much_comes(udp, pair):
    if OURS not in pair.values():
        pytest.skip("how rathole alone does under too much is its own matter")
    t, _ = udp(**pair)
    with Flows(t.port(), 8) as flows:
        flows.run(scaled(800, 200), window=300, total=2400, size=1000, lossy=True, patience=0.5)
        assert flows.received > 100
        time.sleep(0.2)
        flows.run(20)


@pytest.mark.parametrize("end", ["server", "client"])
def test_an_end_is_killed_and_restarted(udp, pair, end):
    t, _ = udp(**pair)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"before", within(5)) == b"before"
        getattr(t, end).kill9()
        getattr(t, f"start_{end}")()
        assert visitor.insist(b"after", within(15)) == b"after"
    knock(t.port(), timeout=within(15))
    with Flows(t.port(), 20) as flows:
        flows.run(10)


@pytest.mark.parametrize("pair", MIXED, ids="/".join, indirect=True)
def test_local_service_restarts(udp, pair, service):
    """Our server must cope with what rathole's client does then; our client must hide the restart."""
    t, local = udp(**pair)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"before", within(5)) == b"before"
        local.stop()
        for _ in range(20):
            visitor.send(b"nobody")
            time.sleep(0.01)
        service(UdpEcho, port=local.port)
        if pair["client"] == OURS:
            assert visitor.insist(b"after", within(10)) == b"after"
    knock(t.port(), timeout=within(15))


@pytest.mark.parametrize("pair", MIXED, ids="/".join, indirect=True)
def test_visitor_that_leaves_at_once(udp, pair):
    """The answer finds no socket, so the server gets an ICMP error: neither end may stop because of it."""
    t, _ = udp(**pair)
    for _ in range(scaled(200, 50)):
        with UdpVisitor(t.port()) as visitor:
            visitor.send(b"gone")
    knock(t.port())
    with Flows(t.port(), 10) as flows:
        flows.run(10)


@pytest.mark.parametrize("pair", [(RATHOLE, OURS)], ids="/".join, indirect=True)
def test_large_answers_do_not_end_ratholes_service(udp, pair):
    """In rathole's server a failed sendto ends the service: our client must never cause one."""
    t, local = udp(UdpReport, **pair)
    login = t.server.log().count("listening")
    with UdpVisitor(t.port()) as visitor:
        for _ in range(50):
            assert visitor.ask(b"give 65507", within(5)) == payload(0, 65507, 65507)
    assert t.server.log().count("listening") == login
