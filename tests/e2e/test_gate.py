"""Clients that log in while strangers flood the control port.

What must hold: a client gets in, whatever the strangers' number, pace and addresses are, and over a
long wire too. Who has to go in whose place is shown by tests/server/test_gate.c.
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
CLIENT = "127.9.9.9"  # where the delayed client's connections come from
STRANGERS = "127.16"
ALL_WITHIN = 5.0  # seconds, for 48 logins
DEADLINE = 5.5  # the longest that a stranger may stay


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
    """What it has done. The flood must have been one: else nothing is shown."""
    flood.signal(signal.SIGTERM)
    assert flood.wait(10) == 0, flood.log()
    return json.loads(flood.log())


@pytest.fixture
def far(tunnel, service, beside):
    """make(options) -> a Tunnel whose server runs and whose client is not started yet, half a
    round trip of 50 ms away."""

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
        # The client's own file names the relay's port in place of the server's.
        t.client_options["remote_addr"] = f"127.0.0.1:{relay_port}"
        return t

    return make


def logged_in(t):
    """How many services listen for visitors. One look for all: the flood needs this core too."""
    return len(listening_ports() & set(t.ports.values()))


def all_in(t, begin):
    deadline = begin + within(ALL_WITHIN)
    while (count := logged_in(t)) < len(t.ports):
        assert time.monotonic() < deadline, (
            f"{count} of {len(t.ports)} logins within {within(ALL_WITHIN):g} s")
        time.sleep(0.05)


def fill(t, beside, rate, **options):
    """A flood that has filled the gate."""
    flood = flood_of(beside, t, rate, **options)
    time.sleep(1.5 if rate >= 200 else 5.5)
    assert flood.alive(), flood.log()
    return flood


def was_one(flood, rate):
    """The flood must have been one, or nothing was shown; and no stranger stayed for long."""
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
    """A login waits a round trip for its first byte here, then needs another to answer; with Noise
    two."""
    t = far(transport=transport)
    log_in_under(t, beside, rate)
    assert t.server.metric("strangers_evicted_spoke") == 0


@pytest.mark.realtime
def test_silent_strangers_and_ratholes_client(far, beside):
    """All its logins are in progress at once, and it does not send its Hello with the connection."""
    if not have(RATHOLE):
        pytest.skip("no rathole")
    log_in_under(far(client=RATHOLE), beside, 500)


def first_words(t):
    """What a stranger says who knows the server's name for a service, or its public key."""
    if t.transport["server"] is None:
        return control_hello("s0").hex()
    return t.transport["client"].first_message().hex()


@pytest.mark.realtime
def test_strangers_who_speak_and_stall(far, beside, transport):
    """They take each other's places, not those of an address that a client came from."""
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
    """They are turned away at once; what they may make the server compute is a budget, in which an
    address that a client came from has no part."""
    noise = noise_peer.Noise("NK")
    t = far(transport=noise)
    log_in_under(t, beside, 500, first=noise.garbage().hex())
    assert t.server.metric("strangers_evicted_known") == 0


@pytest.mark.realtime
def test_strangers_from_the_clients_address(far, beside):
    """Behind one NAT with it: its cap is theirs too, and still who has spoken stays."""
    t = far()
    log_in_under(t, beside, 200, network=CLIENT, addresses=1)


@pytest.mark.realtime
def test_a_login_that_was_put_out_comes_back(tunnel, service):
    """Its place is gone when it wants to go on: the client tries again after half a second."""
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
        stranger = connect(t.control_port)
        assert how_closed(onward, within(2))[0] == "rst"
        reset(held)
        stranger.close()
        begin = time.monotonic()
        again, _ = listener.accept()
        assert time.monotonic() - begin < within(1)
        again.close()
    assert t.server.metric("strangers_evicted_spoke") == 1


# --- what one address is ------------------------------------------------------------------------


def let_in(port, sources, host="127.0.0.1"):
    """Of one visitor from each of these addresses, how many are served; all stay to the end."""
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
    """Until the server has heard that the visitors are gone, but for those that are held."""
    wait_until(lambda: t.server.metric("relays_started") == held + t.server.metric("relays_clean") +
               t.server.metric("relays_aborted"), within(5), f"visitors of {name} to be gone")


def reload(t):
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(signal.SIGHUP)


def test_visitors_are_counted_by_prefix(tunnel, service):
    """127.5.0.0/24 is one address when the file says so, and no longer once it does not."""
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
    # Those who came before it leave nothing behind: with the old one again, all places are free.
    for visitor in held:
        reset(visitor)
    settled(t)
    t.server_options["per_ip_prefix_v4"] = 24
    reload(t)
    wait_until(lambda: let_in(t.port(), inside) == 2, within(5), "the old prefix")


def test_visitors_over_ipv6_are_counted(tunnel, service):
    """::1 is all that loopback has. Its /64 is made of zeros, as is the key of nobody."""
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
