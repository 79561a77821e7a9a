"""Addresses that can't be bound: the server serves its other services, handles signals, and retries.

Each test runs in its own network namespace, with a name server whose answers the test controls.
"""

import ctypes
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from datagrams import UdpEcho, knock
from harness import (
    BINARIES, OURS, SANITIZED, Process, free_port, is_listening, wait_until, within,
)
from limits import Limits
from services import Echo, ping
from upgrades import Manager, upgrade

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network"),
    pytest.mark.skipif(not (shutil.which("ip") and shutil.which("unshare")),
                       reason="needs ip and unshare"),
]

CLONE_NEWNET = 0x40000000
LATER = "192.0.2.9"  # no interface has it until add_address()
LIMITS = Limits(address_retry=0.3, reload_names=0.4, check_names=1, retry_min=0.1)
libc = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def add_address():
    ip("addr", "add", f"{LATER}/32", "dev", "lo")


@pytest.fixture(autouse=True)
def network():
    """The test and its processes run in a new network namespace."""
    with open("/proc/self/ns/net") as before:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network of our own: {os.strerror(ctypes.get_errno())}")
        try:
            ip("link", "set", "lo", "up")
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


class NameServer:
    """A name server at 127.0.0.1:53. addresses: {name: IPv4}; other names do not exist (NXDOMAIN). dead:
    answer no query at all; dead_names: the same for these names. asked: the name in each A query."""

    def __init__(self, directory):
        self.dead, self.dead_names, self.addresses, self.asked = True, (), {}, []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 53))
        # The resolver repeats its query every second, for longer than any test takes.
        self.resolv = directory / "resolv.conf"
        self.resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:30\n")
        self.resolv.chmod(0o644)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                query, asker = self.sock.recvfrom(512)
            except OSError:
                return
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            question, name = query[12 : at + 5], ".".join(labels)
            is_v4 = question[-4:-2] == b"\0\1"
            if is_v4:
                self.asked.append(name)
            if self.dead or name in self.dead_names:
                continue
            address = self.addresses.get(name)
            answer = b""
            if address and is_v4:
                answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address)
            flags = b"\x81\x80" if address else b"\x81\x83"
            head = query[:2] + flags + b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0" * 4
            self.sock.sendto(head + question + answer, asker)

    def close(self):
        self.sock.close()


@pytest.fixture
def names(tmp_path):
    server = NameServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def make(tunnel, processes):
    def make(services, **kwargs):
        t = tunnel(services, start=False, limits=LIMITS, **kwargs)
        t.kept = processes
        return t

    return make


def write(t, text=None):
    path = t.workdir / "server.ini"
    path.write_text(text or t.config("server"))
    path.chmod(0o600)
    return path


def begin_server(t, names=None, **kwargs):
    """Starts the server and does not wait for it. names: the NameServer in its /etc/resolv.conf."""
    argv = [BINARIES[OURS], "--server", write(t)]
    if names:
        argv = ["unshare", "--mount", "sh", "-c",
                f'mount --bind {names.resolv} /etc/resolv.conf && exec "$@"', "sh", *argv]
    t.server = t.kept(Process(argv, t.workdir / "server.log", limits=LIMITS, **kwargs), "server")
    t.server.name = "server"
    t.started.append(t.server)
    return t.server


def start_server(t, names=None, **kwargs):
    """begin_server, and waits for the control port: a client that comes earlier logs an error."""
    begin_server(t, names, **kwargs)
    wait_until(lambda: is_listening(t.control_port), within(3), t.server.log)


def lines(process, pattern):
    return [line for line in process.log().splitlines() if re.search(pattern, line)]


def failures(process):
    return [line for line in lines(process, " (ERROR|WARN) .*(bind_addr|address)")
            if "does not encrypt" not in line]  # a warning for a control port that is not on loopback


def stops_within_a_second(process):
    begin = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(within(10)) == 0
    assert time.monotonic() - begin < within(1)


# --- one service without an address -------------------------------------------------------------


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_an_address_that_comes_later(make, service, udp):
    """The other services are served at once. The failure is logged once, however many retries follow. Once
    the address exists, the service is served."""
    local = service(UdpEcho if udp else Echo)
    t = make({"echo": service(Echo).port, "late": local.port}, udp=["late"] if udp else ())
    t.service_options["late"] = {"bind_addr": f"{LATER}:{t.port('late')}"}
    start_server(t)
    t.start_client()
    t.wait_ready(2, ["echo"])
    ping(t.port("echo"))
    time.sleep(within(2.2 * LIMITS.address_retry))  # two more attempts
    assert len(failures(t.server)) == 1, t.server.log()
    assert f"[late] bind_addr {LATER}:{t.port('late')}: address not available" in t.server.log()
    # A sanitizer's build warns that it has no sandbox.
    assert not lines(t.client, " (ERROR|WARN) +(?! |sandbox: )"), "its client is logged in, and waits"
    add_address()
    t.server.wait_log(rf"\[late\] bind_addr {LATER}:\d+: bound now", within(2))
    t.wait_ready(1, ["late"])
    if udp:
        knock(t.port("late"), LATER, 4, within(5))
    else:
        ping(t.port("late"), host=LATER)
    ping(t.port("echo"))
    time.sleep(within(1.2 * LIMITS.address_retry))
    assert len(failures(t.server)) == 1 and len(lines(t.server, "bound now")) == 1
    stops_within_a_second(t.server)


def test_a_port_that_another_process_has(make, service):
    t = make({"echo": service(Echo).port, "taken": service(Echo).port})
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", t.port("taken")))
        holder.listen()
        start_server(t)
        t.start_client()
        t.wait_ready(2, ["echo"])
        ping(t.port("echo"))
        time.sleep(within(1.2 * LIMITS.address_retry))
        assert len(failures(t.server)) == 1, t.server.log()
        assert f"127.0.0.1:{t.port('taken')}: address in use (another process" in t.server.log()
    t.server.wait_log(r"\[taken\] .* bound now", within(2))
    t.wait_ready(1, ["taken"])
    ping(t.port("taken"))


def test_a_port_below_1024(make, processes, nobody):
    """A port that the server has no permission for does not keep it from serving the others."""
    user, directory, program = nobody
    t = make({"echo": None, "low": None})
    t.ports["low"] = 81
    config = directory / "server.ini"
    config.write_text(t.config("server"))
    os.chown(config, user, user)
    process = processes(Process([program, "--server", config], directory / "server.log",
                                user=user), "as nobody")
    wait_until(lambda: is_listening(t.control_port), within(3), "the control port")
    process.wait_log("127.0.0.1:81: permission denied .*CAP_NET_BIND_SERVICE", within(1))
    with t.login("echo"):
        wait_until(lambda: is_listening(t.port("echo")), within(2), "the other service")
    assert process.alive() and len(failures(process)) == 1
    process.kill9()


def test_the_control_port_is_needed(make):
    t = make({"echo": None})
    t.server_options["bind_addr"] = f"{LATER}:{t.control_port}"
    assert begin_server(t).wait(within(2)) == 1
    assert len(failures(t.server)) == 1 and "address not available" in t.server.log()


def test_waiting_services_are_told(make):
    t = make({"echo": None, "late": None})
    t.service_options["late"] = {"bind_addr": f"{LATER}:{t.port('late')}"}
    manager = Manager()
    start_server(t, env=manager.environment())
    assert "1 services wait for their address" in manager.wait("READY")[1]["STATUS"]
    add_address()
    wait_until(lambda: [message for _, message in manager.all()[1:]
                        if "STATUS" in message and "wait" not in message["STATUS"]],
               within(3), "a status without it")
    manager.close()


# --- two services with one address --------------------------------------------------------------


def both_at(t, first, second):
    """Gives both services the port of `a`: a on the host `first`, b on the host `second`."""
    port = t.port("a")
    t.ports["b"] = port
    t.service_options = {"a": {"bind_addr": f"{first}:{port}"},
                         "b": {"bind_addr": f"{second}:{port}"}}


@pytest.mark.parametrize("first, second", [
    ("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.0.0.1", "localhost"),
    ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("[::]", "127.0.0.1"),
    ("0.0.0.0", "[::]"), ("[::1]", "[::]"),
])
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_two_services_with_one_address(make, first, second, udp):
    """The first service gets the address. --check and the start report the second one in the same words,
    with the line number of the first."""
    t = make({"a": None, "b": None}, udp=udp or ())
    both_at(t, first, second)
    config = write(t)
    text = config.read_text().splitlines()
    first_line, second_line = [n for n, line in enumerate(text, 1) if f":{t.port('a')}" in line]
    words = (f"{config}:{second_line}: server.services.b.bind_addr: {second}:{t.port('a')} is "
             f"taken by server.services.a.bind_addr in line {first_line}")
    checked = subprocess.run([BINARIES[OURS], "--check", config], capture_output=True, text=True,
                             timeout=within(10))
    assert (checked.returncode, checked.stdout) == (0, f"{config}: valid\n")
    assert f"warning: {words}\n" in checked.stderr
    start_server(t)
    t.server.wait_log(r"\[b\]", within(1))
    assert lines(t.server, r"WARN +\[b\] ")[0].split("[b] ")[1].startswith(words)
    if not udp:
        with t.login("b"), t.login("a"):
            wait_until(lambda: is_listening(t.port("a")), within(2), "the first")
    # When the first service is removed, the other one is bound.
    t.ports.pop("a"), t.services.pop("a")
    write(t)
    t.server.wait_log(r"\[b\] .*: bound now", within(3))
    assert len(lines(t.server, r" (WARN|ERROR) +\[b\]")) == 1, t.server.log()


def test_the_control_ports_address(make, service):
    """A service with the control port's address is an error for --check. A server that starts all the same
    binds the control port and reports the service."""
    t = make({"echo": service(Echo).port, "bad": None})
    t.service_options["bad"] = {"bind_addr": f"localhost:{t.control_port}"}
    config = write(t)
    checked = subprocess.run([BINARIES[OURS], "--check", config], capture_output=True, text=True,
                             timeout=within(10))
    words = f"localhost:{t.control_port} is taken by server.bind_addr in line 2"
    assert checked.returncode == 1 and checked.stdout == ""
    assert re.search(rf"^{config}:\d+: server.services.bad.bind_addr: {words}$", checked.stderr,
                     re.M), checked.stderr
    start_server(t)
    t.start_client()
    t.wait_ready(3, ["echo"])
    ping(t.port("echo"))
    assert len(lines(t.server, f"WARN +.*{words}")) == 1
    assert len(failures(t.server)) == 1


def test_a_second_server_with_the_same_service(make, service, processes):
    """The first server keeps its address even without a listener, while no client is logged in. The second
    server gets the address when the first one ends."""
    t, other = make({"echo": service(Echo).port}), make({"echo": None})
    other.ports = t.ports
    start_server(t)
    start_server(other)
    other.server.wait_log(r"\[echo\] .* in use \(another process", within(3))
    t.start_client()
    t.wait_ready(3)
    ping(t.port())
    t.client.stop()
    wait_until(lambda: not is_listening(t.port()), within(3), "the client's end")
    time.sleep(within(2.2 * LIMITS.address_retry))  # two more attempts of the other
    assert "bound now" not in other.server.log()
    stops_within_a_second(t.server)
    other.server.wait_log(r"\[echo\] .* bound now", within(2))


# --- dead name servers --------------------------------------------------------------------------


def named(t, *services):
    for name in services:
        t.service_options[name] = {"bind_addr": f"{name}.test:{t.port(name)}"}


def test_a_start_with_a_dead_name_server(make, service, names):
    """The other services are served at once and signals are handled. Services with names follow once the
    name server answers."""
    t = make({"echo": service(Echo).port, "one": service(Echo).port, "two": None})
    named(t, "one", "two")
    begin = time.monotonic()
    start_server(t, names)
    t.start_client()
    t.wait_ready(3, ["echo"])
    ping(t.port("echo"))
    assert time.monotonic() - begin < within(3)
    assert {"one.test", "two.test"} <= set(names.asked), "all at once"
    time.sleep(within(1.5 * LIMITS.address_retry))
    assert len(failures(t.server)) == 2, t.server.log()
    names.addresses, names.dead = {"one.test": "127.0.0.1"}, False
    t.server.wait_log(r"\[one\] bind_addr 127.0.0.1:\d+: bound now", within(4))
    t.wait_ready(1, ["one"])
    ping(t.port("one"))
    names.dead = True
    time.sleep(within(1.2 * LIMITS.address_retry))
    assert len(failures(t.server)) == 2, t.server.log()
    stops_within_a_second(t.server)


@pytest.mark.parametrize("moment", [0.1, 0.7, 1.5])
def test_a_signal_during_a_start_with_a_dead_name_server(make, names, moment):
    t = make({"one": None})
    named(t, "one")
    begin_server(t, names)
    wait_until(lambda: names.asked, within(2), "a question")
    time.sleep(moment)
    stops_within_a_second(t.server)


def test_a_signal_while_the_control_ports_name_is_looked_up(make, names):
    t = make({"echo": None})
    t.server_options["bind_addr"] = f"control.test:{t.control_port}"
    begin_server(t, names)
    wait_until(lambda: names.asked, within(2), "a question")
    time.sleep(1)
    assert t.server.alive() and not failures(t.server)
    stops_within_a_second(t.server)


def test_the_control_ports_name_comes_in_time(make, names):
    t = make({"echo": None})
    t.server_options["bind_addr"] = f"control.test:{t.control_port}"
    begin_server(t, names)
    wait_until(lambda: names.asked, within(2), "a question")
    names.addresses, names.dead = {"control.test": "127.0.0.1"}, False
    wait_until(lambda: is_listening(t.control_port), within(4), "the control port")
    assert not failures(t.server)


def test_the_control_ports_name_does_not_exist(make, names):
    t = make({"echo": None})
    t.server_options["bind_addr"] = f"control.test:{t.control_port}"
    names.dead = False
    assert begin_server(t, names).wait(within(3)) == 1
    assert len(failures(t.server)) == 1 and "no usable address" in t.server.log()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has threads of its own")
def test_root_is_given_away_all_the_same(make, service, names):
    """A service whose name resolves in time is bound to its port below 1024. The thread that still resolves
    another name has dropped its privileges, like all others."""
    t = make({"low": service(Echo).port, "dead": None})
    t.ports["low"] = 81
    named(t, "low", "dead")
    names.addresses, names.dead, names.dead_names = {"low.test": "127.0.0.1"}, False, {"dead.test"}
    t.server_options["user"] = "nobody"
    start_server(t, names)
    t.start_client()
    t.wait_ready(3, ["low"])
    ping(81)
    asking = [pathlib.Path(f"/proc/{t.server.pid}/task/{task}") for task in
              os.listdir(f"/proc/{t.server.pid}/task")]
    assert len(asking) > 4, "main, resolver, two workers, and the one that asks"
    for task in asking:
        rows = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                    if ":\t" in line)
        assert rows["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
        assert rows["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(rows[kind], 16) == 0, (task.name, kind)
    assert len(failures(t.server)) == 1, t.server.log()


@pytest.fixture
def reloading(make, service, names):
    """A server whose file has gained services with names, while the name server is dead."""
    manager = Manager()
    t = make({"echo": service(Echo).port})
    t.manager = manager
    start_server(t, names, env=manager.environment(WATCHDOG_USEC="600000"))
    manager.wait("READY")
    t.start_client()
    t.wait_ready()
    for name in ("one", "two", "three"):
        t.ports[name], t.services[name] = free_port(), None
    named(t, "one", "two", "three")
    write(t)
    wait_until(lambda: len(set(names.asked)) == 3, within(3), "questions, all at once")
    yield t
    manager.close()


@pytest.mark.parametrize("moment", [0, 0.5, 2])
def test_a_signal_during_a_reload_with_a_dead_name_server(reloading, moment):
    time.sleep(moment * LIMITS.reload_names)
    stops_within_a_second(reloading.server)


def test_a_reload_with_a_dead_name_server(reloading, names):
    """Meanwhile the watchdog gets its messages and visitors are served; then the new file is in force."""
    t = reloading
    heard, times = len(t.manager.all()), [time.monotonic()]
    while times[-1] < times[0] + within(max(1.5, 3 * LIMITS.reload_names)):
        new = t.manager.all()[heard:]
        heard += len(new)
        if any("WATCHDOG" in message for _, message in new):
            times.append(time.monotonic())
        ping(t.port("echo"))
        if time.monotonic() - times[-1] > within(1):
            break
        time.sleep(0.02)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert gaps and max(gaps) < within(1), gaps
    assert "3 added" in t.server.log()
    assert len(failures(t.server)) == 3, t.server.log()
    names.addresses = {f"{name}.test": "127.0.0.1" for name in ("one", "two", "three")}
    names.dead = False
    wait_until(lambda: len(lines(t.server, "bound now")) == 3, within(4), t.server.log)
    with t.login("two"):
        wait_until(lambda: is_listening(t.port("two")), within(1), "a service with a name")
    # The name server is dead again: services that are bound no longer need it.
    names.dead = True
    t.ports["four"], t.services["four"] = free_port(), None
    write(t)
    t.server.wait_log("1 added", within(3))
    with t.login("four"):
        wait_until(lambda: is_listening(t.port("four")), within(1), "a service with a number")


def test_an_upgrade_with_a_dead_name_server(make, service, names):
    """The new process takes over the sockets of services whose names it can't resolve."""
    t = make({"one": service(Echo).port})
    named(t, "one")
    t.server_options["bind_addr"] = f"control.test:{t.control_port}"
    names.addresses = {"one.test": "127.0.0.1", "control.test": "127.0.0.1"}
    names.dead = False
    start_server(t, names)
    t.start_client()
    t.wait_ready(3)
    names.dead = True
    old, new = upgrade(t)
    assert old.wait(within(10)) == 0
    assert is_listening(t.port("one")), "never refused"
    ping(t.port("one"), timeout=within(10))
    assert not failures(new) and "closed" not in new.log()


def test_check_with_a_dead_name_server(make, names):
    t = make({"one": None})
    named(t, "one")
    # glibc waits so long for each question, musl for all of them together.
    names.resolv.write_text("nameserver 127.0.0.1\noptions timeout:30\n")
    begin = time.monotonic()
    checked = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         f'mount --bind {names.resolv} /etc/resolv.conf && exec "$@"', "sh", BINARIES[OURS],
         "--check", write(t)], capture_output=True, text=True, timeout=within(20),
        env={**os.environ, **LIMITS.environment()})
    assert LIMITS.check_names < time.monotonic() - begin < within(LIMITS.check_names + 2)
    assert checked.returncode == 0
    assert "server.services.one.bind_addr: one.test:" in checked.stderr, checked.stderr
    assert "no usable address now" in checked.stderr


def test_check_of_what_cannot_be_had(make):
    t = make({"late": None, "taken": None})
    t.service_options["late"] = {"bind_addr": f"{LATER}:{t.port('late')}"}

    def said():
        checked = subprocess.run([BINARIES[OURS], "--check", write(t)], capture_output=True,
                                 text=True, timeout=within(10))
        assert checked.returncode == 0
        return checked.stderr

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", t.port("taken")))
        assert re.search("services.late.bind_addr: .*address not available now", said())
        assert re.search("services.taken.bind_addr: .*address in use now", said())
    t.service_options.clear()
    start_server(t)
    assert "bind_addr" not in said(), "the ports are its own server's"


# --- other processes and addresses --------------------------------------------------------------


def test_nobody_else_can_keep_an_address(make, service, nobody):
    """Another user can't keep the server from its addresses. Up to 0.1.0 the server locked each address
    with an abstract Unix socket, whose name any user could bind first."""
    user, directory, _ = nobody
    t = make({"echo": service(Echo).port})
    squat = ("import socket, sys\n"
             "socks = []\n"
             "for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):\n"
             "    for port in sys.argv[1:]:\n"
             "        socks.append(socket.socket(socket.AF_UNIX, kind))\n"
             "        socks[-1].bind(f'\\0rathole-uring tcp 127.0.0.1:{port}')\n"
             "print('ready', flush=True)\n"
             "sys.stdin.read()\n")
    squatter = subprocess.Popen([sys.executable, "-c", squat, str(t.control_port), str(t.port())],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user,
                                group=user, extra_groups=[])
    try:
        assert squatter.stdout.readline() == b"ready\n"
        start_server(t)
        t.start_client()
        t.wait_ready(3)
        ping(t.port())
        assert not failures(t.server), t.server.log()
    finally:
        squatter.kill()
        squatter.wait()


WITHOUT_UNIX = """
import ctypes, os, struct, sys
AF_UNIX, SOCKET, SOCKETPAIR, EAFNOSUPPORT = 1, 41, 53, 97
rows = [(0x20, 0, 0, 0), (0x15, 1, 0, SOCKET), (0x15, 0, 3, SOCKETPAIR), (0x20, 0, 0, 16),
        (0x15, 0, 1, AF_UNIX), (0x06, 0, 0, 0x00050000 | EAFNOSUPPORT), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(rows), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is written for x86_64")
def test_without_unix_sockets(make, service, processes):
    """The server runs without AF_UNIX, as with RestrictAddressFamilies=AF_INET AF_INET6 in a unit. It keeps
    a second server from its address all the same."""
    t, other = make({"echo": service(Echo).port}), make({"echo": None})
    other.ports = t.ports
    for each in (t, other):
        each.server = processes(Process([sys.executable, "-c", WITHOUT_UNIX, BINARIES[OURS],
                                         "--server", write(each)], each.workdir / "server.log",
                                        env={"NOTIFY_SOCKET": "/run/none"}), "server")
        each.server.name = "server"
        each.started.append(each.server)
        wait_until(lambda: is_listening(each.control_port), within(3), each.server.log)
    other.server.wait_log(r"\[echo\] .* in use", within(2))
    t.start_client()
    t.wait_ready(3)
    ping(t.port())
    assert not failures(t.server)
    # An upgrade needs Unix sockets: it fails with an error, and the server goes on.
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log("upgrade: cannot start", within(3))
    ping(t.port())
