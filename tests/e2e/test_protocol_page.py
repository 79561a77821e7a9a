"""docs/protocol.md: each vector is computed anew with the tests' own code, each limit is that of the code.

A vector is a block of "name: bytes in hex" lines, indented lines go on with the one before:

    ```vector KIND

Blocks of an unknown kind, fields that nobody looks at, and bytes outside of vectors are errors.
"""

import base64
import collections
import pathlib
import re
import socket
import struct

import pytest

import noise_peer
import protocol
import websocket_peer

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```vector (\S+)\n(.*?)^```$", re.S | re.M)

# How many vectors of each kind there are at least, so that they are found.
EXPECTED = {"service-digest": 2, "session-key": 1, "session": 1, "udp-frame": 4, "noise": 3,
            "websocket-request": 1, "websocket-answer": 1, "websocket-frame": 5, "websocket-head": 1,
            "socks5": 1, "http-connect": 1}


class Fields(dict):
    """The fields of a vector. Each has to be asked for."""

    def __init__(self, text):
        super().__init__()
        self.asked = set()
        for line in re.sub(r"\n +", " ", text).splitlines():
            key, value = re.fullmatch(r"(.+?):(?: +(.*))?", line).groups()
            assert key not in self, f"{key} stands twice"
            self[key] = value or ""

    def text(self, key):
        self.asked.add(key)
        return self[key]

    def bytes(self, key):
        return bytes.fromhex(self.text(key))

    def finish(self):
        assert set(self) == self.asked, f"not looked at: {set(self) - self.asked}"



def check_service_digest(fields):
    assert protocol.digest(fields.text("service").encode()) == fields.bytes("digest")


def check_session_key(fields):
    assert protocol.auth(fields.text("token"), fields.bytes("nonce")) == fields.bytes("key")


def session_messages(service, token, nonce):
    key = protocol.auth(token, nonce)
    return {
        "client, control Hello": protocol.control_hello(service),
        "server, control Hello": protocol.server_hello(nonce),
        "client, Auth": key,
        "server, Ack Ok": protocol.u32(protocol.ACK_OK),
        "server, Ack ServiceNotExist": protocol.u32(protocol.ACK_SERVICE_NOT_EXIST),
        "server, Ack AuthFailed": protocol.u32(protocol.ACK_AUTH_FAILED),
        "server, CreateDataChannel": protocol.u32(protocol.CMD_CREATE_DATA_CHANNEL),
        "server, HeartBeat": protocol.u32(protocol.CMD_HEARTBEAT),
        "client, data Hello": protocol.data_hello(key),
        "server, StartForwardTcp": protocol.u32(protocol.DATA_CMD_FORWARD_TCP),
        "server, StartForwardUdp": protocol.u32(protocol.DATA_CMD_FORWARD_UDP),
        "server, StartForwardSocketStream": protocol.u32(2),
    }


def check_session(fields):
    expected = session_messages(fields.text("service"), fields.text("token"), fields.bytes("nonce"))
    for name, wire in expected.items():
        assert fields.bytes(name) == wire, name


def check_udp_frame(fields):
    address, port = fields.text("visitor").split()
    payload, wire = fields.text("payload").encode(), fields.bytes("bytes")
    assert protocol.udp_frame((address, int(port)), payload) == wire
    # Not as text: an address that is mapped has two spellings.
    ((found, found_port), found_payload), = protocol.FrameReader().feed(wire)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert socket.inet_pton(family, found) == socket.inet_pton(family, address)
    assert (found_port, found_payload) == (int(port), payload)


def check_noise(fields):
    def key_pair(name):
        pair = noise_peer.KeyPair(fields.bytes(f"{name} private"))
        if f"{name} public" in fields:
            assert pair.public == fields.bytes(f"{name} public")
        return pair

    pattern = fields.text("pattern")
    server = key_pair("server static")
    client = key_pair("client static") if "client static private" in fields else None
    knows_server, knows_client = pattern in ("NK", "KK"), pattern == "KK"
    ends = {
        "client": noise_peer.Handshake(pattern, True, client, server.public if knows_server else None,
                                       key_pair("client ephemeral")),
        "server": noise_peer.Handshake(pattern, False, server, client.public if knows_client else None,
                                       key_pair("server ephemeral")),
    }
    sender, reader = "client", "server"
    messages = collections.defaultdict(bytes)
    while not ends["client"].done():
        message = ends[sender].write()
        assert ends[reader].read(message) == b""
        messages[sender] += noise_peer.frame(message)
        sender, reader = reader, sender
    # A client's third message (XX) has a line of its own.
    written = {name: fields.bytes(f"{name}, handshake") for name in ends}
    if "client, handshake end" in fields:
        written["client"] += fields.bytes("client, handshake end")
    assert messages == written
    assert ends["client"].hash == ends["server"].hash == fields.bytes("handshake hash")
    ciphers = {"client": ends["client"].split()[0], "server": ends["server"].split()[0]}
    assert ciphers["client"].key == fields.bytes("key, client to server")
    assert ciphers["server"].key == fields.bytes("key, server to client")
    if pattern != "NK":
        return
    session = session_messages("web", "rathole-uring test token", bytes(range(32)))
    session["server, 8 CreateDataChannel in one frame"] = session["server, CreateDataChannel"] * 8
    for name in ("client, control Hello", "server, control Hello", "client, Auth", "server, Ack Ok",
                 "server, 8 CreateDataChannel in one frame"):
        cipher = ciphers[name.split(",")[0]]
        assert noise_peer.frame(cipher.encrypt(session[name])) == fields.bytes(name), name


def head_of(text):
    """(first line, {name: value}), as bytes"""
    line, *rows = text.encode().splitlines()
    return line, dict(row.split(b": ", 1) for row in rows)


WEBSOCKET_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3


def check_websocket_request(text):
    written = websocket_peer.request("vps.example.com:2333", WEBSOCKET_KEY,
                                     rathole_uring=websocket_peer.OWN_VALUE.encode())
    as_text = written.decode().replace("\r\n", "\n").replace("Websocket", "WebSocket")
    assert as_text == text + "\n"
    assert websocket_peer.OWN_FIELD in text


def check_websocket_answer(text):
    line, fields = head_of(text)
    assert line == b"HTTP/1.1 101 Switching Protocols"
    assert fields == {b"connection": b"Upgrade", b"upgrade": b"websocket",
                      b"sec-websocket-accept": websocket_peer.accept_of(WEBSOCKET_KEY)}


def check_websocket_frame(fields):
    fields.text("what")
    payload, opcode = fields.bytes("payload"), int(fields.text("opcode"))
    mask = fields.bytes("mask") if "mask" in fields else None
    wire = fields.bytes("bytes")
    assert websocket_peer.frame(payload, opcode, mask) == wire
    assert websocket_peer.Frames(mask is not None).feed(wire) == [(opcode, True, payload)]


def check_websocket_head(fields):
    fields.text("what")
    heads = b""
    for size in map(int, fields.text("sizes").split()):
        heads += websocket_peer.frame(bytes(size))[:-size]
    assert heads == fields.bytes("heads")


def check_socks5(fields):
    def counted(text):
        return bytes([len(text)]) + text.encode()

    host, port = fields.text("server").split()
    assert fields.bytes("methods") == b"\x05\x02\x00\x02"
    assert fields.bytes("login") == b"\x01" + counted(fields.text("user")) + counted(fields.text("password"))
    assert fields.bytes("connect") == b"\x05\x01\x00\x03" + counted(host) + struct.pack(">H", int(port))


def check_http_connect(text):
    line, fields = head_of(text)
    credentials = b"Basic " + base64.b64encode(b"tunnel:secret")
    assert line == b"CONNECT vps.example.com:2333 HTTP/1.1"
    assert fields == {b"Host": b"vps.example.com:2333", b"Proxy-Authorization": credentials}


CHECKS = {
    "service-digest": check_service_digest,
    "session-key": check_session_key,
    "session": check_session,
    "udp-frame": check_udp_frame,
    "noise": check_noise,
    "websocket-frame": check_websocket_frame,
    "websocket-head": check_websocket_head,
    "socks5": check_socks5,
}
CHECKS_OF_TEXT = {
    "websocket-request": check_websocket_request,
    "websocket-answer": check_websocket_answer,
    "http-connect": check_http_connect,
}


def check(kind, text):
    if kind in CHECKS_OF_TEXT:
        CHECKS_OF_TEXT[kind](text)
        return
    fields = Fields(text)
    CHECKS[kind](fields)
    fields.finish()


VECTORS = BLOCK.findall(PAGE)
each_vector = pytest.mark.parametrize("kind, text", VECTORS,
                                      ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(VECTORS)])


def test_vectors_are_found():
    found = collections.Counter(kind for kind, _ in VECTORS)
    assert set(found) == set(EXPECTED)
    assert all(found[kind] >= count for kind, count in EXPECTED.items()), found
    assert PAGE.count("```vector") == len(VECTORS)


@each_vector
def test_vector(kind, text):
    check(kind, text)


def test_no_bytes_outside_of_vectors():
    stray = re.findall(r"\b[0-9a-f]{16,}\b", BLOCK.sub("", PAGE))
    assert stray == []


def mutations(kind, text):
    """The vector with one character changed, in each line that has bytes (or text that is sent)."""
    pattern = r"\S$" if kind in CHECKS_OF_TEXT else r"^(?!what:).*[0-9a-f]{2}$"
    for match in re.finditer(pattern, text, re.M):
        # X25519 ignores some bits at both ends of a private key.
        at = match.end() - (20 if "private" in match[0] else 1)
        yield text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


@each_vector
def test_a_wrong_byte_is_noticed(kind, text):
    wrong = list(mutations(kind, text))
    assert wrong
    for each in wrong:
        with pytest.raises((AssertionError, ValueError, noise_peer.NoiseError)):
            check(kind, each)


# --- limits -------------------------------------------------------------------------------------

UNITS = {"s": 1000, "KiB": 1 << 10, "MiB": 1 << 20}


def constants():
    """{name: value} of the enums in the headers, as far as they are plain sums and shifts."""
    found = {}
    for header in sorted((ROOT / "include").rglob("*.h")):
        for name, value in re.findall(r"^ +([A-Z][A-Z0-9_]+) = ([0-9 <]+)[,;/ ]", header.read_text(), re.M):
            found[name] = eval(value)  # digits and shifts
    return found


def limits():
    return re.findall(r"^\| .* \| ([0-9,]+)(?: (\w+))? \| ([A-Z][A-Z0-9_]+) \|$", PAGE, re.M)


def test_limits_are_those_of_the_code():
    values = constants()
    rows = limits()
    assert len(rows) == PAGE.count("| LIMIT_") + sum(PAGE.count(f"| {p}") for p in
                                                     ("LINK_", "NOISE_", "UDP_", "WEBSOCKET_")) >= 25
    for number, unit, name in rows:
        value = int(number.replace(",", "")) * UNITS.get(unit, 1)
        if unit == "s" and not name.endswith("_MS"):
            value //= 1000
        assert values[name] == value, f"{name}: {values[name]} in the code, {value} on the page"
