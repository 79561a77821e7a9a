"""The path between server and client is cut at a chosen byte of the control channel or of a data channel,
by FIN, by RST, or in silence; visitors' datagrams come twice and out of order.

The client comes back in time, nothing is left open, and no visitor takes a cut for the end of an answer.
"""

import hashlib
import socket
import time

import pytest

import ledger
import noise_peer
from capabilities import needs_tls
from cutter import DOWN, FIN, RST, SILENCE, UP, Cut, Cutter, Shuffler
from datagrams import UdpEcho, UdpVisitor, payload
from harness import FULL, free_port, scaled, wait_until, within
from limits import Limits
from protocol import HELLO_SIZE, connect, recv_exact
from services import Service
from tls_peer import Tls

pytestmark = [pytest.mark.ours, pytest.mark.slow]

FAST = Limits(retry_min=0.02, second=0.05, login=0.3, visitor_wait=3, channel_request=0.5)
CUTS = None if FULL else 10      # in each direction; None: at each byte
EACH_SILENT = 64 if FULL else 8  # so many cuts for one in silence, which lasts until somebody's deadline
QUESTION, ANSWER = 64, 32
DATA_COMMAND_SIZE = 4


class Answer(Service):
    """Answers a question with its digest and ends."""

    def serve(self, sock, record):
        record.question = recv_exact(sock, QUESTION)
        sock.sendall(hashlib.sha256(record.question).digest())
        sock.shutdown(socket.SHUT_WR)
        record.end = "fin" if not sock.recv(1) else "surplus"


def visit(port):
    """"answered", or "rst". A clean end without the answer is a failure."""
    question = bytes(range(QUESTION))
    try:
        with connect(port, timeout=within(20)) as visitor:
            visitor.sendall(question)
            got = b""
            while data := visitor.recv(100):
                got += data
    except ConnectionResetError:
        return "rst"
    assert got == hashlib.sha256(question).digest(), f"the end came after {len(got)} bytes of {ANSWER}"
    return "answered"


def cuts(totals, streams=None):
    """At bytes of both directions, by FIN and RST in turn; some in silence. streams: where plain TCP carries
    the visitor's stream, whose end is a FIN there, whoever sends it; such cuts are by RST."""
    ends = []
    for direction in (UP, DOWN):
        step = max(1, totals[direction] // CUTS) if CUTS else 1
        ends += [(direction, after) for after in {*range(0, totals[direction], step), totals[direction] - 1}]
    made = [Cut(direction, after, (FIN, RST)[number % 2]) for number, (direction, after) in enumerate(ends)]
    if streams:
        made = [cut._replace(how=RST) if cut.after >= streams[cut.direction] else cut for cut in made]
    return made + [Cut(direction, after, SILENCE) for direction, after in ends[::EACH_SILENT]]


def check_times(cutter, made):
    """Each cut of a control channel was followed by the next one soon."""
    for cut, when in made:
        bound = 4 if FULL else 1.5
        if cut.how == SILENCE:
            bound += FAST.login
        came = min((login for login in cutter.logins if login > when), default=float("inf"))
        assert came - when < within(bound), f"{cut}: the next login came {came - when:.2f} s later"


def cut_all(cutter, plans, planned, meanwhile):
    """Has these cuts made; returns [(cut, when)] of them. Others may be under way (Cutter.cut_control)."""
    mine = {id(cut) for cut in planned}
    deadline = time.monotonic() + within(len(planned) * (1 + FAST.login))
    plans.extend(planned)
    stuck_s = within(6 + 2 * FAST.login)
    count, progress = 0, time.monotonic()
    while len(made := [each for each in cutter.made if id(each[0]) in mine]) < len(planned):
        meanwhile()
        time.sleep(0.005)
        if len(made) > count:
            count, progress = len(made), time.monotonic()
        if time.monotonic() > progress + stuck_s:
            progress = time.monotonic()
            cutter.begin_again()
        assert time.monotonic() < deadline, \
            f"{len(made)} of {len(planned)} cuts made, {len(plans)} not begun"
    return made


TRANSPORTS = {"tcp": None, "noise": noise_peer.Noise("NK"), "tls": pytest.param(Tls(), marks=needs_tls)}


@pytest.mark.time_limit(100)
@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
def test_cut_at_a_byte(tunnel, service, transport):
    local = service(Answer)
    port = free_port()
    t = tunnel({"echo": local.port}, start=False, transport=transport, limits=FAST,
               server_options={"handshake_timeout": within(0.3), "heartbeat_interval": 4},
               client_options={"remote_addr": f"127.0.0.1:{port}", "heartbeat_timeout": 10},
               service_options={"echo": {"idle_timeout": 0.5}})
    t.start_server()
    level = t.server.settled_fds()
    cutter = service(Cutter, ("127.0.0.1", t.control_port), port=port)
    t.start_client()
    t.wait_ready()
    assert visit(t.port()) == "answered"
    wait_until(lambda: len(cutter.totals[False]) >= 8, within(5), "the first data channels")
    for count in (2, 3):  # with TLS, later logins take an earlier session up and are shorter
        first = len(cutter.totals[False])
        cutter.cut_control()
        wait_until(lambda: len(cutter.logins) == count, within(10), "another login")
        wait_until(lambda: visit_or_none(t.port()) == "answered", within(10), "the service again")
    of_control = {direction: min(totals[direction] for totals in cutter.totals[True])
                  for direction in (UP, DOWN)}
    of_data = dict(max(cutter.totals[False][first:], key=lambda totals: totals[DOWN]))

    # The control channel.
    cutter.cut_control()
    made = cut_all(cutter, cutter.control, cuts(of_control), lambda: None)
    time.sleep(0.1)
    wait_until(lambda: visit_or_none(t.port()) == "answered", within(10 + FAST.login), "the service again")
    check_times(cutter, made)

    # Data channels.
    outcomes = {"answered": 0, "rst": 0, "refused": 0}

    def one_more():
        outcomes[visit_or_none(t.port()) or "refused"] += 1

    streams = None if transport else {UP: HELLO_SIZE, DOWN: DATA_COMMAND_SIZE}
    cut_all(cutter, cutter.data, cuts(of_data, streams), one_more)
    for _ in range(12):
        one_more()
    assert outcomes["answered"] > 0 and outcomes["rst"] > 0, outcomes
    wait_until(lambda: visit_or_none(t.port()) == "answered", within(10 + FAST.login), "the service again")
    print(of_control, of_data, len(cutter.made), "cuts", outcomes)

    # Nothing is left.
    t.client.stop()
    cutter.stop()
    t.server.wait_fds(level, within(15))
    wait_until(lambda: local.open_count() == 0, within(5), "the ends of the local service")


def visit_or_none(port):
    try:
        return visit(port)
    except ConnectionRefusedError:
        return None


def test_datagrams_in_any_order(udp):
    """What a visitor's path has done to the order of datagrams reaches the service as it is, and so do the
    answers: the tunnel adds no change of order and no copy."""
    class Recorder(UdpEcho):
        def handle(self, data, peer):
            seen.append(data)
            self.send(data, peer)

    seen = []
    t, _ = udp(Recorder)
    time.sleep(0.2)
    del seen[:]
    shufflers = [Shuffler(("127.0.0.1", t.port()), seed) for seed in range(1 if not FULL else 20)]
    for shuffler in shufflers:
        with UdpVisitor(shuffler.port) as visitor:
            del seen[:]
            got = []
            for number in range(0, 4 * scaled(60, 10, 1000), 4):
                for each in range(4):
                    visitor.send(payload(1, number + each, (number * 37 + each * 11) % 1400 + 10))
                got += [visitor.receive(within(5)) for _ in range(5)]
            ledger.current.datagrams[t.port()] += len(shuffler.passed)
            assert shuffler.passed != sorted(shuffler.passed)
            assert seen == shuffler.passed, "the service has seen another order"
            assert got == shuffler.passed, "the visitor has seen another order"
        shuffler.stop()
