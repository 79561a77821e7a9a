"""Under a service manager: socket activation, and the messages of sd_notify."""

import os
import signal
import socket
import time

import pytest

import harness
from datagrams import UdpEcho, knock
from harness import OURS, is_listening, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import Echo, ping
from upgrades import Manager, Successor, listener, spawn_activated, upgrade

pytestmark = pytest.mark.ours


@pytest.fixture
def make(tunnel, processes):
    def make(services, **kwargs):
        t = tunnel(services, start=False, **kwargs)
        t.kept = processes
        return t

    return make


@pytest.fixture
def manager():
    manager = Manager()
    yield manager
    manager.close()


# --- socket activation --------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_sockets_of_a_manager(make, service, threads):
    t = make({"echo": service(Echo).port}, threads=threads)
    with listener(t.control_port) as control, listener(t.port()) as visitors:
        with connect(t.port()) as early:  # before server and client run
            early.sendall(b"x")
            spawn_activated(t, "server", {"a": control, "b": visitors})
            t.start_client()
            early.settimeout(within(10))
            assert recv_exact(early, 1) == b"x"
        for _ in range(10):
            ping(t.port(), timeout=within(5))
        # The manager's sockets keep listening, with or without a client, with or without the server.
        t.client.stop()
        t.server.stop()
        for sock in (control, visitors):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        spawn_activated(t, "server", {"a": control, "b": visitors})
        t.start_client()
        ping(t.port(), timeout=within(10))


def test_who_came_before_the_program_is_like_the_others(make, service):
    """Connections from the accept queue of a manager's socket did not inherit our socket options. Their
    urgent bytes stay in place all the same, they end with a FIN, and a killed server resets them."""
    local = service(Echo)
    t = make({"echo": local.port})
    with listener(t.control_port) as control, listener(t.port()) as visitors:
        with connect(t.port()) as first, connect(t.port()) as second:
            for early in (first, second):
                early.sendall(b"a")
                early.send(b"B", socket.MSG_OOB)
                early.sendall(b"c")
            spawn_activated(t, "server", {"a": control, "b": visitors})
            t.start_client()
            for early in (first, second):
                early.settimeout(within(10))
                assert recv_exact(early, 3) == b"aBc"
            first.shutdown(socket.SHUT_WR)
            assert how_closed(first, within(5)) == ("fin", b"")
            t.server.kill9()
            assert how_closed(second, within(5)) == ("rst", b"")


def test_without_a_client_visitors_are_closed(make, service):
    t = make({"echo": service(Echo).port})
    with listener(t.control_port) as control, listener(t.port()) as visitors:
        spawn_activated(t, "server", {"a": control, "b": visitors})
        t.start_client()
        ping(t.port(), timeout=within(10))
        t.client.stop()
        wait_until(lambda: "control channel lost" in t.server.log(), within(5), "the client's end")
        with connect(t.port()) as visitor:
            assert how_closed(visitor, within(5)) == ("rst", b"")


def test_an_upgrade_keeps_the_managers_sockets(make, service):
    t = make({"echo": service(Echo).port}, threads=4)
    with listener(t.control_port) as control, listener(t.port()) as visitors:
        spawn_activated(t, "server", {"a": control, "b": visitors})
        t.start_client()
        ping(t.port(), timeout=within(10))
        old, new = upgrade(t)
        assert old.wait(within(10)) == 0
        ping(t.port(), timeout=within(10))
        new.stop()
        for sock in (control, visitors):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_a_dual_stack_socket_for_any_address(make, service):
    t = make({"echo": service(Echo).port}, visitor_host="0.0.0.0")
    with listener(t.port(), host="::") as visitors:
        spawn_activated(t, "server", {"ListenStream": visitors})
        t.start_client()
        ping(t.port(), timeout=within(10))


def test_udp_sockets_of_a_manager(make, service):
    t = make({"echo": service(UdpEcho).port}, udp=True, threads=2)
    with listener(t.port(), socket.SOCK_DGRAM) as visitors:
        spawn_activated(t, "server", {"udp": visitors})
        t.start_client()
        knock(t.port(), visitors=4, timeout=within(15))


def test_sockets_for_nothing_are_closed(make, service):
    t = make({"echo": service(Echo).port})
    with listener(harness.free_port()) as unused:
        spawn_activated(t, "server", {"unused": unused})
        t.server.wait_log(r"inherited descriptor 3 \(unused\).*closed", within(5))
        t.start_client()
        ping_when_up(t)
        with listener(harness.free_port()) as other:
            client = spawn_activated(t, "client", {"other": other})
            client.wait_log(r"inherited descriptor 3 \(other\).*closed", within(5))


def ping_when_up(t):
    t.wait_ready()
    ping(t.port(), timeout=within(5))


# --- notifications ------------------------------------------------------------------------------


def test_start_and_stop(make, manager):
    t = make({"echo": None})
    t.start_server(env=manager.environment())
    pid, message = manager.wait("READY")
    assert pid == t.server.pid and "workers" in message["STATUS"]
    assert is_listening(t.control_port)
    assert t.server.stop() == 0
    assert manager.wait("STOPPING")[0] == t.server.pid
    assert len(manager.all()) == 2, manager.heard


def test_an_abstract_socket(make):
    manager = Manager(abstract=True)
    t = make({"echo": None})
    t.start_server(env=manager.environment())
    manager.wait("READY")
    manager.close()
    t.server.signal(signal.SIGTERM)  # the notification has no receiver
    assert t.server.wait(within(5)) == 0


def test_an_upgrade(make, service, manager):
    t = make({"echo": service(Echo).port})
    t.start_server(env=manager.environment())
    t.start_client()
    t.wait_ready()
    with connect(t.port()) as visitor:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
        manager.wait("READY")
        old, new = upgrade(t)
        pid, message = manager.wait("RELOADING", since=1)
        assert pid == old.pid
        assert 0 <= time.monotonic() - int(message["MONOTONIC_USEC"]) / 1e6 < within(10)
        pid, message = manager.wait("MAINPID", since=1)
        assert (pid, message["MAINPID"]) == (old.pid, str(new.pid))
        assert manager.wait("READY", since=2)[0] == new.pid
        order = [next(iter(message)) for _, message in manager.all()]
        assert order == ["READY", "RELOADING", "MAINPID", "READY"]
        old.signal(signal.SIGTERM)  # the old process must not notify STOPPING
        old.wait_log("a second signal", within(5))
    assert old.wait(within(10)) == 0
    assert len(manager.all()) == 4, manager.heard
    assert new.stop() == 0
    assert manager.wait("STOPPING")[0] == new.pid


def test_a_failed_upgrade(make, manager):
    t = make({"echo": None})
    t.start_server(env=manager.environment())
    manager.wait("READY")
    (t.workdir / "server.ini").write_text("[server]\n")
    t.server.signal(signal.SIGUSR2)
    manager.wait("RELOADING", since=1)
    pid, message = manager.wait("READY", since=1)
    assert pid == t.server.pid and "failed" in message["STATUS"]
    assert t.server.alive()


def test_the_watchdog(make, manager):
    t = make({"echo": None})
    t.start_server(env=manager.environment(WATCHDOG_USEC="200000"))
    for _ in range(3):
        manager.wait("WATCHDOG", since=len(manager.all()))
    first, new = upgrade(t)
    assert first.wait(within(10)) == 0
    wait_until(lambda: [pid for pid, message in manager.all()
                        if pid == new.pid and "WATCHDOG" in message],
               within(5), "the new process's")
    # A stopped process sends no watchdog message; a process with a stuck worker would send none either.
    new.signal(signal.SIGSTOP)
    time.sleep(0.3)
    before = len(manager.all())
    time.sleep(0.7)
    assert len(manager.all()) == before
    new.signal(signal.SIGCONT)


def test_a_watchdog_for_another_process(make, manager):
    t = make({"echo": None})
    t.start_server(env=manager.environment(WATCHDOG_USEC="100000", WATCHDOG_PID="1"))
    manager.wait("READY")
    time.sleep(0.5)
    assert len(manager.all()) == 1, manager.heard


# --- reload -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, said", [(None, "reload: nothing has changed"),
                                        ("[server]\n", "reload: nothing is changed")])
def test_a_reload_is_told(make, manager, text, said):
    t = make({"echo": None})
    t.start_server(env=manager.environment())
    manager.wait("READY")
    if text:
        (t.workdir / "server.ini").write_text(text)
    t.server.signal(signal.SIGHUP)
    t.server.wait_log(said, within(5))
    manager.wait("READY", since=1)
    assert [next(iter(message)) for _, message in manager.all()] == ["READY", "RELOADING", "READY"]


def test_an_upgrade_waits_for_a_reload(make, service):
    t = make({"echo": service(Echo).port}).start()
    t.ports["more"], t.services["more"] = harness.free_port(), None
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(signal.SIGHUP)
    old, new = upgrade(t)
    assert old.wait(within(10)) == 0
    ping(t.port(), timeout=within(10))
    with t.login("more"):
        wait_until(lambda: is_listening(t.port("more")), within(5), "the service that was added")
    assert new.alive()


def test_reload_starts_a_new_program_in_place(make, service, tmp_path, monkeypatch):
    path = tmp_path / "program"
    path.write_bytes(harness.BINARIES[OURS].read_bytes())
    path.chmod(0o755)
    monkeypatch.setitem(harness.BINARIES, OURS, path)
    t = make({"echo": service(Echo).port}).start()
    t.server.signal(signal.SIGHUP)  # the program has not changed
    time.sleep(0.3)
    assert "upgrade: starting" not in t.server.log()
    other = tmp_path / "program.new"
    other.write_bytes(path.read_bytes())
    other.chmod(0o755)
    other.rename(path)
    old, new = upgrade(t, number=signal.SIGHUP)
    assert isinstance(new, Successor)
    assert old.wait(within(10)) == 0
    assert os.readlink(f"/proc/{new.pid}/exe") == str(path)
    ping(t.port(), timeout=within(10))
