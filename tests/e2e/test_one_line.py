"""The command line without a configuration file: server, client, --print-config and init, and the programs
behind --from-frp and --from-rathole."""

import base64
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess

import pytest

import harness
import ledger
import upgrades
from datagrams import UdpEcho, knock
from harness import BINARIES, OURS, RATHOLE, TOKEN, Process, free_port, free_ports, have, wait_until, within
from services import Echo, answers, ping
from test_unix import Local, echo

pytestmark = pytest.mark.ours

PEERS = [OURS, pytest.param(RATHOLE, marks=pytest.mark.skipif(
    not have(RATHOLE), reason="no rathole 0.5.0 found (scripts/setup --peers)"))]
PORTS = 8
LINE = re.compile(r"^On the other side:\n\n    (RATHOLE_URING_TOKEN=(\S+) )?rathole-uring client (\S+)"
                  r"( --token-file FILE)?( --server-key (\S+))? (\S+)=ADDR\n\n", re.M)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's directory, for all that the test runs."""
    path = tmp_path / "home"
    path.mkdir()
    for name in ("XDG_CONFIG_HOME", "RATHOLE_URING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(path))
    return path


def run(*argv, **kwargs):
    """(exit code, stdout, stderr)."""
    result = subprocess.run([BINARIES[OURS], *argv], capture_output=True, text=True,
                            timeout=within(10), **kwargs)
    assert not harness.SANITIZER_REPORT.search(result.stderr), result.stderr
    return result.returncode, result.stdout, result.stderr


class Pair:
    """Both ends, of one line or of a file each; as much of a Tunnel as upgrades.upgrade() needs."""

    def __init__(self, workdir, processes):
        self.workdir, self.kept, self.started = workdir, processes, []
        self.control, self.first = free_port(), free_ports(PORTS)
        self.ports = f"{self.first}-{self.first + PORTS - 1}"
        self.addr = f"127.0.0.1:{self.control}"
        self.server = self.client = None

    def start(self, role, *argv, program=OURS, **kwargs):
        process = Process([BINARIES[program], *argv], self.workdir / f"{role}.log", **kwargs)
        process.name = f"{role} ({program})"
        self.started.append(self.kept(process, process.name))
        setattr(self, role, process)
        return process

    def start_server(self, *more, **kwargs):
        server = self.start("server", "server", "--bind", self.addr, "--ports", self.ports,
                            "--ports", f"{self.ports}/udp", *more, **kwargs)
        wait_until(lambda: harness.is_listening(self.control) or not server.alive(), within(10), "it")
        assert server.alive(), server.log()
        return server

    def start_client(self, *words, **kwargs):
        return self.start("client", "client", self.addr, *words, **kwargs)

    def line(self):
        """The line for the other side: (token, address, public key)."""
        match = wait_until(lambda: LINE.search(self.server.log()), within(10), "the line")
        return match[2], match[3], match[6]

    def save(self, role, text, suffix="ini"):
        path = self.workdir / f"{role}.{suffix}"
        path.write_text(text)
        path.chmod(0o600)
        return path

    def stop(self):
        for process in reversed(self.started):
            process.begin_stop()
        for process in reversed(self.started):
            process.stop()
            assert process.verdict() is None


@pytest.fixture
def pair(tmp_path, processes, home):
    made = Pair(tmp_path, processes)
    yield made
    made.stop()


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def wait_for(port):
    wait_until(lambda: answers(port), within(10), f"port {port}")


# --- both lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [False, True], ids=["tcp", "noise"])
def test_both_lines(pair, service, tmp_path, token_file, noise):
    """TCP, UDP on the same port, and a local service at a unix socket."""
    tcp, udp = service(Echo), service(UdpEcho)
    ledger.current.note_route(pair.first, tcp.port)
    ledger.current.note_route(pair.first, udp.port)
    local = Local(tmp_path / "app.sock", echo)
    pair.start_server("--token-file", token_file, *(["--noise"] if noise else []))
    token, addr, key = pair.line()
    assert (token, addr, key is not None) == (None, pair.addr, noise)
    pair.start_client("--token-file", token_file, f"{pair.first}={tcp.port}",
                      f"{pair.first}/udp=127.0.0.1:{udp.port}", f"{pair.first + 1}=unix:{tmp_path}/app.sock",
                      *(["--server-key", key] if noise else []))
    wait_for(pair.first)
    knock(pair.first, visitors=4)
    wait_for(pair.first + 1)
    local.stop()
    assert pair.server.log().count("On the other side:") == 1
    for process in (pair.server, pair.client):
        assert TOKEN not in process.log() and " ERROR " not in process.log()
        assert ("noise: " in process.log()) == noise


def test_all_addresses(pair, service, token_file):
    """":PORT" has IPv4 and IPv6, for clients and for visitors."""
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    pair.addr = f":{pair.control}"
    pair.start_server("--token-file", token_file)
    assert pair.line()[1] == f"HOST:{pair.control}"
    pair.addr = f"[::1]:{pair.control}"
    pair.start_client(f"--token-file={token_file}", f"{pair.first}=:{local.port}")
    wait_for(pair.first)
    ping(pair.first, host="::1")


def test_a_name_of_a_server_with_a_file(pair, service):
    """The token comes from the environment."""
    local, port = service(Echo), free_port()
    ledger.current.note_route(port, local.port)
    path = pair.save("server", f"[server]\nbind_addr = {pair.addr}\ndefault_token = {TOKEN}\n"
                               f"[server.services.web]\nbind_addr = 127.0.0.1:{port}\n")
    pair.start("server", path)
    pair.start_client(f"web={local.port}", env={"RATHOLE_URING_TOKEN": TOKEN})
    wait_for(port)
    assert TOKEN not in pair.client.log()


@pytest.mark.parametrize("noise", [False, True], ids=["tcp", "noise"])
@pytest.mark.parametrize("end", [pytest.param("server"), pytest.param("client")])
@pytest.mark.skipif(not have(RATHOLE), reason="no rathole 0.5.0 found (scripts/setup --peers)")
def test_rathole_at_the_other_end(pair, service, token_file, end, noise):
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    head, addr, more = f'default_token = "{TOKEN}"\n', f'"127.0.0.1:{pair.first}"', ""
    if end == "client":
        pair.start_server("--token-file", token_file, *(["--noise"] if noise else []))
        head += f'remote_addr = "{pair.addr}"\n'
        more, addr = f'remote_public_key = "{pair.line()[2]}"\n', f'"127.0.0.1:{local.port}"'
    else:
        head += f'bind_addr = "{pair.addr}"\n'
        private, key = run("--genkey")[1].split()[2::3]
        more = f'local_private_key = "{private}"\n'
    text = f"[{end}]\n{head}"
    if noise:
        text += f'[{end}.transport]\ntype = "noise"\n[{end}.transport.noise]\n{more}'
    key_of_addr = "local_addr" if end == "client" else "bind_addr"
    text += f"[{end}.services.tcp-{pair.first}]\n{key_of_addr} = {addr}\n"
    pair.start(end, f"--{end}", pair.save(end, text, "toml"), program=RATHOLE)
    if end == "server":
        pair.start_client("--token-file", token_file, f"{pair.first}={local.port}",
                          *(["--server-key", key] if noise else []))
    wait_for(pair.first)


# --- what is made and kept ----------------------------------------------------------------------


def test_secrets_are_made_once_and_kept(pair, service, home):
    """With a umask that would forbid everything. The line is pasted as it is, with two words filled in."""
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    pair.start_server("--noise", umask=0o777)
    token, addr, key = pair.line()
    kept = home / ".config" / "rathole-uring"
    assert sorted(path.name for path in kept.iterdir()) == ["noise.key", "token"]
    for path in (kept.parent, kept, kept / "token", kept / "noise.key"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert (kept / "token").read_text() == f"{token}\n" and len(base64.b64decode(token)) == 32
    assert run("--pubkey", input=(kept / "noise.key").read_text())[1] == f"{key}\n"
    pair.start_client(f"{pair.first}={local.port}", "--server-key", key, env={"RATHOLE_URING_TOKEN": token})
    wait_for(pair.first)
    assert f"The token is in {kept}/token\n" in pair.server.log()
    pair.server.stop()
    pair.start_server("--noise")
    assert pair.line() == (None, addr, key), "the token is said once"
    wait_for(pair.first)
    assert token not in pair.server.log() + pair.client.log()


def test_a_wrong_token(pair, service, token_file):
    pair.start_server("--token-file", token_file)
    pair.start_client(f"{pair.first}={free_port()}", env={"RATHOLE_URING_TOKEN": "another"})
    pair.client.wait_log("token", within(10))
    assert not harness.is_listening(pair.first)


def test_xdg_config_home(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert run("server", "--ports", "6000", "--print-config")[0] == 0
    assert (tmp_path / "xdg" / "rathole-uring" / "token").exists() and not list(home.iterdir())


def test_no_place_for_secrets(monkeypatch, home):
    monkeypatch.delenv("HOME")
    code, out, err = run("server", "--ports", "6000")
    assert (code, out) == (1, "")
    assert err == "rathole-uring: cannot make $HOME/.config: no such file or directory\n"
    assert run("server", "--ports", "6000", "--token-file", "/nowhere", "--print-config")[0] == 0


# --- --print-config -----------------------------------------------------------------------------


def test_printed_files_do_the_same(pair, service, home, tmp_path):
    """They hold no secret, pass --check without errors, and run as the lines would."""
    tcp, udp = service(Echo), service(UdpEcho)
    ledger.current.note_route(pair.first, tcp.port)
    ledger.current.note_route(pair.first, udp.port)
    code, server, err = run("server", "--bind", pair.addr, "--ports", pair.ports, "--ports",
                            f"{pair.ports}/udp", "--noise", "--print-config")
    assert (code, err) == (0, "")
    kept = home / ".config" / "rathole-uring"
    token = (kept / "token").read_text().strip()
    key = run("--pubkey", input=(kept / "noise.key").read_text())[1].strip()
    (tmp_path / "copy").write_text(token)
    code, client, err = run("client", pair.addr, "--token-file", "copy", "--server-key", key,
                            f"{pair.first}={tcp.port}", f"{pair.first}/udp={udp.port}", "--print-config",
                            cwd=tmp_path)
    assert (code, err) == (0, "")
    assert token not in server + client
    for role, text in (("server", server), ("client", client)):
        path = pair.save(role, text)
        assert run("--check", path, cwd="/")[0] == 0
        pair.start(role, path)
    wait_for(pair.first)
    knock(pair.first, visitors=4)


def test_print_config_to_a_full_disk(home, token_file):
    with open("/dev/full", "w") as full:
        result = subprocess.run([BINARIES[OURS], "server", "--ports", "1", "--token-file", token_file,
                                 "--print-config"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, said", [
    (["server"], "server needs --ports, as in --ports 6000-6999"),
    (["client", "vps:2333"], "client needs a server and services, as in vps:2333 6022=22"),
    (["server", "--ports", "6000", "--status"], 'unknown argument "--status", see --help'),
    (["init", "a", "b"], 'one FILE is enough, "b" is another'),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_usage_errors(home, words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"rathole-uring: {said}\nusage: ")


def test_a_client_without_a_token(home):
    said = "client needs the token: --token-file FILE, or RATHOLE_URING_TOKEN in the environment"
    assert run("client", "vps:2333", "1=2") == (2, "", f"rathole-uring: {said}\n")


@pytest.mark.parametrize("words, said", [
    (["server", "--ports=6000", "--token-file=/nowhere"], r'default_token: .*"/nowhere": no such file'),
    (["server", "--ports=1-9", "--ports=9", "--token-file=T"], r"the name tcp-9 is also one of "),
    (["client", "vps:2333", "1=2", "--token-file=T", "--server-key=CANARY"], r"remote_public_key: expected"),
], ids=["token file", "ports", "key"])
def test_errors_of_the_file(home, tmp_path, token_file, words, said):
    """They name a line of what --print-config prints."""
    words = [word.replace("T", str(token_file)) if word.endswith("=T") else word for word in words]
    code, out, err = run(*words)
    assert (code, out) == (1, "") and "CANARY" not in err
    line = int(re.match(rf"--print-config:(\d+): .*{said}", err)[1])
    code, text, _ = run(*words, "--print-config")
    assert code == 0 and 1 <= line <= len(text.splitlines())


@pytest.mark.parametrize("name", ["server", "client", "init"])
def test_files_that_are_called_like_commands(tmp_path, name):
    text = f"[client]\nremote_addr = 127.0.0.1:1\ndefault_token = {TOKEN}\nuser = nobody\n"
    path = tmp_path / name
    path.write_text(f"{text}[client.services.a]\nlocal_addr = 127.0.0.1:2\n")
    path.chmod(0o600)
    for words in ("--check NAME", "--check ./NAME", "./NAME --check", "-c NAME --check"):
        assert run(*words.replace("NAME", name).split(), cwd=tmp_path)[0] == 0, words


# --- while it runs ------------------------------------------------------------------------------


def test_sighup_reads_the_token_anew(pair, service, token_file):
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    pair.start_server("--token-file", token_file)
    pair.start_client("--token-file", token_file, f"{pair.first}={local.port}")
    wait_for(pair.first)
    # Nothing is watched, and what can't be read changes nothing.
    token_file.unlink()
    pair.server.signal(signal.SIGHUP)
    pair.server.wait_log(r"reload: nothing is changed: --print-config:\d+: server.default_token", within(5))
    ping(pair.first)
    token_file.write_text("another-token\n")
    for process in (pair.server, pair.client):
        since = len(process.log())
        process.signal(signal.SIGHUP)
        process.wait_log(r"reload: services: .* changed", within(5), since)
    wait_for(pair.first)
    since = len(pair.server.log())
    pair.server.signal(signal.SIGHUP)
    pair.server.wait_log("reload: nothing has changed", within(5), since)
    assert pair.server.log().count("On the other side:") == 1


def test_upgrades(pair, service):
    """SIGUSR2 on both ends: the same words, the same secrets, and no visitor is turned away."""
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    pair.start_server("--noise")
    token, _, key = pair.line()
    pair.start_client(f"{pair.first}={local.port}", "--server-key", key, env={"RATHOLE_URING_TOKEN": token})
    wait_for(pair.first)
    visits = upgrades.Visits(pair.first, 100)
    visits.more()
    for role in ("server", "client"):
        old, _ = upgrades.upgrade(pair, role)
        visits.more(50)
        assert old.wait(within(40)) == 0
    visits.all_served()
    assert pair.server.log().count("On the other side:") == 0, "a successor says it again"


def test_term_lets_connections_finish(pair, service, token_file):
    local = service(Echo)
    ledger.current.note_route(pair.first, local.port)
    pair.start_server("--token-file", token_file)
    pair.start_client("--token-file", token_file, f"{pair.first}={local.port}")
    wait_for(pair.first)
    with socket.create_connection(("127.0.0.1", pair.first), timeout=within(5)) as visitor:
        visitor.sendall(b"a")
        assert visitor.recv(1) == b"a"
        pair.server.signal(signal.SIGTERM)
        pair.server.wait_log("open connections may finish", within(5))
        visitor.sendall(b"b")
        assert visitor.recv(1) == b"b"
    assert pair.server.wait(within(10)) == 0


def test_standard_output_that_nobody_reads(pair, token_file):
    """A full pipe does not keep the main thread from its signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65536)
    os.set_blocking(writer, True)
    pair.start_server("--token-file", token_file, stdout=writer)
    pair.server.signal(signal.SIGTERM)
    assert pair.server.wait(within(10)) == 0
    os.close(reader)
    os.close(writer)


# --- init ---------------------------------------------------------------------------------------


def test_init_makes_a_pair_that_works(pair, service, tmp_path, home):
    """On one machine, save for the ports, which other tests might use."""
    local, port = service(Echo), free_port()
    ledger.current.note_route(port, local.port)
    place = tmp_path / "pair"
    place.mkdir()
    assert run("init", place, umask=0) == (0, "", "")
    edits = {"2333": pair.control, "0.0.0.0:6022": f"127.0.0.1:{port}",
             "127.0.0.1:22": f"127.0.0.1:{local.port}"}
    for role in ("server", "client"):
        path = place / f"{role}.ini"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        code, out, err = run("--check", path)
        assert (code, out) == (0, f"{path}: valid\n"), err
        text = path.read_text()
        assert text.startswith("# ")
        for old, new in edits.items():
            text = re.sub(rf"{re.escape(old)}\b", str(new), text)
        path.write_text(text)
        pair.start(role, path)
    wait_for(port)


def test_init_overwrites_nothing(tmp_path, home):
    assert run("init", cwd=tmp_path)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.ini")}
    assert len(before) == 2
    code, out, err = run("init", cwd=tmp_path)
    assert (code, out) == (1, "") and len(err.splitlines()) == 1 and "exists" in err
    (tmp_path / "server.ini").unlink()
    assert run("init", cwd=tmp_path)[0] == 1
    assert not (tmp_path / "server.ini").exists(), "one without the other"
    assert (tmp_path / "client.ini").read_bytes() == before[tmp_path / "client.ini"]
    assert run("init", tmp_path / "nowhere")[0] == 1


# --- other programs' files ----------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--from-frp", "--from-rathole"])
def test_the_converter_gets_the_words(tmp_path, monkeypatch, flag):
    stub = tmp_path / "rathole-uring-convert"
    stub.write_text("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:])\n"
                    'print("note", file=sys.stderr)\nsys.exit(3)\n')
    stub.chmod(0o755)
    monkeypatch.setenv("RATHOLE_URING_LIBEXEC", str(tmp_path))
    for words in ([flag, "a b.toml"], [f"{flag}=a b.toml"], [flag], [flag, "a", "b", "--half", "server"]):
        assert run(*words) == (3, f"{words}\n", "note\n")


def test_the_converter_of_this_tree(tmp_path, monkeypatch):
    """What it prints runs here. It says itself why not, where Python is too old for it."""
    monkeypatch.setenv("RATHOLE_URING_LIBEXEC", str(harness.ROOT / "dist" / "convert"))
    path = tmp_path / "server.toml"
    path.write_text(f'[server]\nbind_addr = "127.0.0.1:2333"\ndefault_token = "{TOKEN}"\n'
                    '[server.services.web]\nbind_addr = "127.0.0.1:8080"\n')
    code, out, err = run("--from-rathole", path)
    if "needs Python" in err:
        pytest.skip(err.strip())
    assert code == 0, err
    (tmp_path / "server.ini").write_text(out)
    assert run("--check", tmp_path / "server.ini")[0] == 0


def test_a_converter_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("RATHOLE_URING_LIBEXEC", str(tmp_path))
    code, out, err = run("--from-frp", "f")
    assert (code, out) == (1, "")
    assert err == (f"rathole-uring: --from-frp needs python3 and {tmp_path}/rathole-uring-convert: "
                   "no such file or directory\n")


def test_the_converter_is_installed_where_it_is_looked_for(monkeypatch):
    monkeypatch.delenv("RATHOLE_URING_LIBEXEC", raising=False)
    program = pathlib.Path(BINARIES[OURS]).read_bytes()
    assert re.search(rb"/libexec/rathole-uring\0", program)
