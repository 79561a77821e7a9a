"""Behind nginx and HAProxy, which take the TLS away and pass the WebSocket on: the client speaks WebSocket
over TLS, the server plain WebSocket. This is how a tunnel shares port 443 with a web site.
"""

import os
import pathlib
import shutil
import socket
import time

import pytest

import certificates
from capabilities import skip_unless_able
from certificates import identity
from datagrams import UdpEcho, knock
from harness import OURS, RATHOLE, Process, free_port, is_listening, scaled, wait_until, within
from protocol import connect, recv_exact
from services import AfterEof, Digest, Echo, answers, ask, burst, digest_of, pattern, ping, transfer
from tls_peer import Tls
from websocket_peer import WebSocket

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{server};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
            proxy_read_timeout 60s;
        }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 1000
    # The bind line's file has the certificate and its key.
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend site
    bind 127.0.0.1:{port} ssl crt {both}
    default_backend tunnel
backend tunnel
    server tunnel 127.0.0.1:{server}
"""


def start_nginx(directory, **values):
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(directory=directory, certificate=values["identity"].certificate_path,
                                 key=values["identity"].key_path, **values))
    return ["nginx", "-c", path, "-p", directory, "-e", "stderr", "-g", "user root;"] \
        if os.geteuid() == 0 else ["nginx", "-c", path, "-p", directory, "-e", "stderr"]


def start_haproxy(directory, **values):
    path, both = directory / "haproxy.cfg", directory / "both.pem"
    own = values["identity"]
    both.write_bytes(own.certificate_path.read_bytes() + own.key_path.read_bytes())
    path.write_text(HAPROXY.format(both=both, **values))
    return ["haproxy", "-db", "-f", path]


PROXIES = {"nginx": start_nginx, "haproxy": start_haproxy}
PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS), (RATHOLE, RATHOLE)]


@pytest.fixture(params=PROXIES)
def program(request):
    path = shutil.which(request.param, path=PATH)
    if not path:
        pytest.skip(f"{request.param} not found: scripts/setup test installs it")
    return request.param, path


@pytest.fixture(params=PAIRS, ids="/".join)
def pair(request):
    server, client = request.param
    skip_unless_able(WebSocket(Tls()) if client == OURS else WebSocket(), request.param)
    return {"server": server, "client": client}


@pytest.fixture
def fronted(tunnel, tmp_path, processes, program, pair):
    """make(services) -> a Tunnel whose client goes through the reverse proxy; .proxy is its Process."""
    name, path = program

    def make(services, **options):
        t = tunnel(services, transport={"server": WebSocket(), "client": WebSocket(Tls())},
                   start=False, **pair, **options)
        directory = tmp_path / name
        directory.mkdir(mode=0o755)
        port = free_port()
        argv = PROXIES[name](directory, port=port, server=t.control_port, identity=identity("named"))
        certificates.directory().chmod(0o755)

        def start():
            t.proxy = processes(Process([path, *argv[1:]], pathlib.Path(tmp_path) / f"{name}.log"), name)
            t.proxy.name = name
            wait_until(lambda: is_listening(port), within(10), lambda: f"{name}:\n{t.proxy.log()}")

        t.start_proxy = start
        start()
        t.start_server()
        t.client_options["remote_addr"] = f"localhost:{port}"
        t.start_client()
        t.wait_ready()
        return t

    return make


def test_transfers(fronted, service, pair):
    """Whole in both directions; where rathole's client is, the visitor ends last. rathole's server may lose
    the last 8 KiB before a Close that comes from the client, so there the service does not end first."""
    t = fronted({"digest": service(Digest).port, "echo": service(Echo).port})
    if pair == {"server": RATHOLE, "client": RATHOLE}:
        ping(t.port("echo"), os.urandom(100000))
        return
    if pair["server"] == RATHOLE:
        for count in (1, 100000, 1 << 20):
            ping(t.port("echo"), os.urandom(count))
        return
    size = scaled(8 << 20, 2 << 20)
    for n, (up, down) in enumerate([(0, 0), (1, 100000), (100000, 1), (size, size)]):
        transfer(t.port("digest"), n, up, down)


def test_churn(fronted, service, pair):
    t = fronted({"echo": service(Echo).port})
    visit = ask if pair == {"server": OURS, "client": RATHOLE} else ping
    for _ in range(scaled(60, 20)):
        visit(t.port(), os.urandom(1000))
    burst(t.port(), 20, within(10))


def test_half_close(fronted, service, pair):
    """Neither proxy reads the frames, so that a Close goes through as it is."""
    if pair["client"] == RATHOLE:
        pytest.skip("rathole's client drops both ways on a Close")
    size = 300000
    t = fronted({"s": service(AfterEof, size).port})
    with connect(t.port("s")) as visitor:
        visitor.sendall(b"question")
        visitor.shutdown(socket.SHUT_WR)
        visitor.settimeout(within(10))
        assert recv_exact(visitor, 32) == digest_of([b"question"])
        assert recv_exact(visitor, size) == b"".join(pattern(4, size)) and visitor.recv(1) == b""


def test_idle_and_heartbeats(fronted, service):
    """The server's heartbeats go through, so that neither end gives up."""
    t = fronted({"echo": service(Echo).port},
                server_options={"heartbeat_interval": 1}, client_options={"heartbeat_timeout": 3})
    with connect(t.port()) as visitor:
        visitor.sendall(b"a")
        assert recv_exact(visitor, 1) == b"a"
        since = len(t.client.log())  # it has said by now that its control channel is there
        time.sleep(3.5)
        visitor.sendall(b"b")
        assert recv_exact(visitor, 1) == b"b"
    assert t.client.log()[since:] == ""


def test_proxy_restarts(fronted, service, pair):
    if pair["client"] == RATHOLE:
        pytest.skip("rathole's client ends itself when an upgrade is answered with 502, or not at all")
    t = fronted({"echo": service(Echo).port})
    ping(t.port())
    t.proxy.kill9()
    t.start_proxy()
    wait_until(lambda: answers(t.port(), 2), within(15), "the service to work again")


def test_server_restarts(fronted, service, pair):
    """Meanwhile the proxy answers 502 or 503: the client says so and tries again."""
    if pair["client"] == RATHOLE:
        pytest.skip("rathole's client ends itself when an upgrade is answered with 502")
    t = fronted({"echo": service(Echo).port})
    ping(t.port())
    t.server.kill9()
    t.client.wait_log(r"50[234]", within(10))
    t.start_server()
    wait_until(lambda: answers(t.port(), 2), within(15), "the service to work again")


def test_udp(fronted, service):
    t = fronted({"echo": service(UdpEcho).port}, udp=True)
    knock(t.port(), "127.0.0.1", 8, within(15))
