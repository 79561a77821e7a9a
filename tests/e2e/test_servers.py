"""A client with several servers: servers = all and servers = first, names that change, servers that die
or stay silent, reloads, an upgrade."""

import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from capabilities import NO_RATHOLE, needs_tls
from certificates import NAME
from harness import (
    BINARIES, OURS, RATHOLE, TOKEN, free_port, have, render, wait_until, within,
)
from limits import Limits
from protocol import connect
from services import Echo
from tls_peer import Tls
from upgrades import upgrade

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a program another hosts file"),
]

INTERVAL = 1  # resolve_interval, the least


class Silent:
    """Accepts connections and says nothing; counts them."""

    def __init__(self, port, host):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((host, port))
        self.sock.listen(64)
        self.accepted = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            try:
                self.accepted.append(self.sock.accept()[0])
            except OSError:
                return

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(5)
        for each in self.accepted:
            each.close()


class Nodes:
    """Servers of the same services at 127.0.0.N, with one control port, and a client of them."""

    def __init__(self, make, service, names=("echo",), transport=None):
        self.echo = service(Echo)
        self.control = free_port()
        self.tunnel = make(dict.fromkeys(names, self.echo.port), start=False,
                           control_port=self.control, transport=transport)
        self.names = names
        self.servers = {}

    def start(self, node, implementation=OURS, transport=None):
        t = self.tunnel
        host = f"127.0.0.{node}"
        options = {"bind_addr": f"{host}:{self.control}", "default_token": TOKEN}
        tables = {name: {"bind_addr": f"{host}:{t.ports[name]}", **t.service_options.get(name, {})}
                  for name in self.names}
        if implementation == OURS:
            options["threads"] = 2
        text = render(implementation, "server", options, tables,
                      transport.tables("server") if transport else None)
        impl, t.impl["server"] = t.impl["server"], implementation
        self.servers[node] = t.spawn("server", text=text, name=f"server{node}")
        t.impl["server"] = impl
        return self.servers[node]

    def config(self, remote_addr, **options):
        t = self.tunnel
        t.client_options = {"remote_addr": remote_addr, **options}
        return t.config("client")

    def start_client(self, remote_addr, files=None, **options):
        t = self.tunnel
        t.client = t.spawn("client", text=self.config(remote_addr, **options), files=files)
        return t.client

    def reload(self, remote_addr, **options):
        t = self.tunnel
        since = t.client.log_size()
        path = t.workdir / "client.ini"
        path.write_text(self.config(remote_addr, **options))
        t.client.wait_log(r"reload: .*took", within(5), since)

    def ping(self, node, name="echo"):
        """Whether a visitor of that node is answered, within a short time."""
        try:
            with socket.create_connection((f"127.0.0.{node}", self.tunnel.port(name)),
                                          timeout=within(1)) as visitor:
                visitor.sendall(b"ping")
                return visitor.recv(4) == b"ping"
        except OSError:
            return False

    def wait(self, *nodes, timeout=5):
        for node in nodes:
            for name in self.names:
                wait_until(lambda: self.ping(node, name), within(timeout), f"{name} at {node}")

    def logins(self, node):
        """How many sessions the node's log has seen begin."""
        return self.servers[node].log().count("control channel established")

    def lost(self, node):
        """How many it has seen end by their client."""
        return self.servers[node].log().count("control channel lost")

    def established(self):
        """[(service, node)] of the client's log, in order."""
        found = re.findall(r"\[?(\w+)\]?:? control channel established with 127\.0\.0\.(\d+)",
                           self.tunnel.client.log())
        return [(name, int(node)) for name, node in found]

    def connections(self, node):
        """Established TCP connections to the node's control port, by the client's side."""
        with open("/proc/net/tcp") as table:
            lines = [line.split() for line in table.readlines()[1:]]
        remote = f"{node:02X}00007F:{self.control:04X}"  # little-endian
        return sum(line[2] == remote and line[3] == "01" for line in lines)


@pytest.fixture
def nodes(tunnel, service):
    return lambda *args, **kwargs: Nodes(tunnel, service, *args, **kwargs)


# --- servers = all ------------------------------------------------------------------------------


def test_all_servers_one_dead_one_silent_one_restarted(nodes, service):
    """The dead and the silent server cost the others nothing; one that comes back is found."""
    n = nodes([f"s{i}" for i in range(20)])
    silent = service(Silent, port=n.control, host="127.0.0.5")
    n.start(2), n.start(3)
    begun = time.monotonic()
    n.start_client(", ".join(f"127.0.0.{i}:{n.control}" for i in (2, 3, 4, 5)), servers="all")
    n.wait(2, 3)
    assert time.monotonic() - begun < within(5)
    assert 1 <= len(silent.accepted) <= 16, "logins take turns at each server"
    assert n.connections(2) >= 20
    n.servers[3].kill9()
    assert all(n.ping(2, name) for name in n.names)
    n.start(3)
    n.wait(3)
    established = n.established()
    assert established.count(("s0", 2)) == 1, "one control channel at each server"
    n.start(4)  # dead from the start
    n.wait(4)
    time.sleep(within(1))
    for node in (2, 3, 4):
        assert n.logins(node) == len(n.names), node


@pytest.mark.skipif(not have(RATHOLE), reason=NO_RATHOLE)
def test_a_rathole_server_among_them(nodes):
    n = nodes()
    n.start(2), n.start(3, RATHOLE)
    n.start_client(f"127.0.0.2:{n.control}, 127.0.0.3:{n.control}", servers="all")
    n.wait(2, 3)


def test_names_are_followed(nodes, dns):
    """A record is removed and another one added: the new server has its logins within resolve_interval
    and a second, the old one's control channels end, its relays go on."""
    n = nodes(["a", "b"])
    names = dns(names={"all.test": ["127.0.0.2", "127.0.0.3"]})
    for node in (2, 3, 4):
        n.start(node)
    n.start_client(f"all.test:{n.control}", servers="all", resolve_interval=INTERVAL,
                   files=names.files)
    n.wait(2, 3)
    assert not n.ping(4, "a")
    relay = connect(n.tunnel.port("a"), host="127.0.0.2", timeout=within(10))
    relay.sendall(b"1")
    assert relay.recv(1) == b"1"
    names.names["all.test"] = ["127.0.0.3", "127.0.0.4"]
    begun = time.monotonic()
    wait_until(lambda: n.logins(4) == 2, within(5), "logins at the new server")
    assert time.monotonic() - begun < within(INTERVAL + 1)
    # The old one stays for one look-up more: DNS may be about to change back.
    wait_until(lambda: n.connections(2) == 1, within(3 * INTERVAL + 1), "only the relay is left")
    relay.sendall(b"2")
    assert relay.recv(1) == b"2", "relays go on"
    relay.close()
    wait_until(lambda: n.connections(2) == 0, within(5), "nothing is left")
    # A look-up that fails changes nothing, however it fails.
    lookups = names.count("all.test")
    del names.names["all.test"]
    wait_until(lambda: names.count("all.test") > lookups + 3, within(10), "look-ups")
    names.is_silent = True
    time.sleep(within(2.5))
    assert all(n.ping(node, name) for node in (3, 4) for name in n.names)
    assert n.logins(3) == n.logins(4) == 2, "never a second login"
    assert n.connections(2) == 0


def test_a_name_that_nobody_knows_yet(nodes, dns):
    """At the start name servers know one name of two; the other comes later."""
    n = nodes()
    names = dns(names={"one.test": ["127.0.0.2"]})
    n.start(2), n.start(3)
    n.start_client(f"two.test:{n.control}, one.test:{n.control}", servers="all",
                   resolve_interval=60, files=names.files)
    n.wait(2, timeout=3)
    time.sleep(within(2))
    assert names.count("two.test") <= 2 + 2 * within(2), "look-ups are not made in a loop"
    assert names.count("one.test") == 1
    names.names["two.test"] = ["127.0.0.3", "127.0.0.2"]
    n.wait(3)
    assert n.logins(2) == 1, "an address of two names is one server"


def test_reload_of_the_servers(nodes):
    """Sessions of addresses that stay are not disturbed, whatever else changes."""
    n = nodes(["a", "b"])
    addr = {node: f"127.0.0.{node}:{n.control}" for node in (2, 3, 4)}
    for node in addr:
        n.start(node)
    n.start_client(f"{addr[2]}, {addr[3]}", servers="all")
    n.wait(2, 3)
    n.reload(f"{addr[4]}, {addr[3]}", servers="all")
    n.wait(3, 4)
    wait_until(lambda: n.connections(2) == 0, within(5), "what was removed ends")
    n.reload(f"{addr[4]}, {addr[3]}", servers="all", resolve_interval=7)
    n.reload(f"{addr[2]}, {addr[4]}, {addr[3]}", servers="first")
    wait_until(lambda: n.connections(3) == 0, within(5), "one of two stays")
    n.wait(4)
    assert n.logins(2) == 2, "first: what is up stays, also if another one comes first now"
    n.reload(f"{addr[3]}, {addr[4]}", servers="all")
    n.wait(3, 4)
    assert n.logins(4) == 2, "never disturbed"
    assert n.logins(3) == 4
    for name in n.names:  # the token is of all of them
        n.tunnel.client_service_options[name] = {"token": TOKEN + "!"}
    n.reload(f"{addr[3]}, {addr[4]}", servers="all")
    wait_until(lambda: not n.ping(3, "a") and not n.ping(4, "b"), within(5), "the token is wrong")


def test_upgrade_with_several_servers(nodes, processes):
    n = nodes(["a", "b"])
    n.tunnel.kept = processes
    n.start(2), n.start(3)
    n.start_client(f"127.0.0.2:{n.control}, 127.0.0.3:{n.control}", servers="all")
    n.wait(2, 3)
    upgrade(n.tunnel, "client")
    n.wait(2, 3)
    time.sleep(within(1))
    assert n.logins(2) == n.logins(3) == 4, "once more for each service"


def test_upgrade_with_several_clients_and_a_dead_server(nodes, processes):
    """With `clients = balance` nothing replaces the old process's sessions: it ends them when its
    successor is logged in, at each server for itself. The dead ones keep it from nothing: one whose
    process has died, and one that is stopped and looks alive."""
    n = nodes(["a", "b"])
    n.tunnel.kept = processes
    n.tunnel.service_options = {name: {"clients": "balance"} for name in n.names}
    addr = {node: f"127.0.0.{node}:{n.control}" for node in (2, 3, 4, 5)}
    for node in addr:
        n.start(node)
    n.start_client(", ".join(addr.values()), servers="all")
    n.wait(*addr)
    n.servers[4].kill9()
    wait_until(lambda: n.connections(4) == 0, within(5), "the end of the dead server's connections")
    n.servers[5].signal(signal.SIGSTOP)
    old, _ = upgrade(n.tunnel, "client")
    for node in (2, 3):
        wait_until(lambda: n.logins(node) - n.lost(node) == 2 < n.logins(node), within(3),
                   f"once for each service at {node}")
    assert old.alive(), "for the sessions with the server that is stopped"
    assert all(n.ping(node, name) for node in (2, 3) for name in n.names)
    n.servers[5].signal(signal.SIGCONT)
    n.wait(5)
    assert old.wait(within(5)) == 0
    n.wait(2, 3, 5)


@needs_tls
def test_tls_with_a_certificate_for_each_name(nodes, dns):
    """Each name is compared with its own server's certificate."""
    n = nodes()
    names = dns(hosts={NAME: ["127.0.0.2"], "other.example": ["127.0.0.3"],
                       "n4.test": ["127.0.0.4"]})
    for node, identity in ((2, "named"), (3, "another name"), (4, "another name")):
        n.start(node, transport=Tls(identity))
    n.tunnel.transport["client"] = Tls(hostname=None)
    n.start_client(", ".join(f"{name}:{n.control}" for name in (NAME, "other.example", "n4.test")),
                   servers="all", files=names.files)
    n.wait(2, 3)
    n.tunnel.client.wait_log(r"cannot log in to n4\.test:\d+ \(127\.0\.0\.4:\d+\)", within(5))
    assert not n.ping(4)


# --- servers = first ----------------------------------------------------------------------------


def test_the_first_that_answers(nodes, dns):
    """Names are tried in order; the one that worked last comes first; back when the connection ends."""
    n = nodes(["a", "b"])
    names = dns(names={"n3.test": ["127.0.0.3"]})
    for node in (3, 4):
        n.start(node).wait_log("server on", within(5))
    n.start_client(f"127.0.0.2:{n.control}, none.test:1, n3.test:{n.control}, 127.0.0.4:{n.control}",
                   files=names.files)
    n.wait(3)
    assert n.connections(4) == 0
    n.start(2)
    time.sleep(within(1))
    assert n.connections(2) == 0, "not before the connection ends"
    n.servers[3].kill9()
    n.wait(2)
    assert n.logins(4) == 0


def test_a_first_server_that_is_silent(nodes, service):
    n = nodes()
    n.tunnel.limits = Limits(login=0.5)
    service(Silent, port=n.control, host="127.0.0.2")
    n.start(3)
    n.start_client(f"127.0.0.2:{n.control}, 127.0.0.3:{n.control}")
    n.wait(3, timeout=n.tunnel.limits.login + 3)


def test_a_first_server_that_swallows_packets(nodes, service):
    n = nodes()
    hole = socket.socket()
    hole.bind(("127.0.0.2", n.control))
    hole.listen(0)
    filler = socket.create_connection(("127.0.0.2", n.control))
    n.start(3)
    begun = time.monotonic()
    n.start_client(f"127.0.0.2:{n.control}, 127.0.0.3:{n.control}")
    n.wait(3)
    assert time.monotonic() - begun < within(3), "it has its part of the time, and no more"
    filler.close()
    hole.close()


def test_status_and_check_name_them(nodes, tmp_path, monkeypatch):
    """The status comes with a reload, as a socket in a directory that the client knows since its start."""
    n = nodes()
    n.start(2)
    known, other = tmp_path / "run", tmp_path / "other"
    for directory in (known, other):
        directory.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/none:{known}")
    sock = known / "status"
    n.start_client(f"127.0.0.2:{n.control}, 127.0.0.3:{n.control}", servers="all")
    n.wait(2)
    assert f"client of 127.0.0.2:{n.control}, 127.0.0.3:{n.control}" in n.tunnel.client.log()
    said = subprocess.run([BINARIES[OURS], "--check", n.tunnel.workdir / "client.ini"],
                          capture_output=True, text=True, timeout=30).stdout
    assert f"client of all: 127.0.0.2:{n.control}, 127.0.0.3:{n.control}" in said, said
    path = n.tunnel.workdir / "client.ini"
    plain = path.read_text()
    path.write_text(plain + f"\n[status]\nbind_addr = unix:{other}/status\n")
    n.tunnel.client.signal(signal.SIGHUP)
    if "landlock_main: on" in n.tunnel.client.log():
        n.tunnel.client.wait_log(r"other/status.*the sandbox", within(5))
    path.write_text(plain + f"\n[status]\nbind_addr = unix:{sock}\n")
    n.tunnel.client.signal(signal.SIGHUP)
    n.tunnel.client.wait_log(r"status: on .*run/status", within(5))  # it listens; the file is there earlier

    def metrics():
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(sock))
            s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = b""
            while part := s.recv(65536):
                text += part
        return text.decode()

    assert 'service_servers_up{service="echo"} 1\n' in metrics()
    n.start(3)
    n.wait(3)
    assert 'service_servers_up{service="echo"} 2\n' in metrics()
    n.servers[2].kill9()
    wait_until(lambda: 'service_servers_up{service="echo"} 1\n' in metrics(), within(5), "one less")
    assert 'service_up{service="echo"} 1\n' in metrics()
