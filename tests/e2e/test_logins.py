"""Many clients that log in at once: after a cold start, and after the server's restart. The load is
bench/login_load.c, which has the project's own handshakes and back-off.

What must hold: each is in once, none is evicted from the gate for another, and nothing is left. How fast it
is, bench/run logins says.
"""

import json
import pathlib
import signal
import time

import pytest

from harness import BINARIES, OURS, Process, free_ports, wait_until, within
from protocol import connect, control_hello, how_closed, recv_exact
from services import Echo
from test_ranges import Ranged

pytestmark = pytest.mark.ours

CLIENTS = 25
SERVICES = 8
LOAD = pathlib.Path(BINARIES[OURS]).parent / "bench" / "login_load"
# Of all tests here, and before any test runs: later there are not so many adjacent ones.
FIRST_PORT = free_ports(CLIENTS * SERVICES)


@pytest.fixture
def herd(tunnel, service, processes, tmp_path):
    """herd(*options, ...) -> (a Ranged whose server runs, the load)"""

    def start(*options, transport=None, **server_options):
        if not LOAD.exists():
            pytest.skip("bench/login_load is not built")
        r = Ranged(tunnel, ports=CLIENTS * SERVICES, first=FIRST_PORT, transport=transport,
                   server_options=server_options)
        r.serve(0, service(Echo).port)
        r.t.start_server()
        config = tmp_path / "load.ini"
        config.write_text(r.t.config("client"))
        config.chmod(0o600)
        load = Process([LOAD, config, "--clients", CLIENTS, "--services", SERVICES, "--first", r.first,
                        "--retry", 500, "--seconds", int(within(60)), *options], tmp_path / "load.log")
        load.name = "load"
        return r, processes(load, "load")

    return start


def round_of(load, number):
    """Waits for the end of the load's round; returns what it says."""

    def lines():
        return [json.loads(line) for line in load.log().splitlines() if line.startswith("{")]

    wait_until(lambda: len(lines()) > number or not load.alive(), within(60), "all to be in")
    assert len(lines()) > number, load.log()
    assert lines()[number]["up"] == CLIENTS * SERVICES, lines()[number]
    return lines()[number]


def none_was_put_out(server, result):
    assert (result["put_out"], result["timed_out"], result["rejected"]) == (0, 0, 0), result
    assert server.metric("strangers_evicted") == 0
    assert server.metric("logins") == CLIENTS * SERVICES


@pytest.mark.realtime
def test_all_come_back_at_once(herd, transport):
    r, load = herd("--rounds", 2, transport=transport, max_pending_handshakes=8)
    cold = round_of(load, 0)
    none_was_put_out(r.t.server, cold)
    assert cold["attempts"] == CLIENTS * SERVICES
    assert r.t.server.metric("strangers_waited") > 0, "the gate was never full, so this shows nothing"
    r.t.kill_server()
    r.t.start_server()
    none_was_put_out(r.t.server, round_of(load, 1))


@pytest.mark.realtime
def test_all_come_back_from_one_address(herd):
    """Behind one NAT the limit per address evicts some; they come again."""
    r, load = herd("--rounds", 2, "--one-address", max_pending_handshakes_per_ip=8)
    round_of(load, 0)
    r.t.kill_server()
    r.t.start_server()
    round_of(load, 1)
    assert r.t.server.metric("logins") == CLIENTS * SERVICES


def test_nothing_is_left_of_them(herd):
    r, load = herd("--rounds", 2)
    round_of(load, 0)
    load.signal(signal.SIGTERM)
    load.wait(10)
    wait_until(lambda: r.t.server.fds() < 100, within(20), "the services to be gone")
    assert r.t.server.metric("control_channels_lost") == CLIENTS * SERVICES


# --- the lobby ----------------------------------------------------------------------------------


def speak(port, name, source):
    sock = connect(port, source=source)
    sock.sendall(control_hello(name))
    return sock


def test_a_newcomer_gets_the_next_place(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"max_pending_handshakes": 2})
    t.start_server()
    inside = [speak(t.control_port, "echo", f"127.8.0.{n}") for n in (1, 2)]
    for sock in inside:
        recv_exact(sock, 37)
    newcomer = speak(t.control_port, "echo", "127.8.0.3")
    wait_until(lambda: t.server.metric("strangers_waited") == 1, within(2), "the newcomer to wait")
    inside[0].close()
    recv_exact(newcomer, 37)
    assert t.server.metric("strangers_evicted") == 0
    newcomer.close()
    inside[1].close()


def test_who_waits_is_closed_at_the_end(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, start=False, server_options={"max_pending_handshakes": 1})
    t.start_server()
    inside = speak(t.control_port, "echo", "127.8.0.1")
    recv_exact(inside, 37)
    newcomer = speak(t.control_port, "echo", "127.8.0.2")
    wait_until(lambda: t.server.metric("strangers_waited") == 1, within(2), "the newcomer to wait")
    begin = time.monotonic()
    assert t.server.stop() == 0
    assert time.monotonic() - begin < within(2)
    # It may have got the place that the other one's worker gave up first, and a Hello with it.
    how, answer = how_closed(newcomer, within(2))
    assert how != "open" and len(answer) in (0, 37)
    newcomer.close()
    inside.close()
