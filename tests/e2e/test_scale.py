"""docs/scale.md: the configuration of HAProxy in it works in front of two nodes, its tables are what its own
formulas and the program's limits say, and the files for systemd agree with it."""

import os
import re
import shutil
import signal

import pytest

from harness import ROOT, SANITIZED, SLOW, Process, free_port, is_listening, wait_until, within
from proxy_protocol import Headed
from protocol import connect, recv_exact

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(SANITIZED, reason="about a document; what the program does is tested elsewhere"),
]

PAGE = ROOT / "docs" / "scale.md"
DROP_IN = ROOT / "dist" / "systemd" / "balanced.conf"
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def block(language, first):
    return re.search(rf"^```{language}\n({first}\n.*?)^```", PAGE.read_text(), re.M | re.S).group(1)


def limit(name):
    return int(re.search(rf"\b{name} = (\d+)", (ROOT / "include/base/limits.h").read_text()).group(1))


def table(head):
    """{label: [cells]} of the table whose head begins so."""
    text = PAGE.read_text()
    begin = re.search(rf"^\| ?{re.escape(head)}.*\n\|[-|]+\n", text, re.M).end()
    rows = [[cell.strip() for cell in row[1:-1].split("|")]
            for row in text[begin:text.index("\n\n", begin)].splitlines()]
    return {label: cells for label, *cells in rows}


# --- the balancer -------------------------------------------------------------------------------


class Node:
    """A server with a client of its own behind it, all on this machine."""

    def __init__(self, tunnel, local, **options):
        self.status = free_port()
        self.t = tunnel({"web": local.port}, start=False, server_options=options, service_options={
            "web": {"accept_proxy_protocol": "127.0.0.1", "proxy_protocol": "v2"}})
        self.start_server()
        self.t.start_client()
        self.t.wait_ready()

    def start_server(self):
        self.t.start_server(text=self.t.config("server")
                            + f"\n[status]\nbind_addr = 127.0.0.1:{self.status}\n")


@pytest.fixture
def balanced(tunnel, service, processes, tmp_path):
    """([two nodes], the service behind both, HAProxy's port, HAProxy): its file is the one in the page."""
    haproxy = shutil.which("haproxy", path=SYSTEM_PATH)
    if not haproxy:
        pytest.skip("haproxy not found: scripts/setup test installs it")
    local = service(Headed)
    nodes = [Node(tunnel, local, drain_timeout=10, drain_delay=6 * SLOW) for _ in range(2)]
    text, front = block("haproxy", "# haproxy.cfg"), free_port()
    servers = re.findall(r"^    server node\d .*\n", text, re.M)
    assert len(servers) == 3
    for node, line in zip(nodes, servers):
        # On one machine each node has a status port of its own.
        address = re.search(r"192\S+", line).group(0)
        here = line.replace(address, f"127.0.0.1:{node.t.port('web')} port {node.status}")
        text = text.replace(line, here)
    text = text.replace(servers[2], "").replace("0.0.0.0:443", f"127.0.0.1:{front}")
    text = text.replace("defaults\n", "global\n    log stdout format raw local0\ndefaults\n    log global\n")
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    process = processes(Process([haproxy, "-db", "-f", path], tmp_path / "haproxy.log"), "haproxy")
    process.name = "haproxy"
    wait_until(lambda: is_listening(front), within(10), process.log)
    return nodes, local, front, process


def visit(front):
    """Our own address, of one visitor that was served."""
    with connect(front) as visitor:
        visitor.settimeout(within(10))
        visitor.sendall(b"hello")
        assert recv_exact(visitor, 5) == b"hello"
        return visitor.getsockname()[:2]


def visitors_of(node):
    return node.t.server.metric("visitors_accepted")


def test_the_balancer_of_the_page(balanced):
    """Both nodes get visitors, with their own addresses; one that drains loses none, and is left alone long
    before its ports close."""
    nodes, local, front, haproxy = balanced
    local.also_meant(1000)
    for number in range(20):
        own = visit(front)
        assert local.wait_record(number, within(5)).header.source == own
    assert all(visitors_of(node) >= 5 for node in nodes)
    kept = [connect(front) for _ in range(4)]
    for sock in kept:
        sock.sendall(b"kept")
        assert recv_exact(sock, 4) == b"kept"
    first, second = nodes
    first.t.server.signal(signal.SIGTERM)
    haproxy.wait_log(r"Server nodes/node1 is DOWN", within(6))
    assert is_listening(first.t.port("web")), "still there while the balancer notices"
    before = visitors_of(second)
    for _ in range(10):
        visit(front)
    assert visitors_of(second) >= before + 10
    for sock in kept:
        sock.sendall(b"still")
        assert recv_exact(sock, 5) == b"still"
        sock.close()
    assert first.t.server.wait(within(20)) == 0


def test_a_killed_node_costs_no_new_visitor(balanced):
    """Even before a check has failed: what it refuses goes to the other node."""
    nodes, local, front, haproxy = balanced
    local.also_meant(1000)
    visit(front)
    nodes[0].t.kill_server()
    assert "DOWN" not in haproxy.log()
    for _ in range(10):
        visit(front)
    haproxy.wait_log(r"Server nodes/node1 is DOWN", within(6))
    nodes[0].start_server()
    haproxy.wait_log(r"Server nodes/node1 is UP", within(10))
    before = visitors_of(nodes[0])
    for _ in range(10):
        visit(front)
    assert visitors_of(nodes[0]) > before


def test_the_drain_is_longer_than_the_check():
    text, node = block("haproxy", "# haproxy.cfg"), block("ini", "; node.ini")
    times = {key: int(value) * (1000 if unit == "s" else 1) for key, value, unit in re.findall(
        r"\b(inter|fastinter|timeout check) (\d+)(s|ms)\b", text)}
    fall = int(re.search(r"\bfall (\d+)", text).group(1))
    noticed_ms = times["inter"] + (fall - 1) * times["fastinter"] + times["timeout check"]
    assert f"so {noticed_ms / 1000:g} s" in PAGE.read_text()
    assert noticed_ms < 1000 * int(re.search(r"^drain_delay = (\d+)", node, re.M).group(1))
    assert "shutdown-sessions" not in text


# --- the arithmetic -----------------------------------------------------------------------------

S, C = 10, 2
PARKED = 8  # of a service at a node
SOURCE = 2  # of each client of it


def answer_bytes(name, count, record=16):
    """A DNS answer: header, question, and records whose names are pointers."""
    return 12 + len(name) + 2 + 4 + record * count


ROWS = {
    "control channels on a node": lambda n: S * C,
    "control channels on a client": lambda n: S * n,
    "control channels, all together": lambda n: S * n * C,
    "memory of these on a client, MiB": lambda n: round(4 * S * n / 1024, 1),
    "heartbeats that a client receives per second": lambda n: round(S * n / 30),
    "parked channels on a node": lambda n: S * max(PARKED, SOURCE * C),
    "parked channels on a client": lambda n: S * n * max(PARKED // C, SOURCE),
    "descriptors of a client without visitors": lambda n: S * n * (1 + max(PARKED // C, SOURCE)),
    "logins when a client starts": lambda n: S * n,
    "logins when a node starts": lambda n: S * C,
    "DNS: bytes of an answer with all A records of `nodes.example.com`":
        lambda n: answer_bytes("nodes.example.com", n),
}


def test_the_arithmetic():
    found = table("| 10 nodes |")
    assert found.keys() == ROWS.keys()
    for label, formula in ROWS.items():
        numbers = [float(cell.replace(",", "")) for cell in found[label]]
        assert numbers == [formula(n) for n in (10, 100, 1000)], label
    shards = table("with 10 nodes, 10 services and 2 clients in each shard |")
    for label, one, grows in (("nodes", 10, True), ("services", S, True),
                              ("control channels on a node", S * C, False),
                              ("control channels on a client", S * 10, False),
                              ("control channels, all together", S * 10 * C, True)):
        expected = [one * (count if grows else 1) for count in (1, 10, 100)]
        assert [int(cell.replace(",", "")) for cell in shards[label]] == expected, label


def test_the_limits_are_the_programs():
    text = " ".join(PAGE.read_text().split())
    assert limit("LIMIT_POOL_MIN") == PARKED and limit("LIMIT_POOL_SOURCE_MIN") == SOURCE
    assert f"takes at most {limit('LIMIT_SERVERS')} addresses of all its names together, " \
           f"and {limit('LIMIT_SERVER_NAMES')} names" in text
    assert f"at most {limit('LIMIT_LOGINS_IN_PROGRESS')} at a time to each node" in text
    assert f"`max_pending_handshakes` places ({limit('LIMIT_PENDING')}), up to " \
           f"{limit('LIMIT_PENDING_PER_IP')} for one address" in text
    assert f"a lane has channels of up to {limit('LIMIT_UDP_CHANNELS')} clients" in text
    assert limit("LIMIT_GATE_WAITING_FDS_PART") == 4
    waiting = limit("LIMIT_GATE_WAITING")
    assert f"Up to a quarter of all may be connections in the lobby, and at most {waiting:,}" in text


def test_logins_by_arithmetic():
    """10,000 at once: what they cost by the cost of one, and how many descriptors their services have."""
    text = " ".join(PAGE.read_text().split())
    costs = re.search(r"costs a node ([\d.]+) ms of processor time, ([\d.]+) ms over Noise, "
                      r"([\d.]+) ms over TLS", text).groups()
    seconds = re.search(r"10,000 logins are, by arithmetic, (\d+), (\d+) and (\d+) s of one core",
                        text).groups()
    assert [10 * float(cost) for cost in costs] == [float(each) for each in seconds]
    workers, guard, control = 2, 1, 1
    own = workers + guard + control + PARKED
    assert f"service of one client has {own} on a node with two workers" in text
    assert f"10,000 services take {own * 10_000:,}" in text
    per_second = limit("LIMIT_PENDING") / 0.1
    assert f"up to {per_second // 500 * 500:,.0f} logins a second" in text


def test_what_fits_into_an_answer():
    text = " ".join(PAGE.read_text().split())
    names = ("nodes.example.com", "rathole-uring-control.default.svc.cluster.local")
    fit = [[(512 - answer_bytes(name, 0)) // record for name in names] for record in (16, 28)]
    assert f"{fit[0][0]} A records of `{names[0]}`, {fit[0][1]} of `{names[1]}`, " \
           f"{fit[1][0]} and {fit[1][1]} AAAA" in text
    assert f"the rest is {answer_bytes('', 0) - 2} bytes and the name" in text


def medians_of(suite):
    """The medians of rathole-uring's row in the section of docs/benchmark.md for this suite."""
    text = (ROOT / "docs/benchmark.md").read_text()
    section = text[text.index(f"(`{suite}`)"):]
    row = re.search(r"^\| rathole-uring \| (.*)$", section, re.M).group(1)
    return [float(re.match(r"[\d. ]+", cell.strip()).group(0).replace(" ", ""))
            for cell in row.split("|") if re.match(r" *\d", cell)]


def test_figures_are_those_of_the_benchmark():
    """What the page has from bench/run are medians of docs/benchmark.md, rounded."""
    checked = 0
    for cells in table("| plain | Noise | command |").values():
        assert len(cells) == 3 and cells[2]
        suites = re.findall(r"[\w-]+", cells[2].partition("bench/run")[2])
        for suite, cell in zip(suites, cells):
            number = re.match(r"[\d.,]+", cell)
            if number is None:
                assert cell == "to be measured"
                continue
            digits = number.group(0).replace(",", "")
            value, step = float(digits), 10.0 ** -len(digits.partition(".")[2])
            if "." not in digits:
                step = 10.0 ** (len(digits) - len(digits.rstrip("0")))
            assert any(abs(value - median) <= step / 2 for median in medians_of(suite)), (suite, cell)
            checked += 1
    assert checked >= 9


# --- systemd ------------------------------------------------------------------------------------


def test_the_drop_in_leaves_time_for_the_drain():
    node, text = block("ini", "; node.ini"), DROP_IN.read_text()
    for key in ("drain_delay", "drain_timeout"):
        value = re.search(rf"^{key} = (\d+)", node, re.M).group(1)
        assert re.search(rf"^#   {key} = {value}$", text, re.M), "the drop-in says for which times it is"
    total = sum(int(each) for each in re.findall(r"^#   drain_\w+ = (\d+)$", text, re.M))
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M).group(1)) >= total + 10
