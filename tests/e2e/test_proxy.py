"""The client behind a proxy: SOCKS5 and HTTP, real ones and ones that misbehave."""

import datetime
import ipaddress
import os
import re
import socket
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import proxies
from capabilities import NOT_ABLE, is_able
from datagrams import UdpEcho, knock
from harness import OURS, RATHOLE, free_port, have, wait_until, within
from limits import Limits
from noise_peer import Noise
from protocol import connect, recv_exact
from proxies import (
    HTTP, KINDS, PASSWORD, PLAIN_PASSWORD, PLAIN_USER, SOCKS5, USER, Proxied, Scripted,
)
from services import Echo

pytestmark = pytest.mark.ours

LIMITS = Limits(retry_min=0.1)
CONNECT_TIMEOUT = 2  # seconds, of the tests that wait for it


def inner(name):
    return Noise("NK") if name == "noise" else None


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["tcp", "noise"])
def below(request):
    """The transport that runs inside the proxy's tunnel."""
    return inner(request.param)


@pytest.fixture
def real(tmp_path, processes):
    """make(kind, with_user, files) -> the port of a real proxy."""

    def make(kind, with_user=False, files=None):
        reason = proxies.why_not(kind)
        if reason:
            pytest.skip(reason)
        process, port = proxies.start_real(kind, tmp_path, with_user, files)
        processes(process, process.name)
        return port

    return make


@pytest.fixture
def scripted():
    """make(kind, ...) -> a Scripted proxy."""
    made = []

    def make(kind, **kwargs):
        made.append(Scripted(kind, **kwargs))
        return made[-1]

    yield make
    for proxy in made:
        proxy.stop()


@pytest.fixture
def through(tunnel, service, scripted):
    """make(kind, below, ...) -> (a Tunnel, its Scripted proxy, the Echo behind it), running."""

    def make(kind, below=None, user=None, password=None, wants_user=False, start=True, client_options=None,
             **kwargs):
        proxy = scripted(kind, wants_user=wants_user)
        local = service(Echo)
        transport = Proxied(proxy.url(user, password), below)
        t = tunnel({"echo": local.port}, transport=transport, limits=LIMITS, start=start,
                   client_options=dict(client_options or {}, log_level="debug"), **kwargs)
        return t, proxy, local

    return make


def ping(sock, text=b"ping"):
    sock.sendall(text)
    assert recv_exact(sock, len(text)) == text


def visit(t, name="echo", timeout=10):
    with connect(t.port(name), timeout=within(timeout)) as visitor:
        ping(visitor, b"through the proxy")


def comes_back(t, timeout=15):
    """Waits until a visitor is served, then serves more than were prepared before."""
    deadline = time.monotonic() + within(timeout)
    while True:
        try:
            visit(t, timeout=3)
            break
        except OSError:
            assert time.monotonic() < deadline, "the tunnel does not come back"
            time.sleep(0.05)
    for _ in range(12):
        visit(t)


def expect_no_secret(*processes):
    for process in processes:
        for secret in proxies.secrets():
            assert secret not in process.log(), f"{process.name} logs the password"


def via(proxy):
    return re.escape(f"through the proxy 127.0.0.1:{proxy.port}")


# --- real proxies --------------------------------------------------------------------------------


@pytest.mark.parametrize("with_user", [False, True], ids=["open", "user"])
def test_both_kinds_of_service(tunnel, service, real, kind, below, with_user, tmp_path):
    """TCP and UDP, over plain TCP and Noise, with a user and without."""
    port = real(kind, with_user)
    address = proxies.url(kind, port, *((PLAIN_USER, PLAIN_PASSWORD) if with_user else ()))
    tcp, udp = service(Echo), service(UdpEcho)
    t = tunnel({"tcp": tcp.port, "udp": udp.port}, udp={"udp"}, transport=Proxied(address, below),
               client_options={"log_level": "trace"})
    with connect(t.port("tcp"), timeout=within(20)) as visitor:
        for _ in range(16):
            ping(visitor, bytes(range(256)) * 256)
    for _ in range(12):
        visit(t, "tcp")
    knock(t.port("udp"), "127.0.0.1", 8, within(15))
    assert re.search(rf"control channel established with .*{t.control_port} through .*127.0.0.1:{port}",
                     t.client.log())
    expect_no_secret(t.client, t.server)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_each_kind_of_address(tunnel, service, real, kind, host):
    """The server's address goes to the proxy as it is."""
    port, control = real(kind), free_port()
    bind = "[::1]" if host == "[::1]" else "127.0.0.1"
    t = tunnel({"echo": service(Echo).port}, transport=Proxied(proxies.url(kind, port)), remote_host=host,
               control_port=control, server_options={"bind_addr": f"{bind}:{control}"})
    visit(t)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show a program another hosts file")
def test_the_proxy_looks_the_name_up(tunnel, service, real, kind, tmp_path):
    """The server's name means something to the proxy alone."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 server.behind-the-proxy.test\n")
    port = real(kind, files={"/etc/hosts": hosts})
    t = tunnel({"echo": service(Echo).port}, transport=Proxied(proxies.url(kind, port)),
               remote_host="server.behind-the-proxy.test")
    visit(t)


@pytest.mark.skipif(not have(RATHOLE), reason="no rathole 0.5.0")
def test_a_server_of_rathole(tunnel, service, real, kind, below):
    port = real(kind)
    t = tunnel({"echo": service(Echo).port}, server=RATHOLE, client=OURS,
               transport=Proxied(proxies.url(kind, port), below))
    for _ in range(12):
        visit(t)


@pytest.mark.parametrize("password", [None, "wrong-secret"], ids=["none", "wrong"])
def test_a_real_proxy_refuses_the_user(tunnel, service, real, kind, password):
    port = real(kind, with_user=True)
    address = proxies.url(kind, port, *((PLAIN_USER, password) if password else ()))
    t = tunnel({"echo": service(Echo).port}, transport=Proxied(address), start=False, limits=LIMITS,
               client_options={"log_level": "trace"})
    t.start_server()
    t.start_client()
    reason = "refused the user or the password" if password else "wants a user and a password"
    t.client.wait_log(f"through the proxy 127.0.0.1:{port}: the proxy {reason}", within(10))
    assert "wrong-secret" not in t.client.log()


def certificate(path):
    """Writes a self-signed certificate for 127.0.0.1 with its key; returns both files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tunnel")])
    now = datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256()))
    files = path / "certificate.pem", path / "key.pem"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


class Other:
    """TLS, WebSocket, or WebSocket over TLS below the proxy."""

    def __init__(self, name, path):
        self.name, self.files = name, certificate(path)

    def tables(self, role):
        tables = {"transport": {"type": self.name.split("-")[0]}}
        if self.name.startswith("websocket"):
            tables["transport.websocket"] = {"tls": self.name.endswith("tls")}
        if self.name.endswith("tls"):
            tables["transport.tls"] = (
                {"certificate": self.files[0], "private_key": self.files[1]} if role == "server"
                else {"trusted_root": self.files[0]})
        return tables


@pytest.mark.parametrize("name", ["tls", "websocket", "websocket-tls"])
def test_under_the_other_transports(tunnel, service, real, tmp_path, kind, name):
    if "tls" in name and not is_able("tls"):
        pytest.skip(NOT_ABLE.format("tls"))
    tcp, udp = service(Echo), service(UdpEcho)
    transport = Proxied(proxies.url(kind, real(kind)), Other(name, tmp_path))
    t = tunnel({"tcp": tcp.port, "udp": udp.port}, udp={"udp"}, transport=transport)
    for _ in range(12):
        visit(t, "tcp")
    knock(t.port("udp"), "127.0.0.1", 8, within(15))


# --- what the client does ------------------------------------------------------------------------


def test_nothing_goes_past_the_proxy(through, kind, below):
    """The proxy gets the name as text, and each control and data channel passes through it."""
    t, proxy, local = through(kind, below, remote_host="localhost")
    for _ in range(10):
        visit(t)
    assert {(each.host, each.port) for each in proxy.visits if each.host} == {("localhost", t.control_port)}
    assert len(proxy.visits) >= 10 + 1
    assert len(local.records) == 10
    assert all(each.user is None for each in proxy.visits)


def test_half_close(through, kind, below):
    """The end of one direction passes through a proxy that knows half-closed connections."""
    t, _, local = through(kind, below)
    payload = bytes(range(256)) * 4096
    with connect(t.port(), timeout=within(20)) as visitor:
        sender = threading.Thread(target=lambda: (visitor.sendall(payload), visitor.shutdown(socket.SHUT_WR)))
        sender.start()
        assert recv_exact(visitor, len(payload)) == payload
        assert visitor.recv(1) == b""
        sender.join()
    assert local.wait_record(0).end == "fin"


def test_user_and_password(through, kind):
    """Percent-encoded in the URL, decoded on the wire, and in no log."""
    t, proxy, _ = through(kind, user=USER, password=PASSWORD, wants_user=True)
    visit(t)
    assert {(each.user, each.password) for each in proxy.visits if each.host} == {(USER, PASSWORD)}
    expect_no_secret(t.client)


def test_ipv6_server(through, kind):
    control = free_port()
    t, proxy, _ = through(kind, remote_host="[::1]", control_port=control,
                          server_options={"bind_addr": f"[::1]:{control}"})
    visit(t)
    assert {each.host for each in proxy.visits if each.host} == {"::1" if kind == SOCKS5 else "[::1]"}


def test_answers_in_single_bytes(through, kind, below):
    t, proxy, _ = through(kind, below, start=False)
    proxy.piece = 1
    t.start()
    for _ in range(12):
        visit(t)


def test_parked_channels_and_relays_stay(through, kind, below):
    """A proxy that refuses everybody new harms no connection that it carries."""
    t, proxy, _ = through(kind, below)
    with connect(t.port(), timeout=within(10)) as visitor:
        ping(visitor)
        proxy.wait_quiet()
        assert proxy.open_tunnels() >= 2 + 4, "the control channel, the visitor's, and some that are ready"
        proxy.break_(reply=b"\x05\x05" if kind == SOCKS5 else b"HTTP/1.1 502 x\r\n\r\n", then="close")
        for _ in range(4):  # of those that were ready
            visit(t)
        for _ in range(20):
            ping(visitor)
            time.sleep(0.05)
        proxy.mend()
        comes_back(t)
        ping(visitor)
    assert "control channel to" not in t.client.log(), "it was never lost"


# --- proxies that refuse or fail -----------------------------------------------------------------

SOCKS5_REFUSALS = {
    1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
    5: "connection refused", 6: "TTL expired", 7: "it does not know the command",
    8: "it does not take names", 9: "unknown reason 9", 255: "unknown reason 255",
}
HTTP_REFUSALS = {
    302: "status 302", 400: "bad request", 403: "forbidden", 404: "not found", 429: "too many requests",
    500: "internal error", 502: "bad gateway", 503: "service unavailable", 504: "gateway timeout",
}


def fails_then_mends(t, proxy, why, rounds=2):
    """The client says why, tries again and again, and logs in when the proxy is well."""
    t.start_server()
    t.start_client()
    for _ in range(rounds):
        t.client.wait_log(rf"cannot log in to 127.0.0.1:{t.control_port} {via(proxy)}: {why}\n",
                          within(10), since=len(t.client.log()))
    proxy.mend()
    t.wait_ready(timeout=20)
    comes_back(t)


@pytest.mark.parametrize("code", SOCKS5_REFUSALS)
def test_socks5_refuses(through, code):
    t, proxy, _ = through(SOCKS5, start=False)
    proxy.break_(reply=bytes([5, code]) + proxies.SOCKS5_BOUND, then="close")
    fails_then_mends(t, proxy, f"the proxy refused: {SOCKS5_REFUSALS[code]}", rounds=1)


@pytest.mark.parametrize("status", HTTP_REFUSALS)
def test_http_refuses(through, status):
    t, proxy, _ = through(HTTP, start=False)
    proxy.break_(reply=f"HTTP/1.1 {status} Whatever\r\nContent-Length: 4\r\n\r\nSorry".encode(), then="close")
    fails_then_mends(t, proxy, f"the proxy refused: {HTTP_REFUSALS[status]}( .status {status}.)?", rounds=1)


BAD = {
    "socks5-garbage": (SOCKS5, {"method": b"SSH-2.0-OpenSSH_9.2\r\n"}, "not that of a SOCKS5 proxy"),
    "socks5-http": (SOCKS5, {"method": proxies.HTTP_OPEN}, "not that of a SOCKS5 proxy"),
    "socks5-method": (SOCKS5, {"method": b"\x05\x01"}, r"chose a method \(1\) that was not offered"),
    "socks5-no-method": (SOCKS5, {"method": b"\x05\xff"}, "wants a user and a password"),
    "socks5-address": (SOCKS5, {"reply": b"\x05\x00\x00\x02abcdefgh"}, "unknown kind of address"),
    "http-garbage": (HTTP, {"reply": b"\x05\x00"}, "not that of an HTTP proxy"),
    "http-407": (HTTP, {"reply": b"HTTP/1.1 407 x\r\n\r\n"}, "wants a user and a password"),
    "http-64k": (HTTP, {"reply": b"HTTP/1.1 200 OK\r\n" + b"Filler: 0123456789\r\n" * 3300},
                 "longer than 4096 bytes"),
    "socks5-closes": (SOCKS5, {"method": b"", "then": "close"}, "the proxy closed the connection"),
    "socks5-closes-late": (SOCKS5, {"reply": b"\x05\x00\x00", "then": "close"}, "closed the connection"),
    "http-closes": (HTTP, {"reply": b"HTTP/1.1 200 OK\r\nA: b", "then": "close"}, "closed the connection"),
    "socks5-resets": (SOCKS5, {"reply": b"", "then": "reset"}, "closed the connection"),
    "http-resets": (HTTP, {"reply": b"HTTP/", "then": "reset"}, "closed the connection"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_answers(through, below, name):
    kind, changes, why = BAD[name]
    t, proxy, _ = through(kind, below, start=False)
    proxy.break_(**changes)
    fails_then_mends(t, proxy, f"[^\n]*{why}[^\n]*")


def test_bytes_behind_the_answer(through, kind, below):
    """They belong to the tunnel, in which no server speaks before its client: so they end it."""
    t, proxy, _ = through(kind, below, start=False)
    proxy.break_(tail=bytes(200))
    t.start_server()
    t.start_client()
    t.client.wait_log(f"cannot log in to [^\n]* {via(proxy)}", within(10))
    proxy.mend()
    t.wait_ready(timeout=20)
    comes_back(t)


@pytest.mark.parametrize("password", [None, "wrong-secret"], ids=["none", "wrong"])
def test_wrong_user(through, kind, password):
    t, proxy, _ = through(kind, user=USER if password else None, password=password, wants_user=True,
                          start=False)
    if kind == SOCKS5:
        proxy.break_(**({"auth": b"\x01\x01"} if password else {"method": b"\x05\xff"}), then="close")
    t.start_server()
    t.start_client()
    why = "refused the user or the password" if password else "wants a user and a password"
    t.client.wait_log(f"{via(proxy)}: the proxy {why}", within(10))
    assert "wrong-secret" not in t.client.log()


STALLS = {
    "socks5-method": (SOCKS5, {"method": b""}), "socks5-half": (SOCKS5, {"method": b"\x05"}),
    "socks5-reply": (SOCKS5, {"reply": b"\x05\x00\x00\x03\xff"}),
    "http": (HTTP, {"reply": b""}), "http-header": (HTTP, {"reply": b"HTTP/1.1 200 OK\r\nA: b\r\n"}),
}


@pytest.mark.parametrize("name", STALLS)
def test_a_silent_proxy(through, name):
    """The dialogue has connect_timeout, whatever step it stalls in."""
    kind, changes = STALLS[name]
    t, proxy, _ = through(kind, start=False, client_options={"connect_timeout": CONNECT_TIMEOUT})
    proxy.break_(**changes, then="stall")
    t.start_server()
    t.start_client()
    first = proxy.wait_visits(1)
    t.client.wait_log(f"cannot log in to [^\n]* {via(proxy)}: the proxy did not answer in time",
                      within(CONNECT_TIMEOUT + 5))
    wait_until(lambda: first.ended, within(5), "the connection still stands")
    took = first.ended - first.begun
    assert CONNECT_TIMEOUT - 0.2 <= took <= within(CONNECT_TIMEOUT + 2), took
    assert t.client.alive()
    proxy.mend()
    t.wait_ready(timeout=20)
    visit(t)


def test_a_slow_drip_does_not_move_the_deadline(through, kind):
    t, proxy, _ = through(kind, start=False, client_options={"connect_timeout": CONNECT_TIMEOUT})
    filler = b"\x05\x00\x00\x03\xff" + b"x" * 250 if kind == SOCKS5 else b"HTTP/1.1 200 OK\r\n" + b"x" * 250
    proxy.break_(reply=filler, then="stall")
    proxy._send = lambda visit, data, _piece: [
        (visit.sock.sendall(data[at : at + 1]), time.sleep(0.1)) for at in range(len(data))]
    t.start_server()
    t.start_client()
    t.client.wait_log(f"{via(proxy)}: the proxy did not answer in time", within(CONNECT_TIMEOUT + 5))
    del proxy._send
    proxy.mend()
    t.wait_ready(timeout=20)


def test_nobody_there(through, kind):
    """A proxy that is down is named, and found when it is back."""
    t, proxy, _ = through(kind, start=False)
    port = proxy.port
    proxy.stop()
    t.start_server()
    t.start_client()
    t.client.wait_log(f"cannot connect to the proxy 127.0.0.1:{port}: connection refused", within(10))
    back = Scripted(kind, port=port)
    try:
        t.wait_ready(timeout=20)
        visit(t)
    finally:
        t.client.stop()
        back.stop()


def test_data_channels_try_again(through, kind):
    """A hiccup of the proxy costs no data channel: a server need not ask twice."""
    t, proxy, _ = through(kind)
    visit(t)
    proxy.wait_quiet()
    before = len(proxy.visits)
    proxy.break_(reply=b"\x05\x01" if kind == SOCKS5 else b"HTTP/1.1 503 x\r\n\r\n", then="close")
    with connect(t.port(), timeout=within(10)) as visitor:
        ping(visitor)  # takes a channel, and so the server asks for another
        proxy.wait_visits(before + 1)
        t.client.wait_log("data channel: [^\n]*the proxy refused", within(5))
        refused = len(proxy.visits)
        proxy.mend()
        proxy.wait_visits(refused + 1)
    comes_back(t)


def test_no_descriptor_is_left(through, kind, below):
    """After dialogues that failed in many ways, the client has a descriptor for each open tunnel, and
    the others that it had before."""
    t, proxy, _ = through(kind, below)
    visit(t)
    proxy.wait_quiet()
    before = t.client.settled_fds() - proxy.open_tunnels()
    for changes in (changes for other, changes, _ in BAD.values() if other == kind):
        visits = len(proxy.visits)
        proxy.break_(**changes)
        with connect(t.port(), timeout=within(10)) as visitor:
            ping(visitor)
        proxy.wait_visits(visits + 1)
    proxy.mend()
    comes_back(t)
    wait_until(lambda: t.client.fds() - proxy.open_tunnels() == before, within(10),
               lambda: f"{t.client.fds()} descriptors, {proxy.open_tunnels()} tunnels, {before} others")


# --- a reload ------------------------------------------------------------------------------------


def test_a_reload_changes_the_proxy(through, scripted, kind, below):
    """New connections take the new proxy; a relay through the old one goes on."""
    t, old, _ = through(kind, below, user=USER, password=PASSWORD, wants_user=True)
    new = scripted(HTTP if kind == SOCKS5 else SOCKS5)
    with connect(t.port(), timeout=within(10)) as visitor:
        ping(visitor)
        for address, proxy in ((new.url(), new), (None, None), (old.url(USER, PASSWORD), old)):
            logins = t.client.log().count("control channel established")
            t.transport["client"].address = address
            (t.workdir / "client.ini").write_text(t.config("client"))
            wait_until(lambda: t.client.log().count("control channel established") > logins, within(10),
                       "the client does not log in again")
            for each in (old, new):
                each.wait_quiet()
            seen = {each: len(each.visits) for each in (old, new)}
            comes_back(t)
            for each, count in seen.items():
                assert (len(each.visits) > count) == (each is proxy), "the wrong way"
            ping(visitor)
    # A password goes to nobody but its own proxy.
    assert all(each.user is None for each in new.visits)
    expect_no_secret(t.client)
