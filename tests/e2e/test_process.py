"""The process as its operator sees it: exit codes, messages, log, limits, counters."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness
from harness import (
    BINARIES, OURS, SANITIZED, TOKEN, Process, free_port, is_listening, render, scaled, wait_until,
    within,
)
from protocol import connect, recv_exact
from services import Echo, Source, ping

pytestmark = pytest.mark.ours

SECRET = "s3cr3t-canary-91d7"


def run(*argv, timeout=5, env=None, **kwargs):
    """Runs the program until it ends by itself: (exit code, stdout, stderr)."""
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1", **(env or {}))
    result = subprocess.run([BINARIES[OURS], *argv], capture_output=True, text=True, cwd="/",
                            timeout=within(timeout), env=environment, stdin=subprocess.DEVNULL,
                            **kwargs)
    assert not harness.SANITIZER_REPORT.search(result.stderr), result.stderr
    return result.returncode, result.stdout, result.stderr


def write(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def server_text(port, **more):
    options = dict({"bind_addr": f"127.0.0.1:{port}", "default_token": TOKEN}, **more)
    return render(OURS, "server", options, {"s": {"bind_addr": f"127.0.0.1:{free_port()}"}})


# --- arguments and configuration ----------------------------------------------------------------


@pytest.mark.parametrize("argv", [
    [], ["--no-such-option"], ["--server"], ["--check"], ["one.ini", "two.ini"],
], ids=" ".join)
def test_usage_errors(argv):
    code, out, err = run(*argv)
    assert code == 2
    assert out == "" and err.strip()


def test_version():
    code, out, err = run("--version")
    assert code == 0
    assert re.match(r"rathole-uring \d+\.\d+", out), out
    assert err == ""


def test_help_is_no_error():
    code, out, _ = run("--help")
    assert code == 0 and "--check" in out and "--server" in out


@pytest.mark.parametrize("argv", [["--server"], ["--check"], ["-c"]], ids=" ".join)
def test_missing_file(tmp_path, argv):
    code, _, err = run(*argv, tmp_path / "none.ini")
    assert code == 1
    assert "none.ini" in err and "no such file" in err.lower()
    assert len(err.strip().splitlines()) == 1


BAD_CONFIG = """\
[server]
bind_addr = 127.0.0.1:2333
default_token = {secret}
no_such_key = 1

[server.services.ssh]
bind_addr = "22"

[server.services.web]
type = sctp
bind_addr = 127.0.0.1:8080
"""


@pytest.mark.parametrize("argv", [["--server"], ["--check"]], ids=" ".join)
def test_bad_configuration(tmp_path, argv):
    """The program reports all errors of a file, each with file, line, key, and what was expected."""
    path = write(tmp_path / "bad.ini", BAD_CONFIG.format(secret=SECRET))
    code, _, err = run(*argv, path)
    assert code == 1
    lines = err.strip().splitlines()
    assert any(re.search(rf"{path}:4: .*no_such_key", line) for line in lines), err
    assert any(re.search(rf'{path}:7: server\.services\.ssh\.bind_addr: .*host:port.*"22"', line)
               for line in lines), err
    assert any(re.search(rf"{path}:10: .*type.*sctp", line) for line in lines), err
    assert SECRET not in err


def test_empty_configuration(tmp_path):
    code, _, err = run("--server", write(tmp_path / "empty.ini", ""))
    assert code == 1 and "server" in err


def test_role_that_the_file_does_not_have(tmp_path):
    code, _, err = run("--client", write(tmp_path / "server.ini", server_text(free_port())))
    assert code == 1 and "client" in err


def test_check_accepts_a_good_file(tmp_path):
    path = write(tmp_path / "good.ini", server_text(free_port()))
    code, _, err = run("--check", path)
    assert (code, "error" in err.lower()) == (0, False), err


def test_check_warns_of_a_readable_secret(tmp_path):
    path = write(tmp_path / "open.ini", server_text(free_port()))
    path.chmod(0o644)
    code, out, err = run("--check", path)
    assert code == 0
    assert re.search(r"read", out + err, re.I), "no word about who can read the token"
    assert TOKEN not in out + err


def test_check_does_not_bind(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        path = write(tmp_path / "good.ini", server_text(holder.getsockname()[1]))
        assert run("--check", path)[0] == 0


def test_rathole_file_is_read_as_it_stands(tunnel, service):
    """Our program reads rathole's TOML file unchanged, with indentation and both kinds of quotes."""
    local = service(Echo)
    t = tunnel({"echo": local.port}, start=False)
    t.server = t.spawn("server", text=f"""\
# a rathole file
[server]
  bind_addr = "127.0.0.1:{t.control_port}"   # tunnel
  default_token = "{TOKEN}"

  [server.transport]
  type = "tcp"

  [server.transport.tcp]
  nodelay = true
  keepalive_secs = 20

  [server.services.echo]
  type = "tcp"
  bind_addr = "127.0.0.1:{t.port()}"
""")
    t.client = t.spawn("client", text=f"""\
[client]
remote_addr = "127.0.0.1:{t.control_port}"
default_token = '{TOKEN}'

[client.services.echo]
local_addr = "127.0.0.1:{local.port}"
nodelay = true
""")
    t.wait_ready()
    ping(t.port())


# --- start --------------------------------------------------------------------------------------


def test_control_port_in_use(ours, tmp_path):
    """Exit 1 within 2 s, one line that names the address. (test_bind.py has a service's port in use.)"""
    port = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        start = time.monotonic()
        process = ours("--server", write(tmp_path / "server.ini", server_text(port)))
        assert process.wait(within(4)) == 1
        assert time.monotonic() - start < within(2)
    errors = [line for line in process.log().splitlines() if f"127.0.0.1:{port}" in line]
    assert len(errors) == 1 and re.search(r"in use", errors[0], re.I), process.log()


def test_second_instance_is_refused(tunnel, service, ours, tmp_path):
    """SO_REUSEPORT must not let two servers share a port silently."""
    t = tunnel({"echo": service(Echo).port})
    second = ours("--server", write(tmp_path / "second.ini", t.config("server")))
    assert second.wait(within(4)) == 1
    assert "in use" in second.log().lower()
    for _ in range(20):
        ping(t.port())


@pytest.mark.parametrize("memlock_kib", [8192, 64])
@pytest.mark.parametrize("workers", [1, 8])
def test_as_somebody_without_rights(nobody, processes, memlock_kib, workers):
    """For every user but root, rings count against RLIMIT_MEMLOCK: each time the server either starts,
    or says in one line why it cannot."""
    user, directory, program = nobody
    port = free_port()
    config = directory / "server.ini"
    config.write_text(server_text(port, threads=workers))
    os.chown(config, user, user)
    for attempt in range(4):
        process = Process([program, "--server", config], directory / f"{attempt}.log", user=user,
                          memlock=memlock_kib << 10)
        processes(process, "as nobody")
        wait_until(lambda: is_listening(port) or not process.alive(), within(5), "start or end")
        if memlock_kib >= 8192:
            assert process.alive(), process.log()
        if process.alive():
            assert os.stat(f"/proc/{process.pid}").st_uid in (user, 0)
            # The next start follows at once, while the kernel still charges the dead process's rings.
            process.kill9()
        else:
            assert process.wait(1) == 1
            lines = [line for line in process.log().splitlines()
                     if re.search(r"memlock|locked memory", line, re.I)]
            assert len(lines) == 1, process.log()
        assert process.verdict() is None


# --- log ----------------------------------------------------------------------------------------


def test_secrets_are_never_shown(tunnel, service):
    """Tokens, right or wrong, appear neither in the log at its most verbose level nor in the argument
    list."""
    t = tunnel({"echo": service(Echo).port, "bad": 1}, start=False, token=SECRET,
               server_options={"log_level": "trace"}, client_options={"log_level": "trace"},
               service_options={"bad": {"token": SECRET + "-other"}})
    t.start_server()
    t.start_client()
    t.wait_ready(names=["echo"])
    ping(t.port())
    time.sleep(1)
    t.client.signal(signal.SIGUSR1)
    t.server.signal(signal.SIGUSR1)
    time.sleep(0.3)
    for process in (t.server, t.client):
        assert process.log(), "nothing was logged"
        assert SECRET not in process.log()
        assert SECRET not in pathlib.Path(f"/proc/{process.pid}/cmdline").read_text()


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_leaves_no_core_and_no_secret(tunnel, service, tmp_path, monkeypatch, number):
    """A60: cores are off, whatever the limit was at the start, and the end by a signal writes nothing."""
    for variable in ("ASAN_OPTIONS", "TSAN_OPTIONS"):  # a sanitizer leaves the signal to the program
        monkeypatch.setenv(variable, os.environ.get(variable, "") + ":handle_segv=0:handle_abort=0")
    place = tmp_path / "here"
    place.mkdir()
    t = tunnel({"echo": service(Echo).port}, start=False, token=SECRET,
               server_options={"log_level": "trace"}, client_options={"log_level": "trace"})
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        t.server = t.spawn("server", cwd=place)
        t.client = t.spawn("client", cwd=place)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    t.wait_ready()
    ping(t.port())
    for process in (t.server, t.client):
        limits = pathlib.Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.M), limits
        process.expected_death = True
        process.signal(number)
        assert process.wait(within(5)) == -number
        assert SECRET not in process.log()
    assert list(place.iterdir()) == []


def test_json_log(tunnel, service):
    """Every line is one object with a level and a message."""
    t = tunnel({"echo": service(Echo).port}, server_options={"log_format": "json",
                                                             "log_level": "debug"},
               client_options={"log_format": "json", "log_level": "debug"})
    ping(t.port())
    t.server.signal(signal.SIGUSR1)
    time.sleep(0.3)
    for process in (t.server, t.client):
        lines = process.log().splitlines()
        assert lines
        for line in lines:
            row = json.loads(line)
            assert {"level"} <= set(row), line


def test_log_level(tunnel, service):
    """At level error the log is empty as long as nothing fails. The environment overrides the file."""
    t = tunnel({"echo": service(Echo).port}, server_options={"log_level": "error"},
               client_options={"log_level": "error"})
    ping(t.port())
    assert t.server.log() == "" and t.client.log() == ""
    t.stop()
    t2 = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "error"})
    t2.start_server(env={"RATHOLE_URING_LOG": "debug"})
    t2.server.wait_log(".", within(5))


@pytest.mark.parametrize("env, level", [
    ({"RUST_LOG": "info"}, "INFO"),
    ({"RUST_LOG": "warn,rathole=debug"}, "DEBUG"),
    ({"RUST_LOG": "debug", "RATHOLE_URING_LOG": "info"}, "INFO"),
    ({"RUST_LOG": "hyper[span{x=1}]=trace,,=,%"}, None),
    ({"RUST_LOG": "rathole::server=trace"}, None),
], ids=str)
def test_log_level_of_rust_log(tunnel, service, env, level):
    """Units and containers made for rathole set the log level by RUST_LOG. A value that the program does
    not understand is no error and changes nothing."""
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "error"})
    t.start_server(env=env)
    t.start_client()
    t.wait_ready()
    ping(t.port())
    levels = set(re.findall(r"^\S+ ([A-Z]+) ", t.server.log(), re.M))
    assert ("INFO" in levels, "DEBUG" in levels) == (level is not None, level == "DEBUG")
    assert levels <= {"INFO", "DEBUG", "WARN"} if level else not levels, t.server.log()


def test_log_to_a_full_pipe_does_not_stop_forwarding(tunnel, service):
    """Nobody reads the log: lines are dropped, bytes are not."""
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "trace"},
               client_options={"log_level": "trace"})
    readers = []
    try:
        ends = []
        for role in ("server", "client"):
            reader, writer = os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
            readers.append(reader)
            ends.append(writer)
            setattr(t, role, t.spawn(role, stderr=writer, stdout=writer))
        for writer in ends:
            os.close(writer)
        t.wait_ready()
        for n in range(scaled(300, 100)):
            ping(t.port(), b"x" * (n % 1000 + 1))
        # Checks that the pipe was full; otherwise the test has shown nothing.
        for reader in readers:
            assert len(os.read(reader, 65536)) > 8192, "the pipe was not full"
        ping(t.port())
    finally:
        for reader in readers:
            os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk to fill")
def test_log_to_a_full_disk(tunnel, service, tmp_path):
    """A32: on a disk without room lines are dropped, and counted; bytes are not. With room again, lines come
    again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "trace"},
               client_options={"log_level": "trace"})
    try:
        filler = disk / "filler"
        filler.write_bytes(bytes(40 << 10))
        logs = {}
        for role in ("server", "client"):
            logs[role] = disk / f"{role}.log"
            with open(logs[role], "ab") as log:
                setattr(t, role, t.spawn(role, stdout=log, stderr=log))
        t.wait_ready()
        for n in range(scaled(300, 150)):
            ping(t.port(), b"x" * (n % 1000 + 1))
        assert os.statvfs(disk).f_bavail == 0, "the disk was not full"
        ping(t.port())
        filler.unlink()
        for role, process in (("server", t.server), ("client", t.client)):
            process.signal(signal.SIGUSR1)
            dropped = wait_until(
                lambda: re.findall(rb"main: .*log_lines_dropped=(\d+)", logs[role].read_bytes()),
                within(5), f"a line in the log of the {role}")
            assert int(dropped[-1]) > 0
        assert all(b"\0" not in log.read_bytes() for log in logs.values()), "a hole"
        ping(t.port())
        t.stop()
    finally:
        t.kill()
        subprocess.run(["umount", "-l", disk], check=True)


def test_log_reader_that_has_gone(tunnel, service):
    """EPIPE on the log is no reason to die."""
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"log_level": "trace"})
    reader, writer = os.pipe()
    t.server = t.spawn("server", stderr=writer, stdout=writer)
    os.close(writer)
    os.close(reader)
    t.start_client()
    t.wait_ready()
    for _ in range(10):
        ping(t.port())
    assert t.server.alive()


# --- counters -----------------------------------------------------------------------------------


def test_counters_on_sigusr1(tunnel, service, threads):
    """SIGUSR1 logs one line per worker; the sums match the connections and bytes of the test."""
    t = tunnel({"echo": service(Echo).port}, threads=threads)
    for _ in range(12):
        ping(t.port(), b"x" * 1000)
    wait_until(lambda: t.server.metric("relays_clean") == 12, within(5),
               lambda: f"12 clean relays: {t.server.metrics()}")
    workers = t.server.metrics()
    assert len(workers) == threads
    assert t.server.metric("visitors_accepted") == 12
    assert t.server.metric("relays_started") == 12
    assert t.server.metric("logins") == 1
    assert sum(t.server.metric(name) for name in
               ("bytes_copied", "bytes_bulk_copied", "bytes_spliced")) >= 24000
    assert len(t.client.metrics()) == threads
    for process in (t.server, t.client):
        for name in ("cq_overflows", "out_of_memory", "relays_aborted"):
            assert process.metric(name) == 0, process.metrics()


def worker_threads(process):
    """By index. No worker ends in these tests, but other threads may."""
    found = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name = (task / "comm").read_text().split()
            if name[0] == "worker":
                found[int(name[1])] = int(task.name)
    return [found[index] for index in sorted(found)]


def used_ns(process):
    """Of each worker, the time that it ran and the time that it waited for a core."""
    texts = [pathlib.Path(f"/proc/{thread}/schedstat").read_text() for thread in worker_threads(process)]
    return [sum(map(int, text.split()[:2])) for text in texts]


def policies(process):
    return {os.sched_getscheduler(thread) for thread in worker_threads(process)}


@pytest.mark.realtime
@pytest.mark.time_limit(120)
def test_workers_preempt_others_only_where_they_wait_for_long(tunnel, service, processes):
    """io/loop_preempt.c, in the sandbox that the workers have. No other thread's policy changes."""
    t = tunnel({"echo": service(Echo).port}, threads=2)

    def wake_all():
        for _ in range(16):
            ping(t.port("echo"))

    def lets_others_finish():
        wake_all()
        return all(os.SCHED_BATCH in policies(process) for process in (t.server, t.client))

    wait_until(lets_others_finish, within(30), "a worker of each that lets others finish")
    assert {os.sched_getscheduler(process.pid) for process in (t.server, t.client)} == {os.SCHED_OTHER}
    cores = os.sched_getaffinity(0)
    core = min(cores)
    for thread in worker_threads(t.server):
        os.sched_setaffinity(thread, {core})
    hogs = [subprocess.Popen(["taskset", "-c", str(core), "sh", "-c", "while :; do :; done"])
            for _ in range(2)]
    try:
        def has_changed():
            wake_all()
            return policies(t.server) == {os.SCHED_OTHER}

        wait_until(has_changed, within(20), "workers that preempt")
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    for thread in worker_threads(t.server):
        os.sched_setaffinity(thread, cores)
    def does_again():
        # Seldom: a machine may be noisy for a moment, and each long wait holds for five seconds.
        time.sleep(0.5)
        return lets_others_finish()

    wait_until(does_again, within(30), "a worker of each that lets others finish again")
    for process in (t.server, t.client):
        assert "sandbox: refused" not in process.log()


def moved(worker):
    return sum(worker.get(name, 0)
               for name in ("bytes_copied", "bytes_bulk_copied", "bytes_spliced"))


@pytest.mark.realtime
def test_two_bulk_streams_use_two_workers(tunnel, service):
    """Two bulk streams run on two workers even if the kernel's hash put both on one, unless one worker has
    both and is not even busy."""
    t = tunnel({"source": service(Source).port}, threads=2)
    for attempt in range(3):
        stop = threading.Event()

        def drain():
            with connect(t.port("source")) as visitor:
                while not stop.is_set() and visitor.recv(1 << 20):
                    pass

        threads = []
        for _ in range(2):
            threads.append(threading.Thread(target=drain))
            threads[-1].start()
            time.sleep(0.3)
        ends = (t.server, t.client)
        used, before = [used_ns(end) for end in ends], [end.metrics() for end in ends]
        time.sleep(1)
        after, used_then = [end.metrics() for end in ends], [used_ns(end) for end in ends]
        stop.set()
        for thread in threads:
            thread.join()
        for end, old, new, began, ended in zip(ends, before, after, used, used_then):
            shares = [moved(b) - moved(a) for a, b in zip(old, new)]
            busiest = max(b - a for a, b in zip(began, ended)) / 1e9
            assert max(shares) > 0
            assert min(shares) > 0.15 * max(shares) or busiest < 0.55, (
                f"{end.name}, {attempt}: {shares}, busy for {busiest:.2f} of the time")


@pytest.mark.realtime
def test_slow_bulk_streams_gather_on_one_worker(tunnel, service):
    """Six streams of 16 MB/s are little for two workers, so one of them takes all; and no relay goes to
    and fro once they are there."""
    t = tunnel({"source": service(Source, rate=16 << 20).port}, threads=2)
    stop = threading.Event()

    def drain():
        with connect(t.port("source")) as visitor:
            while not stop.is_set() and visitor.recv(1 << 20):
                pass

    threads = [threading.Thread(target=drain) for _ in range(6)]
    for thread in threads:
        thread.start()

    def shares(process):
        before = process.metrics()
        time.sleep(0.5)
        return [moved(b) - moved(a) for a, b in zip(before, process.metrics())]

    try:
        for process in (t.server, t.client):
            wait_until(lambda end=process: min(shares(end)) < 0.01 * max(shares(end)), within(20),
                       "bulk on one worker")
        assert t.client.metric("relays_moved_in") > 0, "its channels were on both workers"
        settled = [process.metric("relays_moved_in") for process in (t.server, t.client)]
        time.sleep(1)
        assert [process.metric("relays_moved_in") for process in (t.server, t.client)] == settled
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_big_transfers_are_spliced(tunnel, service):
    """Bulk leaves the copying path; small requests stay on it."""
    t = tunnel({"source": service(Source).port, "echo": service(Echo).port})
    for _ in range(5):
        ping(t.port())
    assert t.server.metric("bytes_copied") > 0
    # The relay serves a fast reader by large copies and a slow one by splice. This visitor reads slowly.
    with connect(t.port("source")) as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        got, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            got += len(visitor.recv(1 << 16))
            if got % (1 << 22) < (1 << 16):
                time.sleep(0.005)
    assert t.server.metric("bytes_spliced") + t.server.metric("bytes_bulk_copied") > got // 2


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's memory is its own")
def test_idle_memory(tunnel, service):
    """An idle process with two workers takes at most 4 MiB."""
    t = tunnel({"echo": service(Echo).port}, threads=2)
    time.sleep(0.5)
    for process in (t.server, t.client):
        assert process.rss_kib() <= 4096, f"{process.name}: {process.rss_kib()} KiB"


def test_idle_process_sleeps(tunnel, service, threads):
    """No timer keeps an idle tunnel awake."""
    t = tunnel({"echo": service(Echo).port}, threads=threads)
    ping(t.port())
    time.sleep(0.5)
    before = (t.server.cpu_seconds(), t.client.cpu_seconds())
    time.sleep(2)
    assert t.server.cpu_seconds() - before[0] <= 0.03 * harness.SLOW
    assert t.client.cpu_seconds() - before[1] <= 0.03 * harness.SLOW


def test_no_descriptor_is_inherited(tunnel, service):
    """Everything but stdin, stdout, stderr is closed on exec."""
    t = tunnel({"echo": service(Echo).port})
    ping(t.port())
    for process in (t.server, t.client):
        for fd in os.listdir(f"/proc/{process.pid}/fd"):
            if int(fd) <= 2:
                continue
            try:
                info = pathlib.Path(f"/proc/{process.pid}/fdinfo/{fd}").read_text()
                target = os.readlink(f"/proc/{process.pid}/fd/{fd}")
            except FileNotFoundError:
                continue  # a connection that has ended since the list was made
            flags = int(re.search(r"flags:\s+(\d+)", info).group(1), 8)
            assert flags & os.O_CLOEXEC, f"{process.name}: fd {fd} ({target}) is left open on exec"


def test_one_visitor_reads_what_another_sends_nothing_of(tunnel, service):
    """Two visitors at once never see each other's bytes, not even on one worker."""
    t = tunnel({"echo": service(Echo).port}, threads=1)
    with connect(t.port()) as one, connect(t.port()) as two:
        for n in range(200):
            one.sendall(b"one%5d" % n)
            two.sendall(b"two%5d" % n)
            assert recv_exact(two, 8) == b"two%5d" % n
            assert recv_exact(one, 8) == b"one%5d" % n
