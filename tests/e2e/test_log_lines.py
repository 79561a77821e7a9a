"""A59: what a file or the other side says may have any bytes. The log stays lines of text, with no byte that
a terminal would obey and no line that somebody else has written.
"""

import contextlib
import json
import re
import socket
import subprocess
import threading

import pytest

import ledger
from harness import BINARIES, OURS, free_port, within
from protocol import connect
from services import Echo, ping

pytestmark = pytest.mark.ours

FORGED = "2026-01-01T00:00:00.000Z ERROR  all is lost"
NASTY = {
    "newline": f"a\n{FORGED}",
    "escape": "a\x1b[2J\x1b]0;title\x07b",
    "c1": "a\u009b2Jb",  # a terminal with 8-bit controls clears the screen
    "backspace": "name\x08\x08\x08\x08none\x7f",
    "longest": "n" * 200 + "\r\n" + "\x1b" * 50,
}
TEXT_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (ERROR|WARN |INFO |DEBUG) [^\x00-\x1f\x7f]*")


def toml(value):
    """A string or a boolean in a TOML file."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def clean_lines(log, json_lines=False):
    """The lines of a log that must be text: printable UTF-8, each with its head."""
    assert log.endswith(b"\n")
    for line in log.splitlines():
        line.decode()
        assert not re.search(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]", line), line
        assert line.count(FORGED.encode()) <= 1
        if json_lines:
            json.loads(line)
        else:
            assert TEXT_LINE.fullmatch(line), line
    assert not re.search(rb"^" + FORGED[:30].encode(), log, re.M), "a line that nobody wrote"
    return log.splitlines()


def toml_file(path, role, log_format, tables):
    """tables: {name: {key: text}}."""
    own = {"default_token": "t", "log_level": "debug", "log_format": log_format}
    lines = [f"[{role}]"] + [f"{key} = {toml(text)}" for key, text in {**own, **tables.pop(role)}.items()]
    for name, keys in tables.items():
        lines += [f"[{role}.{name}]"] + [f"{key} = {toml(text)}" for key, text in keys.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_names_of_services(ours, service, tmp_path, name, log_format):
    """A service may have any name, and works; the lines of its login, visitors and end are lines."""
    local, control, port = service(Echo), free_port(), free_port()
    section = f"services.{toml(name)}"
    server = ours(toml_file(tmp_path / "server.toml", "server", log_format, {
        "server": {"bind_addr": f"127.0.0.1:{control}"}, section: {"bind_addr": f"127.0.0.1:{port}"}}))
    client = ours(toml_file(tmp_path / "client.toml", "client", log_format, {
        "client": {"remote_addr": f"127.0.0.1:{control}"},
        section: {"local_addr": f"127.0.0.1:{local.port}"}}))
    client.wait_log("control channel established", within(5))
    ledger.current.note_route(port, local.port)
    ping(port)
    local.stop()
    with connect(port) as visitor:
        visitor.settimeout(within(5))
        with pytest.raises(OSError):
            visitor.recv(1)
    client.stop()
    server.wait_log("control channel lost", within(5))
    server.stop()
    for process in (server, client):
        lines = clean_lines(process.log_path.read_bytes(), log_format == "json")
        assert sum(b"control channel established" in line for line in lines) == 1


@pytest.mark.parametrize("what", [
    b"[server]\nbind_addr = \"127.0.0.1:\x1b[2J\"\n", b"[server]\nbind_addr = \"127.0.0.1:\xff\xfe\"\n",
    b"[server]\nbind_addr = \"" + b"\x1b" * 65536 + b"\"\n", b"[\x1b[2J]\n", b"[server]\n\x1b[2J = 1\n",
    b"[server]\nbind_addr = \"a\\n" + FORGED.encode() + b"\"\n",
    b"[server.services.\"\xff\x1b\x07\"]\nbind_addr = 1\n", b"[server.services." + b"\x9b" * 65536 + b"]\n",
    b"[server]\nbind_addr = \"127.0.0.1:1\"\r" + FORGED.encode() + b"\n"], ids=range(9))
def test_files_that_are_refused(ours, tmp_path, what):
    """What is wrong with a file is said in one line for each problem, whatever bytes the file has."""
    path = tmp_path / "server.toml"
    path.write_bytes(what)
    process = ours("--check", path)
    process.expected_death = True
    assert process.wait(within(5)) != 0
    log = process.log_path.read_bytes()
    assert log.endswith(b"\n") and not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\x9f\xff]", log), log[:200]
    assert len(log) < 8192 and all(line.startswith(bytes(path)) for line in log.splitlines()), log[:400]


def answers(answer):
    """A listening socket whose visitors are sent `answer`, whatever they say, and then the end."""
    listener = socket.create_server(("127.0.0.1", free_port()))

    def run():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.recv(4096)
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(4096)

    threading.Thread(target=run, daemon=True).start()
    return listener


ESCAPES = b"\x1b[2J\x07\xff\x9b" + b"\x1b" * 8000


@pytest.mark.parametrize(("transport", "answer"), [
    ({"type": "tcp"}, b"\x1b[2J" * 100), ({"type": "tcp"}, FORGED.encode() * 10),
    ({"type": "websocket"}, b"HTTP/1.1 500 \x1b[2J\x07" + FORGED.encode() + b"\r\n\r\n"),
    ({"type": "websocket"}, b"HTTP/1.1 200 OK\r\nLocation: " + ESCAPES + b"\r\n\r\n"),
    ({"type": "tls"}, b"\x15\x03\x03\x00\x02\x1b\x07"), ({"type": "tls"}, ESCAPES),
    ({"proxy": "http"}, b"HTTP/1.1 407 \x1b[2J\n" + FORGED.encode() + b"\r\n\r\n"),
    ({"proxy": "http"}, b"HTTP/1.1 " + ESCAPES),
    ({"proxy": "socks5"}, b"\x05\x1b"), ({"proxy": "socks5"}, ESCAPES),
], ids=range(10))
def test_what_the_other_side_answers(ours, tmp_path, transport, answer):
    """A client says why a server, or a proxy, was no good, and repeats none of its bytes raw."""
    version = subprocess.run([BINARIES[OURS], "--version"], capture_output=True, text=True, check=True)
    if transport.get("type") == "tls" and "without TLS" in version.stdout:
        pytest.skip("this build has no TLS")
    with answers(answer) as listener:
        port = listener.getsockname()[1]
        tables = {"client": {"remote_addr": f"127.0.0.1:{port}"}, "transport": {"type": "tcp"},
                  "services.a": {"local_addr": "127.0.0.1:1"}}
        if "type" in transport:
            tables["transport"] = transport
        else:
            tables["transport.tcp"] = {"proxy": f"{transport['proxy']}://127.0.0.1:{port}"}
        if transport.get("type") == "websocket":
            tables["transport.websocket"] = {"tls": False}
        if transport.get("type") == "tls":
            tables["transport.tls"] = {"hostname": "localhost"}
        client = ours(toml_file(tmp_path / "client.toml", "client", "text", tables))
        client.wait_log("next attempt in", within(5))
        client.stop()
    clean_lines(client.log_path.read_bytes())
    listener.close()
