"""Fixtures and time limits; what a test runs against is in harness.py."""

import contextlib
import faulthandler
import os
import pathlib
import pwd
import shutil
import signal
import sys
import tempfile
import time

import pytest

import boxed
import browser
import harness
import ledger
import noise_peer
import proxies
from datagrams import UdpEcho, knock
from dns import Dns
from harness import OURS, PAIR, RATHOLE, Process, Tunnel, have, within

TIME_LIMIT = 60  # seconds a test; @pytest.mark.time_limit(n) for another
TIME_LIMIT_FULL = 3600  # for each at full size


def pytest_configure(config):
    config.addinivalue_line("markers", "time_limit(seconds): more or less than the usual limit")
    config.addinivalue_line("markers", "slow: waits long; left out with E2E_SKIP_SLOW=1")
    config.addinivalue_line(
        "markers", "realtime: needs the machine for itself: its bounds are of speed or fairness, or its load "
        "has a rate to keep. Runs alone in the plain build, and not at all with a sanitizer")
    config.addinivalue_line("markers", "ours: about our program; not run with E2E_PAIR=rathole/...")


class TimeLimit(Exception):
    pass


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """One limit over set-up, call and tear-down; a process that ignores it is killed, and its
    children with it."""
    marker = item.get_closest_marker("time_limit")
    seconds = within(marker.args[0] if marker else TIME_LIMIT)
    if harness.FULL:
        seconds = within(TIME_LIMIT_FULL)

    def expired(_number, _frame):
        raise TimeLimit(f"over its time limit of {seconds:g} s")

    signal.signal(signal.SIGALRM, expired)
    # Again every 5 s, in case a tear-down swallows the first signal.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of every process's log, or the sanitizer's report in it."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for name, process in getattr(item, "e2e_processes", []):
        lines = process.log().splitlines()
        title = f"log of {name()} (pid {process.pid}, exit {process.popen.poll()})"
        reports = [n for n, line in enumerate(lines) if harness.SANITIZER_REPORT.search(line)]
        shown = lines[reports[0] : reports[0] + 60] if reports else lines[-25:]
        text = "\n".join(line[:300] for line in shown)
        if hasattr(report.longrepr, "addsection"):
            report.longrepr.addsection(title, text)  # in the JUnit report as well
        else:
            report.sections.append((title, text))


def pytest_collection_modifyitems(config, items):
    if os.environ.get("E2E_SKIP_SLOW"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if os.environ.get("E2E_SANDBOX") == "1":
        boxed.leave_out(items)
    for item in items:
        if item.get_closest_marker("ours") and PAIR != (OURS, OURS):
            item.add_marker(pytest.mark.skip(reason="about our program, not this pairing"))


@pytest.fixture(scope="session", autouse=os.environ.get("E2E_SANDBOX") == "1")
def _boxed():
    boxed.put()


@pytest.fixture(autouse=True)
def _fresh_ledger():
    ledger.begin()


@pytest.fixture
def dns(tmp_path):
    """make(names, hosts, options) -> a Dns."""
    made = []

    def make(**kwargs):
        new = Dns(tmp_path, **kwargs)
        made.append(new)
        return new

    yield make
    for each in made:
        each.stop()


def running_in(folder):
    """{pid: command line} of the processes whose command line has a path in this folder."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue  # it has ended
        if f"{folder}/".encode() in line:
            found[int(path.parent.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture(autouse=True)
def _no_process_is_left(request):
    """Successors of upgrades, and services that a test has started by itself."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is None:
        return
    deadline = time.monotonic() + within(3)
    while (left := running_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "still running after the test"


@pytest.fixture
def tail_lost_max():
    """How many of an answer's last bytes the pairing may lose; test_transports_interop has some."""
    return 0


@pytest.fixture
def processes(request):
    """Lists a test's processes for the report, and kills those that are alive after it."""
    request.node.e2e_processes = []
    kept = []

    def keep(process, name):
        request.node.e2e_processes.append(
            ((lambda: getattr(process, "name", name)), process))
        kept.append(process)
        return process

    yield keep
    for process in kept:
        if process.alive():
            process.kill9()


@pytest.fixture
def tunnel(request, tmp_path, processes):
    """make(services, ...) -> a started Tunnel (start=False: not yet)."""
    made = []

    def make(services, start=True, **kwargs):
        workdir = tmp_path / f"tunnel{len(made)}"
        workdir.mkdir()
        new = Tunnel(workdir, services, **kwargs)
        new.kept = processes
        made.append(new)
        spawn = new.spawn

        def spawn_in_sight(role, *args, **options):
            process = spawn(role, *args, **options)
            return processes(process, role)

        new.spawn = spawn_in_sight
        if start:
            new.start()
        return new

    yield make
    errors = []
    for each in made:
        try:
            each.stop()
        except AssertionError as error:
            errors.append(str(error))
        finally:
            each.kill()
    assert not errors, "; ".join(errors)


@pytest.fixture
def service():
    """make(Class, ...) -> a local service on a free port."""
    made = []

    def make(kind, *args, port=None, **kwargs):
        new = kind(port or harness.free_port(), *args, **kwargs)
        made.append(new)
        return new

    yield make
    for each in made:
        each.stop()
    complaints = [line for each in made if isinstance(each, ledger.Counted)
                  for line in ledger.current.complaints(each)]
    assert not complaints, "; ".join(complaints)


@pytest.fixture
def ours(tmp_path, processes):
    """run(*argv) -> a Process of our program alone."""
    if not have(OURS):
        raise RuntimeError(f"no program at {harness.BINARIES[OURS]}")
    made = []

    def run(*argv, **kwargs):
        log_path = tmp_path / f"ours{len(made)}.log"
        process = Process([harness.BINARIES[OURS], *argv], log_path, **kwargs)
        process.name = "rathole-uring"
        made.append(process)
        return processes(process, "rathole-uring")

    yield run
    complaints = []
    for process in made:
        if process.alive():
            process.kill9()
        verdict = process.verdict()
        if verdict:
            complaints.append(verdict)
    assert not complaints, "; ".join(complaints)


@pytest.fixture
def nobody():
    """A directory and a copy of the program that the user nobody can use."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    user = pwd.getpwnam("nobody").pw_uid
    with tempfile.TemporaryDirectory(prefix="e2e-nobody-") as name:
        directory = pathlib.Path(name)
        program = directory / "rathole-uring"
        shutil.copy(harness.BINARIES[OURS], program)
        program.chmod(0o755)
        os.chown(directory, user, user)
        yield user, directory, program


@pytest.fixture(params=harness.THREADS, ids=lambda n: f"threads{n}")
def threads(request):
    return request.param


@pytest.fixture(params=harness.TRANSPORTS)
def transport(request):
    """For Tunnel(transport=...)."""
    return noise_peer.Noise("NK") if request.param == "noise" else None


@pytest.fixture
def udp(tunnel, service, transport):
    """make(kind of service, ...) -> (a Tunnel with the UDP service `echo`, what stands behind it).

    ready: the number of visitors that have been answered before, see knock()."""

    def make(kind=UdpEcho, ready=16, knock_at="127.0.0.1", local=None, **kwargs):
        local = local or service(kind)
        t = tunnel({"echo": local.port}, udp=True, transport=transport, **kwargs)
        if ready:
            knock(t.port(), knock_at, ready, within(15))
        return t, local

    return make


def pytest_report_header():
    lines = [f"{name}: {path}" for name, path in harness.BINARIES.items()]
    scale = "full" if harness.FULL else f"{harness.SCALE:g}"
    return lines + [f"pair {'/'.join(PAIR)}, scale {scale}, slow {harness.SLOW:g}"]


def pytest_terminal_summary(terminalreporter):
    if not have(RATHOLE):
        terminalreporter.write_line(
            "NO RATHOLE 0.5.0 FOUND: interop tests were skipped (scripts/setup --peers)", red=True)
    for reason in filter(None, map(proxies.why_not, proxies.KINDS)):
        terminalreporter.write_line(f"{reason}: tests with a real proxy were skipped", red=True)
    if not browser.program():
        terminalreporter.write_line(f"{browser.why_not()}: tests of the page were skipped", red=True)
