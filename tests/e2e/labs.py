"""Scenarios in labs (lab.py), all selected ones of a test file at the same time: they take long, because
they depend on the kernel's TCP timers, and mostly wait.

With a program whose limits are adjustable, its timeouts are a fifth of the default, and the kernel
retransmits five times as fast on this path: so as many retransmissions are lost before a peer is taken
for dead.
"""

import concurrent.futures
import queue
import select
import socket
import time

import pytest

import lab
import spaces
from datagrams import DATAGRAM_MAX, udp_socket
from harness import FULL, within
from lab import Lab
from limits import ARE_ADJUSTABLE, Limits
from protocol import recv_exact
from services import CHUNK, POOL, Digest, Service

FASTER = 5 if ARE_ADJUSTABLE else 1
LIMITS = Limits(silent=6, ask=2, sweep=0.2, user_timeout=4)
HEARTBEAT_S = 40 // FASTER     # the client's timeout
RTO_MIN_MS = 200 // FASTER     # of the kernel, see the module's docstring
# With the default limits: 35 and 60 s.
LATE_S, BUSY_S = LIMITS.silent + 5, HEARTBEAT_S + LIMITS.ask + 10
QUIET_S = 600 if FULL else 4 * LIMITS.silent          # how long a slow reader reads nothing
BULK = 48 << 20  # more than all buffers on the way hold
TINY = 60000
USUAL = {"server": {"heartbeat_interval": 30 // FASTER},
         "client": {"heartbeat_timeout": HEARTBEAT_S, "connect_timeout": 10 // FASTER}}


class Anything(Service):
    """The first byte of a connection selects what the service does with it."""

    def serve(self, sock, record):
        sock.settimeout(3600)
        record.kind = recv_exact(sock, 1).decode()
        {"E": self.echo, "D": self.download, "U": self.upload, "B": self.bulk, "T": self.tiny,
         "N": self.late_reader, "X": self.digest}[record.kind](sock, record)

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

    def digest(self, sock, record):
        """The rest of the connection is one of Digest."""
        Digest.serve(self, sock, record)

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


class Rover:
    """A UDP visitor whose address the system chooses anew for each datagram."""

    def __init__(self, host, port):
        self.sock, self.to = udp_socket(), (host, port)

    def insist(self, data, timeout):
        """Repeats `data` until it comes back."""
        deadline = time.monotonic() + timeout
        self.sock.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                self.sock.sendto(data, self.to)
                while (got := self.sock.recv(DATAGRAM_MAX)) != data:
                    pass
                return got
            except TimeoutError:
                pass
        raise AssertionError(f"no answer to {data!r} within {timeout:g} s")

    def close(self):
        self.sock.close()


# --- all at once ------------------------------------------------------------------------------


def run_one(scenario, arguments, some_lab, service):
    some_lab.wait_sessions(len(some_lab.services), 15)
    return scenario(some_lab, service, *arguments)


def run_all(scenarios, names, make_lab, tmp_path):
    """scenarios: {name: (function, its arguments, arguments of the lab)}. A function is called in a
    thread with its lab, the local service and its arguments; some_lab.in_main(f) runs f in the main
    thread, because programs die with the thread that starts them. A lab's argument `prepare` is called
    with the lab before the start; what it returns is stopped at the end.

    Returns {name: what the scenario returned, or raised}."""
    requests = queue.Queue()

    def in_main(function):
        future = concurrent.futures.Future()
        requests.put((function, future))
        return future.result()

    labs, services, futures, outcomes = {}, {}, {}, {}
    try:
        for name in names:
            options = dict(scenarios[name][2])
            prepare = options.pop("prepare", None)
            labs[name] = each = make_lab(tmp_path / name, **options)
            each.in_main = in_main
            with each.inside(each.local_space):
                services[name] = [Anything(lab.LOCAL_PORT, host=each.local_host)]
            if prepare:
                services[name] += prepare(each)
            each.start()
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            futures = {name: pool.submit(run_one, *scenarios[name][:2], labs[name], services[name][0])
                       for name in names}
            while not all(future.done() for future in futures.values()):
                try:
                    function, future = requests.get(timeout=0.2)
                except queue.Empty:
                    continue
                try:
                    future.set_result(function())
                except Exception as error:  # the scenario's thread raises it
                    future.set_exception(error)
    finally:
        for name, each in labs.items():
            complaint = each.close()
            for service in services.get(name, ()):
                service.stop()
            if complaint:
                outcomes[name] = AssertionError(complaint)
    for name, future in futures.items():
        outcomes.setdefault(name, future.exception() or future.result())
    return outcomes


def outcomes_of(scenarios):
    """The fixture of a test file: runs the selected ones of its scenarios."""

    @pytest.fixture(scope="module", name="outcomes")
    def outcomes(request, tmp_path_factory):
        reason = spaces.why_not("tc")
        if reason:
            pytest.skip(f"NO LAB, SO NOTHING OF THIS IS TESTED: {reason}")
        names = [item.callspec.params["name"] for item in request.session.items
                 if item.module is request.module]
        made = {}

        def make_lab(workdir, **options):
            made[workdir.name] = Lab(workdir, limits=LIMITS, rto_min_ms=RTO_MIN_MS,
                                     **{"options": USUAL, **options})
            return made[workdir.name]

        return run_all(scenarios, names, make_lab, tmp_path_factory.mktemp("labs")), made

    return outcomes


def judge(request, outcomes, name):
    all_outcomes, labs = outcomes
    request.node.e2e_processes = [((lambda p=p: p.name), p) for p in labs[name].started]
    outcome = all_outcomes[name]
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome:
        print(name, {key: round(value, 1) if isinstance(value, float) else value
                     for key, value in outcome.items()})


def of(scenarios, prefix):
    return pytest.mark.parametrize("name", [n for n in scenarios if n.startswith(prefix)])
