"""Clients that log in while strangers (unauthenticated peers) flood the control port.

What must hold: a client gets in, whatever the strangers' number, pace and addresses are, even over a
slow link. tests/server/test_gate.c shows which stranger is evicted for which.
"""

import json
import signal
import socket
import sys
import time

import pytest

import noise_peer
from harness import (
    OURS, RATHOLE, ROOT, Process, free_port, have, is_listening, listening_ports, wait_until, within,
)
from protocol import connect, control_hello, how_closed, recv_exact, reset
from services import Echo

pytestmark = pytest.mark.ours

SERVICES = 48
RTT_MS = 100
CLIENT = "127.9.9.9"  # source address of the delayed client's connections
STRANGERS = "127.16"
ALL_WITHIN = 5.0  # seconds, for 48 logins
DEADLINE = 5.5  # the longest time that a stranger may stay


@pytest.fixture
def beside(tmp_path, processes):
    """run(name, *arguments) -> a Process of floods.py"""

    def run(name, *arguments):
        program = ROOT / "tests" / "e2e" / "floods.py"
        process = Process([sys.executable, program, name, *arguments],
                          tmp_path / f"{name}{len(list(tmp_path.iterdir()))}.log")
        process.name = name
        return processes(process, name)

    return run


def flood_of(beside, t, rate, addresses=256, first="", network=STRANGERS):
    return beside("flood", "127.0.0.1", str(t.control_port), str(rate), str(addresses), network,
                  first)


def end(flood):
    """Ends the flood and returns its statistics."""
    flood.signal(signal.SIGTERM)
    assert flood.wait(10) == 0, flood.log()
    return json.loads(flood.log())


@pytest.fixture
def far(tunnel, service, beside):
    """make(options) -> a Tunnel with its server started and its client not. Between both stands a relay
    that delays the traffic, for a round trip of RTT_MS."""

    def make(client=OURS, transport=None, services=SERVICES, rtt_ms=RTT_MS, **options):
        local = service(Echo)
        names = {f"s{n}": local.port for n in range(services)}
        t = tunnel(names, start=False, transport=transport, client=client, server=OURS,
                   server_options=options)
        t.start_server()
        relay_port = free_port()
        beside("delay", "127.0.0.1", str(relay_port), "127.0.0.1", str(t.control_port),
               str(rtt_ms), CLIENT)
        wait_until(lambda: is_listening(relay_port), within(5), "the delay to listen")
        # The client's configuration names the relay's port in place of the server's.
        t.client_options["remote_addr"] = f"127.0.0.1:{relay_port}"
        return t

    return make


def logged_in(t):
    """How many services listen for visitors. One look for all saves CPU time, which the flood needs."""
    return len(listening_ports() & set(t.ports.values()))


def all_in(t, begin):
    deadline = begin + within(ALL_WITHIN)
    while (count := logged_in(t)) < len(t.ports):
        assert time.monotonic() < deadline, (
            f"{count} of {len(t.ports)} logins within {within(ALL_WITHIN):g} s")
        time.sleep(0.05)


def fill(t, beside, rate, **options):
    """Starts a flood and waits until it has filled the gate."""
    flood = flood_of(beside, t, rate, **options)
    time.sleep(1.5 if rate >= 200 else 5.5)
    assert flood.alive(), flood.log()
    return flood


def was_one(flood, rate):
    """Asserts that the flood reached its rate (else the test shows nothing) and no stranger stayed long."""
    done = end(flood)
    assert done["sent"] / done["seconds"] > 0.4 * rate, f"no flood of {rate}/s: {done}"
    assert done["oldest"] < within(DEADLINE), f"a stranger stayed {done['oldest']:.1f} s"


def log_in_under(t, beside, rate, **options):
    flood = fill(t, beside, rate, **options)
    begin = time.monotonic()
    t.start_client()
    all_in(t, begin)
    was_one(flood, rate)


@pytest.mark.realtime
@pytest.mark.parametrize("rate", [60, 200, 500, 2000])
def test_silent_strangers_from_everywhere(far, beside, transport, rate):
    """At the server a login's first byte comes after one round trip; the answer takes one more, with
    Noise two."""
    t = far(transport=transport)
    log_in_under(t, beside, rate)
    assert t.server.metric("strangers_evicted_spoke") == 0


@pytest.mark.realtime
def test_silent_strangers_and_ratholes_client(far, beside):
    """rathole's client makes all its logins at once and does not send its hello with the connection."""
    if not have(RATHOLE):
        pytest.skip("no rathole")
    log_in_under(far(client=RATHOLE), beside, 500)


def first_words(t):
    """The first bytes of a stranger that knows a service's name or, with Noise, the server's public key."""
    if t.transport["server"] is None:
        return control_hello("s0").hex()
    return t.transport["client"].first_message().hex()


@pytest.mark.realtime
def test_strangers_who_speak_and_stall(far, beside, transport):
    """Such strangers evict each other, but no peer from an address that a client logged in from."""
    t = far(transport=transport)
    begin = time.monotonic()
    t.start_client()
    all_in(t, begin)
    t.client.stop()
    flood = fill(t, beside, 200, first=first_words(t), addresses=10000)
    begin = time.monotonic()
    t.start_client()
    all_in(t, begin)
    was_one(flood, 200)
    assert t.server.metric("strangers_evicted_spoke") > 0
    assert t.server.metric("strangers_evicted_known") == 0
    assert t.client.metric("logins_failed") == 0


@pytest.mark.realtime
def test_strangers_whose_handshakes_are_wrong(far, beside):
    """The server rejects such strangers at once. A budget limits the handshakes it computes for them;
    addresses that a client logged in from are exempt."""
    noise = noise_peer.Noise("NK")
    t = far(transport=noise)
    log_in_under(t, beside, 500, first=noise.garbage().hex())
    assert t.server.metric("strangers_evicted_known") == 0


@pytest.mark.realtime
def test_strangers_from_the_clients_address(far, beside):
    """Strangers behind the client's NAT share its limit per address, but a peer that has spoken stays."""
    t = far()
    log_in_under(t, beside, 200, network=CLIENT, addresses=1)


@pytest.mark.realtime
def test_a_login_that_was_put_out_comes_back(tunnel, service):
    """The server evicts a login that has been in progress for 2 s, and not before, because a stranger
    waits: the client tries again within a second."""
    t = tunnel({"echo": service(Echo).port}, start=False,
               server_options={"max_pending_handshakes": 1})
    t.start_server()
    relay_port = free_port()
    t.client_options["remote_addr"] = f"127.0.0.1:{relay_port}"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", relay_port))
        listener.listen()
        t.start_client()
        held, _ = listener.accept()
        onward = connect(t.control_port)
        onward.sendall(recv_exact(held, 37))
        recv_exact(onward, 37)
        begin = time.monotonic()
        stranger = connect(t.control_port)
        assert how_closed(onward, within(4))[0] == "rst"
        assert time.monotonic() - begin > 1.5
        reset(held)
        stranger.close()
        begin = time.monotonic()
        again, _ = listener.accept()
        assert time.monotonic() - begin < within(1)
        again.close()
    assert t.server.metric("strangers_evicted_spoke") == 1


# --- limits per address -------------------------------------------------------------------------


def let_in(port, sources, host="127.0.0.1"):
    """Connects one visitor from each address, all at once; returns how many of them are served."""
    visitors = [connect(port, host=host, source=source) for source in sources]
    served = 0
    try:
        for visitor in visitors:
            try:
                visitor.sendall(b"x")
                served += visitor.recv(1) == b"x"
            except OSError:
                pass
    finally:
        for visitor in visitors:
            reset(visitor)
    return served


def settled(t, name="echo", held=0):
    """Waits until the server has noticed that all visitors but the `held` ones are gone."""
    wait_until(lambda: t.server.metric("relays_started") == held + t.server.metric("relays_clean") +
               t.server.metric("relays_aborted"), within(5), f"visitors of {name} to be gone")


def reload(t):
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(signal.SIGHUP)


def test_visitors_are_counted_by_prefix(tunnel, service):
    """127.5.0.0/24 counts as one address while the configuration says so, and not after a reload without."""
    t = tunnel({"echo": service(Echo).port}, server_options={"per_ip_prefix_v4": 24},
               service_options={"echo": {"max_connections_per_ip": 2}})
    inside, outside = [f"127.5.0.{n}" for n in range(1, 6)], ["127.5.1.1", "127.5.1.2"]
    assert let_in(t.port(), inside + outside) == 4
    settled(t)
    held = [connect(t.port(), source="127.5.0.7") for _ in range(2)]
    for visitor in held:
        visitor.sendall(b"x")
        assert recv_exact(visitor, 1) == b"x"
    t.server_options["per_ip_prefix_v4"] = 32
    reload(t)
    wait_until(lambda: let_in(t.port(), inside) == 5, within(5), "the new prefix")
    settled(t, held=len(held))
    assert let_in(t.port(), ["127.5.0.1"] * 5) == 2
    # Visitors from before the reload leave no count behind: with the old prefix, all places are free.
    for visitor in held:
        reset(visitor)
    settled(t)
    t.server_options["per_ip_prefix_v4"] = 24
    reload(t)
    wait_until(lambda: let_in(t.port(), inside) == 2, within(5), "the old prefix")


def test_visitors_over_ipv6_are_counted(tunnel, service):
    """Loopback has only ::1. Its /64 is all zeros, and so is the key that means "no address"."""
    t = tunnel({"echo": service(Echo).port}, visitor_host="[::1]",
               service_options={"echo": {"max_connections_per_ip": 2}})
    assert let_in(t.port(), ["::1"] * 5, host="::1") == 2
    settled(t)
    assert let_in(t.port(), ["::1"] * 5, host="::1") == 2


def test_a_mapped_address_counts_as_ipv4(tunnel, service):
    t = tunnel({"echo": service(Echo).port}, visitor_host="[::]",
               service_options={"echo": {"max_connections_per_ip": 2}})
    sources = ["127.6.0.1", "127.6.0.2", "127.6.0.3"]
    assert let_in(t.port(), sources * 3) == 6


def test_strangers_are_counted_by_prefix(tunnel, service):
    t = tunnel({"s": None}, start=False, server_options={
        "per_ip_prefix_v4": 24, "max_pending_handshakes_per_ip": 10, "handshake_timeout": 60})
    t.start_server()
    strangers = [connect(t.control_port, source=f"127.7.0.{1 + n}") for n in range(40)]
    try:
        wait_until(lambda: t.server.metric("strangers_evicted_per_ip") == 30, within(5),
                   "thirty of forty to be gone")
    finally:
        for stranger in strangers:
            stranger.close()
