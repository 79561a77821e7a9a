"""What the process reads and writes by name or number: files that never answer, a log at its limit,
standard descriptors that are closed."""

import os
import pathlib
import resource
import signal
import subprocess
import threading
import time

import pytest

from harness import BINARIES, OURS, TOKEN, Process, free_port, render, within
from protocol import connect, recv_exact
from services import Echo, ping

pytestmark = pytest.mark.ours


def server_text(port, token=TOKEN):
    return render(OURS, "server", {"bind_addr": f"127.0.0.1:{port}", "default_token": token},
                  {"s": {"bind_addr": f"127.0.0.1:{free_port()}"}})


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("what", ["configuration", "secret"])
def test_a_fifo_in_the_place_of_a_file(tunnel, service, what):
    """A reload that finds a FIFO says so in a line; signals are answered before and after."""
    t = tunnel({"echo": service(Echo).port}, start=False)
    secret = t.workdir / "secret"
    secret.write_text(TOKEN)
    if what == "secret":
        t.server_options["default_token"] = f"file:{secret}"
    t.start()
    fifo(secret if what == "secret" else t.workdir / "server.ini")
    t.server.signal(signal.SIGHUP)
    t.server.wait_log(r"reload: nothing is changed: .*not a regular file", within(1))
    t.server.signal(signal.SIGUSR1)
    t.server.wait_log(r"worker 0: ", within(1))
    ping(t.port())
    assert t.server.log().count("not a regular file") == 1
    start = time.monotonic()
    assert t.server.stop() == 0
    assert time.monotonic() - start < within(1)


@pytest.mark.parametrize("argv", [["--check"], ["--server"]], ids=" ".join)
@pytest.mark.parametrize("what", ["fifo", "directory", "device"])
def test_a_start_with_what_is_no_file(ours, tmp_path, argv, what):
    path = tmp_path / "server.ini"
    if what == "fifo":
        fifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path = pathlib.Path("/dev/zero")
    process = ours(*argv, path)
    assert process.wait(within(1)) == 1
    assert len(process.log().splitlines()) == 1, process.log()
    assert str(path) in process.log()


def test_check_reads_what_a_shell_hands_over():
    """`--check <(make-config)`: a pipe whose writer takes a moment."""
    text = server_text(free_port())
    reader, writer = os.pipe()

    def write_late():
        for piece in (text[:20], text[20:]):
            time.sleep(0.1)
            os.write(writer, piece.encode())
        os.close(writer)

    thread = threading.Thread(target=write_late)
    thread.start()
    result = subprocess.run([BINARIES[OURS], "--check", f"/dev/fd/{reader}"], pass_fds=[reader],
                            capture_output=True, text=True, timeout=within(5))
    thread.join()
    os.close(reader)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("closed", [[0], [2], [0, 1, 2]], ids=str)
def test_closed_standard_descriptors(tunnel, service, closed):
    """Sockets do not get the numbers of closed standard descriptors, not even when a reload opens
    more: no log line goes into a connection."""
    t = tunnel({"echo": service(Echo).port}, start=False)
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    path = t.workdir / "server.ini"
    path.write_text(t.config("server"))
    path.chmod(0o600)
    process = Process(["sh", "-c", f'exec "$0" --server "$1" {redirections}', BINARIES[OURS], path],
                      t.workdir / "closed.log")
    process.name = "server with closed descriptors"
    t.started.append(process)
    t.start_client()
    t.wait_ready()
    for fd in closed:
        assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == "/dev/null"
    with connect(t.port()) as visitor:
        t.services["more"] = service(Echo).port
        t.ports["more"] = free_port()
        (t.workdir / "server.ini").write_text(t.config("server"))
        (t.workdir / "client.ini").write_text(t.config("client"))
        process.signal(signal.SIGHUP)
        t.client.signal(signal.SIGHUP)
        t.wait_ready(names=["more"])
        ping(t.port("more"))
        visitor.sendall(b"alone")
        assert recv_exact(visitor, 5) == b"alone"
        visitor.settimeout(0.2)
        with pytest.raises(TimeoutError):
            visitor.recv(1)
    for fd in closed:
        assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == "/dev/null"


def test_a_log_file_at_its_limit(tunnel, service):
    """`ulimit -f`: lines are dropped and counted, visitors are served."""
    limit = 8192
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "trace"})
    t.server = t.spawn("server")
    resource.prlimit(t.server.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    t.start_client()
    t.wait_ready()
    visits = 0
    while t.server.log_size() < limit - 300 or visits < 20:
        ping(t.port())
        visits += 1
        assert visits < 2000, "the log does not grow"
    for _ in range(20):
        ping(t.port())
    assert t.server.log_size() <= limit
    assert t.server.alive()
    # Once the limit is raised, the log goes on and says how many lines it has lost.
    resource.prlimit(t.server.pid, resource.RLIMIT_FSIZE,
                     (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    t.server.signal(signal.SIGUSR1)
    match = t.server.wait_log(r"log_lines_dropped=(\d+)", within(5))
    assert int(match.group(1)) > 0
