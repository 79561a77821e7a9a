"""The start: what it gives away before it serves anybody, and how it ends when it can't start."""

import errno
import json
import os
import pathlib
import platform
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import pytest

import harness
import limits
from capabilities import is_able
from harness import (
    BINARIES, OURS, SANITIZED, TOKEN, Process, free_port, is_listening, render, wait_until, within,
)
from services import Echo, ping

pytestmark = pytest.mark.ours

USER, GROUP = "nobody", "daemon"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give away")


def ids(user):
    return pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid


@pytest.fixture
def place():
    """A directory and a copy of the program that every user can enter and run."""
    with tempfile.TemporaryDirectory(prefix="e2e-start-") as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        shutil.copy(BINARIES[OURS], directory / "rathole-uring")
        (directory / "rathole-uring").chmod(0o755)
        yield directory


@pytest.fixture
def start(place, processes):
    """start(text, ...) -> a Process of that configuration, which everybody can read."""
    made = []

    def make(text, role="server", **kwargs):
        config = place / f"{len(made)}.ini"
        config.write_text(text)
        config.chmod(0o644)
        process = Process([place / "rathole-uring", f"--{role}", config],
                          place / f"{len(made)}.log", **kwargs)
        made.append(process)
        return processes(process, role)

    yield make
    for process in made:
        if process.alive():
            process.kill9()
        assert process.verdict() is None


def server_text(port=None, services=None, **more):
    options = {"bind_addr": f"127.0.0.1:{port or free_port()}", "default_token": TOKEN, **more}
    return render(OURS, "server", options,
                  services or {"s": {"bind_addr": f"127.0.0.1:{free_port()}"}})


def free_low_port():
    """A port that takes CAP_NET_BIND_SERVICE to bind."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no free port below 1024")


def wait_running(process, workers):
    """Until each worker has its ring."""
    def rings():
        assert process.alive(), process.log()
        links = pathlib.Path(f"/proc/{process.pid}/fd").iterdir()
        try:
            return sum(os.readlink(link) == "anon_inode:[io_uring]" for link in links)
        except FileNotFoundError:
            return 0  # closed meanwhile

    wait_until(lambda: rings() == workers, within(5), "rings")


def errors(process):
    return [line for line in process.log().splitlines() if " ERROR " in line]


def refused(process, pattern, seconds=1):
    """The process ends soon, with code 1, and one line says why."""
    begin = time.monotonic()
    assert process.wait(within(10)) == 1
    assert time.monotonic() - begin < within(seconds)
    assert len(errors(process)) == 1, process.log()
    assert re.search(pattern, errors(process)[0], re.I), process.log()


# --- user and group (A71) -----------------------------------------------------------------------


def threads_of(process):
    """(name, {row: value}) of each thread's status; a sanitizer's own thread is not ours."""
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        rows = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        rows = {name: value.split() for name, value in rows.items()}
        name = " ".join(rows["Name"])
        if not SANITIZED or int(task.name) == process.pid or name.startswith("worker"):
            yield name, rows


def assert_powerless(process, uid, gid, workers):
    seen = list(threads_of(process))
    assert sum(name.startswith("worker") for name, _ in seen) == workers
    for name, rows in seen:
        assert rows["Uid"] == [str(uid)] * 4, name  # real, effective, saved, of files
        assert rows["Gid"] == [str(gid)] * 4, name
        assert rows["Groups"] == [], name
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(rows[kind][0], 16) == 0, (name, kind)
        assert rows["NoNewPrivs"] == ["1"], name


@as_root
def test_root_gives_everything_away(tunnel, service):
    """A port below 1024 is bound and a file of root's is read; then nothing of root is left."""
    t = tunnel({"echo": service(Echo).port}, start=False, threads=2,
               server_options={"user": USER, "group": GROUP}, client_options={"user": USER})
    t.ports["echo"] = free_low_port()
    secret = t.workdir / "token"
    secret.write_text(t.token)
    secret.chmod(0o600)
    for options in (t.server_options, t.client_options):
        options["default_token"] = f"file:{secret}"
    t.start(extra_groups=[0, 4])
    ping(t.port())
    uid, own_gid = ids(USER)
    assert_powerless(t.server, uid, ids(GROUP)[1], 2)
    assert_powerless(t.client, uid, own_gid, 2)
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        row = line.split()
        if row[3] == "0A" and int(row[1].split(":")[1], 16) in (t.port(), t.control_port):
            assert int(row[7]) == uid
    for process in (t.server, t.client):
        assert process.log().count("running as user nobody") == 1


@as_root
def test_no_thread_is_asked_to_become_root_again(start):
    """With [status] there is a confined thread before root is given up. The C library has all threads make
    a call that changes the user, so that one would be refused, and counted as an attack."""
    status = free_port()
    process = start(server_text(user=USER, threads=1) + f'\n[status]\nbind_addr = "127.0.0.1:{status}"\n')
    wait_running(process, 1)
    with urllib.request.urlopen(f"http://127.0.0.1:{status}/status") as answer:
        assert json.load(answer)["program"]["sandbox"]["refused_total"] == 0


@as_root
@pytest.mark.skipif(SANITIZED, reason="a leak checker must be able to attach")
def test_memory_stays_hidden_from_the_user(start):
    """The user's other processes can't read the tokens: ours is not dumpable."""
    process = start(server_text(user=USER, threads=1))
    wait_running(process, 1)
    uid, gid = ids(USER)
    for name in ("mem", "environ", "maps"):
        looked = subprocess.run(["cat", f"/proc/{process.pid}/{name}"], user=uid, group=gid,
                                extra_groups=[], capture_output=True, text=True)
        assert looked.returncode != 0 and "denied" in looked.stderr, (name, looked)
    assert limit_of(process, "Max core file size") == ["0", "0"]


def limit_of(process, name):
    """[soft, hard]"""
    rows = pathlib.Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    return next(row for row in rows if row.startswith(name))[len(name):].split()[:2]


@as_root
def test_locked_memory_is_raised_before(start):
    """Root raises the limit before it becomes the user, whose own might be too low for 8 workers' rings."""
    effective = re.search(r"CapEff:\s*(\w+)", pathlib.Path("/proc/self/status").read_text())
    may_raise = int(effective.group(1), 16) >> 24 & 1  # CAP_SYS_RESOURCE
    hard = min(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] % (1 << 64), 16 << 20)
    process = start(server_text(user=USER, threads=8), memlock=(4096, hard))
    wait_running(process, 8)
    assert limit_of(process, "Max locked memory") == [str(72 << 20 if may_raise else hard)] * 2


@as_root
def test_port_is_taken_over_by_the_next_start(start):
    """The next start is root's, or the user's own, which has no rights to drop and gains none."""
    port = free_port()
    text = server_text(port, user=USER, threads=2)
    uid, gid = ids(USER)
    for user in (None, uid):
        process = start(text, user=user)
        wait_running(process, 2)
        assert "running as user nobody" in process.log()
        assert is_listening(port)
        if user is None:
            assert_powerless(process, uid, gid, 2)
        for _, rows in threads_of(process):
            assert int(rows["CapPrm"][0], 16) == 0 and rows["NoNewPrivs"] == ["1"]
        process.kill9()


@as_root
@pytest.mark.parametrize("options, reason", [
    ({"user": "no-such-user"}, "user no-such-user: there is no such name"),
    ({"user": USER, "group": "no-such-group"}, "group no-such-group: there is no such name"),
    ({"user": "root"}, "user root: this is root"),
    ({"user": "3999999999"}, "user 3999999999: .* needs group"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_accounts_that_are_refused(start, place, options, reason):
    text = server_text(**options)
    refused(start(text), reason)
    (place / "check.ini").write_text(text)
    (place / "check.ini").chmod(0o600)
    checked = subprocess.run([place / "rathole-uring", "--check", place / "check.ini"],
                             capture_output=True, text=True)
    assert checked.returncode == 1
    assert re.search(f"check.ini: server.user: {reason}", checked.stderr)


@as_root
def test_only_root_becomes_somebody_else(start):
    refused(start(server_text(user="daemon"), user=ids(USER)[0]), "user = daemon: only root can")


@as_root
def test_check_says_that_it_stays_root(place):
    for more, warned in (({}, True), ({"user": USER}, False)):
        config = place / "check.ini"
        config.write_text(server_text(**more))
        config.chmod(0o600)
        for user, expected in ((None, warned), (ids(USER)[0], False)):
            os.chown(config, user or 0, 0)
            checked = subprocess.run([place / "rathole-uring", "--check", config], user=user,
                                     capture_output=True, text=True)
            assert checked.returncode == 0, checked.stderr
            assert ("stays root" in checked.stderr) == expected, checked.stderr


# --- the kernel (A74) -----------------------------------------------------------------------------


def test_the_log_names_the_kernel_and_its_tier(start):
    """scripts/test_systems knows which tier the kernel has that it has booted."""
    tier = os.environ.get("E2E_TIER", "[ABC]")
    process = start(server_text(threads=1))
    process.wait_log(rf"Linux {re.escape(os.uname().release)} \(io_uring tier {tier}\)", within(5))


# --- io_uring that is forbidden (A73) -----------------------------------------------------------

SETUP, ENTER, REGISTER = 425, 426, 427  # on every architecture

PROFILES = {
    "docker": ((SETUP, ENTER, REGISTER), errno.EPERM),
    "old docker": ((SETUP, ENTER, REGISTER), errno.ENOSYS),
    "setup": ((SETUP,), errno.EPERM),
    "enter": ((ENTER,), errno.EPERM),
    "register": ((REGISTER,), errno.EPERM),
    "no io_uring": ((SETUP,), errno.ENOSYS),
}


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("profile", PROFILES)
def test_forbidden_by_seccomp(start, role, profile):
    """One line for all workers, with the cause and the way out."""
    if role == "server":
        text = server_text(threads=4)
    else:
        text = render(OURS, "client", {"remote_addr": f"127.0.0.1:{free_port()}",
                                       "default_token": TOKEN, "threads": 4},
                      {"s": {"local_addr": "127.0.0.1:1"}})
    refused(start(text, role, forbidden=PROFILES[profile]),
            r"seccomp.*io_uring_setup, io_uring_enter and io_uring_register|"
            r"io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile")


GETRANDOM = {"x86_64": 318, "aarch64": 278}.get(platform.machine())


@pytest.mark.skipif(not GETRANDOM, reason="the number of getrandom(2) is not known for this machine")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["none", "forbidden"])
def test_no_random_numbers(start, place, error):
    """A52: without randomness nothing starts, and no key is made; what makes none needs none."""
    if SANITIZED:
        pytest.skip("a sanitizer's runtime asks for random numbers too")
    process = start(server_text(), forbidden=((GETRANDOM,), error))
    assert process.wait(within(2)) == 1
    no_random = r"rathole-uring: the system provides no random numbers: .+\n"
    assert re.fullmatch(no_random, process.log())
    noise = render(OURS, "client", {"remote_addr": "127.0.0.1:9", "default_token": TOKEN},
                   {"s": {"local_addr": "127.0.0.1:9"}})
    noise += f"\n[client.transport]\ntype = noise\nnoise.remote_public_key = {'A' * 42}E=\n"
    (place / "noise.ini").write_text(noise)
    for arguments, code in ((["--genkey"], 1), (["--help"], 0), (["--version"], 0),
                            (["--check", place / "0.ini"], 0), (["--check", place / "noise.ini"], 0)):
        log = place / "log"
        log.unlink(missing_ok=True)
        process = Process([place / "rathole-uring", *arguments], log, forbidden=((GETRANDOM,), error))
        assert process.wait(within(2)) == code, (arguments, process.log())
        assert bool(re.fullmatch(no_random, process.log())) == (code == 1), process.log()


RANDOM_SHIM = BINARIES[OURS].parent / "tests" / "e2e" / "librandom_shim.so"
JUST_BOOTED = limits.Limits(random_tell=0.3, random=1.5)


@pytest.fixture
def booting(start):
    """booting(seconds, port) -> a server on a machine that collects random numbers for so long."""
    if SANITIZED or not RANDOM_SHIM.exists():
        pytest.skip("no random_shim in this build, or a sanitizer that wants to be loaded first")

    def make(seconds, port):
        return start(server_text(port), limits=JUST_BOOTED, env={
            "LD_PRELOAD": str(RANDOM_SHIM), "RANDOM_SHIM": str(round(seconds * 1000))})

    return make


@pytest.mark.parametrize("is_told", [False, True], ids=["soon", "later"])
def test_random_numbers_come_after_the_boot(booting, is_told):
    """A52: a machine that has just started has none yet; the program waits, and says so after a second."""
    port = free_port()
    process = booting(JUST_BOOTED.random_tell * (2 if is_told else 0.1), port)
    wait_until(lambda: is_listening(port), within(JUST_BOOTED.random_tell * 3 + 5), "the server")
    assert process.log().count("the kernel has no random numbers yet: waiting\n") == is_told
    process.stop()


def test_random_numbers_do_not_come(booting):
    begin = time.monotonic()
    process = booting(1000, free_port())
    wait_until(lambda: "waiting" in process.log(), within(JUST_BOOTED.random_tell + 5), "its word")
    assert process.wait(within(JUST_BOOTED.random + 5)) == 1
    assert time.monotonic() - begin >= JUST_BOOTED.random
    assert re.search(r"still no random numbers: give the machine a source of them", process.log())


def test_a_signal_while_there_are_no_random_numbers(booting):
    process = booting(1000, free_port())
    wait_until(lambda: "waiting" in process.log(), within(JUST_BOOTED.random_tell + 5), "its word")
    process.expected_death = True
    process.signal(signal.SIGTERM)
    assert process.wait(within(0.5)) == -signal.SIGTERM


SYSCTL = pathlib.Path("/proc/sys/kernel/io_uring_disabled")


@as_root
@pytest.mark.parametrize("value", [1, 2])
def test_forbidden_by_sysctl(start, value):
    """1 forbids io_uring to all but root, 2 to everybody."""
    if os.environ.get("E2E_SYSCTL") != "1":
        pytest.skip("the sysctl holds for the whole machine (E2E_SYSCTL=1 allows this test)")
    if not os.access(SYSCTL, os.W_OK):
        pytest.skip(f"{SYSCTL} is not to be written here")
    before = SYSCTL.read_text()
    try:
        SYSCTL.write_text(f"{value}\n")
        refused(start(server_text(threads=4, **({"user": USER} if value == 1 else {}))),
                r"sysctl kernel\.io_uring_disabled")
    finally:
        SYSCTL.write_text(before)


# --- a build without TLS --------------------------------------------------------------------------

WITHOUT_TLS = (r"server\.transport\.tls: this rathole-uring was built without TLS"
               r".*install the package.*libssl-dev")
ASKS_FOR_TLS = {
    "tls": {"type": "tls", "tls.certificate": "c.pem", "tls.private_key": "k.pem"},
    "websocket": {"type": "websocket", "websocket.tls": "true", "tls.certificate": "c.pem",
                  "tls.private_key": "k.pem"},
}


def asks_for_tls(kind, port):
    lines = "".join(f"{key} = {value}\n" for key, value in ASKS_FOR_TLS[kind].items())
    return server_text(port) + "\n[server.transport]\n" + lines


@pytest.mark.skipif(is_able("tls"), reason="this build has TLS; scripts/build-static makes one without")
@pytest.mark.parametrize("kind", ASKS_FOR_TLS)
def test_without_tls_one_line_says_what_to_do(start, place, kind):
    """At the start, for --check, and on a reload, which changes nothing."""
    port = free_port()
    process = start(asks_for_tls(kind, port))
    assert process.wait(within(10)) == 1
    lines = [line for line in process.log().splitlines() if " WARN " not in line]
    assert len(lines) == 1 and re.search(WITHOUT_TLS, lines[0]), process.log()
    checked = subprocess.run([BINARIES[OURS], "--check", place / "0.ini"], capture_output=True, text=True,
                             timeout=within(10))
    assert checked.returncode == 1 and re.search(WITHOUT_TLS, checked.stderr), checked
    process = start(server_text(port))
    wait_until(lambda: is_listening(port), within(5), "the server")
    (place / "1.ini").write_text(asks_for_tls(kind, port))
    process.signal(signal.SIGHUP)
    process.wait_log(rf"ERROR reload: nothing is changed: .*{WITHOUT_TLS}", within(5))
    assert is_listening(port) and process.alive()


# --- times that tests may shorten -----------------------------------------------------------------


def with_limits(text):
    return subprocess.run([BINARIES[OURS], "--version"], capture_output=True, text=True,
                          timeout=within(10), env={**os.environ, limits.VARIABLE: text})


def test_only_a_developers_build_has_limits_that_can_be_shortened():
    """Other builds do not even contain the variable's name."""
    mode = os.environ.get("E2E_MODE")
    knows = harness.contains(OURS, limits.VARIABLE.encode())
    assert mode is None or knows == (mode == "developer")
    assert with_limits("visitor_wait_ms=1000").returncode == 0
    for wrong in ("no_such_ms=1", "visitor_wait_ms=0", "visitor_wait_ms=10001", "visitor_wait_ms"):
        ended = with_limits(wrong)
        if knows:
            assert ended.returncode == 1 and f'{limits.VARIABLE}: "{wrong}" is not' in ended.stderr
        else:
            assert ended.returncode == 0 and ended.stderr == ""
