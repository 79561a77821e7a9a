"""The program as PID 1 of a PID namespace, as in a container. The kernel ends a namespace with its PID 1, so
that process has to survive upgrades, forward signals and reap orphans.
"""

import os
import signal
import subprocess
import time

import pytest

from harness import BINARIES, OURS, Process, render, wait_until, within
from protocol import connect, recv_exact
from services import Echo, ping
from upgrades import children

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace"),
]


class Contained(Process):
    """Our program in `unshare`. first: PID 1 of the namespace, by its pid outside; serving(): the pids of its
    children, which serve."""

    def __init__(self, argv, log_path):
        super().__init__(["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", *argv], log_path)
        self.name = "container"
        self.first = wait_until(lambda: next(iter(children(self.pid)), None), within(5), "PID 1")

    def serving(self):
        return children(self.first)

    def signal(self, number):
        os.kill(self.first, number)


@pytest.fixture
def contained(tunnel, service, processes):
    """(a tunnel whose server is PID 1 of a PID namespace, the Contained of that server)."""
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"drain_timeout": 20})
    path = t.workdir / "server.ini"
    path.write_text(t.config("server"))
    path.chmod(0o600)
    server = processes(Contained([BINARIES[OURS], "--server", path], t.workdir / "server.log"),
                       "container")
    t.started.append(server)
    t.server = server
    t.start_client()
    t.wait_ready()
    return t, server


def test_an_upgrade_leaves_the_first_process_alone(contained):
    """The old process ends after its last relay and the new one goes on serving; then SIGTERM ends all."""
    t, server = contained
    old, = server.serving()
    with connect(t.port()) as visitor:
        visitor.sendall(b"before")
        assert recv_exact(visitor, 6) == b"before"
        server.signal(signal.SIGUSR2)
        server.wait_log(r"serves from here on", within(15))
        ping(t.port(), timeout=within(10))
        visitor.sendall(b"after")
        assert recv_exact(visitor, 5) == b"after", "the old program keeps its relay"
    wait_until(lambda: old not in server.serving(), within(10), "the old program's end")
    new, = server.serving()
    assert new != old
    time.sleep(0.3)  # if the namespace ended with the old process, it would have ended by now
    for _ in range(3):
        ping(t.port(), timeout=within(5))
    server.signal(signal.SIGTERM)
    assert server.wait(within(10)) == 0


def test_signals_reach_the_program(contained):
    t, server = contained
    server.signal(signal.SIGUSR1)
    server.wait_log(r"worker 0: ", within(5))
    server.signal(signal.SIGHUP)
    server.wait_log(r"reload: nothing has changed", within(5))
    server.signal(signal.SIGINT)
    assert server.wait(within(10)) == 0
    assert "stopping" in server.log()


def test_its_end_is_the_containers(contained):
    """If the serving process is killed, the exit code has its signal, and no process is left behind."""
    _, server = contained
    program, = server.serving()
    os.kill(program, signal.SIGKILL)
    assert server.wait(within(5)) == 128 + signal.SIGKILL
    assert not os.path.exists(f"/proc/{program}")


def test_a_start_error_is_the_containers_exit_code(tmp_path, processes):
    path = tmp_path / "bad.ini"
    path.write_text(render(OURS, "server", {"bind_addr": "nonsense"}, {}))
    process = processes(Process(["unshare", "--pid", "--mount-proc", "--fork", BINARIES[OURS], path],
                                tmp_path / "log"), "container")
    assert process.wait(within(5)) == 1


def test_orphans_of_others_are_reaped(contained):
    """Processes that `docker exec` leaves behind become children of PID 1. It must reap them and go on."""
    t, server = contained
    program, = server.serving()
    subprocess.run(["nsenter", "--target", str(server.first), "--pid", "sh", "-c",
                    "(sleep 0.3 &) ; exit 0"], check=True, timeout=within(5))
    wait_until(lambda: len(server.serving()) == 2, within(5), "the orphan")
    wait_until(lambda: server.serving() == [program], within(5), "the orphan's end, and no zombie")
    ping(t.port(), timeout=within(5))
