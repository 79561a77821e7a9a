"""A tunnel whose parts are in network namespaces of their own, so that a test can do to the paths between
them what networks do, without any packet (RST, ICMP) that tells the ends.

    visitor ==front== server ==back== client + local services

With middle=True, two routers are on the path between server and client; with distant=True the local
services are on a machine of their own behind the client:

    visitor ==front== server ==back== near ==middle== far ==back== client ==behind== service
          10.77.1           10.77.2       10.77.3         10.77.4        10.77.5

Namespaces and links are those of spaces.py.
"""

import pathlib
import socket

from harness import BINARIES, OURS, TOKEN, Process, render, wait_until, within
from spaces import Spaces

VISITOR, VISITOR_LATER, SERVER_FRONT = "10.77.1.1", "10.77.1.3", "10.77.1.2"
SERVER_BACK, SERVER_LATER = "10.77.2.1", "10.77.2.9"
CLIENT, CLIENT_LATER = "10.77.2.2", "10.77.2.3"
CLIENT_FAR = "10.77.4.2"
CLIENT_BEHIND, SERVICE = "10.77.5.1", "10.77.5.2"
CONTROL_PORT, SERVICE_PORT, LOCAL_PORT = 2333, 5022, 7000
UDP_PORT = 5053
TO_SERVER, TO_CLIENT, BOTH = "to_server", "to_client", "both"
FIN_OR_RST = "tcp flags & (fin | rst) != 0 drop"  # whoever leaves is not heard
TCP, UDP = {"lab": {}}, {"lab": {}, "udp": {}}


class Lab(Spaces):
    """options: {role: {key: value}}; transport, limits: as in harness.Tunnel. rto_min_ms: the
    kernel's minimum retransmission timeout on the path between the two ends.

    services: {name: {role: {key: value}}}; a service named "udp" is one of UDP. Those of TCP have the
    ports SERVICE_PORT, SERVICE_PORT + 1, ... and LOCAL_PORT, LOCAL_PORT + 1, ... in this order.
    files: for the client's Process."""

    def __init__(self, workdir, transport=None, options=None, threads=2, limits=None,
                 rto_min_ms=200, services=None, middle=False, distant=False):
        self.workdir = pathlib.Path(workdir)
        self.workdir.mkdir(exist_ok=True)
        self.transport, self.options, self.threads = transport, options or {}, threads
        self.limits, self.services, self.files = limits, services or TCP, None
        self.started = []
        self.server = self.client = None
        self.has_middle, self.local_host = middle, SERVICE if distant else "127.0.0.1"
        self.local_space = "service" if distant else "client"
        spaces = ["visitor", "server", "client"]
        super().__init__(spaces + ["near", "far"] * middle + ["service"] * distant)
        self._join("visitor", VISITOR, "front", "server", SERVER_FRONT)
        if middle:
            self._join_by_routers()
        else:
            self._join("client", CLIENT, "back", "server", SERVER_BACK)
            for space in ("client", "server"):
                self.run(space, "ip", "route", "replace", "10.77.2.0/24", "dev", "back", "rto_min",
                         f"{rto_min_ms}ms")
        if distant:
            self._join("client", CLIENT_BEHIND, "behind", "service", SERVICE)

    def _join(self, space, address, name, other, other_address):
        self.link(space, name, other, address=f"{address}/24", to_address=f"{other_address}/24")

    def _join_by_routers(self):
        self._join("near", "10.77.2.254", "back", "server", SERVER_BACK)
        self._join("far", "10.77.3.2", "middle", "near", "10.77.3.1")
        self._join("client", CLIENT_FAR, "back", "far", "10.77.4.254")
        for space, networks, gateway in (("server", "10.77.4.0/24", "10.77.2.254"),
                                         ("near", "10.77.4.0/24", "10.77.3.2"),
                                         ("far", "10.77.2.0/24", "10.77.3.1"),
                                         ("client", "10.77.2.0/24", "10.77.4.254")):
            self.run(space, "ip", "route", "add", networks, "via", gateway)
        for router in ("near", "far"):
            self.set_sysctl(router, "ip_forward", 1)

    def set_sysctl(self, space, name, value):
        """Of net.ipv4, in this namespace alone."""
        with self.inside(space):
            pathlib.Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))

    # --- the path ---

    def cut(self, direction):
        """Drops all packets between server and client. direction: TO_SERVER, TO_CLIENT or BOTH."""
        rules = {TO_SERVER: ["input iifname back drop"], TO_CLIENT: ["output oifname back drop"]}
        rules[BOTH] = rules[TO_SERVER] + rules[TO_CLIENT]
        self.filter("server", rules[direction])

    def lose(self, percent):
        """Drops `percent` of the packets between server and client, in both directions."""
        lost = f"numgen random mod 100 < {percent} drop"
        self.filter("server", [f"input iifname back {lost}", f"output oifname back {lost}"])

    def heal(self):
        self.filter("server", [])

    def limit_rate(self, kbit):
        """Of the path between server and client, in both directions, with a queue of 50 ms."""
        for space in ("server", "client"):
            self.run(space, "tc", "qdisc", "replace", "dev", "back", "root", "tbf", "rate",
                     f"{kbit}kbit", "burst", "16kb", "latency", "50ms")

    def set_mtu(self, mtu, *ends):
        """ends: (space, name of the interface), ..."""
        for space, name in ends:
            self.run(space, "ip", "link", "set", name, "mtu", str(mtu))

    def narrow_middle(self, mtu, is_black_hole=False):
        """Between the routers. A black hole: who sends larger packets is not told (ICMP)."""
        self.set_mtu(mtu, ("near", "middle"), ("far", "middle"))
        silence = ["output icmp type destination-unreachable drop"] if is_black_hole else []
        for router in ("near", "far"):
            self.filter(router, silence)
        for space in ("server", "client"):  # what they have learned of the path
            self.run(space, "ip", "route", "flush", "cache")

    def move(self, space, name, before, after):
        """Replaces an address by another one; nobody is told."""
        self.ip(space, f"address del {before}/24 dev {name}", f"address add {after}/24 dev {name}")

    def move_client(self):
        self.move("client", "back", CLIENT, CLIENT_LATER)

    # --- the programs ---

    def _service(self, role, name, number):
        if name == "udp":
            ends = {"server": f"0.0.0.0:{UDP_PORT}", "client": f"{self.local_host}:{LOCAL_PORT}"}
        else:
            ends = {"server": f"0.0.0.0:{SERVICE_PORT + number}",
                    "client": f"{self.local_host}:{LOCAL_PORT + number}"}
        table = {"bind_addr" if role == "server" else "local_addr": ends[role]}
        if name == "udp":
            table["type"] = "udp"
        table.update(self.services[name].get(role, {}))
        return table

    def _config(self, role):
        options = {"default_token": TOKEN, "threads": self.threads}
        if role == "server":
            options["bind_addr"] = f"0.0.0.0:{CONTROL_PORT}"
        else:
            options["remote_addr"] = f"{SERVER_BACK}:{CONTROL_PORT}"
        options.update(self.options.get(role, {}))
        tables = dict(self.transport.tables(role)) if self.transport else {}
        tables.update(options.pop("tables", {}))
        names = [name for name in self.services if name != "udp"] + ["udp"] * ("udp" in self.services)
        return render(OURS, role, options, {name: self._service(role, name, number)
                                            for number, name in enumerate(names)}, tables)

    def spawn(self, role, name=None):
        name = name or role
        path = self.workdir / f"{name}.ini"
        path.write_text(self._config(role))
        path.chmod(0o600)
        argv = self.command(role, BINARIES[OURS], f"--{role}", path)
        process = Process(argv, self.workdir / f"{name}.log", limits=self.limits,
                          files=self.files if role == "client" else None)
        process.name = f"{name} of {self.workdir.name}"
        self.started.append(process)
        return process

    def start(self):
        """Starts both ends and waits for a session. Call it from the main thread: see Process."""
        self.server = self.spawn("server")
        self.client = self.spawn("client")
        return self

    def sessions(self, of=None):
        """How many logins have succeeded since the start."""
        return (of or self.client).log().count("control channel established")

    def wait_sessions(self, count, timeout=10, of=None):
        """Waits until `count` logins have succeeded since the start."""
        process = of or self.client
        wait_until(lambda: self.sessions(process) >= count, within(timeout),
                   f"session {count} of {process.name}")

    def visit(self, timeout=10, port=SERVICE_PORT):
        """A visitor's connection to the service."""
        with self.inside("visitor"):
            visitor = socket.socket()
        visitor.settimeout(timeout)
        visitor.connect((SERVER_FRONT, port))
        return visitor

    def close(self):
        """Stops the programs. Returns complaints about how they ended as text; empty if there are none."""
        complaints = []
        for process in reversed(self.started):
            try:
                process.signal(18)  # SIGCONT, if a test has stopped it
                process.stop()
            except AssertionError as error:
                complaints.append(f"{process.name}: {error}")
            verdict = process.verdict()
            if verdict:
                complaints.append(f"{process.name}: {verdict}")
        self.release()
        return "; ".join(complaints)
