"""Services that share a bind_addr: by the server name of TLS, and by the host of HTTP.

The local services say their own name, so a visitor sees where it has come to.
"""

import contextlib
import pathlib
import socket
import ssl
import subprocess
import threading
import time

import pytest

import browser
import certificates
from harness import RATHOLE, SLOW, free_port, have, scaled, wait_until, within
from protocol import connect, how_closed, recv_exact
from proxy_header import v1, v2
from services import Digest, Service, transfer
from test_reload import settled
from upgrades import upgrade

pytestmark = pytest.mark.ours

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "names-server.ini"
NAMES = ("a.site.example", "b.site.example", "deep.b.site.example")
TIMEOUT = 1.5 * SLOW  # handshake_timeout
ARRIVING_MAX = 1024   # LIMIT_VISITORS_ARRIVING
PER_IP_MAX = 256      # LIMIT_ARRIVING_PER_IP


class Site(Service):
    """HTTP/1.1 that answers each request with the site's name; with TLS, if it has a context."""

    def __init__(self, port, name=None, context=None, **kwargs):
        self.name, self.context, self.firsts = name, context, []
        super().__init__(port, **kwargs)

    def serve(self, sock, record):
        if self.context:
            sock = self.context.wrap_socket(sock, server_side=True)
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                data = sock.recv(65536)
                if not data:
                    return
                pending += data
            head, pending = pending.split(b"\r\n\r\n", 1)
            with self.lock:
                self.firsts.append(head)
            body = self.name.encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def tls_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = certificates.identity("wildcard")
    context.load_cert_chain(leaf.certificate_path, leaf.key_path)
    return context


@pytest.fixture
def shared(tunnel, service, processes):
    """make({service: its keys}, tls=()) -> a Tunnel whose services have one bind_addr; t.sites[name] is what
    stands behind one. tls: those whose sites speak TLS."""

    def make(keys, tls=(), port=None, start=True, **kwargs):
        sites = {}
        for name in keys:
            sites[name] = service(Site)
            sites[name].name = name
            sites[name].context = tls_context() if name in tls else None
        kwargs.setdefault("server_options", {"handshake_timeout": TIMEOUT, "log_level": "debug"})
        t = tunnel({name: site.port for name, site in sites.items()}, start=False,
                   service_options=keys, **kwargs)
        t.ports = dict.fromkeys(keys, port or free_port())
        t.sites, t.address, t.kept = sites, next(iter(t.ports.values())), processes
        if start:
            t.start()
            served(t)
        return t

    return make


def served(t):
    for name in t.sites:
        t.server.wait_log(rf"\[{name}\] control channel established", within(10))


def request(host=None, path="/", more=""):
    field = f"Host: {host}\r\n" if host else ""
    return f"GET {path} HTTP/1.1\r\n{field}{more}\r\n".encode()


def answer(sock):
    """The name that the site says."""
    sock.settimeout(within(10))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += recv_exact(sock, 1)
    return recv_exact(sock, int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])).decode()


def who(t, data, **kwargs):
    """Which site answers the bytes."""
    with connect(t.address, **kwargs) as sock:
        sock.sendall(data)
        return answer(sock)


def client_context(alpn=None, newest=None):
    context = ssl.create_default_context(cafile=certificates.authority().path)
    if alpn:
        context.set_alpn_protocols(alpn)
    if newest:
        context.maximum_version = newest
    return context


def who_by_tls(t, name, context=None):
    with connect(t.address) as plain:
        plain.settimeout(within(10))
        with (context or client_context()).wrap_socket(plain, server_hostname=name) as sock:
            sock.sendall(request(name))
            return answer(sock)


def hello(name):
    """The ClientHello of OpenSSL."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(into, out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def counted(t, counter):
    return sum(worker.get(counter, 0) for worker in t.server.metrics())


def refused(t, reason, data=b"", wait=None):
    """The visitor is reset without a byte, no site sees it, and it is counted."""
    counter, count = f"visitors_refused_{reason}", sum(site.connections for site in t.sites.values())
    before = counted(t, counter)
    with connect(t.address) as sock:
        sock.sendall(data)
        assert how_closed(sock, wait or within(5)) == ("rst", b"")
    assert counted(t, counter) == before + 1
    assert sum(site.connections for site in t.sites.values()) == count


def said(t, why):
    """The log says so of one that is for no service; lines of one reason are at most one a second."""
    return t.server.wait_log(rf"visitor refused: it does not say for which service it is: {why}", within(5))


BY_HOST = {"a": {"host": "a.site.example"}, "b": {"host": "B.Site.Example, *.b.site.example"},
           "rest": {"default": True}}
BY_SNI = {"a": {"sni": "a.site.example"}, "b": {"sni": "b.site.example, *.b.site.example"}}


# --- who gets a visitor -------------------------------------------------------------------------


def test_by_host(shared):
    t = shared(BY_HOST)
    for host, site in (("a.site.example", "a"), ("A.SITE.example:8080", "a"), ("a.site.example.", "a"),
                       ("b.site.example", "b"), ("x.y.b.site.example", "b"), ("site.example", "rest"),
                       ("xa.site.example", "rest"), ("[::1]:80", "rest"), ("127.0.0.1", "rest"),
                       (None, "rest")):
        assert who(t, request(host)) == site, host
    assert who(t, b"GET http://b.site.example/x HTTP/1.1\r\nHost: a.site.example\r\n\r\n") == "b"
    assert who(t, request("a.site.example", more="X: " + "y" * 9000 + "\r\n")) == "a"
    assert who(t, b"GET / HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\nHost: b.site.example\r\n\r\n") == "b"


def test_a_connection_stays_with_its_service(shared):
    """The documented limit: the first request decides."""
    t = shared(BY_HOST)
    with connect(t.address) as sock:
        for host in ("a.site.example", "b.site.example", "a.site.example"):
            sock.sendall(request(host))
            assert answer(sock) == "a"
    assert len(t.sites["a"].firsts) == 3 and t.sites["a"].connections == 1


@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
def test_by_server_name(shared, newest):
    """TLS is not terminated: the visitor sees the service's own certificate."""
    t = shared(BY_SNI, tls=("a", "b"))
    context = client_context(["h2", "http/1.1"], getattr(ssl.TLSVersion, newest))
    for name, site in zip(NAMES, "abb"):
        if site == name[0] or name.startswith("deep"):
            context.check_hostname = not name.startswith("deep")  # the certificate has one level
            assert who_by_tls(t, name, context) == site


def test_tls_and_http_at_one_address(shared):
    t = shared({"a": {"sni": "a.site.example"}, "b": {"host": "a.site.example"}, "rest": {"default": True}},
               tls=("a",))
    assert who_by_tls(t, "a.site.example") == "a"
    assert who(t, request("a.site.example")) == "b"
    assert who(t, request("z.site.example")) == "rest"


def test_curl_and_openssl(shared):
    t = shared(BY_SNI, tls=("a", "b"))
    for name in "ab":
        t.sites[name].also_meant(2)  # one of each program
        host = f"{name}.site.example"
        got = subprocess.run(
            ["curl", "-sS", "--noproxy", "*", "--cacert", certificates.authority().path, "--connect-to",
             f"{host}:443:127.0.0.1:{t.address}", f"https://{host}/"], capture_output=True, timeout=60)
        assert (got.stdout.decode(), got.stderr) == (name, b"")
        with subprocess.Popen(
                ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{t.address}", "-servername", host,
                 "-CAfile", certificates.authority().path, "-verify_return_error"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as popen:
            popen.stdin.write(request(host))
            popen.stdin.flush()
            timer = threading.Timer(within(10), popen.kill)
            timer.start()
            said = popen.stdout.read(len(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n") + 1)
            timer.cancel()
            popen.kill()
        assert said.endswith(name.encode())


@pytest.mark.skipif(browser.why_not() is not None, reason=browser.why_not() or "")
def test_a_browser(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "ARGUMENTS", [
        *browser.ARGUMENTS, "--ignore-certificate-errors",
        "--host-resolver-rules=MAP *.site.example 127.0.0.1"])
    t = shared(BY_SNI, tls=("a", "b"))
    with browser.Browser(tmp_path) as chromium:
        for name in "ab":
            t.sites[name].also_meant(20)
            page = chromium.page()
            page.open(f"https://{name}.site.example:{t.address}/")
            assert page.js("document.body.innerText").strip() == name


@pytest.mark.parametrize("first", [b"SSH-2.0-visitor", b"\x05\x01\x00", b"\x00", b"HI\n", b"GET\n"])
def test_other_protocols_are_for_the_default(shared, first):
    """At once, however short what they say first."""
    t = shared(BY_HOST, server_options={"handshake_timeout": 60, "log_level": "debug"})
    with connect(t.address) as sock:
        sock.sendall(first)
        t.sites["rest"].wait_connections(1)
        sock.sendall(b"\r\n\r\n")
        assert answer(sock) == "rest"
    assert t.sites["rest"].firsts == [first]


@pytest.mark.parametrize("all_of_it", [b"GET / HTTP/1.1\r\n", b"\x16\x03", b"x"])
def test_who_has_ended_has_no_name(shared, all_of_it):
    t = shared(BY_HOST, server_options={"handshake_timeout": 60, "log_level": "debug"})
    with connect(t.address) as sock:
        sock.sendall(all_of_it)
        sock.shutdown(socket.SHUT_WR)
        t.sites["rest"].wait_connections(1)
        assert how_closed(sock, within(5)) == ("fin", b"")


def test_not_a_byte_is_lost(tunnel, service):
    """What was looked at goes to the service, with all that follows, both ways."""
    local = service(Digest)
    t = tunnel({"a": local.port, "b": None}, start=False,
               service_options={"a": {"default": True}, "b": {"sni": "x"}})
    t.ports = dict.fromkeys("ab", free_port())
    t.start_server()
    t.start_client()
    t.server.wait_log(r"\[a\] control channel established", within(10))
    transfer(t.port("a"), 5, scaled(3_000_000, 300_000), scaled(3_000_000, 300_000), timeout=within(60))


def test_the_example(shared):
    """examples/names-server.ini as it stands, but for the ports."""
    t = shared({name: {} for name in ("shop", "blogs", "redirect")}, tls=("shop", "blogs"), start=False)
    text = EXAMPLE.read_text().replace(":8443", f":{t.address}").replace(":2333", f":{t.control_port}")
    t.server = t.spawn("server", text.replace("change-me", t.token))
    t.start_client()
    served(t)
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert who_by_tls(t, "www.example.com", context) == "shop"
    assert who_by_tls(t, "a.b.blog.example.com", context) == "blogs"
    assert who(t, request("a.blog.example.com")) == "redirect"
    assert who(t, request("else")) == "redirect"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", [
    ("tls", "no service has this name: z.site.example"), ("http", "no service has this name: a.site.example"),
    ("nameless", "it has sent neither a server name"), ("ssh", "it has sent neither a server name")])
def test_unknown_names(shared, case):
    kind, why = case
    t = shared(BY_SNI | {"h": {"host": "h.site.example"}})
    data = {"tls": hello("z.site.example"), "http": request("a.site.example"), "nameless": request(None),
            "ssh": b"SSH-2.0-visitor\r\n"}[kind]
    refused(t, "name", data)
    said(t, why)


def test_a_name_in_the_log_is_a_name(shared):
    """A stranger can't write lines into the log."""
    t = shared(BY_HOST | {"rest": {"host": "rest"}})
    refused(t, "name", b"GET / HTTP/1.1\r\nHost: a\x1b[31m\x07b\r\n\r\n")
    assert "\x1b" not in t.server.log()


ENDLESS = {
    "request": b"GET / HTTP/1.1\r\nX: " + b"y" * (64 << 10),
    "fields": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12000,
    "ClientHello": b"\x16\x03\x01\x40\x00\x01\x00\xff\xff\x03\x03" + bytes(64 << 10),
    "records": (b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" + b"\x16\x03\x01\x00\x01\x3f" +
                b"\x16\x03\x01\x00\x01\xff" + b"\x16\x03\x01\x00\x01\x00" * 20000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_does_not_end(shared, kind):
    """64 KiB cost no more than LIMIT_ROUTE_HEAD, and are refused before handshake_timeout."""
    t = shared(BY_SNI, server_options={"handshake_timeout": 60, "log_level": "debug"})
    with connect(t.address) as sock:
        sock.settimeout(within(5))
        with contextlib.suppress(OSError):
            sock.sendall(ENDLESS[kind])
        assert how_closed(sock, within(5)) == ("rst", b"")
    said(t, "(its first bytes do not end|its ClientHello is too large)")
    assert all(site.connections == 0 for site in t.sites.values())


def test_byte_by_byte(shared):
    """In pieces of a byte each comes to its service all the same, and the wait costs nothing."""
    t = shared(BY_SNI | {"h": {"host": "h.site.example"}}, tls=("a", "b"))
    with connect(t.address) as sock:
        for byte in request("h.site.example"):
            sock.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer(sock) == "h"
    whole = hello("a.site.example")
    with connect(t.address) as sock:
        for byte in whole:
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        t.sites["a"].wait_connections(1)
        sock.settimeout(within(5))
        assert recv_exact(sock, 1) == b"\x16"  # the service's ServerHello


def test_who_stops_half_way(shared):
    """Each is refused at handshake_timeout, not before; meanwhile the server sleeps."""
    t = shared(BY_SNI | {"h": {"host": "h.site.example"}})
    tls, http = hello("a.site.example"), request("h.site.example")
    parts = [b"", http[:1], http[:5], http[:20], http[:-3], *(tls[:size] for size in (1, 4, 5, 6, 100, -1))]
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(t.address)) for _ in parts]
        since, begun = t.server.cpu_seconds(), time.monotonic()
        for sock, part in zip(socks, parts, strict=True):
            sock.sendall(part)
        for sock in socks:
            assert how_closed(sock, within(TIMEOUT + 3)) == ("rst", b"")
            assert time.monotonic() - begun >= TIMEOUT - 0.2
        assert t.server.cpu_seconds() - since < (time.monotonic() - begun) / 4
    assert counted(t, "visitors_refused_name") == len(parts)
    assert all(site.connections == 0 for site in t.sites.values())
    said(t, "handshake_timeout is over")


def test_urgent_data(shared):
    """A peek stops in front of an urgent byte, and a poll does not: the server must not go on asking."""
    t = shared(BY_SNI | {"h": {"host": "h.site.example"}})
    with contextlib.ExitStack() as stack:
        since = t.server.cpu_seconds()
        for _ in range(20):
            sock = stack.enter_context(connect(t.address))
            sock.sendall(b"GET / HTTP/1.1\r\n")
            sock.send(b"!", socket.MSG_OOB)
            sock.sendall(b"X: more\r\n")
        begun = time.monotonic()
        time.sleep(TIMEOUT * 0.6)
        assert t.server.cpu_seconds() - since < (time.monotonic() - begun) / 4
        assert how_closed(sock, within(TIMEOUT + 3))[0] == "rst"


@pytest.mark.parametrize("data", [b"", b"\x16\x03", b"GET / HTTP/1.1\r\n"], ids=["nothing", "tls", "http"])
def test_who_ends_half_way(shared, data):
    """At once, not at handshake_timeout: more can't come."""
    t = shared(BY_SNI, server_options={"handshake_timeout": 60, "log_level": "debug"})
    with connect(t.address) as sock:
        sock.sendall(data)
        time.sleep(0.1)
        sock.shutdown(socket.SHUT_WR)
        assert how_closed(sock, within(5)) == ("rst", b"")
    said(t, "the stream has ended" if not data else "it has sent neither a server name")


@pytest.mark.parametrize("behind", [False, True], ids=["direct", "behind a balancer"])
def test_silent_crowds_keep_nobody_out(shared, behind):
    """Those of one address are bounded (LIMIT_ARRIVING_PER_IP), and all together: the oldest leave. Behind a
    balancer those count whose header has come."""
    header = v1(("203.0.113.9", 51342), ("198.51.100.1", 443)) if behind else b""
    keys = {name: keys | ({"accept_proxy_protocol": "127.0.0.0/8"} if behind else {})
            for name, keys in BY_HOST.items()}
    t = shared(keys, server_options={"handshake_timeout": 120})
    with contextlib.ExitStack() as stack:
        def arrive(count, source_of, header_of):
            socks = []
            for n in range(count):
                socks.append(stack.enter_context(connect(t.address, source=source_of(n))))
                socks[-1].sendall(header_of(n))
            return socks

        silent = arrive(300, lambda n: "127.0.0.9", lambda n: header)
        gone = set()
        wait_until(lambda: len(note_reset(silent, gone)) == 300 - PER_IP_MAX, within(10),
                   lambda: f"{len(gone)}: those beyond the limit leave")
        assert who(t, header + request("a.site.example")) == "a"
        crowd = arrive(1400, lambda n: f"127.0.1.{1 + n % 200}", lambda n: v1(
            (f"203.0.113.{1 + n % 200}", 51342), ("198.51.100.1", 443)) if behind else b"")
        gone = set()
        wait_until(lambda: len(note_reset(crowd, gone)) >= 1400 - ARRIVING_MAX, within(20),
                   lambda: f"{len(gone)}: those beyond LIMIT_VISITORS_ARRIVING leave")
        for _ in range(5):
            assert who(t, header + request("b.site.example")) == "b"
        assert len(note_reset(crowd, gone)) < 1400 + 330 - ARRIVING_MAX


def note_reset(socks, gone):
    """Adds those that were reset to the set, and returns it."""
    for sock in socks:
        if sock not in gone and how_closed(sock, 0.0005)[0] != "open":
            gone.add(sock)
    return gone


# --- what belongs to a service ------------------------------------------------------------------


def test_limits_are_of_the_service(shared):
    t = shared({"a": {"host": "a.site.example", "max_connections": 1}, "b": {"host": "b.site.example"},
                "c": {"host": "c.site.example", "deny": "127.0.0.9/32"}})
    with connect(t.address) as first:
        first.sendall(request("a.site.example"))
        assert answer(first) == "a"
        refused(t, "limit", request("a.site.example"))
        assert who(t, request("b.site.example")) == "b"
    assert who(t, request("c.site.example")) == "c"
    assert who(t, request("b.site.example"), source="127.0.0.9") == "b"
    with connect(t.address, source="127.0.0.9") as denied:
        denied.sendall(request("c.site.example"))
        assert how_closed(denied, within(5)) == ("rst", b"")


def test_proxy_headers(shared):
    """From a balancer in front of the ClientHello, and to one of the services."""
    real, to = ("203.0.113.7", 51342), ("198.51.100.1", 443)
    t = shared({"a": {"host": "a.site.example", "accept_proxy_protocol": "127.0.0.1/32",
                      "proxy_protocol": "v1"},
                "b": {"host": "b.site.example", "accept_proxy_protocol": "127.0.0.1/32"}})
    for header in (v1(real, to), v2(real, to)):
        assert who(t, header + request("b.site.example")) == "b"
        with connect(t.address) as sock:
            for byte in header + request("a.site.example"):
                sock.sendall(bytes([byte]))
            assert answer(sock) == "a"
    assert all(b"GET / HTTP/1.1" in head for head in t.sites["b"].firsts)
    assert all(head.startswith(b"PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n")
               for head in t.sites["a"].firsts)


def test_a_service_that_is_down(shared):
    """Its visitors are refused; the others' go on."""
    t = shared(BY_HOST, start=False)
    t.start_server()
    del t.services["a"]
    t.start_client()
    for name in ("b", "rest"):
        t.server.wait_log(rf"\[{name}\] control channel established", within(10))
    refused(t, "no_client", request("a.site.example"))
    assert who(t, request("b.site.example")) == "b"


@pytest.mark.skipif(not have(RATHOLE), reason="rathole 0.5.0 not found: scripts/setup --peers installs it")
def test_ratholes_client(shared):
    t = shared(BY_SNI, tls=("a", "b"), client=RATHOLE)
    assert who_by_tls(t, "a.site.example") == "a"
    assert who_by_tls(t, "b.site.example") == "b"


def test_an_address_is_not_counted_as_a_service(shared):
    t = shared(BY_HOST)
    assert "server on 127.0.0.1" in t.server.log() and ", 3 services, " in t.server.log()


# --- changes ------------------------------------------------------------------------------------


def test_reloads(shared):
    """Names move between services, come and go; open connections stay where they are."""
    t = shared(BY_HOST)
    with connect(t.address) as kept:
        kept.sendall(request("a.site.example"))
        assert answer(kept) == "a"
        t.service_options = {"a": {"host": "new.site.example"}, "b": {"host": "a.site.example"},
                             "rest": {"default": True}}
        settled(t.server, t.rewrite)
        assert who(t, request("a.site.example")) == "b"
        assert who(t, request("new.site.example")) == "a"
        assert who(t, request("b.site.example")) == "rest"
        kept.sendall(request("a.site.example"))
        assert answer(kept) == "a"
        t.service_options["rest"] = {"host": "rest.site.example"}
        settled(t.server, t.rewrite)
        refused(t, "name", request("b.site.example"))
        kept.sendall(request("a.site.example"))
        assert answer(kept) == "a"


def test_another_address(shared):
    t = shared(BY_HOST)
    old = t.address
    t.address = free_port()
    t.ports = dict.fromkeys(t.ports, t.address)
    settled(t.server, t.rewrite)
    t.note_routes()
    assert who(t, request("b.site.example")) == "b"
    with pytest.raises(ConnectionRefusedError):
        connect(old)


def test_a_plain_service_gets_a_name_and_loses_it(shared):
    t = shared(BY_HOST, start=False)
    t.service_options = {name: {} for name in BY_HOST}
    alone = {name: free_port() for name in BY_HOST}
    together, t.ports = t.ports, alone
    t.start()
    assert answer_at(alone["a"]) == "a"
    t.ports, t.service_options = together, BY_HOST
    settled(t.server, t.rewrite)
    t.note_routes()
    for name in BY_HOST:
        wait_until(lambda name=name: t.server.log().count(f"[{name}] control channel established") == 2,
                   within(10), f"{name} is back")
    assert who(t, request("a.site.example")) == "a"
    t.ports, t.service_options = alone, {name: {} for name in BY_HOST}
    settled(t.server, t.rewrite)
    wait_until(lambda: answers_at(alone["b"]) == "b", within(10), "b has its own address again")


def answer_at(port):
    with connect(port) as sock:
        sock.sendall(request("x"))
        return answer(sock)


def answers_at(port):
    try:
        return answer_at(port)
    except OSError:
        return None


def test_an_upgrade_loses_nobody(shared):
    """Visitors who come while the clients are on their way to the new process wait for them."""
    t = shared(BY_HOST)
    outcomes, ending = [], threading.Event()

    def visit():
        while not ending.is_set():
            for host, site in (("a.site.example", "a"), ("b.site.example", "b"), ("z", "rest")):
                try:
                    outcomes.append(who(t, request(host)) == site)
                except OSError as error:
                    outcomes.append(error)
            time.sleep(0.01)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        for _ in range(scaled(3, 1)):
            count = len(outcomes)
            upgrade(t)
            wait_until(lambda count=count: len(outcomes) >= count + 6, within(20), "visitors of the new one")
    finally:
        ending.set()
        thread.join(within(30))
    assert set(outcomes) == {True}


def test_those_who_wait_in_vain_after_an_upgrade(shared):
    """The client is gone for good: its visitors are refused when the time is over, the others' go on."""
    t = shared(BY_HOST, threads=1)
    t.client.kill9()
    upgrade(t)
    begun = time.monotonic()
    with connect(t.address) as sock:
        sock.sendall(request("a.site.example"))
        assert how_closed(sock, within(15)) == ("rst", b"")
    assert time.monotonic() - begun < within(12)


def test_more_than_may_wait_after_an_upgrade(shared):
    """They wait in the accept queue, and all are served when the client is back."""
    t = shared(BY_HOST, server_options={"log_level": "info"})
    t.client.kill9()
    upgrade(t)
    with contextlib.ExitStack() as stack:
        visitors = []
        for n in range(1500):
            visitors.append(stack.enter_context(connect(t.address, source=f"127.0.2.{1 + n % 200}")))
            visitors[-1].sendall(request("a.site.example"))
        t.start_client()
        for sock in visitors:
            assert answer(sock) == "a"


def test_a_service_with_the_name_of_the_address(shared, tunnel, service):
    """By a reload the front takes its place, and it takes the front's."""
    site = service(Site)
    t = shared({"a": {"host": "a.site.example"}}, start=False)
    name, rest = f"127.0.0.1:{t.address}", {"default": True}
    t.service_options = {"a": {}}
    t.services = {f'"{name}"': site.port}
    site.name = "alone"
    t.ports = {f'"{name}"': t.address}
    t.start()
    assert answer_at(t.address) == "alone"
    t.services, t.ports = {"a": t.sites["a"].port}, {"a": t.address}
    t.service_options = {"a": rest}
    settled(t.server, t.rewrite)
    t.rewrite("client")
    t.note_routes()
    wait_until(lambda: answers_at(t.address) == "a", within(15), "the front has the address")
    t.services, t.ports, t.service_options = {f'"{name}"': site.port}, {f'"{name}"': t.address}, {}
    settled(t.server, t.rewrite)
    t.rewrite("client")
    wait_until(lambda: answers_at(t.address) == "alone", within(15), "the service has it again")


def test_ready_is_who_has_an_address(shared, tmp_path):
    """While another process has the shared address its services are not bound, and then they are."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        t = shared(BY_HOST, port=other.getsockname()[1], start=False)
        status = free_port()
        t.server = t.spawn("server", t.config("server") + f"\n[status]\nbind_addr = 127.0.0.1:{status}\n")
        t.start_client()
        served(t)
        assert status_of(status, "/readyz?service=a") == 503
    wait_until(lambda: status_of(status, "/readyz?service=a") == 200, within(10), "a is ready")


def status_of(port, path):
    with connect(port) as sock:
        sock.sendall(request("127.0.0.1", path))
        sock.settimeout(within(5))
        return int(recv_exact(sock, 12)[9:])
