"""The path between server and client drops all packets silently, in both directions or in one, or the
client is gone for good. No visitor waits for ever: visitors that arrive during the cut are reset
within 35 s, busy ones within 60 s. A peer that is only slow, stopped, or behind a lossy path must not
be taken for dead.

The scenarios take minutes of real time, because they depend on the kernel's TCP timers. So each
scenario has its own lab (lab.py), and all selected ones run at the same time. With a program whose
limits are adjustable, its timeouts are a fifth of the default, and the kernel retransmits five times
as fast on this path: so as many retransmissions are lost before a peer is taken for dead.
"""

import concurrent.futures
import contextlib
import queue
import re
import select
import socket
import time

import pytest

import lab
import noise_peer
import spaces
from harness import FULL, within
from lab import BOTH, TO_CLIENT, TO_SERVER, Lab
from limits import ARE_ADJUSTABLE, Limits
from protocol import recv_exact
from services import CHUNK, POOL, Service

FASTER = 5 if ARE_ADJUSTABLE else 1
LIMITS = Limits(silent=6, ask=2, sweep=0.2, user_timeout=4)
HEARTBEAT_S = 40 // FASTER     # the client's timeout
RTO_MIN_MS = 200 // FASTER     # of the kernel, see the module's docstring
# With the default limits: 35 and 60 s.
LATE_S, BUSY_S = LIMITS.silent + 5, HEARTBEAT_S + LIMITS.ask + 10
CUT_S = 300 if FULL else BUSY_S + 3                   # how long the path stays cut
BRIEF_S = LIMITS.silent / 3                           # too short to end anything
QUIET_S = 600 if FULL else 4 * LIMITS.silent          # how long a slow reader reads nothing
STOPPED_S = LIMITS.silent + 6                         # longer than the limit of a silent end
LOSSY_S = 600 if FULL else 2 * LIMITS.silent
BULK = 48 << 20  # more than all buffers on the way hold
TINY = 60000

pytestmark = [pytest.mark.slow, pytest.mark.ours, pytest.mark.time_limit(260)]


# --- local service and visitors ---------------------------------------------------------------


class Anything(Service):
    """The first byte of a connection selects what the service does with it."""

    def serve(self, sock, record):
        sock.settimeout(600)
        record.kind = recv_exact(sock, 1).decode()
        {"E": self.echo, "D": self.download, "U": self.upload, "B": self.bulk, "T": self.tiny,
         "N": self.late_reader}[record.kind](sock, record)

    def echo(self, sock, record):
        while data := sock.recv(CHUNK):
            sock.sendall(data)
        record.end = "fin"

    def download(self, sock, record):
        while not self.stopping:
            sock.sendall(POOL[:65536])
            time.sleep(0.05)

    def upload(self, sock, record):
        while data := sock.recv(CHUNK):
            record.received += len(data)
        record.end = "fin"

    def bulk(self, sock, record):
        for at in range(0, BULK, CHUNK):
            sock.sendall(POOL[at % len(POOL):at % len(POOL) + CHUNK])
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if not sock.recv(1) else "surplus"

    def tiny(self, sock, record):
        for _ in range(TINY):
            sock.sendall(b"t")
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if not sock.recv(1) else "surplus"

    def late_reader(self, sock, record):
        time.sleep(QUIET_S)
        self.upload(sock, record)

    def of(self, kind):
        with self.lock:
            return [record for record in self.records if getattr(record, "kind", None) == kind]


class Visitors:
    """Several visitors in use. step() reads and writes all of them, and notes when and how each ended."""

    def __init__(self, some_lab):
        self.lab, self.socks, self.ends, self.moved = some_lab, {}, {}, {}

    def add(self, name, kind, greeting=b""):
        sock = self.lab.visit()
        sock.sendall(kind.encode() + greeting)
        sock.setblocking(False)
        self.socks[name], self.moved[name] = sock, 0
        return sock

    def _move(self, name, sock):
        try:
            if name == "upload":
                self.moved[name] += sock.send(POOL[:65536])
        except BlockingIOError:
            pass
        try:
            data = sock.recv(CHUNK)
        except BlockingIOError:
            return
        if data:
            self.moved[name] += len(data)
        else:
            self.ends[name] = ("fin", time.monotonic())

    def step(self):
        open_ones = {name: sock for name, sock in self.socks.items() if name not in self.ends}
        select.select(list(open_ones.values()), [], [], 0.05)
        for name, sock in open_ones.items():
            try:
                self._move(name, sock)
            except (ConnectionResetError, BrokenPipeError):
                self.ends[name] = ("rst", time.monotonic())
        time.sleep(0.03)  # a paced load: many labs share the machine

    def run_until(self, deadline):
        while time.monotonic() < deadline:
            self.step()

    def check_reset(self, name, since, bound):
        how, when = self.ends.get(name, ("open", time.monotonic()))
        assert how == "rst", f"{name}: {how} {when - since:.1f} s after the cut"
        assert when - since < within(bound), f"{name}: reset after {when - since:.1f} s only"
        return when - since

    def close(self):
        for sock in self.socks.values():
            sock.close()


def ask(sock, question=b"are you there"):
    sock.settimeout(30)
    sock.sendall(question)
    assert recv_exact(sock, len(question)) == question
    sock.setblocking(False)


def read_all(sock):
    """The number of bytes until the end of the stream."""
    sock.settimeout(within(30))
    count = 0
    while data := sock.recv(CHUNK):
        count += len(data)
    return count


def at_work(some_lab):
    visitors = Visitors(some_lab)
    visitors.add("download", "D")
    visitors.add("upload", "U")
    ask(visitors.add("idle", "E"))
    visitors.run_until(time.monotonic() + 2)
    assert min(visitors.moved["download"], visitors.moved["upload"]) > 0
    return visitors


def silent_resets(some_lab):
    return [process.metric("relays_silent") for process in (some_lab.server, some_lab.client)]


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
    assert sum(silent_resets(some_lab)) >= 2
    logs = some_lab.server.log() + some_lab.client.log()
    assert re.search(r"relay reset: the (client|server) is gone: nothing was acknowledged", logs)
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


def gone_client(some_lab, service, in_main):
    """The client and its address are gone; another client logs in from another address."""
    visitors = at_work(some_lab)
    some_lab.move_client()
    since = time.monotonic()
    some_lab.client.kill9()
    some_lab.client = in_main(lambda: some_lab.spawn("client", "client2"))
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
USUAL = {"server": {"heartbeat_interval": 30 // FASTER},
         "client": {"heartbeat_timeout": HEARTBEAT_S, "connect_timeout": 10 // FASTER}}
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


# --- all at once ------------------------------------------------------------------------------


def run_one(name, some_lab, service, in_main):
    scenario, arguments, _ = SCENARIOS[name]
    some_lab.wait_sessions(1, 15)
    extra = (in_main,) if scenario is gone_client else ()
    return scenario(some_lab, service, *arguments, *extra)


def run_all(names, make_lab, tmp_path):
    """{name: what the scenario returned, or raised}"""
    requests = queue.Queue()

    def in_main(function):
        """Programs die with the thread that starts them."""
        future = concurrent.futures.Future()
        requests.put((function, future))
        return future.result()

    labs, services, futures, outcomes = {}, {}, {}, {}
    try:
        for name in names:
            labs[name] = make_lab(tmp_path / name, **SCENARIOS[name][2])
            with labs[name].inside("client"):
                services[name] = Anything(lab.LOCAL_PORT)
            labs[name].start()
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            futures = {name: pool.submit(run_one, name, labs[name], services[name], in_main)
                       for name in names}
            while not all(future.done() for future in futures.values()):
                try:
                    function, future = requests.get(timeout=0.2)
                    future.set_result(function())
                except queue.Empty:
                    pass
    finally:
        for name, each in labs.items():
            complaint = each.close()
            if name in services:
                services[name].stop()
            if complaint:
                outcomes[name] = AssertionError(complaint)
    for name, future in futures.items():
        outcomes.setdefault(name, future.exception() or future.result())
    return outcomes


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    reason = spaces.why_not()
    if reason:
        pytest.skip(f"NO PARTITION IS TESTED: {reason}")
    names = [item.callspec.params["name"] for item in request.session.items
             if item.module is request.module]
    made = {}

    def make_lab(workdir, **options):
        made[workdir.name] = Lab(workdir, limits=LIMITS, rto_min_ms=RTO_MIN_MS,
                                 **{"options": USUAL, **options})
        return made[workdir.name]

    return run_all(names, make_lab, tmp_path_factory.mktemp("labs")), made


def judge(request, outcomes, name):
    all_outcomes, labs = outcomes
    request.node.e2e_processes = [((lambda p=p: p.name), p) for p in labs[name].started]
    outcome = all_outcomes[name]
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome:
        print(name, {key: value if isinstance(value, list) else round(value, 1)
                     for key, value in outcome.items()})


def of(prefix):
    return pytest.mark.parametrize("name", [n for n in SCENARIOS if n.startswith(prefix)])


@of("cut")
def test_cut_path(request, outcomes, name):
    judge(request, outcomes, name)


@of("brief_cut")
def test_brief_cut_ends_nothing(request, outcomes, name):
    judge(request, outcomes, name)


@of("gone_client")
def test_client_gone_without_a_word(request, outcomes, name):
    judge(request, outcomes, name)


@of("slow_reader")
def test_slow_reader_lives(request, outcomes, name):
    judge(request, outcomes, name)


@of("stopped")
def test_stopped_process_resets_nobody(request, outcomes, name):
    judge(request, outcomes, name)


@of("lossy")
def test_loss_is_not_silence(request, outcomes, name):
    judge(request, outcomes, name)
