"""What the tests of upgrades need: the process that follows another, visitors who come at a steady
rate and all have to be served, a service manager that passes sockets or listens to sd_notify."""

import collections
import ctypes
import os
import pathlib
import select
import signal
import socket
import sys
import tempfile
import threading
import time

import harness
from harness import Process, wait_until, within

PR_SET_CHILD_SUBREAPER = 36
# A process whose parent has left becomes a child of the test, which then sees its exit code.
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _Popen:
    """As much of subprocess.Popen as Process uses, for a process that somebody else started."""

    def __init__(self, pid, args):
        self.pid, self.args, self.returncode = pid, args, None

    def poll(self):
        if self.returncode is not None:
            return self.returncode
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # still a child of its own parent
            try:
                stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
                if stat[stat.rindex(")") + 2] == "Z":
                    self.returncode = 0
            except OSError:
                self.returncode = 0
        return self.returncode

    def wait(self, timeout=None):
        wait_until(lambda: self.poll() is not None, timeout or within(10), f"the end of {self.pid}")
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Successor(Process):
    """A process that an upgrade has started. It writes to the log of the one before, so log() has
    the lines of both from the upgrade on."""

    def __init__(self, pid, before, log_start):
        self.argv, self.log_path, self.user = before.argv, before.log_path, before.user
        self.log_file = open(self.log_path, "ab")
        self.log_start = log_start
        self.pid, self.popen = pid, _Popen(pid, before.argv)
        self.expected_death = self.is_asked_to_stop = False
        self.name = f"successor of {before.pid}"


def upgrade(tunnel, role="server", timeout=15, number=signal.SIGUSR2):
    """Has one end of the tunnel replaced; returns (the old process, the new one) when the new one
    serves."""
    old = getattr(tunnel, role)
    log_start = old.log_path.stat().st_size
    since = len(old.log())
    old.signal(number)
    match = old.wait_log(r"process (\d+) serves from here on", within(timeout), since=since)
    # Until it has read that, it refuses a further upgrade.
    taken = "the process before this one (has left|has ended|does not answer)"
    old.wait_log(taken, within(timeout), since=since)
    new = Successor(int(match.group(1)), old, log_start)
    tunnel.started.append(new)
    tunnel.kept(new, new.name)
    setattr(tunnel, role, new)
    return old, new


def children(pid):
    return [int(child) for child in
            pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Visits:
    """Visitors who come `rate` times a second from a thread, each for one echo. outcomes counts
    how it went for them: "ok" or the name of the error."""

    WORD = b"hello"

    def __init__(self, port, rate, patience=20):
        self.port, self.rate, self.patience = port, rate, within(patience)
        self.outcomes = collections.Counter()
        self.slowest = 0
        self.begun = 0
        self.open = {}  # descriptor: (socket, when it began)
        self.ending = threading.Event()
        self.poller = select.epoll()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _begin(self):
        sock = socket.socket()
        sock.setblocking(False)
        # Many addresses, and no port reserved by bind(): so many visitors would use up the ports of one.
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.0.{self.begun % 50}.{1 + self.begun % 199}", 0))
        self.begun += 1
        self.open[sock.fileno()] = (sock, time.monotonic())
        sock.connect_ex(("127.0.0.1", self.port))
        self.poller.register(sock, select.EPOLLOUT)

    def _end(self, fd, outcome):
        sock, since = self.open.pop(fd)
        self.poller.unregister(fd)
        sock.close()
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, time.monotonic() - since)

    def _step(self, fd):
        sock, _ = self.open[fd]
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._end(fd, os.strerror(error))
            return
        try:
            data = sock.recv(64)
            self._end(fd, "ok" if data == self.WORD else f"got {data!r}")
        except BlockingIOError:  # connected
            sock.send(self.WORD)
            self.poller.modify(fd, select.EPOLLIN)
        except OSError as error:
            self._end(fd, error.strerror)

    def _run(self):
        start = time.monotonic()
        while True:
            now = time.monotonic()
            due = 0 if self.ending.is_set() else int((now - start) * self.rate) - self.begun
            for _ in range(min(due, 200)):
                self._begin()
            for fd, _ in self.poller.poll(0.002, 256):
                try:
                    self._step(fd)
                except OSError as error:
                    self._end(fd, error.strerror)
            for fd, (_, since) in list(self.open.items())[:20]:  # the oldest
                if now - since > self.patience:
                    self._end(fd, "no answer")
            if self.ending.is_set() and not self.open:
                return

    def more(self, count=20):
        """Waits until `count` more visitors have been served or have failed."""
        until = self.outcomes.total() + count
        wait_until(lambda: self.outcomes.total() >= until, within(15), "visitors")

    def finish(self):
        """Starts no more visitors; returns when all have been served or have failed."""
        self.ending.set()
        self.thread.join(self.patience + within(10))
        assert not self.thread.is_alive()
        return self

    def all_served(self):
        self.finish()
        assert set(self.outcomes) == {"ok"}, dict(self.outcomes)
        assert self.outcomes["ok"] == self.begun > 0


class Manager:
    """The service manager's end of NOTIFY_SOCKET: keeps each message and its sender."""

    def __init__(self, abstract=False):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.directory = tempfile.TemporaryDirectory()
        self.name = f"@rathole-uring-{os.getpid()}" if abstract else f"{self.directory.name}/notify"
        self.sock.bind(self.name.replace("@", "\0"))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard = []  # (pid, {variable: value})

    def environment(self, **more):
        return {"NOTIFY_SOCKET": self.name, **more}

    def _receive(self):
        while True:
            try:
                data, rights, _, _ = self.sock.recvmsg(4096, 256, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            pid = int.from_bytes(rights[0][2][:4], "little")
            self.heard.append((pid, dict(line.split("=", 1) for line in data.decode().split("\n"))))

    def all(self):
        self._receive()
        return self.heard

    def wait(self, variable, timeout=10, since=0):
        """Waits for the first message from `since` on that has the variable: (pid, message)."""
        return wait_until(
            lambda: next((each for each in self.all()[since:] if variable in each[1]), None),
            within(timeout), f"{variable} on the notify socket; heard {self.heard}")

    def close(self):
        self.sock.close()
        self.directory.cleanup()


# Becomes the program: argv = the names of the sockets, their descriptors here, the program with its
# arguments.
LAUNCHER = """
import os, sys
names, fds = sys.argv[1], [int(fd) for fd in sys.argv[2].split(",")]
for n, fd in enumerate(fds):
    os.dup2(fd, 200 + n)
for n in range(len(fds)):
    os.dup2(200 + n, 3 + n)
    os.close(200 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
os.execv(sys.argv[3], sys.argv[3:])
"""


def spawn_activated(tunnel, role, sockets, **kwargs):
    """Starts one end as a service manager does that has its sockets: {name: socket}."""
    path = tunnel.workdir / f"{role}.ini"
    path.write_text(tunnel.config(role))
    path.chmod(0o600)
    fds = [sock.fileno() for sock in sockets.values()]
    process = Process([sys.executable, "-c", LAUNCHER, ":".join(sockets), ",".join(map(str, fds)),
                       harness.BINARIES[harness.OURS], f"--{role}", path],
                      tunnel.workdir / f"{role}.log", pass_fds=fds, **kwargs)
    process.name = f"{role} (activated)"
    tunnel.started.append(process)
    tunnel.kept(process, process.name)
    setattr(tunnel, role, process)
    return process


def listener(port, kind=socket.SOCK_STREAM, host="127.0.0.1"):
    """A socket as a service manager binds it."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(128)
    return sock
