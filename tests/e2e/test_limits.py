"""Resource limits of the process that are too low. The program refuses a start that could serve no visitor,
with one line that names the limit and the value that is needed. It refuses a reload in the same way.
"""

import contextlib
import os
import re
import resource
import subprocess

import pytest

from datagrams import UdpEcho, knock
from harness import BINARIES, OURS, SANITIZED, wait_until, within
from protocol import connect
from services import Echo, answers, ping

pytestmark = pytest.mark.ours

TOO_FEW = re.compile(r"ERROR too few file descriptors: the limit is (\d+), .* needs at least (\d+) .*"
                     r"ulimit -n, or LimitNOFILE=")


def errors(log):
    return [line for line in log.splitlines() if " ERROR " in line]


@pytest.fixture
def both(tunnel, service):
    def make(threads):
        tcp, udp = service(Echo), service(UdpEcho)
        return tunnel({"tcp": tcp.port, "udp": udp.port}, udp=["udp"], threads=threads, start=False)

    return make


def start(t, role, nofile):
    """Starts `role` with that limit and the other end without one."""
    for each in ("server", "client"):
        start_one = t.start_server if each == "server" else t.start_client
        start_one(nofile=nofile if each == role else None)


def refused(t, role, nofile):
    """Checks that the start is refused, and returns the number of descriptors that the error asks for."""
    process = t.spawn(role, name=f"{role}{nofile}", nofile=nofile)
    assert process.wait(within(10)) == 1
    said = errors(process.log())
    assert len(said) == 1, said
    limit, needed = TOO_FEW.search(said[0]).groups()
    assert int(limit) == nofile
    return int(needed)


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("threads", [1, 3])
def test_too_few_descriptors_are_refused(both, role, threads):
    """Any lower limit is refused with the same number. With that number every service is served."""
    t = both(threads)
    needed = refused(t, role, 8)
    for nofile in (5, 12, 16, 20, 24, 40, needed - 1):
        assert refused(t, role, nofile) == needed
    start(t, role, needed)
    t.wait_ready()
    knock(t.port("udp"), visitors=4)
    for _ in range(5):
        wait_until(lambda: answers(t.port("tcp")), within(10), "an answer")
        knock(t.port("udp"), visitors=1)
    process = getattr(t, role)
    assert process.fds() <= needed
    assert not errors(process.log())
    assert "few file descriptors" in process.log(), "no word of what would be better"


def test_each_service_has_a_channel_with_the_least(tunnel, service):
    """The client has only as many descriptors as it asks for. Pooled channels of one service must not keep
    another from being served, and all services can be used at the same time."""
    local = service(Echo)
    t = tunnel({f"s{n}": local.port for n in range(12)}, threads=2, start=False)
    t.start_server()
    t.start_client(nofile=refused(t, "client", 20))
    t.wait_ready()
    with contextlib.ExitStack() as stack:
        for n in range(12):
            visitor = stack.enter_context(connect(t.port(f"s{n}"), timeout=within(5)))
            visitor.sendall(b"x")
            assert visitor.recv(1) == b"x", f"service {n}"


def test_enough_descriptors_are_not_talked_about(both):
    t = both(2)
    t.start(nofile=256)
    assert "few file descriptors" not in t.server.log() + t.client.log()


def test_descriptors_of_the_parent_count(both, tmp_path):
    """Descriptors that the process inherited and does not use count against the limit, too."""
    t = both(1)
    needed = refused(t, "server", 20)
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    try:
        process = t.spawn("server", name="many", nofile=needed, pass_fds=files)
        assert process.wait(within(10)) == 1
        assert f"needs at least {needed + 10} " in process.log()
    finally:
        for fd in files:
            os.close(fd)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_reload_beyond_the_descriptors_changes_nothing(both, role):
    t = both(2)
    start(t, role, 160)
    t.wait_ready()
    ping(t.port("tcp"))
    process = getattr(t, role)
    path = t.workdir / f"{role}.ini"
    good = t.config(role)
    key = "bind_addr" if role == "server" else "local_addr"
    more = "".join(f"\n[{role}.services.more{n}]\n{key} = 127.0.0.1:{60000 + n}\n" for n in range(60))
    path.write_text(good + more)
    process.wait_log(r"reload: nothing is changed: too few file descriptors: the limit is 160, .*"
                     r"ulimit -n", within(5))
    ping(t.port("tcp"))
    knock(t.port("udp"), visitors=2)
    assert "more1" not in process.log()
    path.write_text(good + more[: more.index("[", 3)])  # one more service fits
    process.wait_log(r"reload: services: 1 added", within(5))
    ping(t.port("tcp"))


# --- the other limits -----------------------------------------------------------------------------


def run_limited(t, role, limits):
    """(exit code or None, log) of an end with these limits, after a few seconds at most."""
    path = t.workdir / "limited.ini"
    path.write_text(t.config(role))
    path.chmod(0o600)

    def limit():
        for which, value in limits.items():
            resource.setrlimit(which, (value, value))

    process = subprocess.Popen([BINARIES[OURS], f"--{role}", path], preexec_fn=limit, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        return process.communicate(timeout=within(10))[0], process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0], None


@pytest.mark.skipif(os.getuid() != 0, reason="the limit does not hold for root, so it becomes nobody")
@pytest.mark.parametrize("role", ["server", "client"])
def test_too_few_threads(both, role):
    t = both(3)
    options = t.server_options if role == "server" else t.client_options
    options.update(user=54321, group=54321)  # no other process has this uid
    for most in (1, 3):
        log, code = run_limited(t, role, {resource.RLIMIT_NPROC: most})
        assert code == 1, log
        assert len(errors(log)) == 1, log
        assert "ulimit -u" in log and "LimitNPROC=" in log and "TasksMax=" in log


@pytest.mark.skipif(SANITIZED, reason="a sanitizer maps far more than any limit")
@pytest.mark.parametrize("which, hint, sizes", [
    (resource.RLIMIT_AS, "ulimit -v", (10, 14, 18)),
    (resource.RLIMIT_DATA, "ulimit -d", (6, 8, 12)),
], ids=["address-space", "data"])
def test_too_little_memory(both, which, hint, sizes):
    """UDP needs the most memory. A server that can't allocate it logs an error and exits."""
    t = both(3)
    for size in sizes:
        log, code = run_limited(t, "server", {which: size << 20})
        assert code == 1, f"{size} MiB: {log}"
        assert errors(log), f"{size} MiB: {log}"
        assert all(hint in line for line in errors(log)), f"{size} MiB: {log}"
