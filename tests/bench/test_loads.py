"""The loads of bench/loads.py that need no tunnel: requests at a rate, and what is made of their figures."""

import collections
import contextlib
import select
import socket
import threading
import types

import loads
import netns
import procs
import pytest
import suites


class Answers:
    """The other ends of connections: each request is counted and answered, in two parts."""

    def __init__(self, count):
        self.visitors, self.others, self.counts = [], {}, collections.Counter()
        for _ in range(count):
            near, far = socket.socketpair()
            self.visitors.append(near)
            self.others[far.fileno()] = far
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        poller = select.poll()
        for fd in self.others:
            poller.register(fd, select.POLLIN)
        while not self.ended.is_set():
            for fd, _ in poller.poll(20):
                if not self.others[fd].recv(4096):
                    poller.unregister(fd)
                    continue
                self.counts[fd] += 1
                self.others[fd].sendall(b"HTTP/1.1 200 OK\r\n\r\n" + loads.BODY[:3])
                self.others[fd].sendall(loads.BODY[3:])

    def end(self):
        self.ended.set()
        self.thread.join()
        for each in (*self.visitors, *self.others.values()):
            each.close()


@contextlib.contextmanager
def answers(count):
    made = Answers(count)
    try:
        yield made
    finally:
        made.end()


def test_requests_go_out_at_the_rate_on_each_connection_in_turn():
    with answers(5) as made:
        times, elapsed = loads._pace(made.visitors, 200, 0.5)
    assert len(times) == sum(made.counts.values()) == 100
    assert times == sorted(times) and times[0] > 0 and 0.5 <= elapsed < 5
    assert len(made.counts) == 5
    assert max(made.counts.values()) - min(made.counts.values()) <= 6  # answers may overtake each other


def test_a_connection_that_ends_is_a_failure():
    with answers(2) as made:
        next(iter(made.others.values())).shutdown(socket.SHUT_WR)
        with pytest.raises(procs.BenchError):
            loads._pace(made.visitors, 100, 0.3)


def test_requests_that_are_not_answered_are_a_failure(monkeypatch):
    monkeypatch.setattr(loads, "ANSWER_LIMIT_S", 0.1)
    near, far = socket.socketpair()
    with near, far, pytest.raises(procs.BenchError, match="1 requests got no answer"):
        loads._pace([near], 100, 0.1)


def test_memory_is_shared_out_over_the_connections():
    figures = loads._per_connection([(1000, 400), (500, 300)], [(1200, 500), (800, 600)], 100)
    assert (figures["kb_per_connection_server"], figures["kb_per_connection"]) == (2, 3)
    assert (figures["base_kb"], figures["anonymous_kb_per_connection_client"]) == (1000, 3)
    assert loads._per_connection([], [], 100) == {"connections": 100}


def test_percentiles_in_round_trips():
    load = loads.in_round_trips(lambda run: {"p50_ms": 50.0, "p99_ms": 75.0})
    assert load(types.SimpleNamespace(rtt_ms=50.0)) == {"p50_ms": 50.0, "p99_ms": 75.0, "p50_rtt": 1.0,
                                                       "p99_rtt": 1.5}


def test_a_link_with_a_rate_is_between_namespaces():
    assert all(suite.namespaces and "tc" not in suite.programs for suite in suites.SUITES if suite.shaped)
    assert [suite.name for suite in suites.SUITES if suite.shaped] == ["link-500"]


def test_without_tc_there_is_no_link_with_a_rate(monkeypatch):
    monkeypatch.setattr(netns, "supported", lambda: True)
    monkeypatch.setattr(netns.shutil, "which", lambda name: None)
    assert not netns.can_shape()


@pytest.mark.parametrize("fails", [False, True])
def test_a_kernel_without_tbf_is_asked_and_left_clean(monkeypatch, fails):
    ran = []

    def run(argv, _timeout_s):
        ran.append(argv[:3])
        if argv[0] == "tc" and fails:
            raise procs.BenchError("Specified qdisc kind is unknown")

    monkeypatch.setattr(netns, "supported", lambda: True)
    monkeypatch.setattr(netns.shutil, "which", lambda name: name)
    monkeypatch.setattr(netns.procs, "run", run)
    assert netns.can_shape() is not fails
    assert (ran[0][2], ran[-1][2]) == ("add", "delete")
