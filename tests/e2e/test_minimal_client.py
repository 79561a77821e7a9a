"""examples/minimal_client.py, the client that docs/protocol.md refers to, at our server and at rathole's."""

import contextlib
import pathlib
import socket
import sys

import pytest

from capabilities import NO_RATHOLE
from harness import OURS, RATHOLE, Process, have, is_listening, wait_until, within
from protocol import connect, how_closed, recv_exact
from services import AfterEof, Digest, Echo, Resetter, answers, burst, digest_of, pattern, ping, transfer

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "minimal_client.py"


@pytest.fixture(params=[OURS, RATHOLE])
def served(request, tunnel, tmp_path, processes):
    """served(local port) -> (a Tunnel without its client, the example's Process)"""
    if not have(request.param):
        pytest.skip(NO_RATHOLE)
    started = []

    def make(local, token=None):
        t = tunnel({"s": local}, start=False, server=request.param, client=request.param)
        t.start_server()
        argv = [sys.executable, EXAMPLE, f"127.0.0.1:{t.control_port}", "s", token or t.token,
                f"127.0.0.1:{local}"]
        example = Process(argv, tmp_path / "example.log")
        example.name = "minimal_client.py"
        processes(example, "minimal_client.py")
        started.append(example)
        return t, example

    yield make
    for example in started:
        assert example.alive(), example.log()
        assert "Traceback" not in example.log()
        example.kill9()


def is_served(t):
    wait_until(lambda: is_listening(t.port("s")) and answers(t.port("s"), 2), within(10),
               "the example to serve")


def test_one_visitor(served, service):
    t, _ = served(service(Echo).port)
    is_served(t)
    with connect(t.port("s")) as visitor:
        visitor.sendall(b"hello")
        assert recv_exact(visitor, 5) == b"hello"


def test_many_visitors(served, service):
    t, _ = served(service(Echo).port)
    is_served(t)
    for _ in range(3):
        burst(t.port("s"), 30, within(10))


def test_transfers(served, service):
    t, _ = served(service(Digest).port)
    wait_until(lambda: is_listening(t.port("s")), within(10), "the service's port")
    for n in range(5):
        transfer(t.port("s"), n, 300_000 * n, 200_000 * n)


def test_half_close(served, service):
    t, _ = served(service(AfterEof, 100_000).port)
    wait_until(lambda: is_listening(t.port("s")), within(10), "the service's port")
    with connect(t.port("s")) as visitor:
        for part in pattern(1, 50_000):
            visitor.sendall(part)
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of(pattern(1, 50_000))
        assert len(recv_exact(visitor, 100_000)) == 100_000 and visitor.recv(1) == b""


def test_cut_transfer(served, service):
    """The example resets the channel of a service that is cut; our server tells the visitor."""
    t, _ = served(service(Resetter, 4, b"half").port)
    wait_until(lambda: is_listening(t.port("s")), within(10), "the service's port")
    with connect(t.port("s")) as visitor:
        visitor.sendall(b"ping")
        how, data = how_closed(visitor, within(10))
    assert data in (b"half", b"")  # a reset may overtake it
    assert how == "rst" or t.impl["server"] == RATHOLE


def test_server_restarted(served, service):
    t, _ = served(service(Echo).port)
    is_served(t)
    t.kill_server()
    t.start_server()
    is_served(t)
    ping(t.port("s"))


def test_wrong_token(served, service):
    t, example = served(service(Echo).port, "wrong")
    wait_until(lambda: "login refused: the token is wrong" in example.log(), within(10), "the refusal")
    with contextlib.suppress(ConnectionError), connect(t.port("s")) as visitor:
        assert how_closed(visitor, within(5))[1] == b""


def test_unknown_service(served, service, tmp_path, processes):
    t, _ = served(service(Echo).port)
    argv = [sys.executable, EXAMPLE, f"127.0.0.1:{t.control_port}", "other", t.token, "127.0.0.1:1"]
    other = processes(Process(argv, tmp_path / "other.log"), "other")
    wait_until(lambda: "login refused: the server has no such service" in other.log(), within(10),
               "the refusal")
