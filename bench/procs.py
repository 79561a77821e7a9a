"""Processes of a measurement: started in one place, measured from /proc, always cleaned up.

A Supervisor owns every child. Children die with the driver even if it is killed (PDEATHSIG), and
stop() has a time limit: a child that does not leave on SIGTERM is killed.
"""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import time

CPUCLOCK_SCHED = 2  # of the kernel's clock ids for other processes, as clock_getcpuclockid(3) makes them
PR_SET_PDEATHSIG = 1
STOP_GRACE_S = 1.0
POLL_S = 0.005  # the time until something listens is a figure too
TCP_LISTEN = "0A"

_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """A measurement failed. The sample records the text, and the run goes on."""


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Supervisor:
    def __init__(self, directory):
        self.directory = directory
        self.children = []

    def spawn(self, name, argv, namespace=None, env=None):
        """Start a child that runs until stop(). Its log is quoted when something fails."""
        if namespace:
            argv = ["ip", "netns", "exec", namespace] + argv
        log_path = os.path.join(self.directory, f"{name}.log")
        with open(log_path, "wb") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
                cwd=self.directory,
            )
        child.name, child.log_path = name, log_path
        self.children.append(child)
        return child

    def stop(self, *children):
        """Stop the given children (all without arguments), newest first."""
        doomed = list(children or self.children)[::-1]
        for child in doomed:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for child in doomed:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child in self.children:
                self.children.remove(child)


def run(argv, timeout_s, namespace=None):
    """Run a command to its end and return its standard output."""
    if namespace:
        argv = ["ip", "netns", "exec", namespace] + argv
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            preexec_fn=_die_with_parent,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{argv[0]}: still running after {timeout_s} s") from error
    if done.returncode != 0:
        text = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise BenchError(f"{' '.join(argv[:6])}: exit {done.returncode}: {text}")
    return done.stdout


def log_tail(child, length=300):
    try:
        with open(child.log_path, errors="replace") as log:
            return re.sub(r"\x1b\[[0-9;]*m", "", log.read()).strip()[-length:]
    except OSError:
        return ""


def is_running(pid):
    """Whether a process, not necessarily a child, exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def require_alive(child):
    if child.poll() is not None:
        raise BenchError(f"{child.name} exited with {child.returncode}: {log_tail(child)}")


def wait_listening(child, port, limit_s=10.0, watch=(), udp=False):
    """Wait until a socket listens on `port`, or on all of a set (udp: is bound to it), where `child` is.

    Reads /proc instead of connecting, because a connection would use up a data channel.
    """
    ports = bound_udp_ports if udp else listening_ports
    wanted = {port} if isinstance(port, int) else set(port)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for process in (child, *watch):
            require_alive(process)
        missing = wanted - ports(child.pid)
        if not missing:
            return
        time.sleep(POLL_S)
    logs = "; ".join(f"{p.name}: {log_tail(p)}" for p in (child, *watch))
    which = f"port {min(missing)}" + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
    raise BenchError(f"nothing listens on {which} after {limit_s} s ({logs})")


def listening_ports(pid):
    return _local_ports(pid, ("tcp", "tcp6"), TCP_LISTEN)


def bound_udp_ports(pid):
    return _local_ports(pid, ("udp", "udp6"), None)


def _local_ports(pid, tables, state):
    ports = set()
    for table in tables:
        try:
            with open(f"/proc/{pid}/net/{table}") as lines:
                next(lines)
                for line in lines:
                    fields = line.split(None, 4)
                    if state not in (None, fields[3]):
                        break  # those that listen stand first, and the others may be many
                    ports.add(int(fields[1].rsplit(":", 1)[1], 16))
        except (OSError, StopIteration):
            pass
    return ports


def free_port():
    """A port that is free for TCP and UDP, below the ephemeral range that other sockets use."""
    for _ in range(200):
        port = random.randrange(10000, 30000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("0.0.0.0", port))
                udp.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
    raise BenchError("no free port")


def free_ports(count):
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return sorted(ports)


def cpu_seconds(child):
    """The processor time of all threads of a process, ended ones and io_uring's workers included. It is
    utime + stime of /proc/PID/stat without their rounding to 10 ms, of which a short load has too few."""
    try:
        return time.clock_gettime(~child.pid << 3 | CPUCLOCK_SCHED)
    except OSError as error:
        raise BenchError(f"{child.name} has exited: {log_tail(child)}") from error


def resident_kb(child):
    """(RSS, its anonymous part) in KiB from smaps_rollup; VmRSS lags by a batch per core."""
    try:
        with open(f"/proc/{child.pid}/smaps_rollup") as rollup:
            fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", rollup.read(), re.M))
    except OSError as error:
        raise BenchError(f"{child.name}: cannot read its memory: {error}") from error
    return int(fields["Rss"]), int(fields["Anonymous"])


def open_files(child):
    try:
        return len(os.listdir(f"/proc/{child.pid}/fd"))
    except OSError as error:
        raise BenchError(f"{child.name} has exited: {log_tail(child)}") from error


def uring_workers(child):
    """The number of io-wq threads, which run operations that the kernel could not do inline."""
    count = 0
    try:
        for task in os.listdir(f"/proc/{child.pid}/task"):
            with open(f"/proc/{child.pid}/task/{task}/comm") as comm:
                count += comm.read().startswith("iou-wrk")
    except OSError:
        pass
    return count


def settle(seconds, busy_max, limit_s):
    """Wait, at most limit_s, until other work uses at most busy_max. Returns its share."""
    deadline = time.monotonic() + limit_s
    while True:
        busy = machine_busy(seconds)
        if busy <= busy_max or time.monotonic() >= deadline:
            return busy


def machine_busy(seconds):
    """The share of all cores that is busy during the next `seconds`, in which the run is idle."""

    def jiffies():
        with open("/proc/stat") as stat:
            fields = [int(x) for x in stat.readline().split()[1:]]
        return sum(fields), fields[3] + fields[4]

    total_a, idle_a = jiffies()
    time.sleep(seconds)
    total_b, idle_b = jiffies()
    return 1.0 - (idle_b - idle_a) / max(1, total_b - total_a)
