"""The visitor's real address: PROXY headers that the service gets, through every transport and through
rathole's client, in TCP and UDP. test_proxy_protocol_in has those that a balancer sends us."""

import socket
import time

import pytest

import upgrades
from capabilities import skip_unless_able
from datagrams import UdpVisitor
from harness import OURS, RATHOLE, free_port, is_listening, wait_until, within
from noise_peer import Noise
from protocol import connect, recv_exact
from proxy_header import parse, v2
from proxy_protocol import Headed, UdpHeaded
from services import AfterEof, Banner, digest_of
from tls_peer import Tls
from websocket_peer import WebSocket

TRANSPORTS = {"tcp": lambda: None, "noise": lambda: Noise("NK"), "tls": Tls, "websocket": WebSocket,
              "websocket-tls": lambda: WebSocket(Tls())}
VERSIONS = {"v1": 1, "v2": 2}


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    made = TRANSPORTS[request.param]()
    skip_unless_able(made)
    return made


@pytest.fixture(params=[OURS, RATHOLE])
def client(request):
    skip_unless_able(None, (OURS, request.param))
    return request.param


@pytest.fixture
def headed(tunnel, service, processes):
    """make(version, ...) -> a Tunnel whose service `s` reads PROXY headers; .local is that service."""

    def make(version="v2", kind=Headed, options=None, **kwargs):
        local = service(kind)
        kwargs.setdefault("server", OURS)
        t = tunnel({"s": local.port}, service_options={"s": {"proxy_protocol": version, **(options or {})}},
                   **kwargs)
        t.local, t.kept = local, processes
        return t

    return make


def visit(t, host="127.0.0.1", payload=b"hello", source=None, until_end=True):
    """One request; returns (the header that the service got, the visitor's own address)."""
    count = len(t.local.records)
    with connect(t.port("s"), host=host, source=source) as visitor:
        own = visitor.getsockname()[:2]
        visitor.sendall(payload)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, len(payload)) == payload
        if until_end:
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(1) == b""
    record = t.local.wait_record(count, within(10))
    assert record.end == "fin" or not until_end
    return record.header, own


@pytest.mark.parametrize("version", VERSIONS)
def test_every_transport_and_client(headed, transport, client, version):
    skip_unless_able(transport, (OURS, client))
    t = headed(version, transport=transport, client=client)
    for source in ("127.0.0.1", "127.0.0.7"):
        # rathole's client drops both ways on a WebSocket's Close.
        header, own = visit(t, source=source,
                            until_end=client == OURS or not isinstance(transport, WebSocket))
        assert header.version == VERSIONS[version]
        assert header.source == own and own[0] == source
        assert header.to == ("127.0.0.1", t.port("s"))


@pytest.mark.parametrize("version", VERSIONS)
def test_families(headed, version):
    """On a dual-stack socket an IPv4 visitor is IPv4 in the header."""
    t = headed(version, visitor_host="[::]")
    for host in ("127.0.0.1", "::1"):
        header, own = visit(t, host=host)
        assert header.source == own and header.to == (host, t.port("s"))
        assert own[0] == host


def test_one_segment(headed):
    """The command, the header and the visitor's first bytes are one write to the data channel. The test
    plays the client."""
    t = headed("v2", client=OURS)
    t.client.kill9()
    with t.login("s") as session:
        channel = session.open_channel()
        wait_until(lambda: is_listening(t.port("s")), within(5), "the service to be up")
        with connect(t.port("s")) as visitor:
            visitor.sendall(b"first bytes")
            channel.settimeout(within(10))
            deadline = time.monotonic() + within(10)
            data = b""
            while not data.endswith(b"first bytes"):
                assert time.monotonic() < deadline
                data += channel.recv(65536)
            assert data[:4] == bytes(4)
            header, rest = parse(data[4:])
            assert header.source == visitor.getsockname() and rest == b"first bytes"
        channel.close()


def test_service_that_speaks_first(tunnel, service):
    """The header does not wait for a visitor's bytes; the service need not read it first."""
    t = tunnel({"s": service(Banner).port}, server=OURS, service_options={"s": {"proxy_protocol": "v1"}})
    with connect(t.port("s")) as visitor:
        visitor.settimeout(within(10))
        assert recv_exact(visitor, len(Banner.TEXT)) == Banner.TEXT
        header, _ = parse(recv_exact(visitor, len(f"PROXY TCP4 127.0.0.1 127.0.0.1 "
                                                  f"{visitor.getsockname()[1]} {t.port('s')}\r\n")))
        assert header.source == visitor.getsockname()


def test_visitor_that_ends_at_once(tunnel, service):
    local = service(AfterEof, 1000)
    t = tunnel({"s": local.port}, server=OURS, service_options={"s": {"proxy_protocol": "v2"}})
    with connect(t.port("s")) as visitor:
        own = visitor.getsockname()
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of([v2(own, ("127.0.0.1", t.port("s")))])


def test_upstreams_key(headed):
    t = headed(None, options={"enable_proxy_protocol": True})
    header, own = visit(t)
    assert header.version == 1 and header.source == own


def test_unix_socket_visitors(headed, tmp_path):
    """Who connects to a unix socket has no address."""
    for version in VERSIONS:
        path = tmp_path / version
        t = headed(version, options={"bind_addr": f"unix:{path}"}, start=False)
        t.start_server()
        t.start_client()
        wait_until(path.exists, within(10), "the unix socket")
        deadline = time.monotonic() + within(10)
        while not t.local.records:
            assert time.monotonic() < deadline
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(within(2))
                t.local.also_meant(1)
                try:
                    visitor.connect(str(path))
                    visitor.sendall(b"hello")
                    assert visitor.recv(5) in (b"hello", b"")
                except OSError:
                    time.sleep(0.05)  # no client is logged in yet
        header = t.local.wait_record(0, within(10)).header
        assert header.source is None and header.version == VERSIONS[version]


def test_relays_on_other_workers(headed):
    """Relays are placed on the least busy worker; the header is the visitor's own everywhere."""
    t = headed("v2", threads=4)
    visitors = [connect(t.port("s"), source=f"127.0.0.{2 + n % 50}") for n in range(100)]
    for n, visitor in enumerate(visitors):
        visitor.sendall(b"%03d" % n)
    for n, visitor in enumerate(visitors):
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 3) == b"%03d" % n
    owns = {visitor.getsockname() for visitor in visitors}
    assert {record.header.source for record in t.local.records} == owns
    for visitor in visitors:
        visitor.close()


def test_reload(headed):
    t = headed("v1")
    assert visit(t)[0].version == 1
    set_options(t, {"proxy_protocol": "v2"})
    assert visit(t)[0].version == 2
    set_options(t, {"enable_proxy_protocol": True})
    assert visit(t)[0].version == 1


def set_options(t, options):
    """Changes the options of the service, and waits until they are in force."""
    t.service_options["s"] = options
    since = len(t.server.log())
    (t.workdir / "server.ini").write_text(t.config("server"))
    t.server.signal(1)
    t.server.wait_log(r"reload: services: 1 changed", within(5), since)


def test_upgrade(headed):
    t = headed("v2")
    upgrades.upgrade(t)
    t.wait_ready()
    header, own = visit(t)
    assert header.source == own


# --- UDP ----------------------------------------------------------------------------------------


def wait_seen(local, count):
    wait_until(lambda: len(local.seen) >= count, within(10),
               lambda: f"{len(local.seen)} of {count} datagrams")
    return local.seen


def warmed(t, host="127.0.0.1"):
    """Waits until datagrams get through; what the service saw of that is forgotten."""
    with UdpVisitor(t.port("s"), host=host) as visitor:
        visitor.insist(b"warm", within(15))
        visitor.drain()
    t.local.wait_quiet()
    t.local.seen.clear()


@pytest.mark.parametrize("version", ["v2"])
def test_udp_first(headed, version, client):
    t = headed(version, UdpHeaded, udp=True, client=client)
    warmed(t)
    with UdpVisitor(t.port("s")) as one, UdpVisitor(t.port("s"), source="127.0.0.9") as other:
        for n in range(3):
            assert one.ask(b"a%d" % n, within(5)) == b"a%d" % n
            assert other.ask(b"b%d" % n, within(5)) == b"b%d" % n
        seen = wait_seen(t.local, 6)
        for visitor, letter in ((one, b"a"), (other, b"b")):
            headers = [header for _, header, data in seen if data[:1] == letter]
            assert headers[0].source == visitor.address and headers[0].is_datagram
            assert headers[0].to == ("127.0.0.1", t.port("s"))
            assert headers[1:] == [None, None]


def test_udp_always(headed, client):
    t = headed("v2", UdpHeaded, {"proxy_protocol_udp": "always"}, udp=True, client=client)
    warmed(t)
    with UdpVisitor(t.port("s")) as visitor:
        for n in range(3):
            assert visitor.ask(b"%d" % n, within(5)) == b"%d" % n
        visitor.send_joined([b"x" * 500] * 5 + [b"y"])
        seen = wait_seen(t.local, 9)
        assert all(header.source == visitor.address for _, header, _ in seen)
        assert [data for _, _, data in seen[3:]] == [b"x" * 500] * 5 + [b"y"]


def test_udp_joined_first(headed):
    """Of datagrams that the kernel has joined, the first one has the header."""
    t = headed("v2", UdpHeaded, udp=True)
    warmed(t)
    with UdpVisitor(t.port("s")) as visitor:
        visitor.send_joined([b"x" * 500] * 5 + [b"y"])
        seen = wait_seen(t.local, 6)
        assert [header is None for _, header, _ in seen] == [False] + [True] * 5
        assert [data for _, _, data in seen] == [b"x" * 500] * 5 + [b"y"]


def test_udp_families(headed):
    t = headed("v2", UdpHeaded, {"proxy_protocol_udp": "always"}, udp=True, visitor_host="[::]")
    for host in ("127.0.0.1", "::1"):
        warmed(t, host)
        with UdpVisitor(t.port("s"), host=host) as visitor:
            assert visitor.ask(b"x", within(5)) == b"x"
            _, header, _ = wait_seen(t.local, 1)[0]
            assert header.source == visitor.address and header.to == (host, t.port("s"))


def test_udp_largest(headed):
    """A datagram that the header would make too large is dropped and counted. The header is still due."""
    t = headed("v2", UdpHeaded, udp=True)
    warmed(t)
    with UdpVisitor(t.port("s")) as visitor:
        visitor.send(b"z" * (65507 - 27))
        wait_until(lambda: t.server.metric("udp_dropped_too_large") == 1, within(5), "the drop")
        assert visitor.ask(b"z" * (65507 - 28), within(5)) == b"z" * (65507 - 28)
        assert wait_seen(t.local, 1)[0][1].source == visitor.address
        assert visitor.ask(b"z" * 65507, within(5)) == b"z" * 65507
        assert t.local.seen[1][1] is None


def test_udp_new_channel_and_reload(headed):
    """On a new channel each visitor has a header again, and after a reload that wants headers again."""
    t = headed("v2", UdpHeaded, udp=True)
    warmed(t)
    with UdpVisitor(t.port("s")) as visitor:
        assert visitor.ask(b"1", within(5)) == b"1"
        t.client.kill9()
        t.start_client()
        visitor.insist(b"2", within(15))
        visitor.drain()
        seen = [header is not None for _, header, data in t.local.seen if data == b"2"]
        assert seen[0] and not any(seen[1:])
        set_options(t, {"proxy_protocol": "off"})
        t.local.seen.clear()
        assert visitor.ask(b"3", within(5)) == b"3"
        set_options(t, {"proxy_protocol": "v2"})
        assert visitor.ask(b"4", within(5)) == b"4"
        assert visitor.ask(b"5", within(5)) == b"5"
        set_options(t, {"proxy_protocol": "v2", "proxy_protocol_udp": "always"})
        assert visitor.ask(b"6", within(5)) == b"6"
        assert [header is not None for _, header, _ in t.local.seen] == [False, True, False, True]


# --- the configuration --------------------------------------------------------------------------

REFUSED = [
    ("udp", {"proxy_protocol": "v1"}, "proxy_protocol: expected v2: v1 has no header for datagrams"),
    ("udp", {"enable_proxy_protocol": True}, "expected v2: v1 has no header for datagrams"),
    ("tcp", {"proxy_protocol": "v3"}, 'proxy_protocol: expected v1, v2 or off, got "v3"'),
    ("tcp", {"proxy_protocol": "v2", "enable_proxy_protocol": True}, "there is proxy_protocol as well"),
    ("tcp", {"proxy_protocol_udp": "never"}, "expected first or always"),
    ("tcp", {"accept_proxy_protocol": "10.0.0.0/8, lan"}, "expected an address or a prefix"),
    ("tcp", {"accept_proxy_protocol": "10.0.0.1/8"}, "has bits behind its length"),
]


@pytest.mark.ours
@pytest.mark.parametrize(("kind", "options", "problem"), REFUSED)
def test_refused_values(ours, tmp_path, kind, options, problem):
    rows = "".join(f"{key} = {str(value).lower()}\n" for key, value in options.items())
    path = tmp_path / "server.ini"
    path.write_text(f"[server]\nbind_addr = 127.0.0.1:{free_port()}\ndefault_token = t\n"
                    f"[server.services.s]\ntype = {kind}\nbind_addr = 127.0.0.1:{free_port()}\n{rows}")
    process = ours("--check", "--server", path)
    assert process.wait(within(10)) == 1
    assert problem in process.log()


@pytest.mark.ours
def test_values_without_effect(ours, tmp_path):
    path = tmp_path / "server.ini"
    path.write_text(f"[server]\nbind_addr = 127.0.0.1:{free_port()}\ndefault_token = t\n"
                    f"[server.services.s]\nbind_addr = 127.0.0.1:{free_port()}\nproxy_protocol = \"\"\n"
                    "proxy_protocol_udp = always\n[server.services.u]\ntype = udp\n"
                    f"bind_addr = 127.0.0.1:{free_port()}\naccept_proxy_protocol = 127.0.0.1\n")
    process = ours("--check", "--server", path)
    assert process.wait(within(10)) == 0
    assert "proxy_protocol_udp: has no effect" in process.log()
    assert "accept_proxy_protocol: has no effect" in process.log()
