"""A tunnel whose three parts are in network namespaces of their own, so that a test can cut the path
between server and client without any packet (RST, ICMP) that tells the ends.

    visitor ==veth== server ==veth== client + local services
              10.77.1       10.77.2

The namespaces have no names. They exist while this process has a descriptor of them or a program runs
in them, so nothing is left behind, however the run ends. A socket that the test creates within
`with lab.inside("client"): ...` stays in that namespace; each program is started in one.

Needs root, ip (iproute2), nft (nftables) and nsenter (util-linux): see why_not().
"""

import contextlib
import ctypes
import os
import pathlib
import shutil
import socket
import subprocess

from harness import BINARIES, OURS, TOKEN, Process, render, wait_until, within

SPACES = ("visitor", "server", "client")
VISITOR, SERVER_FRONT = "10.77.1.1", "10.77.1.2"
SERVER_BACK, CLIENT, CLIENT_LATER = "10.77.2.1", "10.77.2.2", "10.77.2.3"
CONTROL_PORT, SERVICE_PORT, LOCAL_PORT = 2333, 5022, 7000
TO_SERVER, TO_CLIENT, BOTH = "to_server", "to_client", "both"

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not():
    """Why there can be no lab here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nft", "nsenter") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (scripts/setup test)" if missing else None


def _check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _own_space():
    """A descriptor of the network namespace of the calling thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _entered(fd):
    before = _own_space()
    try:
        if fd is None:
            _check(_libc.unshare(CLONE_NEWNET))
        else:
            _check(_libc.setns(fd, CLONE_NEWNET))
        yield
    finally:
        _check(_libc.setns(before, CLONE_NEWNET))
        os.close(before)


class Lab:
    """options: {role: {key: value}}; transport, limits: as in harness.Tunnel. rto_min_ms: the
    kernel's minimum retransmission timeout on the path between the two ends. One service, `lab`."""

    def __init__(self, workdir, transport=None, options=None, threads=2, limits=None,
                 rto_min_ms=200):
        self.workdir = pathlib.Path(workdir)
        self.workdir.mkdir(exist_ok=True)
        self.transport, self.options, self.threads = transport, options or {}, threads
        self.limits = limits
        self.spaces, self.started = {}, []
        self.server = self.client = None
        for space in SPACES:
            with _entered(None):
                self.spaces[space] = _own_space()
        self._link("visitor", "front", VISITOR, SERVER_FRONT)
        self._link("client", "back", CLIENT, SERVER_BACK)
        for space in ("client", "server"):
            self.run(space, "ip", "route", "replace", "10.77.2.0/24", "dev", "back", "rto_min",
                     f"{rto_min_ms}ms")
        for space in SPACES:
            self.run(space, "ip", "link", "set", "lo", "up")

    def _link(self, space, name, address, server_address):
        self.run(space, "ip", "link", "add", name, "type", "veth", "peer", "name", name,
                 "netns", self._path("server"))
        for each, its_address in ((space, address), ("server", server_address)):
            self.run(each, "ip", "address", "add", f"{its_address}/24", "dev", name)
            self.run(each, "ip", "link", "set", name, "up")

    def _path(self, space):
        return f"/proc/{os.getpid()}/fd/{self.spaces[space]}"

    @contextlib.contextmanager
    def inside(self, space):
        """A context in which this thread is in that namespace."""
        with _entered(self.spaces[space]):
            yield

    def run(self, space, *argv, **options):
        """Runs a command in a namespace."""
        subprocess.run(["nsenter", f"--net={self._path(space)}", *argv], check=True, timeout=60,
                       stdin=subprocess.DEVNULL, **options)

    # --- the path ---

    def cut(self, direction):
        """Drops all packets between server and client. direction: TO_SERVER, TO_CLIENT or BOTH."""
        rules = {TO_SERVER: ["input iifname back drop"], TO_CLIENT: ["output oifname back drop"]}
        rules[BOTH] = rules[TO_SERVER] + rules[TO_CLIENT]
        self._filter(rules[direction])

    def lose(self, percent):
        """Drops `percent` of the packets, in both directions."""
        lost = f"numgen random mod 100 < {percent} drop"
        self._filter([f"input iifname back {lost}", f"output oifname back {lost}"])

    def heal(self):
        self._filter([])

    def _filter(self, rules):
        chains = "".join(
            f"chain {name} {{ type filter hook {name} priority 0; policy accept; }}\n"
            for name in ("input", "output"))
        script = f"table ip lab {{\n{chains}}}\nflush table ip lab\n"
        script += "".join(f"add rule ip lab {rule}\n" for rule in rules)
        self.run("server", "nft", script)

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
        # nsenter execs the program, so the pid is that of the program.
        argv = ["nsenter", f"--net={self._path(role)}", BINARIES[OURS], f"--{role}", path]
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
        for fd in self.spaces.values():
            os.close(fd)
        self.spaces = {}
        return "; ".join(complaints)
