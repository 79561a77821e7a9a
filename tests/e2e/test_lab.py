"""Paths that lose packets, are narrow, slow or lead elsewhere after a while, and peers that leave
half-open connections behind: TCP, Noise, TLS and UDP services between machines of their own (lab.py).

The scenarios run at the same time, with times a fifth of the real ones (labs.py).
"""

import threading
import time

import pytest

import lab
import labs
import noise_peer
from capabilities import is_able
from datagrams import UdpEcho, UdpVisitor, payload
from dns import Dns
from harness import FULL, wait_until, within
from lab import FIN_OR_RST, SERVER_BACK, SERVER_FRONT, SERVICE_PORT, UDP, UDP_PORT
from labs import BUSY_S, HEARTBEAT_S, USUAL, Rover, ask, at_work, judge, silent_resets
from protocol import reset
from services import Broken, transfer
from tls_peer import Tls

LOSSES = {1: 1 << 20, 5: 256 << 10, 20: 16 << 10}  # percent: bytes of a transfer
LOSSY_S = 600 if FULL else 4
TIMES = 10 if FULL else 1                   # for sizes that are not in docs/robustness.md
HALF_OPEN = 200 if FULL else 20

pytestmark = [pytest.mark.slow, pytest.mark.ours, pytest.mark.time_limit(120)]


# --- what visitors do -------------------------------------------------------------------------


def exchange(some_lab, seed, up, down, timeout=30, port=SERVICE_PORT):
    """One transfer in each direction, checked by digests: see services.transfer. Returns the seconds."""
    begun = time.monotonic()
    with some_lab.inside("visitor"):
        transfer(port, seed, up, down, host=SERVER_FRONT, timeout=within(timeout), greeting=b"X")
    return time.monotonic() - begun


def exchanges(some_lab, size, timeout=30):
    """Four at once; returns the seconds of the last."""
    errors, seconds = [], []

    def run(seed):
        try:
            seconds.append(exchange(some_lab, seed, size, size, timeout))
        except (OSError, AssertionError, Broken) as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return max(seconds)


def udp_visitor(some_lab):
    with some_lab.inside("visitor"):
        return UdpVisitor(UDP_PORT, SERVER_FRONT)


SIZES = (1, 500, 519, 520, 548, 549, 1024, 1371, 1372, 1373, 1472, 1473, 2048, 9000, 65507)


def echo_sizes(some_lab, sizes=SIZES):
    """Datagrams of these sizes come back whole; then bursts of them, which are sent in one call."""
    with udp_visitor(some_lab) as visitor:
        visitor.insist(b"there?", within(15))
        visitor.drain()
        for number, size in enumerate(sizes):
            data = payload(1, number, size)
            assert visitor.insist(data, within(10), every=1) == data, f"datagram of {size} bytes"
            visitor.drain(0.05)
        for size in (400, 600, 1400):
            burst = [payload(2, number, size) for number in range(16)]
            for data in burst:
                visitor.send(data)
            got = [visitor.receive(within(5)) for _ in burst]
            assert got == burst, f"{sum(each is None for each in got)} of 16 of {size} bytes are lost"


def one_session_each(some_lab):
    """No session has ended since the start, no relay was reset for silence."""
    assert some_lab.sessions() == len(some_lab.services), "a session was lost"
    assert silent_resets(some_lab) == [0, 0]


# --- scenarios: each runs in a thread ---------------------------------------------------------


def loss(some_lab, service, percent):
    """A17. At 20 % TCP itself gives connections up, and a visitor sees that as a reset. It may take long: if
    the service has left, the rest of its answer is with the client's kernel, which tries for up to 102 s and
    once more after a pause of up to 120 s. An everyday run does not wait for that."""
    hows, patience_s = {"rst", "timeout"}, 60
    if FULL and percent == 20:
        hows, patience_s = {"rst"}, 240
    idle = some_lab.visit()
    idle.sendall(b"E")
    ask(idle)
    some_lab.lose(percent)
    until, done, broken = time.monotonic() + LOSSY_S, 0, 0
    while time.monotonic() < until or not done:
        try:
            exchange(some_lab, done, LOSSES[percent], LOSSES[percent], patience_s)
            done += 1
            time.sleep(0.02)
        except (Broken, ConnectionError) as error:  # or no session at the moment
            assert percent == 20 and getattr(error, "how", "rst") in hows, error
            broken += 1
            time.sleep(0.5)
    some_lab.heal()
    if percent <= 5:
        one_session_each(some_lab)
    if some_lab.sessions() == 1 and silent_resets(some_lab) == [0, 0]:
        ask(idle)
    idle.close()
    wait_until(lambda: works(some_lab), within(10), "the service after the loss")
    return {"transfers": done, "broken": broken, "sessions": some_lab.sessions()}


def works(some_lab):
    try:
        exchange(some_lab, 3, 100, 100, 5)
    except (OSError, AssertionError, Broken):
        return False
    return True


def slow_path(some_lab, service):
    """A path of 8 Mbit/s that is always full: heartbeats pass, questions are answered."""
    some_lab.limit_rate(8000)
    idle = some_lab.visit()
    idle.sendall(b"E")
    seconds = exchanges(some_lab, TIMES * (200 << 10), 60)
    ask(idle)
    idle.close()
    one_session_each(some_lab)
    return {"seconds": seconds}


def small_packets(some_lab, service):
    """MTU 576 on the links at the server, then between two routers who say so by ICMP."""
    ends = [("server", "back"), ("near", "back"), ("server", "front"), ("visitor", "front")]
    some_lab.set_mtu(576, *ends)
    exchanges(some_lab, TIMES * (256 << 10))
    echo_sizes(some_lab)
    some_lab.set_mtu(1500, *ends)
    some_lab.narrow_middle(576)
    exchanges(some_lab, TIMES * (256 << 10))
    echo_sizes(some_lab)
    one_session_each(some_lab)


def black_hole(some_lab, service):
    """The path has an MTU of 1,400 and nobody says so. Small messages pass; relays that fill packets are
    reset after the limit of a silent end, and the session goes on. With tcp_mtu_probing both ends find the
    MTU out; even if they try small sizes from the start, the first flight of some connections is lost."""
    visitors = at_work(some_lab)
    some_lab.narrow_middle(1400, is_black_hole=True)
    since = time.monotonic()
    visitors.run_until(since + 1)
    exchange(some_lab, 1, 100, 100)
    while time.monotonic() - since < within(BUSY_S) and len(visitors.ends) < 2:
        visitors.step()
    found = {f"{name} reset after": visitors.check_reset(name, since, BUSY_S)
             for name in ("download", "upload")}
    ask(visitors.socks["idle"])
    visitors.close()
    exchange(some_lab, 2, 100, 100)
    assert some_lab.sessions() == len(some_lab.services)
    for space in ("server", "client"):
        some_lab.set_sysctl(space, "tcp_mtu_probing", 1)
        if not FULL:
            some_lab.set_sysctl(space, "tcp_retries1", 1)  # it begins 1.4 s after a loss and not 6.2 s
    found["64 KiB with probing"] = exchange(some_lab, 1, 64 << 10, 64 << 10)
    echo_sizes(some_lab)
    for space in ("server", "client"):
        some_lab.set_sysctl(space, "tcp_mtu_probing", 2)
    some_lab.client.kill9()
    some_lab.client = some_lab.in_main(lambda: some_lab.spawn("client", "client2"))
    some_lab.wait_sessions(len(some_lab.services), 10)
    found["64 KiB with probing from the start"] = exchange(some_lab, 1, 64 << 10, 64 << 10)
    echo_sizes(some_lab)
    if FULL:
        some_lab.narrow_middle(576, is_black_hole=True)
        found["64 KiB over 576"] = exchange(some_lab, 1, 64 << 10, 64 << 10)
    # The MTU of the client's route is enough, for both directions, because its SYN says the MSS.
    some_lab.narrow_middle(1400, is_black_hole=True)
    for space in ("server", "client"):
        some_lab.set_sysctl(space, "tcp_mtu_probing", 0)
    some_lab.run("client", "ip", "route", "replace", "10.77.2.0/24", "via", "10.77.4.254", "mtu", "1400")
    some_lab.client.kill9()
    some_lab.client = some_lab.in_main(lambda: some_lab.spawn("client", "client3"))
    some_lab.wait_sessions(len(some_lab.services), 10)
    found["64 KiB with a route's MTU"] = exchange(some_lab, 1, 64 << 10, 64 << 10)
    echo_sizes(some_lab)
    return found


def service_in_a_narrow_place(some_lab, service):
    """The path from the client to the UDP service has an MTU of 576. The router's word about a datagram
    that was too large costs no other one."""
    some_lab.narrow_middle(576)
    with udp_visitor(some_lab) as visitor:
        visitor.insist(b"there?", within(15))
        visitor.drain()
        for number in range(4):
            some_lab.run("client", "ip", "route", "flush", "cache")
            visitor.send(payload(1, number, 1200))  # the one that the router tells us about
            visitor.send(b"-")  # one call may send both, and then both are lost; not the next ones
            burst = [payload(2, 8 * number + each, 100) for each in range(4)]
            for data in burst:
                visitor.send(data)
            got = [visitor.receive(within(5)) for _ in burst]
            if b"-" in got:
                got.remove(b"-")
                got.append(visitor.receive(within(5)))
            assert got == burst, f"{sum(each is None for each in got)} of 4 small datagrams are lost"


def lost_probe(some_lab, service):
    """A short cut while nothing is said takes the first keepalive probe away; the session lives on."""
    time.sleep(PROBED_S - 2 if FULL else PROBED_S - 0.5)
    some_lab.cut(lab.BOTH)
    time.sleep(4 if FULL else 1.5)
    some_lab.heal()
    time.sleep(8 if FULL else 3)
    one_session_each(some_lab)
    assert "channel lost" not in some_lab.server.log()


def half_open(some_lab, service):
    """A22: idle visitors who vanish, whose resets are lost, and a local service that vanishes. Keepalive
    finds the relays of the first service; those of the second end by idle_timeout."""
    def idle_ones(count, port):
        visitors = []
        for _ in range(count):
            visitors.append(some_lab.visit(port=port))
            visitors[-1].sendall(b"E")
            ask(visitors[-1])
        return visitors

    def reaped(counts, bound):
        """How long it takes until these many more relays have ended so."""
        since = time.monotonic()
        want = {name: before[name] + count for name, count in counts.items()}
        wait_until(lambda: all(some_lab.server.metric(name) >= count for name, count in want.items()),
                   within(bound), lambda: f"{counts}: {some_lab.server.metrics()}")
        wait_until(lambda: service.open_count() == 0, within(5), "the ends of the local service")
        # The pools may ask for a few channels more.
        for process, level in zip((some_lab.server, some_lab.client), levels):
            process.wait_fds(level + 8, within(5))
        return time.monotonic() - since

    def count():
        return {name: some_lab.server.metric(name) for name in ("relays_aborted", "relays_idle_timeout")}

    found = {}
    for visitor in idle_ones(HALF_OPEN, SERVICE_PORT) + idle_ones(HALF_OPEN, SERVICE_PORT + 1):
        visitor.close()
    wait_until(lambda: service.open_count() == 0, within(5), "the end of the first crowd")
    levels = [process.settled_fds() for process in (some_lab.server, some_lab.client)]
    first = len(service.records)
    before = count()
    visitors = idle_ones(HALF_OPEN, SERVICE_PORT) + idle_ones(HALF_OPEN, SERVICE_PORT + 1)
    some_lab.filter("server", ["input iifname front drop", "output oifname front drop"])
    both = {"relays_aborted": 2 * HALF_OPEN, "relays_idle_timeout": HALF_OPEN}  # these are aborted, too
    found["vanished"] = reaped(both, REAPED_S)
    some_lab.heal()
    for visitor in visitors:
        visitor.close()
    before = count()
    visitors = idle_ones(HALF_OPEN, SERVICE_PORT)
    some_lab.filter("server", [f"input iifname front {FIN_OR_RST}"])
    for visitor in visitors:
        reset(visitor)
    found["reset unheard"] = reaped({"relays_aborted": HALF_OPEN}, REAPED_S)
    some_lab.heal()
    before = count()
    visitors = idle_ones(HALF_OPEN, SERVICE_PORT)
    some_lab.filter("client", ["input iifname behind drop", "output oifname behind drop"])
    since = time.monotonic()
    for visitor in visitors:
        visitor.settimeout(within(REAPED_S))
        with pytest.raises(ConnectionResetError):
            visitor.recv(1)
        visitor.close()
    found["service vanished"] = time.monotonic() - since
    some_lab.filter("client", [])
    ends = [record.end for record in service.records[first:]]
    assert "fin" not in ends, "a half-open connection ended as if it were complete"
    for visitor in idle_ones(1, SERVICE_PORT) + idle_ones(1, SERVICE_PORT + 1):
        visitor.close()
    one_session_each(some_lab)
    return found


def addresses(some_lab, service):
    """The client's address is replaced, then the server's, which DNS says only later; the visitor's too."""
    found = {}
    visitors = at_work(some_lab)
    with udp_visitor(some_lab) as caller:
        with some_lab.inside("visitor"):
            rover = Rover(SERVER_FRONT, UDP_PORT)
        caller.insist(b"there?", within(10))
        rover.insist(b"and me?", within(10))
        peers = len(some_lab.udp_echo.peers)
        some_lab.move_client()
        since = time.monotonic()
        visitors.run_until(since + BUSY_S)
        for name in ("download", "upload", "idle"):
            found[f"client moved: {name}"] = visitors.check_reset(name, since, BUSY_S)
        some_lab.wait_sessions(4, 1)
        visitors.close()
        exchange(some_lab, 1, 100000, 100000)
        caller.insist(b"there?", within(10))
        # A new address of a visitor is a new visitor; the one before is forgotten after udp_timeout.
        some_lab.move("visitor", "front", lab.VISITOR, lab.VISITOR_LATER)
        assert rover.insist(b"from elsewhere", within(5)) == b"from elsewhere"
        assert len(some_lab.udp_echo.peers) > peers
        rover.close()
    since = time.monotonic()
    some_lab.names.is_silent = True
    some_lab.move("server", "back", SERVER_BACK, lab.SERVER_LATER)
    time.sleep(HEARTBEAT_S / 2)
    some_lab.names.names["server.test"] = [lab.SERVER_LATER]
    some_lab.names.is_silent = False
    some_lab.wait_sessions(6, HEARTBEAT_S + 10)
    found["server moved"] = time.monotonic() - since
    exchange(some_lab, 2, 100000, 100000)
    return found


def all_servers(some_lab, service):
    """A26, with `servers = all`: look-ups of one name hang for ever; the session with the other server goes
    on, and when that one moves, the client follows within resolve_interval."""
    time.sleep(within(3))  # longer than heartbeat_timeout
    assert some_lab.names.count("dead.test") > 0
    assert some_lab.sessions() == 1, "the look-up has delayed the heartbeats"
    ask_all = some_lab.visit()
    ask_all.sendall(b"E")
    ask(ask_all)
    some_lab.run("server", "ip", "address", "add", f"{lab.SERVER_LATER}/24", "dev", "back")
    some_lab.names.names["server.test"] = [lab.SERVER_LATER]
    since = time.monotonic()
    some_lab.wait_sessions(2, 1 + 1)
    found = {"session after": time.monotonic() - since}
    ask(ask_all)  # open relays go on
    ask_all.close()
    exchange(some_lab, 2, 100000, 100000)
    return found


def with_udp(some_lab):
    with some_lab.inside("client"):
        some_lab.udp_echo = UdpEcho(lab.LOCAL_PORT)
    return [some_lab.udp_echo]


def with_udp_at_the_server(some_lab):
    with some_lab.inside("server"):
        return [UdpEcho(lab.LOCAL_PORT, host=SERVER_BACK)]


def with_names(some_lab, **silent):
    with some_lab.inside("client"):
        some_lab.names = Dns(some_lab.workdir, names={"server.test": [SERVER_BACK]}, **silent)
    some_lab.files = some_lab.names.files
    return [some_lab.names]


def with_second_port(some_lab):
    for space in ("server", "client"):
        if not FULL:
            some_lab.set_sysctl(space, "tcp_keepalive_probes", 2)
    with some_lab.inside("service"):
        second = labs.Anything(lab.LOCAL_PORT + 1, host=lab.SERVICE)
    return [second]


TRANSPORTS = {"tcp": None, "noise": noise_peer.Noise("NK")}
if is_able("tls"):
    TRANSPORTS["tls"] = Tls()
NARROW = {"services": UDP, "middle": True, "prepare": with_udp}
KEEPALIVE = {} if FULL else {"keepalive_secs": 1, "keepalive_interval": 1}
# Nine unanswered probes by default.
REAPED_S = 20 + 9 * 8 + 10 if FULL else 1 + 2 * 1 + 5
WATCHFUL = {role: {**USUAL[role], "tables": {"transport.tcp": KEEPALIVE}} for role in USUAL}
PROBED_S = 20 if FULL else 4  # as long as TCP_USER_TIMEOUT, as by default
PROBES = {"transport.tcp": {"keepalive_secs": PROBED_S, "keepalive_interval": 8 if FULL else 2}}
QUIET = {"server": {"heartbeat_interval": 60, "tables": PROBES},  # a heartbeat would be an answer
         "client": {"heartbeat_timeout": 90, "tables": PROBES}}
MOVING = {"server": USUAL["server"],
          "client": {**USUAL["client"], "remote_addr": f"server.test:{lab.CONTROL_PORT}"}}
SEVERAL = {"server": {"heartbeat_interval": 1},
           "client": {"heartbeat_timeout": 2, "servers": "all", "resolve_interval": 1,
                      "remote_addr": f"server.test:{lab.CONTROL_PORT}, dead.test:{lab.CONTROL_PORT}"}}
SCENARIOS = {  # name: (scenario, its arguments, arguments of the lab)
    **{f"loss-{percent}": (loss, (percent,), {}) for percent in LOSSES},
    "slow_path": (slow_path, (), {}),
    **{f"small_packets-{name}": (small_packets, (), {**NARROW, "transport": transport})
       for name, transport in TRANSPORTS.items() if FULL or name != "tcp"},
    **{f"black_hole-{name}": (black_hole, (), {**NARROW, "transport": transport})
       for name, transport in TRANSPORTS.items() if FULL or name == "tcp"},
    "service_in_a_narrow_place": (service_in_a_narrow_place, (), {
        "middle": True, "prepare": with_udp_at_the_server,
        "services": {"udp": {"client": {"local_addr": f"{SERVER_BACK}:{lab.LOCAL_PORT}"}}}}),
    "lost_probe": (lost_probe, (), {"options": QUIET}),
    "half_open": (half_open, (), {
        "services": {"lab": {}, "idle": {"server": {"idle_timeout": 30 if FULL else 2}}}, "distant": True,
        "options": WATCHFUL, "prepare": with_second_port}),
    "addresses": (addresses, (), {
        "services": UDP, "options": MOVING,
        "prepare": lambda some_lab: with_udp(some_lab) + with_names(some_lab)}),
    "all_servers": (all_servers, (), {
        "options": SEVERAL,
        "prepare": lambda some_lab: with_names(some_lab, silent_names={"dead.test"})}),
}
outcomes = labs.outcomes_of(SCENARIOS)


@labs.of(SCENARIOS, "loss")
def test_loss(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "slow_path")
def test_slow_path(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "small_packets")
def test_small_packets(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "black_hole")
def test_black_hole(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "service_in")
def test_service_in_a_narrow_place(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "lost_probe")
def test_one_lost_probe_ends_nothing(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "half_open")
def test_half_open_idle_pairs(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "addresses")
def test_addresses_change(request, outcomes, name):
    judge(request, outcomes, name)


@labs.of(SCENARIOS, "all_servers")
def test_a_server_moves_while_a_look_up_hangs(request, outcomes, name):
    judge(request, outcomes, name)
