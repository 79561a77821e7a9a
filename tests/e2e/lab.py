"""A tunnel whose three parts are in network namespaces of their own, so that a test can cut the path
between server and client without any packet (RST, ICMP) that tells the ends.

    visitor ==veth== server ==veth== client + local services
              10.77.1       10.77.2

Namespaces and links are those of spaces.py.
"""

import pathlib
import socket

from harness import BINARIES, OURS, TOKEN, Process, render, wait_until, within
from spaces import Spaces

SPACES = ("visitor", "server", "client")
VISITOR, SERVER_FRONT = "10.77.1.1", "10.77.1.2"
SERVER_BACK, CLIENT, CLIENT_LATER = "10.77.2.1", "10.77.2.2", "10.77.2.3"
CONTROL_PORT, SERVICE_PORT, LOCAL_PORT = 2333, 5022, 7000
TO_SERVER, TO_CLIENT, BOTH = "to_server", "to_client", "both"


class Lab(Spaces):
    """options: {role: {key: value}}; transport, limits: as in harness.Tunnel. rto_min_ms: the
    kernel's minimum retransmission timeout on the path between the two ends. One service, `lab`."""

    def __init__(self, workdir, transport=None, options=None, threads=2, limits=None,
                 rto_min_ms=200):
        self.workdir = pathlib.Path(workdir)
        self.workdir.mkdir(exist_ok=True)
        self.transport, self.options, self.threads = transport, options or {}, threads
        self.limits = limits
        self.started = []
        self.server = self.client = None
        super().__init__(SPACES)
        self._link("visitor", "front", VISITOR, SERVER_FRONT)
        self._link("client", "back", CLIENT, SERVER_BACK)
        for space in ("client", "server"):
            self.run(space, "ip", "route", "replace", "10.77.2.0/24", "dev", "back", "rto_min",
                     f"{rto_min_ms}ms")

    def _link(self, space, name, address, server_address):
        self.link(space, name, "server")
        for each, its_address in ((space, address), ("server", server_address)):
            self.run(each, "ip", "address", "add", f"{its_address}/24", "dev", name)

    # --- the path ---

    def cut(self, direction):
        """Drops all packets between server and client. direction: TO_SERVER, TO_CLIENT or BOTH."""
        rules = {TO_SERVER: ["input iifname back drop"], TO_CLIENT: ["output oifname back drop"]}
        rules[BOTH] = rules[TO_SERVER] + rules[TO_CLIENT]
        self.filter("server", rules[direction])

    def lose(self, percent):
        """Drops `percent` of the packets, in both directions."""
        lost = f"numgen random mod 100 < {percent} drop"
        self.filter("server", [f"input iifname back {lost}", f"output oifname back {lost}"])

    def heal(self):
        self.filter("server", [])

    def move_client(self):
        """Replaces the client's address by another one; the server is not told."""
        self.run("client", "ip", "address", "del", f"{CLIENT}/24", "dev", "back")
        self.run("client", "ip", "address", "add", f"{CLIENT_LATER}/24", "dev", "back")

    # --- the programs ---

    def _config(self, role):
        options = {"default_token": TOKEN, "threads": self.threads}
        if role == "server":
            options["bind_addr"] = f"0.0.0.0:{CONTROL_PORT}"
            service = {"bind_addr": f"0.0.0.0:{SERVICE_PORT}"}
        else:
            options["remote_addr"] = f"{SERVER_BACK}:{CONTROL_PORT}"
            service = {"local_addr": f"127.0.0.1:{LOCAL_PORT}"}
        options.update(self.options.get(role, {}))
        return render(OURS, role, options, {"lab": service},
                      self.transport.tables(role) if self.transport else None)

    def spawn(self, role, name=None):
        name = name or role
        path = self.workdir / f"{name}.ini"
        path.write_text(self._config(role))
        path.chmod(0o600)
        argv = self.command(role, BINARIES[OURS], f"--{role}", path)
        process = Process(argv, self.workdir / f"{name}.log", limits=self.limits)
        process.name = f"{name} of {self.workdir.name}"
        self.started.append(process)
        return process

    def start(self):
        """Starts both ends and waits for a session. Call it from the main thread: see Process."""
        self.server = self.spawn("server")
        self.client = self.spawn("client")
        return self

    def wait_sessions(self, count, timeout=10, of=None):
        """Waits until `count` logins have succeeded since the start."""
        process = of or self.client
        wait_until(lambda: process.log().count("control channel established") >= count,
                   within(timeout), f"session {count} of {process.name}")

    def visit(self, timeout=10):
        """A visitor's connection to the service."""
        with self.inside("visitor"):
            visitor = socket.socket()
        visitor.settimeout(timeout)
        visitor.connect((SERVER_FRONT, SERVICE_PORT))
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
