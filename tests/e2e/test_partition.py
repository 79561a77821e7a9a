"""The path between server and client drops all packets silently, in both directions or in one, or the
client is gone for good. No visitor waits for ever: visitors that arrive during the cut are reset
within 35 s, busy ones within 60 s. A peer that is only slow, stopped, or behind a lossy path must not
be taken for dead.

The scenarios run at the same time, with times a fifth of the real ones (labs.py).
"""

import contextlib
import re
import socket
import time

import pytest

import lab
import labs
import noise_peer
from harness import FULL, within
from lab import BOTH, TO_CLIENT, TO_SERVER
from labs import (
    BULK, BUSY_S, FASTER, LATE_S, LIMITS, QUIET_S, TINY, ask, at_work, judge, read_all,
    silent_resets,
)
from services import CHUNK, POOL

CUT_S = 300 if FULL else BUSY_S + 3                   # how long the path stays cut
BRIEF_S = LIMITS.silent / 3                           # too short to end anything
STOPPED_S = LIMITS.silent + 6                         # longer than the limit of a silent end
LOSSY_S = 600 if FULL else 2 * LIMITS.silent

pytestmark = [pytest.mark.slow, pytest.mark.ours, pytest.mark.time_limit(260)]


# --- scenarios: each runs in a thread ---------------------------------------------------------


def cut(some_lab, service, direction):
    visitors = at_work(some_lab)
    some_lab.cut(direction)
    since = time.monotonic()
    came = {}
    for name, after in (("late", 3), ("later", 15)): # the session may have ended by then, or not
        visitors.run_until(since + after / FASTER)
        came[name] = time.monotonic()
        with contextlib.suppress(ConnectionRefusedError):
            visitors.add(name, "E", b"knock")
    assert "late" in visitors.socks
    visitors.run_until(since + CUT_S)
    # The cut still lasts.
    times = {name: visitors.check_reset(name, came[name], LATE_S)
             for name in came if name in visitors.socks}
    for name in ("download", "upload", "idle"):
        times[name] = visitors.check_reset(name, since, BUSY_S)
    # The local service sees resets too: a cut upload must not look complete.
    left = [f"{r.kind} {r.end}" for r in service.records if r.end == "fin" or not r.done.is_set()]
    assert not left, f"at the local service: {left}"
    # An end that hears nothing gives its busy relay up because nothing was acknowledged. Those that had
    # nothing to say were asked, after the session; if one of them ends first in the second, the log has its
    # line alone. The other end of a cut in one direction may have heard its resets by then.
    deaf = {TO_SERVER: ("server",), TO_CLIENT: ("client",), BOTH: ("server", "client")}[direction]
    for role in deaf:
        process, peer = getattr(some_lab, role), {"server": "client", "client": "server"}[role]
        assert process.metric("relays_silent") - process.metric("relays_asked") >= 1, process.name
        assert re.search(rf"relay reset: the {peer} is gone: (nothing was acknowledged|no answer)",
                         process.log())
    healed = time.monotonic()
    some_lab.heal()
    some_lab.wait_sessions(2, 6)
    times["session after healing"] = time.monotonic() - healed
    again = some_lab.visit()
    again.sendall(b"E")
    ask(again)
    again.close()
    visitors.close()
    return times


def brief(some_lab, service):
    """A brief cut ends no relay and no session: TCP retransmits what was lost."""
    visitors = at_work(some_lab)
    some_lab.cut(BOTH)
    visitors.run_until(time.monotonic() + BRIEF_S)
    some_lab.heal()
    moved = dict(visitors.moved)
    visitors.run_until(time.monotonic() + BRIEF_S)
    assert visitors.ends == {}
    assert visitors.moved["download"] > moved["download"]
    assert visitors.moved["upload"] > moved["upload"]
    ask(visitors.socks["idle"])
    assert silent_resets(some_lab) == [0, 0]
    assert some_lab.client.log().count("control channel established") == 1
    visitors.close()


def slow_reader(some_lab, service):
    """Each of the four sockets of a relay has a zero window for four times the limit of a silent peer (two
    minutes by default)."""
    begun = time.monotonic()
    readers = {}
    for kind, room in (("B", None), ("T", 4096), ("T", 65536)):
        with some_lab.inside("visitor"):
            sock = socket.socket()
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.settimeout(60)
        sock.connect((lab.SERVER_FRONT, lab.SERVICE_PORT))
        sock.sendall(kind.encode())
        readers[sock] = BULK if kind == "B" else TINY
    writers = {}
    for chunk in (POOL[:CHUNK], b"t"):
        sock = some_lab.visit()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"N")
        writers[sock] = sent = 0
        sock.settimeout(3)
        try:
            while sent < (BULK if len(chunk) > 1 else TINY):
                sent += sock.send(chunk)
        except TimeoutError:
            pass
        writers[sock] = sent
    time.sleep(max(0, begun + QUIET_S - time.monotonic()))
    assert silent_resets(some_lab) == [0, 0]
    for sock, expected in readers.items():
        assert read_all(sock) == expected
        sock.close()
    for sock in writers:
        sock.shutdown(socket.SHUT_WR)
    late = service.of("N")  # in any order: visitors are spread over workers
    assert len(late) == 2 and all(record.done.wait(within(60)) for record in late)
    received = sorted(record.received for record in late)
    assert received == sorted(writers.values())
    for sock in writers:
        sock.close()
    some_lab.wait_sessions(1)
    assert some_lab.client.log().count("control channel established") == 1
    return {"sent before the window shut": list(writers.values())}


def stopped(some_lab, service, role):
    """Our own process is stopped (SIGSTOP, a suspended container). Its kernel still acknowledges data."""
    visitors = at_work(some_lab)
    process = getattr(some_lab, role)
    process.signal(19)
    visitors.run_until(time.monotonic() + STOPPED_S)
    process.signal(18)
    moved = dict(visitors.moved)
    visitors.run_until(time.monotonic() + 8)
    assert visitors.ends == {}
    assert visitors.moved["download"] > moved["download"]
    assert visitors.moved["upload"] > moved["upload"]
    ask(visitors.socks["idle"])
    assert silent_resets(some_lab) == [0, 0]
    visitors.close()


def lossy(some_lab, service):
    visitors = at_work(some_lab)
    some_lab.lose(10)
    talker = visitors.add("talker", "E")
    until = time.monotonic() + LOSSY_S
    while time.monotonic() < until:
        ask(talker)
        visitors.step()
    some_lab.heal()
    ask(visitors.socks["idle"])
    assert visitors.ends == {}
    assert silent_resets(some_lab) == [0, 0]
    visitors.close()


def gone_client(some_lab, service):
    """The client and its address are gone; another client logs in from another address."""
    visitors = at_work(some_lab)
    some_lab.move_client()
    since = time.monotonic()
    some_lab.client.kill9()
    some_lab.client = some_lab.in_main(lambda: some_lab.spawn("client", "client2"))
    some_lab.wait_sessions(1, 5)
    fresh = some_lab.visit()
    begun = time.monotonic()
    fresh.sendall(b"E")
    ask(fresh)
    assert time.monotonic() - begun < within(1)
    visitors.run_until(since + LIMITS.silent + 15)
    ask(fresh)  # the new session goes on
    times = {name: visitors.check_reset(name, since, BUSY_S)
             for name in ("download", "upload", "idle")}
    assert silent_resets(some_lab) == [3, 0]
    fresh.close()
    visitors.close()
    return times


NOISE = noise_peer.Noise("NK")
PATIENT = {"client": {"heartbeat_timeout": 100}}
SCENARIOS = {  # name: (scenario, its arguments, arguments of the lab)
    "cut-both-tcp": (cut, (BOTH,), {}),
    "cut-both-noise": (cut, (BOTH,), {"transport": NOISE}),
    "cut-to_server-tcp": (cut, (TO_SERVER,), {}),
    "cut-to_server-noise": (cut, (TO_SERVER,), {"transport": NOISE}),
    "cut-to_client-tcp": (cut, (TO_CLIENT,), {}),
    "cut-to_client-noise": (cut, (TO_CLIENT,), {"transport": NOISE}),
    "brief_cut": (brief, (), {}),
    "slow_reader-tcp": (slow_reader, (), {}),
    "slow_reader-noise": (slow_reader, (), {"transport": NOISE}),
    "stopped-server": (stopped, ("server",), {"options": PATIENT}),
    "stopped-client": (stopped, ("client",), {"options": PATIENT}),
    "lossy": (lossy, (), {}),
    "gone_client": (gone_client, (), {}),
}

outcomes = labs.outcomes_of(SCENARIOS)


@labs.of(SCENARIOS, "cut")
def test_cut_path(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "brief_cut")
def test_brief_cut_ends_nothing(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "gone_client")
def test_client_gone_without_a_word(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "slow_reader")
def test_slow_reader_lives(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "stopped")
def test_stopped_process_resets_nobody(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "lossy")
def test_loss_is_not_silence(request, outcomes, name):
    judge(request, outcomes, name)
