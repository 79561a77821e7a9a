"""Several clients of one service (`clients = balance`)."""

import collections
import contextlib
import json
import signal
import socket
import threading
import time
import urllib.request

import pytest

from harness import OURS, RATHOLE, free_port, have, scaled, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import Echo, Http, Named, Service, http_get, ping
from upgrades import upgrade

pytestmark = pytest.mark.ours

BALANCE = {"echo": {"clients": "balance"}}


def start_clients(t, locals_, implementation=(OURS, OURS)):
    """Starts one client for each local service. Returns their processes."""
    clients = []
    for n, (local, kind) in enumerate(zip(locals_, implementation)):
        t.services["echo"] = local.port
        t.impl["client"] = kind
        clients.append(t.spawn("client", name=f"client{n}"))
        wait_until(lambda: t.server.log().count("control channel established") > n, within(10),
                   f"client {n} to log in")
    t.client = clients[0]
    return clients


def balanced(tunnel, service, kinds=(Named, Named), implementation=(OURS, OURS), status_port=None,
             **kwargs):
    """A server, and two clients with a local service each. Returns tunnel, services and clients."""
    locals_ = [service(kind, f"{n}") if kind is Named else service(kind)
               for n, kind in enumerate(kinds)]
    t = tunnel({"echo": locals_[0].port}, start=False, service_options=BALANCE, **kwargs)
    plain = t.config
    if status_port:
        section = f'[status]\nbind_addr = "127.0.0.1:{status_port}"\n'
        t.config = lambda role: plain(role) + (section if role == "server" else "")
    t.start_server()
    clients = start_clients(t, locals_, implementation)
    return t, locals_, clients


def ask_name(port):
    with connect(port, timeout=within(10)) as sock:
        return recv_exact(sock, 1).decode()


def new_logins(t, count, since=0):
    wait_until(lambda: t.server.log()[since:].count("control channel established") >= count,
               within(15), f"{count} logins")


@pytest.mark.parametrize("second", [OURS, RATHOLE])
def test_visitors_are_spread(tunnel, service, threads, second):
    if second == RATHOLE and not have(RATHOLE):
        pytest.skip("no rathole")
    t, locals_, _ = balanced(tunnel, service, implementation=(OURS, second), threads=threads)
    answers = collections.Counter(ask_name(t.port()) for _ in range(40))
    assert set(answers) == {"0", "1"} and min(answers.values()) >= 10, answers
    assert sum(local.connections for local in locals_) == 40


def test_the_emptier_one_comes_first(tunnel, service, threads):
    """Visitors stay at the first client, which is alone at first. Then the second one gets the new
    ones until it has as many."""
    first, second = service(Echo), service(Echo)
    t = tunnel({"echo": first.port}, start=False, service_options=BALANCE, threads=threads)
    t.start_server()
    start_clients(t, [first])
    held = []

    def visit():
        sock = connect(t.port(), timeout=within(10))
        sock.sendall(b"x")
        assert recv_exact(sock, 1) == b"x"
        held.append(sock)

    for _ in range(10):
        visit()
    t.services["echo"] = second.port
    t.spawn("client", name="second")
    new_logins(t, 2)
    time.sleep(0.3)  # its channels come
    for _ in range(10):
        visit()
        time.sleep(0.02)  # so that a channel of the emptier one is there
    assert (first.connections, second.connections) == (10, 10)
    for sock in held[:5]:
        sock.close()
    first_open = first.open_count
    wait_until(lambda: first_open() == 5, within(5), "five to leave")
    time.sleep(0.2)
    for _ in range(5):
        visit()
        time.sleep(0.02)
    assert (first.connections, second.connections) == (15, 10)
    for sock in held:
        sock.close()


def test_replace_is_as_before(tunnel, service):
    first, second = service(Named, "0"), service(Named, "1")
    t = tunnel({"echo": first.port}, start=False)
    t.start_server()
    start_clients(t, [first])
    assert ask_name(t.port()) == "0"
    t.services["echo"] = second.port
    t.spawn("client", name="second")
    t.server.wait_log(r"replaced by a newer one", within(10))
    t.client.kill9()
    wait_until(lambda: ask_name(t.port()) == "1", within(10), "the newest")
    assert [ask_name(t.port()) for _ in range(10)] == ["1"] * 10


class Load:
    """Visitors one after the other from a few threads: each sends a request and reads the answer."""

    def __init__(self, port, threads=4):
        self.port, self.stopping = port, False
        self.results = []  # (time of connect, error or None, answer)
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.stopping:
            start, answer, error = time.monotonic(), None, None
            try:
                with socket.create_connection(("127.0.0.1", self.port), within(20)) as sock:
                    sock.settimeout(within(20))
                    answer = http_get(sock, b"/")
            except (OSError, EOFError, IndexError) as problem:
                error = problem
            self.results.append((start, error, answer))
            time.sleep(0.002)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()
        return self.results


def failures(results, since=0.0):
    return [(start, error) for start, error, _ in results if error is not None and start >= since]


def lost_at(t):
    """The time at which the server has noticed the end of a client."""
    t.server.wait_log("control channel lost", within(10))
    return time.monotonic()


@pytest.mark.parametrize("second", [OURS, RATHOLE])
def test_one_is_killed_under_load(tunnel, service, threads, second):
    """kill -9 of one client: nobody fails who comes after the server has noticed, and of those before
    only visitors in flight. No request reaches two services: the ledger counts them."""
    if second == RATHOLE and not have(RATHOLE):
        pytest.skip("no rathole")
    t, locals_, clients = balanced(tunnel, service, kinds=(Http, Http),
                                   implementation=(OURS, second), threads=threads)
    load = Load(t.port())
    time.sleep(1)
    clients[1].kill9()
    noticed = lost_at(t)
    time.sleep(1.5)
    results = load.stop()
    assert failures(results, since=noticed) == []
    assert len(failures(results)) <= 4, "more than one in flight for each thread"
    assert len([1 for start, _, _ in results if start >= noticed]) > 50
    assert all(local.connections > 10 for local in locals_)


def test_one_stops_under_load(tunnel, service, threads):
    """SIGTERM of one client: nobody fails at all."""
    t, locals_, clients = balanced(tunnel, service, kinds=(Http, Http), threads=threads)
    load = Load(t.port())
    time.sleep(1)
    clients[0].signal(signal.SIGTERM)
    clients[0].wait(within(10))
    time.sleep(1)
    results = load.stop()
    assert failures(results) == []
    before = locals_[0].connections
    assert ask_http(t.port()) and locals_[0].connections == before


def ask_http(port):
    with connect(port, timeout=within(10)) as sock:
        return http_get(sock, b"/")


def test_its_relays_go_on(tunnel, service):
    """A client that stops takes no new visitors, and ends after its last one."""
    t, locals_, clients = balanced(tunnel, service, kinds=(Echo, Echo),
                                   client_options={"drain_timeout": 30})
    held = [connect(t.port(), timeout=within(10)) for _ in range(10)]
    for sock in held:
        sock.sendall(b"a")
        assert recv_exact(sock, 1) == b"a"
    of_first = locals_[0].open_count()
    assert 0 < of_first < 10
    clients[0].signal(signal.SIGTERM)
    lost_at(t)
    for _ in range(10):
        ping(t.port())
    assert locals_[0].open_count() == of_first == locals_[0].connections
    for sock in held:
        sock.sendall(b"b")
        assert recv_exact(sock, 1) == b"b"
        sock.close()
    clients[0].wait(within(10))


class Sessions:
    """The server's [status], asked again and again: [(time, the number of its clients of echo)]."""

    def __init__(self, t, port):
        self.url, self.seen, self.stopping = f"http://127.0.0.1:{port}/status", [], False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def now(self):
        with urllib.request.urlopen(self.url, timeout=within(5)) as answer:
            return json.load(answer)["services"][0]["clients"]

    def _run(self):
        while not self.stopping:
            self.seen.append((time.monotonic(), self.now()))
            time.sleep(0.01)

    def stop(self):
        self.stopping = True
        self.thread.join()
        return self.seen


def test_an_upgrade_of_one_client(tunnel, service, processes, threads):
    """Nobody fails. The old process gets no visitor once the new one is logged in, and the server never
    counts the client twice for long."""
    status_port = free_port()
    t, (_, before), clients = balanced(tunnel, service, kinds=(Http, Http), threads=threads,
                                       status_port=status_port)
    t.kept, after = processes, service(Http)
    sessions = Sessions(t, status_port)
    load = Load(t.port())
    time.sleep(0.5)
    t.client = clients[1]
    t.services["echo"] = after.port  # so that the services tell the two processes apart
    (t.workdir / "client1.ini").write_text(t.config("client"))
    begun = time.monotonic()
    old, _ = upgrade(t, "client")
    wait_until(lambda: after.connections > 0, within(10), "the new process")
    lost_at(t)
    wait_until(lambda: sessions.now() == 2, within(5), "two sessions")
    settled, count = time.monotonic(), before.connections
    assert old.wait(within(3)) == 0, "it does not wait for LIMIT_UPGRADE_HOLD_MS"
    time.sleep(0.5)
    assert failures(load.stop()) == []
    assert before.connections == count, "the old process got a visitor"
    assert after.connections > 10
    seen = sessions.stop()
    twice = [when for when, clients in seen if clients > 2]
    assert {clients for _, clients in seen} <= {2, 3}
    assert not twice or twice[-1] - twice[0] < within(1)
    assert settled - begun < within(5)


def test_an_upgrade_of_the_server(tunnel, service):
    t, locals_, _ = balanced(tunnel, service, kinds=(Http, Http))
    load = Load(t.port())
    time.sleep(0.5)
    upgrade(t)
    new_logins(t, 2)
    time.sleep(1)
    results = load.stop()
    assert failures(results) == []
    counts = [local.connections for local in locals_]
    for _ in range(20):
        ask_http(t.port())
    assert all(local.connections > before for local, before in zip(locals_, counts))


def rewrite(t, clients=None, **options):
    t.service_options["echo"] = {"clients": clients, **options} if clients else options
    t.rewrite()


def test_a_reload_to_replace_and_back(tunnel, service):
    t, _, clients = balanced(tunnel, service)
    rewrite(t, "replace")
    t.server.wait_log("replaced by a newer one", within(10))
    # The first one logs in again, as rathole's would, and replaces the second, and so on: one at a time.
    clients[0].kill9()
    wait_until(lambda: ask_or_none(t.port()) == "1", within(10), "the second one")
    assert [ask_name(t.port()) for _ in range(6)] == ["1"] * 6
    since = len(t.server.log())
    rewrite(t, "balance")
    t.server.wait_log("reload", within(10), since)
    time.sleep(0.5)
    t.spawn("client", text=(t.workdir / "client0.ini").read_text(), name="client0")
    wait_until(lambda: {ask_name(t.port()) for _ in range(10)} == {"0", "1"}, within(10), "both")


def ask_or_none(port):
    with contextlib.suppress(OSError, EOFError):
        return ask_name(port)
    return None


def test_a_new_token_ends_all(tunnel, service):
    t, _, _ = balanced(tunnel, service)
    rewrite(t, "balance", token="another")
    wait_until(lambda: t.server.log().count("the configuration has changed") == 2, within(10),
               "both sessions to end")
    rewrite(t, "balance")
    new_logins(t, 4)
    wait_until(lambda: {ask_name(t.port()) for _ in range(10)} == {"0", "1"}, within(10), "both")


class ClosesAtOnce(Service):
    """Ends without a word, as a service that is full."""

    def serve(self, sock, record):
        record.end = "fin"


def test_a_second_attempt_elsewhere(tunnel, service):
    """A channel that ends before any byte: the visitor gets another client, once. It sends nothing
    before the banner, so nothing can come twice."""
    t, (bad, good), _ = balanced(tunnel, service, kinds=(ClosesAtOnce, Named))
    answers = [ask_name(t.port()) for _ in range(20)]
    assert answers == ["1"] * 20
    assert bad.connections + good.connections <= 40 and good.connections == 20
    assert t.server.metric("visitors_tried_again") == bad.connections > 0
    bad.also_meant(20), good.also_meant(20)


def test_a_local_service_that_is_down(tunnel, service):
    """Its client resets the channel, and the visitor gets the other client, as above."""
    t, (down, good), _ = balanced(tunnel, service)
    down.stop()
    answers = [ask_name(t.port()) for _ in range(20)]
    assert answers == ["1"] * 20
    assert good.connections == 20 and t.server.metric("visitors_tried_again") > 0
    time.sleep(2.5)  # the first doubt is over
    assert ask_name(t.port()) == "1"
    assert not [line for line in t.server.log().splitlines() if " answer" in line], "that client is well"


def test_no_third_attempt(tunnel, service):
    t, locals_, _ = balanced(tunnel, service, kinds=(ClosesAtOnce, ClosesAtOnce))
    for _ in range(5):
        with connect(t.port()) as sock:
            assert how_closed(sock, within(10))[0] in ("fin", "rst")
    assert sum(local.connections for local in locals_) == 10
    assert t.server.metric("visitors_tried_again") == 5
    for local in locals_:
        local.also_meant(10)


class ReadsAndResets(Service):
    """Acts upon a request, and then the connection breaks without an answer."""

    def serve(self, sock, record):
        record.received += len(sock.recv(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        record.end = "rst"


def test_what_was_sent_is_never_sent_again(tunnel, service, threads):
    """A payment goes to one client, and fails there. It must not be made at the other one."""
    t, locals_, _ = balanced(tunnel, service, kinds=(ReadsAndResets, ReadsAndResets),
                             threads=threads)
    count = scaled(60, 20)
    for n in range(count):
        with connect(t.port(), timeout=within(10)) as sock:
            if n % 2 == 0:
                time.sleep(0.02)  # the command has gone alone
            sock.sendall(b"pay")
            how, data = how_closed(sock, within(10))
            assert how == "rst" and data == b""
    assert sum(record.received for local in locals_ for record in local.records) <= 3 * count
    assert sum(record.received > 0 for local in locals_ for record in local.records) <= count
    assert t.server.metric("visitors_tried_again") == 0
