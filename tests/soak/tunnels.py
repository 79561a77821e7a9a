"""The tunnels of the soak: groups of pairs of a server and a client, each group in network namespaces of
its own.

    visitors ==veth== servers ==veth== clients + local services

A pair is one server and one client with one transport. It has two services all the time, `tcp` and `udp`,
and now and then a third. The visitors' namespace also reaches the local services directly, through the
servers' one: that is the reference, a connection with the same two programs at its ends and no tunnel
between them.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import ssl
import sys
import threading
import time

import certificates
import upgrades
from harness import BINARIES, OURS, TOKEN, Process, render, wait_until, within
from noise_peer import Noise
from spaces import Spaces
from tls_peer import Tls
from websocket_peer import WebSocket

HERE = pathlib.Path(__file__).resolve().parent
ROLES = ("server", "client")
# What the groups have to bear, and their transports. One group has none but reloads, so that its processes
# become old.
GROUPS = {"reloads": ("tcp", "noise", "tls", "websocket"),
          "upgrades": ("tcp", "noise", "tls"),
          "faults": ("tcp", "noise", "tls", "websocket")}
DRAIN_S, UDP_TIMEOUT_S = 10, 20
HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 4, 12
VISITORS, FRONT, BACK, LOCAL = "10.79.1.1", "10.79.1.2", "10.79.2.1", "10.79.2.2"
STRANGERS = [f"10.79.1.{n}" for n in range(10, 30)]
CONTROL_PORT, TCP_PORT, UDP_PORT, EXTRA_PORT, LOCAL_PORT, REFERENCE_PORT = 2300, 5000, 5100, 5200, 7000, 6999
BACK_S = 3  # a client or a server that was started anew serves within this time (A11, A12)


class RenewedTls(Tls):
    """Its server's certificate is in files of this tunnel, and renew() makes new ones."""

    def __init__(self, label):
        super().__init__("named")
        self.label = label
        self.renew()

    def renew(self):
        self.current = certificates.authority().issue(self.label)
        self.keys["server"] = {"certificate": self.current.certificate_path,
                               "private_key": self.current.key_path}


def transport_of(name, label):
    return {"tcp": lambda: None, "noise": lambda: Noise("NK"), "tls": lambda: RenewedTls(label),
            "websocket": lambda: WebSocket(None)}[name]()


class Pair:
    """What upgrades.upgrade() wants of a tunnel, too: started, kept(), server, client."""

    def __init__(self, group, transport, number):
        self.group, self.number, self.transport_name = group, number, transport
        self.name = f"{group.name}-{transport}"
        self.transport = transport_of(transport, f"soak-{self.name}")
        self.started, self.leaving = [], []  # leaving: (process, until when)
        self.server = self.client = None
        self.begun = {}    # role: when its process started
        self.stopped, self.upgrading = set(), None
        self.has_extra = False
        self.changes = 0
        self.local = self.number  # the number of the local service

    def kept(self, process, name):
        return process

    def _note(self, role):
        self.begun[role] = time.monotonic()

    # --- configuration ---

    def port(self, base):
        return base + self.number

    def status_path(self, role):
        return self.group.workdir / f"{self.number}{role[0]}.sock"

    def text(self, role):
        options = {"default_token": TOKEN, "threads": 2, "drain_timeout": DRAIN_S}
        if role == "server":
            options.update(bind_addr=f"0.0.0.0:{self.port(CONTROL_PORT)}", heartbeat_interval=HEARTBEAT_S)
            services = {"tcp": {"bind_addr": f"0.0.0.0:{self.port(TCP_PORT)}",
                                "max_connections": 5000 + self.changes},
                        "udp": {"bind_addr": f"0.0.0.0:{self.port(UDP_PORT)}", "type": "udp"}}
            extra = {"bind_addr": f"0.0.0.0:{self.port(EXTRA_PORT)}"}
        else:
            options.update(remote_addr=f"{BACK}:{self.port(CONTROL_PORT)}", retry_interval=1,
                           heartbeat_timeout=HEARTBEAT_TIMEOUT_S, connect_timeout=10 + self.changes % 5)
            services = {"tcp": {"local_addr": f"127.0.0.1:{LOCAL_PORT + self.local}"},
                        "udp": {"local_addr": f"127.0.0.1:{LOCAL_PORT + self.number}", "type": "udp"}}
            extra = {"local_addr": f"127.0.0.1:{REFERENCE_PORT}"}
        services["udp"]["udp_timeout"] = UDP_TIMEOUT_S
        if self.has_extra:
            services["extra"] = extra
        tables = self.transport.tables(role) if self.transport else None
        return render(OURS, role, options, services, tables) + (
            f"\n[status]\nbind_addr = unix:{self.status_path(role)}\n")

    def write(self, role, text=None):
        """Whole, and renamed over the old one."""
        path = self.path(role)
        new = path.with_suffix(".new")
        new.write_text(text or self.text(role))
        new.chmod(0o600)
        new.rename(path)

    def path(self, role):
        return self.group.workdir / f"{self.name}-{role}.ini"

    # --- processes ---

    def start(self, role):
        self.write(role)
        space = "servers" if role == "server" else "clients"
        argv = self.group.command(space, BINARIES[OURS], f"--{role}", self.path(role))
        process = Process(argv, self.group.logs / f"{self.name}-{role}.log")
        process.name = f"{self.name} {role}"
        setattr(self, role, process)
        self._note(role)
        return process

    def upgrade(self, role):
        """Returns how long it took until the new process serves."""
        begun = time.monotonic()
        self.upgrading = role  # the old process may leave before the new one has its place here
        try:
            old, _ = upgrades.upgrade(self, role, timeout=60)
            self._note(role)
        finally:
            self.upgrading = None
        self.started.clear()  # those that have left would be kept for ever
        self.leaving.append((old, time.monotonic() + within(DRAIN_S + 10)))
        return time.monotonic() - begun

    def look(self):
        """Takes leave of old processes; complaints about how processes ended."""
        found = []
        now = time.monotonic()
        for role in ROLES:
            process = getattr(self, role)
            if role != self.upgrading and process and not process.alive() and not process.expected_death:
                found.append(f"the {role} has ended, exit {process.popen.returncode}")
                process.expected_death = True
        for process, until in list(self.leaving):
            if not process.alive():
                self.leaving.remove((process, until))
                process.log_file.close()
                if process.popen.returncode != 0:
                    found.append(f"{process.name} was replaced and ended with {process.popen.returncode}")
            elif now > until:
                self.leaving.remove((process, until))
                found.append(f"{process.name} was replaced and does not end")
                process.kill9()
        return found

    # --- what they say ---

    def ask(self, role, path="/metrics", timeout=2):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(str(self.status_path(role)))
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: soak\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise OSError(f"{path}: {head[:60]!r}")
        return body.decode()

    def metrics(self, role, timeout=2):
        """{name, without its prefix: [(labels as text, value)]}"""
        found = {}
        for line in self.ask(role, timeout=timeout).splitlines():
            match = re.match(r"rathole_uring_(\w+)(?:\{(.*)\})? ([-+.\deE]+)", line)
            if match and not match[1].endswith("_bucket"):
                found.setdefault(match[1], []).append((match[2] or "", float(match[3])))
        return found

    def metric(self, role, name, label=""):
        return sum(value for labels, value in self.metrics(role).get(name, []) if label in labels)

    def is_up(self, role, names=("tcp", "udp")):
        try:
            up = self.metrics(role).get("service_up", [])
        except OSError:
            return False
        return all(any(f'"{name}"' in labels and value == 1 for labels, value in up) for name in names)

    def wait_up(self, role, timeout, names=("tcp", "udp")):
        wait_until(lambda: self.is_up(role, names), timeout, f"all services of {self.name} at its {role}")

    def echo(self, base=TCP_PORT, timeout=5):
        """One visitor: its answer, or an OSError."""
        with self.group.inside("visitors"):
            sock = socket.socket()
        with sock:
            sock.settimeout(timeout)
            sock.connect((FRONT, self.port(base)))
            sock.sendall(b"E" + bytes(12) + b"soak")
            answer = b""
            while len(answer) < 4:
                data = sock.recv(4 - len(answer))
                if not data:
                    raise ConnectionResetError("a clean end instead of an answer")
                answer += data
        return answer == b"soak"

    def answers(self, base=TCP_PORT):
        with contextlib.suppress(OSError):
            return self.echo(base, timeout=1)
        return False

    def refuses(self, base):
        try:
            self.echo(base, timeout=1)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def shown_serial(self):
        """Of the certificate that the server shows to a new connection."""
        from cryptography import x509
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.authority().path)
        with self.group.inside("clients"):
            sock = socket.socket()
        sock.settimeout(5)
        sock.connect((BACK, self.port(CONTROL_PORT)))
        with context.wrap_socket(sock, server_hostname=certificates.NAME) as secure:
            return x509.load_der_x509_certificate(secure.getpeercert(True)).serial_number


class Load:
    """One program of traffic.py, whose lines go to `hear(group's name, line)` from a thread."""

    def __init__(self, group, what, space, spec, hear):
        path = group.workdir / f"{what}.json"
        path.write_text(json.dumps(spec))
        read_end, write_end = os.pipe()
        self.process = Process(
            group.command(space, sys.executable, "-B", HERE / "traffic.py", what, path),
            group.logs / f"{what}.log", stdout=write_end)
        os.close(write_end)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(os.fdopen(read_end), hear), daemon=True)
        self.thread.start()

    def _read(self, lines, hear):
        with lines:
            for text in lines:
                try:
                    line = json.loads(text)
                except ValueError:  # cut when it was killed
                    continue
                if "ready" in line:
                    self.ready.set()
                hear(line)

    def stop(self, timeout):
        """Lets the visitors that are there finish."""
        if self.process.alive():
            self.process.signal(15)
            try:
                self.process.wait(timeout)
            except AssertionError:
                self.process.kill9()
                return f"{self.process.argv[-2]} of the load did not stop"
        self.thread.join(10)
        self.process.log_file.close()
        code = self.process.popen.returncode
        return f"{self.process.argv[-2]} of the load ended with {code}" if code else None


class Group(Spaces):
    """hear(group, line): what its traffic says. index: its numbers of ports."""

    def __init__(self, name, transports, workdir, logs, hear, scale, seed):
        self.name, self.workdir, self.logs = name, workdir, logs
        self.hear, self.scale, self.seed = hear, scale, seed
        workdir.mkdir()
        super().__init__(("visitors", "servers", "clients"))
        self.pairs = [Pair(self, transport, number) for number, transport in enumerate(transports)]
        self.link("visitors", "front", "servers")
        self.link("clients", "back", "servers")
        for space, address, device in (("visitors", VISITORS, "front"), ("servers", FRONT, "front"),
                                       ("servers", BACK, "back"), ("clients", LOCAL, "back")):
            self.run(space, "ip", "address", "add", f"{address}/24", "dev", device)
        for stranger in STRANGERS:
            self.run("visitors", "ip", "address", "add", f"{stranger}/24", "dev", "front")
        for space, via in (("visitors", FRONT), ("clients", BACK)):
            self.run(space, "ip", "route", "add", "default", "via", via)
        with self.inside("servers"):
            pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self.services = self.visitors = None

    def start(self):
        ports = {pair.name: {"tcp": LOCAL_PORT + pair.number, "udp": LOCAL_PORT + pair.number}
                 for pair in self.pairs}
        self.services = Load(self, "serve", "clients", {
            "pairs": ports, "host": "127.0.0.1", "reference": REFERENCE_PORT}, self._hear)
        for role in ROLES:
            for pair in self.pairs:
                pair.start(role)
        for pair in self.pairs:
            pair.wait_up("client", within(15))
        wait_until(self.services.ready.is_set, within(10), "the local services")

    def _hear(self, line):
        self.hear(self, line)

    def visit(self):
        self.visitors = Load(self, "visit", "visitors", {
            "host": FRONT, "reference": [LOCAL, REFERENCE_PORT], "scale": self.scale, "seed": self.seed,
            "pairs": {pair.name: {"tcp": pair.port(TCP_PORT), "udp": pair.port(UDP_PORT)}
                      for pair in self.pairs}}, self._hear)

    def strangers(self, pair, rate, seconds, seed):
        return Load(self, "strangers", "visitors", {
            "host": FRONT, "port": pair.port(CONTROL_PORT), "sources": STRANGERS, "rate": rate,
            "seconds": seconds, "seed": seed, "nice": 5}, self._hear)

    # --- the path between servers and clients ---

    def cut(self, direction):
        to_server, to_client = ["input iifname back drop"], ["output oifname back drop"]
        self.filter("servers", {"to server": to_server, "to client": to_client,
                                "both ways": to_server + to_client}[direction])

    def heal(self):
        self.filter("servers", [])

    def close(self):
        """Stops everything. Returns complaints about how processes ended."""
        complaints = [load.stop(within(30)) for load in (self.visitors, self.services) if load]
        running = [getattr(pair, role) for pair in self.pairs for role in ROLES if getattr(pair, role)]
        running += [process for pair in self.pairs for process, _ in pair.leaving]
        for process in running:
            with contextlib.suppress(OSError):
                process.signal(18)  # SIGCONT
            process.begin_stop()
        for process in running:
            try:
                code = process.stop()
                if code and not process.expected_death:
                    complaints.append(f"{process.name} ended with {code}")
            except AssertionError as error:
                complaints.append(f"{process.name}: {error}")
            if verdict := process.verdict():
                complaints.append(f"{process.name}: {verdict}")
        self.release()
        return [line for line in complaints if line]
