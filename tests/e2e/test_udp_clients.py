"""UDP with `clients = balance`: visitors spread over the clients, and each stays with its own."""

import collections
import signal
import threading
import time

import pytest

from datagrams import UdpEcho, UdpVisitor
from harness import OURS, RATHOLE, have, wait_until, within
from upgrades import upgrade

pytestmark = pytest.mark.ours

VISITORS = 24


class Named(UdpEcho):
    """Says its name before what it sends back."""

    def __init__(self, port, name):
        self.name = name
        super().__init__(port)

    def handle(self, data, peer):
        self.send(self.name + b" " + data, peer)


class Side:
    """A client, and the service behind it, which says the client's name."""

    def __init__(self, t, service, name, implementation=OURS):
        self.t, self.name, self.implementation = t, name, implementation
        self.echo = service(Named, name=name.encode())
        self.process = None

    def start(self):
        t = self.t
        t.impl["client"], t.services["echo"] = self.implementation, self.echo.port
        since = t.server.log_size()
        self.process = t.spawn("client", name=self.name)
        t.server.wait_log("control channel established", within(10), since=since)
        return self


class Asker:
    """A visitor that asks again and again. of: the client that has answered last."""

    def __init__(self, port):
        self.visitor, self.number, self.of = UdpVisitor(port), 0, None
        self.lost, self.moves, self.silent_for = 0, 0, 0.0

    def ask(self, timeout=2):
        """Takes answers up to the one to this question. None: it does not come."""
        self.number += 1
        question = b"%d" % self.number
        self.visitor.send(question)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            answer = self.visitor.receive(left)
            if answer is None:
                continue
            name, text = answer.split(b" ")
            if self.of is not None and name != self.of:
                self.moves += 1
            self.of = name
            if text == question:
                return name
        self.lost += 1
        return None


@pytest.fixture
def crowd(tunnel, service, processes):
    """crowd(second) -> the tunnel, its two clients, and visitors that all have been answered."""
    askers = []

    def crowd(second=OURS, **server_options):
        if not have(second):
            pytest.skip("no rathole here")
        t = tunnel({"echo": 9}, udp=True, start=False, server_options=server_options,
                   service_options={"echo": {"clients": "balance"}})
        t.kept = processes
        t.start_server()
        sides = [Side(t, service, "one").start(), Side(t, service, "two", second).start()]
        arrive(t, VISITORS)
        return t, sides, askers

    def arrive(t, count):
        """Those who come before the first channels are asked again."""
        probe = Asker(t.port())
        wait_until(lambda: probe.ask(within(0.2)), within(10), "the first answer")
        time.sleep(0.3)  # all lanes have both channels by now
        probe.visitor.close()
        askers.extend(Asker(t.port()) for _ in range(count))
        for asker in askers:
            assert asker.ask() is not None

    yield crowd
    for asker in askers:
        asker.visitor.close()


def spread(askers):
    return collections.Counter(asker.of.decode() for asker in askers)


class Asking(threading.Thread):
    """All of the visitors ask in turn, until told to stop."""

    def __init__(self, askers, patience):
        super().__init__()
        self.askers, self.patience, self.stopped = askers, patience, threading.Event()
        self.start()

    def run(self):
        while not self.stopped.is_set():
            for asker in self.askers:
                asker.ask(self.patience)

    def stop(self):
        self.stopped.set()
        self.join(within(60))
        assert not self.is_alive()


@pytest.mark.parametrize("second", [OURS, RATHOLE])
def test_visitors_spread_and_stay(crowd, second):
    _, sides, askers = crowd(second)
    counts = spread(askers)
    # One visitor more had been there before, and has not been forgotten.
    assert abs(counts["one"] - counts["two"]) <= 1, counts
    for _ in range(5):
        for asker in askers:
            assert asker.ask() == asker.of
    assert all(asker.moves == 0 and asker.lost == 0 for asker in askers)
    # What a client sees of its visitors is what they say.
    for side in sides:
        assert len(side.echo.peers) >= counts[side.name]


@pytest.mark.parametrize("second", [OURS, RATHOLE])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_client(crowd, second, victim):
    """Its visitors go on with the other client; those of the other one do not notice."""
    _, sides, askers = crowd(second)
    dead, other = sides[victim], sides[1 - victim]
    theirs = [asker for asker in askers if asker.of == dead.name.encode()]
    others = [asker for asker in askers if asker.of == other.name.encode()]
    assert theirs and others
    asking = Asking(others, within(2))
    time.sleep(0.2)
    dead.process.kill9()
    killed = time.monotonic()
    for asker in theirs:
        wait_until(lambda asker=asker: asker.ask(within(0.1)) == other.name.encode(), within(3),
                   "an answer of the other client")
    assert time.monotonic() - killed < within(4)
    asking.stop()
    assert all(asker.moves == 0 and asker.lost == 0 for asker in others)
    assert all(asker.moves == 1 for asker in theirs)
    # It comes back: nobody moves, and new visitors go to it.
    dead.start()
    time.sleep(0.3)
    for asker in askers:
        assert asker.ask() == other.name.encode()
    new = Asker(other.t.port())
    assert new.ask() == dead.name.encode()
    new.visitor.close()


def test_a_client_that_stops(crowd):
    """SIGTERM: not a datagram is lost, neither on the way there nor back."""
    _, sides, askers = crowd()
    stopping, other = sides
    halves = [Asking(askers[:VISITORS // 2], within(2)), Asking(askers[VISITORS // 2:], within(2))]
    time.sleep(0.2)
    stopping.process.signal(signal.SIGTERM)
    assert stopping.process.wait(within(5)) == 0
    time.sleep(0.5)
    for half in halves:
        half.stop()
    assert [asker.lost for asker in askers] == [0] * VISITORS
    assert spread(askers) == {other.name: VISITORS}
    assert all(asker.moves <= 1 for asker in askers)


def rewrite(t, clients):
    t.service_options["echo"]["clients"] = clients
    since = t.server.log_size()
    t.rewrite()
    t.server.wait_log("reload: ", within(5), since=since)


def test_a_reload_turns_it_off_and_on(crowd):
    t, sides, askers = crowd()
    rewrite(t, "replace")
    # One of them is left, or they take the service from each other: everybody has one and the same.
    sides[0].process.stop()
    for asker in askers:
        wait_until(lambda asker=asker: asker.ask(within(0.2)) == b"two", within(10), "an answer")
    rewrite(t, "balance")
    sides[0].start()
    time.sleep(0.5)
    for asker in askers:
        assert asker.ask() == b"two"
    new = Asker(t.port())
    assert new.ask() == b"one"
    new.visitor.close()


def test_an_upgrade_of_the_server(crowd):
    t, _, askers = crowd()
    upgrade(t)
    for asker in askers:
        wait_until(lambda asker=asker: asker.ask(within(0.3)), within(10), "an answer")
    time.sleep(1)
    new = [Asker(t.port()) for _ in range(8)]
    for asker in new:
        assert asker.ask() is not None
    # The client that was back first has got those who asked meanwhile, the other one gets the new ones.
    assert set(spread(askers + new)) == {"one", "two"}
    for asker in new:
        asker.visitor.close()
