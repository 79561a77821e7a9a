"""[status]: metrics, JSON, health and --status of a running process, and readers that mean no good."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import pytest

from datagrams import UdpEcho, UdpVisitor, knock
from harness import BINARIES, OURS, free_port, is_listening, scaled, wait_until, within
from limits import Limits
from protocol import connect, how_closed, recv_exact
from services import Echo, EchoForMany, Sink, ping
from upgrades import upgrade

parsers = pytest.importorskip("prometheus_client.openmetrics.parser")
from prometheus_client import parser as old_parser  # noqa: E402 (after the check that it is there)

pytestmark = pytest.mark.ours

LIMITS = Limits(watch_look=0.05, watch_again=0.03, watch_doubt=0.5, address_retry=0.25,
                retry_min=0.1, second=0.4, upgrade_hold=3)
TOKEN = "status-token-5a1"
PATHS = ["/", "/metrics", "/status", "/status.tsv", "/healthz", "/readyz"]
OPEN_PATHS = ["/", "/healthz"]


class Answer:
    def __init__(self, data):
        head, self.body = data.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        self.code = int(first.split()[1])
        self.headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}

    @property
    def text(self):
        return self.body.decode()


class Status:
    """The status of one end of a tunnel; address: a port, or the path of a unix socket."""

    def __init__(self, address, token=None):
        self.address, self.token = address, token

    def section(self):
        where = (f"127.0.0.1:{self.address}" if isinstance(self.address, int)
                 else f"unix:{self.address}")
        lines = ["", "[status]", f'bind_addr = "{where}"']
        return "\n".join(lines + ([f'token = "{self.token}"'] if self.token else [])) + "\n"

    def connect(self):
        if isinstance(self.address, int):
            return socket.create_connection(("127.0.0.1", self.address), timeout=within(10))
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(within(10))
        sock.connect(str(self.address))
        return sock

    def send(self, data):
        """The whole answer to these bytes."""
        with self.connect() as sock:
            sock.sendall(data)
            return Answer(read_all(sock))

    def get(self, path, method="GET", token=None, accept=None):
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        token = token if token is not None else self.token
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [f"Accept: {accept}"] if accept else []
        return self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def is_ready(self):
        try:
            return self.get("/readyz").code == 200
        except OSError:
            return False

    def json(self):
        answer = self.get("/status")
        assert answer.code == 200 and answer.headers["content-type"] == "application/json"
        return json.loads(answer.body)

    def service(self, name="echo"):
        return next(s for s in self.json()["services"] if s["name"] == name)

    def metrics(self):
        """{(sample name, label values): value}, after the parser of OpenMetrics has accepted it."""
        answer = self.get("/metrics", accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
        assert answer.headers["content-type"] == (
            "application/openmetrics-text; version=1.0.0; charset=utf-8")
        found = {}
        for family in parsers.text_string_to_metric_families(answer.text):
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.values()))
                assert key not in found, key
                found[key] = sample.value
        return found


def read_all(sock):
    data = b""
    while True:
        piece = sock.recv(65536)
        if not piece:
            return data
        data += piece


@pytest.fixture
def make(tunnel, processes):
    """make(services, role, ...) -> a started tunnel, and the Status of that end."""

    def make(services, role="server", status=None, token=None, **kwargs):
        status = status or Status(free_port(), token)
        t = tunnel(services, start=False, limits=LIMITS, **kwargs)
        t.kept = processes
        plain = t.config
        t.status_text = {role: status.section()}
        t.config = lambda which: plain(which) + t.status_text.get(which, "")
        t.start()
        wait_until(status.is_ready, within(10), "ready")
        return t, status

    return make


# --- what it serves -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_path(make, service, role):
    _, status = make({"echo": service(Echo).port}, role)
    types = {"/": "text/html; charset=utf-8", "/metrics": "text/plain; version=0.0.4; charset=utf-8",
             "/status": "application/json"}
    for path in PATHS:
        answer = status.get(path)
        assert answer.code == 200, path
        assert answer.headers["content-type"] == types.get(path, "text/plain; charset=utf-8")
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        assert answer.headers["connection"] == "close"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        head = status.get(path, method="HEAD")
        assert head.code == 200 and head.body == b""
        assert int(head.headers["content-length"]) > 0
    assert status.get("/nothing").code == 404
    assert status.get("/", method="POST").code == 405
    assert status.json()["program"]["role"] == role


def test_the_token(make, service):
    _, status = make({"echo": service(Echo).port}, token=TOKEN)
    for path in [*PATHS, "/nothing"]:
        wanted = 200 if path in OPEN_PATHS else 401
        for wrong in ("x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
            assert status.get(path, token=wrong).code == wanted, (path, wrong)
        assert status.send(f"GET {path} HTTP/1.1\r\n\r\n".encode()).code == wanted
    assert status.get("/nothing").code == 404
    assert status.get("/status").code == 200
    log_texts = json.dumps(status.json()["errors"])
    assert TOKEN not in log_texts


def test_a_name_is_refused_on_loopback_without_a_token(make, service):
    """A web page whose own name is resolved to 127.0.0.1 must not read the status (DNS rebinding)."""
    def code(status, path, host, more=""):
        return status.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()).code

    _, status = make({"echo": service(Echo).port})
    for path in ("/status", "/status.tsv", "/metrics", "/readyz"):
        for host in ("attacker.example", "attacker.example:9100", "127.0.0.1.attacker.example"):
            assert code(status, path, host) == 421, (path, host)
        for host in ("localhost", "localhost:1", "127.0.0.1:1", "[::1]:1"):
            assert code(status, path, host) == 200, (path, host)
    _, status = make({"echo": service(Echo).port}, token=TOKEN)
    assert code(status, "/status", "node.example", f"Authorization: Bearer {TOKEN}\r\n") == 200


def test_numbers_are_those_of_the_visitors(make, service):
    t, status = make({"echo": service(Echo).port})
    visitors, size = scaled(60, 10), 10007
    for _ in range(visitors):
        ping(t.port(), payload=b"x" * size)
    wait_until(lambda: status.service()["open"] == 0, within(5), "the end of the last relay")
    seen = status.service()
    assert seen["visitors_total"] == visitors
    assert seen["bytes_in_total"] == seen["bytes_out_total"] == visitors * size
    assert seen["connect_ms"]["count"] == seen["first_byte_ms"]["count"] == visitors
    assert 0 < seen["first_byte_ms"]["p50"] <= seen["first_byte_ms"]["p99"]
    assert seen["up"] and seen["bound"] and seen["parked"] > 0
    assert seen["client"].startswith("127.0.0.1:")
    assert abs(seen["client_since"] - time.time()) < 60
    assert sum(seen["refused"].values()) == 0
    all_of_it = status.json()
    assert all_of_it["totals"]["visitors_total"] == visitors
    assert all_of_it["counters"]["visitors_accepted"] == visitors
    found = status.metrics()
    assert found["rathole_uring_visitor_connections_total", "echo"] == visitors
    assert found["rathole_uring_visitor_bytes_total", "echo", "in"] == visitors * size
    assert found["rathole_uring_visitor_bytes_total", "echo", "out"] == visitors * size
    assert found["rathole_uring_visitor_connections_open", "echo"] == 0
    assert found["rathole_uring_connect_seconds_count", "echo"] == visitors
    assert found["rathole_uring_first_byte_seconds_bucket", "+Inf", "echo"] == visitors


def test_the_client_counts_its_relays(make, service):
    t, status = make({"echo": service(Echo).port}, "client")
    for _ in range(7):
        ping(t.port(), payload=b"x" * 1000)
    wait_until(lambda: status.service()["open"] == 0, within(5), "the end of the last relay")
    seen = status.service()
    assert seen["visitors_total"] == 7
    assert seen["bytes_in_total"] == seen["bytes_out_total"] == 7000
    assert seen["connect_ms"]["count"] == seen["first_byte_ms"]["count"] == 7
    assert seen["client"] == f"127.0.0.1:{t.control_port}"
    assert seen["refused"] == {"unreachable": 0}


def test_a_client_whose_service_is_gone(make):
    t, status = make({"echo": free_port()}, "client")
    with connect(t.port()) as sock:
        assert how_closed(sock, within(5))[0] == "rst"
    wait_until(lambda: status.service()["refused"] == {"unreachable": 1}, within(5), "the refusal")
    errors = status.json()["errors"]
    assert any(e["service"] == "echo" and "cannot connect to the local service" in e["text"]
               and e["level"] == "warn" for e in errors), errors


def test_bytes_count_while_a_transfer_runs(make, service):
    t, status = make({"sink": service(Sink).port})
    with connect(t.port("sink")) as sock:
        seen = [0]
        for _ in range(3):
            sock.sendall(bytes(1 << 20))
            wanted = seen[-1] + (1 << 20)
            wait_until(lambda: status.service("sink")["bytes_in_total"] == wanted, within(10),
                       "the bytes of a relay that goes on")
            seen.append(wanted)
        assert status.service("sink")["open"] == 1
        assert status.json()["totals"]["visitors_open"] == 1
    wait_until(lambda: status.service("sink")["open"] == 0, within(5), "the end of the relay")
    assert status.service("sink")["bytes_in_total"] == 3 << 20


def test_refusals(make, service):
    t, status = make({"echo": service(Echo).port}, service_options={"echo": {"max_connections": 1}})
    with connect(t.port()) as first:
        first.sendall(b"x")
        assert recv_exact(first, 1) == b"x"
        for _ in range(3):
            with connect(t.port()) as sock:
                assert how_closed(sock, within(5))[0] in ("fin", "rst")
    wait_until(lambda: status.service()["refused"]["limit"] == 3, within(5), "three refusals")
    seen = status.service()
    assert seen["visitors_total"] == 4 and status.json()["totals"]["refused_total"] == 3
    assert status.metrics()["rathole_uring_visitor_rejections_total", "echo", "limit"] == 3


@pytest.mark.parametrize("role", ["server", "client"])
def test_datagrams(make, role):
    echo = UdpEcho(free_port(socket.SOCK_DGRAM))
    try:
        t, status = make({"dns": echo.port}, role, udp=True)
        knock(t.port("dns"))
        before = status.service("dns")
        with UdpVisitor(t.port("dns")) as visitor:
            for _ in range(10):
                assert visitor.ask(b"x" * 100) == b"x" * 100
        wait_until(lambda: status.service("dns")["datagrams_out_total"]
                   >= before["datagrams_out_total"] + 10, within(5), "the datagrams")
        seen = status.service("dns")
        for key in ("datagrams_in_total", "datagrams_out_total"):
            assert seen[key] - before[key] == 10
        for key in ("bytes_in_total", "bytes_out_total"):
            assert seen[key] - before[key] == 1000
        assert seen["visitors_total"] - before["visitors_total"] == 1
        assert seen["open"] == seen["visitors_total"]
        assert status.json()["totals"]["udp_visitors_open"] == seen["open"]
        assert "stranger" in seen["dropped"]
    finally:
        echo.stop()


def test_both_formats_and_every_counter(make, service):
    _, status = make({"echo": service(Echo).port})
    names = set(status.json()["counters"])
    found = status.metrics()
    assert names and all((f"rathole_uring_{name}_total",) in found for name in names)
    answer = status.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    old = {s.name for f in old_parser.text_string_to_metric_families(answer.text)
           for s in f.samples}
    assert old == {key[0] for key in found}
    assert 0 <= time.time() - found["process_start_time_seconds",] < 60


def test_names_of_services(make, service):
    name, written = 'my "nas" ä\\b', '"my \\"nas\\" ä\\\\b"'
    t, status = make({written: service(Echo).port})
    ping(t.port(written))
    assert status.service(name)["visitors_total"] == 1
    assert status.metrics()["rathole_uring_visitor_connections_total", name] == 1
    assert status.get("/readyz?service=my%20%22nas%22%20%C3%A4%5Cb").code == 200
    assert status.get("/readyz?service=my%20%22nas%22").code == 503


def test_numbers_are_consistent_while_visitors_come(make, service):
    t, status = make({"echo": service(EchoForMany).port})
    stop = threading.Event()

    def visit():
        while not stop.is_set():
            ping(t.port(), payload=b"x" * 100, timeout=within(10))

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        before = status.service()
        for _ in range(scaled(40, 10)):
            now = status.service()
            assert now["visitors_total"] >= before["visitors_total"]
            assert now["bytes_in_total"] >= before["bytes_in_total"]
            assert 0 <= now["open"] <= 4 + 1
            assert now["first_byte_ms"]["count"] <= now["visitors_total"]
            status.metrics()
            before = now
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wait_until(lambda: status.service()["open"] == 0, within(5), "the end")
    seen = status.service()
    assert seen["bytes_in_total"] == seen["bytes_out_total"] == 100 * seen["visitors_total"]


# --- health -------------------------------------------------------------------------------------


def test_ready_means_served(make, service):
    t, status = make({"echo": service(Echo).port, "nobody": None})
    assert status.get("/readyz?service=echo").code == 200
    for query in ("service=nobody", "service=unknown", "service=", "service", "x=echo"):
        assert status.get(f"/readyz?{query}").code == 503, query
    t.client.stop()
    wait_until(lambda: status.get("/readyz?service=echo").code == 503, within(5), "the end")
    assert status.get("/readyz").code == 200
    assert not status.service()["up"] and status.service()["client"] == ""


def test_a_client_is_ready_with_its_server(make, service):
    t, status = make({"echo": service(Echo).port}, "client")
    assert status.get("/readyz?service=echo").code == 200
    t.server.stop()
    wait_until(lambda: status.get("/readyz").code == 503, within(5), "the end of the session")
    assert status.get("/healthz").code == 200


def test_not_ready_while_draining(make, service):
    t, status = make({"echo": service(Echo).port})
    with connect(t.port()) as sock:
        sock.sendall(b"x")
        assert recv_exact(sock, 1) == b"x"
        t.server.signal(signal.SIGTERM)
        wait_until(lambda: status.get("/readyz").code == 503, within(2), "not ready")
        assert status.get("/healthz").code == 200
        program = status.json()["program"]
        assert program["draining"] and not program["ready"]
        sock.sendall(b"y")
        assert recv_exact(sock, 1) == b"y"
    assert t.server.wait(within(10)) == 0


def test_a_service_without_its_address(make, service):
    t, status = make({"echo": service(Echo).port, "late": service(Echo).port})
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        t.ports["late"] = holder.getsockname()[1]
        t.service_options["late"] = {"idle_timeout": 7}
        t.server.stop()
        t.server = t.spawn("server")
        wait_until(status.is_ready, within(5), "the server")
        wait_until(lambda: status.get("/readyz?service=echo").code == 200, within(10), "echo")
        assert status.get("/readyz?service=late").code == 503
        assert not status.service("late")["bound"]
    wait_until(lambda: status.get("/readyz?service=late").code == 200, within(10), "the address")


# --- addresses ----------------------------------------------------------------------------------


@pytest.fixture
def run_dir():
    with tempfile.TemporaryDirectory(prefix="e2e-status-") as name:
        yield name


def test_a_unix_socket(make, service, run_dir):
    path = f"{run_dir}/status"
    t, status = make({"echo": service(Echo).port}, status=Status(path))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert status.json()["program"]["ready"]
    t.status_text["server"] += "socket_mode = 0600\n"
    t.rewrite()
    wait_until(lambda: stat.S_IMODE(os.stat(path).st_mode) == 0o600, within(5), "the new mode")
    t.server.stop()
    assert not os.path.exists(path)


def test_reload_moves_it_and_changes_its_token(make, service):
    t, old = make({"echo": service(Echo).port})
    new = Status(free_port(), TOKEN)
    t.status_text["server"] = new.section()
    t.rewrite()
    wait_until(lambda: is_listening(new.address), within(5), "the new address")
    wait_until(lambda: not is_listening(old.address), within(5), "the end of the old one")
    assert new.get("/status", token="wrong").code == 401
    assert new.get("/status").code == 200
    t.server.wait_log(r"reload: .*status", within(5))
    new.token = TOKEN + "2"
    t.status_text["server"] = new.section()
    t.rewrite()
    wait_until(lambda: new.get("/status").code == 200, within(5), "the new token")
    assert new.get("/status", token=TOKEN).code == 401
    ping(t.port())


def test_reload_turns_it_off_and_on(make, service):
    t, status = make({"echo": service(Echo).port})
    t.status_text["server"] = ""
    t.rewrite()
    wait_until(lambda: not is_listening(status.address), within(5), "the end")
    assert "status" not in (t.workdir / "server.ini").read_text()
    t.status_text["server"] = status.section()
    t.rewrite()
    wait_until(lambda: is_listening(status.address), within(5), "the beginning")
    assert status.get("/readyz").code == 200


def test_an_address_in_use_keeps_the_old_one(make, service):
    t, old = make({"echo": service(Echo).port})
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        new = Status(holder.getsockname()[1])
        t.status_text["server"] = new.section()
        t.rewrite()
        t.server.wait_log(rf"status: cannot listen on 127.0.0.1:{new.address}", within(5))
        time.sleep(2 * LIMITS.address_retry)
        assert old.get("/readyz").code == 200
        assert len(re.findall("status: cannot listen", t.server.log())) == 1
    wait_until(lambda: is_listening(new.address) and not is_listening(old.address), within(5),
               "the new address")
    assert new.get("/readyz").code == 200


def test_an_address_that_overlaps_the_old_one(make, service):
    t, old = make({"echo": service(Echo).port})
    t.status_text["server"] = f"\n[status]\nbind_addr = 0.0.0.0:{old.address}\n"
    t.rewrite()
    wait_until(lambda: is_listening(old.address, "0.0.0.0"), within(5), "the wider address")
    assert old.get("/readyz").code == 200


def test_an_address_in_use_at_the_start(make, tunnel, service):
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        status = Status(holder.getsockname()[1])
        t = tunnel({"echo": service(Echo).port}, start=False, limits=LIMITS)
        plain = t.config
        t.config = lambda role: plain(role) + (status.section() if role == "server" else "")
        t.start()
        ping(t.port())
    wait_until(lambda: is_listening(status.address), within(5), "the address")
    assert status.service()["visitors_total"] == 1


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("kind", ["port", "path"])
def test_no_scrape_is_refused_in_an_upgrade(make, service, run_dir, role, kind):
    status = Status(free_port() if kind == "port" else f"{run_dir}/status")
    t, status = make({"echo": service(Echo).port}, role, status=status)
    stop, codes = threading.Event(), []
    # A client is ready while a server has it, and its sessions end shortly before new ones begin.
    paths = ["/healthz"] + (["/readyz", "/readyz?service=echo"] if role == "server" else [])

    def scrape():
        while not stop.is_set():
            try:
                for path in paths:
                    codes.append((path, status.get(path).code))
            except (OSError, ValueError) as error:
                codes.append(("", repr(error)))
            time.sleep(0.002)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        old, new = upgrade(t, role)
        assert old.wait(within(10)) == 0
        wait_until(lambda: status.get("/readyz").code == 200, within(10), "ready again")
    finally:
        stop.set()
        thread.join()
    assert {code for _, code in codes} == {200}, [pair for pair in codes if pair[1] != 200]
    assert status.json()["program"]["started_at"] > 0
    ping(t.port())
    new.stop()
    assert kind == "port" or not os.path.exists(status.address)


def test_not_ready_when_a_client_does_not_come_back(make, service):
    """The successor keeps the visitors of a service waiting for its client, and says that it is ready for
    them just as long."""
    t, status = make({"echo": service(Echo).port})
    t.client.signal(signal.SIGSTOP)
    try:
        upgrade(t)
        assert status.get("/readyz?service=echo").code == 200
        assert not status.service()["up"]
        wait_until(lambda: status.get("/readyz?service=echo").code == 503,
                   within(LIMITS.upgrade_hold + 5), "not ready")
        assert status.get("/readyz").code == 200
    finally:
        t.client.signal(signal.SIGCONT)
    wait_until(lambda: status.get("/readyz?service=echo").code == 200, within(10), "ready again")


# --- hostile readers ----------------------------------------------------------------------------


def test_bad_requests(make, service):
    _, status = make({"echo": service(Echo).port})
    assert status.send(b"\x16\x03\x01\x02\x00\x01\x00").code == 400
    assert status.send(os.urandom(3) + b"\0" + os.urandom(5000)).code == 400
    assert status.send(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10923 + b"\r\n").code == 431
    assert status.send(b"GET /" + b"a" * 65536).code == 431
    assert status.send(b"GET /healthz HTTP/1.1\r\n\r\n" + b"GARBAGE\0" * 1000).text == "ok\n"
    pipelined = b"GET /healthz HTTP/1.1\r\n\r\n" * 100
    assert status.send(pipelined).text == "ok\n"


def test_a_request_in_single_bytes(make, service):
    _, status = make({"echo": service(Echo).port})
    with status.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert Answer(read_all(sock)).text == "ok\n"


@pytest.mark.time_limit(30)
def test_a_request_that_never_ends(make, service):
    _, status = make({"echo": service(Echo).port})
    with status.connect() as sock:
        begun = time.monotonic()
        sock.sendall(b"GET /healthz HT")
        assert Answer(read_all(sock)).code == 408
        assert time.monotonic() - begun > 4


def test_silent_readers_keep_nobody_out(make, service):
    _, status = make({"echo": service(Echo).port})
    silent = [status.connect() for _ in range(100)]
    try:
        for _ in range(20):
            assert status.get("/readyz").code == 200
    finally:
        for sock in silent:
            sock.close()
    assert status.get("/readyz").code == 200


@pytest.mark.time_limit(30)
def test_slow_readers_cost_nobody_else(make, service, run_dir):
    # A unix socket: its buffers hold a part of the answer only.
    t, status = make({f"a{i}": None for i in range(600)} | {"echo": service(Echo).port},
                     status=Status(f"{run_dir}/status"))
    whole = len(status.get("/metrics").body)
    begun, slow = time.monotonic(), []
    for _ in range(8):
        sock = status.connect()
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        slow.append(sock)
    try:
        for _ in range(10):
            assert len(status.get("/metrics").body) >= whole - 100
            assert all(sock.recv(1) for sock in slow)
            ping(t.port())
        # An answer that nobody takes is given up after its 5 seconds: what came is in the buffers.
        time.sleep(max(0, begun + within(6) - time.monotonic()))
        how, data = how_closed(slow[0], within(5))
        assert how in ("fin", "rst") and len(data) < whole * 0.9
    finally:
        for sock in slow:
            sock.close()


def test_a_scrape_while_bulk_runs(make, service):
    t, status = make({"sink": service(Sink).port, "echo": service(Echo).port})
    stop = threading.Event()

    def send():
        with connect(t.port("sink")) as sock:
            while not stop.is_set():
                sock.sendall(bytes(1 << 20))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        seen = [status.service("sink")["bytes_in_total"] for _ in range(50)]
        assert seen == sorted(seen) and seen[0] < seen[-1]
        ping(t.port())
    finally:
        stop.set()
        thread.join()


# --- --status -----------------------------------------------------------------------------------


def run_status(path, *args, **kwargs):
    return subprocess.run([BINARIES[OURS], "--status", *args, path], capture_output=True, text=True,
                          timeout=within(20), check=False, **kwargs)


@pytest.mark.parametrize("role", ["server", "client"])
def test_the_command_prints_a_table(make, service, role):
    t, _ = make({"echo": service(Echo).port}, role, token=TOKEN)
    for _ in range(3):
        ping(t.port(), payload=b"x" * 2000)
    done = run_status(t.workdir / f"{role}.ini")
    assert done.returncode == 0 and done.stderr == "", done
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["SERVICE", "STATE", "CLIENT", "OPEN"]
    cells = row.split()
    assert cells[0] == "echo" and cells[1] == "up" and cells[2].startswith("127.0.0.1:")
    assert cells[5] == "3" and cells[9:11] == ["6.0k", "6.0k"]


def test_the_command_watches_until_it_is_interrupted(make, service):
    t, _ = make({"echo": service(Echo).port})
    with subprocess.Popen([BINARIES[OURS], "--status", "--watch", t.workdir / "server.ini"],
                          stdout=subprocess.PIPE, text=True) as watching:
        lines = [watching.stdout.readline() for _ in range(4)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(within(5)) == -signal.SIGINT
    assert [line.split()[0] for line in lines] == ["SERVICE", "echo"] * 2


def test_the_command_says_what_is_wrong(make, service, tmp_path):
    t, status = make({"echo": service(Echo).port}, token=TOKEN)
    path = tmp_path / "file.ini"
    section = status.section()
    for text, code, words in [
        ("", 1, "--status needs a section [status]"),
        (section.replace(TOKEN, "wrong"), 1, "the process answers 401"),
        (section.replace(str(status.address), str(free_port())), 1, "connection refused"),
    ]:
        t.status_text["server"] = text
        path.write_text(t.config("server"))
        path.chmod(0o600)
        done = run_status(path)
        assert done.returncode == code and words in done.stderr.lower(), done
        assert done.stdout == ""
    done = subprocess.run([BINARIES[OURS], "--watch", path], capture_output=True, check=False)
    assert done.returncode == 2


# --- the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize("text, code, words", [
    ("[status]\n", 1, "status.bind_addr: missing"),
    ("[status]\nbind_addr = :9100\n", 1, "status.bind_addr: expected host:port or unix:/path"),
    ("[status]\nbind_addr = example.org:9100\n", 1, "status.bind_addr: expected an IP address"),
    ("[status]\nbind_addr = 127.0.0.1:9100\nport = 1\n", 1, "status.port: unknown key"),
    ("[statu]\nbind_addr = 127.0.0.1:9100\n", 1, "did you mean [status]?"),
    ("[server.status]\nbind_addr = 127.0.0.1:9100\n", 1, "[server.status]: unknown section"),
    ("[status]\nbind_addr = 127.0.0.1:9100\n[status]\ntoken = x\n", 1, "defined twice"),
    ("[status]\nbind_addr = 0.0.0.0:9100\n", 0, "there is no status.token"),
    ("[status]\nbind_addr = 0.0.0.0:9100\ntoken = x\n", 0, None),
    ("[status]\nbind_addr = localhost:9100\n", 0, None),
    ("[status]\nbind_addr = [::1]:9100\n", 0, None),
    ("[status]\nbind_addr = unix:/run/x\nsocket_mode = 0600\n", 0, None),
    ("[status]\nbind_addr = 127.0.0.1:9100\nsocket_mode = 0600\n", 0, "bind_addr has no file"),
    ("[status]\nbind_addr = 127.0.0.1:9100\ntoken = env:NO_SUCH_VARIABLE\n", 1, "NO_SUCH_VARIABLE"),
    ("status = { bind_addr = \"127.0.0.1:9100\", token = \"x\" }\n", 0, None),
])
def test_check(tmp_path, text, code, words):
    path = tmp_path / "file.ini"
    first, rest = ("", text) if text.startswith("[") else (text, "")
    path.write_text(f"{first}[client]\nremote_addr = 192.0.2.1:1\n[client.services.a]\n"
                    f"local_addr = 127.0.0.1:1\ntoken = t\n{rest}")
    path.chmod(0o600)
    done = subprocess.run([BINARIES[OURS], "--check", path], capture_output=True, text=True,
                          check=False)
    said = [line for line in done.stderr.splitlines() if "client.user" not in line]  # as root
    assert done.returncode == code, said
    assert (words in "\n".join(said)) if words else said == [], said
