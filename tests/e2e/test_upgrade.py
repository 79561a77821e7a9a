"""A new program takes over from a running one: nobody is refused, nobody is reset."""

import collections
import hashlib
import os
import pathlib
import re
import signal
import socket
import threading
import time

import pytest

import harness
from datagrams import UdpEcho, UdpVisitor, knock
from harness import OURS, RATHOLE, have, is_listening, scaled, wait_until, within
from limits import Limits
from protocol import connect, how_closed, recv_exact
from services import Echo, EchoForMany, answers, pattern, ping
from upgrades import Successor, Visits, children, upgrade

pytestmark = pytest.mark.ours

CLIENTS = [OURS, pytest.param(RATHOLE, marks=pytest.mark.skipif(
    not have(RATHOLE), reason="no rathole 0.5.0 found (scripts/setup --peers)"))]


@pytest.fixture
def make(tunnel, processes):
    """As the fixture tunnel; t.kept also hands a successor to the fixture processes."""

    def make(services, **kwargs):
        t = tunnel(services, start=False, **kwargs)
        t.kept = processes
        return t

    return make


def gone(process, timeout=10):
    assert process.wait(within(timeout)) == 0


# --- visitors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_visitors_across_an_upgrade(make, service, client):
    t = make({"echo": service(EchoForMany).port}, client=client).start()
    visits = Visits(t.port(), scaled(400, 60, full=2000))
    visits.more(scaled(200, 30, full=2000))
    old, new = upgrade(t)
    gone(old, 5)  # no relay lives for long
    visits.more(scaled(800, 120, full=8000))
    visits.all_served()
    print(f"{visits.begun} visitors, the slowest {visits.slowest:.2f} s")
    assert new.metric("visitors_accepted") > 0
    for reason in ("limit", "queue", "no_client"):
        assert new.metric(f"visitors_refused_{reason}") == 0


def test_visitors_across_two_upgrades(make, service):
    t = make({"echo": service(EchoForMany).port}).start()
    visits = Visits(t.port(), scaled(200, 50))
    visits.more()
    for _ in range(2):
        old, _ = upgrade(t)
        gone(old, 5)
        wait_until(lambda: answers(t.port(), within(10)), within(15), "the service")
        visits.more()
    visits.all_served()


def test_relays_live_on_until_they_end(make, service):
    t = make({"echo": service(Echo).port}).start()
    with connect(t.port()) as before:
        before.settimeout(within(5))
        before.sendall(b"1")
        assert recv_exact(before, 1) == b"1"
        old, _ = upgrade(t)
        ping(t.port(), timeout=within(10))  # served by the new process
        before.sendall(b"2")
        assert recv_exact(before, 1) == b"2"
        assert old.alive()
    gone(old)


def paced_echo(port, seed, size, seconds):
    """Sends size bytes through an echo in about that time; returns whether the same bytes came back."""
    sent, came = hashlib.sha256(), hashlib.sha256()
    with connect(port) as sock:
        sock.settimeout(within(30))

        def send():
            chunks = list(pattern(seed, size))
            for chunk in chunks:
                sock.sendall(chunk)
                sent.update(chunk)
                time.sleep(seconds / len(chunks))
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := sock.recv(1 << 18):
            came.update(data)
        sender.join()
    return sent.digest() == came.digest()


def test_transfers_finish(make, service, transport):
    t = make({"echo": service(Echo).port}, transport=transport).start()
    right = []
    threads = [threading.Thread(target=lambda seed=n: right.append(
        paced_echo(t.port(), seed, scaled(40, 6) << 20, 2))) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: t.server.metric("visitors_accepted") == 4, within(10), "the transfers")
    old, _ = upgrade(t)
    assert not right, "they go on"
    for thread in threads:
        thread.join(within(40))
    assert right == [True] * 4
    gone(old)
    ping(t.port(), timeout=within(10))


def test_drain_timeout_ends_the_old_one(make, service):
    t = make({"echo": service(Echo).port}, server_options={"drain_timeout": 1}).start()
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
        old, new = upgrade(t)
        since = time.monotonic()
        assert how_closed(visitor, within(6))[0] == "rst"
        assert time.monotonic() - since > 0.5
    gone(old)
    assert "drain_timeout is over" in old.log()
    assert new.alive()


def test_a_stopped_old_one_stops_at_once_the_second_time(make, service):
    t = make({"echo": service(Echo).port}).start()
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
        old, _ = upgrade(t)
        old.signal(signal.SIGTERM)
        old.wait_log("a second signal stops at once", within(5))
        assert old.alive()
        old.signal(signal.SIGTERM)
        gone(old, 3)


@pytest.mark.parametrize("before, after", [(1, 4), (4, 1)])
def test_another_number_of_workers(make, service, before, after):
    """Every socket that was handed over is accepted from, and every worker accepts."""
    t = make({"echo": service(EchoForMany).port}, threads=before).start()
    t.threads = after
    (t.workdir / "server.ini").write_text(t.config("server"))
    old, new = upgrade(t)
    gone(old)
    t.wait_ready()
    for _ in range(40):
        ping(t.port(), timeout=within(10))
    accepted = [worker.get("visitors_accepted", 0) for worker in new.metrics()]
    assert len(accepted) == after and sum(accepted) >= 40
    assert sum(count > 0 for count in accepted) >= min(after, 2), accepted


def test_services_wait_for_their_client_and_then_refuse(make, service):
    limits = Limits(upgrade_hold=3)
    t = make({"echo": service(Echo).port}, limits=limits).start()
    t.client.signal(signal.SIGSTOP)
    since = time.monotonic()
    old, _ = upgrade(t)
    gone(old)
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        how, _ = how_closed(visitor, within(limits.upgrade_hold + 4))
        assert how == "rst" and time.monotonic() - since > 0.9 * limits.upgrade_hold
    wait_until(lambda: not is_listening(t.port()), within(2), "all workers to refuse")
    t.client.signal(signal.SIGCONT)
    t.wait_ready(timeout=15)
    ping(t.port(), timeout=within(10))


def test_a_service_that_is_down_stays_down(make, service):
    t = make({"echo": service(Echo).port})
    t.start_server()
    old, _ = upgrade(t)
    gone(old)
    assert is_listening(t.control_port) and not is_listening(t.port())
    t.start_client()
    t.wait_ready()
    ping(t.port())


def test_removed_and_added_services(make, service):
    """The new process reads the file again, and closes the inherited sockets that it has no use for."""
    t = make({"kept": service(Echo).port, "removed": service(Echo).port}).start()
    removed = t.ports.pop("removed")
    t.ports["added"], t.services["added"] = harness.free_port(), t.services.pop("removed")
    (t.workdir / "server.ini").write_text(t.config("server"))
    old, new = upgrade(t)
    gone(old)
    assert "nothing in the configuration is for it" in new.log()
    wait_until(lambda: not is_listening(removed), within(5), "the removed port to be closed")
    t.client.stop()
    t.start_client()
    t.wait_ready()
    ping(t.port("kept")), ping(t.port("added"))


def test_addresses_stay_guarded(make, service, ours):
    """The new process keeps a second server out, as the old one did."""
    t = make({"echo": service(Echo).port})
    t.start_server()
    old, new = upgrade(t)
    gone(old)
    config = t.workdir / "second.ini"
    t.control_port = harness.free_port()
    config.write_text(t.config("server"))
    config.chmod(0o600)
    second = ours("--server", config)
    second.wait_log(r"\[echo\] .*address in use", within(3))
    new.stop()
    second.wait_log(r"\[echo\] .*bound now", within(3))


# --- UDP ----------------------------------------------------------------------------------------


def test_udp_visitors_are_served_on(make, service):
    local = service(UdpEcho)
    t = make({"echo": local.port}, udp=True).start()
    knock(t.port(), visitors=4, timeout=within(15))
    with UdpVisitor(t.port()) as visitor:
        visitor.insist(b"before", within(10))
        visitor.drain()
        old, _ = upgrade(t)
        asked = [b"%d" % n for n in range(20)]  # perhaps before the client is back
        for word in asked:
            visitor.send(word)
        for word in asked:
            assert visitor.receive(within(10)) == word
    gone(old)


# --- what can go wrong --------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program under a path of its own, where a test may put another."""
    path = tmp_path / "program"
    path.symlink_to(harness.BINARIES[OURS])
    monkeypatch.setitem(harness.BINARIES, OURS, path)

    def put(text):
        """Replaces the program by a new file, as a package manager does; None: there is none."""
        path.unlink()
        if text is not None:
            path.write_text(text)
            path.chmod(0o755)

    return put


@pytest.mark.parametrize("text, complaint", [
    (None, "no such file"),
    ("no program", "exec format"),
    ("#!/bin/sh\nexit 3\n", r"ended at its start \(exit code 3\)"),
    ("#!/bin/sh\nkill -9 $$\n", "broke off"),
])
def test_a_new_program_that_fails(make, service, program, text, complaint):
    """A script's interpreter is outside of the sandbox, so it would not even start."""
    t = make({"echo": service(EchoForMany).port}, server_options={"sandbox": "off"}).start()
    visits = Visits(t.port(), scaled(100, 30))
    visits.more()
    program(text)
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log(f"{complaint}.*goes on serving", within(10))
    visits.more()
    visits.all_served()
    assert not children(t.server.pid), "no zombie is left"
    logins = t.server.metric("logins")
    ping(t.port())
    assert logins == 1, "the client has noticed nothing"


def test_a_bad_configuration(make, service):
    t = make({"echo": service(Echo).port}).start()
    (t.workdir / "server.ini").write_text("[server]\nbind_addr = nonsense\n")
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log(r"ended at its start \(exit code 1\).*goes on serving", within(10))
    ping(t.port())
    (t.workdir / "server.ini").write_text(t.config("server"))
    old, _ = upgrade(t)
    gone(old)


def test_one_that_hangs_is_ended_with_us(make, service, program):
    t = make({"echo": service(Echo).port}, server_options={"sandbox": "off"}).start()
    program("#!/bin/sh\nexec sleep 1000\n")
    t.server.signal(signal.SIGUSR2)
    child = wait_until(lambda: children(t.server.pid), within(5), "the new process")[0]
    t.server.signal(signal.SIGUSR2)
    t.server.wait_log("going on already", within(5))
    ping(t.port())
    t.server.signal(signal.SIGTERM)
    gone(t.server)
    assert not pathlib.Path(f"/proc/{child}").exists()


# --- processes that are stopped meanwhile ---------------------------------------------------------


def test_both_are_stopped(make, service):
    """Both stop, at any step, for longer than either waits for the other. Neither counts that time."""
    limits = Limits(upgrade_quiet=0.7)
    t = make({"echo": service(Echo).port}, client_options={"heartbeat_timeout": 60},
             limits=limits).start()
    old = t.server
    old.signal(signal.SIGUSR2)
    child = wait_until(lambda: children(old.pid), within(5), "the new process")[0]
    for pid in (old.pid, child):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.75 * limits.upgrade_quiet)
    for pid in (child, old.pid):
        os.kill(pid, signal.SIGCONT)
    old.wait_log(f"process {child} serves from here on", within(10))
    gone(old)
    t.server = t.kept(Successor(child, old, 0), "successor")
    t.started.append(t.server)
    t.wait_ready(timeout=15)
    ping(t.port(), timeout=within(10))
    assert "does not answer" not in old.log()


@pytest.mark.slow
@pytest.mark.time_limit(90)
def test_the_old_one_is_stopped_for_too_long(make, service):
    """The new process serves without the old one's word. When the old one wakes up, it leaves, and
    does not end the new one."""
    limits = Limits(upgrade_start=4)
    t = make({"echo": service(Echo).port}, limits=limits).start()
    old = t.server
    old.signal(signal.SIGUSR2)
    child = wait_until(lambda: children(old.pid), within(5), "the new process")[0]
    old.signal(signal.SIGSTOP)
    since = time.monotonic()
    old.wait_log("does not answer, serving", within(limits.upgrade_start + 10))
    assert time.monotonic() - since > 0.8 * limits.upgrade_start
    old.signal(signal.SIGCONT)
    old.wait_log(f"process {child} serves from here on", within(10))
    gone(old)
    t.server = t.kept(Successor(child, old, 0), "successor")
    t.started.append(t.server)
    wait_until(lambda: answers(t.port()), within(15), "the service")


# --- what the new process gets ------------------------------------------------------------------


def kinds(process):
    """What its descriptors are, without numbers that differ from run to run."""
    found = collections.Counter()
    for fd in os.listdir(f"/proc/{process.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{process.pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        found[re.sub(r"^/proc/.*/|(?<=socket):.*|(?<=pipe):.*", "", target)] += 1
    return found


def test_no_descriptor_goes_along(make, service):
    t = make({"echo": service(Echo).port, "udp": service(UdpEcho).port}, udp=["udp"])
    t.start_server()
    wait_until(lambda: kinds(t.server)["anon_inode:[io_uring]"] == 2, within(5), "the rings")
    t.server.settled_fds()
    fresh = kinds(t.server)
    for _ in range(2):
        old, new = upgrade(t)
        gone(old)
        new.settled_fds()
        assert kinds(new) == fresh


def test_signals_and_environment(make):
    t = make({"echo": None})
    t.start_server(env={"KEPT": "yes"})
    old, new = upgrade(t)
    gone(old)
    environment = pathlib.Path(f"/proc/{new.pid}/environ").read_bytes().decode().split("\0")
    assert "KEPT=yes" in environment
    assert f"LISTEN_PID={new.pid}" in environment
    again, last = upgrade(t)
    gone(again)
    names = [entry.split("=")[0] for entry in
             pathlib.Path(f"/proc/{last.pid}/environ").read_bytes().decode().split("\0")]
    assert len(names) == len(set(names)), "none is there twice"


def test_as_an_ordinary_user(make, service, nobody):
    user, directory, program = nobody
    t = make({"echo": service(Echo).port})
    config = directory / "server.ini"
    config.write_text(t.config("server"))
    os.chown(config, user, user)
    process = harness.Process([program, "--server", config], directory / "user.log", user=user)
    process.name = "server (nobody)"
    t.started.append(process)
    t.kept(process, process.name)
    t.server = process
    t.start_client()
    t.wait_ready()
    old, new = upgrade(t)
    gone(old)
    assert os.stat(f"/proc/{new.pid}").st_uid in (0, user)  # 0 for a process that is not dumpable
    t.wait_ready()
    ping(t.port(), timeout=within(10))


# --- the client ---------------------------------------------------------------------------------


@pytest.mark.parametrize("server", CLIENTS)
def test_the_client(make, service, server):
    t = make({"echo": service(EchoForMany).port}, server=server).start()
    with connect(t.port()) as before:
        before.settimeout(within(5))
        before.sendall(b"1")
        assert recv_exact(before, 1) == b"1"
        visits = Visits(t.port(), scaled(200, 50)) if server == OURS else None
        if visits:
            visits.more()
        old, new = upgrade(t, "client")
        new.wait_log("control channel established", within(10))
        wait_until(lambda: answers(t.port(), within(3)), within(15), "the service")
        before.sendall(b"2")
        assert recv_exact(before, 1) == b"2"
        assert old.alive()
        if visits:
            visits.more()
            visits.all_served()
            assert t.server.metric("logins") == 2, "the old one does not come back"
    gone(old, 15)


def test_udp_across_an_upgrade_of_the_client(make, service):
    t = make({"echo": service(UdpEcho).port}, udp=True).start()
    knock(t.port(), visitors=4, timeout=within(15))
    with UdpVisitor(t.port()) as visitor:
        visitor.insist(b"before", within(10))
        old, _ = upgrade(t, "client")
        visitor.insist(b"after", within(10))
        gone(old, 15)
        visitor.drain()
        assert visitor.ask(b"alone", within(5)) == b"alone"


def test_a_client_that_fails_is_none(make, service):
    t = make({"echo": service(Echo).port}).start()
    (t.workdir / "client.ini").write_text("[client]\n")
    t.client.signal(signal.SIGUSR2)
    t.client.wait_log(r"ended at its start \(exit code 1\).*goes on serving", within(10))
    ping(t.port())
    t.server.kill9()
    t.start_server()
    wait_until(lambda: answers(t.port()), within(5), "the old client to log in again")
