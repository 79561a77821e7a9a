"""UDP visitors come and go: expiry, the limit of visitors, and a client without descriptors."""

import time

import pytest

from datagrams import Flows, UdpEcho, UdpLateEcho, UdpVisitor, knock
from harness import SANITIZED, scaled, wait_until, within

pytestmark = pytest.mark.ours


def expiring(udp, server=0.5, client=0.5, **kwargs):
    return udp(service_options={"echo": {"udp_timeout": server}},
               client_service_options={"echo": {"udp_timeout": client}}, **kwargs)


def test_expired_visitor_comes_back(udp):
    """Idle for longer than udp_timeout: its socket is closed, the next datagram opens another."""
    t, local = expiring(udp)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"1", within(5)) == b"1"
        first = next(reversed(local.peers))
        assert visitor.ask(b"2", within(5)) == b"2"
        assert next(reversed(local.peers)) == first and local.peers[first] == 2
        time.sleep(1.5)
        assert visitor.ask(b"3", within(5)) == b"3"
        assert next(reversed(local.peers)) != first


def test_expiry_gives_everything_back(udp):
    t, _ = expiring(udp, ready=0)
    time.sleep(within(0.5))
    base = t.client.settled_fds()  # the data channels are open, no visitor is known
    count = scaled(1000, 100)
    rss = []
    for _ in range(2):
        with Flows(t.port(), count) as flows:
            flows.run(1)
            assert t.client.fds() >= base + count
        t.client.wait_fds(base, within(6))
        rss.append((t.server.rss_kib(), t.client.rss_kib()))
    if not SANITIZED:
        for first, second in zip(*rss):
            assert second - first <= max(256, first // 20), f"memory grows: {rss}"


def test_traffic_down_keeps_a_visitor(udp):
    """The visitor is kept for longer than udp_timeout, because each datagram of the service restarts it."""
    t, local = expiring(udp, 1, 1)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"hello", within(5)) == b"hello"
        peer = next(reversed(local.peers))
        for n in range(4):
            time.sleep(0.4)
            local.send(b"%d" % n, peer)
            assert visitor.receive(within(2)) == b"%d" % n
        assert visitor.ask(b"bye", within(5)) == b"bye"
        assert next(reversed(local.peers)) == peer, "the visitor has got another local socket"


def test_traffic_up_keeps_a_visitor(udp):
    """Each datagram of the visitor restarts udp_timeout too; a late answer shows that it is still known."""
    t, local = expiring(udp, 2, 2)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"hello", within(5)) == b"hello"
        peer = next(reversed(local.peers))
        local.handle = lambda data, peer: None
        for _ in range(2):
            time.sleep(0.7)
            visitor.send(b"more")
        last = time.monotonic()
        time.sleep(1.6)
        assert local.peers[peer] == 3, "the visitor has got another local socket"
        local.send(b"answer", peer)
        if time.monotonic() - last > 1.9:
            pytest.skip("the machine was too slow for this: the visitor may have expired")
        assert visitor.receive(within(2)) == b"answer"


def test_answer_to_an_expired_visitor_is_dropped(udp):
    """The visitor has expired in the server but not in the client. A late answer is dropped; the answer to
    the next datagram arrives."""
    t, local = expiring(udp, 0.5, 60)
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"1", within(5)) == b"1"
        peer = next(reversed(local.peers))
        time.sleep(1.5)
        local.send(b"late", peer)
        assert visitor.receive(0.5) is None
        assert visitor.ask(b"2", within(5)) == b"2"
        assert next(reversed(local.peers)) == peer


def test_at_the_limit_the_quietest_visitor_makes_room(udp):
    """The visitor that has been silent for longest is removed, and comes back with its next datagram."""
    class Discreet(UdpEcho):
        def handle(self, data, peer):
            if data != b"hush":
                self.send(data, peer)

    t, local = udp(Discreet, threads=1, ready=0, service_options={
        "echo": {"max_udp_visitors": 50, "udp_data_channels": 1}})
    knock(t.port(), visitors=1)
    visitors = [UdpVisitor(t.port()) for _ in range(60)]
    try:
        known = []
        for n, visitor in enumerate(visitors):
            assert visitor.ask(b"%d" % n, within(5)) == b"%d" % n
            known.append(next(reversed(local.peers)))
            if 10 <= n < 50:
                # This visitor sends all the time without an answer, so it is never the quietest.
                before = local.received
                visitors[3].send(b"hush")
                wait_until(lambda: local.received > before, within(5), "the datagram")
        for peer in known:
            local.send(b"push", peer)
        time.sleep(within(0.3))
        got = [n for n, visitor in enumerate(visitors) if visitor.receive(0.01) == b"push"]
        assert got == [3] + list(range(11, 60))
        for n in (0, 5, 10):
            assert visitors[n].ask(b"again", within(5)) == b"again"
    finally:
        for visitor in visitors:
            visitor.close()


def test_visitors_beyond_the_limit_are_served(udp, threads):
    """Many more than max_udp_visitors, one after the other: each is answered."""
    t, _ = udp(threads=threads, service_options={"echo": {"max_udp_visitors": 64}})
    with Flows(t.port(), scaled(600, 200)) as flows:
        flows.run(1, total=8)
        flows.run(1, total=8)


def test_late_answers_reach_nobody_else(tunnel, service):
    """The client closes sockets of visitors whose answers are still on their way, since others want
    them. The kernel would give some of the new sockets the ports of those: then another visitor would get
    the answer (Flows looks)."""
    local = service(UdpLateEcho)
    t = tunnel({"echo": local.port}, udp=True, threads=1, start=False)
    t.start_server()
    t.start_client(nofile=100)
    t.wait_ready()
    knock(t.port(), visitors=2)
    for _ in range(10):
        with Flows(t.port(), 800) as flows:
            flows.run(1, total=800, lossy=True, patience=0.3)
    assert t.client.metric("udp_visitors_evicted") > 1000, "it had sockets enough: this shows nothing"


def test_few_descriptors_for_many_visitors(tunnel, service, transport):
    """The client runs out of descriptors: visitors that have a socket go on, and nothing else breaks."""
    local = service(UdpEcho)
    t = tunnel({"echo": local.port}, udp=True, transport=transport, threads=1, start=False,
               client_service_options={"echo": {"udp_timeout": 1}})
    t.start_server()
    t.start_client(nofile=100)
    t.wait_ready()
    knock(t.port(), visitors=4)
    with UdpVisitor(t.port()) as old:
        assert old.ask(b"old", within(5)) == b"old"
        with Flows(t.port(), 200) as flows:
            flows.run(1, lossy=True, patience=0.3)
            assert flows.received >= 20
        assert old.insist(b"still", within(5)) == b"still"
    cpu = t.client.cpu_seconds()
    time.sleep(1)
    assert t.client.cpu_seconds() - cpu < 0.3, "spins without descriptors"
    time.sleep(1)
    knock(t.port(), visitors=8, timeout=within(10))
