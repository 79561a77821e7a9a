"""UDP services while the local service, the client or the server goes away and comes back.

A visitor's socket outlives all of that: its next datagrams are answered.
"""

import contextlib
import threading
import time

import pytest

from datagrams import Flows, UdpEcho, UdpVisitor, knock
from harness import scaled, wait_until, within

ROUNDS = scaled(3, 1)


@contextlib.contextmanager
def traffic(flows, **options):
    """Runs the visitors in the background. They check every answer; loss is allowed."""
    stop = threading.Event()
    errors = []

    def run():
        try:
            flows.run(window=4, lossy=True, patience=0.2, until=stop, **options)
        except AssertionError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def more_come(flows, count=200):
    """Waits until `count` more answers have arrived."""
    target = flows.received + count
    wait_until(lambda: flows.received >= target, within(10), "answers")


@pytest.mark.ours
@pytest.mark.parametrize("threads", [2])
def test_service_restarts_in_a_burst(udp, service, threads):
    """While the service is down, the client's sockets get ECONNREFUSED: no visitor may notice that later."""
    t, local = udp(threads=threads)
    with Flows(t.port(), 20) as flows:
        with traffic(flows):
            for _ in range(ROUNDS):
                more_come(flows)
                local.stop()
                time.sleep(0.4)
                local = service(UdpEcho, port=local.port)
            more_come(flows)
        assert flows.refused == 0, "a visitor saw the service's absence"
        flows.run(20)  # every visitor is served again, without loss


@pytest.mark.ours
def test_service_comes_later_than_the_tunnel(tunnel, service, transport):
    first = service(UdpEcho)
    port = first.port
    first.stop()
    t = tunnel({"echo": port}, udp=True, transport=transport)
    visitors = [UdpVisitor(t.port()) for _ in range(8)]
    try:
        for _ in range(20):
            for visitor in visitors:
                visitor.send(b"nobody")
            time.sleep(0.01)
        service(UdpEcho, port=port)
        for visitor in visitors:
            answer = visitor.insist(b"there", within(10))
            while answer == b"nobody":  # sent before the service came, and read by the client after it
                answer = visitor.receive(within(5))
            assert answer == b"there"
    finally:
        for visitor in visitors:
            visitor.close()


@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_client_restarts(udp, how):
    t, _ = udp()
    with Flows(t.port(), 20) as flows, UdpVisitor(t.port()) as visitor:
        with traffic(flows):
            for n in range(ROUNDS):
                more_come(flows)
                getattr(t.client, how)()
                time.sleep(0.2)
                t.start_client()
                assert visitor.insist(b"%d" % n, within(10)) == b"%d" % n
                more_come(flows)
        knock(t.port(), timeout=within(10))
        flows.run(20)


@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_server_restarts(udp, how):
    t, _ = udp()
    with Flows(t.port(), 20) as flows, UdpVisitor(t.port()) as visitor:
        with traffic(flows):
            for n in range(ROUNDS):
                more_come(flows)
                getattr(t.server, how)()
                t.start_server()
                assert visitor.insist(b"%d" % n, within(10)) == b"%d" % n
                more_come(flows)
        knock(t.port(), timeout=within(10))
        flows.run(20)


@pytest.mark.ours
def test_both_ends_restart_at_once(udp):
    t, _ = udp()
    with UdpVisitor(t.port()) as visitor:
        for n in range(ROUNDS):
            t.server.kill9()
            t.client.kill9()
            t.start_client()
            time.sleep(0.1)
            t.start_server()
            assert visitor.insist(b"%d" % n, within(10)) == b"%d" % n
            visitor.drain(0.05)


@pytest.mark.ours
def test_newer_client_takes_over(tunnel, service, transport):
    """After a second login for the service, its visitors move to the new client at once."""
    class Named(UdpEcho):
        def handle(self, data, peer):
            self.send(b"%d" % self.port, peer)

    old, new = service(Named), service(Named)
    t = tunnel({"echo": old.port}, udp=True, transport=transport)
    knock(t.port())
    with UdpVisitor(t.port()) as visitor:
        assert visitor.ask(b"who", within(5)) == b"%d" % old.port
        t.client.stop()
        t.services["echo"] = new.port
        t.start_client()

        def moved():
            return visitor.ask(b"who", 0.1) == b"%d" % new.port

        wait_until(moved, within(5), "the new client to serve")
        visitor.drain()
        for _ in range(20):
            assert visitor.ask(b"who", within(5)) == b"%d" % new.port


@pytest.mark.ours
def test_nothing_stays_behind_after_restarts(udp):
    """After clients came and went, neither end has leaked descriptors."""
    t, _ = udp()
    levels = []
    for _ in range(max(2, ROUNDS)):
        t.client.kill9()
        t.start_client()
        with UdpVisitor(t.port()) as visitor:
            visitor.insist(b"back", within(10))
        knock(t.port(), visitors=16, timeout=within(10))
        levels.append(t.server.settled_fds())
    assert max(levels) - min(levels) <= 2, levels
