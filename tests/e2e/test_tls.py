"""TLS from the operator's view: certificates that fit or do not, the log lines about them, files that are
read again, resumption, and the memory of an idle connection.

Other files test the relay (test_transports_relay.py), rathole (test_transports_interop.py), and wrong
bytes (test_tls_hostile.py).
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest

import certificates
from capabilities import NO_RATHOLE, NOT_ABLE, is_able, needs_tls
from certificates import NAME, PASSWORD, identity
from harness import (
    BINARIES, NOFILE, OURS, RATHOLE, SANITIZED, TOKEN, have, is_listening, scaled, wait_until,
    within,
)
from limits import Limits
from protocol import (
    CMD_CREATE_DATA_CHANNEL, FakeServer, connect, control_hello, how_closed, recv_exact, u32,
)
from services import Echo, EchoForMany, answers, ping
from tls_peer import Tls
from websocket_peer import WebSocket

ours = pytest.mark.ours
LIMITS = Limits(retry_min=0.1)

IMPLEMENTATIONS = [
    pytest.param(OURS, marks=needs_tls),
    pytest.param(RATHOLE, marks=pytest.mark.skipif(not have(RATHOLE), reason=NO_RATHOLE)),
]
either = pytest.mark.parametrize("program", IMPLEMENTATIONS)


@pytest.fixture(autouse=True)
def roots(monkeypatch):
    """The system's roots are those that a test says, on every machine."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.system_roots()))
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")


def test_the_probe_and_the_version_agree():
    """Tests are skipped where --check refuses a file: that must not hide a build that has the transport."""
    said = subprocess.run([BINARIES[OURS], "--version"], capture_output=True, text=True,
                          timeout=30).stdout
    for kind in ("tls", "websocket"):
        assert bool(re.search(rf"transports:.*\b{kind}\b", said)) == is_able(kind), (kind, said)
    assert bool(re.search(r"^TLS: OpenSSL 3\.", said, re.M)) == is_able("tls"), said


def without_openssl(*command, hidden):
    """Runs the program where the library can't be loaded."""
    return subprocess.run(["unshare", "-m", "sh", "-c",
                           'mount --bind /dev/null "$1" && shift && exec "$@"', "sh", hidden,
                           BINARIES[OURS], *command], capture_output=True, text=True, timeout=30)


@ours
@needs_tls
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a library")
@pytest.mark.parametrize("library", ["libssl.so.3", "libcrypto.so.3"])
def test_openssl_is_missing(client, library):
    """One line says which package to install; what needs no TLS is not affected."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    found = re.search(rf"^\s*{re.escape(library)} .*=> (\S+)$", known, re.M)
    if not found:
        pytest.skip(f"ldconfig does not know {library}")
    hidden = os.path.realpath(found[1])
    said = without_openssl("--version", hidden=hidden)
    assert said.returncode == 0 and "\nTLS: no OpenSSL 3 on this machine" in said.stdout, said
    t = client(OURS, Tls())
    file = t.workdir / "openssl.ini"
    file.write_text(t.config("client"))
    file.chmod(0o600)
    said = without_openssl("--check", "--client", file, hidden=hidden)
    assert said.returncode == 1, said
    assert re.fullmatch(r"\S+: client\.transport\.tls: TLS needs libssl\.so\.3.*install .*libssl3.*\n",
                        said.stderr), said


# --- the server's certificate, seen by a client ---------------------------------------------------

# name of an identity: (the hostname that the client expects, what our log line has to say)
FAULTY = {
    "expired": (NAME, r"has expired"),
    "not yet valid": (NAME, r"valid from|not yet valid"),
    "another name": (NAME, r"name"),
    "partial wildcard": (NAME, r"name"),
    "name in the subject alone": (NAME, r"name"),
    "another address": (None, r"127\.0\.0\.1|address|name"),
    "named": (None, r"127\.0\.0\.1|address|name"),
    "another issuer": (NAME, r"issue|trust|root|authority"),
    "self-signed": (NAME, r"self.signed|issue|trust|root"),
    "for clients": (NAME, r"purpose|usage|server"),
}
GOOD = {"named": NAME, "wildcard": NAME, "chained": NAME, "rsa": NAME, "address": None}


def logs_in(t, transport, timeout=5):
    """Plays the server for one connection: whether the client went on to its hello."""
    with FakeServer(t.control_port, secure=transport.server) as fake:
        if not (t.client and t.client.alive()):
            t.start_client()
        try:
            return len(recv_exact(fake.accept(within(timeout)), 37)) == 37
        except (OSError, EOFError):
            return False


@pytest.fixture
def client(tunnel):
    """make(program, transport) -> a Tunnel for a client alone, which is not started."""

    def make(program, transport, **options):
        return tunnel({"s": 1}, server=program, client=program, transport=transport, start=False,
                      limits=LIMITS, **options)

    return make


@either
@pytest.mark.parametrize("name", FAULTY)
def test_client_refuses_a_faulty_certificate(client, program, name):
    """Neither program says its hello to such a server. Ours goes on trying, and says what is wrong."""
    hostname, word = FAULTY[name]
    transport = Tls(name, hostname)
    t = client(program, transport)
    assert not logs_in(t, transport), "the client said its hello"
    if program == OURS:
        t.client.wait_log(rf"(warn|error).*({word})", within(3))
        assert t.client.alive()
        assert logs_in(t, Tls("named" if hostname else "address", hostname)), "no second attempt"


@either
@pytest.mark.parametrize("name", GOOD)
def test_client_takes_a_good_certificate(client, program, name):
    transport = Tls(name, GOOD[name])
    assert logs_in(client(program, transport), transport)


@either
def test_roots_of_the_system_count_beside_the_file(client, program):
    """As with rathole, trusted_root is added to the system's roots."""
    transport = Tls("another issuer")
    assert not logs_in(client(program, transport), transport)
    os.environ["SSL_CERT_FILE"] = str(certificates.stranger().path)
    assert logs_in(client(program, transport), transport)


@ours
@needs_tls
def test_roots_of_the_system_can_be_left_out(client, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.stranger().path))
    transport = Tls("another issuer", only_file=True)
    t = client(OURS, transport)
    assert not logs_in(t, transport)
    assert logs_in(t, Tls("named"))


@either
def test_no_trusted_root_means_the_roots_of_the_system(client, program, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority().path))
    transport = Tls("named")
    transport.keys["client"]["trusted_root"] = None
    assert logs_in(client(program, transport), transport)


@either
@pytest.mark.parametrize("hostname", [NAME, None, "remote"])
def test_server_name_indication(client, program, hostname):
    """tls.hostname, else the host of remote_addr; none at all for an address."""
    given = None if hostname == "remote" else hostname
    transport = Tls("named", given)
    heard = []
    transport.context("server").sni_callback = lambda _socket, name, _context: heard.append(name)
    t = client(program, transport, remote_host="localhost" if hostname == "remote" else "127.0.0.1")
    logs_in(t, transport)
    assert heard == ["localhost" if hostname == "remote" else hostname]


@either
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_client_speaks_both_versions_and_offers_no_alpn(client, program, version):
    transport = Tls()
    context = transport.context("server")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    t = client(program, transport)
    seen = []

    def serve(sock, **options):
        seen.append(Tls.server(transport, sock, **options))
        return seen[-1]

    with FakeServer(t.control_port, secure=serve) as fake:
        t.start_client()
        recv_exact(fake.accept(within(5)), 37)
    assert seen[0].tls.version() == version.replace("_", ".")
    assert seen[0].tls.selected_alpn_protocol() is None


# --- the server's files ---------------------------------------------------------------------------


@pytest.fixture
def server(tunnel):
    """make(program, transport) -> a Tunnel with its server alone, started."""

    def make(program, transport, **options):
        t = tunnel({"s": None}, server=program, client=program, transport=transport, start=False,
                   **options)
        t.start_server()
        return t

    return make


def serves(t):
    with t.login("s") as session:
        return session.command(within(3)) == CMD_CREATE_DATA_CHANNEL


@either
@pytest.mark.parametrize("form", ["aes", "3des"])
@pytest.mark.parametrize("name", ["named", "rsa", "chained"])
def test_server_reads_pkcs12(server, program, form, name):
    """With the chain in it: the client that the test plays knows the root alone."""
    assert serves(server(program, Tls(name, form=form)))


@ours
@needs_tls
@pytest.mark.parametrize("name", ["named", "rsa", "chained"])
def test_server_reads_pem(server, name):
    assert serves(server(OURS, Tls(name, form="pem")))


@ours
@needs_tls
def test_pkcs12_of_the_old_kind_is_read_or_named(server, tunnel):
    """OpenSSL 3 reads RC2 with its legacy provider only, which need not be there."""
    t = tunnel({"s": None}, transport=Tls(form="legacy"), start=False)
    process = t.spawn("server")
    wait_until(lambda: not process.alive() or is_listening(t.control_port), within(5), "either")
    if process.alive():
        assert serves(t)
        return
    assert process.popen.returncode == 1
    assert re.search(r"named\.legacy.*(legacy|RC2|old|algorithm|again)", process.log()), process.log()


def wrong_password(keys, _directory):
    keys["pkcs12_password"] = "another-password"


def no_password(keys, _directory):
    keys["pkcs12_password"] = None


def missing_file(keys, directory):
    keys["pkcs12"] = directory / "missing.p12"


def garbage(keys, directory):
    keys["pkcs12"] = directory / "garbage.p12"
    keys["pkcs12"].write_bytes(os.urandom(3000))


def truncated(keys, directory):
    data = keys["pkcs12"].read_bytes()
    keys["pkcs12"] = directory / "truncated.p12"
    keys["pkcs12"].write_bytes(data[: len(data) // 2])


def empty(keys, directory):
    keys["pkcs12"] = directory / "empty.p12"
    keys["pkcs12"].write_bytes(b"")


def a_directory(keys, directory):
    keys["pkcs12"] = directory


def pem_as_pkcs12(keys, _directory):
    keys["pkcs12"] = identity("named").certificate_path


def nothing_at_all(keys, _directory):
    keys["pkcs12"] = keys["pkcs12_password"] = None


def no_key(keys, directory):
    path = directory / "no-key.p12"
    certificates.openssl("pkcs12", "-export", "-nokeys", "-in", identity("named").certificate_path,
                         "-out", path, "-passout", f"pass:{PASSWORD}")
    keys["pkcs12"] = path


def pem_only(keys, **given):
    keys["pkcs12"] = keys["pkcs12_password"] = None
    keys.update(given)


def another_key(keys, _directory):
    pem_only(keys, certificate=identity("named").certificate_path,
             private_key=identity("renewed").key_path)


def certificate_without_key(keys, _directory):
    pem_only(keys, certificate=identity("named").certificate_path)


def key_without_certificate(keys, _directory):
    pem_only(keys, private_key=identity("named").key_path)


def key_as_certificate(keys, _directory):
    pem_only(keys, certificate=identity("named").key_path, private_key=identity("named").key_path)


def both_forms(keys, _directory):
    keys.update(certificate=identity("named").certificate_path, private_key=identity("named").key_path)


# what is wrong: the words that the line has to have, beside the file's or the key's name
BAD_FILES = {
    wrong_password: r"pkcs12.*password",
    no_password: r"pkcs12_password",
    missing_file: r"missing\.p12.*([Nn]o such file|not found|does not exist)",
    garbage: r"garbage\.p12",
    truncated: r"truncated\.p12",
    empty: r"empty\.p12",
    a_directory: r"directory|pkcs12",
    pem_as_pkcs12: r"named\.crt.*(PEM|PKCS)",
    nothing_at_all: r"pkcs12|certificate",
    no_key: r"no-key\.p12.*key",
    another_key: r"named\.crt.*private key is not|private_key.*(match|belong)",
    certificate_without_key: r"private_key",
    key_without_certificate: r"certificate",
    key_as_certificate: r"named\.key.*certificate|certificate.*named\.key",
    both_forms: r"pkcs12.*certificate|certificate.*pkcs12",
}


@ours
@needs_tls
@pytest.mark.parametrize("change", BAD_FILES, ids=lambda change: change.__name__)
def test_bad_files_are_refused_at_the_start(tunnel, tmp_path, change):
    """By the start and by --check, in one line that names the file and holds no secret."""
    transport = Tls()
    change(transport.keys["server"], tmp_path)
    t = tunnel({"s": None}, transport=transport, start=False)
    process = t.spawn("server")
    assert process.wait(within(10)) == 1
    checked = subprocess.run([BINARIES[OURS], "--check", "--server", t.workdir / "server.ini"],
                             capture_output=True, text=True, timeout=within(10), cwd="/")
    assert checked.returncode == 1
    for said in (process.log(), checked.stderr):
        assert re.search(BAD_FILES[change], said), said
        assert PASSWORD not in said and "another-password" not in said


@ours
@needs_tls
@pytest.mark.parametrize("trusted_root, word", [
    ("missing", r"missing\.crt"), ("garbage", r"garbage\.crt"), ("key", r"named\.key")])
def test_bad_trusted_root_is_refused_at_the_start(tunnel, tmp_path, trusted_root, word):
    transport = Tls()
    path = identity("named").key_path if trusted_root == "key" else tmp_path / f"{trusted_root}.crt"
    if trusted_root == "garbage":
        path.write_bytes(os.urandom(1000))
    transport.keys["client"]["trusted_root"] = path
    t = tunnel({"s": 1}, transport=transport, start=False)
    process = t.spawn("client")
    assert process.wait(within(10)) == 1
    assert re.search(word, process.log()), process.log()


@ours
@needs_tls
def test_password_from_a_file(server, tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    transport = Tls()
    transport.keys["server"]["pkcs12_password"] = f"file:{path}"
    assert serves(server(OURS, transport))


# --- versions -------------------------------------------------------------------------------------


@ours
@needs_tls
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_server_speaks_both_versions(server, version):
    transport = Tls()
    context = transport.context("client")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    assert serves(server(OURS, transport))


@either
def test_server_ignores_alpn(server, program):
    transport = Tls()
    transport.context("client").set_alpn_protocols(["h2"])
    t = server(program, transport)
    assert serves(t)
    with transport.client(connect(t.control_port)) as sock:
        assert sock.tls.selected_alpn_protocol() is None


@either
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_server_refuses_tls_1_1(server, program):
    t = server(program, Tls())
    context = Tls().context("client")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    transport = Tls()
    transport.context = lambda role: context
    with pytest.raises((ssl.SSLError, OSError)):
        transport.client(connect(t.control_port))
    assert serves(t)


# --- client certificates --------------------------------------------------------------------------


@ours
@needs_tls
@pytest.mark.parametrize("form", ["aes", "pem"])
def test_client_certificate(tunnel, service, form):
    """Both ends are ours; the client's own is in PEM or PKCS#12."""
    transport = Tls(client="client")
    if form != "pem":
        pem_only(transport.keys["client"], certificate=None, private_key=None,
                 pkcs12=identity("client").pkcs12(form), pkcs12_password=PASSWORD)
    t = tunnel({"echo": service(Echo).port}, transport=transport)
    for _ in range(5):
        ping(t.port())


@ours
@needs_tls
@pytest.mark.parametrize("name, word", [
    (None, r"no certificate|did not (send|give|return)|client.*certificate"),
    ("client, expired", r"has expired"),
    ("client, another issuer", r"issue|trust|root|authority"),
    ("client, for servers", r"purpose|usage|client"),
])
def test_faulty_client_certificate_is_refused(server, name, word):
    wanted = Tls(client="client")
    t = server(OURS, wanted)
    played = Tls(client=name)
    with pytest.raises((OSError, EOFError)):
        sock = played.client(connect(t.control_port))
        sock.sendall(control_hello("s"))
        recv_exact(sock, 37)
    t.server.wait_log(rf"(warn|error|info).*({word})", within(2))
    assert serves(t)


@ours
@needs_tls
def test_client_certificate_for_data_channels_too(server):
    t = server(OURS, Tls(client="client"))
    with t.login("s") as session:
        session.secure = Tls().client
        with pytest.raises((OSError, EOFError)):
            recv_exact(session.open_channel(), 4)


# --- resumption -----------------------------------------------------------------------------------


def reused(transport, port, session):
    """(whether the server resumed, a session for the next connection)"""
    with transport.client(connect(port), session=session) as sock:
        sock.sendall(control_hello("s"))
        recv_exact(sock, 37)  # with TLS 1.3 the tickets come before
        return sock.tls.session_reused, sock.tls.session


@either
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_server_resumes(server, program, version):
    """On every worker, whichever made the ticket."""
    if program == RATHOLE and version == "TLSv1_3":
        pytest.skip("rathole's server speaks TLS 1.2 only")
    transport = Tls()
    context = transport.context("client")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    t = server(program, transport, threads=4)
    is_reused, session = reused(transport, t.control_port, None)
    assert not is_reused
    for _ in range(20):
        is_reused, session = reused(transport, t.control_port, session)
        assert is_reused


@either
def test_server_resumes_for_openssl(server, program, tmp_path):
    """The same with `openssl s_client`, which keeps its session in a file."""
    t = server(program, Tls())
    path = tmp_path / "session"
    base = ["s_client", "-connect", f"127.0.0.1:{t.control_port}", "-servername", NAME, "-tls1_2",
            "-CAfile", certificates.authority().path, "-verify_return_error"]
    first = certificates.openssl(*base, "-sess_out", path, input=b"Q\n")
    assert b"\nNew, " in first and path.stat().st_size > 100
    second = certificates.openssl(*base, "-sess_in", path, input=b"Q\n")
    assert b"\nReused, " in second, second


@ours
@needs_tls
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_client_resumes(tunnel, service, version):
    """After the first connection, whichever worker makes the next."""
    transport = Tls()
    context = transport.context("server")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    t = tunnel({"s": service(Echo).port}, transport=transport, start=False, threads=4)
    with FakeServer(t.control_port, secure=transport.server) as fake:
        t.start_client()
        control, key = fake.accept_login(TOKEN)
        count = 20
        for _ in range(count):
            control.sendall(u32(CMD_CREATE_DATA_CHANNEL))
            channel = fake.accept_data(key)
            channel.sendall(u32(0) + b"x")
            recv_exact(channel, 1)
        # A worker's first connection may come before it has a ticket.
        assert context.session_stats()["hits"] >= count - 4


@ours
@needs_tls
def test_client_resumes_at_ratholes_server(tunnel, service):
    """Where tickets come with TLS 1.2. What resumes there is seen in the bytes: no certificate comes."""
    if not have(RATHOLE):
        pytest.skip(NO_RATHOLE)
    t = tunnel({"echo": service(Echo).port}, server=RATHOLE, client=OURS, transport=Tls())
    for _ in range(30):
        ping(t.port())


@ours
@needs_tls
def test_a_session_does_not_stand_in_for_a_client_certificate(server):
    """A ticket from a server without client_ca is of no use at one with it."""
    plain = Tls()
    one = server(OURS, plain)
    _, session = reused(plain, one.control_port, None)
    two = server(OURS, Tls(client="client"))
    with pytest.raises((OSError, EOFError)):
        reused(plain, two.control_port, session)


# --- read again -----------------------------------------------------------------------------------


def serial_at(t):
    context = Tls().context("client")
    transport = Tls()
    transport.context = lambda role: context
    with transport.client(connect(t.control_port)) as sock:
        return int(sock.tls.getpeercert()["serialNumber"], 16)


def replace(path, source):
    other = path.with_suffix(".new")
    other.write_bytes(source.read_bytes())
    other.chmod(0o600)
    os.rename(other, path)


@pytest.fixture(params=["aes", "pem"])
def renewable(request, tunnel, service, tmp_path):
    """(a Tunnel, replace_files(name of an identity)); the server's files are the test's own."""
    transport = Tls(form=request.param)
    keys = transport.keys["server"]
    paths = {}
    for key in ("pkcs12", "certificate", "private_key"):
        if key in keys:
            paths[key] = tmp_path / key
            replace(paths[key], keys[key])
            keys[key] = paths[key]

    def replace_files(name):
        new = identity(name)
        sources = {"pkcs12": new.pkcs12("aes") if "pkcs12" in paths else None,
                   "certificate": new.certificate_path, "private_key": new.key_path}
        for key, path in paths.items():
            replace(path, sources[key])

    return tunnel({"echo": service(Echo).port}, transport=transport), replace_files, paths


@ours
@needs_tls
def test_certificates_are_read_again(renewable):
    """On SIGHUP new connections get the new certificate, and no session or relay ends."""
    t, replace_files, _ = renewable
    assert serial_at(t) == identity("named").serial
    with connect(t.port()) as visitor:
        visitor.sendall(b"before")
        assert recv_exact(visitor, 6) == b"before"
        logins = t.client.log().count("established")
        replace_files("renewed")
        t.server.signal(signal.SIGHUP)
        wait_until(lambda: serial_at(t) == identity("renewed").serial, within(5), "the new certificate")
        for n in range(20):
            ping(t.port())
            visitor.sendall(b"%d" % (n % 10))
            assert recv_exact(visitor, 1) == b"%d" % (n % 10)
    assert t.client.log().count("established") == logins


def expiry_warnings(text):
    return re.findall(r"(?:warning:|WARN ) \S+: server\.transport\.tls: (the certificate (?:has )?expire.*)",
                      text)


@ours
@needs_tls
def test_expiry_is_warned_of(renewable):
    """Once for each time that the file is read, on a reload and for --check."""
    t, replace_files, _ = renewable
    assert expiry_warnings(t.server.log()) == []
    expiry = identity("expiring").certificate.not_valid_after
    words = [f"the certificate expires in 3 days ({expiry:%Y-%m-%d})"]
    replace_files("expiring")
    for count in (1, 2):
        t.server.signal(signal.SIGHUP)
        wait_until(lambda: t.server.log().count("INFO  reload:") == count, within(5), "the reload")
        assert expiry_warnings(t.server.log()) == words * count
    config = t.workdir / "checked.ini"
    config.write_text(t.config("server"))
    config.chmod(0o600)
    checked = subprocess.run([BINARIES[OURS], "--check", "--server", config], capture_output=True,
                             text=True, timeout=30)
    assert checked.returncode == 0 and expiry_warnings(checked.stderr) == words, checked
    replace_files("renewed")
    t.server.signal(signal.SIGHUP)
    wait_until(lambda: serial_at(t) == identity("renewed").serial, within(5), "the new certificate")
    assert expiry_warnings(t.server.log()) == words * 2


@ours
@needs_tls
def test_an_expired_certificate_is_warned_of_at_the_start(server):
    t = server(OURS, Tls("expired"))
    log = t.server.log()
    expiry = identity("expired").certificate.not_valid_after
    assert expiry_warnings(log) == [
        f"the certificate has expired ({expiry:%Y-%m-%d}): renew it, then send SIGHUP"]
    assert re.search(r"INFO  tls: by OpenSSL 3\.", log), log


@ours
@needs_tls
def test_broken_new_files_are_refused_and_the_old_stay(renewable):
    t, replace_files, paths = renewable
    since = len(t.server.log())
    for path in paths.values():
        path.write_bytes(b"half a file")
    t.server.signal(signal.SIGHUP)
    t.server.wait_log(r"(error|warn).*(pkcs12|certificate)", within(5), since)
    assert PASSWORD not in t.server.log()
    assert serial_at(t) == identity("named").serial
    ping(t.port())
    replace_files("renewed")
    t.server.signal(signal.SIGHUP)
    wait_until(lambda: serial_at(t) == identity("renewed").serial, within(5), "the new certificate")
    ping(t.port())


@ours
@needs_tls
def test_the_clients_root_is_read_again(tunnel, service, tmp_path):
    """A client that trusts another authority now takes its server, without a restart."""
    root = tmp_path / "root.crt"
    replace(root, certificates.stranger().path)
    transport = Tls()
    transport.keys["client"]["trusted_root"] = root
    os.environ["SSL_CERT_FILE"] = "/nonexistent"
    t = tunnel({"echo": service(Echo).port}, transport=transport, start=False, limits=LIMITS)
    t.start_server()
    t.start_client()
    t.client.wait_log(r"issue|trust|root|authority", within(5))
    replace(root, certificates.authority().path)
    t.client.signal(signal.SIGHUP)
    wait_until(lambda: answers(t.port()), within(10), "the service")


@ours
@needs_tls
def test_new_roots_of_the_system_are_read(tunnel, service, tmp_path_factory, monkeypatch):
    """A directory of links to files elsewhere, which the sandbox has left to the client as well."""
    names, files = tmp_path_factory.mktemp("names"), tmp_path_factory.mktemp("files") / "in"
    files.mkdir()
    for number, root in enumerate((certificates.stranger(), certificates.authority())):
        shutil.copy(root.path, files / f"{number}.pem")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSL_CERT_DIR", str(names))
    (names / "00000000.0").symlink_to(files / "0.pem")
    transport = Tls("named")
    transport.keys["client"]["trusted_root"] = None
    t = tunnel({"echo": service(Echo).port}, transport=transport, start=False, limits=LIMITS)
    t.start_server()
    t.start_client()
    t.client.wait_log(r"issue|trust|root|authority", within(5))
    t.client.signal(signal.SIGHUP)
    t.client.wait_log(r"reload: nothing has changed", within(10))
    (names / "00000001.0").symlink_to(files / "1.pem")
    t.client.signal(signal.SIGHUP)
    t.client.wait_log(r"reload: .*certificates", within(10))
    wait_until(lambda: answers(t.port()), within(10), "the service")


@ours
@needs_tls
def test_transport_changes_on_reload(tunnel, service):
    """From plain TCP to TLS in both files: the session comes again over TLS. The files of TLS lie beside the
    token: the sandbox has left that directory to both ends."""
    secret = certificates.directory() / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    token = {"default_token": f"file:{secret}"}
    t = tunnel({"echo": service(Echo).port}, server_options=token, client_options=token,
               limits=Limits(watch_look=0.05, watch_again=0.03, retry_min=0.1))
    ping(t.port())
    transport = Tls()
    t.transport = {"server": transport, "client": transport}
    for role in ("server", "client"):
        (t.workdir / f"{role}.ini").write_text(t.config(role))
    wait_until(lambda: is_tls(t), within(10), "TLS")
    t.server.wait_log(r"(?s)reload: transport.*control channel established", within(10))
    wait_until(lambda: answers(t.port()), within(10), "the service")
    ping(t.port())


def is_tls(t):
    try:
        return serial_at(t) == identity("named").serial
    except OSError:
        return False


# --- secrets and memory ---------------------------------------------------------------------------


@ours
@needs_tls
@pytest.mark.parametrize("form", ["aes", "pem"])
def test_no_secret_in_any_log(tunnel, service, form):
    level = {"log_level": "trace"}
    t = tunnel({"echo": service(Echo).port}, transport=Tls(form=form, client="client"),
               server_options=level, client_options=level)
    ping(t.port())
    with pytest.raises((OSError, EOFError)):
        sock = Tls().client(connect(t.control_port))
        sock.sendall(control_hello("s"))
        recv_exact(sock, 37)
    number = identity("named").private_key.private_numbers().private_value
    for process in (t.server, t.client):
        log = process.log()
        assert PASSWORD not in log and TOKEN not in log and f"{number:x}" not in log.lower()


@ours
@pytest.mark.skipif(SANITIZED, reason="memory of a sanitizer build says nothing")
@pytest.mark.time_limit(120)
@pytest.mark.parametrize("kind, most", [
    # See docs/decisions.md, "An idle TLS connection is as large as OpenSSL makes it".
    pytest.param("tls", 24 if ssl.OPENSSL_VERSION_INFO < (3, 2) else 40, marks=needs_tls),
    pytest.param("websocket", 1, marks=pytest.mark.skipif(
        not is_able("websocket"), reason=NOT_ABLE.format("websocket"))),
])
def test_memory_of_idle_connections(tunnel, service, kind, most):
    """KiB for each connection on either end, after a first batch has filled what fills once."""
    transport = {"tls": Tls, "websocket": WebSocket}[kind]()
    t = tunnel({"echo": service(EchoForMany).port}, transport=transport, threads=2)
    limit = NOFILE // 2 - 200
    first, count = min(scaled(400, 200), limit // 4), min(scaled(1000, 400, full=5000), limit // 2)
    visitors = []

    def more(number):
        for at in range(0, number, 32):
            batch = [connect(t.port(), timeout=within(10)) for _ in range(min(32, number - at))]
            for visitor in batch:
                visitor.sendall(b"x" * 1000)
            for visitor in batch:
                assert recv_exact(visitor, 1000) == b"x" * 1000
            visitors.extend(batch)
        time.sleep(0.5)
        return [t.server.private_kib(), t.client.private_kib()]

    try:
        before, after = more(first), more(count)
        for process, grown in zip((t.server, t.client), (b - a for a, b in zip(before, after))):
            # 128 KiB of tolerance: slabs grow in large steps.
            assert grown <= most * count + 128, (
                f"{process.name}: {grown / count:.2f} KiB for each of {count} idle connections")
    finally:
        for visitor in visitors:
            visitor.close()


# --- the key update of TLS 1.3 --------------------------------------------------------------------


@ours
@needs_tls
def test_key_updates(server, tmp_path):
    """`openssl s_client` sends one for each line with K, and asks for one back."""
    t = server(OURS, Tls())
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{t.control_port}", "-servername", NAME,
               "-tls1_3", "-CAfile", str(certificates.authority().path), "-verify_return_error"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as s_client:
        for _ in range(3):
            time.sleep(0.2)  # each line has to be a read of its own
            os.write(s_client.stdin.fileno(), b"K\n")
        time.sleep(0.2)
        os.write(s_client.stdin.fileno(), control_hello("s"))
        seen, deadline = b"", time.monotonic() + within(5)
        while not re.search(rb"\0\0\0\0\x01.{32}", seen, re.S) and time.monotonic() < deadline:
            seen += os.read(s_client.stdout.fileno(), 65536) or b"."
        s_client.kill()
        s_client.stdout.close()
        assert re.search(rb"\0\0\0\0\x01.{32}", seen, re.S), "no answer behind the key updates"
        assert s_client.stderr.read().count(b"KEYUPDATE") == 3
    assert serves(t)
    assert how_closed(socket.create_connection(("127.0.0.1", t.control_port)), 0)[0] == "open"
