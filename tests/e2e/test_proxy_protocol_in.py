"""The node behind a balancer: PROXY headers in front of visitors' bytes, from those who may send them. The
test plays the balancer; test_proxy_protocol_programs has real ones."""

import contextlib
import os
import socket
import time

import pytest

import upgrades
from harness import OURS, SLOW, scaled, wait_until, within
from protocol import connect, how_closed, recv_exact
from proxy_header import SIGNATURE, local, tlv, v1, v2
from proxy_protocol import Headed
from services import HEADER, Digest, Echo, ping
from test_proxy_protocol import set_options

pytestmark = pytest.mark.ours

REAL = ("203.0.113.7", 51342)
REAL_V6 = ("2001:db8::7", 51342)
TO, TO_V6 = ("198.51.100.1", 443), ("2001:db8::1", 443)
TIMEOUT = 1.5 * SLOW  # handshake_timeout


@pytest.fixture
def behind(tunnel, service, processes):
    """make(...) -> a Tunnel whose service `s` stands behind a balancer at 127.0.0.1, and reads PROXY headers
    itself."""

    def make(trusted="127.0.0.1/32", kind=Headed, options=None, **kwargs):
        target = service(kind)
        own = {"accept_proxy_protocol": trusted, **({"proxy_protocol": "v2"} if kind is Headed else {})}
        kwargs.setdefault("server_options", {"handshake_timeout": TIMEOUT, "log_level": "debug"})
        t = tunnel({"s": target.port}, service_options={"s": {**own, **(options or {})}}, **kwargs)
        t.local, t.kept = target, processes
        return t

    return make


def ask(visitor, payload=b"hello"):
    visitor.sendall(payload)
    visitor.settimeout(within(10))
    assert recv_exact(visitor, len(payload)) == payload


def ended(t, visitor, index):
    visitor.close()
    return t.local.wait_record(index, within(10)).header


def refused(t, visitor, why, wait=None):
    """The visitor is reset, never reaches the service, and the log says why."""
    count, since = len(t.local.records), getattr(t, "said", 0)
    assert how_closed(visitor, wait or within(5)) == ("rst", b"")
    visitor.close()
    t.server.wait_log(f"visitor refused: no valid PROXY header: {why}", within(5), since)
    assert len(t.local.records) == count


FORMS = {
    "v1": (v1(REAL, TO), REAL, TO),
    "v1-ipv6": (v1(REAL_V6, TO_V6), REAL_V6, TO_V6),
    "v1-mapped": (v1(("::ffff:203.0.113.7", 51342), ("::ffff:198.51.100.1", 443)), REAL, TO),
    "v2": (v2(REAL, TO), REAL, TO),
    "v2-ipv6": (v2(REAL_V6, TO_V6), REAL_V6, TO_V6),
    "v2-tlvs": (v2(REAL, TO, tlv(1, b"h2") + tlv(3, b"\1\2\3\4") + tlv(0x20, b"\7" + bytes(300))), REAL, TO),
    "v2-large": (v2(REAL, TO, tlv(0xEA, os.urandom(16384 - 28 - 3))), REAL, TO),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1-unknown-long": (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, None),
    "v2-local": (local(), None, None),
    "v2-local-tlvs": (local(40), None, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(behind, form):
    header, source, to = FORMS[form]
    t = behind()
    middle = len(header) // 2
    cuts = [[header + b"he", b"llo"], [header, b"hello"],
            [header[:5], header[5:middle], header[middle:-1], header[-1:] + b"hello"]]
    for n, pieces in enumerate(cuts):
        with connect(t.port("s")) as visitor:
            own = visitor.getsockname()
            for piece in pieces:
                visitor.sendall(piece)
                time.sleep(0.03)
            visitor.settimeout(within(10))
            assert recv_exact(visitor, 5) == b"hello"
            got = ended(t, visitor, n)
        assert got.source == (source or own)
        assert got.to == (to or ("127.0.0.1", t.port("s")))


def test_not_a_byte_is_lost(behind):
    """What comes behind a header belongs to the visitor, however much it is."""
    t = behind(kind=Digest)
    for header, size in ((v1(REAL, TO), 3000000), (v2(REAL, TO, tlv(4, bytes(2000))), 17)):
        with connect(t.port("s")) as visitor:
            body = os.urandom(size)
            visitor.sendall(header + HEADER.pack(1, size, 0) + body)
            visitor.shutdown(socket.SHUT_WR)
            visitor.settimeout(within(10))
            while visitor.recv(65536):
                pass
    t.local.wait_connections(2)
    assert [t.local.wait_record(n).received for n in (0, 1)] == [3000000, 17]


def test_who_is_not_trusted(behind):
    """Another peer's bytes are its own, header or not, and its address is its own."""
    t = behind("127.0.0.1, 10.0.0.0/8")
    with connect(t.port("s"), source="127.0.0.9") as visitor:
        own = visitor.getsockname()
        ask(visitor, v1(REAL, TO) + b"x")
        assert ended(t, visitor, 0).source == own


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_dual_stack(behind, host):
    """An IPv4 balancer on a dual-stack socket is trusted by its IPv4 address."""
    t = behind("127.0.0.1/32, ::1/128", visitor_host="[::]")
    with connect(t.port("s"), host=host) as visitor:
        visitor.sendall(v2(REAL, TO))
        ask(visitor)
        assert ended(t, visitor, 0).source == REAL


BROKEN = {
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", "it does not begin"),
    "v1-family": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "v1: neither"),
    "v1-endless": (b"PROXY UNKNOWN " + b"x" * 200, "v1: longer than 107"),
    "v2-short": (SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12), "v2: too short"),
    "v2-64KiB": (v2(REAL, TO, bytes(65535 - 12)), "v2: larger than 16 KiB"),
    "v2-version": (SIGNATURE + b"\x11", "v2: unknown version"),
}


@pytest.mark.parametrize("form", BROKEN)
def test_broken(behind, form):
    header, why = BROKEN[form]
    t = behind()
    visitor = connect(t.port("s"))
    with contextlib.suppress(OSError):
        visitor.sendall(header)
    refused(t, visitor, why)
    assert t.server.metric("visitors_refused_header") == 1
    with connect(t.port("s")) as visitor:
        visitor.sendall(v1(REAL, TO))
        ask(visitor)


@pytest.mark.parametrize("beginning", [b"", b"PROXY TCP4 1.2", v2(REAL, TO, bytes(1000))[:500]],
                         ids=["silent", "cut", "tlvs cut"])
@pytest.mark.parametrize("end", ["deadline", "fin", "rst"])
def test_header_that_does_not_come(behind, beginning, end):
    t = behind()
    with connect(t.port("s")) as visitor:
        begun = time.monotonic()
        visitor.sendall(beginning)
        if end == "deadline":
            refused(t, visitor, "handshake_timeout", TIMEOUT + within(5))
            assert time.monotonic() - begun >= TIMEOUT * 0.9
        elif end == "fin":
            visitor.shutdown(socket.SHUT_WR)
            refused(t, visitor, "the stream has ended")
        else:
            time.sleep(0.1)
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            visitor.close()
            t.server.wait_log("no valid PROXY header: connection reset", within(5))
    assert len(t.local.records) == 0
    wait_until(lambda: t.server.metric("visitors_refused_header") == 1, within(5), "the count")


def test_trickle(behind):
    """A byte at a time: the deadline is one for all of them, and nothing spins."""
    t = behind()
    header = v2(REAL, TO, bytes(20))
    with connect(t.port("s")) as visitor:
        for at in range(len(header)):
            visitor.sendall(header[at : at + 1])
            time.sleep(TIMEOUT / 4 / len(header))
        ask(visitor)
        assert ended(t, visitor, 0).source == REAL
    with connect(t.port("s")) as visitor:
        before = t.server.cpu_seconds()
        since = time.monotonic()
        with pytest.raises(OSError):
            for at in range(200):
                visitor.sendall(header[at : at + 1] if at < 40 else b"")
                time.sleep(TIMEOUT / 20)
                if at >= 40:
                    break
            visitor.settimeout(within(TIMEOUT * 3))
            raise ConnectionResetError if visitor.recv(1) == b"" else AssertionError
        assert time.monotonic() - since < TIMEOUT * 3 + within(3)
        assert t.server.cpu_seconds() - before < 0.5 * SLOW
    t.server.wait_log("handshake_timeout is over", within(5))


def test_many_that_say_nothing(behind):
    """Visitors without a header are bounded in number, and leave when their time is over. Others are served
    meanwhile and afterwards."""
    t = behind(server_options={"handshake_timeout": 4 * SLOW})
    bound = 1024
    before = t.server.rss_kib()
    visitors = []
    try:
        for _ in range(bound):
            visitors.append(connect(t.port("s")))
        with connect(t.port("s"), source="127.0.0.9") as visitor:
            ask(visitor)
        late = connect(t.port("s"))
        assert how_closed(late, within(4))[0] == "rst"
        late.close()
        t.server.wait_log("too many visitors have not sent their PROXY header", within(5))
        assert t.server.rss_kib() - before < 4096 * (8 if SLOW > 1 else 1)
        visitors[7].sendall(v2(REAL, TO))
        ask(visitors[7])
        assert how_closed(visitors[-1], within(8))[0] == "rst"
        wait_until(lambda: t.server.metric("visitors_refused_header") == bound - 1, within(10), "the end")
        with connect(t.port("s")) as visitor:
            visitor.sendall(v1(REAL, TO))
            ask(visitor)
    finally:
        for visitor in visitors:
            visitor.close()


def test_limits_count_the_real_address(behind):
    t = behind(options={"max_connections_per_ip": 2})
    visitors = []
    for n in range(4):
        visitor = connect(t.port("s"))
        visitor.sendall(v2((f"203.0.113.{n // 2}", 1000 + n), TO))
        ask(visitor)
        visitors.append(visitor)
    third = connect(t.port("s"))
    third.sendall(v2(("203.0.113.1", 9), TO))
    assert how_closed(third, within(5))[0] == "rst"
    t.server.wait_log(r"visitor from 203\.0\.113\.1:9 refused: too many connections", within(5))
    visitors[3].close()
    t.local.wait_record(3, within(5))

    def is_admitted():
        with connect(t.port("s")) as visitor:
            visitor.sendall(v2(("203.0.113.1", 9), TO) + b"x")
            visitor.settimeout(within(5))
            try:
                return visitor.recv(1) == b"x"
            except OSError:
                return False

    wait_until(is_admitted, within(5), "the place to be free again")
    for visitor in (*visitors, third):
        visitor.close()


def test_many_relays_over_workers(behind):
    """The address survives when the relay is placed on another worker."""
    t = behind(threads=4)
    count = scaled(400, 100)
    visitors = []
    for n in range(count):
        visitor = connect(t.port("s"))
        visitor.sendall(v2((f"203.0.113.{n % 250}", 1 + n), TO) + b"%04d" % n)
        visitors.append(visitor)
    for n, visitor in enumerate(visitors):
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 4) == b"%04d" % n
    assert {record.header.source for record in t.local.records} == {
        (f"203.0.113.{n % 250}", 1 + n) for n in range(count)}
    for visitor in visitors:
        visitor.close()


# --- what happens meanwhile ---------------------------------------------------------------------


def test_reload(behind):
    t = behind("10.0.0.0/8")
    with connect(t.port("s")) as visitor:
        own = visitor.getsockname()
        ask(visitor)
        assert ended(t, visitor, 0).source == own
    set_options(t, {"accept_proxy_protocol": "10.0.0.0/8, 127.0.0.1", "proxy_protocol": "v1"})
    with connect(t.port("s")) as visitor:
        visitor.sendall(v2(REAL, TO))
        ask(visitor)
        assert ended(t, visitor, 1).source == REAL
    arriving = connect(t.port("s"))
    time.sleep(0.1)
    set_options(t, {"proxy_protocol": "v1"})  # one that arrives already is not asked again
    arriving.sendall(v2(REAL, TO))
    ask(arriving)
    assert ended(t, arriving, 2).source == REAL


def test_service_removed_meanwhile(behind):
    t = behind(server_options={"handshake_timeout": 60})
    arriving = [connect(t.port("s")) for _ in range(5)]
    arriving[0].sendall(b"PROXY ")
    time.sleep(0.1)
    kept = t.ports.pop("s"), t.services.pop("s")
    since = len(t.server.log())
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(1)
    t.server.wait_log(r"reload: services: 1 removed", within(5), since)
    for visitor in arriving:
        assert how_closed(visitor, within(5))[0] == "rst"
        visitor.close()
    t.ports["s"], t.services["s"] = kept


def test_client_lost_meanwhile(behind):
    t = behind(server_options={"handshake_timeout": 60})
    with connect(t.port("s")) as arriving:
        arriving.sendall(b"PROXY TCP4 ")
        time.sleep(0.1)
        t.client.kill9()
        assert how_closed(arriving, within(10))[0] == "rst"
    t.start_client()
    t.wait_ready()
    with connect(t.port("s")) as visitor:
        visitor.sendall(v2(REAL, TO))
        ask(visitor)


def test_drain(behind):
    t = behind(server_options={"handshake_timeout": 60})
    with connect(t.port("s")) as arriving, connect(t.port("s")) as visitor:
        visitor.sendall(v2(REAL, TO))
        ask(visitor)
        arriving.sendall(b"PROXY")
        time.sleep(0.1)
        t.server.begin_stop()
        assert how_closed(arriving, within(10))[0] == "rst"
        ask(visitor)
    assert t.server.wait(within(10)) == 0


def test_upgrade(behind):
    """The old process finishes those that arrive; the new one has the next."""
    t = behind(server_options={"handshake_timeout": 60})
    arriving = connect(t.port("s"))
    arriving.sendall(v2(REAL, TO)[:20])
    time.sleep(0.1)
    since = len(t.server.log())
    old = t.server
    old.signal(12)
    old.wait_log("upgrade: starting", within(10), since)
    time.sleep(0.3)
    arriving.sendall(v2(REAL, TO)[20:])
    ask(arriving)
    match = old.wait_log(r"process (\d+) serves from here on", within(15), since)
    new = upgrades.Successor(int(match.group(1)), old, since)
    t.started.append(new)
    t.server = t.kept(new, new.name)
    t.wait_ready()
    ask(arriving, b"still")
    with connect(t.port("s")) as visitor:
        visitor.sendall(v1(REAL_V6, TO_V6))
        ask(visitor)
        assert ended(t, visitor, 1).source == REAL_V6
    assert ended(t, arriving, 0).source == REAL


def test_through_two_nodes(tunnel, service):
    """A node behind a node: the first one's service is the second one's visitor port."""
    local_echo = service(Echo)
    inner = tunnel({"s": local_echo.port}, service_options={"s": {"accept_proxy_protocol": "127.0.0.1"}},
                   server=OURS)
    outer = tunnel({"s": inner.port("s")}, service_options={"s": {"proxy_protocol": "v1"}}, server=OURS)
    local_echo.also_meant(1)
    ping(outer.port("s"))
