"""PROXY headers to and from the programs that people use: nginx and HAProxy behind the tunnel, HAProxy and
nginx in front of the node, and OpenSSH's server behind a front that takes the header off."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile

import pytest

from capabilities import skip_unless_able
from harness import OURS, RATHOLE, ROOT, Process, free_port, is_listening, wait_until, within
from protocol import connect, recv_exact
from proxy_protocol import Headed
from services import Echo

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
worker_processes 1;
{modules}
events {{ worker_connections 1024; }}
"""
NGINX_HTTP = NGINX + """
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        set_real_ip_from 127.0.0.1;
        real_ip_header proxy_protocol;
        location / {{
            return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
$proxy_protocol_server_port $remote_addr\\n";
        }}
    }}
}}
"""
# A front of a service that can't read the header: it takes the header off.
NGINX_STREAM = NGINX + """
stream {{
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        proxy_pass 127.0.0.1:{to};
    }}
}}
"""
HAPROXY = """
global
    maxconn 1000
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind {host}:{port} {accept}
    {rules}
"""
HAPROXY_HTTP = """http-request return status 200 content-type text/plain \
lf-string "%[src] %[src_port] %[dst] %[dst_port] %[src]\\n" """
HAPROXY_TO = """default_backend back
backend back
    server s 127.0.0.1:{to} {send}
"""
MODULES = ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/share/nginx/modules/ngx_stream_module.so",
           "/usr/lib64/nginx/modules/ngx_stream_module.so")


def program(name):
    path = shutil.which(name, path=PATH)
    if not path:
        pytest.skip(f"{name} not found: scripts/setup test installs it")
    return path


def stream_module():
    """The line that loads nginx's module for streams, where it is not built in."""
    built_in = subprocess.run([program("nginx"), "-V"], capture_output=True, text=True, timeout=30).stderr
    if "--with-stream " in built_in or built_in.rstrip().endswith("--with-stream"):
        return ""
    for path in MODULES:
        if pathlib.Path(path).exists():
            return f"load_module {path};"
    pytest.skip("nginx has no module for streams: scripts/setup test installs it")


@pytest.fixture
def run(tmp_path, processes):
    """run(name, text, **values) -> the port of a program that listens with this configuration."""

    def start(name, text, host="127.0.0.1", **values):
        port = free_port()
        directory = tmp_path / f"{name}{port}"
        directory.mkdir(mode=0o755)
        path = directory / "conf"
        path.write_text(text.format(directory=directory, port=port, host=host, **values))
        argv = ["haproxy", "-db", "-f", path] if name == "haproxy" else \
               ["nginx", "-c", path, "-p", directory, "-e", "stderr",
                *(["-g", "user root;"] if os.geteuid() == 0 else [])]
        process = processes(Process([program(name), *argv[1:]], directory / "log"), name)
        process.name = name
        wait_until(lambda: is_listening(port), within(10), lambda: f"{name}:\n{process.log()}")
        return port

    return start


def nginx_behind(run):
    return run("nginx", NGINX_HTTP, modules="")


def haproxy_behind(run):
    return run("haproxy", HAPROXY, mode="http", accept="accept-proxy", rules=HAPROXY_HTTP)


def get(port, host="127.0.0.1", source=None):
    """(the words of the answer, the visitor's own address)"""
    with connect(port, host=host, source=source) as visitor:
        own = visitor.getsockname()[:2]
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        visitor.settimeout(within(10))
        answer = b""
        while part := visitor.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], answer
    return body.decode().split(), own


@pytest.mark.parametrize("client", [OURS, RATHOLE])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("behind", [nginx_behind, haproxy_behind], ids=["nginx", "haproxy"])
def test_behind(tunnel, run, behind, version, client):
    skip_unless_able(None, (OURS, client))
    t = tunnel({"web": behind(run)}, server=OURS, client=client, visitor_host="[::]",
               service_options={"web": {"proxy_protocol": version}})
    for host, source in (("127.0.0.1", "127.0.0.7"), ("::1", None)):
        words, own = get(t.port("web"), host, source)
        assert words == [own[0], str(own[1]), host, str(t.port("web")), own[0]]


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2",
                                  "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_in_front(tunnel, service, run, send):
    """The node takes the address from HAProxy, and the service gets it from the node."""
    local = service(Headed)
    t = tunnel({"s": local.port}, server=OURS,
               service_options={"s": {"accept_proxy_protocol": "127.0.0.1", "proxy_protocol": "v1"}})
    for host in ("127.0.0.1", "::1"):
        local.also_meant(1)
        front = run("haproxy", HAPROXY, host=host, mode="tcp", accept="",
                    rules=HAPROXY_TO.format(to=t.port("s"), send=send))
        with connect(front, host=host) as visitor:
            own = visitor.getsockname()[:2]
            visitor.sendall(b"hello")
            visitor.settimeout(within(10))
            assert recv_exact(visitor, 5) == b"hello"
        header = local.wait_record(len(local.records) - 1, within(10)).header
        assert header.source == own and header.to == (host, front)


def test_haproxys_health_checks(tunnel, service, run):
    """They come with LOCAL, and are connections like any other."""
    local = service(Echo)
    local.also_meant(1000)
    t = tunnel({"s": local.port}, server=OURS,
               service_options={"s": {"accept_proxy_protocol": "127.0.0.1", "max_connections_per_ip": 50}})
    run("haproxy", HAPROXY, mode="tcp", accept="",
        rules=HAPROXY_TO.format(to=t.port("s"), send="check inter 100 check-send-proxy send-proxy-v2"))
    wait_until(lambda: len(local.records) >= 3, within(10), "three checks to reach the service")
    assert "WARN" not in t.server.log()


def test_nginx_behind_a_node_behind_haproxy(tunnel, run):
    """The whole way: HAProxy, the node, the client, nginx."""
    t = tunnel({"web": nginx_behind(run)}, server=OURS,
               service_options={"web": {"accept_proxy_protocol": "127.0.0.0/8", "proxy_protocol": "v2"}})
    front = run("haproxy", HAPROXY, mode="tcp", accept="",
                rules=HAPROXY_TO.format(to=t.port("web"), send="send-proxy-v2"))
    words, own = get(front, source="127.0.0.9")
    assert words == [own[0], str(own[1]), "127.0.0.1", str(front), own[0]]


def test_the_examples(ours, run, tmp_path):
    """examples/proxy-*.ini, with other ports."""
    ports = {"2333": free_port(), "8080": free_port(), "8081": nginx_behind(run)}
    for role in ("server", "client"):
        text = (ROOT / "examples" / f"proxy-{role}.ini").read_text()
        for number, port in ports.items():
            text = text.replace(f":{number}", f":{port}")
        path = tmp_path / f"{role}.ini"
        path.write_text(text)
        path.chmod(0o600)
        ours(path)
    wait_until(lambda: is_listening(ports["8080"]), within(10), "the service's port")
    words, own = get(ports["8080"], source="127.0.0.9")
    assert words == [own[0], str(own[1]), "127.0.0.1", str(ports["8080"]), own[0]]


# --- ssh ----------------------------------------------------------------------------------------

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
"""


def nginx_front(run, to):
    return run("nginx", NGINX_STREAM, modules=stream_module(), to=to)


def haproxy_front(run, to):
    return run("haproxy", HAPROXY, mode="tcp", accept="accept-proxy", rules=HAPROXY_TO.format(to=to, send=""))


@pytest.fixture
def sshd(processes):
    """(its port, the directory with a user's key) of a real sshd that lets root in by that key."""
    if os.geteuid() != 0:
        pytest.skip("sshd lets others in only as root")
    path = program("sshd")
    try:
        pwd.getpwnam("sshd")
    except KeyError:
        pytest.skip("there is no user sshd")
    with tempfile.TemporaryDirectory(prefix="e2e-sshd-") as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        pathlib.Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True,
                           timeout=30)
        port = free_port()
        (directory / "conf").write_text(SSHD.format(port=port, directory=directory))
        process = processes(Process([path, "-D", "-e", "-f", directory / "conf"], directory / "log"), "sshd")
        wait_until(lambda: is_listening(port), within(10), lambda: f"sshd: {process.log()}")
        yield port, directory


@pytest.mark.parametrize("client", [OURS, RATHOLE])
@pytest.mark.parametrize("front", [nginx_front, haproxy_front], ids=["nginx", "haproxy"])
def test_ssh(tunnel, run, sshd, front, client):
    """A front beside sshd reads the header and logs who comes; ssh works through all of it."""
    skip_unless_able(None, (OURS, client))
    port, directory = sshd
    t = tunnel({"ssh": front(run, port)}, server=OURS, client=client,
               service_options={"ssh": {"proxy_protocol": "v2"}})
    size = 300000
    done = subprocess.run(
        ["ssh", "-p", str(t.port("ssh")), "-i", directory / "user", "-F", "none", "-o", "BatchMode=yes",
         "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={directory}/known",
         "root@127.0.0.1", f"head -c {size} /dev/zero; cat"],
        input=b"and back", capture_output=True, timeout=within(30))
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(size) + b"and back"
    with socket.create_connection(("127.0.0.1", port)) as direct:
        direct.settimeout(within(10))
        assert direct.recv(8) == b"SSH-2.0-"
