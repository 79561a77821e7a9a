"""The structures of rathole's own example files and of the files that its tests use, as TOML, run as they
are by our program in either role, against itself and against rathole.

What stands here is written anew: only ports, keys and paths differ from what people copy from there. The
paths of certificates are relative to the directory that a program is started in.
"""

import base64
import select
import socket
import struct
import subprocess
import threading

import pytest

import certificates
import ledger
from capabilities import NO_RATHOLE, NOT_ABLE, is_able
from certificates import identity
from datagrams import UdpEcho, knock
from harness import BINARIES, OURS, RATHOLE, Process, free_port, have, is_listening, wait_until, within
from noise_peer import Noise
from protocol import connect, recv_exact
from services import Echo, ask, ping

pytestmark = pytest.mark.ours

CLIENT = '[client]\nremote_addr = "{host}:{control}"\ndefault_token = "123"\n'
SERVER = '[server]\nbind_addr = "0.0.0.0:{control}"\ndefault_token = "123"\n'
NOISE_KEYS = Noise("NK")

# The transports, as the client's and the server's half have them. (Blanks at the ends are upstream's too.)
TRANSPORTS = {
    "tcp": ('[client.transport]\ntype = "tcp" \n', '[server.transport]\ntype = "tcp" \n'),
    "noise": (
        '[client.transport]\ntype = "noise" \n[client.transport.noise]\n'
        'remote_public_key = "{public}"\n',
        '[server.transport]\ntype = "noise" \n[server.transport.noise]\n'
        'local_private_key = "{private}"\n'),
    "tls": (
        '[client.transport]\ntype = "tls" \n[client.transport.tls]\n'
        'trusted_root = "examples/tls/rootCA.crt"\nhostname = "localhost"\n',
        '[server.transport]\ntype = "tls" \n[server.transport.tls]\n'
        'pkcs12 = "examples/tls/identity.pfx"\npkcs12_password = "1234"\n'),
    "websocket": (
        '[client.transport]\ntype = "websocket" \n[client.transport.websocket] \ntls = false\n',
        '[server.transport]\ntype = "websocket" \n[server.transport.websocket] \ntls = false\n'),
    "websocket_tls": (
        '[client.transport]\ntype = "websocket" \n[client.transport.tls]\n'
        'trusted_root = "examples/tls/rootCA.crt"\nhostname = "localhost"\n'
        '[client.transport.websocket] \ntls = true\n',
        '[server.transport]\ntype = "websocket" \n[server.transport.tls]\n'
        'pkcs12 = "examples/tls/identity.pfx"\npkcs12_password = "1234"\n'
        '[server.transport.websocket] \ntls = true\n'),
}


def halves(name, client, server, host="127.0.0.1"):
    """A client's and a server's file with one service, in the order that the examples have."""
    service = f'\n[{{role}}.services.{name}]\n'
    return (CLIENT.replace("{host}", host) + "\n" + client
            + service.replace("{role}", "client") + 'local_addr = "127.0.0.1:{local}"\n',
            SERVER + "\n" + server
            + service.replace("{role}", "server") + 'bind_addr = "0.0.0.0:{visitor}"\n')


def with_type(text, kind):
    """`text` with the key `type` in front of each address of a service."""
    for key in ("local_addr", "bind_addr"):
        marker = f'\n{key} = "'
        head, *rest = text.split("services", 1)
        if rest:
            text = head + "services" + rest[0].replace(marker, f'\ntype = "{kind}"{marker}')
    return text


def of_tests(transport, udp):
    """One file with both halves and the services echo and pingpong."""
    client, server = TRANSPORTS[transport]
    kind = 'type = "udp"\n' if udp else ""
    return (
        CLIENT.replace("{host}", "127.0.0.1") + "\n" + client + "\n"
        f'[client.services.echo] \n{kind}local_addr = "127.0.0.1:{{local}}" \n'
        f'[client.services.pingpong] \n{kind}local_addr = "127.0.0.1:{{local2}}" \n\n'
        + SERVER + "\n" + server + "\n"
        f'[server.services.echo] \n{kind}bind_addr = "0.0.0.0:{{visitor}}" \n'
        f'[server.services.pingpong] \n{kind}bind_addr = "0.0.0.0:{{visitor2}}" \n')


def iperf3():
    """A UDP and a TCP service on one port number."""
    client = CLIENT.replace("{host}", "localhost") + (
        '\n[client.services.iperf3-udp]\ntype = "udp"\nlocal_addr = "127.0.0.1:{local2}"\n'
        '\n[client.services.iperf3-tcp]\ntype = "tcp"\nlocal_addr = "127.0.0.1:{local}"\n')
    server = SERVER + (
        '\n[server.services.iperf3-udp]\ntype = "udp"\nbind_addr = "0.0.0.0:{visitor}"\n'
        '\n[server.services.iperf3-tcp]\ntype = "tcp"\nbind_addr = "0.0.0.0:{visitor}"\n')
    return client, server


def unified():
    client, server = halves("foo1", "", "", "localhost")
    return ("# The configuration of both ends can stand in one file, if the command line says which to run"
            "\n\n" + client + "\n" + server)


PROXY = ('[client.transport]\ntype = "tcp"\n[client.transport.tcp]\n'
         '# `proxy` says how the client gets to its server\n'
         'proxy = "{scheme}://myuser:mypass@127.0.0.1:{proxy}"\n')

# name: (client's file, server's file); one text for both where they are one file
EXAMPLES = {
    "minimal": halves("foo1", "", "", "localhost"),
    "iperf3": iperf3(),
    "noise_nk": halves("foo1", *TRANSPORTS["noise"], "localhost"),
    "tls": halves("foo1", *TRANSPORTS["tls"]),
    "udp": tuple(with_type(text, "udp") for text in halves("foo1", "", "", "localhost")),
    "unified": unified(),
    "use_proxy, socks5": (halves("foo1", PROXY.replace("{scheme}", "socks5"), "")),
    "use_proxy, http": (halves("foo1", PROXY.replace("{scheme}", "http"), "")),
}
EXAMPLES.update({f"for_tcp {name}": of_tests(name, udp=False) for name in TRANSPORTS})
EXAMPLES.update({f"for_udp {name}": of_tests(name, udp=True) for name in TRANSPORTS})

PAIRS = [(OURS, OURS), (OURS, RATHOLE), (RATHOLE, OURS), (RATHOLE, RATHOLE)]


class Proxy:
    """A SOCKS5 and HTTP proxy, as small as can be; wants the user and password of the example."""

    USER, PASSWORD = b"myuser", b"mypass"

    def __init__(self):
        self.port, self.count = free_port(), 0
        self.sock = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            sock.settimeout(10)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            first = sock.recv(1, socket.MSG_PEEK)
            port = self._socks5(sock) if first == b"\x05" else self._http(sock)
            with sock, connect(port) as other:
                self.count += 1
                self._carry(sock, other)
        except (OSError, EOFError, AssertionError, ValueError):
            sock.close()

    def _socks5(self, sock):
        _, count = recv_exact(sock, 2)
        assert 2 in recv_exact(sock, count)
        sock.sendall(b"\x05\x02")
        _, size = recv_exact(sock, 2)
        user = recv_exact(sock, size)
        password = recv_exact(sock, recv_exact(sock, 1)[0])
        assert (user, password) == (self.USER, self.PASSWORD)
        sock.sendall(b"\x01\x00")
        head = recv_exact(sock, 5)
        assert head[:4] == b"\x05\x01\x00\x03", f"not CONNECT with a name: {head!r}"
        assert recv_exact(sock, head[4]) == b"127.0.0.1"
        (port,) = struct.unpack(">H", recv_exact(sock, 2))
        sock.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34")
        return port

    def _http(self, sock):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += recv_exact(sock, 1)
        line, *headers = head.decode().split("\r\n")
        method, target, _ = line.split(" ")
        given = {name.lower(): value.strip() for name, _, value in
                 (header.partition(":") for header in headers)}
        wanted = base64.b64encode(self.USER + b":" + self.PASSWORD).decode()
        assert method == "CONNECT" and given["proxy-authorization"] == f"Basic {wanted}", head
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return int(target.split(":")[1])

    def _carry(self, one, other):
        for sock in (one, other):
            sock.settimeout(None)
        ways = {one: other, other: one}
        while ways:
            for sock in select.select(list(ways), [], [], 60)[0]:
                data = sock.recv(65536)
                if data:
                    ways[sock].sendall(data)
                else:
                    ways.pop(sock).shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()


@pytest.fixture
def workdir(tmp_path):
    """A directory with the files that the examples name."""
    directory = tmp_path / "examples" / "tls"
    directory.mkdir(parents=True)
    own = identity("localhost")
    (directory / "rootCA.crt").write_bytes(certificates.authority().path.read_bytes())
    (directory / "identity.pfx").write_bytes(own.pkcs12("3des", "1234").read_bytes())
    return tmp_path


def needs_of(text):
    kinds = {"tls": 'type = "tls"', "websocket": 'type = "websocket"', "proxy": "proxy = "}
    needed = [kind for kind, word in kinds.items() if word in text]
    return needed + (["tls"] if "tls = true" in text else [])


def takes_proxy(workdir):
    """Whether our program's --check takes the client's proxy."""
    path = workdir / "proxy.toml"
    path.write_text(EXAMPLES["use_proxy, http"][0].format(control=1, local=2, proxy=3))
    path.chmod(0o600)
    return subprocess.run([BINARIES[OURS], "--check", "--client", path], capture_output=True,
                          timeout=30).returncode == 0


@pytest.fixture
def run(workdir, processes):
    """run(implementation, role, text) -> a Process with that file"""
    started = []

    def run(implementation, role, text):
        path = workdir / f"{role}.toml"
        path.write_text(text)
        path.chmod(0o600)
        process = Process([BINARIES[implementation], f"--{role}", path], workdir / f"{role}.log",
                          cwd=workdir)
        process.name = f"{role} ({implementation})"
        started.append(process)
        return processes(process, role)

    yield run
    for process in reversed(started):  # rathole's client can't stand a server that dies in an upgrade
        process.stop()
    complaints = [f"{each.name}: {each.verdict()}" for each in started if each.verdict()]
    assert not complaints


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, pair, workdir, run, service):
    files = EXAMPLES[name]
    client, server = (files, files) if isinstance(files, str) else files
    if RATHOLE in pair and not have(RATHOLE):
        pytest.skip(NO_RATHOLE)
    for role, text in (("server", server), ("client", client)):
        if pair[role == "client"] != OURS:
            continue
        for kind in needs_of(text):
            able = takes_proxy(workdir) if kind == "proxy" else is_able(kind)
            if not able:
                pytest.skip(NOT_ABLE.format(kind))
    visit = ask if pair == (OURS, RATHOLE) and "websocket" in name else ping
    proxy = Proxy()
    is_udp = "udp" in name and name != "iperf3"
    one, two = (service(UdpEcho if is_udp else Echo) for _ in range(2))
    if name == "iperf3":
        two = service(UdpEcho)
    ports = {key: free_port() for key in ("control", "visitor", "visitor2")}
    for visitor, local in ((ports["visitor"], one), (ports["visitor2"], two)):
        ledger.current.note_route(visitor, local.port)
    ledger.current.note_route(ports["visitor"], two.port)
    keys = {"public": NOISE_KEYS.pair["server"].public_text,
            "private": NOISE_KEYS.pair["server"].private_text}
    values = {**ports, **keys, "local": one.port, "local2": two.port, "proxy": proxy.port}
    run(pair[0], "server", server.format(**values))
    wait_until(lambda: is_listening(ports["control"]), within(5), "the server")
    run(pair[1], "client", client.format(**values))
    visitors = [ports["visitor"]] + ([ports["visitor2"]] if "visitor2" in server else [])
    for port in visitors:
        if is_udp:
            knock(port, timeout=within(15))
        else:
            wait_until(lambda: is_listening(port), within(10), f"{name} to work")
            for _ in range(5):
                visit(port, b"x" * 10000)
    if name == "iperf3":
        knock(ports["visitor"], timeout=within(15))
    if "proxy" in name:
        assert proxy.count > 0, "the client went past the proxy"
    proxy.close()
