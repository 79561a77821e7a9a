"""The tools for debugging a running node, as docs/debugging.md describes them: the gdb commands, on a live
process and on a core; state changes in the log at trace level; static trace points.
"""

import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from datagrams import UdpEcho, knock
from harness import BINARIES, OURS, ROOT, SANITIZED, TOKEN, wait_until, within
from protocol import connect, recv_exact
from services import Echo, NeverReads

pytestmark = pytest.mark.ours

SCRIPT = ROOT / "scripts" / "gdb" / "rathole_uring.py"
DOC = ROOT / "docs" / "debugging.md"
COMMANDS = ["ru-workers", "ru-services", "ru-sessions", "ru-visitors", "ru-relays", "ru-ops"]


def sections(program):
    listed = subprocess.run(["readelf", "-SW", program], capture_output=True, text=True, check=True)
    return listed.stdout


# --- gdb ----------------------------------------------------------------------------------------


class Gdb:
    """Runs gdb and holds what each command printed, as lists of lines."""

    def __init__(self, target, commands):
        argv = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", *target, "-x", SCRIPT]
        for command in commands:
            argv += ["-ex", f"echo == {command}\\n", "-ex", command]
        done = subprocess.run([*argv, "-ex", "echo == end\\n"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=within(50))
        self.all = done.stdout + done.stderr
        if "ptrace: Operation not permitted" in self.all:
            pytest.skip("GDB MAY NOT ATTACH HERE (ptrace): its commands are not tested")
        assert done.returncode == 0, self.all
        assert not re.search(r"Python Exception|Error occurred in Python|^ru-\w+: ", self.all, re.M), (
            self.all)
        parts = re.split(r"^== (.*)\n", done.stdout, flags=re.M)
        self.printed = {name: text.splitlines() for name, text in zip(parts[1::2], parts[2::2])}
        assert set(self.printed) == {*commands, "end"}, self.all

    def rows(self, command, start):
        return [line for line in self.printed[command] if line.startswith(start)]

    def last(self, command):
        return self.printed[command][-1]


@pytest.fixture(scope="module")
def gdb():
    if shutil.which("gdb") is None:
        pytest.skip("NO GDB HERE: its commands are not tested (scripts/setup test)")
    if ".debug_info" not in sections(BINARIES[OURS]):
        pytest.skip("the program has no debug information")

    def run(process, commands=COMMANDS):
        return Gdb(["-p", str(process.pid)], commands)

    return run


HELD, QUEUED = 5, 3


@pytest.fixture
def node(tunnel, service):
    """A tunnel with HELD visitors that got an answer, and one visitor whose service does not read."""
    echo, stuck, dns = service(Echo), service(NeverReads), service(UdpEcho)
    t = tunnel({"echo": echo.port, "stuck": stuck.port, "dns": dns.port}, udp=["dns"])
    knock(t.port("dns"), "127.0.0.1", 2, within(15))
    t.held = [connect(t.port("echo")) for _ in range(HELD)]
    for sock in t.held:
        sock.sendall(b"a visitor's secret")
        assert recv_exact(sock, 18) == b"a visitor's secret"
    t.stuck = connect(t.port("stuck"))
    fill(t.stuck)
    yield t
    for sock in [*t.held, t.stuck]:
        sock.close()


def queue_up(t, socks, count):
    """Connects visitors until `count` of them wait for a channel."""
    names = ("visitors_accepted", "relays_started")
    before = t.server.metric(names[0])
    last = None

    def waiting():
        nonlocal last
        workers = t.server.metrics()
        accepted, relays = (sum(worker.get(name, 0) for worker in workers) for name in names)
        settled = (accepted, relays) == last  # one look may come between accept and relay
        last = accepted, relays
        return settled and accepted == before + len(socks) and (accepted - relays,)

    while True:
        [now] = wait_until(waiting, within(5), "all visitors are accepted")
        if now == count:
            return
        assert now < count and len(socks) < 300, (now, len(socks))
        socks += [connect(t.port("echo")) for _ in range(count - now)]


def fill(sock):
    """Sends until the socket has accepted no more bytes for half a second."""
    sock.settimeout(within(0.5))
    try:
        while True:
            sock.send(bytes(1 << 16))
    except TimeoutError:
        pass


def descriptors(pid):
    """{number: target of its link} of a process's open descriptors."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            pass
    return found


OPCODES = {6: "poll", 13: "accept", 26: "send", 27: "recv"}


def polled(process):
    """The kernel's count of the operations in the process's rings, by kind; empty if it does not say."""
    kinds = collections.Counter()
    for fd, what in descriptors(process.pid).items():
        if what == "anon_inode:[io_uring]":
            info = pathlib.Path(f"/proc/{process.pid}/fdinfo/{fd}").read_text()
            kinds.update(OPCODES.get(int(code), code) for code in re.findall(r" op=(\d+),", info))
    return kinds


def look_while_still(gdb, process):
    """(what gdb printed, the operations in the rings), once these were the same before and after gdb."""
    seen = []

    def look():
        before = polled(process)
        shown = gdb(process)
        seen[:] = [shown, before]
        return before == polled(process)

    wait_until(look, within(30), "the rings come to rest")
    return seen


def check_workers(process, shown):
    rows = [re.search(r"worker (\d+): (\w+), thread LWP (\d+), .* ring fd (\d+)$", line)
            for line in shown.rows("ru-workers", "worker ")]
    fds = descriptors(process.pid)
    assert len(rows) == 2 and shown.last("ru-workers") == "2 workers"
    for row in rows:
        index, role, thread, ring = row.groups()
        comm = pathlib.Path(f"/proc/{process.pid}/task/{thread}/comm").read_text().strip()
        assert comm == f"worker {index}" and role in process.name
        assert fds[int(ring)] == "anon_inode:[io_uring]"
    counters = collections.Counter()
    for line in shown.rows("ru-workers", "  counters"):
        counters.update({name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)})
    now = process.metrics()
    for name in ("visitors_accepted", "relays_started", "logins", "data_channels"):
        assert counters[name] == sum(worker.get(name, 0) for worker in now), name


def relays(shown):
    """[(owner, [[fd, fd], ...], pending bytes of each direction)]"""
    found = []
    for line in shown.printed["ru-relays"]:
        if line.startswith("relay "):
            found.append((re.search(r"  (.*?): OPEN", line).group(1), [], []))
        elif way := re.match(r"  to \w+  fd (\d+) to (\d+): .* moved, (\d+) pending", line):
            found[-1][1].append([int(way.group(1)), int(way.group(2))])
            found[-1][2].append(int(way.group(3)))
    return found


def check_relays(process, shown, count):
    fds, listed = descriptors(process.pid), relays(shown)
    assert len(listed) == count, shown.printed["ru-relays"]
    assert shown.last("ru-relays") == f"{count} relays: {count} OPEN"
    numbers = [fd for _, ways, _ in listed for fd in ways[0]]
    assert len(set(numbers)) == 2 * count
    assert all(fds[fd].startswith("socket:[") for fd in numbers), (numbers, fds)
    assert all(ways[1] == ways[0][::-1] for _, ways, _ in listed)
    pending = {owner: sizes for owner, _, sizes in listed if any(sizes)}
    return pending


def check_ops(process, shown, in_kernel):
    if not in_kernel:
        return  # this kernel does not say
    kinds = collections.Counter(
        re.match(r"worker \d+  ([a-z]+)", line).group(1) for line in shown.rows("ru-ops", "worker "))
    # Exact polls go through an epoll set, not through the ring.
    exact = len([line for line in shown.rows("ru-ops", "worker ") if "  poll_exact" in line])
    assert kinds - collections.Counter(poll=exact) == in_kernel
    total = re.match(r"(\d+) ops in flight", shown.last("ru-ops")).group(1)
    assert int(total) == kinds.total()


def test_a_live_process(gdb, node):
    """What gdb prints of each end agrees with /proc, with the counters of SIGUSR1 and with the visitors."""
    for process in (node.server, node.client):
        shown, in_kernel = look_while_still(gdb, process)
        check_workers(process, shown)
        pending = check_relays(process, shown, HELD + 1)
        check_ops(process, shown, in_kernel)
        assert shown.last("ru-services") == "3 services"
        assert shown.last("ru-sessions") == "3 control channels"
        assert len(shown.rows("ru-sessions", "session ")) == 3
        assert TOKEN not in shown.all and "visitor's secret" not in shown.all
        # The unread bytes may be in socket buffers alone. If a relay holds some, it is the stuck one.
        assert all("[stuck]" in owner for owner in pending), pending
        if process is node.server:
            from_here = {f"127.0.0.1:{sock.getsockname()[1]}" for sock in [*node.held, node.stuck]}
            rows = [line for line in shown.rows("ru-visitors", "worker ") if ": RELAYING, age" in line]
            assert {re.search(r"from ([0-9.:]+);", line).group(1) for line in rows} == from_here
            assert len(shown.rows("ru-visitors", "worker ")) == HELD + 1 + 2  # two UDP visitors
            assert any(re.match(rf"service \[echo\] tcp, .*: up, .*, visitors {HELD};", line)
                       for line in shown.printed["ru-services"])
    for sock in node.held:
        sock.sendall(b"again")
        assert recv_exact(sock, 5) == b"again", "a visitor did not survive it"


def test_pending_bytes_are_found(gdb, node):
    """Once every buffer towards a service that does not read is full, the relay has pending bytes."""
    shown = gdb(node.client, ["ru-relays"])
    [(_, ways, sizes)] = [row for row in relays(shown) if "[stuck]" in row[0]]
    assert sizes[0] > 0 and sizes[1] == 0, shown.printed["ru-relays"]
    blocked = [line for line in shown.printed["ru-relays"] if "write_op: poll" in line]
    assert len(blocked) == 1 and f"fd {ways[0][0]} to {ways[0][1]}" in blocked[0], blocked


def counter(shown, name):
    found = re.findall(rf"\b{name}=(\d+)", "\n".join(shown.rows("ru-workers", "  counters")))
    return sum(int(value) for value in found)


def test_visitors_that_wait(gdb, node):
    """The client is stopped, so visitors use up the pooled channels, and later visitors wait."""
    socks = []
    node.client.signal(signal.SIGSTOP)
    try:
        queue_up(node, socks, QUEUED)
        shown = gdb(node.server, ["ru-visitors", "ru-relays", "ru-relays 2", "ru-services", "ru-workers"])
    finally:
        node.client.signal(signal.SIGCONT)
    # On a busy machine gdb may have taken longer than a visitor waits.
    queued = QUEUED - counter(shown, "visitors_timed_out")
    waiting = [line for line in shown.printed["ru-visitors"] if ": WAITING, age" in line]
    places = {re.search(r"place (\d+) of (\d+) in the queue", line).groups() for line in waiting}
    assert places == {(str(place), str(queued)) for place in range(1, queued + 1)}, waiting
    count = HELD + 1 + len(socks) - QUEUED
    assert shown.last("ru-relays") == f"{count} relays: {count} OPEN"
    assert len(shown.rows("ru-relays 2", "relay ")) == 2
    assert shown.last("ru-relays 2") == f"{count} relays: {count} OPEN ({count - 2} not shown)"
    assert any(line.startswith("service [echo]") and f"; {queued} wait" in line
               for line in shown.printed["ru-services"])
    for sock in socks:
        sock.close()


def test_visitors_that_arrive(gdb, tunnel, service):
    t = tunnel({"echo": service(Echo).port}, server_options={"handshake_timeout": within(50)},
               service_options={"echo": {"accept_proxy_protocol": "127.0.0.1"}})
    with connect(t.port()) as silent, connect(t.port()) as begun:
        begun.sendall(b"PROXY TCP4 ")
        time.sleep(within(0.3))  # the bytes are taken at once
        shown = gdb(t.server, ["ru-visitors", "ru-ops"])
        said = re.findall(r"ARRIVING, age .*; (\d+) bytes of its PROXY header", shown.all)
        assert sorted(said) == ["0", "11"]
        assert len([line for line in shown.rows("ru-ops", "worker ") if "start.op" in line]) == 2
        silent.close()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's shadow would be in the core")
def test_a_core(gdb, node, tmp_path):
    """A core shows the same as the live process, except peer addresses: a core has no /proc."""
    live = gdb(node.server)
    core = tmp_path / "core"
    written = subprocess.run(["gdb", "-nx", "-batch", "-p", str(node.server.pid), "-ex",
                              f"generate-core-file {core}"], capture_output=True, text=True,
                             timeout=within(50))
    assert core.exists(), written.stdout + written.stderr
    dead = Gdb([BINARIES[OURS], core], COMMANDS)
    core.unlink()
    assert relays(dead) == relays(live)
    assert len(relays(dead)) == HELD + 1
    for command in ("ru-services", "ru-ops"):
        assert dead.printed[command] == live.printed[command]
    assert dead.last("ru-visitors") == live.last("ru-visitors")
    assert [line for line in dead.rows("ru-workers", "  counters")
            if "visitors_accepted" in line], "no counters"


def test_without_a_process(gdb):
    argv = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", BINARIES[OURS], "-x", SCRIPT]
    done = subprocess.run([*argv, "-ex", "ru-relays"], capture_output=True, text=True,
                          timeout=within(50))
    assert "ru-relays: no process and no core" in done.stdout + done.stderr


def test_no_struct_is_mistaken_for_another():
    """Where two structs share a name, gdb picks either. The script must say which one it means."""
    script = SCRIPT.read_text()
    used = set(re.findall(r'(?:struct|each|container|pointer)\([^\n]*?"(\w+)"[,)]', script))
    assert {"relay", "listener", "visitor", "lane_visitor"} <= used
    defined = collections.Counter()
    for place in ("src", "include"):
        for path in (ROOT / place).rglob("*.[ch]"):
            defined.update(re.findall(r"^struct (\w+) {", path.read_text(), re.M))
    twice = {name for name in used if defined[name] > 1}
    assert twice == set(re.findall(r'"(\w+)":', re.search(r"^HOMES = .*", script, re.M).group(0)))


# --- trace --------------------------------------------------------------------------------------

TRACED = re.compile(r" TRACE (?:\[(\w+)\] )?(visitor|data channel|control channel): (\w+) -> (\w+)"
                    r"(?: conn=(\d+))?$", re.M)


def one_visit(tunnel, service, level):
    """Both ends' logs of one visit: parsed, as {object: {conn: [(from, to), ...]}}, and as text."""
    echo = service(Echo)
    options = {"log_level": level}
    t = tunnel({"echo": echo.port}, server_options=options, client_options=options, threads=1)
    sock = connect(t.port())
    sock.sendall(b"a visitor's secret")
    assert recv_exact(sock, 18) == b"a visitor's secret"
    sock.close()
    for process in (t.server, t.client):
        process.wait_log(r"relay closed", within(5))
    whole = [process.log() for process in (t.server, t.client)]
    changes = []
    for log in whole:
        found = collections.defaultdict(lambda: collections.defaultdict(list))
        for name, what, old, new, conn in TRACED.findall(log):
            assert name == "echo"
            found[what][conn].append((old, new))
        changes.append(found)
    return changes, whole


def test_states_at_trace(tunnel, service):
    """The log shows each state change once, in order; each starts from the state that the last one led to."""
    (server, client), whole = one_visit(tunnel, service, "trace")
    # A visitor that is faster than the first data channel waits for it: test_a_visitor_that_waits_at_trace.
    waited = [("seeking", "waiting"), ("waiting", "seeking")] if "seeking -> waiting" in whole[0] else []
    assert list(server["visitor"].values()) == [waited + [("seeking", "relaying")]]
    assert list(server["control channel"].values()) == [[("new", "up")]]
    assert list(client["control channel"].values()) == [
        [("waiting", "waiting"), ("waiting", "resolving"), ("resolving", "connecting"),
         ("connecting", "login"), ("login", "up")]]
    used = [changes for changes in client["data channel"].values() if len(changes) > 2]
    assert used == [[("new", "dialing"), ("dialing", "parked"), ("parked", "local"),
                     ("local", "relaying")]]
    parked = [changes for changes in client["data channel"].values() if changes not in used]
    assert parked
    for changes in parked:
        assert changes == [("new", "dialing"), ("dialing", "parked")][: len(changes)]
    for log in whole:
        assert "visitor's secret" not in log and TOKEN not in log
        begun = collections.Counter(re.findall(r"op started: (\w+ fd=\S+)", log))
        ended = collections.Counter(re.findall(r"op done: (\w+ fd=\S+) result=-?\d+$", log, re.M))
        assert begun and ended
        assert not ended - begun, "an operation has ended that never began"


def test_a_visitor_that_waits_at_trace(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, server_options={"log_level": "trace"}, threads=1)
    socks = []
    t.client.signal(signal.SIGSTOP)
    try:
        queue_up(t, socks, 1)
    finally:
        t.client.signal(signal.SIGCONT)
    waited = t.server.wait_log(r"seeking -> waiting conn=(\d+)", within(5)).group(1)
    t.server.wait_log(rf"seeking -> relaying conn={waited}\b", within(10))
    changes = [(old, new) for _, _, old, new, conn in TRACED.findall(t.server.log())
               if conn == waited]
    assert changes == [("seeking", "waiting"), ("waiting", "seeking"), ("seeking", "relaying")]
    for sock in socks:
        sock.close()


def test_nothing_of_it_at_debug(tunnel, service):
    (server, client), whole = one_visit(tunnel, service, "debug")
    assert not server and not client
    for log in whole:
        assert " TRACE " not in log and "op started" not in log and " -> " not in log
        assert " DEBUG " in log


# --- trace points ---------------------------------------------------------------------------------


def points_of_program():
    """{name: number of arguments}. One point may occur at several places of the program."""
    listed = subprocess.run(["readelf", "-n", "-W", BINARIES[OURS]], capture_output=True, text=True,
                            check=True).stdout
    found = {}
    for name, arguments in re.findall(r"Provider: rathole_uring\n\s*Name: (\w+)\n.*\n\s*Arguments:(.*)",
                                      listed):
        count = len(arguments.split())
        assert found.setdefault(name, count) == count, f"{name} has two numbers of arguments"
    return found


def points_of_doc():
    table = re.search(r"^\| point \| arguments .*?\n\n", DOC.read_text(), re.M | re.S).group(0)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table, re.M)
    return {name: len(arguments.split(",")) for name, arguments in rows}


STATES = {  # {object as the document names it: (the file that defines its states, their prefix)}
    "visitor": ("src/server/visitor_priv.h", "VISITOR"),
    "server control channel": ("src/server/control.c", "SERVER_CONTROL"),
    "client control channel": ("src/client/control_priv.h", "CONTROL"),
    "data channel": ("src/client/data_channel_priv.h", "CHANNEL"),
}


@pytest.mark.parametrize("name", STATES)
def test_states_are_documented(name):
    place, prefix = STATES[name]
    last = rf"{prefix}_STATE_COUNT,"
    body = re.search(rf"enum \w+ {{\s*({prefix}_(?:(?!}};).)*?){last}", (ROOT / place).read_text(), re.S)
    states = [state.lower() for state in re.findall(rf"^\s*{prefix}_(\w+),", body.group(1), re.M)]
    [row] = re.findall(rf"^\| {name} \| (0 [^|]*) \|", DOC.read_text(), re.M)
    assert row == ", ".join(f"{number} {state}" for number, state in enumerate(states))


def test_trace_points_are_documented():
    """The document lists exactly the trace points of the program."""
    if ".note.stapsdt" not in sections(BINARIES[OURS]):
        pytest.skip("THE PROGRAM IS BUILT WITHOUT TRACE POINTS (no sys/sdt.h: systemtap-sdt-dev)")
    assert points_of_program() == points_of_doc()
