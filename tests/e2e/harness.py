"""Starts and stops the two ends of a tunnel, ours or rathole's, in either role.

Environment:
  RATHOLE_URING_BIN  our program (default: build/rathole-uring of this tree)
  RATHOLE_BIN        rathole 0.5.0 (default: where scripts/setup --peers puts it)
  E2E_PAIR           SERVER/CLIENT where a test does not choose them (default ours/ours)
  E2E_SCALE          factor on the counts and sizes of the load (default 1)
  E2E_FULL           1: the sizes of docs/robustness.md, up to an hour per test (meson suite `robust`)
  E2E_SLOW           factor on the time bounds, for sanitizer builds (default 1)
  E2E_THREADS        worker counts to run with (default 1,2,4)
  E2E_MODE           developer or release: the tests check that the build is of this kind
  E2E_SYSCTL         1: tests may change sysctls of the whole machine for a moment, and restore them
  E2E_SANDBOX        1: each process of our program runs under its unit's directives, see boxed.py
  E2E_TIER           A, B or C: the tier that the log has to say of this kernel (default: any)
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import time

import ledger
import protocol

ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS, RATHOLE = "ours", "rathole"
TOKEN = "e2e-token-6f1c0c"

SCALE = float(os.environ.get("E2E_SCALE", "1"))
FULL = os.environ.get("E2E_FULL") == "1"
SLOW = float(os.environ.get("E2E_SLOW", "1"))
THREADS = [int(n) for n in os.environ.get("E2E_THREADS", "1,2,4").split(",")]
PAIR = tuple(os.environ.get("E2E_PAIR", "ours/ours").split("/"))

_cache = pathlib.Path(
    os.environ.get("RATHOLE_URING_CACHE") or pathlib.Path.home() / ".cache" / "rathole-uring"
)
BINARIES = {
    OURS: pathlib.Path(os.environ.get("RATHOLE_URING_BIN") or ROOT / "build" / "rathole-uring"),
    RATHOLE: pathlib.Path(os.environ.get("RATHOLE_BIN") or _cache / "peers" / "bin" / "rathole"),
}

# The transports for tests that do not choose one.
TRANSPORTS = os.environ.get("E2E_TRANSPORTS", "tcp noise").split()

SANITIZER_REPORT = re.compile(
    r"(ERROR|WARNING): \w+Sanitizer|runtime error:|SUMMARY: \w+Sanitizer|Assertion .* failed"
    r"|sandbox: refused system call"
)


def have(implementation):
    return os.access(BINARIES[implementation], os.X_OK)


def contains(implementation, *words):
    """Whether the program's file contains one of these byte strings."""
    try:
        data = BINARIES[implementation].read_bytes()
    except OSError:
        return False
    return any(word in data for word in words)


# A sanitizer build: measurements of its memory and speed mean nothing.
SANITIZED = contains(OURS, b"__asan_init", b"__tsan_init")


def scaled(count, least=1, full=None):
    """The count for this run. full: the count of docs/robustness.md, where an ordinary run takes less."""
    if FULL:
        return full or count
    return max(least, int(count * SCALE))


def within(seconds):
    """A time bound that holds on a quiet machine, stretched for sanitizer builds."""
    return seconds * SLOW


# This process is visitor and local service at once: it holds both ends of every tunnelled connection.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
NOFILE = _hard

# --- ports ------------------------------------------------------------------------------------

PORTS_FIRST, PORTS_SLOT, SLOTS = 11000, 2600, 8
LOW_PORTS_FIRST = 704


def _take_slot():
    """Reserves a range of ports for this run, as long as the run holds the lock."""
    for slot in range(SLOTS):
        lock = open(pathlib.Path(tempfile.gettempdir()) / f"rathole-uring-e2e-{slot}.lock", "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return slot, lock
        except OSError:
            lock.close()
    raise RuntimeError(f"{SLOTS} runs of these tests are going on already")


_slot, _slot_lock = _take_slot()
_given = set()
_random = random.Random(os.getpid() * 1000003 + int(time.time()))


def free_port(kind=socket.SOCK_STREAM):
    """A port below the ephemeral range, so that no outgoing connection takes it before the test does."""
    first = PORTS_FIRST + _slot * PORTS_SLOT
    for _ in range(2000):
        port = _random.randrange(first, first + PORTS_SLOT)
        if port in _given:
            continue
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port found")


def free_ports(count):
    """The first of so many adjacent ports, all of them free for TCP and UDP."""
    for _ in range(200):
        first = free_port()
        run = range(first + 1, first + count)
        if run.stop > PORTS_FIRST + (_slot + 1) * PORTS_SLOT or _given & set(run):
            continue
        if all(_is_free(port, kind) for port in range(first, first + count)
               for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            _given.update(run)
            return first
    raise RuntimeError(f"no {count} adjacent free ports found")


def _is_free(port, kind):
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM: # a connection in TIME_WAIT keeps nobody from listening there
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def free_low_port():
    """A port below 1024: binding it requires root or CAP_NET_BIND_SERVICE."""
    size = (1024 - LOW_PORTS_FIRST) // SLOTS
    first = LOW_PORTS_FIRST + _slot * size
    for port in _random.sample(range(first, first + size), size):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no free port below 1024 found")


SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP, ONLY_LISTENING = 4, 20, 0x301, 1 << 10
NLMSG_ERROR, NLMSG_DONE = 2, 3


def listeners(port=0):
    """The (host, port) of each TCP listener in this network namespace. With a port: those with it.

    The look makes no connection: the server would count one as a visitor or as an unauthenticated
    peer. It asks the kernel for listeners only: reading /proc/net/tcp walks all connections and takes
    10 ms of a core, and tests look a hundred times a second."""
    found = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            query = struct.pack("=4BI", family, socket.IPPROTO_TCP, 0, 0, ONLY_LISTENING)
            query += struct.pack(">H", port) + bytes(46)
            head = struct.pack("=IHHII", 16 + len(query), SOCK_DIAG_BY_FAMILY, DUMP, 0, 0)
            diag.send(head + query)
            is_done = False
            while not is_done:
                answers, at = diag.recv(1 << 18), 0
                while at < len(answers):
                    size, kind = struct.unpack_from("=IH", answers, at)
                    if kind == NLMSG_ERROR:
                        raise OSError(-struct.unpack_from("=i", answers, at + 16)[0], "sock_diag")
                    is_done = is_done or kind == NLMSG_DONE
                    if kind == SOCK_DIAG_BY_FAMILY:
                        length = 4 if family == socket.AF_INET else 16
                        host = socket.inet_ntop(family, answers[at + 24:at + 24 + length])
                        found.add((host, struct.unpack_from(">H", answers, at + 20)[0]))
                    at += size + 3 & ~3
    return found


def listening_ports():
    return {port for _, port in listeners()}


def is_listening(port, host=None):
    """host: the address as it is bound, 0.0.0.0 for one."""
    return any(host in (None, found) for found, _ in listeners(port))


def udp_sockets(port):
    """The lines of /proc/net/udp and udp6 for sockets bound to the port, as lists of words."""
    found = []
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with contextlib.suppress(OSError):
            lines = pathlib.Path(table).read_text().splitlines()[1:]
            words_of = map(str.split, lines)
            found += [words for words in words_of if words[1].endswith(f":{port:04X}")]
    return found


def is_bound(port):
    """Whether a UDP socket is bound to the port."""
    return bool(udp_sockets(port))


def unread_bytes(port):
    """The bytes in the receive queues of all UDP sockets that are bound to the port."""
    return sum(int(words[4].split(":")[1], 16) for words in udp_sockets(port))


def wait_until(condition, timeout, what):
    """Polls until condition() is true and returns that value; fails with `what` otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(0.01)


# --- one process ------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38


def _forbid(calls, error):
    """Makes these system calls fail with this errno in the calling process, as a seccomp profile does.
    Each call is a number, or (number, index, value): it fails only if that argument has that value."""
    load, equal, give = 0x20, 0x15, 0x06  # BPF: load from seccomp_data, jump if equal, return
    allow, fail = 0x7FFF0000, 0x00050000 | error
    rows = []
    for call in calls:
        number, *argument = call if isinstance(call, tuple) else (call,)
        rows += [(load, 0, 0, 0), (equal, 0, 3 if argument else 1, number)]
        if argument:
            index, value = argument
            rows += [(load, 0, 0, 16 + 8 * index), (equal, 0, 1, value)]
        rows += [(give, 0, 0, fail)]
    rows += [(give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    program = Program(len(rows), ctypes.addressof(code))
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


MS_BIND, MS_REC, MS_PRIVATE, CLONE_NEWNS = 0x1000, 0x4000, 0x40000, 0x20000


def _show_files(files):
    """Bind-mounts files over others, in a mount namespace of the calling process: {place: file}."""
    def check(result, what):
        if result:
            raise OSError(ctypes.get_errno(), what)

    check(_libc.unshare(CLONE_NEWNS), "unshare")
    check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    for place, path in files.items():
        check(_libc.mount(os.fsencode(path), os.fsencode(place), None, MS_BIND, None), place)


class Process:
    """One run of a program; log() is what it wrote to stdout and stderr.

    Processes die with the test run, even when the run is killed. This uses PR_SET_PDEATHSIG, which acts
    when the starting thread ends: so start them in the main thread.
    forbidden: (system calls, the errno they fail with), see _forbid. files: {path: the file that
    the program sees there}, for root only. limits: a limits.Limits."""

    launcher = list  # argv -> what is started in its place: boxed.py changes it

    def __init__(self, argv, log_path, env=None, nofile=None, memlock=None, user=None,
                 forbidden=None, files=None, limits=None, **popen):
        self.argv = [str(arg) for arg in argv]
        self.log_path = pathlib.Path(log_path)
        self.user = user
        environment = dict(os.environ, RUST_BACKTRACE="0", NO_COLOR="1")
        environment.pop("RUST_LOG", None)  # it would override the log level in our program's configuration
        if self.is_rathole():
            environment["RUST_LOG"] = "info"
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:quarantine_size_mb=16")
        environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        environment.setdefault("TSAN_OPTIONS", "second_deadlock_stack=1")
        environment.update(limits.environment() if limits else {})
        environment.update(env or {})

        def before_exec():
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

        def with_limits():
            # Before the user changes, and in the child only.
            if nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
            if memlock is not None:
                limits = memlock if isinstance(memlock, tuple) else (memlock, memlock)
                resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
            before_exec()
            if files:
                _show_files(files)
            if forbidden:
                _forbid(*forbidden)

        self.log_file = open(self.log_path, "ab")
        self.log_start = self.log_file.tell()
        options = {"stdin": subprocess.DEVNULL, "stdout": self.log_file, "stderr": self.log_file,
                   "cwd": "/"}
        options.update(popen)
        if user is not None:
            options.update(user=user, group=user, extra_groups=[])
        self.popen = subprocess.Popen(
            Process.launcher(self.argv), env=environment, preexec_fn=with_limits, **options
        )
        self.pid = self.popen.pid
        self.expected_death = self.is_asked_to_stop = False

    # life

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def kill9(self):
        self.expected_death = True
        self.popen.kill()
        self.popen.wait(within(10))

    def wait(self, timeout):
        """The exit code; a negative number is a signal."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[0]} still runs after {timeout:g} s") from None

    def begin_stop(self):
        """The first step of stop(): call it on several processes first to stop them at the same time."""
        if self.alive() and not self.is_asked_to_stop:
            self.is_asked_to_stop = True
            self.expected_death = self.is_rathole()
            self.signal(signal.SIGTERM)

    def stop(self, timeout=10):
        """Sends SIGTERM, then a second one, which skips the wait for open relays. Returns the exit code."""
        if self.alive():
            self.begin_stop()
            time.sleep(0.02)
            if self.alive() and not self.is_rathole():
                self.signal(signal.SIGTERM)
            try:
                self.popen.wait(within(timeout))
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
                raise AssertionError(f"did not stop on SIGTERM within {within(timeout):g} s") from None
        self.log_file.close()
        return self.popen.returncode

    def is_rathole(self):
        return pathlib.Path(self.argv[0]) == BINARIES[RATHOLE]

    def verdict(self):
        """A complaint about the process's end or its log, or None."""
        report = SANITIZER_REPORT.search(self.log())
        if report:
            return f"sanitizer or assertion report: {report.group(0)}"
        code = self.popen.returncode
        if code is not None and code < 0 and not self.expected_death:
            return f"died of signal {-code}"
        return None

    # what it says

    def log(self):
        try:
            with open(self.log_path, "rb") as file:
                file.seek(self.log_start)
                return file.read().decode("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""

    def log_size(self):
        return self.log_path.stat().st_size - self.log_start

    def wait_log(self, regex, timeout, since=0):
        pattern = re.compile(regex, re.I)
        return wait_until(
            lambda: pattern.search(self.log()[since:]), timeout, f"log line like {regex!r}"
        )

    def metrics(self, timeout=5):
        """The counters of our program: [{counter: value}], one entry per worker. On SIGUSR1 the program
        logs a line per worker, then one for the main thread."""
        before = self.log_size()
        self.signal(signal.SIGUSR1)

        def lines():
            assert self.alive(), f"it has ended (exit {self.popen.returncode})"
            text = self.log().encode()[before:].decode()
            end = re.search(r"main: .*log_lines_dropped=\d", text)
            return text[: end.start()] if end else None

        text = wait_until(lines, within(timeout), "metrics after SIGUSR1")
        workers = {}
        for number, counters in re.findall(
                r"worker (\d+): ?([a-z_]+=\d+(?: [a-z_]+=\d+)*)?", text):
            workers[int(number)] = {
                name: int(value) for name, value in (item.split("=") for item in counters.split())
            }
        return [workers[number] for number in sorted(workers)]

    def metric(self, name):
        return sum(worker.get(name, 0) for worker in self.metrics())

    # what it uses

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rollup_kib(self, *names):
        """The sum of these rows of /proc/PID/smaps_rollup, for which the kernel counts pages.
        /proc/PID/status uses per-core counters and may be hundreds of KiB off."""
        rows = {}
        for line in pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            rows[name] = int(value.split()[0])
        return sum(rows[name] for name in names)

    def rss_kib(self):
        return self.rollup_kib("Rss")

    def private_kib(self):
        """Memory that the program itself has allocated, without code and libraries."""
        return self.rollup_kib("Anonymous", "Swap")

    def cpu_seconds(self):
        stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settled_fds(self, quiet=0.3, timeout=10):
        """Waits until the number of open descriptors stays the same for `quiet` seconds; returns it."""
        last, since = self.fds(), time.monotonic()
        deadline = since + within(timeout)
        while time.monotonic() - since < quiet:
            assert time.monotonic() < deadline, "the number of descriptors does not settle"
            time.sleep(0.02)
            now = self.fds()
            if now != last:
                last, since = now, time.monotonic()
        return last

    def wait_fds(self, most, timeout=10):
        """Waits until no more than `most` descriptors are open."""
        wait_until(lambda: self.fds() <= most, timeout, lambda: f"{self.fds()} fds, not {most}")


# --- leaks ------------------------------------------------------------------------------------

LEAK_BYTES = 200  # nothing_piles_up() always finds a leak of this size per unit of work


def nothing_piles_up(processes, one_round, units, fds_more=8, rounds=24):
    """Runs one_round() to warm up, then again until each process has had one round without growth.

    Slabs, buffers, the channel pool and the heaps of four workers that use OpenSSL settle after some
    rounds, later on a slow machine; a leak grows in every round. Fails for a process that grows in
    each of `rounds`: by more than fds_more descriptors, or by more than a third of units *
    LEAK_BYTES of memory. units: how many connections or messages one round makes."""
    bound_kib = units * LEAK_BYTES / 3 / 1024
    assert bound_kib >= 12, f"{units} units leak too few pages to be told from none"

    def measure(process):
        return process.settled_fds(), 0 if SANITIZED else process.private_kib()

    one_round()
    growth = {process: [] for process in processes}
    growing = list(processes)
    for _ in range(rounds):
        before = {process: measure(process) for process in growing}
        one_round()
        for process, (fds, kib) in before.items():
            fds_after, kib_after = measure(process)
            growth[process].append((fds_after - fds, kib_after - kib))
            if fds_after <= fds + fds_more and kib_after <= kib + bound_kib:
                growing.remove(process)
        if not growing:
            return
    raise AssertionError("; ".join(
        f"{process.name} grows with each round of {units}: (descriptors, KiB) {growth[process]}"
        for process in growing))


# --- configuration ----------------------------------------------------------------------------


def render(implementation, section, options, services, tables=None):
    """A configuration in the implementation's own syntax: INI for our program, TOML for rathole.

    tables: {name: rows} of further sections below the role's, such as "transport"."""

    def value(item):
        if isinstance(item, bool):
            return "true" if item else "false"
        if isinstance(item, float):
            return f"{item:.3f}"  # finer than a millisecond is refused, and within() multiplies
        if isinstance(item, int):
            return str(item)
        return f'"{item}"' if implementation == RATHOLE else str(item)

    def rows(table):
        return [f"{key} = {value(item)}" for key, item in table.items() if item is not None]

    lines = [f"[{section}]"] + rows(options)
    named = dict(tables or {}, **{f"services.{name}": table for name, table in services.items()})
    for name, table in named.items():
        lines += ["", f"[{section}.{name}]"] + rows(table)
    return "\n".join(lines) + "\n"


class Tunnel:
    """A server and a client, and the services between them.

    services: {name: local port}; None: the server has the service, the client does not. The class
    chooses the visitor ports: tunnel.port(name). udp: the names of the UDP services, or True
    for all. service_options (server) and client_service_options: {name: {key: value}}.
    transport: None for plain TCP, or a noise_peer.Noise, or {role: one of these}. limits: a
    limits.Limits for the ends that are our program."""

    def __init__(self, workdir, services, server=None, client=None, threads=2, token=TOKEN,
                 server_options=None, client_options=None, service_options=None,
                 client_service_options=None, remote_host="127.0.0.1", control_port=None, udp=(),
                 visitor_host="127.0.0.1", local_host="127.0.0.1", transport=None, limits=None):
        self.workdir, self.limits = pathlib.Path(workdir), limits
        self.impl = {"server": server or PAIR[0], "client": client or PAIR[1]}
        self.services = dict(services)
        self.threads, self.token = threads, token
        self.server_options = dict(server_options or {})
        self.client_options = dict(client_options or {})
        self.service_options = dict(service_options or {})
        self.transport = (transport if isinstance(transport, dict)
                          else {"server": transport, "client": transport})
        self.client_service_options = dict(client_service_options or {})
        self.remote_host = remote_host
        self.visitor_host, self.local_host = visitor_host, local_host
        self.control_port = control_port or free_port()
        self.udp = set(self.services if udp is True else udp)
        self.ports = {
            name: free_port(socket.SOCK_DGRAM if name in self.udp else socket.SOCK_STREAM)
            for name in self.services
        }
        self.started = []
        self.server = self.client = None
        for implementation in set(self.impl.values()):
            if not have(implementation):
                raise RuntimeError(f"{implementation}: no program at {BINARIES[implementation]}")

    def port(self, name="echo"):
        return self.ports[name]

    def played(self, role):
        """The function that wraps a test's plain socket in this tunnel's transport, as this role does."""
        transport = self.transport[role]
        return getattr(transport, role) if transport else protocol.plain

    def login(self, service, **kwargs):
        """A session with the server; the test plays the client."""
        return protocol.Session(self.control_port, service, self.token,
                                secure=self.played("client"), **kwargs)

    def note_routes(self):
        """Tells the ledger which local port each visitor port leads to, now or earlier in the test."""
        for name, port in self.services.items():
            if name in self.ports:
                ledger.current.note_route(self.ports[name], port)

    def config(self, role):
        self.note_routes()
        implementation = self.impl[role]
        ours = implementation == OURS
        if role == "server":
            options = {"bind_addr": f"127.0.0.1:{self.control_port}", "default_token": self.token}
            tables = {name: {"bind_addr": f"{self.visitor_host}:{port}"}
                      for name, port in self.ports.items()}
            of_services, extra = self.service_options, self.server_options
        else:
            options = {"remote_addr": f"{self.remote_host}:{self.control_port}",
                       "default_token": self.token, "retry_interval": 1}
            tables = {name: {"local_addr": f"{self.local_host}:{port}"}
                      for name, port in self.services.items() if port is not None}
            of_services, extra = self.client_service_options, self.client_options
        for name, table in tables.items():
            if name in self.udp:
                table["type"] = "udp"
            table.update(of_services.get(name, {}))
        if ours:
            options["threads"] = self.threads
        options.update(extra)
        transport = self.transport[role]
        return render(implementation, role, options, tables,
                      transport.tables(role) if transport else None)

    def rewrite(self, role="server"):
        """Replaces the file of a role that runs; at no moment is there half of one."""
        path = self.workdir / f"{role}.ini"
        new = path.with_suffix(".new")
        new.write_text(self.config(role))
        new.chmod(0o600)
        new.rename(path)

    def spawn(self, role, text=None, name=None, **kwargs):
        """Starts one end (its configuration is written anew) and returns its Process."""
        self.note_routes()
        implementation = self.impl[role]
        suffix = "toml" if implementation == RATHOLE else "ini"
        name = name or role
        path = self.workdir / f"{name}.{suffix}"
        path.write_text(text if text is not None else self.config(role))
        path.chmod(0o600)
        argv = [BINARIES[implementation], f"--{role}", path]
        kwargs.setdefault("limits", self.limits if implementation == OURS else None)
        process = Process(argv, self.workdir / f"{name}.log", **kwargs)
        process.name = f"{name} ({implementation})"
        self.started.append(process)
        return process

    def start(self, timeout=10, **kwargs):
        self.start_server(**kwargs)
        self.start_client(**kwargs)
        self.wait_ready(timeout)
        return self

    def start_server(self, timeout=10, **kwargs):
        self.server = self.spawn("server", **kwargs)

        def listening():
            assert self.server.alive(), f"server ended at once:\n{self.server.log()}"
            return is_listening(self.control_port)

        wait_until(listening, within(timeout), "server's control port")
        return self.server

    def kill_server(self):
        """Kills the server and waits until its ports are closed. The kernel releases a dead process's
        rings, and the sockets in them, only a moment later; until then the ports look open."""
        self.server.kill9()
        ports = set(self.ports.values())
        wait_until(lambda: not ports & listening_ports(), within(5), "the dead server's ports")

    def start_client(self, **kwargs):
        self.client = self.spawn("client", **kwargs)
        return self.client

    def wait_ready(self, timeout=10, names=None):
        served = [name for name, port in self.services.items() if port is not None]
        for name in names or served:
            ready = is_bound if name in self.udp else is_listening
            wait_until(lambda: ready(self.ports[name]), within(timeout),
                       f"visitor port of service {name}")

    def stop(self):
        """Stops what still runs; raises for a crash, a sanitizer report or a hang."""
        complaints = []
        for process in reversed(self.started):
            process.begin_stop()
        for process in reversed(self.started):
            try:
                process.stop()
            except AssertionError as error:
                complaints.append(f"{process.name}: {error}")
            verdict = process.verdict()
            if verdict:
                complaints.append(f"{process.name}: {verdict}")
        self.kill()
        assert not complaints, "; ".join(complaints)

    def kill(self):
        for process in self.started:
            if process.alive():
                process.kill9()
