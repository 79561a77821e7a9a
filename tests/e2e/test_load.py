"""Load, at two sizes: an ordinary run shows that nothing fails, leaks or starves at a small size. With
E2E_FULL the sizes and the bounds of docs/robustness.md are in force.

Visitors and services are processes of their own (crowds.py).
"""

import concurrent.futures
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

from harness import (
    FULL, NOFILE, SANITIZED, free_port, is_listening, nothing_piles_up, scaled, wait_until, within,
)
from services import Digest, ping, transfer

pytestmark = pytest.mark.ours

CROWDS = pathlib.Path(__file__).resolve().parent / "crowds.py"
MIB = 1 << 20
PROBE_P99 = 0.05  # seconds: a probe beside any load
# Where the kernel begins to drop what arrives for want of memory: tcp_mem, by default a sixteenth of all.
TCP_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16
POOL_MAX = 256  # channels of a service that stay parked after a burst


class Crowd:
    """A run of crowds.py. said() is its next line, as a dict."""

    def __init__(self, kind, *numbers):
        self.kind = kind
        self.popen = subprocess.Popen(
            [sys.executable, CROWDS, kind, *map(str, numbers)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)

    def said(self):
        line = self.popen.stdout.readline()
        assert line, f"crowds.py {self.kind} ended without a word"
        return json.loads(line)

    def ask(self):
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()
        return self.said()

    def stop(self):
        self.popen.send_signal(signal.SIGTERM)
        return self.said()

    def end(self):
        self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()
        self.popen.stdout.close()


@pytest.fixture
def crowd():
    """make(kind, numbers) -> a Crowd."""
    made = []

    def make(*arguments):
        made.append(Crowd(*arguments))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def crowded(tunnel, crowd):
    """make(services, options) -> a Tunnel to services of crowds.py: {name: "echo" or "source"}."""

    def make(services, **kwargs):
        ports = {name: free_port() for name in services}
        for name, kind in services.items():
            crowd(kind, ports[name])
        for port in ports.values():
            wait_until(lambda: is_listening(port), within(10), "a service of crowds.py")
        return tunnel(ports, **kwargs)

    return make


def nothing_went_wrong(t, *more):
    """No counter of either end tells of what load may not do: at any size, on any machine."""
    names = {"cq_overflows", "control_channels_lost", "visitors_timed_out", "visitors_refused_no_client",
             "relays_silent", "out_of_memory", *more}
    for process in (t.server, t.client):
        counts = [(name, count) for worker in process.metrics() for name, count in worker.items()
                  if name in names and count > 0]
        assert not counts, (process.name, counts)


def ms(seconds):
    return f"{1000 * seconds:.2f} ms"


@pytest.mark.time_limit(120)
def test_more_idle_visitors_than_the_limit(crowded, crowd):
    """A02: visitors from many addresses, up to the service's limit: all are alive at the end. Those
    beyond it are closed at once, and fail in no other way."""
    wanted = scaled(300, 100, full=50_000)
    most = min(wanted, (NOFILE - 1024) // 2)  # two descriptors a relay, and the pool
    if most < wanted:
        warnings.warn(f"{NOFILE} descriptors: {most} idle visitors instead of {wanted}", stacklevel=1)
    surplus = most // 10
    t = crowded({"echo": "echo"}, service_options={"echo": {"max_connections": most}})
    fds = t.server.settled_fds()
    visitors = crowd("idle", t.port(), most + surplus, 50)
    first = visitors.said()
    assert first == {"alive": most, "refused": surplus, "failed": 0, "why": []}
    time.sleep(60 if FULL else 0.5)
    assert visitors.ask() == first, "visitors were lost"
    visitors.popen.stdin.close()
    t.server.wait_fds(fds + POOL_MAX, within(20))
    ping(t.port())
    print(f"{most} idle visitors, {surplus} beyond the limit refused")


def latency(crowd, t, seconds):
    """What a visitor of `probe` waits: on an open relay, and from its connect on."""
    pair, visit = crowd("pairs", t.port("probe"), 1, seconds, 0.002), crowd(
        "visits", t.port("probe"), seconds, 0.01)
    relay, visits = pair.said(), visit.said()
    assert visits["failed"] == 0, visits
    return relay, visits


@pytest.mark.realtime
@pytest.mark.time_limit(120)
def test_connect_and_reset(crowded, crowd):
    """A04: visitors that connect and reset at once, 5000 a second for two minutes. No data channel is left
    behind. Another service's visitors wait at most twice as long as before, at the 99th percentile."""
    seconds = 120 if FULL else 1
    t = crowded({"echo": "echo", "probe": "echo"})
    quiet = latency(crowd, t, min(seconds, 10))
    fds = [process.settled_fds() for process in (t.server, t.client)]

    def storm():
        floods = [crowd("resets", t.port(), 2500, seconds) for _ in range(2)]
        loaded = latency(crowd, t, 0.8 * seconds)
        each = [flood.said() for flood in floods]
        made = {name: sum(one[name] for one in each) for name in each[0]}
        for process, before in zip((t.server, t.client), fds):
            process.wait_fds(before + 2 * POOL_MAX, within(10))
        assert made["failed"] == 0, made
        return made, loaded

    if FULL:
        storm()
        kib = [process.private_kib() for process in (t.server, t.client)]
        made, loaded = storm()
        for process, before in zip((t.server, t.client), kib):
            grown = process.private_kib() - before
            assert grown <= max(0.05 * before, 256), f"{process.name}: {grown} KiB more"
    else:
        # The most that is open at a time is the machine's, and slabs keep it: until a round needs no more.
        storms = []
        nothing_piles_up([t.server, t.client], lambda: storms.append(storm()), 5000, fds_more=2 * POOL_MAX)
        made, loaded = storms[-1]
    for what, before, after in zip(("relay", "visit"), quiet, loaded):
        print(f"{made['rate']:.0f} resets/s; {what}: p99 {ms(before['p99'])} before, "
              f"{ms(after['p99'])} beside")
    nothing_went_wrong(t)
    if FULL:
        assert made["made"] > 0.95 * 5000 * seconds, made
        for before, after in zip(quiet, loaded):
            assert after["p99"] <= 2 * before["p99"] and after["p99"] < PROBE_P99


@pytest.mark.time_limit(120)
def test_transfers_all_at_once(tunnel, service):
    """A05: transfers of 1 B to 64 MiB in each direction, all at once: every byte is right."""
    count = scaled(80, 40, full=1000)
    t = tunnel({"digest": service(Digest).port})
    rng = random.Random(5)

    def size():
        # Every magnitude as often as the next.
        return max(1, int(2 ** rng.uniform(0, 26 if FULL else 20)))

    jobs = [(seed, size(), size()) for seed in range(count)]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        flows = [pool.submit(transfer, t.port("digest"), *job, timeout=within(120)) for job in jobs]
        for flow in concurrent.futures.as_completed(flows):
            flow.result()
    print(f"{count} transfers at once, {sum(up + down for _, up, down in jobs) / MIB:.0f} MiB")
    nothing_went_wrong(t, "relays_aborted")


@pytest.mark.realtime
def test_equal_streams_get_equal_shares(crowded, crowd):
    """A05: of streams of one size that all go as fast as they can, the slowest has more than a fifth of the
    fastest one's rate."""
    flows, size = (1000, 32 * MIB) if FULL else (40, 8 * MIB)
    fits = TCP_MEMORY // (6 * MIB)
    if flows > fits:
        warnings.warn(f"{fits} streams fill the kernel's memory for TCP: so many, not {flows}", stacklevel=1)
        flows = fits
    t = crowded({"source": "source"})
    said = crowd("shares", t.port("source"), flows, size).said()
    ratio = said["fastest"] / said["slowest"]
    print(f"{flows * size / said['slowest'] / 1e9:.2f} GB/s; slowest / fastest {ratio:.2f}; {said}")
    assert ratio > 0.2, said
    nothing_went_wrong(t)


@pytest.mark.realtime
def test_one_bulk_stream_and_many_questions(crowded, crowd):
    """A06: 500 relays with a question and an answer in turn, beside one bulk stream: the 99th percentile
    stays below five times of what it is without the stream."""
    flows, seconds = scaled(100, 100, full=500), 30 if FULL else 1
    t = crowded({"echo": "echo", "source": "source"})
    alone = crowd("pairs", t.port(), flows, seconds, 0).said()
    bulk = crowd("drain", t.port("source"), 1, seconds + 2.0)
    beside = crowd("pairs", t.port(), flows, seconds, 0).said()
    rate = bulk.said()["bytes"] / (seconds + 2)
    print(f"p99 {ms(alone['p99'])} alone, {ms(beside['p99'])} beside {rate / 1e9:.2f} GB/s")
    assert beside["p99"] < 5 * alone["p99"]


@pytest.mark.time_limit(120)
def test_slow_readers(crowded, crowd):
    """A08: visitors that read 1 KiB a second of an endless stream cost at most 256 KiB each, and others wait
    no longer for it."""
    flows, seconds = scaled(40, 40, full=500), 60 if FULL else 1
    t = crowded({"source": "source", "probe": "echo"})
    before = [process.private_kib() for process in (t.server, t.client)]
    readers = crowd("slow", t.port("source"), flows, 1024)
    assert readers.said()["flows"] == flows
    probe = crowd("pairs", t.port("probe"), 1, seconds, 0.002).said()
    grown = [process.private_kib() - kib for process, kib in zip((t.server, t.client), before)]
    said = readers.stop()
    print(f"{flows} slow readers: {max(grown) / flows:.1f} KiB each; probe p99 {ms(probe['p99'])}")
    assert said["ended"] == 0, said
    assert probe["p99"] < PROBE_P99 or not FULL
    if not SANITIZED:
        assert max(grown) <= 256 * flows, grown
    ping(t.port("probe"))
